"""The memory plan: follows the model's shape, says what does not fit, refuses what cannot run."""

import pytest

from env_construction.jsonl import BadInput
from train.experiments import MODELS, experiment, matrix
from train.memory_plan import adapter_parameters, check_memory, longest_sequence, memory_plan


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("smollm2-135m", 134.5),
        ("qwen2.5-7b", 7615.6),
        ("qwen2.5-14b", 14770.0),
        ("qwen3-4b", 4022.5),
        ("qwen3-8b", 8190.7),
        ("qwen3-14b", 14768.3),
    ],
)
def test_shapes_give_the_published_numbers_of_parameters(name: str, millions: float) -> None:
    assert MODELS[name].parameters == pytest.approx(millions, rel=2e-4)


@pytest.mark.parametrize("name", ["qwen2.5-14b-plain-grpo", "qwen3-14b-thinking-reinforce++", "qwen3-4b-plain-rloo"])
def test_the_papers_hardware_holds_its_runs_by_estimate(name: str) -> None:
    assert "full" in check_memory(experiment(name), 8, 1, 80)


@pytest.mark.parametrize("name", sorted({f"{row.model.name}-{row.thinking}" for row in matrix() if row.gpus}))
def test_a_run_fits_at_full_length_on_the_cards_that_the_list_names(name: str) -> None:
    rows = [row for row in matrix() if f"{row.model.name}-{row.thinking}" == name and row.algorithm == "grpo"]
    assert {row.adapter for row in rows} == {"", "lora"}
    for row in rows:
        assert longest_sequence(row, row.gpus, 1, row.card_gib) == row.scale.max_prompt + row.scale.max_response


def test_adapters_leave_the_host_alone_and_keep_both_models_on_the_card() -> None:
    row = experiment("qwen3-8b-plain-grpo-lora")
    plan = memory_plan(row, 1, 1, 80)
    assert plan.host == 0
    assert plan.training["policy"] == plan.training["reference"] == pytest.approx(2 * 8190.7e6 / 1024**3, rel=2e-4)
    assert adapter_parameters(row) == pytest.approx(87.3e6, rel=1e-3)  # PEFT counts as many: rank 32, all linear layers
    assert "training" in memory_plan(experiment("qwen3-14b-plain-grpo-lora"), 1, 1, 80).missing


def test_sharding_more_widely_needs_less_of_a_card_and_as_much_of_all_hosts() -> None:
    row = experiment("qwen3-14b-plain-grpo")
    one, two = memory_plan(row, 8, 1, 80), memory_plan(row, 8, 2, 80)
    assert two.training["policy"] == one.training["policy"] / 2
    assert two.host * 2 == one.host
    assert one.host == pytest.approx(16 * row.model.parameters * 1e6 / 1024**3)


def test_a_critic_doubles_what_is_trained() -> None:
    grpo, ppo = (memory_plan(experiment(f"qwen3-8b-plain-{name}"), 8, 1, 80) for name in ("grpo", "ppo"))
    assert ppo.training["policy"] == 2 * grpo.training["policy"]
    assert ppo.host == 2 * grpo.host


def test_the_longest_sequence_is_the_last_that_fits() -> None:
    row = experiment("qwen3-8b-thinking-grpo")
    longest = longest_sequence(row, 8, 1, 40)
    assert 0 < longest < row.scale.max_prompt + row.scale.max_response
    assert not memory_plan(row, 8, 1, 40, longest).missing
    assert "training" in memory_plan(row, 8, 1, 40, longest + 1).missing
    assert f"up to {longest} of the allowed 24576 tokens" in check_memory(row, 8, 1, 40)


def test_a_model_that_fits_at_no_length_is_refused_with_the_plan() -> None:
    with pytest.raises(BadInput, match=r"does not fit on 1 x 1 cards: generation: .* lacks"):
        check_memory(experiment("qwen3-14b-plain-grpo"), 1, 1, 24)
