"""Compare the four rewards: Solve-F1 (the paper's), Solve-P, Solve-R and Solve-PR.

Inputs:  RUN/policies.json and RUN/eval/<policy>/results.jsonl of policies that differ only in the reward variant.
Outputs: RUN/analysis/reward_ablation.{csv,txt,png,svg,pdf}: Solve-F1, answer accuracy and calls; the table adds Solve-P
         and Solve-R. training_curves shows how calls and solved sub-questions change during training.
Paper:   section 4.3 (ablation of the reward).

Example: python -m analysis.reward_ablation outputs/cpu
"""

from __future__ import annotations

from typing import Any

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import figure_style, new_figure, role_style
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.labels import METRICS, OWN_REWARDS, REWARDS
from analysis.run_data.run_folder import Missing, NotPlanned, Run
from env_construction.environment.jsonl import run_main

DRAWN = ("solve_f1", "answer_correct", "calls")


def variants(run: Run) -> dict[str, dict[str, str]]:
    """`{policy with the paper's reward: {variant: its ablation}}` of every policy with at least one ablation."""
    found = {}
    for base in run.trained:
        others = {run.roles[name].variant: name for name in run.same_but(base, "variant")}
        if others:
            found[base] = {variant: others[variant] for variant in (*REWARDS, *OWN_REWARDS) if variant in others}
    return found


def build(run: Run) -> list[Artifact]:
    """Raises Missing unless an algorithm was trained with a second reward."""
    found = variants(run)
    if not found:
        names = " ".join(f"-{name}" for name in ("solve-precision", "solve-recall", "solve-pr"))
        reason = f"no policy was trained with another reward (experiments in train.experiments that end in {names})"
        raise Missing(reason) if run.planned("variant") else NotPlanned(reason)
    rows = []
    for base, others in found.items():
        for variant, policy in ({"solve_f1": base} | others).items():
            row: dict[str, Any] = {"base": base, "policy": policy, "label": run.label(policy)}
            row["reward"] = (REWARDS | OWN_REWARDS)[variant].removesuffix(" reward")
            for metric in METRICS:
                row |= estimate_row(metric, mean_estimate(run.rows(policy), metric))
                if policy != base:
                    gap = paired_difference(run.rows(policy), run.rows(base), metric)
                    row |= estimate_row(f"{metric}_minus_full", gap)
            rows.append(row)
    caption = caption_text("reward_ablation", n=rows[0]["solve_f1_n"])
    note = caption_text("reward_note") + " " + run.faults_text()
    return [Artifact("reward_ablation", "Comparison of rewards", caption, rows, _figure(run, rows), note=note)]


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    figure, axes_list = new_figure(1, len(DRAWN), height=1.0 + 0.3 * len(rows), share_y=True)
    labels = [row["label"] if row["policy"] != row["base"] else f"{row['label']}, Solve-F1 reward" for row in rows]
    with figure_style():
        for axes, metric in zip(axes_list, DRAWN, strict=True):
            for index, row in enumerate(rows):
                if row[metric] is None:
                    continue
                color, mark, _ = role_style(run.roles[row["policy"]])
                axes.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [-index, -index], color=color, linewidth=1.6)
                axes.plot(row[metric], -index, mark, color=color)
            axes.set_xlabel(METRICS[metric].replace(" ", "\n", 1))
            axes.grid(axis="y", visible=False)
            axes.set_xlim(0, None if metric == "calls" else 1.04)
        axes_list[0].set_yticks([-index for index in range(len(rows))], labels)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.reward_ablation", build)


if __name__ == "__main__":
    run_main(main)
