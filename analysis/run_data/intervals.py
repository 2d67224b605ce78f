"""Estimates as the columns of a table: those of eval.suites.results and eval.compare, so that a table never disagrees
with a summary.json.

Comparisons of two policies are paired on the case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval import compare
from eval.statistics.estimates import Estimate
from eval.statistics.estimates import estimate_text as estimate_text
from eval.statistics.intervals import statistic_intervals
from eval.suites.results import estimate

EMPTY = Estimate(None, None, None, 0)
Row = Mapping[str, Any]


def estimate_row(prefix: str, found: Estimate) -> dict[str, Any]:
    """The columns `prefix`, `prefix_low`, `prefix_high`, `prefix_n` of a table."""
    return {prefix: found.value, f"{prefix}_low": found.low, f"{prefix}_high": found.high, f"{prefix}_n": found.n}


def row_estimate(row: Row, prefix: str) -> Estimate:
    """The estimate that `estimate_row` wrote; EMPTY where the columns are not there."""
    n = row.get(f"{prefix}_n") or 0
    return Estimate(row[prefix], row[f"{prefix}_low"], row[f"{prefix}_high"], n) if n else EMPTY


def mean_estimate(rows: Sequence[Row], metric: str) -> Estimate:
    """Mean of a column over cases; rows without a value are left out."""
    return estimate(rows, metric)


def paired_difference(after: Sequence[Row], before: Sequence[Row], metric: str) -> Estimate:
    """Mean over the cases that both have of after - before, trials of a case averaged first; EMPTY without such a
    case.
    """
    found = compare.paired_difference(before, after, metric)
    return Estimate(found["difference"], found["low"], found["high"], found["n"]) if found else EMPTY


def statistics_of_totals(
    groups: Mapping[str, np.ndarray], statistic: Callable[[np.ndarray], np.ndarray]
) -> list[Estimate]:
    """Statistics of summed columns (such as ratios of totals), with bootstrap intervals over cases.

    `groups` maps a case to its columns; `statistic` maps (resamples, columns) of per-case means, which are totals up to
    a common factor, to (resamples, outputs). Returns one estimate per output, EMPTY where the statistic is NaN, without
    an interval where the cases do not differ.
    """
    if not groups:
        return []
    columns = np.stack([np.asarray(groups[case], dtype=float) for case in sorted(groups)])
    values, intervals = statistic_intervals(columns, np.ones_like(columns), statistic)
    return [
        EMPTY if np.isnan(value) else Estimate(float(value), interval.low, interval.high, len(columns))
        for value, interval in zip(values, intervals, strict=True)
    ]
