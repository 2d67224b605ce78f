"""The causal test of "the gain comes from lower-layer MLPs": put groups of weights back, measure what is left of the gain.

For each group of tensors (MLP and attention of the lower, middle and upper layers; and all that lies outside: embeddings, head,
norms) two models are made and measured on the test environments:
- `restore`: the trained model with the group's weights put back to the start. What of the gain is lost?
- `only`: the start with the group's weights taken from the trained model. What of the gain is there already?
Lower are the layers of the claim, 0 to 2 (permutation_test.lower_count); middle and upper are the halves of the rest, which in a deep
model hold many more weights: that the lower ones lead them is the harder to show. Shares need not add up to 1: groups work together. This goes beyond the paper, which reads the claim off a heat map (section 5).

Inputs:  RUN/start/, RUN/train/<algorithm>/epoch<k>/checkpoint/, RUN/environments/test.jsonl; the evaluation's settings are
         those of RUN/eval/<policy>/configuration.json.
Outputs: RUN/restore/<policy>/<mode>-<group>/results.jsonl (resumable; the mixed weights are deleted again), and
         RUN/analysis/restore_layers.{csv,txt,png,svg}.

Example: python -m analysis.restore_layers outputs/cpu --policy grpo
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from analysis.checkpoints.mixed_checkpoint import write_mixed
from analysis.checkpoints.permutation_test import layers_text, lower_count
from analysis.checkpoints.tensors import block_of, checkpoint_tensors, layer_of
from analysis.figures.artifact import Artifact
from analysis.figures.style import figure_style, new_figure, policy_style
from analysis.run_data.intervals import EMPTY, Row, estimate_row, mean_estimate, paired_difference, statistics_of_totals
from analysis.run_data.run_folder import Missing, Run, policy_label, read_json
from env_construction.environment.jsonl import BadInput, file_sha256, keep_configuration, read_jsonl, run_main
from eval.environments import evaluate
from eval.statistics.estimates import Estimate
from eval.suites.results import case_values
from eval.suites.suite import SAMPLING
from train.policies.identity import checkpoint_identity
from train.policies.specs import load_policy
from train.stages.faults import fault_rows, rows_faults_text

DEPTHS = ("lower", "middle", "upper")
GROUPS = (*(f"{depth} {block}" for block in ("MLP", "attention") for depth in DEPTHS), "rest")
MODES = ("restore", "only")
_MODE_LABELS = {
    "restore": "lost when the group is put back to the start",
    "only": "there when only the group is trained",
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


def measure(run: Run, policy: str, limit: int | None = None, batch_size: int = 64) -> None:
    """Make and evaluate every mixture of a policy that has no complete results yet. Raises BadInput without checkpoints."""
    start, trained = run.checkpoint("start"), run.checkpoint(policy)
    if start is None or trained is None:
        raise BadInput(f"{run.path}: no checkpoint of {policy if start else 'start'!r}; restore_layers needs both")
    environments = list(run.environments("test").values())[:limit]
    if not environments:
        raise BadInput(f"{run.path / 'environments' / 'test.jsonl'}: no such file, or empty")
    evaluated = run.path / "eval" / policy / "configuration.json"
    settings = read_json(evaluated) if evaluated.is_file() else {}
    layers = 1 + max((layer for name in checkpoint_tensors(start) if (layer := layer_of(name)) is not None), default=-1)
    contents = {
        "start_content": checkpoint_identity(start),
        "trained_content": checkpoint_identity(trained),
        "lower_layers": lower_count(layers),
        "environments_sha256": file_sha256(run.path / "environments" / "test.jsonl"),
    }
    work = [(mode, group) for mode in MODES for group in GROUPS]
    for mode, group in tqdm(work, desc=f"mixtures of {policy}", unit="model", disable=None):
        out = run.path / "restore" / policy / folder_name(mode, group)
        configuration = {name: settings.get(name) for name in (*SAMPLING, "max_turns", "match")}
        configuration |= contents | {"mode": mode, "group": group, "environments": len(environments)}
        keep_configuration(out, configuration, may_grow=("environments",))
        if (out / "results.jsonl").is_file() and sum(1 for _ in read_jsonl(out / "results.jsonl")) >= len(environments):
            continue
        weights = out / "weights"
        write_mixed(start, trained, weights, chooser(mode, group, layers))
        chosen = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
        seed = int(settings.get("seed") or 0)
        model = load_policy(f"hf:{weights}", batch_size=batch_size, **chosen)
        evaluate(
            model,
            environments,
            out,
            seed=seed,
            max_turns=int(settings.get("max_turns") or 20),
            match=settings.get("match") or "published",
        )
        shutil.rmtree(weights)


def share_of_gain(start: Sequence[Row], trained: Sequence[Row], mixed: Sequence[Row], mode: str) -> Estimate:
    """Share of the gain in Solve-F1 that a mixture carries (`only`) or loses (`restore`), over cases that all three have."""
    values = [
        {case: sum(v) / len(v) for case, v in case_values(rows, "solve_f1").items()} for rows in (start, trained, mixed)
    ]
    shared = values[0].keys() & values[1].keys() & values[2].keys()
    groups = {case: np.array([column[case] for column in values]) for case in shared}

    def share(means: np.ndarray) -> np.ndarray:
        before, after, between = means.T
        part = between - before if mode == "only" else after - between
        return np.divide(part, after - before, out=np.full_like(part, np.nan), where=np.abs(after - before) > 1e-9)[
            :, None
        ]

    found = statistics_of_totals(groups, share) if groups else []
    return found[0] if found else EMPTY


def policy_rows(run: Run, policy: str) -> list[dict[str, Any]]:
    """One row per mode and group that was measured, with the policy's whole gain beside it.

    `lead` (mode `only`) is the paired difference in Solve-F1 to the best other group: the claim that one group
    carries most of the gain stands if its interval lies above 0.
    """
    start, trained = run.rows("start"), run.rows(policy)
    gain = estimate_row("gain", paired_difference(trained, start, "solve_f1"))
    rows: list[dict[str, Any]] = []
    lower = _measured_lower_layers(run, policy)
    for mode in MODES:
        measured: dict[str, list[dict[str, Any]]] = {}
        for group in GROUPS:
            path = run.path / "restore" / policy / folder_name(mode, group) / "results.jsonl"
            if path.is_file():
                measured[group] = [row for _, row in read_jsonl(path, required=("id",))]
        means = {group: mean_estimate(mixed, "solve_f1") for group, mixed in measured.items()}
        for group, mixed in measured.items():
            row: dict[str, Any] = {"policy": policy, "mode": mode, "group": group, "lower_layers": lower}
            row |= estimate_row("solve_f1", means[group])
            row |= estimate_row("minus_start", paired_difference(mixed, start, "solve_f1"))
            row |= estimate_row("minus_trained", paired_difference(mixed, trained, "solve_f1"))
            row |= estimate_row("share", share_of_gain(start, trained, mixed, mode))
            others = [name for name in measured if name != group]
            if mode == "only" and others:
                best = max(others, key=lambda name: means[name].value or 0.0)
                row |= estimate_row("lead", paired_difference(mixed, measured[best], "solve_f1"))
            rows.append(row | gain)
    return rows


def _mixtures_faults_text(run: Run, policies: Sequence[str]) -> str:
    """What the evaluation of each mixture lost to faults, as Run.faults_text says it."""
    said = ""
    for policy in policies:
        for file in sorted((run.path / "restore" / policy).glob("*/results.jsonl")):
            rows = [row for _, row in read_jsonl(file, required=("id",))]
            if text := rows_faults_text([*rows, *fault_rows(file.parent, rows)]):
                said += f"{policy_label(policy)}, {file.parent.name}: {text}. "
    return said


def _measured_lower_layers(run: Run, policy: str) -> int | None:
    """How many layers the measured mixtures call lower; None where they do not say, as before that was recorded."""
    files = sorted((run.path / "restore" / policy).glob("*/configuration.json"))
    found = {read_json(file).get("lower_layers") for file in files}
    return found.pop() if len(found) == 1 else None


def build(run: Run) -> list[Artifact]:
    """From the mixtures measured so far. Raises Missing when there are none."""
    rows = [row for policy in run.need_trained() for row in policy_rows(run, policy)]
    if not rows:
        raise Missing(f"no mixture was measured; `python -m analysis.restore_layers {run.path}` does it")
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    gains = {policy: paired_difference(run.rows(policy), run.rows("start"), "solve_f1") for policy in policies}
    weak = [policy for policy, gain in gains.items() if gain.low is None or gain.low <= 0]
    warning = (
        f"The gain of {', '.join(policy_label(policy) for policy in weak)} is not significant, so its shares mean little. "
        if weak
        else ""
    )
    lower = {row["lower_layers"] for row in rows} - {None}
    depth = f"Lower: {layers_text(lower.pop())}; middle and upper: halves of the rest. " if len(lower) == 1 else ""
    caption = (
        f"Which weights carry the gain: share of the gain in Solve-F1 that is lost when a group's weights are put back to the start (restore), and that is there when only "
        f"that group is taken from the trained model (only). Intervals are drawn from −300% to 400% and are whole in the CSV. n = {min(row['solve_f1_n'] for row in rows)} test environments, 95% intervals over cases (paired ratio). "
        f"{depth}{warning}Shares need not add up to 1. {run.faults_text()}{_mixtures_faults_text(run, policies)}Source: restore/<policy>/<mode>-<group>/results.jsonl."
    )
    return [Artifact("restore_layers", "Which weights carry the gain", caption, rows, _figure(rows, policies, gains))]


def _figure(rows: list[dict[str, Any]], policies: list[str], gains: Mapping[str, Estimate]) -> Any:
    # Ratios of a small gain can be huge; what lies outside these limits is in the CSV.
    ends = [100 * row[key] for row in rows for key in ("share_low", "share_high") if row[key] is not None]
    limits = (max(-300, min([-20, *ends])) - 8, min(400, max([120, *ends])) + 8)
    figure, axes_list = new_figure(1, len(policies), width=5.2 * len(policies), height=4.0, share_y=True)
    with figure_style():
        for axes, policy in zip(axes_list, policies, strict=True):
            for mode, shift, style in zip(MODES, (0.17, -0.17), ("reinforce++", "grpo"), strict=True):
                chosen = [
                    row for row in rows if (row["policy"], row["mode"]) == (policy, mode) and row["share"] is not None
                ]
                colour, mark, _ = policy_style(style)
                y = [-GROUPS.index(row["group"]) + shift for row in chosen]
                axes.plot([100 * row["share"] for row in chosen], y, mark, color=colour, label=_MODE_LABELS[mode])
                for place, row in zip(y, chosen, strict=True):
                    if row["share_low"] is None:
                        continue
                    axes.plot(
                        [100 * row["share_low"], 100 * row["share_high"]], [place, place], color=colour, linewidth=1.3
                    )
            axes.axvline(0, color="black", linewidth=0.8)
            axes.axvline(100, color="black", linewidth=0.8, linestyle=":")
            gain = gains[policy]
            title = policy_label(policy) + (
                f" (gain {gain.value:+.3f})".replace("-", "−") if gain.value is not None else ""
            )
            axes.set(title=title, xlabel="share of the gain in Solve-F1 (%)", xlim=limits)
        axes_list[0].set_yticks([-place for place in range(len(GROUPS))], GROUPS)
        columns = min(2, len(policies))  # one panel is too narrow for both entries side by side
        figure.legend(*axes_list[0].get_legend_handles_labels(), loc="outside upper center", ncols=columns)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m analysis.restore_layers",
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--policy", action="append", help="which trained policy (default: all); may be given again")
    parser.add_argument("--limit", type=int, help="only the first N test environments")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, help="where to write (default: RUN/analysis)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    try:
        for policy in arguments.policy or run.need_trained():
            run.need("start", policy)
            measure(run, policy, arguments.limit, arguments.batch_size)
        artifacts = build(run)
    except Missing as missing:
        raise BadInput(str(missing)) from None
    for artifact in artifacts:
        print(
            f"{artifact.title}: wrote {', '.join(str(path) for path in artifact.write(arguments.out or run.path / 'analysis'))}"
        )
    return 0


if __name__ == "__main__":
    run_main(main)
