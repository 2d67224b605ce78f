"""Solve-P, Solve-R and Solve-F1 before and after training, by scenario, by number of hops and by number of tools.

Inputs:  RUN/eval/<policy>/results.jsonl; RUN/environments/test.jsonl for the number of tools.
Outputs: RUN/analysis/scenario_breakdown.{csv,txt,png,svg} and size_breakdown.{csv,txt,png,svg}.
Paper:   section 4.2 (results by scenario); intervals and paired differences are ours.

Example: python -m analysis.scenario_breakdown outputs/cpu
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analysis.figures.artifact import Artifact, script_main
from analysis.figures.style import figure_style, interval_bars, new_figure, policy_style
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.run_folder import SCENARIO_LABELS, Run, policy_label
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS

SOLVE = {"solve_p": "Solve-P", "solve_r": "Solve-R", "solve_f1": "Solve-F1"}


def grouped_rows(
    run: Run, policies: list[str], group_of: Callable[[Mapping[str, Any]], Any], kind: str
) -> list[dict[str, Any]]:
    """One row per group and policy: mean of each metric, and the paired difference to the start."""
    groups = sorted({group_of(row) for row in run.rows("start")} - {None}, key=_group_order)
    result = []
    for group in groups:
        before = [row for row in run.rows("start") if group_of(row) == group]
        for policy in policies:
            rows = [row for row in run.rows(policy) if group_of(row) == group]
            row: dict[str, Any] = {"by": kind, "group": group, "policy": policy}
            for metric in SOLVE:
                row |= estimate_row(metric, mean_estimate(rows, metric))
                if policy != "start":
                    row |= estimate_row(f"{metric}_minus_start", paired_difference(rows, before, metric))
            result.append(row)
    return result


def _group_order(group: Any) -> tuple[int, Any]:
    return (SCENARIOS.index(group), "") if group in SCENARIOS else (99, group)


def _scenario_figure(rows: list[dict[str, Any]], policies: list[str]) -> Any:
    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure, axes_list = new_figure(1, 3, width=10.5, height=3.9, share_y=True)
    width = 0.8 / len(policies)
    counts = {row["group"]: row["solve_f1_n"] for row in rows if row["policy"] == policies[0]}
    with figure_style():
        for axes, (metric, label) in zip(axes_list, SOLVE.items(), strict=True):
            for index, policy in enumerate(policies):
                colour, _, hatch = policy_style(policy, index)
                chosen = [row for row in rows if row["policy"] == policy]
                x = [groups.index(row["group"]) + (index - (len(policies) - 1) / 2) * width for row in chosen]
                values = [row[metric] for row in chosen]
                axes.bar(
                    x, values, width * 0.92, color=colour, hatch=hatch, edgecolor="white", label=policy_label(policy)
                )
                lows, highs = [row[f"{metric}_low"] for row in chosen], [row[f"{metric}_high"] for row in chosen]
                interval_bars(axes, x, values, lows, highs, "#777777" if policy == "start" else "#222222")
            axes.set_xticks(
                range(len(groups)),
                [
                    SCENARIO_LABELS.get(group, str(group)).replace(" ", "\n") + f"\n(n={counts.get(group, 0)})"
                    for group in groups
                ],
                fontsize=8,
            )
            axes.set(title=label, ylim=(0, 1.05))
            axes.grid(axis="x", visible=False)
        axes_list[0].set_ylabel("mean over cases (0 to 1)")
        figure.legend(
            *axes_list[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(policies))
        )
    return figure


def _size_figure(by_kind: dict[str, list[dict[str, Any]]], policies: list[str]) -> Any:
    figure, axes_list = new_figure(1, len(by_kind), width=max(6.6, 4.6 * len(by_kind)), height=3.8, share_y=True)
    with figure_style():
        for axes, (kind, rows) in zip(axes_list, by_kind.items(), strict=True):
            groups = list(dict.fromkeys(row["group"] for row in rows))
            for index, policy in enumerate(policies):
                colour, mark, _ = policy_style(policy, index)
                chosen = [row for row in rows if row["policy"] == policy]
                x = [groups.index(row["group"]) + (index - (len(policies) - 1) / 2) * 0.12 for row in chosen]
                axes.plot(x, [row["solve_f1"] for row in chosen], marker=mark, color=colour, label=policy_label(policy))
                lows, highs = [row["solve_f1_low"] for row in chosen], [row["solve_f1_high"] for row in chosen]
                interval_bars(axes, x, [row["solve_f1"] for row in chosen], lows, highs, colour)
            counts = {row["group"]: row["solve_f1_n"] for row in rows if row["policy"] == policies[0]}
            axes.set_xticks(
                range(len(groups)), [f"{group}\n(n={counts.get(group, 0)})" for group in groups], fontsize=8
            )
            axes.set(xlabel=kind, ylim=(-0.03, 1.05), xlim=(-0.5, len(groups) - 0.5))
        axes_list[0].set_ylabel("Solve-F1 (mean, 95% interval)")
        figure.legend(
            *axes_list[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(policies))
        )
    return figure


def build(run: Run) -> list[Artifact]:
    """Raises Missing without a start and a trained policy."""
    policies = ["start", *run.need_trained()]
    rows = grouped_rows(run, policies, lambda row: row.get("scenario"), "scenario")
    n = len({row["id"] for row in run.rows("start")})
    interval = "Bars and whiskers: means over cases and 95% intervals over cases."
    source = f"{run.faults_text()}Source: eval/<policy>/results.jsonl; paired differences to the start are in the CSV."
    artifacts = [
        Artifact(
            "scenario_breakdown",
            "Before and after, by scenario",
            f"Solve-P, Solve-R and Solve-F1 before and after training, by scenario, n = {n} test environments in all. {interval} {source}",
            rows,
            _scenario_figure(rows, policies),
        )
    ]
    tools = {case: len(environment.tools) for case, environment in run.environments("test").items()}
    by_kind = {
        "sub-questions (hops)": grouped_rows(
            run, policies, lambda row: row.get("hops") or row.get("sub_questions"), "hops"
        ),
        "tools offered": grouped_rows(run, policies, lambda row: tools.get(str(row["id"])), "tools"),
    }
    by_kind = {kind: found for kind, found in by_kind.items() if len({row["group"] for row in found}) > 1}
    if by_kind:
        caption = (
            f"Solve-F1 before and after training, by the number of sub-questions and by the number of tools offered, n = {n} test environments. "
            f"Points are means over cases, whiskers 95% intervals over cases. {source}"
        )
        all_rows = [row for found in by_kind.values() for row in found]
        artifacts.append(
            Artifact(
                "size_breakdown",
                "Before and after, by size of the problem",
                caption,
                all_rows,
                _size_figure(by_kind, policies),
            )
        )
    return artifacts


def main() -> int:
    return script_main(__doc__, "analysis.scenario_breakdown", build)


if __name__ == "__main__":
    run_main(main)
