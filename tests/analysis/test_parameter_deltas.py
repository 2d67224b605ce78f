"""The streamed comparison agrees with an in-memory one and names the tensors that cannot be compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis.checkpoints import tensor_change
from analysis.checkpoints.tensor_change import compare_tensors, total
from analysis.checkpoints.tensors import block_of, checkpoint_tensors, kind_of, layer_of
from analysis.parameter_deltas import claim_tests, compare_checkpoints, delta_artifacts, grouped
from env_construction.environment.jsonl import BadInput

ROOT = Path(__file__).resolve().parents[2]
NAME = "model.layers.0.mlp.up_proj.weight"


def save(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: tensors[name] for name in names[shard::shards]}, folder / file)
        weight_map |= {name: file for name in names[shard::shards]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def model(seed: int, dtype: torch.dtype, layers: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"model.embed_tokens.weight": torch.randn(50, 16, generator=generator)}
    for layer in range(layers):
        tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = torch.randn(16, 16, generator=generator)
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.randn(48, 16, generator=generator)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "types", [("bfloat16",) * 2, ("float16",) * 2, ("float32",) * 2, ("float64",) * 2, ("float32", "bfloat16")]
)
@pytest.mark.parametrize("shards", [1, 2])
def test_streamed_sums_equal_those_of_an_in_memory_comparison(
    tmp_path: Path, types: tuple[str, str], shards: int
) -> None:
    before, after = model(0, getattr(torch, types[0])), model(0, getattr(torch, types[1]))
    moved = model(5, torch.float32)
    for name in after:
        change = 0.05 * moved[name] * (torch.rand(moved[name].shape, generator=torch.Generator().manual_seed(1)) < 0.5)
        after[name] = (after[name].float() + change).to(after[name].dtype)
    base, trained = save(tmp_path / "a", before, shards), save(tmp_path / "b", after, 3 - shards)
    found = {delta.name: delta for delta in compare_checkpoints(base, trained)}
    assert set(found) == set(before)
    for name, delta in found.items():
        x, y = before[name].to(after[name].dtype).double(), after[name].double()  # the base as the trainer stores it
        assert delta.status == "compared" and delta.sums is not None
        assert delta.sums.relative == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-5)
        assert delta.sums.mean_absolute == pytest.approx(float((y - x).abs().mean()), rel=1e-5)
        assert delta.sums.elementwise == pytest.approx(float(((y - x).abs() / (x.abs() + 1e-8)).mean()), rel=1e-4)
        if "float64" not in types:
            assert delta.sums.changed == int((x != y).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_of_higher_precision_that_was_not_trained_is_unchanged(tmp_path: Path, dtype: torch.dtype) -> None:
    edges = torch.tensor([1.00390625, 1.01171875, -1.00390625, 0.0, -0.0, 6e4, 1e-40])  # ties and extremes
    exact = torch.cat([torch.randn(100_000, generator=torch.Generator().manual_seed(3)), edges])
    stored = exact.to(dtype)
    base, trained = save(tmp_path / "a", {NAME: exact}), save(tmp_path / "b", {NAME: stored})
    (delta,) = compare_checkpoints(base, trained)
    assert delta.sums is not None and (delta.sums.changed, delta.sums.change_squared) == (0, 0)


def test_rounding_floor_equals_the_rounding_error_of_unchanged_weights(tmp_path: Path) -> None:
    exact = torch.randn(400, 300, generator=torch.Generator().manual_seed(2)).double()
    rounded = exact.to(torch.bfloat16)
    made = float((rounded.double() - exact).norm() / exact.norm())
    folder = save(tmp_path / "a", {NAME: rounded})
    (delta,) = compare_checkpoints(folder, folder)
    assert delta.sums is not None and delta.sums.relative == 0 and delta.sums.changed == 0
    assert delta.sums.rounding_floor == pytest.approx(made, rel=0.02)


@pytest.mark.parametrize(
    ("true", "stored"), [(1e-5, 1.9e-4), (1e-4, 6.0e-4), (1e-3, 1.93e-3), (3e-3, 3.73e-3), (1e-2, 1.02e-2)]
)
def test_stored_change_below_the_rounding_floor_overstates_the_true_change(
    tmp_path: Path, true: float, stored: float
) -> None:
    generator = torch.Generator().manual_seed(6)
    exact = torch.randn(1000, 1000, generator=generator)
    step = torch.randn(1000, 1000, generator=generator)
    moved = exact + step * (true * exact.norm() / step.norm())
    folders = [save(tmp_path / name, {NAME: value.bfloat16()}) for name, value in (("a", exact), ("b", moved))]
    (delta,) = compare_checkpoints(*folders)
    assert delta.sums is not None and delta.sums.relative == pytest.approx(stored, rel=0.03)
    overstated = delta.sums.relative / true > 1.1
    assert overstated == (delta.sums.relative < tensor_change.ROUNDING_MATTERS * delta.sums.rounding_floor)
    if true < delta.sums.rounding_floor / 10:  # the law in the notes: sqrt(change x ulp), ulp = floor x sqrt(12)
        law = (true * delta.sums.rounding_floor * 12**0.5) ** 0.5
        assert delta.sums.relative == pytest.approx(law, rel=0.25)


@pytest.mark.parametrize(("change", "said"), [(1e-4, True), (0.1, False)])
def test_note_warns_of_changes_that_rounding_overstates(tmp_path: Path, change: float, said: bool) -> None:
    before, moved = model(0, torch.bfloat16), model(5, torch.float32)
    after = {name: (value.float() + change * moved[name]).bfloat16() for name, value in before.items()}
    artifacts = delta_artifacts(save(tmp_path / "a", before), save(tmp_path / "b", after))
    assert ("cells the change is below 3 times the rounding error" in artifacts[0].note) == said
    assert "cannot be seen" not in artifacts[0].caption


def test_result_does_not_depend_on_threads_or_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_change, "PIECE", 1000)
    base = checkpoint_tensors(save(tmp_path / "a", model(0, torch.bfloat16), 2))
    trained = checkpoint_tensors(save(tmp_path / "b", model(1, torch.bfloat16)))
    pairs = [(base[name], trained[name]) for name in base]
    assert compare_tensors(pairs, threads=1) == compare_tensors(pairs, threads=3)


def test_every_tensor_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    before, after = model(0, torch.float32), model(0, torch.float32)
    after["model.layers.0.extra.bias"] = torch.zeros(3)
    del after["model.layers.1.mlp.up_proj.weight"]
    after["model.embed_tokens.weight"] = torch.zeros(60, 16)
    after[NAME] = after[NAME].clone()
    after[NAME][0, 0] = float("nan")
    before["counter"] = after["counter"] = torch.zeros(2, dtype=torch.int64)
    after["counter"] = after["counter"].clone()
    found = {d.name: d.status for d in compare_checkpoints(save(tmp_path / "a", before), save(tmp_path / "b", after))}
    assert found["model.layers.0.extra.bias"] == "extra in the trained checkpoint"
    assert found["model.layers.1.mlp.up_proj.weight"] == "missing in the trained checkpoint"
    assert found["model.embed_tokens.weight"] == "reshaped: [50, 16] to [60, 16]"
    assert found[NAME].startswith("not finite")
    assert found["counter"] == "not compared: types I64 and I64"
    assert found["model.layers.2.mlp.up_proj.weight"] == "compared"


def test_tied_head_is_compared_with_the_embeddings(tmp_path: Path) -> None:
    before, after = model(0, torch.float32), model(0, torch.float32)
    after["lm_head.weight"] = after["model.embed_tokens.weight"].clone() * 1.5
    found = {d.name: d for d in compare_checkpoints(save(tmp_path / "a", before), save(tmp_path / "b", after))}
    head = found["lm_head.weight"]
    assert head.status == "compared" and head.sums is not None and head.sums.relative == pytest.approx(0.5)


@pytest.mark.parametrize("stored", [(False, True), (True, False), (True, True), (False, False)])
@pytest.mark.parametrize(
    "config", [None, {"tie_word_embeddings": True}, {"text_config": {"tie_word_embeddings": True}}]
)
def test_tied_embeddings_count_once(
    tmp_path: Path, stored: tuple[bool, bool], config: dict[str, object] | None
) -> None:
    sides = model(0, torch.bfloat16), model(1, torch.bfloat16)
    folders = []
    for name, tensors, twice in zip("ab", sides, stored, strict=True):
        copy = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()} if twice else {}
        folders.append(save(tmp_path / name, tensors | copy))
        if config:
            (folders[-1] / "config.json").write_text(json.dumps(config))
    deltas = compare_checkpoints(*folders)
    assert {delta.name for delta in deltas} == set(sides[0])
    assert all(delta.status == "compared" for delta in deltas)
    x, y = (torch.cat([side[name].flatten() for name in sides[0]]).double() for side in sides)
    everything = total([delta.sums for delta in deltas if delta.sums is not None])
    assert everything.elements == len(x)
    assert everything.relative == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-5)


def test_separate_head_is_counted_in_addition_to_the_embeddings(tmp_path: Path) -> None:
    folders = []
    for seed in (0, 1):
        head = {"lm_head.weight": model(seed + 7, torch.float32)["model.embed_tokens.weight"]}
        folders.append(save(tmp_path / str(seed), model(seed, torch.float32) | head))
        (folders[-1] / "config.json").write_text('{"tie_word_embeddings": false}')
    assert "lm_head.weight" in {delta.name for delta in compare_checkpoints(*folders)}


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_adapter_has_the_same_sums_as_its_merged_checkpoint(tmp_path: Path, rslora: bool) -> None:
    before = model(0, torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    down, up = torch.randn(4, 16, generator=generator), 0.1 * torch.randn(48, 4, generator=generator)
    scale = 8 / (2 if rslora else 4)
    after = dict(before)
    after[NAME] = (before[NAME].float() + scale * (up @ down)).bfloat16()
    base, merged = save(tmp_path / "base", before), save(tmp_path / "merged", after)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    prefix = "base_model.model." + NAME.removesuffix(".weight")
    save_file({f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": rslora})
    )
    wanted = {delta.name: delta.sums for delta in compare_checkpoints(base, merged)}
    found = {delta.name: delta for delta in compare_checkpoints(base, adapter)}
    assert found[NAME].sums == wanted[NAME]
    assert found["model.embed_tokens.weight"].status == "frozen: not in the adapter"


def test_dora_adapter_is_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base", model(0, torch.float32))
    adapter = save(tmp_path / "adapter", {"base_model.model.x.lora_A.weight": torch.zeros(1, 1)})
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "use_dora": True}))
    with pytest.raises(BadInput, match="plain LoRA"):
        compare_checkpoints(base, adapter)


def test_stable_rank_agrees_with_the_singular_values(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(120, 80, generator=generator)
    one = torch.randn(120, 1, generator=generator) @ torch.randn(1, 80, generator=generator)
    spread = torch.randn(120, 80, generator=generator)
    for name, change in (("one", one), ("spread", spread)):
        folders = save(tmp_path / name / "a", {NAME: base}), save(tmp_path / name / "b", {NAME: base + change})
        (delta,) = compare_checkpoints(*folders, spectral=True)
        values = torch.linalg.svdvals(change.double())
        assert delta.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=0.02)


def test_truncated_file_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", model(0, torch.float32))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"model\.safetensors: truncated in tensor"):
        checkpoint_tensors(folder)
    file.write_bytes(b"\xff" * 64)
    with pytest.raises(BadInput, match="not a safetensors file"):
        checkpoint_tensors(folder)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", model(0, torch.float32), shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadInput, match="model-00002-of-00002"):
        checkpoint_tensors(folder)


@pytest.mark.parametrize(
    ("name", "layer", "kind", "block"),
    [
        ("model.layers.11.self_attn.q_proj.weight", 11, "q", "attention"),
        ("model.layers.0.self_attn.o_proj.weight", 0, "o", "attention"),
        ("model.layers.3.self_attn.k_proj.bias", 3, "k", "attention"),
        ("model.layers.3.self_attn.q_norm.weight", 3, "norms", "norms"),
        ("model.layers.2.mlp.gate_proj.weight", 2, "gate", "MLP"),
        ("model.layers.2.post_attention_layernorm.weight", 2, "norms", "norms"),
        ("model.norm.weight", None, "norms", "norms"),
        ("model.embed_tokens.weight", None, "embeddings", "embeddings"),
        ("lm_head.weight", None, "head", "head"),
        ("model.rotary.inverse_frequency", None, "other", "other"),
    ],
)
def test_tensor_names_map_to_layers_and_kinds(name: str, layer: int | None, kind: str, block: str) -> None:
    assert (layer_of(name), kind_of(name), block_of(name)) == (layer, kind, block)


def test_change_of_a_group_is_that_of_its_concatenated_tensors(tmp_path: Path) -> None:
    before, after = model(0, torch.float32), model(1, torch.float32)
    deltas = compare_checkpoints(save(tmp_path / "a", before), save(tmp_path / "b", after))
    names = [name for name in before if ".mlp." in name]
    x, y = (torch.cat([side[name].flatten() for name in names]) for side in (before, after))
    assert grouped(deltas, block_of)["MLP"].relative == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-5)


def test_claim_is_significant_if_lower_mlps_changed_most(synthetic_run: Path) -> None:
    deltas = compare_checkpoints(synthetic_run / "start", synthetic_run / "train" / "grpo" / "epoch2" / "checkpoint")
    tests = claim_tests(deltas)
    found = {(test.name, test.measure): test for test in tests}
    assert {measure for _, measure in found} == {"relative norm", "elementwise mean", "share changed"}
    assert len(found) == len(tests) == 6
    for name in ("among MLPs", "among all blocks"):
        for measure in ("relative norm", "elementwise mean"):
            assert found[name, measure].p_value <= 0.05 and found[name, measure].difference > 0


def test_note_names_tensors_that_were_not_compared(tmp_path: Path) -> None:
    before, after = model(0, torch.float32), model(1, torch.float32)
    del after["model.embed_tokens.weight"]
    artifacts = delta_artifacts(save(tmp_path / "a", before), save(tmp_path / "b", after))
    assert "model.embed_tokens.weight (missing in the trained checkpoint)" in artifacts[0].note
    assert "too few layers to reach significance" in artifacts[-1].note


def test_command_writes_table_figure_and_caption(synthetic_run: Path, run_script: Any, tmp_path: Path) -> None:
    models = [
        "--base",
        synthetic_run / "start",
        "--trained",
        synthetic_run / "train" / "grpo" / "epoch2" / "checkpoint",
    ]
    assert run_script("analysis.parameter_deltas", *models, "--out", tmp_path, "--spectral").returncode == 0
    assert {"parameter_deltas.csv", "parameter_deltas.png", "parameter_deltas.svg", "parameter_deltas.txt"} <= {
        p.name for p in tmp_path.iterdir()
    }
    with (tmp_path / "parameter_tensors.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    ranks = [float(row["stable_rank"]) for row in rows if row["stable_rank"]]
    assert ranks and all(0.98 <= rank <= 16 for rank in ranks)
    assert np.isfinite([float(row["relative_change"]) for row in rows]).all()
