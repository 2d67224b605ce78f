"""95% intervals of means over cases, chosen by the kind of values; none of them has zero width.

| values | interval |
| --- | --- |
| yes/no, one per case | Wilson's score interval |
| shares and their differences, fewer than FEW cases vary | pseudo-cases at both bounds (Agresti-Coull, Bonett-Price) |
| unbounded (turns, tokens, calls), fewer than FEW cases vary | Student's t; none without any spread |
| any other | percentile bootstrap over cases, expanded for small n like Student's t |
| mean of the means of groups, bounded | combined intervals of the groups (generalized stratified Wilson interval) |

A case varies if its value is not the most common one. A percentile bootstrap cannot know what the sample does not show.
At 1 failure in 50 it covers the truth in 63% of samples; without a failure it has no width at all.

Sources: Brown, Cai and DasGupta 2001 (Wilson, Agresti-Coull); Bonett and Price 2012, J. Educ. Behav. Stat. 37(4)
(paired differences); Hesterberg 2015, Am. Stat. 69(4), section 4.2 (expanded percentiles); Yan and Su 2010, Stat.
Biopharm. Res. 2(3) (stratified Wilson).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm
from scipy.stats import t as student

RESAMPLES = 10_000
POWER, LEVEL = 0.80, 0.05
FEW = 10
Bounds = tuple[float | None, float | None]
SHARE: Bounds = (0.0, 1.0)
DIFFERENCE: Bounds = (-1.0, 1.0)  # the range of a difference of two shares
COST: Bounds = (0.0, None)
UNBOUNDED: Bounds = (None, None)


@dataclass(frozen=True)
class Interval:
    """An interval and its method; `draws` are the resampled means behind a bootstrap."""

    low: float | None
    high: float | None
    method: str
    draws: np.ndarray | None = None


NO_INTERVAL = Interval(None, None, "none")


def resampled_means(
    sums: np.ndarray, counts: np.ndarray, seed: int, resamples: int = RESAMPLES, block: int = 2_000_000
) -> np.ndarray:
    """Means of `resamples` draws of complete cases with replacement.

    `sums`, `counts`: (cases, columns), the total of each case and its number of trials. Returns (resamples, columns).
    The draw depends only on `seed` and the number of cases, so two columns, or two runs of the same cases, use the same
    draw.
    """
    cases = len(sums)
    generator = np.random.default_rng([seed, cases])
    means = np.empty((resamples, sums.shape[1]))
    step = max(1, block // max(cases, 1))
    for begin in range(0, resamples, step):
        end = min(begin + step, resamples)
        drawn = generator.integers(0, cases, size=(end - begin, cases))
        total = sums[drawn].sum(axis=1)
        weight = counts[drawn].sum(axis=1)
        means[begin:end] = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    return means


def is_yes_no(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def varying(values: np.ndarray) -> int:
    """The number of values that are not the most common one; differences from rounding are ignored."""
    _, counts = np.unique(np.round(values, 12), return_counts=True)
    return len(values) - int(counts.max(initial=0))


def mean_interval(
    values: np.ndarray, weights: np.ndarray | None = None, bounds: Bounds = SHARE, seed: int = 0, level: float = LEVEL
) -> Interval:
    """The interval of the weighted mean of case values, (cases,) each.

    `weights`: trials or rows per case; None for equal weights.
    """
    weights = np.ones(len(values)) if weights is None else weights
    n, alike = len(values), bool((weights == weights[:1]).all())
    if not n:
        return NO_INTERVAL
    if bounds == SHARE and alike and is_yes_no(values):
        found = binomtest(int(values.sum()), n).proportion_ci(1 - level, method="wilson")
        return Interval(float(found.low), float(found.high), "wilson")
    moved = varying(values)
    if moved >= FEW:
        draws = resampled_means((values * weights)[:, None], weights[:, None], seed)[:, 0]
        return Interval(*percentiles(draws, n, level), "bootstrap", draws)
    if bounds in (SHARE, DIFFERENCE):
        shares = weights / weights.sum()
        mean, equal_cases = float(shares @ values), float(1 / (shares**2).sum())
        spread = equal_cases * float((shares**2 * (values - mean) ** 2).sum())
        return _with_pseudo_cases(mean, equal_cases, spread, bounds, level)
    return student_interval(values, weights, bounds, level)


def student_interval(
    values: np.ndarray, weights: np.ndarray | None = None, bounds: Bounds = UNBOUNDED, level: float = LEVEL
) -> Interval:
    """Student's t interval of the weighted mean; none without any spread."""
    n = len(values)
    if n < 2 or not varying(values):
        return NO_INTERVAL
    shares = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    mean = float(shares @ values)
    error = float(np.sqrt((shares**2 * (values - mean) ** 2).sum() * n / (n - 1)))
    reach = float(student.ppf(1 - level / 2, n - 1)) * error
    return Interval(mean - reach if bounds[0] is None else max(bounds[0], mean - reach), mean + reach, "t")


def percentiles(draws: np.ndarray, cases: int, level: float = LEVEL) -> tuple[float, float]:
    """The ends of the expanded percentile interval, as order statistics.

    bootstrap_p is below `level` exactly when they exclude 0.
    """
    tail = float(norm.cdf(student.ppf(level / 2, cases - 1) * np.sqrt(cases / (cases - 1))))
    place = max(0, int(np.ceil(tail * (len(draws) + 1))) - 2)
    ordered = np.partition(draws, [place, len(draws) - 1 - place])
    return float(ordered[place]), float(ordered[len(draws) - 1 - place])


def _with_pseudo_cases(mean: float, n: float, variance: float, bounds: Bounds, level: float) -> Interval:
    """The normal interval after adding cases at each bound: z^2 / 2 for a share, one for a difference.

    `n`: the number of cases, or with unequal weights the effective number (Kish). `variance`: of one such case.
    """
    z = float(norm.ppf(1 - level / 2))
    lowest, highest = (float(bound) for bound in bounds if bound is not None)
    added = z**2 / 2 if bounds == SHARE else 1.0
    total = n + 2 * added
    centre = (n * mean + added * (lowest + highest)) / total
    squares = n * (variance + (mean - centre) ** 2) + added * ((lowest - centre) ** 2 + (highest - centre) ** 2)
    reach = z * float(np.sqrt(squares)) / total
    return Interval(max(lowest, centre - reach), min(highest, centre + reach), "pseudo_cases")


def bootstrap_p(draws: np.ndarray, cases: int) -> float:
    """The level at which the expanded percentile interval of these resampled means reaches 0."""
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    quantile = norm.ppf((1 + beyond) / (1 + len(draws))) * np.sqrt((cases - 1) / cases)
    return min(1.0, float(2 * student.cdf(quantile, cases - 1)))


def combined_interval(
    sums: np.ndarray,
    counts: np.ndarray,
    share: np.ndarray,
    intervals_at: Callable[[float], Sequence[Interval]],
    bounds: Bounds = SHARE,
    level: float = LEVEL,
) -> Interval:
    """The interval of a mean of bounded groups with weights `share`.

    It is the weighted sum of the groups' own intervals at a lower common confidence. `sums`, `counts`: (cases, groups).
    `intervals_at(level)` returns each group's interval.

    Independent errors partly cancel, so the common confidence is chosen to make the sum of the half-widths equal the
    half-width of the sum. Identical groups thus get about the interval of their pooled cases. While fewer than FEW
    cases vary within the groups, the result also contains the interval with pseudo-cases: many groups with one failure
    or none carry less information than they appear to.
    """
    whole = np.array([(found.low, found.high) for found in intervals_at(level)], dtype=float)
    reach = share * (whole[:, 1] - whole[:, 0])
    spread = np.sqrt(reach @ group_correlations(sums, counts) @ reach)
    shared_level = 2 * float(norm.sf(norm.ppf(1 - level / 2) * spread / reach.sum()))
    low, high = share @ np.array([(found.low, found.high) for found in intervals_at(shared_level)], dtype=float)
    groups = [sums[there, place] / counts[there, place] for place, there in enumerate((counts > 0).T)]
    if sum(varying(values) for values in groups) < FEW:
        sizes = counts.sum(axis=0)
        n = 1 / float((((counts / sizes) @ share) ** 2).sum())
        residuals = ((sums - counts * (sums.sum(axis=0) / sizes)) / sizes) @ share
        mean = float(share @ (sums.sum(axis=0) / sizes))
        few = _with_pseudo_cases(mean, n, n * float((residuals**2).sum()), bounds, level)
        low, high = np.min([low, few.low]), np.max([high, few.high])
    return Interval(float(low), float(high), "groups")


def group_correlations(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(groups, groups) correlations of the group means over their shared cases, at least 0.

    `sums`, `counts`: (cases, groups). Groups that share cases, one of them without spread, are assumed fully
    correlated.
    """
    residuals = sums - counts * (sums.sum(axis=0) / counts.sum(axis=0))
    residuals[np.abs(residuals) < 1e-12] = 0.0
    products = residuals.T @ residuals
    scale = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    shared = ((counts > 0).T.astype(float) @ (counts > 0)) > 0
    found = np.divide(products, scale, out=shared.astype(float), where=scale > 0)
    return np.clip(found, 0.0, 1.0)


def statistic_intervals(
    sums: np.ndarray,
    counts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    pseudo: bool = False,
) -> tuple[np.ndarray, list[Interval]]:
    """Statistics of means of several columns (an F1 of means, a ratio of totals), with bootstrap intervals.

    The bootstrap is over cases. `sums`, `counts`: (cases, columns). `statistic` maps (draws, columns) means to (draws,
    outputs). Returns the values, (outputs,), NaN if undefined, and their intervals; no interval without spread.
    `pseudo`: the columns are shares, so while fewer than FEW cases vary, two cases of zeros and two of ones are added
    before resampling.
    """
    values = statistic((sums.sum(axis=0) / counts.sum(axis=0))[None, :])[0]
    if pseudo and max(varying(column) for column in (sums / counts).T) < FEW:
        ends = np.vstack([np.zeros((2, sums.shape[1])), np.ones((2, sums.shape[1]))])
        sums, counts = np.vstack([sums / counts, ends]), np.ones((len(sums) + 4, sums.shape[1]))
    cases, intervals = len(sums), []
    for value, draws in zip(values, statistic(resampled_means(sums, counts, seed)).T, strict=True):
        kept = draws[~np.isnan(draws)]
        if np.isnan(value) or cases < 2 or len(kept) < len(draws) / 2 or np.ptp(kept) < 1e-12:
            intervals.append(NO_INTERVAL)
            continue
        low, high = percentiles(kept, cases)
        intervals.append(Interval(min(low, float(value)), max(high, float(value)), "bootstrap"))
    return values, intervals
