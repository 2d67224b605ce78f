"""Paired differences of two results on the same cases: the interval and its p-value.

| values | interval | p-value |
| --- | --- | --- |
| yes/no, one per case | Tango's score interval | McNemar's score test, which is Tango's at no difference |
| any other | interval of the mean difference (eval.statistics.intervals) | the same method, inverted |

In both, p is below 0.05 exactly when the 95% interval excludes 0.

Source: Tango 1998, Stat. Med. 17(8), 891-908; Yang, Sun and Hardin 2013 for the root of its quadratic.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import bisect
from scipy.stats import chi2, norm
from scipy.stats import t as student

from eval.statistics.intervals import (
    DIFFERENCE,
    LEVEL,
    POWER,
    SHARE,
    UNBOUNDED,
    Bounds,
    Interval,
    bootstrap_p,
    is_yes_no,
    mean_interval,
)


@dataclass(frozen=True)
class PairedTest:
    """The interval of a paired difference, and its p-value; `at_floor`: p is at the resolution of resampling."""

    interval: Interval
    p: float | None
    at_floor: bool
    test: str


def paired_test(
    before: np.ndarray,
    after: np.ndarray,
    weights: np.ndarray | None = None,
    bounds: Bounds = SHARE,
    seed: int = 0,
    level: float = LEVEL,
) -> PairedTest:
    """The test of after - before over cases, (cases,) each; `bounds` are those of the values themselves."""
    alike = weights is None or bool((weights == weights[:1]).all())
    if bounds == SHARE and alike and is_yes_no(before) and is_yes_no(after):
        gained, lost = int(((before == 0) & (after == 1)).sum()), int(((before == 1) & (after == 0)).sum())
        interval = Interval(*tango(gained, lost, len(before), level), "tango")
        return PairedTest(interval, mcnemar(gained, lost), False, "mcnemar")
    differences = after - before
    found = mean_interval(differences, weights, DIFFERENCE if bounds == SHARE else UNBOUNDED, seed, level)
    mean = float(np.average(differences, weights=weights))
    if found.draws is not None:
        p_value, none_beyond = (
            bootstrap_p(found.draws, len(differences)),
            (found.draws > 0).all() or (found.draws < 0).all(),
        )
        return PairedTest(found, p_value, bool(none_beyond), "paired_bootstrap")
    if found.low is None or found.high is None:
        return PairedTest(found, None if abs(mean) > 1e-12 else 1.0, False, "none")
    if found.method == "t":
        error = (found.high - found.low) / 2 / float(student.ppf(1 - level / 2, len(differences) - 1))
        return PairedTest(found, float(2 * student.sf(abs(mean) / error, len(differences) - 1)), False, "t")
    return PairedTest(found, p_from_interval(mean, found, level), False, found.method)


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's two-sided score test for paired yes/no values; 1.0 if nothing changed."""
    return float(chi2.sf((gained - lost) ** 2 / (gained + lost), 1)) if gained + lost else 1.0


def tango(gained: int, lost: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Tango's score interval of the paired difference (gained - lost) / n of two proportions."""
    return -_tango_upper(lost, gained, n, level), _tango_upper(gained, lost, n, level)


@functools.cache
def _tango_upper(gained: int, lost: int, n: int, level: float) -> float:
    z = float(norm.ppf(1 - level / 2))

    def gap(difference: float) -> float:
        """The score statistic at this true difference, plus z. It decreases in the difference; 0 at the upper end."""
        b = (2 * n - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * q + difference * (1 - difference))
        return gained - lost - n * difference + z * math.sqrt(max(0.0, variance))

    begin = (gained - lost) / n + 1e-9  # at the estimate itself the variance can be 0, and the statistic undefined
    return float(bisect(gap, begin, 1.0, xtol=1e-12)) if begin < 1 and gap(1.0) < 0 else 1.0


def p_from_interval(value: float, interval: Interval, level: float = LEVEL) -> float:
    """The p-value of no difference from an interval alone: its half-width towards 0 is `z` standard errors."""
    if interval.low is None or interval.high is None:
        raise ValueError("expected an interval with both ends, to compute a p-value")
    reach = value - interval.low if value > 0 else interval.high - value
    return float(2 * norm.sf(float(norm.ppf(1 - level / 2)) * abs(value) / reach))


def resolvable(spread: float, n: int) -> float:
    """The mean difference that n pairs with standard deviation `spread` resolve at 80% power, 5% level, two-sided."""
    return float((norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * spread / math.sqrt(n))
