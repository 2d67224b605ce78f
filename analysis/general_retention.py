"""General capability before and after training: six benchmarks, separately and pooled, with a non-inferiority test.

A policy is non-inferior if the lower end of the one-sided 95% interval of after - before is above the margin. "Not
significantly worse" would be too weak, because a small sample is hardly ever significantly worse. The decisive test is
the pooled one, on the mean of the benchmark means. Its margin depends on the number of problems: it is the loss that a
model without any change rules out with 80% power, but at least 1 point and at most 3. Each single benchmark has a
margin of 1 point. Its p-value is Holm-corrected over all benchmarks and policies, because one of many is easily worse
by chance.

Inputs:  RUN/policies.json and RUN/eval/<policy>/general/results.jsonl: one row per problem with `id`, `task` and
         `correct`. The tasks are the paper's six benchmarks, or six made skills for this repository's models.
Outputs: RUN/analysis/general_retention.{csv,txt,png,svg,pdf}.
Paper:   section 4.5 (general capability: MMLU, BBH, GSM8K, MATH, HumanEval, MBPP).

Example: python -m analysis.general_retention outputs/qwen3-8b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import norm

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import GREY, figure_style, panel_grid, role_style, shared_legend
from analysis.run_data.intervals import Row, estimate_row
from analysis.run_data.run_folder import Missing, NotPlanned, Run
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
    """The paired difference of one benchmark, or of the mean over all benchmarks if `pooled`.

    `one_sided_low` is the lower end of the one-sided 95% interval. None if the rows share no problem.
    """
    metric = GroupedMean("correct", "correct", "task") if pooled else "correct"
    found, one_sided = (tested_difference(before, after, metric, level=level) for level in (LEVEL, 2 * LEVEL))
    return found | {"one_sided_low": one_sided["low"]} if found and one_sided else None


def supported_margin(standard_error: float) -> float:
    """The margin at which an unchanged model is found non-inferior with 80% power, limited to 1 to 3 points."""
    needed = 100 * float(norm.ppf(1 - LEVEL) + norm.ppf(POWER)) * standard_error
    return min(max(MARGIN_POINTS, needed), LARGEST_MARGIN_POINTS)


def retention_rows(run: Run, policies: list[str]) -> list[dict[str, Any]]:
    """One row per policy and benchmark, then one for all benchmarks (task POOLED). In points, relative to the start."""
    rows: list[dict[str, Any]] = []
    for policy in policies:
        before = run.rows(str(run.start_of(policy, SUITE)), SUITE)
        for task in (*sorted({str(row["task"]) for row in before}, key=_task_order), POOLED):
            mine = [row for row in run.rows(policy, SUITE) if task in (POOLED, row["task"])]
            theirs = [row for row in before if task in (POOLED, row["task"])]
            if {row["id"] for row in mine} & {row["id"] for row in theirs}:
                head = {"policy": policy, "label": run.label(policy), "task": task}
                rows.append(head | _row(mine, theirs, task == POOLED))
    single = [row for row in rows if row["task"] != POOLED]
    tests = [{"p": row["difference_p"], "p_at_floor": row["difference_p_at_floor"]} for row in single]
    add_holm(tests)
    for row, test in zip(single, tests, strict=True):
        row |= {"difference_p_holm": test["p_holm"], "difference_p_holm_at_floor": test["p_holm_at_floor"]}
    return rows


def _task_order(task: str) -> tuple[int, str]:
    return (ORDER.index(task) if task in ORDER else len(ORDER), task)


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
    """Raises Missing unless the general suite measured a start and a policy trained from it."""
    there = run.policies_of(SUITE)
    policies = [name for name in there if run.roles[name].role == "trained" and run.start_of(name, SUITE)]
    if not policies:
        reason = (
            "the general suites were not run before and after training "
            "(run python -m eval.general with --out eval/<policy>/general/)"
        )
        raise Missing(reason) if there else NotPlanned(reason)
    rows = retention_rows(run, policies)
    if not rows:
        raise Missing("the general suites of start and trained policies share no problem")
    pooled = [row for row in rows if row["task"] == POOLED]
    tasks = [task for task in dict.fromkeys(row["task"] for row in rows) if task != POOLED]
    caption = caption_text(
        "general_retention", kept=sum(row["non_inferior"] for row in pooled), policies=len(pooled), tasks=len(tasks),
        n=min((row["difference_n"] for row in pooled), default=0),
    )  # fmt: skip
    note = caption_text("retention_note") + " " + run.faults_text(SUITE)
    title = "General capability before and after training"
    return [Artifact("general_retention", title, caption, rows, _figure(run, rows, [*tasks, POOLED]), note=note)]


def _figure(run: Run, rows: list[dict[str, Any]], tasks: list[str]) -> Any:
    """One panel per start: a row per benchmark, with the policies side by side."""
    starts = list(dict.fromkeys(run.roles[row["policy"]].start for row in rows))
    figure, axes_list = panel_grid(len(starts), 2, 0.7 + 0.36 * len(tasks), share_x=True, share_y=True)
    with figure_style():
        for axes, start in zip(axes_list, starts, strict=True):
            policies = list(dict.fromkeys(row["policy"] for row in rows if run.roles[row["policy"]].start == start))
            for index, policy in enumerate(policies):
                color, mark, _ = role_style(run.roles[policy])
                chosen = [row for row in rows if row["policy"] == policy]
                shift = 0.2 * (index - (len(policies) - 1) / 2)
                y = [-tasks.index(row["task"]) - shift for row in chosen]
                axes.plot([row["difference"] for row in chosen], y, mark, color=color, label=run.method(policy))
                for place, row in zip(y, chosen, strict=True):
                    axes.plot(
                        [row["difference_low"], row["difference_high"]], [place, place], color=color, linewidth=1.3
                    )
                margin = next((row["margin"] for row in chosen if row["task"] == POOLED), None)
                if margin is not None:
                    place = 1 - len(tasks) - shift
                    label = "largest allowed loss" if index == 0 else None
                    axes.plot(margin, place, "|", color=GREY, markersize=12, markeredgewidth=2, label=label)
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_title(run.start_label(start))
            axes.grid(axis="y", visible=False)
        names = [LABELS.get(task, task.replace("_", " ")) for task in tasks]
        axes_list[0].set_yticks([-place for place in range(len(tasks))], names)
        figure.supxlabel("after − before (points, 95% interval)", fontsize=10)
        shared_legend(figure, axes_list)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.general_retention", build)


if __name__ == "__main__":
    run_main(main)
