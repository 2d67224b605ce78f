"""Compare two results on the same cases: paired difference B - A per metric, with interval and p-value.

Inputs: two result folders (or results.jsonl files) of one suite. Outputs: a table, and with --out a JSON file.

Cases are paired by id, their trials averaged first; cases that only one side has (or that a fault broke) are left out, counted and named.
A metric that the summaries of both folders define as a mean of groups (five noise levels, two domains) is compared as that.
- interval: 95% percentile bootstrap over cases
- p-value: exact McNemar test where every case has one yes/no value, else a paired bootstrap test (differences centred on 0)
- `p_holm`: Holm's correction over the metrics compared here
- decomposition: which part of the gain in Solve-F1 comes from the number of attempted calls, from format (attempts that
  parse), tool (parsed calls that name a tool with something unsolved) and argument (those calls that solve it). The four
  factors multiply to the number of solved sub-questions; each one's share is its Shapley value on a case's Solve-F1
  (2 q / (p + n)), averaged over the cases, so that the shares add up to the difference in Solve-F1 whatever the order. The split is
  accounting, not causes: leaving out calls that would miss lowers the attempts and raises the rates.

Example:
    python -m eval.compare outputs/cpu/eval/start outputs/cpu/eval/grpo --out outputs/cpu/eval/start-grpo.json

Source: paper/README.md, "Evaluation"; defects 10 (no repeats, no intervals).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, json_text, run_main
from eval.suites.results import (
    LEVEL,
    GroupedMean,
    case_of,
    case_values,
    grouped_case_values,
    read_rows,
    resampled_means,
    resolvable,
    scored,
)
from train.stages.faults import fault_rows, rows_faults_text

FACTORS = ("attempts", "format", "tool", "argument")
COUNTS = ("calls", "parsed_calls", "malformed_calls", "needed_calls", "solved", "sub_questions")
# columns of a row that are no metric
NOT_METRICS = frozenset({"id", "trial", "seed", "hops", "sub_questions", "seconds", *COUNTS[1:4]})


def numeric_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that can be compared, in the rows' order: numbers and yes/no values."""
    found: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in NOT_METRICS and isinstance(value, (bool, int, float)):
                found[key] = None
    return list(found)


def paired_difference(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], metric: str | GroupedMean, seed: int = 0
) -> dict[str, Any] | None:
    """The difference B - A of one metric over the cases that both have; None if they share no case with a value."""
    if isinstance(metric, GroupedMean):
        ids = [{row["id"] for row in rows if row.get(metric.column) is not None} for rows in (a, b)]
        values_a, values_b = (
            grouped_case_values([row for row in rows if row["id"] in ids[0] & ids[1]], metric) for rows in (a, b)
        )
    else:
        values_a, values_b = case_values(a, metric), case_values(b, metric)
    cases = sorted(values_a.keys() & values_b.keys())
    if not cases:
        return None
    before = np.array([np.mean(values_a[case]) for case in cases])
    after = np.array([np.mean(values_b[case]) for case in cases])
    differences = after - before
    n = len(cases)
    means = resampled_means(differences[:, None], np.ones((n, 1)), seed)[:, 0]
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    observed = float(differences.mean())
    single = all(len(values_a[case]) == len(values_b[case]) == 1 for case in cases)
    if single and np.isin(np.concatenate([before, after]), (0.0, 1.0)).all():
        test, p_value = "mcnemar", mcnemar(before, after)
    else:
        # under no difference the resampled means scatter around 0 as they now scatter around the observed one
        beyond = np.abs(means - observed) >= abs(observed) - 1e-12
        test, p_value = "paired_bootstrap", float((1 + beyond.sum()) / (1 + len(means)))
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    return {
        "a": float(before.mean()),
        "b": float(after.mean()),
        "difference": observed,
        "low": float(low),
        "high": float(high),
        "n": n,
        "test": test,
        "p": p_value,
        "smallest_resolvable": resolvable(spread, n) if spread > 0 else None,
    }


def mcnemar(before: np.ndarray, after: np.ndarray) -> float:
    """Exact two-sided McNemar test of paired 0/1 values: are the changes one-sided? 1.0 if nothing changed."""
    gained = int(((before == 0) & (after == 1)).sum())
    lost = int(((before == 1) & (after == 0)).sum())
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; the order of the input is kept."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _factors(counts: np.ndarray) -> np.ndarray:
    """(..., len(COUNTS)) counts -> (..., 5): the four factors, and whether malformed calls count as calls; NaN for a share of nothing."""
    calls, parsed, malformed, needed, solved, _ = np.moveaxis(counts, -1, 0)
    attempts = parsed + malformed
    shares = _share(parsed, attempts), _share(needed, parsed), _share(solved, needed)
    return np.stack([attempts, *shares, _share(calls - parsed, malformed)], axis=-1)


def _solve_f1(factors: Sequence[np.ndarray], counted: np.ndarray, sub_questions: np.ndarray) -> np.ndarray:
    attempts, well_formed, tool, argument = factors
    calls = attempts * (well_formed + counted * (1 - well_formed))
    return 2 * attempts * well_formed * tool * argument / (calls + sub_questions)


def shapley_shares(counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """Shares of each of FACTORS in the gain in Solve-F1, episode by episode; they add up to that episode's gain.

    `counts_*`: (episodes, len(COUNTS)); returns (episodes, 4). A rate that one side does not have (no call was tried, none parsed)
    is taken to be the other side's: what was never tried differs in the attempts alone.
    """
    factors_a, factors_b = _factors(counts_a), _factors(counts_b)
    factors_a, factors_b = (
        np.nan_to_num(np.where(np.isnan(mine), other, mine))
        for mine, other in ((factors_a, factors_b), (factors_b, factors_a))
    )
    counted = np.maximum(factors_a[:, 4], factors_b[:, 4])
    sub_questions = counts_a[:, -1]
    shares = np.zeros((len(counts_a), len(FACTORS)))
    k = len(FACTORS)
    for place in range(k):
        others = [i for i in range(k) if i != place]
        for size in range(k):
            weight = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
            for taken in itertools.combinations(others, size):
                mixed = [factors_b[:, i] if i in taken else factors_a[:, i] for i in range(k)]
                without = _solve_f1(mixed, counted, sub_questions)
                mixed[place] = factors_b[:, place]
                shares[:, place] += weight * (_solve_f1(mixed, counted, sub_questions) - without)
    return shares


def decompose(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any] | None:
    """The gain in Solve-F1, the mean over cases that paired_difference gives, split into FACTORS, each with a 95% interval.

    Each case's trials are split pair by pair and averaged. `rates` are those of all calls together. None if the rows carry no counts.
    """
    if not all(column in row for row in (*a, *b) for column in COUNTS):
        return None
    by_case: list[dict[str, list[list[float]]]] = [{}, {}]
    for found, rows in zip(by_case, (a, b), strict=True):
        for row in rows:
            found.setdefault(case_of(row), []).append([float(row[column]) for column in COUNTS])
    cases = sorted(by_case[0].keys() & by_case[1].keys())
    if not cases:
        return None
    per_case = np.empty((len(cases), len(FACTORS)))
    for place, case in enumerate(cases):
        pairs = np.array(list(itertools.product(by_case[0][case], by_case[1][case])))
        per_case[place] = shapley_shares(pairs[:, 0], pairs[:, 1]).mean(axis=0)
    columns = np.column_stack([per_case, per_case.sum(axis=1)])
    draws = resampled_means(columns, np.ones_like(columns), seed)
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    estimates = [
        {"value": float(value), "low": float(low[i]), "high": float(high[i]), "n": len(cases)}
        for i, value in enumerate(columns.mean(axis=0))
    ]
    rates_a, rates_b = (
        np.nan_to_num(_factors(np.mean([np.mean(side[case], axis=0) for case in cases], axis=0))) for side in by_case
    )
    return {
        "solve_f1_gain": estimates[-1],
        "shares": dict(zip(FACTORS, estimates, strict=False)),
        "rates": {name: {"a": float(rates_a[i]), "b": float(rates_b[i])} for i, name in enumerate(FACTORS)},
    }


def compare(
    a: Sequence[Mapping[str, Any]],
    b: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    grouped: Sequence[GroupedMean] = (),
) -> dict[str, Any]:
    """All metrics that both sides have (or `metrics`), Holm-corrected, and the decomposition of the gain.

    `grouped` are means of groups; one with a column's name takes that column's place.
    """
    rows_a, rows_b = scored(a), scored(b)
    ids_a, ids_b = {str(row["id"]) for row in rows_a}, {str(row["id"]) for row in rows_b}
    if not ids_a & ids_b:
        raise BadInput("the two results share no case: were they measured on the same data?")
    if metrics is None:
        in_b = set(numeric_columns(rows_b))
        columns = [name for name in numeric_columns(rows_a) if name in in_b]
        metrics = [*columns, *(mean.name for mean in grouped if mean.name not in columns)]
    means = {mean.name: mean for mean in grouped}
    found: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        difference = paired_difference(rows_a, rows_b, means.get(metric, metric), seed)
        if difference is not None:
            found[metric] = difference
    for item, adjusted in zip(found.values(), holm([item["p"] for item in found.values()]), strict=True):
        item["p_holm"] = adjusted
    return {
        "cases": len(ids_a & ids_b),
        "only_a": len(ids_a - ids_b),
        "only_b": len(ids_b - ids_a),
        "faults_a": len(a) - len(rows_a),
        "faults_b": len(b) - len(rows_b),
        "faults_text_a": rows_faults_text(a),
        "faults_text_b": rows_faults_text(b),
        "metrics": found,
        "decomposition": decompose(rows_a, rows_b, seed),
    }


def grouped_means(a: Path | str, b: Path | str) -> list[GroupedMean]:
    """The means of groups that the summaries of both result folders define alike; none where a summary is not there."""
    defined = []
    for folder in (a, b):
        try:
            summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
            defined.append(list(summary.get("grouped_means") or ()))
        except (OSError, ValueError):
            return []
    return [GroupedMean(**mean) for mean in defined[0] if mean in defined[1]]


def comparison_text(result: Mapping[str, Any]) -> str:
    """A readable table of a comparison."""
    lines = [
        f"{result['cases']} cases in both ({result['only_a']} only in A, {result['only_b']} only in B)",
        *(f"{side}: {text}" for side in "AB" if (text := result[f"faults_text_{side.lower()}"])),
        f"{'metric':<22}{'n':>5}{'A':>9}{'B':>9}{'B - A':>9}  {'95% interval':<20}{'p':>8}{'Holm':>8}  test",
    ]
    for name, item in result["metrics"].items():
        interval = f"[{item['low']:+.3f}, {item['high']:+.3f}]"
        lines.append(
            f"{name:<22}{item['n']:>5}{item['a']:>9.3f}{item['b']:>9.3f}{item['difference']:>+9.3f}  {interval:<20}"
            f"{item['p']:>8.4f}{item['p_holm']:>8.4f}  {item['test']}"
        )
    if result["decomposition"]:
        gain = result["decomposition"]["solve_f1_gain"]
        lines.append(f"gain in Solve-F1 {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}], of which by")
        for name, share in result["decomposition"]["shares"].items():
            rate = result["decomposition"]["rates"][name]
            lines.append(
                f"  {name:<10}{share['value']:>+8.3f} [{share['low']:+.3f}, {share['high']:+.3f}]   {rate['a']:.3f} -> {rate['b']:.3f}"
            )
    return "\n".join(lines)


def _all_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a result folder or file, and beside them what the folder has lost to faults."""
    rows = read_rows(path)
    return [*rows, *fault_rows(path if Path(path).is_dir() else Path(path).parent, rows)]


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.compare")
    parser.add_argument("a", help="result folder or results.jsonl: before")
    parser.add_argument("b", help="result folder or results.jsonl: after")
    parser.add_argument("--metrics", nargs="+", default=None, help="default: every numeric column that both have")
    parser.add_argument("--out", default=None, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows_a, rows_b = _all_rows(arguments.a), _all_rows(arguments.b)
    grouped = grouped_means(arguments.a, arguments.b)
    in_b = set(numeric_columns(scored(rows_b)))
    shared = [name for name in numeric_columns(scored(rows_a)) if name in in_b]
    shared += [mean.name for mean in grouped if mean.name not in shared]
    if unknown := [name for name in arguments.metrics or () if name not in shared]:
        raise BadInput(f"unknown metric {unknown[0]!r}: both results have {', '.join(shared)}")
    compared = compare(rows_a, rows_b, arguments.metrics, arguments.seed, grouped)
    result = {"a": arguments.a, "b": arguments.b, **compared}
    print(comparison_text(result))
    if arguments.out:
        path = Path(arguments.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json_text(result, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_main(main)
