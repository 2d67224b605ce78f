"""Means and paired differences with 95% intervals, by bootstrap over cases (trials of a case stay together).

Every number in a table carries n and an interval; comparisons of two policies are paired on the case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval and the number of cases that it rests on."""

    value: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 3, signed: bool = False) -> str:
        """`0.412 [0.350, 0.471]`; a minus sign is a real one, so that columns align."""
        if self.n == 0:
            return "n/a"
        sign = "+" if signed else ""
        body = f"{self.value:{sign}.{digits}f} [{self.low:{sign}.{digits}f}, {self.high:{sign}.{digits}f}]"
        return body.replace("-", "−")

    def as_row(self, prefix: str) -> dict[str, float | int]:
        return {prefix: self.value, f"{prefix}_low": self.low, f"{prefix}_high": self.high, f"{prefix}_n": self.n}


EMPTY = Estimate(float("nan"), float("nan"), float("nan"), 0)


def per_case(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Mean of a metric over the trials of each case, by case id; rows without a number for it are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = row.get(metric)
        if value is not None:
            values.setdefault(str(row["id"]), []).append(float(value))
    return {case: sum(found) / len(found) for case, found in values.items()}


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """RESAMPLES means of resampled cases; `values` has shape (n,), drawn in blocks to bound the memory."""
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    block = max(1, 2_000_000 // len(values))
    for start in range(0, RESAMPLES, block):
        stop = min(start + block, RESAMPLES)
        means[start:stop] = values[random.integers(0, len(values), size=(stop - start, len(values)))].mean(axis=1)
    return means


def mean_estimate(values: Mapping[str, float], seed: int = 0) -> Estimate:
    """Mean over cases with a percentile bootstrap interval. No case gives EMPTY."""
    if not values:
        return EMPTY
    array = np.array([values[case] for case in sorted(values)])
    low, high = np.quantile(_resampled_means(array, seed), [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def paired_difference(after: Mapping[str, float], before: Mapping[str, float], seed: int = 0) -> Estimate:
    """Mean of `after - before` over the cases that both have."""
    return mean_estimate({case: after[case] - before[case] for case in after.keys() & before.keys()}, seed)


def statistic_estimate(
    groups: Mapping[str, Sequence[np.ndarray]], statistic: Callable[..., float], seed: int = 0, resamples: int = 2_000
) -> Estimate:
    """A statistic of summed columns, such as a ratio of totals, with a bootstrap interval over cases.

    `groups` maps a case to one array per argument of `statistic`; a resample adds the arrays of the drawn cases.
    """
    cases = sorted(groups)
    if not cases:
        return EMPTY
    columns = [
        np.stack([np.asarray(groups[case][i], dtype=float) for case in cases]) for i in range(len(groups[cases[0]]))
    ]
    value = statistic(*(column.sum(axis=0) for column in columns))
    random = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for index in range(resamples):
        counts = np.bincount(random.integers(0, len(cases), size=len(cases)), minlength=len(cases))
        drawn[index] = statistic(*(counts @ column for column in columns))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), len(cases))
