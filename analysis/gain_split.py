"""Split a gain in Solve-F1 into number of calls, format, right tool and right argument (an exact Shapley split).

Over a whole suite, with n sub-questions, A attempted calls a sub-question, of which a share f parses, a share t of those names a
tool that still has something to give, and a share g of those solves it, the micro-averaged Solve-F1 (from totals, not by case) is

    F1 = 2 A f t g / (A f + 1)

so a difference between two policies is a difference in these four numbers. Each factor's part is its Shapley value: the mean,
over all 24 orders of switching the factors from before to after, of what switching it changes. The parts add up exactly.
Attempts are calls divided by the share of turns that parse, since a block that does not parse cannot be counted as calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from analysis.intervals import EMPTY, Estimate, statistic_estimate

FACTORS = ("calls", "format", "tool", "argument")
_ORDERS = tuple(permutations(range(len(FACTORS))))


@dataclass(frozen=True)
class GainSplit:
    """Change of micro-averaged Solve-F1 and its four parts, each with an interval over cases."""

    total: Estimate
    parts: Mapping[str, Estimate]


def totals(row: Mapping[str, Any]) -> np.ndarray:
    """Shape (6,): turns, turns that parse, calls, calls with the right tool, solved, sub-questions of an episode."""
    calls, turns = float(row.get("calls") or 0), float(row.get("turns") or 0)
    right = calls * float(row.get("tool_rate") or 0.0)
    parsing = row.get("format_rate")
    return np.array(
        [
            turns,
            turns * (1.0 if parsing is None else float(parsing)),
            calls,
            max(right, float(row.get("solved") or 0)),
            float(row.get("solved") or 0),
            float(row.get("sub_questions") or row.get("hops") or 0),
        ]
    )


def factors(sums: np.ndarray) -> tuple[float, float, float, float]:
    """`(A, f, t, g)` of summed totals. A share of nothing counts as 1, so that it carries no part of a gain."""
    turns, parsing, calls, right, solved, questions = sums
    share = parsing / turns if turns else 1.0
    return (
        (calls / share / questions if share and questions else 0.0),
        share,
        right / calls if calls else 1.0,
        solved / right if right else 1.0,
    )


def micro_f1(values: Sequence[float]) -> float:
    """Micro-averaged Solve-F1 from the four factors."""
    attempts, parsing, tool, argument = values
    return 2 * attempts * parsing * tool * argument / (attempts * parsing + 1)


def shapley(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Part of each factor in `micro_f1(after) - micro_f1(before)`; the parts sum to the difference."""
    parts = [0.0] * len(FACTORS)
    for order in _ORDERS:
        current = list(before)
        value = micro_f1(current)
        for index in order:
            current[index] = after[index]
            changed = micro_f1(current)
            parts[index] += (changed - value) / len(_ORDERS)
            value = changed
    return parts


def gain_split(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], seed: int = 0) -> GainSplit:
    """Split of the gain over the cases that both sets of result rows have."""
    summed: list[dict[str, np.ndarray]] = [{}, {}]
    for target, rows in zip(summed, (before, after), strict=True):
        for row in rows:
            case = str(row["id"])
            target[case] = target.get(case, np.zeros(6)) + totals(row)
    shared = sorted(summed[0].keys() & summed[1].keys())
    if not shared:
        return GainSplit(EMPTY, dict.fromkeys(FACTORS, EMPTY))
    groups = {case: [summed[0][case], summed[1][case]] for case in shared}
    total = statistic_estimate(groups, lambda a, b: micro_f1(factors(b)) - micro_f1(factors(a)), seed, resamples=1_000)
    parts = {
        name: statistic_estimate(groups, lambda a, b, i=i: shapley(factors(a), factors(b))[i], seed, resamples=1_000)
        for i, name in enumerate(FACTORS)
    }
    return GainSplit(total, parts)
