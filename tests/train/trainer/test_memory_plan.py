"""The memory plan: follows the model's shape, says what does not fit, refuses what cannot run."""

from collections import namedtuple
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput
from train.experiments import MODELS, experiment, matrix
from train.trainer.memory_plan import (
    GPU_SIZES,
    adapter_parameters,
    available_gib,
    check_memory,
    check_resources,
    engine_share,
    longest_sequence,
    memory_plan,
    parks_base,
    smallest_gpu,
    token_budget,
)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("smollm2-135m", 134.5),
        ("qwen2.5-0.5b", 494.0),
        ("qwen2.5-1.5b", 1543.7),
        ("qwen2.5-3b", 3085.9),
        ("qwen3-0.6b", 596.0),
        ("qwen3-1.7b", 1720.6),
        ("qwen3.5-9b", 8953.0),  # the language model alone
        ("qwen2.5-7b", 7615.6),
        ("qwen2.5-14b", 14770.0),
        ("qwen3-4b", 4022.5),
        ("qwen3-8b", 8190.7),
        ("qwen3-14b", 14768.3),
    ],
)
def test_shapes_give_the_published_numbers_of_parameters(name: str, millions: float) -> None:
    assert MODELS[name].parameters == pytest.approx(millions, rel=2e-4)


@pytest.mark.parametrize("name", ["qwen2.5-14b-plain-grpo", "qwen3-8b-thinking-reinforce++", "qwen3-4b-plain-rloo"])
def test_the_papers_hardware_holds_its_runs_by_estimate(name: str) -> None:
    assert "full" in check_memory(experiment(name), 8, 1, GPU_SIZES[80])


def test_the_tightest_run_of_the_paper_is_told_to_have_no_margin() -> None:
    assert "up to 24492 of the allowed 24576" in check_memory(
        experiment("qwen3-14b-thinking-grpo"), 8, 1, GPU_SIZES[80]
    )


@pytest.mark.parametrize("name", sorted({f"{row.model.name}-{row.thinking}" for row in matrix() if row.gpus}))
def test_a_run_fits_at_full_length_on_the_gpus_that_the_list_names_and_on_no_smaller_ones(name: str) -> None:
    rows = [row for row in matrix() if f"{row.model.name}-{row.thinking}" == name and row.algorithm == "grpo"]
    assert {row.adapter for row in rows} == {"", "lora"}
    for row in rows:
        full, size = row.scale.max_prompt + row.scale.max_response, smallest_gpu(row)
        assert longest_sequence(row, row.gpus, 1, GPU_SIZES[size]) == full
        assert all(longest_sequence(row, row.gpus, 1, gib) < full for other, gib in GPU_SIZES.items() if other < size)


def test_one_gpu_of_24_gb_holds_every_model_up_to_2b_and_adapters_up_to_8b() -> None:
    for name in ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b", "qwen3-1.7b"):
        assert smallest_gpu(experiment(f"{name}-plain-grpo")) == 24
    assert smallest_gpu(experiment("qwen2.5-3b-plain-grpo")) == 48
    for name in ("qwen2.5-3b", "qwen3-4b", "qwen3.5-4b", "qwen2.5-7b", "qwen3-8b"):
        assert smallest_gpu(experiment(f"{name}-plain-grpo-lora")) == 24


def test_the_base_waits_on_the_host_only_where_it_does_not_fit_beside_the_engine() -> None:
    row = experiment("qwen3-8b-plain-grpo-lora")
    assert parks_base(row, 1, 1, GPU_SIZES[24]) and not parks_base(row, 1, 1, GPU_SIZES[48])
    parked = memory_plan(row, 1, 1, GPU_SIZES[24])
    assert "policy" not in parked.generation and "policy" in parked.training and not parked.missing
    assert parked.host["parked base"] == parked.training["policy"]
    assert not parks_base(experiment("qwen3-14b-plain-grpo"), 8, 1, GPU_SIZES[24])  # nothing of it is frozen


def test_adapters_leave_the_host_the_engines_weights_alone_and_need_no_second_model() -> None:
    row = experiment("qwen3-8b-plain-grpo-lora")
    plan = memory_plan(row, 1, 1, 80)
    weights = pytest.approx(2 * 8190.7e6 / 1024**3, rel=2e-4)
    assert plan.training["policy"] == plan.host["sleeping engines' weights"] == weights
    assert "reference" not in plan.training and "optimizer" not in plan.host
    assert adapter_parameters(row) == pytest.approx(87.3e6, rel=1e-3)  # PEFT counts as many: rank 32, all linear layers
    assert "training" in memory_plan(experiment("qwen3-14b-plain-grpo-lora"), 1, 1, GPU_SIZES[24]).missing


def test_sharding_more_widely_needs_less_of_a_gpu_and_as_much_of_all_hosts() -> None:
    row = experiment("qwen3-14b-plain-grpo")
    one, two = memory_plan(row, 8, 1, 80), memory_plan(row, 8, 2, 80)
    assert two.training["policy"] == one.training["policy"] / 2
    assert two.host["optimizer"] * 2 == one.host["optimizer"]
    assert one.host["optimizer"] == pytest.approx(16 * row.model.parameters * 1e6 / 1024**3)
    # each engine keeps its own copy on its host
    assert one.host["sleeping engines' weights"] == pytest.approx(8 * 2 * row.model.parameters * 1e6 / 1024**3)


def test_a_critic_doubles_what_is_trained() -> None:
    grpo, ppo = (memory_plan(experiment(f"qwen3-8b-plain-{name}"), 8, 1, 80) for name in ("grpo", "ppo"))
    assert ppo.training["policy"] == 2 * grpo.training["policy"]
    assert ppo.host["optimizer"] == 2 * grpo.host["optimizer"]
    assert ppo.disk["saved states"] == 2 * grpo.disk["saved states"]


def test_several_gpus_need_buffers_to_talk() -> None:
    row = experiment("qwen3-4b-plain-grpo")
    assert memory_plan(row, 8, 1, 80).training["contexts"] > memory_plan(row, 1, 1, 80).training["contexts"]


def test_the_engine_gets_a_share_that_holds_its_weights() -> None:
    row = experiment("qwen2.5-7b-plain-grpo-lora")
    for gib in (GPU_SIZES[24], GPU_SIZES[48], GPU_SIZES[80]):
        share = engine_share(1, row, gib)
        assert share == 0.4 or share * gib > 2 * 7.615e9 / 1024**3 + 1
    assert engine_share(1, row, GPU_SIZES[24]) > 0.6
    assert engine_share(8) == engine_share(8, experiment("qwen3-14b-plain-grpo"), GPU_SIZES[80]) == 0.6


def test_token_budget_shrinks_to_what_fits() -> None:
    row = experiment("qwen3-8b-plain-grpo")
    assert token_budget(row, 8, 1, GPU_SIZES[80]) == token_budget(row, 8, 1, None) == 17408
    assert token_budget(row, 8, 1, GPU_SIZES[48]) == longest_sequence(row, 8, 1, GPU_SIZES[48]) < 17408
    assert token_budget(experiment("qwen3-8b-plain-grpo-lora"), 1, 1, GPU_SIZES[80]) == 0


def test_host_memory_and_disk_are_checked_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, out = experiment("qwen3-14b-plain-grpo"), tmp_path / "not" / "there" / "yet"
    disk = namedtuple("disk", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: disk(1000 * 1024**3))
    lines = check_resources(row, 8, 1, GPU_SIZES[80], out, host_gib=1000)
    assert any("host memory: 456 GiB needed" in line for line in lines) and any("disk: 440" in line for line in lines)
    with pytest.raises(BadInput, match=r"456 GiB of host memory .*, but 300 GiB are free"):
        check_resources(row, 8, 1, GPU_SIZES[80], out, host_gib=300)
    monkeypatch.setattr("shutil.disk_usage", lambda place: disk(100 * 1024**3))
    with pytest.raises(BadInput, match=r"needs 440\.\d GiB of disk .*, but 100\.0 GiB are free"):
        check_resources(row, 8, 1, None, out, host_gib=1000)


def test_free_host_memory_of_this_machine_is_found() -> None:
    assert 0 < (available_gib() or 0) < 10000


def test_the_cache_of_files_is_free_memory(tmp_path: Path) -> None:
    for name, text in (
        ("max", "2147483648\n"),
        ("current", "2147483648\n"),
        ("stat", "anon 1073741824\ninactive_file 268435456\nactive_file 805306368\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_gib(tmp_path) == pytest.approx(1.0)
    (tmp_path / "memory.max").write_text("max\n")
    assert (available_gib(tmp_path) or 0) == pytest.approx(available_gib() or 0, rel=0.2)


def test_the_longest_sequence_is_the_last_that_fits() -> None:
    row = experiment("qwen3-8b-thinking-grpo")
    longest = longest_sequence(row, 8, 1, 40)
    assert 0 < longest < row.scale.max_prompt + row.scale.max_response
    assert not memory_plan(row, 8, 1, 40, longest).missing
    assert "training" in memory_plan(row, 8, 1, 40, longest + 1).missing
    assert f"up to {longest} of the allowed 24576 tokens" in check_memory(row, 8, 1, 40)


def test_a_model_that_fits_at_no_length_is_refused_with_the_plan() -> None:
    with pytest.raises(BadInput, match=r"does not fit on 1 x 1 GPUs: generation: .* lacks"):
        check_memory(experiment("qwen3-14b-plain-grpo"), 1, 1, 24)
