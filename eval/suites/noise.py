"""How much of a score is chance, and what it cost: flip rates, intraclass correlation, pass^k; tokens and seconds.

Input: result rows. Outputs: `noise` and `cost` of a suite's summary.

| in `noise`, for each metric that is a column | meaning |
| --- | --- |
| `flip_rate` | share of cases whose trials disagree, among cases with two or more trials |
| `intraclass_correlation` | share of a trial's variance that is between cases (1: no noise; 0: only noise) |
| `pass^k` | for yes/no columns: the chance that k trials of a case all succeed (eval/suites/pass_hat_k.py) |

With one trial per case these are unknown and `noise` is empty; `--trials 4` measures them. For a greedy policy, only
batching causes flips.

| in `cost` | meaning |
| --- | --- |
| `tokens_read` | prompt tokens summed over all turns, as if no prefix were cached |
| `tokens_written` | tokens that the model generated |
| `seconds` | wall time of an episode from its first turn to its last, with all others in flight |

Source: Shrout and Fleiss 1979, ICC(1,1), from the one-way analysis of variance; tau-bench (arXiv 2406.12045) for
pass^k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.statistics.estimates import Estimate, estimate_text, percent_text
from eval.statistics.intervals import SHARE, is_yes_no, mean_interval, statistic_intervals
from eval.suites.pass_hat_k import pass_hat_k
from eval.suites.results import COSTS, GroupedMean, Metric, Row, estimate, scored

COST_COLUMNS = ("tokens_read", "tokens_written", "seconds")


def trials_by_case(rows: Sequence[Row], column: str) -> list[np.ndarray]:
    """The trial values of each case that has any, shape (trials,).

    A case is an id here: the rows of one cluster are different cases.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get(column) is not None:
            values.setdefault(str(row["id"]), []).append(float(row[column]))
    return [np.array(values[case]) for case in sorted(values)]


def _mean(values: np.ndarray, seed: int) -> dict[str, Any]:
    interval = mean_interval(values, None, SHARE, seed)
    return Estimate(float(values.mean()), interval.low, interval.high, len(values)).as_dict()


def intraclass_correlation(cases: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """ICC(1,1) of cases with two or more trials each, with a bootstrap interval over cases.

    No value if nothing varies.
    """
    sizes = np.array([len(trials) for trials in cases], dtype=float)
    if len(cases) < 2:
        return Estimate(None, None, None, len(cases))
    trials = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(cases) - 1)
    means = np.array([values.mean() for values in cases])
    within = np.array([values.var(ddof=1) for values in cases])
    bessel = len(cases) / (len(cases) - 1)

    def correlation(moments: np.ndarray) -> np.ndarray:
        """(draws, 3) means of the case means, their squares, and the variances within cases -> (draws, 1)."""
        mean, square, variance = moments.T
        between = np.maximum(0.0, square - mean**2) * bessel
        total = between + variance * (1 - 1 / trials)
        return np.divide(between - variance / trials, total, out=np.full_like(total, np.nan), where=total > 1e-12)[
            :, None
        ]

    columns = np.stack([means, means**2, within], axis=1)
    [value], [interval] = statistic_intervals(columns, np.ones_like(columns), correlation, seed)
    if np.isnan(value):
        return Estimate(None, None, None, len(cases))
    return Estimate(float(value), interval.low, interval.high, len(cases))


def noise(rows: Sequence[Row], metrics: Sequence[Metric], seed: int = 0) -> dict[str, dict[str, Any]]:
    """What repeated trials show about each metric's column; {} if no case was repeated."""
    columns = dict.fromkeys(
        metric if isinstance(metric, str) else metric.column
        for metric in metrics
        if isinstance(metric, str | GroupedMean)
    )
    found: dict[str, dict[str, Any]] = {}
    for column in columns:
        every = trials_by_case(scored(rows), column)
        cases = [values for values in every if len(values) > 1]
        if not cases or column in COSTS:
            continue
        flips = np.array([float(np.ptp(values) > 0) for values in cases])
        found[column] = {
            "trials": max(map(len, cases)),
            "flip_rate": _mean(flips, seed),
            "intraclass_correlation": intraclass_correlation(cases, seed).as_dict(),
        }
        if all(is_yes_no(values) for values in every):
            for k in range(1, max(map(len, every)) + 1):
                passed = [pass_hat_k(round(v.sum()), len(v), k) for v in every if len(v) >= k]
                found[column][f"pass^{k}"] = _mean(np.array(passed), seed)
    return found


def cost(rows: Sequence[Row], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Totals and per-episode means with intervals for COST_COLUMNS; a column that no row has is omitted."""
    counted: list[dict[str, Any]] = []
    for row in scored(rows):
        turns = row.get("turn_scores") or ()
        read = [turn.get("prompt_tokens") for turn in turns]
        counted.append(
            {
                "id": row["id"],
                "tokens_read": sum(read) if read and all(isinstance(tokens, int | float) for tokens in read) else None,
                "tokens_written": row.get("completion_tokens"),
                "seconds": row.get("seconds"),
            }
        )
    found = {}
    for column in COST_COLUMNS:
        values = [row[column] for row in counted if row[column] is not None]
        if values:
            found[column] = {
                "total": round(sum(values), 3),
                "per_episode": estimate(counted, column, seed).as_dict(),
            }
    return found


def noise_text(found: dict[str, dict[str, Any]], metric: str) -> str:
    """One line on a metric's trials; empty if no case was repeated."""
    if metric not in found:
        return ""
    one = found[metric]
    flips, correlation = Estimate(**one["flip_rate"]), Estimate(**one["intraclass_correlation"])
    text = f"{percent_text(flips)}% of {flips.n} cases flip in {metric} over {one['trials']} trials"
    return f"{text}; intraclass correlation {estimate_text(correlation, 2)}\n"
