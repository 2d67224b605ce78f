"""The causal test: mixtures take each tensor from the right side, and shares of the gain are what they say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis import restore_elements, restore_layers
from analysis.checkpoints.element_ranks import select
from analysis.checkpoints.mixed_checkpoint import paired_tensors, write_elementwise, write_mixed
from analysis.checkpoints.permutation_test import lower_mlp_tests
from analysis.checkpoints.restoration import share_of_gain
from analysis.restore_layers import GROUPS, MODES, chooser, folder_name, group_of, measure
from analysis.run_data.run_folder import Missing, Run
from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import read_environments, write_environments
from train.stages.policy_roles import read_roles, write_roles
from train.teaching.tiny_policy import new_model, train_tokenizer


def rows(values: list[float]) -> list[dict[str, float | str]]:
    return [{"id": f"case-{place}", "solve_f1": value} for place, value in enumerate(values)]


@pytest.mark.parametrize("layers", [8, 9, 28, 36, 40])
def test_lower_layers_are_those_of_the_claim_in_every_test_of_it(layers: int) -> None:
    groups = [group_of(f"model.layers.{layer}.mlp.up_proj.weight", layers) for layer in range(layers)]
    assert [layer for layer, group in enumerate(groups) if group == "lower MLP"] == [0, 1, 2]
    tests = lower_mlp_tests(dict.fromkeys(range(layers), 1.0), dict.fromkeys(range(layers), 1.0))
    assert all("layers 0-2" in test.sentence() for test in tests)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 9, 28])
def test_groups_are_a_partition_in_order_of_depth(layers: int) -> None:
    found = [group_of(f"model.layers.{layer}.mlp.up_proj.weight", layers) for layer in range(layers)]
    order = [restore_layers.DEPTHS.index(group.split()[0]) for group in found]
    assert order == sorted(order) and order[0] == 0
    if layers >= 3:
        assert set(order) == {0, 1, 2}
    assert group_of("model.layers.0.self_attn.k_proj.weight", layers) == "lower attention"
    assert group_of("model.layers.0.input_layernorm.weight", layers) == group_of("lm_head.weight", layers) == "rest"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("group", GROUPS)
def test_mixture_takes_every_tensor_from_its_side(made_run: Path, tmp_path: Path, mode: str, group: str) -> None:
    start, trained = made_run / "start", made_run / "train" / "grpo" / "epoch2" / "checkpoint"
    count = write_mixed(start, trained, tmp_path, chooser(mode, group, 9))
    before, after = load_file(start / "model.safetensors"), load_file(trained / "model.safetensors")
    mixed = load_file(tmp_path / "model.safetensors")
    assert set(mixed) == set(before)
    for name, tensor in mixed.items():
        source = after if (group_of(name, 9) == group) == (mode == "only") else before
        assert torch.equal(tensor, source[name])
    assert 0 < count < len(mixed)


def test_checkpoints_of_different_types_are_not_mixed(tmp_path: Path) -> None:
    for name, dtype in (("a", torch.float32), ("b", torch.bfloat16)):
        (tmp_path / name).mkdir()
        save_file({"x": torch.zeros(2, dtype=dtype)}, tmp_path / name / "model.safetensors")
    with pytest.raises(BadInput, match=r"tensor 'x' is F32 \[2\] in one and BF16 \[2\] in the other"):
        write_mixed(tmp_path / "a", tmp_path / "b", tmp_path / "c", lambda name: True)


def test_share_is_the_part_of_the_gain_that_is_there_or_lost() -> None:
    start, trained, mixed = rows([0.0, 0.2, 0.4]), rows([0.8, 1.0, 1.0]), rows([0.2, 0.5, 0.4])
    gain, part = (2.8 - 0.6) / 3, (1.1 - 0.6) / 3
    assert share_of_gain(start, trained, mixed, lost=False).value == pytest.approx(part / gain)
    assert share_of_gain(start, trained, mixed, lost=True).value == pytest.approx(1 - part / gain)
    assert share_of_gain(start, trained, trained, lost=False).value == pytest.approx(1)
    assert share_of_gain(start, trained, trained, lost=True).value == pytest.approx(0)


def test_no_gain_gives_no_share() -> None:
    assert share_of_gain(rows([0.5, 0.5]), rows([0.5, 0.5]), rows([0.1, 0.9]), lost=False).value is None


def test_unmeasured_mixtures_are_missing_with_the_command_that_makes_them(made_run: Path) -> None:
    with pytest.raises(Missing, match=r"python -m analysis\.restore_layers"):
        restore_layers.build(Run.open(made_run))


def test_mixtures_of_a_real_model_are_measured_once_and_drawn(made_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    environments = list(read_environments(made_run / "environments" / "test.jsonl"))[:2]
    write_environments(run / "environments" / "test.jsonl", environments)
    tokenizer = train_tokenizer([json.dumps(item.to_record()) for item in environments], vocabulary=320)
    for folder, seed in ((run / "start", 0), (run / "train" / "grpo" / "epoch1" / "checkpoint", 1)):
        new_model(tokenizer, seed, layers=3, width=16, heads=2).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for policy in ("start", "grpo"):
        shutil.copytree(made_run / "eval" / policy, run / "eval" / policy)
    roles = read_roles(made_run)
    write_roles(
        run,
        {name: replace(roles[name], policy="") for name in ("start", "grpo")}
        | {"start": replace(roles["start"], policy="start")},
    )
    settings = {
        "temperature": 0.0,
        "max_new_tokens": 4,
        "max_turns": 2,
        "seed": 3,
        "match": "published",
        "thinking": False,
    }
    (run / "eval" / "grpo" / "configuration.json").write_text(json.dumps(settings))
    measure(Run.open(run), "grpo")
    restore_elements.measure(Run.open(run), "grpo")
    (elements,) = restore_elements.build(Run.open(run))
    assert len(elements.rows) == 6 and {row["order"] for row in elements.rows} == {"top", "bottom", "random"}
    for row in elements.rows:
        assert 0 <= row["lower_mlp_share"] <= 1 and row["lower_mlp_of_all"] == elements.rows[0]["lower_mlp_of_all"] > 0
        assert ("random_minus" in row) == (row["order"] != "random")
    for folder in (run / "restore" / "grpo").glob("elements-*"):
        shutil.rmtree(folder)
    folders = sorted(folder.name for folder in (run / "restore" / "grpo").iterdir())
    assert folders == sorted(folder_name(mode, group) for mode in MODES for group in GROUPS)
    assert not list((run / "restore").rglob("*.safetensors"))
    times = {path: path.stat().st_mtime_ns for path in (run / "restore").rglob("results.jsonl")}
    measure(Run.open(run), "grpo")
    assert times == {path: path.stat().st_mtime_ns for path in (run / "restore").rglob("results.jsonl")}
    (artifact,) = restore_layers.build(Run.open(run))
    assert len(artifact.rows) == len(GROUPS) * len(MODES) and all(row["solve_f1_n"] == 2 for row in artifact.rows)
    assert {"restore_layers.svg", "restore_layers.csv"} <= {path.name for path in artifact.write(tmp_path)}
    assert all(row["gain_n"] == 24 for row in artifact.rows)
    leads = [row["lead"] for row in artifact.rows if row["mode"] == "only"]
    assert len(leads) == len(GROUPS) and max(leads) >= 0


def changes(pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([((new - old).abs() / (old.abs() + 1e-8)).float().flatten() for old, new in pairs.values()])


@pytest.mark.parametrize("order", ["top", "bottom", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_elements_put_back_are_those_of_a_ranking_over_the_whole_model(
    tmp_path: Path, order: str, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    before = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(40, 50, generator=draw).to(dtype) for i in range(3)}
    after = {
        name: (value.float() * (1 + 0.1 * torch.randn(40, 50, generator=draw))).to(dtype)
        for name, value in before.items()
    }
    for name, tensors in (("a", before), ("b", after)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    chosen = select(paired_tensors(tmp_path / "a", tmp_path / "b"), order, 0.2)
    write_elementwise(tmp_path / "a", tmp_path / "b", tmp_path / "c", chosen.mask)
    mixed = load_file(tmp_path / "c" / "model.safetensors")
    assert {tensor.dtype for tensor in mixed.values()} == {dtype}
    masks = [chosen.mask(name, before[name], after[name]) for name in before]
    for name, mask in zip(before, masks, strict=True):
        assert torch.equal(mixed[name], torch.where(mask, before[name], after[name]))
    put_back = torch.cat([mask.flatten() for mask in masks])
    ratio = changes({name: (before[name].float(), after[name].float()) for name in before})
    assert int(put_back.sum()) == pytest.approx(
        1200, abs=100 if order == "random" else 1 if dtype == torch.float32 else 60
    )
    if order == "top":
        assert ratio[put_back].min() >= ratio[~put_back].max()
    if order == "bottom":
        assert ratio[put_back].max() <= ratio[~put_back].min()
    if order == "random":
        assert float(ratio[put_back].mean()) == pytest.approx(float(ratio.mean()), rel=0.2)
