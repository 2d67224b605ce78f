"""Thinking against plain mode: scores by scenario, and tokens spent per solved sub-question.

Inputs:  pairs of policies on the same test environments: `<policy>` and `<policy>-thinking` in one run's eval/, or full
         experiment names, `<model>-plain-<algorithm>` and `<model>-thinking-<algorithm>`.
Outputs: RUN/analysis/thinking_modes.{csv,txt,png,svg}.
Paper:   Table 2, reasoning against non-reasoning rows (claim: thinking is not reliably better at tool use).

Example: python -m analysis.thinking_modes outputs/qwen3-8b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.figures.artifact import Artifact, script_main
from analysis.figures.style import figure_style, interval_bars, new_figure, policy_style
from analysis.run_data.intervals import EMPTY, Row, estimate_row, mean_estimate, paired_difference, statistics_of_totals
from analysis.run_data.run_folder import SCENARIO_LABELS, Missing, Run, policy_label
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS
from eval.statistics.estimates import Estimate

METRICS = ("solve_p", "solve_r", "solve_f1", "answer_correct")
MODES = ("plain", "thinking")


def mode_pairs(run: Run) -> list[tuple[str, str, str]]:
    """`(name, plain policy, thinking policy)` of every pair in the run."""
    pairs = []
    for policy in run.policies:
        if policy.endswith("-thinking") and policy.removesuffix("-thinking") in run.policies:
            pairs.append((policy.removesuffix("-thinking"), policy.removesuffix("-thinking"), policy))
        elif "-thinking-" in policy and policy.replace("-thinking-", "-plain-") in run.policies:
            pairs.append((policy.replace("-thinking-", "-"), policy.replace("-thinking-", "-plain-"), policy))
    return pairs


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
        raise Missing("no policy was evaluated in both modes (a tiny policy has no thinking mode)")
    rows = []
    for name, plain, thinking in pairs:
        for scope in (None, *SCENARIOS):
            both = [
                [row for row in run.rows(policy) if scope in (None, row.get("scenario"))]
                for policy in (plain, thinking)
            ]
            if not all(both):
                continue
            row: dict[str, Any] = {"policy": name, "scope": scope or "all"}
            for metric in METRICS:
                for mode, found in zip(MODES, both, strict=True):
                    row |= estimate_row(f"{metric}_{mode}", mean_estimate(found, metric))
                row |= estimate_row(f"{metric}_thinking_minus_plain", paired_difference(both[1], both[0], metric))
            for mode, found in zip(MODES, both, strict=True):
                row |= estimate_row(f"tokens_per_solved_{mode}", tokens_per_solved(found))
            rows.append(row)
    n = rows[0]["solve_f1_plain_n"]
    caption = (
        f"Thinking against plain mode on the same n = {n} test environments: Solve-F1 by scenario, and completion tokens spent per solved sub-question. Whiskers: "
        f"95% intervals over cases; paired differences are in the CSV. {run.faults_text()}Source: eval/<policy>/results.jsonl."
    )
    return [Artifact("thinking_modes", "Thinking against plain mode", caption, rows, _figure(rows))]


def _figure(rows: list[dict[str, Any]]) -> Any:
    names = list(dict.fromkeys(row["policy"] for row in rows))
    figure, axes_list = new_figure(len(names), 2, width=9.6, height=3.2 * len(names))
    with figure_style():
        for index, name in enumerate(names):
            chosen = [row for row in rows if row["policy"] == name]
            labels = [SCENARIO_LABELS.get(row["scope"], "All").replace(" ", "\n") for row in chosen]
            for axes, metric in zip(
                axes_list[2 * index : 2 * index + 2], ("solve_f1", "tokens_per_solved"), strict=True
            ):
                for mode, shift, style in zip(MODES, (-0.19, 0.19), ("grpo", "reinforce++"), strict=True):
                    colour, _, hatch = policy_style(style)
                    x = [place + shift for place in range(len(chosen))]
                    values = [row[f"{metric}_{mode}"] for row in chosen]
                    heights = [0.0 if value is None else value for value in values]
                    axes.bar(x, heights, 0.36, color=colour, hatch=hatch, edgecolor="white", label=mode)
                    lows, highs = ([row[f"{metric}_{mode}_{end}"] for row in chosen] for end in ("low", "high"))
                    interval_bars(axes, x, values, lows, highs, "#333333")
                axes.set_xticks(range(len(chosen)), labels, fontsize=8)
                axes.set_ylabel("Solve-F1" if metric == "solve_f1" else "tokens per solved sub-question")
                axes.set_title(policy_label(name))
                axes.grid(axis="x", visible=False)
        figure.legend(*axes_list[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.thinking_modes", build)


if __name__ == "__main__":
    run_main(main)
