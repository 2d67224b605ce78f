"""How estimates are made and printed here: means, paired differences and ratios of totals, each with a 95% interval.

Resampling is that of eval/suites/results.py and eval/compare.py (percentile bootstrap over cases, trials of a case together), so
that a table never disagrees with a summary.json. Comparisons of two policies are paired on the case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval import compare
from eval.suites.results import LEVEL, Estimate, estimate, resampled_means

EMPTY = Estimate(None, None, None, 0)
Row = Mapping[str, Any]


def estimate_text(found: Estimate | None, digits: int = 3, signed: bool = False) -> str:
    """`0.412 [0.350, 0.471]` with real minus signs, `n/a` for an estimate of nothing."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return "n/a"
    sign = "+" if signed else ""
    body = f"{found.value:{sign}.{digits}f} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
    return body.replace("-", "−")


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
    """Mean over the cases that both have of after - before, trials of a case averaged first; EMPTY without such a case."""
    found = compare.paired_difference(before, after, metric)
    return Estimate(found["difference"], found["low"], found["high"], found["n"]) if found else EMPTY


def statistics_of_totals(
    groups: Mapping[str, np.ndarray], statistic: Callable[[np.ndarray], np.ndarray]
) -> list[Estimate]:
    """Statistics of summed columns (such as ratios of totals), with bootstrap intervals over cases.

    `groups` maps a case to its columns; `statistic` maps (resamples, columns) of per-case means, which are totals up to a common
    factor, to (resamples, outputs). Returns one estimate per output, EMPTY where the statistic is NaN; NaN draws are left out.
    """
    cases = sorted(groups)
    if not cases:
        return []
    columns = np.stack([np.asarray(groups[case], dtype=float) for case in cases])
    values = statistic(columns.mean(axis=0, keepdims=True))[0]
    drawn = statistic(resampled_means(columns, np.ones_like(columns), seed=0))
    found = []
    for value, draws in zip(values, drawn.T, strict=True):
        if np.isnan(value):
            found.append(EMPTY)
            continue
        low, high = np.nanquantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
        found.append(Estimate(float(value), float(low), float(high), len(cases)))
    return found
