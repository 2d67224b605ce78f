"""Thinking against plain mode: scores by scenario, and tokens spent per solved sub-question.

Inputs:  RUN/policies.json and RUN/eval/<policy>/results.jsonl. A pair is two policies that differ in the mode alone:
         the untrained model in both modes, and what each algorithm made of it in both modes, on the same test
         environments.
Outputs: RUN/analysis/thinking_modes.{csv,txt,png,svg,pdf}.
Paper:   Table 2, reasoning against non-reasoning rows (claim: thinking is not reliably better at tool use).

Example: python -m analysis.thinking_modes outputs/qwen3-8b
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import GREY, figure_style, new_figure, role_style, shared_legend
from analysis.run_data.intervals import EMPTY, Row, estimate_row, mean_estimate, paired_difference, statistics_of_totals
from analysis.run_data.labels import METRICS, policy_label
from analysis.run_data.run_folder import Missing, NotPlanned, Run
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS
from eval.statistics.estimates import Estimate

MODES = ("plain", "thinking")


def mode_pairs(run: Run) -> list[tuple[str, str]]:
    """`(plain policy, thinking policy)` of every pair in the run."""
    plain = [name for name in run.policies if run.roles[name].mode == "plain"]
    return [
        (name, other) for name in plain for other in run.same_but(name, "mode") if run.roles[other].mode == "thinking"
    ]


def pair_label(run: Run, policy: str) -> str:
    """What both policies of a pair are: their label without the mode."""
    roles = {name: replace(role, mode="") for name, role in run.roles.items()}
    return policy_label(roles[policy], roles)


def tokens_per_solved(rows: Sequence[Row]) -> Estimate:
    """Completion tokens of all episodes divided by sub-questions solved in them."""
    groups: dict[str, np.ndarray] = {}
    for row in rows:
        spent = np.array([float(row.get("completion_tokens") or 0), float(row.get("solved") or 0)])
        groups[str(row["id"])] = groups.get(str(row["id"]), np.zeros(2)) + spent

    def ratio(totals: np.ndarray) -> np.ndarray:
        tokens, solved = totals[:, :1], totals[:, 1:]
        return np.divide(tokens, solved, out=np.full_like(tokens, np.nan), where=solved > 0)

    found = statistics_of_totals(groups, ratio)
    return found[0] if found else EMPTY


def build(run: Run) -> list[Artifact]:
    """Raises Missing without a policy that was measured in both modes."""
    pairs = mode_pairs(run)
    if not pairs:
        reason = "no policy was evaluated in both modes, plain and thinking"
        raise Missing(reason) if run.planned("mode") else NotPlanned(reason)
    rows = []
    for plain, thinking in pairs:
        for scope in (None, *SCENARIOS):
            both = [
                [row for row in run.rows(policy) if scope in (None, row.get("scenario"))]
                for policy in (plain, thinking)
            ]
            if not all(both):
                continue
            row: dict[str, Any] = {"policy": plain, "thinking_policy": thinking, "label": pair_label(run, plain)}
            row |= {"trained": bool(run.roles[plain].algorithm), "scope": scope or "all"}
            for metric in METRICS:
                for mode, found in zip(MODES, both, strict=True):
                    row |= estimate_row(f"{metric}_{mode}", mean_estimate(found, metric))
                row |= estimate_row(f"{metric}_thinking_minus_plain", paired_difference(both[1], both[0], metric))
            for mode, found in zip(MODES, both, strict=True):
                row |= estimate_row(f"tokens_per_solved_{mode}", tokens_per_solved(found))
            rows.append(row)
    caption = caption_text("thinking_modes", n=rows[0]["solve_f1_thinking_minus_plain_n"])
    note = caption_text("thinking_note") + " " + run.faults_text()
    return [Artifact("thinking_modes", "Does thinking help?", caption, rows, _figure(run, rows), note=note)]


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    overall = [row for row in rows if row["scope"] == "all"]
    figure, axes_list = new_figure(1, 3, height=1.3 + 0.3 * len(overall), share_y=True)
    with figure_style():
        for index, row in enumerate(overall):
            color, mark, _ = role_style(run.roles[row["policy"]])
            for axes, metric in zip(axes_list, ("solve_f1", "answer_correct"), strict=False):
                gap = f"{metric}_thinking_minus_plain"
                if row[gap] is not None:
                    axes.plot([row[f"{gap}_low"], row[f"{gap}_high"]], [-index, -index], color=color, linewidth=1.6)
                    axes.plot(row[gap], -index, mark, color=color)
            for mode in MODES:
                value = row[f"tokens_per_solved_{mode}"]
                if value is not None:
                    face = color if mode == "thinking" else "white"
                    axes_list[2].plot(value, -index, mark, color=color, markerfacecolor=face)
        for axes, label in zip(axes_list, ("Solve-F1", "answer accuracy"), strict=False):
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_xlabel(f"{label},\nthinking − plain")
        axes_list[2].set_xlabel("tokens per solved\nsub-question")
        axes_list[2].set_xlim(left=0)
        for mode, face in (("plain", "white"), ("thinking", GREY)):
            axes_list[2].plot([], [], "o", color=GREY, markerfacecolor=face, label=f"{mode} (tokens)")
        for axes in axes_list:
            axes.grid(axis="y", visible=False)
        axes_list[0].set_yticks([-index for index in range(len(overall))], [row["label"] for row in overall])
        axes_list[0].set_ylim(0.6 - len(overall), 0.6)
        shared_legend(figure, axes_list)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.thinking_modes", build)


if __name__ == "__main__":
    run_main(main)
