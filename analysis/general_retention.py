"""General capability before and after training: six benchmarks, each alone and all together, with a non-inferiority test.

A policy is kept (non-inferior) when the lower end of the one-sided 95% interval of after - before lies above the margin.
"Not significantly worse" would not do: a small sample is never significantly worse. The test that counts is the pooled one, on the
mean of the benchmarks' means. Its margin is what the problems support: the loss that a model without any change rules out in 80% of
cases, at least 1 point and at most 3. Each benchmark alone is shown with a margin of 1 point, and its p-value is Holm-corrected
over all benchmarks and policies, since one of many is easily worse by chance.

Inputs:  RUN/eval/<policy>/general/results.jsonl: one row per problem with `id`, `task` and `correct`.
Outputs: RUN/analysis/general_retention.{csv,txt,png,svg}.
Paper:   section 4.5 (general capability: MMLU, BBH, GSM8K, MATH, HumanEval, MBPP).

Example: python -m analysis.general_retention outputs/qwen3-8b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import norm

from analysis.figures.artifact import Artifact, script_main
from analysis.figures.style import figure_style, new_figure, policy_style
from analysis.run_data.intervals import Row, estimate_row
from analysis.run_data.run_folder import Missing, Run, policy_label
from env_construction.environment.jsonl import run_main
from eval.compare import paired_difference as tested_difference
from eval.statistics.estimates import Estimate, add_holm
from eval.statistics.intervals import LEVEL, POWER
from eval.suites.results import GroupedMean, estimate

MARGIN_POINTS = 1.0
LARGEST_MARGIN_POINTS = 3.0
POOLED = "all"
SUITE = "general"
LABELS = {
    "mmlu": "MMLU",
    "bbh": "BBH",
    "gsm8k": "GSM8K",
    "math": "MATH",
    "humaneval": "HumanEval",
    "mbpp": "MBPP",
    POOLED: "All (mean)",
}
ORDER = tuple(LABELS)


def retention(after: Sequence[Row], before: Sequence[Row], pooled: bool = False) -> dict[str, Any] | None:
    """The paired difference of one benchmark, or of the mean of all, with `one_sided_low`, the lower end of the one-sided 95% interval."""
    metric = GroupedMean("correct", "correct", "task") if pooled else "correct"
    found, one_sided = (tested_difference(before, after, metric, level=level) for level in (LEVEL, 2 * LEVEL))
    return found | {"one_sided_low": one_sided["low"]} if found and one_sided else None


def supported_margin(standard_error: float) -> float:
    """The margin in points, at which a model without a change is found non-inferior at 80% power, between 1 and 3 points."""
    needed = 100 * float(norm.ppf(1 - LEVEL) + norm.ppf(POWER)) * standard_error
    return min(max(MARGIN_POINTS, needed), LARGEST_MARGIN_POINTS)


def retention_rows(run: Run, policies: list[str]) -> list[dict[str, Any]]:
    """One row per policy and benchmark, then one for all benchmarks (task POOLED), in points."""
    before = run.rows("start", SUITE)
    tasks = sorted(
        {str(row["task"]) for row in before},
        key=lambda task: (ORDER.index(task) if task in ORDER else len(ORDER), task),
    )
    rows: list[dict[str, Any]] = []
    for policy in policies:
        for task in (*tasks, POOLED):
            mine = [row for row in run.rows(policy, SUITE) if task in (POOLED, row["task"])]
            theirs = [row for row in before if task in (POOLED, row["task"])]
            if {row["id"] for row in mine} & {row["id"] for row in theirs}:
                rows.append({"policy": policy, "task": task} | _row(mine, theirs, task == POOLED))
    single = [row for row in rows if row["task"] != POOLED]
    tests = [{"p": row["difference_p"], "p_at_floor": row["difference_p_at_floor"]} for row in single]
    add_holm(tests)
    for row, test in zip(single, tests, strict=True):
        row |= {"difference_p_holm": test["p_holm"], "difference_p_holm_at_floor": test["p_holm_at_floor"]}
    return rows


def _row(mine: Sequence[Row], theirs: Sequence[Row], pooled: bool) -> dict[str, Any]:
    metric = GroupedMean("correct", "correct", "task")
    found = retention(mine, theirs, pooled)
    if found is None:
        raise ValueError("rows without a shared problem")
    margin = supported_margin(found["standard_error"]) if pooled else MARGIN_POINTS
    row: dict[str, Any] = {}
    for name, rows in (("before", theirs), ("after", mine)):
        value = estimate_row(name, estimate(rows, metric if pooled else "correct"))
        row |= {key: _points(number, key) for key, number in value.items()}
    gap = Estimate(found["difference"], found["low"], found["high"], found["n"])
    row |= {key: _points(number, key) for key, number in estimate_row("difference", gap).items()}
    row |= {"difference_p": found["p"], "difference_p_at_floor": found["p_at_floor"]}
    row["one_sided_low"] = 100 * found["one_sided_low"]
    return row | {"margin": -margin, "non_inferior": row["one_sided_low"] > -margin}


def _points(value: Any, key: str) -> Any:
    return value if value is None or key.endswith("_n") else 100 * value


def build(run: Run) -> list[Artifact]:
    """Raises Missing unless the start and a trained policy went through the general suite."""
    there = run.policies_of(SUITE)
    policies = [policy for policy in there if policy in run.trained]
    if "start" not in there or not policies:
        raise Missing("the general suites were not run before and after training (eval/<policy>/general/results.jsonl)")
    rows = retention_rows(run, policies)
    if not rows:
        raise Missing("the general suites of start and trained policies share no problem")
    tasks = list(dict.fromkeys(row["task"] for row in sorted(rows, key=lambda row: row["task"] == POOLED)))
    figure, (axes,) = new_figure(width=8.0, height=1.5 + 0.55 * len(tasks))
    with figure_style():
        for index, policy in enumerate(policies):
            colour, mark, _ = policy_style(policy, index)
            chosen = [row for row in rows if row["policy"] == policy]
            y = [-tasks.index(row["task"]) - 0.16 * (index - (len(policies) - 1) / 2) for row in chosen]
            axes.plot([row["difference"] for row in chosen], y, mark, color=colour, label=policy_label(policy))
            for place, row in zip(y, chosen, strict=True):
                axes.plot([row["difference_low"], row["difference_high"]], [place, place], color=colour, linewidth=1.3)
            axes.plot([row["one_sided_low"] for row in chosen], y, "|", color=colour, markersize=9, markeredgewidth=1.8)
        axes.plot(
            [], [], "|", color="black", markersize=9, markeredgewidth=1.8, label="lower end of the one-sided interval"
        )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.axvline(
            -MARGIN_POINTS, color="black", linewidth=1.0, linestyle="--", label=f"margin (−{MARGIN_POINTS:g} point)"
        )
        problems = {row["task"]: row["difference_n"] for row in rows if row["policy"] == policies[0]}
        axes.set_yticks(
            [-place for place in range(len(tasks))],
            [f"{LABELS.get(task, task)}\n(n={problems.get(task, 0):,})" for task in tasks],
        )
        axes.set_xlabel("after − before (points, 95% interval)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    pooled = [row for row in rows if row["task"] == POOLED]
    kept = "; ".join(
        f"{policy_label(row['policy'])} {'is' if row['non_inferior'] else 'is not shown to be'} kept (margin −{-row['margin']:.1f} points)"
        for row in pooled
    )
    counts = ", ".join(
        f"{LABELS.get(row['task'], row['task'])} n = {row['difference_n']:,}"
        for row in rows
        if row["policy"] == policies[0] and row["task"] != POOLED
    )
    caption = (
        f"Change in general capability, paired over problems ({counts}), with 95% intervals. On the mean of all benchmarks: {kept}. "
        f"The tick on each bar is the lower end of the one-sided 95% interval; each benchmark's own p-values are Holm-corrected. {run.faults_text('general')}Source: eval/<policy>/general/results.jsonl."
    )
    return [Artifact("general_retention", "General capability, before and after", caption, rows, figure)]


def main() -> int:
    return script_main(__doc__, "analysis.general_retention", build)


if __name__ == "__main__":
    run_main(main)
