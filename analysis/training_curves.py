"""Training curves: reward, KL, response length, truncation and faults per step, and the prompts per epoch.

Inputs:  RUN/train/<policy>/epoch<k>/train_log.jsonl (one row per step: `step`, `epoch`, and metrics with the trainer's
         names) and prompts.summary.json.
Outputs: RUN/analysis/training_curves.{csv,txt,png,svg,pdf}. The table has every series. For a run with one model and
         mode, the figure has one panel for each series that changes. For a run with several, it has one row of panels
         per model and mode, with the three series in SELECTED.
Paper:   section 4.4 (training dynamics).

Example: python -m analysis.training_curves outputs/cpu
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.figures.style import figure_style, panel_grid, role_style, shared_legend
from analysis.run_data.run_folder import Missing, Run
from env_construction.environment.jsonl import run_main

# Series -> its possible names in the log, of which the first match is used. The names are those of OpenRLHF 0.11.2 and
# of the reward's logs (reward/openrlhf_reward.py). `true_reward` comes first because a control is trained on another
# reward, and the curve should show the one that the policy would have earned.
SERIES: dict[str, tuple[str, ...]] = {
    "reward": ("true_reward", "reward", "rewards", "reward_mean"),
    "calls per turn": ("p",),
    "solved per turn": ("q",),
    "final answers (share)": ("kind_answer",),
    "malformed (share)": ("kind_malformed",),
    "empty (share)": ("kind_empty",),
    "KL to the epoch's start": ("kl", "kl_loss"),
    "response length (tokens)": ("response_length", "response_lengths"),
    "truncated (share)": ("truncated", "truncated_rate", "response_clip_ratio"),
    "reward faults (share)": ("fault", "faults"),
    "reward spread (s.d.)": ("group_reward_std",),
    "policy loss": ("policy_loss", "act_loss"),
    "entropy (nats per token)": ("entropy_loss", "entropy"),
    "sandbox time (ms per response)": ("sandbox_ms",),
}


SELECTED = ("reward", "calls per turn", "KL to the epoch's start")
NOT_DRAWN = (
    "sandbox time (ms per response)",
    "reward faults (share)",
    "policy loss",
)  # They describe the machine and the optimizer, not the policy's behavior.


def series_value(row: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """The value of the first of `names` that is a number in a log row. A prefix such as `train/` is ignored."""
    short = {str(key).rsplit("/", 1)[-1]: value for key, value in row.items()}
    for name in names:
        value = row.get(name, short.get(name))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def step_rows(run: Run, policy: str) -> list[dict[str, Any]]:
    """All steps of a policy's training, numbered across epochs: `policy`, `epoch`, `step`, one column per series."""
    rows: list[dict[str, Any]] = []
    for epoch in run.epochs.get(policy, []):
        for found in epoch.log():
            row: dict[str, Any] = {
                "policy": policy,
                "label": run.label(policy),
                "epoch": epoch.number,
                "step": len(rows) + 1,
            }
            row |= {label: series_value(found, names) for label, names in SERIES.items()}
            rows.append(row)
    return rows


def running_mean(values: list[float], window: int) -> list[float]:
    """Mean of the last `window` values at each position, or of all values so far if there are fewer."""
    return [
        sum(values[max(0, i + 1 - window) : i + 1]) / len(values[max(0, i + 1 - window) : i + 1])
        for i in range(len(values))
    ]


def build(run: Run) -> list[Artifact]:
    """Raises Missing when no epoch has a log with a known metric."""
    logs = {policy: rows for policy in run.epochs if (rows := step_rows(run, policy))}
    changing = [label for label in SERIES if _changes([row[label] for rows in logs.values() for row in rows])]
    if not changing:
        raise Missing("train/<policy>/epoch<k>/train_log.jsonl does not exist or has none of the known metrics")
    steps = sorted({len(rows) for rows in logs.values()})
    caption = caption_text(
        "training_curves", policies=len(logs), steps=" to ".join(map(str, (steps[0], steps[-1])[: len(steps)]))
    )
    note = caption_text("curves_note", prompts=_prompts_text(run, list(logs)))
    every = [row for rows in logs.values() for row in rows]
    return [Artifact("training_curves", "Training curves", caption, every, _figure(run, logs, changing), note=note)]


def _changes(values: list[float | None]) -> bool:
    """Whether a series has more than one distinct value."""
    return len({value for value in values if value is not None}) > 1


def _prompts_text(run: Run, policies: list[str]) -> str:
    said = []
    for policy in policies:
        for epoch in run.epochs[policy]:
            summary = epoch.prompts_summary()
            kept = next((value for key, value in summary.items() if key in ("prompts", "kept", "written", "n")), None)
            if kept is not None:
                said.append(f"{run.label(policy)} epoch {epoch.number}: {kept}")
    return "; ".join(said)


def _figure(run: Run, logs: dict[str, list[dict[str, Any]]], changing: list[str]) -> Any:
    groups: dict[str, list[str]] = {}
    for policy in logs:
        groups.setdefault(run.roles[policy].start, []).append(policy)
    if len(groups) > 1:
        panels = [(start, label) for start in groups for label in SELECTED if label in changing]
    else:
        panels = [
            (start, label) for start in groups for label in changing if label not in NOT_DRAWN or len(changing) < 2
        ]
    figure, axes_list = panel_grid(len(panels), 3, 1.75)
    with figure_style():
        for axes, (start, label) in zip(axes_list, panels, strict=True):
            for policy in groups[start]:
                _draw(run, axes, policy, logs[policy], label)
            head = run.start_label(start) if len(groups) > 1 else ""
            axes.set_title(f"{head}:\n{label}" if head else label, fontsize=9)
            if label.endswith("(share)"):
                axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
        figure.supxlabel("training step", fontsize=10)
        shared_legend(figure, axes_list)
    return figure


def _draw(run: Run, axes: Any, policy: str, rows: list[dict[str, Any]], label: str) -> None:
    points = [(row["step"], row[label]) for row in rows if row[label] is not None]
    if not points:
        return
    color, mark, _ = role_style(run.roles[policy])
    steps, values = [p[0] for p in points], [p[1] for p in points]
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    smooth = running_mean(values, max(1, len(values) // 12))
    axes.plot(steps, smooth, color=color, marker=mark, markevery=max(1, len(steps) // 6), label=run.method(policy))
    for before, row in pairwise(rows):
        if before["epoch"] != row["epoch"]:
            axes.axvline(row["step"] - 0.5, color="#BBBBBB", linestyle=":", linewidth=1.0)


def main() -> int:
    return script_main(__doc__, "analysis.training_curves", build)


if __name__ == "__main__":
    run_main(main)
