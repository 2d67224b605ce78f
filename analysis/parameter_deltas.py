"""Where training changed the weights: by layer and module kind, beside the error of rounding.

Inputs:  two checkpoint folders (safetensors, sharded or not; the trained one may be a LoRA adapter). Tensors are
         streamed in small pieces, never a whole model, nor even a whole tensor, in memory.
Outputs: in --out, parameter_deltas.csv (one row per layer and module kind), parameter_tensors.csv (one row per tensor;
         what is missing, extra, reshaped or of a type without numbers has its own status; a head tied to the embeddings
         counts once, as embeddings), parameter_tests.csv (exact permutation tests of
         "lower-layer MLP changes most"), heat maps {png,svg,pdf} and captions. `--spectral` adds the stable rank of
         each change. Of a run, each trained policy is compared with its own start.
Measures: relative Frobenius norm ||new - old|| / ||old||; the elementwise mean of |new - old| / (|old| + 1e-8), which
         the first author's companion code takes; the share of weights that changed. They can disagree: the second is
         ruled by weights near zero.
Reading: stored weights change by whole units in the last place. Below about three times the column `rounding_floor` the
         stored change overstates the true one (analysis.checkpoints.tensor_change says by how much).
Paper:   section 5 and its heat map of parameter changes (claim: the MLPs of layers 0 to 2 change most).

Example: python -m analysis.parameter_deltas --base outputs/cpu/start --trained outputs/cpu/train/grpo/epoch2/checkpoint \\
    --out outputs/cpu/analysis
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.checkpoints.lora_change import compare_update, is_adapter, lora_updates
from analysis.checkpoints.permutation_test import PermutationResult, lower_mlp_tests
from analysis.checkpoints.stable_rank import stable_rank
from analysis.checkpoints.tensor_change import ROUNDING_MATTERS, Sums, comparable, compare_tensors, total
from analysis.checkpoints.tensors import (
    KINDS,
    StoredTensor,
    block_of,
    checkpoint_tensors,
    kind_of,
    layer_of,
    tie_embeddings,
    without_tied_head,
)
from analysis.figures.artifact import Artifact, caption_text
from analysis.figures.delta_figure import MEASURES, delta_figure
from analysis.run_data.run_folder import Missing, Run
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main


@dataclass(frozen=True)
class TensorDelta:
    """One tensor's change. `status` is `compared`, or says why there are no sums."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    status: str
    sums: Sums | None = None
    stable_rank: float | None = None


def _refusal(base: StoredTensor | None, trained: StoredTensor | None) -> str | None:
    """Why two tensors cannot be compared, None if they can."""
    if base is None:
        return "extra in the trained checkpoint"
    if trained is None:
        return "missing in the trained checkpoint"
    if base.shape != trained.shape:
        return f"reshaped: {list(base.shape)} to {list(trained.shape)}"
    if not (comparable(base.dtype) and comparable(trained.dtype)):
        return f"not compared: types {base.dtype} and {trained.dtype}"
    return None


def compare_checkpoints(base_folder: Path, trained_folder: Path, spectral: bool = False) -> list[TensorDelta]:
    """Every tensor of either checkpoint, sorted by name. Raises BadInput for a folder that is no checkpoint."""
    base = without_tied_head(checkpoint_tensors(base_folder), base_folder)
    size = sum(tensor.bytes for tensor in base.values())
    bar = tqdm(total=2 * size, unit="B", unit_scale=True, desc="compare", disable=None, leave=False)
    with bar:
        if is_adapter(trained_folder):
            return _compare_adapter(base, trained_folder, bar.update)
        trained = without_tied_head(checkpoint_tensors(trained_folder), trained_folder)
        base, trained = tie_embeddings(base, trained)
        refusals = {name: _refusal(base.get(name), trained.get(name)) for name in sorted(base.keys() | trained.keys())}
        names = [name for name, refusal in refusals.items() if refusal is None]
        sums = dict(
            zip(names, compare_tensors([(base[n], trained[n]) for n in names], on_bytes=bar.update), strict=True)
        )
    deltas = []
    for name, refusal in tqdm(refusals.items(), desc="spectrum", disable=not spectral, leave=False):
        known = base.get(name) or trained[name]
        if refusal is not None:
            deltas.append(TensorDelta(name, known.dtype, known.shape, refusal))
            continue
        rank = stable_rank(base[name], trained[name], sums[name].change_squared) if spectral else None
        finite = sums[name].relative == sums[name].relative
        status = "compared" if finite else "not finite: NaN or infinity in one of them"
        deltas.append(TensorDelta(name, _types(base[name], trained[name]), known.shape, status, sums[name], rank))
    return deltas


def _types(base: StoredTensor, trained: StoredTensor) -> str:
    return base.dtype if base.dtype == trained.dtype else f"{base.dtype} and {trained.dtype}"


def _compare_adapter(base: dict[str, StoredTensor], folder: Path, on_bytes: Callable[[int], Any]) -> list[TensorDelta]:
    updates, unknown = lora_updates(folder, base)
    targets = {update.target: update for update in updates}
    deltas = [TensorDelta(name, "", (), "in the adapter, but fits no base tensor") for name in unknown]
    for name, tensor in base.items():
        if name not in targets:
            deltas.append(TensorDelta(name, tensor.dtype, tensor.shape, "frozen: not in the adapter"))
        elif tensor.dtype not in ("BF16", "F16", "F32"):
            deltas.append(TensorDelta(name, tensor.dtype, tensor.shape, f"not compared: type {tensor.dtype}"))
        else:
            sums = compare_update(tensor, targets[name], on_bytes)
            deltas.append(TensorDelta(name, tensor.dtype, tensor.shape, "compared", sums))
    return sorted(deltas, key=lambda delta: delta.name)


def grouped(deltas: list[TensorDelta], group_of: Callable[[str], Any]) -> dict[Any, Sums]:
    """Sums of all compared tensors by group; the relative change of a group is that of its tensors laid end to end."""
    parts: dict[Any, list[Sums]] = {}
    for delta in deltas:
        if delta.sums is not None and delta.status == "compared":
            parts.setdefault(group_of(delta.name), []).append(delta.sums)
    return {group: total(found) for group, found in parts.items()}


def sums_row(sums: Sums) -> dict[str, Any]:
    """The columns of a table: the three measures, the mean absolute change, and the size of a rounding error
    (`rounding_floor`).
    """
    return {
        "elements": sums.elements,
        "relative_change": sums.relative,
        "elementwise_change": sums.elementwise,
        "rounding_floor": sums.rounding_floor,
        "change_over_floor": sums.relative / sums.rounding_floor if sums.rounding_floor else None,
        "mean_absolute_change": sums.mean_absolute,
        "changed_share": sums.changed_share,
    }


def claim_tests(deltas: list[TensorDelta]) -> list[PermutationResult]:
    """The exact tests of the paper's claim on each layer's MLP and attention, in each measure."""
    cells = grouped(deltas, lambda name: (layer_of(name), block_of(name)))
    tests = []
    for measure, label in MEASURES.items():
        mlp, attention = (
            {
                layer: getattr(sums, measure)
                for (layer, found), sums in cells.items()
                if found == block and layer is not None
            }
            for block in ("MLP", "attention")
        )
        tests += lower_mlp_tests(mlp, attention, label)
    return tests


def delta_artifacts(
    base: Path, trained: Path, suffix: str = "", label: str = "", spectral: bool = False
) -> list[Artifact]:
    """Heat maps with table, tests, and the list of tensors, for one pair of checkpoints."""
    deltas = compare_checkpoints(base, trained, spectral)
    if not any(delta.status == "compared" for delta in deltas):
        raise BadInput(f"{base} and {trained} have no tensor in common that can be compared")
    cells = grouped(deltas, lambda name: (layer_of(name), kind_of(name)))
    order = sorted(cells, key=lambda cell: (cell[0] is None, cell[0] or 0, KINDS.index(cell[1])))
    rows = [{"layer": layer, "kind": kind} | sums_row(cells[layer, kind]) for layer, kind in order]
    blocks = grouped(deltas, block_of)
    rows += [{"layer": "all", "kind": block} | sums_row(sums) for block, sums in sorted(blocks.items())]
    tests = claim_tests(deltas)
    odd = [delta for delta in deltas if delta.status != "compared"]
    compared = [delta for delta in deltas if delta.status == "compared" and delta.sums is not None]
    everything = total([delta.sums for delta in compared if delta.sums is not None])
    types = ", ".join(sorted({delta.dtype for delta in compared}))
    caption = caption_text("parameter_deltas", relative=everything.relative, changed=everything.changed_share)
    note = (
        f"n = {len(compared)} tensors with {everything.elements:,} elements stored as {types}. {_rounding_sentence(everything, list(cells.values()))}"
        f"{_odd_sentence(odd)}{caption_text('deltas_note')} Source: {base.name}/ and {trained.name}/ (safetensors)."
    )
    tensor_rows = [_tensor_row(delta, spectral) for delta in deltas]
    test_rows = [
        {
            "test": test.name,
            "measure": test.measure,
            "lower_layers": test.lower_layers,
            "cells": test.cells,
            "difference": test.difference,
            "p_value": test.p_value,
            "smallest_possible_p": test.smallest_p,
            "can_be_significant": test.can_be_significant,
        }
        for test in tests
    ]
    title = "Where the weights changed" + (f": {label}" if label else "")
    artifacts = [
        Artifact(f"parameter_deltas{suffix}", title, caption, rows, delta_figure(cells), note=note),
        Artifact(
            f"parameter_tensors{suffix}",
            title + ", by tensor",
            caption_text("parameter_tensors", n=len(deltas)),
            tensor_rows,
        ),
    ]
    if test_rows:
        sentences = "; ".join(test.sentence() for test in tests)
        tests_caption = caption_text("parameter_tests", n=tests[0].cells)
        tests_title = title + ", tests of the claim"
        artifacts.append(
            Artifact(f"parameter_tests{suffix}", tests_title, tests_caption, test_rows, note=sentences + ".")
        )
    return artifacts


def _rounding_sentence(everything: Sums, cells: list[Sums]) -> str:
    """What rounding to the stored type does to the changes shown; empty where they are far above it."""
    near = sum(0 < cell.relative < ROUNDING_MATTERS * cell.rounding_floor for cell in cells)
    if not near:
        return ""
    return (
        f"In {near} of {len(cells)} cells the change is below {ROUNDING_MATTERS} times the rounding error of the stored type ({everything.rounding_floor:.2e} over all): there it overstates "
        "the true change (far below the error it is about the root of true change times unit in the last place) and mostly shows which weights sat near a rounding boundary. "
    )


def _odd_sentence(odd: list[TensorDelta]) -> str:
    if not odd:
        return ""
    named = "; ".join(f"{delta.name} ({delta.status})" for delta in odd[:4])
    more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
    return f"Not compared: {named}{more}. "


def _tensor_row(delta: TensorDelta, spectral: bool) -> dict[str, Any]:
    shape = "x".join(str(size) for size in delta.shape)
    row: dict[str, Any] = {
        "tensor": delta.name,
        "status": delta.status,
        "layer": layer_of(delta.name),
        "kind": kind_of(delta.name),
        "dtype": delta.dtype,
        "shape": shape,
    }
    if delta.sums is not None:
        row |= sums_row(delta.sums)
    if spectral:
        row["stable_rank"] = delta.stable_rank
    return row


def build(run: Run) -> list[Artifact]:
    """Every policy that was trained (controls too) against its own start. Raises Missing without two checkpoints."""
    names = [name for name in dict.fromkeys([*run.epochs, *run.policies]) if run.roles[name].start]
    pairs = {name: (run.checkpoint(run.roles[name].start), run.checkpoint(name)) for name in names}
    artifacts = []
    for name, (start, trained) in pairs.items():
        if start is not None and trained is not None:
            artifacts += delta_artifacts(start, trained, suffix=f"_{name}", label=run.label(name))
    if not artifacts:
        raise Missing(
            "no pair of checkpoints is there: the start and train/<policy>/epoch<k>/checkpoint/ with *.safetensors"
        )
    return artifacts


def main() -> int:
    parser = ScriptParser(__doc__, "python -m analysis.parameter_deltas")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint folder before training")
    parser.add_argument("--trained", type=Path, required=True, help="checkpoint or LoRA adapter folder after training")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--spectral", action="store_true", help="also the stable rank of each change (slow)")
    arguments = parser.parse_args()
    for artifact in delta_artifacts(arguments.base, arguments.trained, spectral=arguments.spectral):
        print(f"{artifact.title}: wrote {', '.join(str(path) for path in artifact.write(arguments.out))}")
        print(f"  {artifact.caption} {artifact.note}")
    return 0


if __name__ == "__main__":
    run_main(main)
