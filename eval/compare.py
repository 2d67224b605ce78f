"""Compare two results on the same cases: the paired difference B - A per metric, with interval and p-value.

Inputs: two result folders (or results.jsonl files) of one suite. Outputs: a table; with --out also a JSON file.

Cases are paired by id after averaging over trials. Cases that only one side has (or that a fault broke) are excluded
and reported. Results of two protocols (different split, mode, turn limit, decoding, match rule or formula; see
eval/suites/protocol.py) are refused, because their difference is not the gain of a policy. --across-protocols compares
them anyway and reports what differs. A metric that both summaries define as a mean of groups (five noise levels, two
domains) is compared as such a mean.
- interval and p-value: Tango's and McNemar's score tests if every case has one yes/no value, else an interval and test
  for the mean difference (rules: eval.statistics.paired). p is below 0.05 exactly when the interval excludes 0.
- `p_holm`: Holm's correction over the suite's headline metrics, or over --metrics. Other metrics are not corrected.
- decomposition: how much of the gain in Solve-F1 comes from each of four factors: the number of attempted calls, format
  (attempts that parse), tool (parsed calls that name a tool with an unsolved sub-question), and argument (those calls
  that solve it). The product of the factors is the number of solved sub-questions. The share of a factor is its Shapley
  value on a case's Solve-F1 (2 q / (p + n)), averaged over cases, so the shares add up to the difference in any order.
  The split is accounting, not causation: omitting calls that would miss lowers the attempts and raises the rates.

Example:
    python -m eval.compare outputs/cpu/eval/start outputs/cpu/eval/grpo --out outputs/cpu/eval/start-grpo.json

Source: paper/README.md, "Evaluation"; defect 10 (no repeats, no intervals).
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, json_text, run_main
from eval.run import SUITES
from eval.statistics.estimates import Estimate, add_holm, estimate_text, interval_text, number_text, p_text
from eval.statistics.intervals import (
    DIFFERENCE,
    LEVEL,
    SHARE,
    UNBOUNDED,
    combined_interval,
    mean_interval,
)
from eval.statistics.paired import PairedTest, p_from_interval, paired_test, resolvable
from eval.suites.protocol import compared_protocols, protocols_text, summary_of
from eval.suites.results import (
    GroupedMean,
    bounds_of,
    case_of,
    case_values,
    group_sums,
    read_rows,
    rows_and_weights,
    scored,
)
from train.stages.faults import fault_rows, one_sided_faults_text, rows_faults_text

FACTORS = ("attempts", "format", "tool", "argument")
COUNTS = ("calls", "parsed_calls", "malformed_calls", "needed_calls", "solved", "sub_questions")
NO_FAMILY = "p-values are not corrected: no summary.json names the suite; choose the family of metrics with --metrics"
# numeric columns that are not metrics
NOT_METRICS = frozenset({"id", "trial", "seed", "hops", "sub_questions", "seconds", *COUNTS[1:4]})


def numeric_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that can be compared (numbers and yes/no values), in the order of the rows."""
    found: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in NOT_METRICS and isinstance(value, (bool, int, float)):
                found[key] = None
    return list(found)


def paired_difference(
    a: Sequence[Mapping[str, Any]],
    b: Sequence[Mapping[str, Any]],
    metric: str | GroupedMean,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Any] | None:
    """The difference B - A of one metric over the shared cases; None if no shared case has a value.

    `level` is the significance level: 0.05 gives a 95% interval. `low`, `high` and `p` are None if the data allow none.
    """
    if isinstance(metric, GroupedMean):
        return _grouped_difference(a, b, metric, seed, level)
    values_a, values_b = case_values(a, metric), case_values(b, metric)
    cases = sorted(values_a.keys() & values_b.keys())
    if not cases:
        return None
    before, after = (np.array([np.mean(values[case]) for case in cases]) for values in (values_a, values_b))
    found = paired_test(before, after, None, bounds_of(metric, [*a, *b]), seed, level)
    return _difference(before, after, found)


def _difference(before: np.ndarray, after: np.ndarray, found: PairedTest) -> dict[str, Any]:
    """The comparison of two vectors of case values whose means are the metric."""
    n = len(before)
    spread = float((after - before).std(ddof=1)) if n > 1 else 0.0
    return {
        "a": float(before.mean()),
        "b": float(after.mean()),
        "difference": float((after - before).mean()),
        "low": found.interval.low,
        "high": found.interval.high,
        "n": n,
        "test": found.test,
        "p": found.p,
        "p_at_floor": found.at_floor,
        "standard_error": spread / math.sqrt(n),
        "smallest_resolvable": resolvable(spread, n) if spread > 0 else None,
    }


def _trial_means(rows: Sequence[Mapping[str, Any]], metric: GroupedMean) -> dict[Any, dict[str, Any]]:
    """One row per id that has a value: the mean over its trials."""
    by_id: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get(metric.column) is not None:
            by_id.setdefault(row["id"], []).append(row)
    return {
        case: {**trials[0], metric.column: sum(float(row[metric.column]) for row in trials) / len(trials)}
        for case, trials in by_id.items()
    }


def _grouped_difference(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], metric: GroupedMean, seed: int, level: float
) -> dict[str, Any] | None:
    """The paired difference of a mean of groups. Costs use per-case values; shares combine the groups' intervals."""
    sides = [_trial_means(rows, metric) for rows in (a, b)]
    shared = [[side[case] for case in sides[0] if case in sides[1]] for side in sides]
    found, weights = rows_and_weights(shared[0], metric)
    if not found:
        return None
    bounds = bounds_of(metric.column, [*a, *b])
    kept = {row["id"] for row in found}
    (sums_a, counts), (sums_b, _) = (
        group_sums([row for row in rows if row["id"] in kept], metric, list(weights)) for rows in shared
    )
    share = np.array(list(weights.values()))
    before, after = (len(sums) * ((sums / counts.sum(axis=0)) @ share) for sums in (sums_a, sums_b))
    if bounds != SHARE:
        return _difference(before, after, paired_test(before, after, None, bounds, seed, level))

    def tests_at(level: float) -> list[PairedTest]:
        tests = []
        for place, there in enumerate((counts > 0).T):
            size = counts[there, place]
            first, second = sums_a[there, place] / size, sums_b[there, place] / size
            tests.append(paired_test(first, second, size, bounds, seed, level))
        return tests

    if len(share) == 1:
        return _difference(before, after, tests_at(level)[0])
    interval = combined_interval(
        sums_b - sums_a, counts, share, lambda at: [test.interval for test in tests_at(at)], DIFFERENCE, level
    )
    p_value = p_from_interval(float((after - before).mean()), interval, level)
    return _difference(before, after, PairedTest(interval, p_value, False, "groups"))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _factors(counts: np.ndarray) -> np.ndarray:
    """(..., len(COUNTS)) counts -> (..., 6): the four factors, a penalty of the last one, and whether malformed calls
    count as calls.

    The penalty: calls that strict matching adds for each solved sub-question, because one call solved several. NaN if a
    denominator is 0.
    """
    calls, parsed, malformed, needed, solved, _ = np.moveaxis(counts, -1, 0)
    attempts = parsed + malformed
    shares = _share(parsed, attempts), _share(needed, parsed), _share(solved, needed)
    counted = (malformed > 0) & (calls - parsed >= malformed)
    added = calls - parsed - counted * malformed
    return np.stack([attempts, *shares, _share(added, solved), counted], axis=-1)


def _solve_f1(factors: np.ndarray, counted: np.ndarray, sub_questions: np.ndarray) -> np.ndarray:
    attempts, well_formed, tool, argument, penalty = factors.T
    solved = attempts * well_formed * tool * argument
    calls = attempts * (well_formed + counted * (1 - well_formed)) + solved * penalty
    return 2 * solved / (calls + sub_questions)


def shapley_shares(counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """The share of each of FACTORS in the gain in Solve-F1, per episode; the shares add up to the episode's gain.

    `counts_*`: (episodes, len(COUNTS)). Returns (episodes, 4). If a rate is undefined on one side (no call was
    attempted, none parsed), the other side's rate replaces it, so the difference goes to the attempts alone.
    """
    factors_a, factors_b = _factors(counts_a), _factors(counts_b)
    factors_a, factors_b = (
        np.nan_to_num(np.where(np.isnan(mine), other, mine))
        for mine, other in ((factors_a, factors_b), (factors_b, factors_a))
    )
    counted = np.maximum(factors_a[:, 5], factors_b[:, 5])
    sub_questions = counts_a[:, -1]
    shares = np.zeros((len(counts_a), len(FACTORS)))
    k = len(FACTORS)

    def value(of_b: Sequence[int]) -> np.ndarray:
        """Solve-F1 with the factors `of_b` of B and the others of A; the penalty belongs to the last factor."""
        from_b = [min(column, k - 1) in of_b for column in range(k + 1)]
        return _solve_f1(np.where(from_b, factors_b[:, : k + 1], factors_a[:, : k + 1]), counted, sub_questions)

    for place in range(k):
        others = [i for i in range(k) if i != place]
        for size in range(k):
            weight = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
            for taken in itertools.combinations(others, size):
                shares[:, place] += weight * (value([*taken, place]) - value(taken))
    return shares


def decompose(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any] | None:
    """Split the gain in Solve-F1 (as in paired_difference) into FACTORS, each with a 95% interval.

    Each pair of trials of a case is split, then averaged. `rates` pool all calls. None if the rows carry no counts.
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
    intervals = [mean_interval(column, None, UNBOUNDED, seed) for column in per_case.T]
    shares = [
        Estimate(float(mean), interval.low, interval.high, len(cases)).as_dict()
        for mean, interval in zip(per_case.mean(axis=0), intervals, strict=True)
    ]
    rows_a, rows_b = (
        [{"id": case, "solve_f1": 2 * trial[4] / (trial[0] + trial[5])} for case in cases for trial in side[case]]
        for side in by_case
    )
    gain = paired_difference(rows_a, rows_b, "solve_f1", seed)
    assert gain is not None  # both sides have the same cases
    rates_a, rates_b = (
        np.nan_to_num(_factors(np.mean([np.mean(side[case], axis=0) for case in cases], axis=0))) for side in by_case
    )
    return {
        "solve_f1_gain": {"value": gain["difference"]} | {key: gain[key] for key in ("low", "high", "n")},
        "shares": dict(zip(FACTORS, shares, strict=True)),
        "rates": {name: {"a": float(rates_a[i]), "b": float(rates_b[i])} for i, name in enumerate(FACTORS)},
    }


def compare(
    a: Sequence[Mapping[str, Any]],
    b: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    grouped: Sequence[GroupedMean] = (),
    family: Sequence[str] = (),
) -> dict[str, Any]:
    """Compare all shared metrics (or `metrics`), and decompose the gain.

    `grouped` are means of groups; each replaces the column of the same name. `family` are the metrics that Holm's
    correction covers: those that may support a conclusion.
    """
    rows_a, rows_b = scored(a), scored(b)
    ids_a, ids_b = {str(row["id"]) for row in rows_a}, {str(row["id"]) for row in rows_b}
    if not ids_a & ids_b:
        raise BadInput("the two results share no case; compare results that were measured on the same data")
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
    family = [metric for metric in family if metric in found]
    add_holm([found[metric] for metric in family])
    return {
        "cases": len(ids_a & ids_b),
        "only_a": len(ids_a - ids_b),
        "only_b": len(ids_b - ids_a),
        "faults_a": len(a) - len(rows_a),
        "faults_b": len(b) - len(rows_b),
        "faults_text_a": rows_faults_text(a),
        "faults_text_b": rows_faults_text(b),
        "faults_warning": one_sided_faults_text(a, b),
        "holm_family": family,
        "metrics": found,
        "decomposition": decompose(rows_a, rows_b, seed),
    }


def grouped_means(a: Path | str, b: Path | str) -> list[GroupedMean]:
    """The group means that both summaries define identically; none if a summary is missing."""
    first, second = (summary_of(path).get("grouped_means") or [] for path in (a, b))
    return [GroupedMean(**mean) for mean in first if mean in second]


def headlines(a: Path | str, b: Path | str) -> tuple[str, ...]:
    """The headline metrics of the suite that both summaries name; none if the suite is unknown or differs."""
    suite, other = (summary_of(path).get("suite") for path in (a, b))
    if suite != other or suite not in SUITES:
        return ()
    return tuple(importlib.import_module(SUITES[suite].module).HEADLINES)


def comparison_text(result: Mapping[str, Any]) -> str:
    """A readable table of a comparison."""
    family = result["holm_family"]
    lines = [
        f"{result['cases']} cases in both ({result['only_a']} only in A, {result['only_b']} only in B)",
        *(f"{side}: {text}" for side in "AB" if (text := result[f"faults_text_{side.lower()}"])),
        *([result["faults_warning"]] if result["faults_warning"] else []),
        f"{'metric':<22}{'n':>5}{'A':>9}{'B':>9}{'B - A':>9}  {'95% interval':<20}{'p':>9}{'Holm':>9}  test",
    ]
    for name, item in result["metrics"].items():
        corrected = p_text(item["p_holm"], item["p_holm_at_floor"]) if "p_holm" in item else "-"
        lines.append(
            f"{name:<22}{item['n']:>5}{number_text(item['a'], 3):>9}{number_text(item['b'], 3):>9}"
            f"{number_text(item['difference'], 3, signed=True):>9}  "
            f"{interval_text(item['low'], item['high'], signed=True):<20}"
            f"{p_text(item['p'], item['p_at_floor']):>9}{corrected:>9}  {item['test']}"
        )
    lines.append(f"Holm's correction covers {', '.join(family)}" if family else NO_FAMILY)
    if result["decomposition"]:
        split = result["decomposition"]
        lines.append(f"gain in Solve-F1 {estimate_text(Estimate(**split['solve_f1_gain']), signed=True)}, by factor:")
        for name, share in split["shares"].items():
            rate = split["rates"][name]
            text = estimate_text(Estimate(**share), signed=True)
            lines.append(f"  {name:<10}  {text}   {rate['a']:.3f} -> {rate['b']:.3f}")
    return "\n".join(lines)


def _all_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a result folder or file, plus one row for each episode lost to a fault."""
    rows = read_rows(path)
    return [*rows, *fault_rows(path if Path(path).is_dir() else Path(path).parent, rows)]


def main() -> int:
    parser = ScriptParser(__doc__, "python -m eval.compare")
    parser.add_argument("a", help="result folder or results.jsonl of the first policy")
    parser.add_argument("b", help="result folder or results.jsonl of the second policy")
    parser.add_argument(
        "--metrics", nargs="+", default=None, help="compare only these, and apply Holm's correction over them"
    )
    parser.add_argument("--out", default=None, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--across-protocols", action="store_true", help="compare even if the two protocols differ")
    arguments = parser.parse_args()
    protocols = compared_protocols(arguments.a, arguments.b, arguments.across_protocols)
    rows_a, rows_b = _all_rows(arguments.a), _all_rows(arguments.b)
    grouped = grouped_means(arguments.a, arguments.b)
    in_b = set(numeric_columns(scored(rows_b)))
    shared = [name for name in numeric_columns(scored(rows_a)) if name in in_b]
    shared += [mean.name for mean in grouped if mean.name not in shared]
    if unknown := [name for name in arguments.metrics or () if name not in shared]:
        raise BadInput(f"unknown metric {unknown[0]!r}: both results have {', '.join(shared)}")
    family = arguments.metrics or headlines(arguments.a, arguments.b)
    compared = compare(rows_a, rows_b, arguments.metrics, arguments.seed, grouped, family)
    result = {"a": arguments.a, "b": arguments.b, **protocols, **compared}
    print(protocols_text(protocols))
    print(comparison_text(result))
    if arguments.out:
        path = Path(arguments.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json_text(result, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_main(main)
