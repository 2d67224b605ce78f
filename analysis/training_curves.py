"""Training curves: reward, KL, response length, truncation and faults per step, and the prompts of each epoch.

Inputs:  RUN/train/<algorithm>/epoch<k>/train_log.jsonl (one row a step: `step`, `epoch`, and the trainer's metrics under
         its own names) and prompts_summary.json.
Outputs: RUN/analysis/training_curves.{csv,txt,png,svg}.
Paper:   section 4.4 (training dynamics).

Example: python -m analysis.training_curves outputs/cpu
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from analysis.figures.artifact import Artifact, script_main
from analysis.figures.style import figure_style, new_figure, policy_style
from analysis.run_data.run_folder import Missing, Run, policy_label
from env_construction.environment.jsonl import run_main

# What is drawn -> the names it may have in the log; the first that is there is taken. Names are those of OpenRLHF 0.11.2 and of
# the reward's own logs (reward/openrlhf_reward.py). `true_reward` comes first: of a control it is what the policy would have earned.
SERIES: dict[str, tuple[str, ...]] = {
    "reward": ("true_reward", "reward", "rewards", "reward_mean"),
    "calls a turn (p)": ("p",),
    "solved a turn (q)": ("q",),
    "turns with final answer (share)": ("kind_answer",),
    "turns malformed (share)": ("kind_malformed",),
    "turns empty (share)": ("kind_empty",),
    "KL to the start of the epoch": ("kl", "kl_loss"),
    "response length (tokens)": ("response_length", "response_lengths"),
    "responses cut off (share)": ("truncated", "truncated_rate", "response_clip_ratio"),
    "reward faults (share)": ("fault", "faults"),
    "spread of reward in a group (s.d.)": ("group_reward_std",),
    "policy loss": ("policy_loss", "act_loss"),
    "entropy (nats a token)": ("entropy_loss", "entropy"),
    "sandbox time a response (ms)": ("sandbox_ms",),
}


def series_value(row: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """The first of `names` in a log row that holds a number; a prefix such as `train/` does not matter."""
    short = {str(key).rsplit("/", 1)[-1]: value for key, value in row.items()}
    for name in names:
        value = row.get(name, short.get(name))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def step_rows(run: Run, algorithm: str) -> list[dict[str, Any]]:
    """All steps of an algorithm, numbered on over the epochs: `algorithm`, `epoch`, `step`, then one column per series."""
    rows: list[dict[str, Any]] = []
    for epoch in run.epochs.get(algorithm, []):
        for found in epoch.log():
            row: dict[str, Any] = {"algorithm": algorithm, "epoch": epoch.number, "step": len(rows) + 1}
            row |= {label: series_value(found, names) for label, names in SERIES.items()}
            rows.append(row)
    return rows


def running_mean(values: list[float], window: int) -> list[float]:
    """Mean of the last `window` values at each position (fewer at the beginning)."""
    return [
        sum(values[max(0, i + 1 - window) : i + 1]) / len(values[max(0, i + 1 - window) : i + 1])
        for i in range(len(values))
    ]


def build(run: Run) -> list[Artifact]:
    """Raises Missing when no epoch has a log with a known metric."""
    logs = {algorithm: step_rows(run, algorithm) for algorithm in run.epochs}
    logs = {algorithm: rows for algorithm, rows in logs.items() if rows}
    shown = [label for label in SERIES if any(row[label] is not None for rows in logs.values() for row in rows)]
    if not shown:
        raise Missing("train/<algorithm>/epoch<k>/train_log.jsonl is not there, or holds none of the known metrics")
    lines = (len(shown) + 1) // 2
    figure, axes_list = new_figure(lines, 2, width=9.6, height=2.5 * lines + 0.5)
    with figure_style():
        for axes, label in zip(axes_list, shown, strict=False):
            for index, (algorithm, rows) in enumerate(logs.items()):
                colour, mark, _ = policy_style(algorithm, index)
                points = [(row["step"], row[label]) for row in rows if row[label] is not None]
                if not points:
                    continue
                steps, values = [p[0] for p in points], [p[1] for p in points]
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                smooth = running_mean(values, max(1, len(values) // 12))
                axes.plot(
                    steps,
                    smooth,
                    color=colour,
                    marker=mark,
                    markevery=max(1, len(steps) // 8),
                    label=policy_label(algorithm),
                )
            axes.set(title=label, xlabel="RL step")
            if label.endswith("(share)"):
                axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
        for axes in axes_list[len(shown) :]:
            axes.set_visible(False)
        for rows in logs.values():
            starts = [row["step"] for before, row in pairwise(rows) if before["epoch"] != row["epoch"]]
            for axes in axes_list[: len(shown)]:
                for start in starts:
                    axes.axvline(start - 0.5, color="#BBBBBB", linestyle=":", linewidth=1.0)
        handles = {
            label: handle for axes in axes_list for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4)
    counts = ", ".join(
        f"{policy_label(name)} {len(rows)} steps in {len(run.epochs[name])} epochs" for name, rows in logs.items()
    )
    prompts = []
    for algorithm in logs:
        for epoch in run.epochs[algorithm]:
            kept = next(
                (value for key, value in epoch.prompts_summary().items() if key in ("prompts", "kept", "written", "n")),
                None,
            )
            if kept is not None:
                prompts.append(f"{policy_label(algorithm)} epoch {epoch.number}: {kept}")
    caption = (
        f"Training as the trainer logged it: {counts}. Thin lines are single steps (one batch of samples), thick lines the running mean over a twelfth of the "
        "steps; dotted lines mark a new epoch, in which prompts are collected afresh. No interval: each line is one run with one seed; the test of the result is the "
        f"paired difference in the results table. Of a control, the true reward is drawn, which it is not trained on. {'Prompts: ' + '; '.join(prompts) + '. ' if prompts else ''}Source: train/<algorithm>/epoch<k>/train_log.jsonl."
    )
    return [
        Artifact("training_curves", "Training curves", caption, [row for rows in logs.values() for row in rows], figure)
    ]


def main() -> int:
    return script_main(__doc__, "analysis.training_curves", build)


if __name__ == "__main__":
    run_main(main)
