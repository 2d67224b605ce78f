"""Causal test by weight: restore the most changed, least changed or random weights and measure the remaining gain.

All elements of the model are ranked by |new - old| / (|old| + 1e-8). The top, bottom or random k percent are restored
to the start (ParamRestore, arXiv 2509.16596). If the most changed weights carry the gain, restoring the top loses more
than restoring as many random ones. `lower_mlp_share` is the share of the restored elements that are in the MLPs of the
lowest layers, the subject of the paper's claim. `lower_mlp_of_all` is that share among all elements.

Inputs:  RUN/policies.json, the checkpoints of a policy and of its start, RUN/environments/test.jsonl. The evaluation
         settings are those of RUN/eval/<policy>/configuration.json.
Outputs: RUN/restore/<policy>/elements-<order>-<percent>/results.jsonl (resumable; the mixed weights are deleted
         afterwards), and RUN/analysis/restore_elements.{csv,txt,png,svg,pdf}.
Paper:   section 5; this is the test of the authors' companion code, not of the paper.

Example: python -m analysis.restore_elements outputs/cpu --policy grpo
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from analysis.checkpoints.element_ranks import ORDERS, select
from analysis.checkpoints.mixed_checkpoint import paired_tensors, write_elementwise
from analysis.checkpoints.permutation_test import lower_count
from analysis.checkpoints.restoration import measure_mixtures, mixture_rows, share_of_gain
from analysis.checkpoints.tensors import block_of, layer_of
from analysis.figures.artifact import Artifact, caption_text
from analysis.figures.style import GREY, figure_style, interval_bars, panel_grid, role_style, shared_legend
from analysis.restore_layers import layer_count, restore_main, restored_policies, weak_gain_text
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.labels import METRICS
from analysis.run_data.run_folder import NotPlanned, Run, read_json
from env_construction.environment.jsonl import run_main

PERCENTS = (5, 20)
COUNTS = "elements.json"


def folder_name(order: str, percent: int) -> str:
    return f"elements-{order}-{percent}"


class ElementWriter:
    """Writes one mixture, and a file with the number of restored elements and their share in the lower MLPs."""

    def __init__(self, order: str, percent: int) -> None:
        self.order, self.percent = order, percent

    def __call__(self, start: Path, trained: Path, out: Path) -> None:
        chosen = select(paired_tensors(start, trained), self.order, self.percent / 100)
        lower = lower_count(layer_count(start))
        counts = dict.fromkeys(("elements", "put_back", "put_back_changed", "lower_mlp", "put_back_lower_mlp"), 0)

        def put_back(name: str, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
            mask = chosen.mask(name, before, after)
            layer = layer_of(name)
            inside = block_of(name) == "MLP" and layer is not None and layer < lower
            counts["elements"] += mask.numel()
            counts["put_back"] += int(mask.sum())
            counts["put_back_changed"] += int((mask & (before != after)).sum())
            counts["lower_mlp"] += mask.numel() * inside
            counts["put_back_lower_mlp"] += int(mask.sum()) * inside
            return mask

        write_elementwise(start, trained, out, put_back)
        (out.parent / COUNTS).write_text(json.dumps(counts) + "\n", encoding="utf-8")


def measure(
    run: Run, policy: str, limit: int | None = None, batch_size: int = 64, part: tuple[int, int] = (1, 1)
) -> None:
    """Write and evaluate the mixtures of a policy without complete results. Raises BadInput without checkpoints."""
    mixtures = {
        folder_name(order, percent): (ElementWriter(order, percent), {"order": order, "percent": percent})
        for percent in PERCENTS
        for order in ORDERS
    }
    measure_mixtures(run, policy, mixtures, limit, batch_size, part)


def policy_rows(run: Run, policy: str) -> list[dict[str, Any]]:
    """One row per measured mixture. `random_minus` is the loss in Solve-F1 beyond that of as many random weights."""
    start, trained = run.rows(run.roles[policy].start), run.rows(policy)
    gain = estimate_row("gain", paired_difference(trained, start, "solve_f1"))
    rows: list[dict[str, Any]] = []
    for percent in PERCENTS:
        random = mixture_rows(run, policy, folder_name("random", percent))
        for order in ORDERS:
            mixed = mixture_rows(run, policy, folder_name(order, percent))
            if not mixed:
                continue
            row: dict[str, Any] = {"policy": policy, "label": run.label(policy), "percent": percent, "order": order}
            for metric in METRICS:
                row |= estimate_row(metric, mean_estimate(mixed, metric))
            row |= estimate_row("share_lost", share_of_gain(start, trained, mixed, lost=True))
            if order != "random" and random:
                row |= estimate_row("random_minus", paired_difference(random, mixed, "solve_f1"))
            rows.append(row | _places(run.path / "restore" / policy / folder_name(order, percent) / COUNTS) | gain)
    return rows


def _places(path: Path) -> dict[str, float]:
    counts = read_json(path)
    return {
        "put_back_changed": counts["put_back_changed"] / max(1, counts["put_back"]),
        "lower_mlp_share": counts["put_back_lower_mlp"] / max(1, counts["put_back"]),
        "lower_mlp_of_all": counts["lower_mlp"] / max(1, counts["elements"]),
    }


def build(run: Run) -> list[Artifact]:
    """From the mixtures measured so far. Raises NotPlanned when there are none."""
    rows = [row for policy in restored_policies(run) for row in policy_rows(run, policy)]
    if not rows:
        raise NotPlanned(f"no mixture was measured; run `python -m analysis.restore_elements {run.path}`")
    caption = caption_text("restore_elements", n=min(row["solve_f1_n"] for row in rows))
    note = weak_gain_text(run, rows) + caption_text("elements_note") + " " + run.faults_text()
    title = "Do the weights that changed most carry the gain?"
    return [Artifact("restore_elements", title, caption, rows, _figure(run, rows), note=note)]


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    """One panel per policy: Solve-F1 after restoring, by order; filled marks show the larger share."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    figure, axes_list = panel_grid(len(policies), 3, 2.1, share_x=True, share_y=True)
    with figure_style():
        for axes, policy in zip(axes_list, policies, strict=True):
            color, mark, _ = role_style(run.roles[policy])
            for percent, shift in zip(PERCENTS, (-0.1, 0.1), strict=True):
                chosen = [row for row in rows if (row["policy"], row["percent"]) == (policy, percent)]
                x = [ORDERS.index(row["order"]) + shift for row in chosen]
                values = [row["solve_f1"] for row in chosen]
                face = color if percent == PERCENTS[-1] else "white"
                axes.plot(x, values, mark, color=color, markerfacecolor=face)
                lows, highs = [row["solve_f1_low"] for row in chosen], [row["solve_f1_high"] for row in chosen]
                interval_bars(axes, x, values, lows, highs, color)
            for name, style in ((run.roles[policy].start, ":"), (policy, "-")):
                height = mean_estimate(run.rows(name), "solve_f1").value
                if height is not None:
                    label = f"{'trained' if style == '-' else 'start'}, nothing restored"
                    axes.axhline(height, color=GREY, linewidth=1, linestyle=style, label=label)
            axes.set_xticks(range(len(ORDERS)), ORDERS)
            axes.set_title(run.label(policy).replace(": ", ":\n"), fontsize=9)
        for percent in PERCENTS:
            face = GREY if percent == PERCENTS[-1] else "white"
            axes_list[0].plot([], [], "o", color=GREY, markerfacecolor=face, label=f"{percent}% restored")
        axes_list[0].set_ylabel("Solve-F1 (mean)")
        shared_legend(figure, axes_list, columns=2)
    return figure


def main() -> int:
    return restore_main(__doc__, "analysis.restore_elements", measure, build)


if __name__ == "__main__":
    run_main(main)
