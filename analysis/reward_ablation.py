"""The four rewards side by side: Solve-F1 (the paper's) against Solve-P, Solve-R and Solve-PR.

Inputs:  RUN/eval/<algorithm>[-solve-precision|-solve-recall|-solve-pr]/results.jsonl and the same names under RUN/train/.
Outputs: RUN/analysis/reward_ablation.{csv,txt,png,svg}: precision against recall, calls per episode, and how calls and
         solved sub-questions a turn develop over training.
Paper:   section 4.3 (ablation of the reward).

Example: python -m analysis.reward_ablation outputs/cpu
"""

from __future__ import annotations

from typing import Any

from analysis.figures.artifact import Artifact, script_main
from analysis.figures.style import MARKS, PALETTE, figure_style, interval_bars, new_figure
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.run_folder import ABLATIONS, Missing, Run, policy_label
from analysis.training_curves import running_mean, step_rows
from env_construction.environment.jsonl import run_main

METRICS = ("solve_p", "solve_r", "solve_f1", "calls", "answer_correct")
_FULL = "Solve-F1 (paper)"
LABELS = {name: label.removesuffix(" reward") for name, label in ABLATIONS.items()}


def variants(run: Run) -> dict[str, dict[str, str]]:
    """Per algorithm: `{reward's label: policy}`, the full reward first; algorithms with at least one ablation."""
    found = {}
    for base in run.trained:
        others = {LABELS[name]: f"{base}-{name}" for name in ABLATIONS if f"{base}-{name}" in run.policies}
        if others:
            found[base] = {_FULL: base} | others
    return found


def build(run: Run) -> list[Artifact]:
    """Raises Missing unless an algorithm was trained with a second reward."""
    found = variants(run)
    if not found:
        wanted = ", ".join(f"eval/grpo-{name}" for name in ABLATIONS)
        raise Missing(f"no policy trained with another reward was evaluated ({wanted})")
    rows = []
    for base, policies in found.items():
        for label, policy in policies.items():
            row: dict[str, Any] = {"algorithm": base, "reward": label, "policy": policy}
            for metric in METRICS:
                row |= estimate_row(metric, mean_estimate(run.rows(policy), metric))
                if policy != base:
                    row |= estimate_row(
                        f"{metric}_minus_full", paired_difference(run.rows(policy), run.rows(base), metric)
                    )
            rows.append(row)
    n = rows[0]["solve_f1_n"]
    caption = (
        f"Policies trained with the four rewards, measured on the same n = {n} test environments: precision against recall, calls per episode, and, over the RL "
        "steps, calls (p) and solved sub-questions (q) a turn. Whiskers: 95% intervals over cases; paired differences to the full reward are in the CSV. "
        f"Curves: one run each, running mean, no interval. {run.faults_text()}Source: eval/<policy>/results.jsonl, train/<policy>/epoch<k>/train_log.jsonl."
    )
    return [Artifact("reward_ablation", "The four rewards", caption, rows, _figure(run, rows))]


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    figure, (scatter, calls, p_axes, q_axes) = new_figure(2, 2, width=9.6, height=6.6)
    rewards = [_FULL, *LABELS.values()]
    with figure_style():
        for place, row in enumerate(rows):
            index = rewards.index(row["reward"])
            colour, mark = PALETTE[index], MARKS[index]
            label = row["reward"] + (
                "" if len({r["algorithm"] for r in rows}) == 1 else f", {policy_label(row['algorithm'])}"
            )
            face = colour if row["algorithm"] == rows[0]["algorithm"] else "none"
            scatter.plot(
                row["solve_r"], row["solve_p"], mark, color=colour, markerfacecolor=face, markersize=8, label=label
            )
            interval_bars(
                scatter, [row["solve_r"]], [row["solve_p"]], [row["solve_p_low"]], [row["solve_p_high"]], colour
            )
            reach = [[row["solve_r"] - row["solve_r_low"]], [row["solve_r_high"] - row["solve_r"]]]
            scatter.errorbar(
                [row["solve_r"]], [row["solve_p"]], xerr=reach, fmt="none", ecolor=colour, elinewidth=1.1, capsize=2.5
            )
            calls.plot(place, row["calls"], mark, color=colour, markerfacecolor=face, markersize=8)
            interval_bars(calls, [place], [row["calls"]], [row["calls_low"]], [row["calls_high"]], colour)
            logged = step_rows(run, row["policy"])
            for axes, series in ((p_axes, "calls a turn (p)"), (q_axes, "solved a turn (q)")):
                points = [(item["step"], item[series]) for item in logged if item[series] is not None]
                if points:
                    smooth = running_mean([value for _, value in points], max(1, len(points) // 10))
                    axes.plot(
                        [step for step, _ in points],
                        smooth,
                        color=colour,
                        marker=mark,
                        markevery=max(1, len(points) // 6),
                    )
        scatter.set(xlabel="Solve-R (recall)", ylabel="Solve-P (precision)", xlim=(0, 1.03), ylim=(0, 1.03))
        calls.set_xticks(
            range(len(rows)),
            [f"{row['reward'].removesuffix(' (paper)')}\n{policy_label(row['algorithm'])}" for row in rows],
            fontsize=8,
        )
        calls.set(ylabel="calls per episode", xlim=(-0.5, len(rows) - 0.5))
        calls.set_ylim(bottom=0)
        p_axes.set(xlabel="RL step", ylabel="calls a turn (p)")
        q_axes.set(xlabel="RL step", ylabel="solved a turn (q)")
        figure.legend(*scatter.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def main() -> int:
    return script_main(__doc__, "analysis.reward_ablation", build)


if __name__ == "__main__":
    run_main(main)
