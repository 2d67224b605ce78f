"""Solve-F1, answer accuracy and the rest before and after training, by scenario, by number of sub-questions and by
number of tools.

Inputs:  RUN/eval/<policy>/results.jsonl, RUN/policies.json; RUN/environments/test.jsonl for the number of tools.
Outputs: RUN/analysis/scenario_breakdown.*, size_sub_questions.* and size_tools.* (csv, txt, png, svg, pdf). Each
         trained policy is paired with the start of its own model and mode; a run with several has a row of panels for
         each.
Paper:   section 4.2 (results by scenario); intervals and paired differences are ours.

Example: python -m analysis.scenario_breakdown outputs/cpu
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import figure_style, interval_bars, new_figure, role_style, shared_legend
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.labels import METRICS
from analysis.run_data.labels import SCENARIOS as SCENARIO_LABELS
from analysis.run_data.run_folder import Run
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS

DRAWN = ("solve_f1", "answer_correct")


def grouped_rows(run: Run, group_of: Callable[[Mapping[str, Any]], Any], kind: str) -> list[dict[str, Any]]:
    """One row per start, group and policy: mean of each metric, and the paired difference to the start."""
    result = []
    for start, policies in run.compared().items():
        for group in sorted({group_of(row) for row in run.rows(start)} - {None}, key=_group_order):
            before = [row for row in run.rows(start) if group_of(row) == group]
            for policy in (start, *policies):
                rows = [row for row in run.rows(policy) if group_of(row) == group]
                row: dict[str, Any] = {
                    "by": kind,
                    "group": group,
                    "start": start,
                    "policy": policy,
                    "label": run.label(policy),
                }
                for metric in METRICS:
                    row |= estimate_row(metric, mean_estimate(rows, metric))
                    if policy != start:
                        row |= estimate_row(f"{metric}_minus_start", paired_difference(rows, before, metric))
                result.append(row)
    return result


def _group_order(group: Any) -> tuple[int, Any]:
    return (SCENARIOS.index(group), "") if group in SCENARIOS else (99, group)


def _figure(run: Run, rows: list[dict[str, Any]], xlabel: str = "") -> Any:
    """A row of panels for each start: Solve-F1 and answer accuracy by group."""
    starts = list(dict.fromkeys(row["start"] for row in rows))
    groups = sorted({row["group"] for row in rows}, key=_group_order)
    figure, axes_list = new_figure(len(starts), len(DRAWN), height=0.9 + 2.2 * len(starts), share_x=True, share_y=True)
    with figure_style():
        for place, start in enumerate(starts):
            mine = [row for row in rows if row["start"] == start]
            for axes, metric in zip(axes_list[len(DRAWN) * place :], DRAWN, strict=False):
                _draw(run, axes, mine, groups, metric)
                if place == 0:
                    axes.set_title(METRICS[metric])
                if place == len(starts) - 1:
                    counts = {row["group"]: row["solve_f1_n"] for row in mine}
                    names = [SCENARIO_LABELS.get(group, str(group)).replace(" ", "\n", 1) for group in groups]
                    shown = [f"{name}\n(n={counts.get(group, 0)})" for name, group in zip(names, groups, strict=True)]
                    axes.set_xticks(range(len(groups)), shown, fontsize=8)
                    axes.set_xlabel(xlabel)
            axes_list[len(DRAWN) * place].set_ylabel(run.start_label(start).replace(", ", ",\n") or "mean (0 to 1)")
        shared_legend(figure, axes_list)
    return figure


def _draw(run: Run, axes: Any, rows: list[dict[str, Any]], groups: list[Any], metric: str) -> None:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    for index, policy in enumerate(policies):
        color, mark, _ = role_style(run.roles[policy])
        chosen = [row for row in rows if row["policy"] == policy and row[metric] is not None]
        x = [groups.index(row["group"]) + (index - (len(policies) - 1) / 2) * 0.14 for row in chosen]
        values = [row[metric] for row in chosen]
        axes.plot(x, values, mark, color=color, label=run.method(policy))
        lows, highs = [row[f"{metric}_low"] for row in chosen], [row[f"{metric}_high"] for row in chosen]
        interval_bars(axes, x, values, lows, highs, color)
    axes.set(ylim=(-0.04, 1.06), xlim=(-0.5, len(groups) - 0.5))
    axes.grid(axis="x", visible=False)


def build(run: Run) -> list[Artifact]:
    """Raises Missing without a start and a trained policy."""
    rows = grouped_rows(run, lambda row: row.get("scenario"), "scenario")
    n = len({row["id"] for start in run.compared() for row in run.rows(start)})
    note = caption_text("breakdown_note") + " " + run.faults_text()
    artifacts = [
        Artifact(
            "scenario_breakdown", "Before and after training, by scenario", caption_text("scenario_breakdown", n=n),
            rows, _figure(run, rows), note=note,
        )
    ]  # fmt: skip
    tools = {case: len(environment.tools) for case, environment in run.environments().items()}
    kinds = {
        "sub-questions": grouped_rows(run, lambda row: row.get("hops") or row.get("sub_questions"), "sub-questions"),
        "tools": grouped_rows(run, lambda row: tools.get(str(row["id"])), "tools offered"),
    }
    for kind, found in kinds.items():
        if len({row["group"] for row in found}) > 1:
            caption = caption_text("size_breakdown", kind=kind, n=n)
            name, title = f"size_{kind.replace('-', '_')}", f"Before and after training, by number of {kind}"
            artifacts.append(Artifact(name, title, caption, found, _figure(run, found, f"number of {kind}"), note=note))
    return artifacts


def main() -> int:
    return script_main(__doc__, "analysis.scenario_breakdown", build)


if __name__ == "__main__":
    run_main(main)
