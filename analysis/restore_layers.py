"""Causal test by layer: restore groups of weights to the start and measure how much of the gain remains.

It tests the claim that the gain comes from lower-layer MLPs. The groups of tensors are the MLP and the attention of the
lower, middle and upper layers, and all other tensors (embeddings, head, norms). For each group, two mixed models are
written and evaluated on the test environments:
- `restore`: the trained model with the group's weights restored to the start. How much of the gain is lost?
- `only`: the start with the group's weights from the trained model. How much of the gain does it have?
The lower layers are those of the claim, 0 to 2 (permutation_test.lower_count). The middle and upper layers are the two
halves of the remaining layers. In a deep model they hold many more weights, which makes a lead of the lower layers
harder to show. Shares need not add up to 1 because groups interact. This test goes beyond the paper, which bases the
claim on a heat map (section 5). analysis.restore_elements is the other causal test.

Inputs:  RUN/policies.json, the checkpoints of a policy and of its start, RUN/environments/test.jsonl. The evaluation
         settings are those of RUN/eval/<policy>/configuration.json.
Outputs: RUN/restore/<policy>/<mode>-<group>/results.jsonl (resumable; the mixed weights are deleted afterwards), and
         RUN/analysis/restore_layers.{csv,txt,png,svg,pdf}.

Example: python -m analysis.restore_layers outputs/cpu --policy grpo
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.checkpoints.mixed_checkpoint import write_mixed
from analysis.checkpoints.permutation_test import layers_text, lower_count
from analysis.checkpoints.restoration import checkpoints, measure_mixtures, mixture_rows, share_of_gain
from analysis.checkpoints.tensors import block_of, checkpoint_tensors, layer_of
from analysis.figures.artifact import Artifact, caption_text
from analysis.figures.style import GREY, figure_style, panel_grid, role_style, shared_legend
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.labels import METRICS
from analysis.run_data.run_folder import Missing, NotPlanned, Run, read_json
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main

DEPTHS = ("lower", "middle", "upper")
GROUPS = (*(f"{depth} {block}" for block in ("MLP", "attention") for depth in DEPTHS), "rest")
MODES = ("restore", "only")
_MODE_LABELS = {
    "restore": "lost if the group is restored",
    "only": "kept with only the group trained",
}


def group_of(name: str, layers: int) -> str:
    """The group of a tensor, one of GROUPS, in a model with `layers` layers."""
    layer, block = layer_of(name), block_of(name)
    if layer is None or block not in ("MLP", "attention"):
        return "rest"
    lower = lower_count(layers)
    parts = [np.arange(lower), *np.array_split(np.arange(lower, layers), len(DEPTHS) - 1)]
    depth = next(depth for depth, part in zip(DEPTHS, parts, strict=True) if layer in part)
    return f"{depth} {block}"


def chooser(mode: str, group: str, layers: int) -> Callable[[str], bool]:
    """A predicate for the tensors of a mixture that come from the trained model."""
    return lambda name: (group_of(name, layers) == group) == (mode == "only")


def folder_name(mode: str, group: str) -> str:
    return f"{mode}-{group.replace(' ', '-').lower()}"


def layer_count(folder: Path) -> int:
    """Number of transformer layers of a checkpoint."""
    return 1 + max((layer for name in checkpoint_tensors(folder) if (layer := layer_of(name)) is not None), default=-1)


def measure(
    run: Run, policy: str, limit: int | None = None, batch_size: int = 64, part: tuple[int, int] = (1, 1)
) -> None:
    """Write and evaluate the mixtures of a policy without complete results. Raises BadInput without checkpoints."""
    layers = layer_count(checkpoints(run, policy)[0])
    mixtures = {
        folder_name(mode, group): (
            partial(write_mixed, from_trained=chooser(mode, group, layers)),
            {"mode": mode, "group": group, "lower_layers": lower_count(layers)},
        )
        for mode in MODES
        for group in GROUPS
    }
    measure_mixtures(run, policy, mixtures, limit, batch_size, part)


def policy_rows(run: Run, policy: str) -> list[dict[str, Any]]:
    """One row per measured mode and group, together with the policy's total gain.

    `lead` (mode `only`) is the paired difference in Solve-F1 to the best other group. The claim that one group carries
    most of the gain holds if its interval is above 0.
    """
    start, trained = run.rows(run.roles[policy].start), run.rows(policy)
    gain = estimate_row("gain", paired_difference(trained, start, "solve_f1"))
    rows: list[dict[str, Any]] = []
    lower = _measured_lower_layers(run, policy)
    for mode in MODES:
        measured = {group: mixed for group in GROUPS if (mixed := mixture_rows(run, policy, folder_name(mode, group)))}
        means = {group: mean_estimate(mixed, "solve_f1") for group, mixed in measured.items()}
        for group, mixed in measured.items():
            row: dict[str, Any] = {"policy": policy, "label": run.label(policy), "mode": mode, "group": group}
            row["lower_layers"] = lower
            for metric in METRICS:
                row |= estimate_row(metric, mean_estimate(mixed, metric))
            row |= estimate_row("minus_start", paired_difference(mixed, start, "solve_f1"))
            row |= estimate_row("minus_trained", paired_difference(mixed, trained, "solve_f1"))
            row |= estimate_row("share", share_of_gain(start, trained, mixed, mode == "restore"))
            others = [name for name in measured if name != group]
            if mode == "only" and others:
                best = max(others, key=lambda name: means[name].value or 0.0)
                row |= estimate_row("lead", paired_difference(mixed, measured[best], "solve_f1"))
            rows.append(row | gain)
    return rows


def _measured_lower_layers(run: Run, policy: str) -> int | None:
    """Number of lower layers of the measured mixtures; None if they did not record it, as in older runs."""
    files = sorted((run.path / "restore" / policy).glob("*/configuration.json"))
    found = {settings["lower_layers"] for file in files if (settings := read_json(file)).get("lower_layers")}
    return found.pop() if len(found) == 1 else None


def restored_policies(run: Run) -> list[str]:
    """The trained policies with an evaluated start, without repeats by other seeds. Raises Missing."""
    return [policy for policies in run.compared().values() for policy in policies]


def weak_gain_text(run: Run, rows: list[dict[str, Any]]) -> str:
    """A sentence on policies without a gain to attribute; empty if all have one."""
    weak = {row["label"] for row in rows if row["gain_low"] is None or row["gain_low"] <= 0}
    return f"The gain of {', '.join(sorted(weak))} is not significant, so its shares mean little. " if weak else ""


def build(run: Run) -> list[Artifact]:
    """From the mixtures measured so far. Raises NotPlanned when there are none."""
    rows = [row for policy in restored_policies(run) for row in policy_rows(run, policy)]
    if not rows:
        raise NotPlanned(f"no mixture was measured; run `python -m analysis.restore_layers {run.path}`")
    lower = {row["lower_layers"] for row in rows} - {None}
    depth = ""
    if len(lower) == 1:
        depth = f"Lower: {layers_text(lower.pop())}. Middle and upper: the two halves of the remaining layers. "
    caption = caption_text("restore_layers", n=min(row["solve_f1_n"] for row in rows))
    note = depth + weak_gain_text(run, rows) + caption_text("restore_note") + " " + run.faults_text()
    return [Artifact("restore_layers", "Which weights carry the gain?", caption, rows, _figure(run, rows), note=note)]


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    # Ratios of a small gain can be huge. The table has the values outside these limits.
    ends = [100 * row[key] for row in rows for key in ("share_low", "share_high") if row[key] is not None]
    limits = (max(-300, min([-20, *ends])) - 8, min(400, max([120, *ends])) + 8)
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    figure, axes_list = panel_grid(len(policies), 2, 2.6, share_x=True, share_y=True)
    with figure_style():
        for axes, policy in zip(axes_list, policies, strict=True):
            color, mark, _ = role_style(run.roles[policy])
            for mode, shift in zip(MODES, (0.17, -0.17), strict=True):
                chosen = [
                    row for row in rows if (row["policy"], row["mode"]) == (policy, mode) and row["share"] is not None
                ]
                face = color if mode == "only" else "white"
                for row in chosen:
                    y = -GROUPS.index(row["group"]) + shift
                    if row["share_low"] is not None:
                        axes.plot([100 * row["share_low"], 100 * row["share_high"]], [y, y], color=color, linewidth=1.3)
                    axes.plot(100 * row["share"], y, mark, color=color, markerfacecolor=face)
            for place in (0, 100):
                axes.axvline(place, color=GREY, linewidth=0.8, linestyle=":" if place else "-")
            axes.set_title(run.label(policy).replace(": ", ":\n"))
            axes.set_xlim(limits)
        for mode in MODES:
            face = GREY if mode == "only" else "white"
            axes_list[0].plot([], [], "o", color=GREY, markerfacecolor=face, label=_MODE_LABELS[mode])
        axes_list[0].set_yticks([-place for place in range(len(GROUPS))], GROUPS)
        figure.supxlabel("share of the gain in Solve-F1 (%)", fontsize=10)
        shared_legend(figure, axes_list, columns=2)
    return figure


def _part(text: str) -> tuple[int, int]:
    """An argparse type: `K/N` with 1 <= K <= N."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected K/N such as 1/2, got {text!r}")
    return int(found[1]), int(found[2])


def restore_main(
    docstring: str | None, module: str, measure_one: Callable[..., None], build_all: Callable[[Run], list[Artifact]]
) -> int:
    """Run either causal test: evaluate the mixtures that have no results yet, then draw."""
    parser = ScriptParser(docstring, f"python -m {module}")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--policy", action="append", help="trained policy to test; repeatable (default: all)")
    parser.add_argument("--limit", type=int, help="use only the first N test environments")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="measure mixtures K, K+N, K+2N, ...")
    parser.add_argument("--no-figures", action="store_true", help="only measure; analysis.all draws")
    parser.add_argument("--out", type=Path, help="output folder (default: RUN/analysis)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    try:
        there = restored_policies(run)
        for policy in arguments.policy or there:
            if policy not in there:
                raise BadInput(f"--policy {policy}: expected a trained policy of the run: {', '.join(there)}")
            measure_one(run, policy, arguments.limit, arguments.batch_size, arguments.part)
        artifacts = [] if arguments.no_figures else build_all(run)
    except Missing as missing:
        raise BadInput(str(missing)) from None
    for artifact in artifacts:
        written = artifact.write(arguments.out or run.path / "analysis")
        print(f"{artifact.title}: wrote {', '.join(str(path) for path in written)}")
    return 0


def main() -> int:
    return restore_main(__doc__, "analysis.restore_layers", measure, build)


if __name__ == "__main__":
    run_main(main)
