"""The causal test of "the gain comes from lower-layer MLPs": put groups of weights back, measure what is left of the
gain.

For each group of tensors (MLP and attention of the lower, middle and upper layers; and all that lies outside:
embeddings, head, norms) two models are made and measured on the test environments:
- `restore`: the trained model with the group's weights put back to the start. What of the gain is lost?
- `only`: the start with the group's weights taken from the trained model. What of the gain is there already?
Lower are the layers of the claim, 0 to 2 (permutation_test.lower_count); middle and upper are the halves of the rest,
which in a deep model hold many more weights: that the lower ones lead them is the harder to show. Shares need not add
up to 1: groups work together. This goes beyond the paper, which reads the claim off a heat map (section 5).
analysis.restore_elements is the other causal test.

Inputs:  RUN/policies.json, the checkpoints of a policy and of its start, RUN/environments/test.jsonl; the evaluation's
         settings are those of RUN/eval/<policy>/configuration.json.
Outputs: RUN/restore/<policy>/<mode>-<group>/results.jsonl (resumable; the mixed weights are deleted again), and
         RUN/analysis/restore_layers.{csv,txt,png,svg,pdf}.

Example: python -m analysis.restore_layers outputs/cpu --policy grpo
"""

from __future__ import annotations

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
from analysis.figures.style import GREY, figure_style, new_figure, role_style, shared_legend
from analysis.run_data.intervals import estimate_row, mean_estimate, paired_difference
from analysis.run_data.labels import METRICS
from analysis.run_data.run_folder import Missing, NotPlanned, Run, read_json
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main

DEPTHS = ("lower", "middle", "upper")
GROUPS = (*(f"{depth} {block}" for block in ("MLP", "attention") for depth in DEPTHS), "rest")
MODES = ("restore", "only")
_MODE_LABELS = {
    "restore": "lost when the group is put back",
    "only": "there with the group alone",
}


def group_of(name: str, layers: int) -> str:
    """The group that a tensor belongs to, one of GROUPS, in a model of `layers` layers."""
    layer, block = layer_of(name), block_of(name)
    if layer is None or block not in ("MLP", "attention"):
        return "rest"
    lower = lower_count(layers)
    parts = [np.arange(lower), *np.array_split(np.arange(lower, layers), len(DEPTHS) - 1)]
    depth = next(depth for depth, part in zip(DEPTHS, parts, strict=True) if layer in part)
    return f"{depth} {block}"


def chooser(mode: str, group: str, layers: int) -> Callable[[str], bool]:
    """Which tensors of a mixture come from the trained model."""
    return lambda name: (group_of(name, layers) == group) == (mode == "only")


def folder_name(mode: str, group: str) -> str:
    return f"{mode}-{group.replace(' ', '-').lower()}"


def layer_count(folder: Path) -> int:
    """How many transformer layers a checkpoint has."""
    return 1 + max((layer for name in checkpoint_tensors(folder) if (layer := layer_of(name)) is not None), default=-1)


def measure(run: Run, policy: str, limit: int | None = None, batch_size: int = 64) -> None:
    """Make and evaluate every mixture of a policy that has no complete results yet. Raises BadInput without
    checkpoints.
    """
    layers = layer_count(checkpoints(run, policy)[0])
    mixtures = {
        folder_name(mode, group): (
            partial(write_mixed, from_trained=chooser(mode, group, layers)),
            {"mode": mode, "group": group, "lower_layers": lower_count(layers)},
        )
        for mode in MODES
        for group in GROUPS
    }
    measure_mixtures(run, policy, mixtures, limit, batch_size)


def policy_rows(run: Run, policy: str) -> list[dict[str, Any]]:
    """One row per mode and group that was measured, with the policy's whole gain beside it.

    `lead` (mode `only`) is the paired difference in Solve-F1 to the best other group: the claim that one group
    carries most of the gain stands if its interval lies above 0.
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
    """How many layers the measured mixtures call lower; None where they do not say, as before that was recorded."""
    files = sorted((run.path / "restore" / policy).glob("*/configuration.json"))
    found = {settings["lower_layers"] for file in files if (settings := read_json(file)).get("lower_layers")}
    return found.pop() if len(found) == 1 else None


def restored_policies(run: Run) -> list[str]:
    """The trained policies beside their starts, repeats with other seeds left out. Raises Missing."""
    return [policy for policies in run.compared().values() for policy in policies]


def weak_gain_text(run: Run, rows: list[dict[str, Any]]) -> str:
    """Which policies have no gain to attribute; empty where all have one."""
    weak = {row["label"] for row in rows if row["gain_low"] is None or row["gain_low"] <= 0}
    return f"The gain of {', '.join(sorted(weak))} is not significant, so its shares mean little. " if weak else ""


def build(run: Run) -> list[Artifact]:
    """From the mixtures measured so far. Raises NotPlanned when there are none."""
    rows = [row for policy in restored_policies(run) for row in policy_rows(run, policy)]
    if not rows:
        raise NotPlanned(f"no mixture was measured; `python -m analysis.restore_layers {run.path}` does it")
    lower = {row["lower_layers"] for row in rows} - {None}
    depth = f"Lower: {layers_text(lower.pop())}; middle and upper: halves of the rest. " if len(lower) == 1 else ""
    caption = caption_text("restore_layers", n=min(row["solve_f1_n"] for row in rows))
    note = depth + weak_gain_text(run, rows) + caption_text("restore_note") + " " + run.faults_text()
    return [Artifact("restore_layers", "Which weights carry the gain", caption, rows, _figure(run, rows), note=note)]


def _figure(run: Run, rows: list[dict[str, Any]]) -> Any:
    # Ratios of a small gain can be huge; what lies outside these limits is in the table.
    ends = [100 * row[key] for row in rows for key in ("share_low", "share_high") if row[key] is not None]
    limits = (max(-300, min([-20, *ends])) - 8, min(400, max([120, *ends])) + 8)
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    columns = min(2, len(policies))
    lines = -(-len(policies) // columns)
    figure, axes_list = new_figure(lines, columns, height=0.9 + 2.6 * lines, share_x=True, share_y=True)
    with figure_style():
        for axes, policy in zip(axes_list, policies, strict=False):
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
        for axes in axes_list[len(policies) :]:
            axes.set_visible(False)
        for mode in MODES:
            face = GREY if mode == "only" else "white"
            axes_list[0].plot([], [], "o", color=GREY, markerfacecolor=face, label=_MODE_LABELS[mode])
        axes_list[0].set_yticks([-place for place in range(len(GROUPS))], GROUPS)
        figure.supxlabel("share of the gain in Solve-F1 (%)", fontsize=10)
        shared_legend(figure, axes_list, columns=2)
    return figure


def restore_main(
    docstring: str | None, module: str, measure_one: Callable[..., None], build_all: Callable[[Run], list[Artifact]]
) -> int:
    """The command line of both causal tests: measure what is not measured yet, then draw."""
    parser = ScriptParser(docstring, f"python -m {module}")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--policy", action="append", help="which trained policy (default: all); may be given again")
    parser.add_argument("--limit", type=int, help="only the first N test environments")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, help="where to write (default: RUN/analysis)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    try:
        there = restored_policies(run)
        for policy in arguments.policy or there:
            if policy not in there:
                raise BadInput(f"--policy {policy}: expected a trained policy of the run: {', '.join(there)}")
            measure_one(run, policy, arguments.limit, arguments.batch_size)
        artifacts = build_all(run)
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
