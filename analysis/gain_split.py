"""Split a gain in Solve-F1 into number of calls, format, right tool and right argument (an exact Shapley split).

Over a whole suite, with n sub-questions, A attempted calls a sub-question, of which a share f parses, a share t of those names a
tool that still has something to give, and a share g of those solves it, the micro-averaged Solve-F1 (from totals, not by case) is

    F1 = 2 A f t g / (A f + 1)

so a difference between two policies is a difference in these four numbers. Each factor's part is its Shapley value: the mean,
over all 24 orders of switching the factors from before to after, of what switching it changes. The parts add up exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from analysis.intervals import EMPTY, Row, statistics_of_totals
from eval.results import Estimate

FACTORS = ("calls", "format", "tool", "argument")
_COLUMNS = ("parsed_calls", "malformed_calls", "needed_calls", "solved", "sub_questions")
_ORDERS = tuple(permutations(range(len(FACTORS))))


@dataclass(frozen=True)
class GainSplit:
    """Change of micro-averaged Solve-F1 and its four parts, each with an interval over cases."""

    total: Estimate
    parts: Mapping[str, Estimate]


def factors(totals: np.ndarray) -> np.ndarray:
    """`(A, f, t, g)`, shape (..., 4), of totals (..., 5) in the order of the result rows' counts.

    A share of nothing counts as 1, so that it carries no part of a gain.
    """
    parsed, malformed, needed, solved, questions = np.moveaxis(totals, -1, 0)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)

    attempts = (parsed + malformed) / questions
    return np.stack(
        [attempts, share(parsed, parsed + malformed), share(needed, parsed), share(solved, needed)], axis=-1
    )


def micro_f1(values: np.ndarray) -> np.ndarray:
    """Micro-averaged Solve-F1, shape (...), from the four factors (..., 4)."""
    attempts, parsing, tool, argument = np.moveaxis(values, -1, 0)
    return 2 * attempts * parsing * tool * argument / (attempts * parsing + 1)


def shapley(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Part of each factor in `micro_f1(after) - micro_f1(before)`, shape (..., 4); the parts sum to the difference."""
    parts = np.zeros_like(before)
    for order in _ORDERS:
        current = before.copy()
        value = micro_f1(current)
        for index in order:
            current[..., index] = after[..., index]
            changed = micro_f1(current)
            parts[..., index] += (changed - value) / len(_ORDERS)
            value = changed
    return parts


def gain_split(before: Sequence[Row], after: Sequence[Row]) -> GainSplit:
    """Split of the gain over the cases that both sets of result rows have."""
    summed: list[dict[str, np.ndarray]] = [{}, {}]
    for target, rows in zip(summed, (before, after), strict=True):
        for row in rows:
            counts = np.array([float(row.get(column) or 0) for column in _COLUMNS])
            target[str(row["id"])] = target.get(str(row["id"]), np.zeros(len(_COLUMNS))) + counts
    shared = summed[0].keys() & summed[1].keys()
    groups = {case: np.concatenate([summed[0][case], summed[1][case]]) for case in shared}

    def split(totals: np.ndarray) -> np.ndarray:
        first, second = factors(totals[:, : len(_COLUMNS)]), factors(totals[:, len(_COLUMNS) :])
        return np.column_stack([micro_f1(second) - micro_f1(first), shapley(first, second)])

    found = statistics_of_totals(groups, split) or [EMPTY] * (1 + len(FACTORS))
    return GainSplit(found[0], dict(zip(FACTORS, found[1:], strict=True)))
