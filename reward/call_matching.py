"""MatchTIR's reward of a call: how well it agrees with the gold call that it is matched with, one to one or in shares.

Predicted calls P (m of them, of a whole episode) and gold calls G (n) -> S, shape (m, n), in [0, 1]:

    S[i, j] = same name * (1 + Jaccard of the parameters' names + number of gold parameters with the same value) / (2 +
    |gold parameters|)

| assignment | reward of call i |
| --- | --- |
| hard | S[i, j] of its gold call in the matching of largest total, each gold call used once; -penalty without one |
| soft | sum over j of Z[i, j] S[i, j], Z the transport plan of least cost -S |

Source: MatchTIR (arXiv 2601.10712v1), equations 1-8; the penalty is 0 in its experiments.

Not stated there, and chosen here:
- Two calls without parameters have the same names of parameters: their Jaccard is 1.
- A pair with S = 0 is no match, so its call gets the penalty. If calls fit a gold call equally well, the earliest
  gets it.
- The plan's marginals are uniform, 1/m and 1/n. A call's soft reward is therefore at most 1/m.
- The plan is Sinkhorn's (the appendix names the solver, not its entropy weight): ENTROPY of 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

Array = NDArray[np.float64]
ENTROPY = 0.1
SWEEPS, CLOSE = 2000, 1e-10
EARLIER = 1e-9  # what a call loses for each call before it, where they fit equally well


class Call(Protocol):
    """A predicted or a gold call. `arguments` that are no object agree with nothing."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> Mapping[str, Any]: ...


def same_value(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_value, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def similarity(call: Call, gold: Call) -> float:
    """S of one pair."""
    if call.name != gold.name:
        return 0.0
    given = call.arguments if isinstance(call.arguments, Mapping) else {}
    names = given.keys() | gold.arguments.keys()
    jaccard = len(given.keys() & gold.arguments.keys()) / len(names) if names else 1.0
    equal = sum(key in given and same_value(given[key], value) for key, value in gold.arguments.items())
    return (1 + jaccard + equal) / (2 + len(gold.arguments))


def similarities(calls: Sequence[Call | None], golds: Sequence[Call]) -> Array:
    """S, shape (calls, gold calls). None is a call that could not be read: it agrees with nothing."""
    rows = [[0.0 if call is None else similarity(call, gold) for gold in golds] for call in calls]
    return np.array(rows, dtype=np.float64).reshape(len(calls), len(golds))


def hard_rewards(scores: Array, penalty: float = 0.0) -> Array:
    """Rewards of the calls, shape (m,), under the matching of largest total."""
    rewards = np.full(len(scores), -penalty)
    rows, columns = linear_sum_assignment(scores - EARLIER * np.arange(len(scores))[:, None], maximize=True)
    matched = scores[rows, columns] > 0
    rewards[rows[matched]] = scores[rows, columns][matched]
    return rewards


def transport_plan(scores: Array, entropy: float = ENTROPY) -> Array:
    """Z of cost -scores with uniform marginals, shape (m, n); Sinkhorn's iteration in logarithms."""
    m, n = scores.shape
    kernel = scores / entropy
    left, right = np.zeros(m), np.zeros(n)
    for _ in range(SWEEPS):
        before = left
        left = -np.log(m) - logsumexp(kernel + right, axis=1)
        right = -np.log(n) - logsumexp(kernel + left[:, None], axis=0)
        if np.abs(left - before).max() < CLOSE:
            break
    return np.asarray(np.exp(kernel + left[:, None] + right))


def soft_rewards(scores: Array) -> Array:
    """Rewards of the calls, shape (m,), under the transport plan."""
    if not scores.size:
        return np.zeros(len(scores))
    return np.asarray((transport_plan(scores) * scores).sum(axis=1))


ASSIGNMENTS: dict[str, Callable[[Array], Array]] = {"hard": hard_rewards, "soft": soft_rewards}
