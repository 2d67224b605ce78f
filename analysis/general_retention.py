"""General capability before and after training: six benchmarks with a non-inferiority test.

A benchmark is kept (non-inferior) when the lower end of the one-sided 95% interval of after - before lies above -1 point.
"Not significantly worse" would not do: a small sample is never significantly worse.

Inputs:  RUN/eval/<policy>/general/results.jsonl: one row per problem with `id`, `task` and `correct`.
Outputs: RUN/analysis/general_retention.{csv,txt,png,svg}.
Paper:   section 4.5 (general capability: MMLU, BBH, GSM8K, MATH, HumanEval, MBPP).

Example: python -m analysis.general_retention outputs/qwen3-8b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.artifact import Artifact, script_main
from analysis.intervals import Row, estimate_row, mean_estimate, paired_difference
from analysis.run_folder import Missing, Run, policy_label
from analysis.style import figure_style, new_figure, policy_style
from env_construction.jsonl import run_main
from eval.results import case_values, resampled_means

MARGIN_POINTS = 1.0
SUITE = "general"
LABELS = {
    "mmlu": "MMLU",
    "bbh": "BBH",
    "gsm8k": "GSM8K",
    "math": "MATH",
    "humaneval": "HumanEval",
    "mbpp": "MBPP",
}
ORDER = tuple(LABELS)


def one_sided_low(after: Sequence[Row], before: Sequence[Row], metric: str = "correct") -> float:
    """Lower end of the one-sided 95% bootstrap interval of the paired mean difference."""
    mine, theirs = case_values(after, metric), case_values(before, metric)
    cases = sorted(mine.keys() & theirs.keys())
    gaps = np.array([[sum(mine[case]) / len(mine[case]) - sum(theirs[case]) / len(theirs[case])] for case in cases])
    return float(np.quantile(resampled_means(gaps, np.ones_like(gaps), seed=0), 0.05))


def retention_rows(run: Run, policies: list[str]) -> list[dict[str, Any]]:
    """One row per policy and benchmark, in points; `non_inferior` at the margin."""
    before = run.rows("start", SUITE)
    tasks = sorted(
        {str(row["task"]) for row in before},
        key=lambda task: (ORDER.index(task) if task in ORDER else len(ORDER), task),
    )
    rows = []
    for policy in policies:
        for task in tasks:
            mine = [row for row in run.rows(policy, SUITE) if row["task"] == task]
            theirs = [row for row in before if row["task"] == task]
            if not {row["id"] for row in mine} & {row["id"] for row in theirs}:
                continue
            row: dict[str, Any] = {"policy": policy, "task": task}
            for name, found in (
                ("before", mean_estimate(theirs, "correct")),
                ("after", mean_estimate(mine, "correct")),
            ):
                row |= {key: _points(value, key) for key, value in estimate_row(name, found).items()}
            gap = estimate_row("difference", paired_difference(mine, theirs, "correct"))
            row |= {key: _points(value, key) for key, value in gap.items()}
            row["one_sided_low"] = 100 * one_sided_low(mine, theirs)
            row["margin"] = -MARGIN_POINTS
            row["non_inferior"] = row["one_sided_low"] > -MARGIN_POINTS
            rows.append(row)
    return rows


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
    tasks = list(dict.fromkeys(row["task"] for row in rows))
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
    kept = sum(row["non_inferior"] for row in rows)
    counts = ", ".join(
        f"{LABELS.get(row['task'], row['task'])} n = {row['difference_n']:,}"
        for row in rows
        if row["policy"] == policies[0]
    )
    caption = (
        f"Change in general capability, paired over problems ({counts}), with 95% bootstrap intervals. {kept} of {len(rows)} comparisons are non-inferior: the lower end of the "
        f"one-sided 95% interval (the tick on each bar) lies above the margin of −{MARGIN_POINTS:g} point, fixed beforehand. {run.faults_text('general')}Source: eval/<policy>/general/results.jsonl."
    )
    return [Artifact("general_retention", "General capability, before and after", caption, rows, figure)]


def main() -> int:
    return script_main(__doc__, "analysis.general_retention", build)


if __name__ == "__main__":
    run_main(main)
