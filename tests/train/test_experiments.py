"""The matrix: names mean what they say, and a wrong name shows the closest."""

import json
import sys

import pytest

from env_construction.jsonl import BadInput
from reward.episode_rewards import EPISODE_REWARDS
from train.experiments import ABLATIONS, ALGORITHMS, MODELS, experiment, main, matrix


def test_every_name_of_the_matrix_is_unique_and_parses_to_itself() -> None:
    names = [row.name for row in matrix()]
    assert len(set(names)) == len(names)
    assert all(experiment(name).name == name for name in names)


def test_matrix_holds_the_papers_twelve_runs() -> None:
    names = {row.name for row in matrix()}
    starts = ["qwen2.5-7b-plain", "qwen2.5-14b-plain"]
    starts += [f"qwen3-{size}-{mode}" for size in ("8b", "14b") for mode in ("plain", "thinking")]
    paper = {f"{start}-{algorithm}" for start in starts for algorithm in ("grpo", "reinforce++")}
    assert paper <= names
    assert {row.name for row in matrix() if row.in_paper} == paper and len(paper) == 12


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_ablation_changes_its_setting_with_every_algorithm(algorithm: str, ablation: str) -> None:
    plain, changed = experiment(f"tiny-plain-{algorithm}"), experiment(f"tiny-plain-{algorithm}-{ablation}")
    assert changed.algorithm == algorithm
    for key, value in ABLATIONS[ablation].items():
        assert getattr(changed, key) == value != getattr(plain, key)


def test_ablations_combine() -> None:
    row = experiment("qwen3-8b-thinking-reinforce++-baseline-solve-pr-strict")
    assert (row.algorithm, row.variant, row.match, row.thinking) == ("reinforce++-baseline", "solve_pr", "strict", True)


@pytest.mark.parametrize(("name", "reward"), [("episode", "turns"), ("outcome", "answer"), ("outcome-f1", "solve_f1")])
def test_whole_episodes_by_name(name: str, reward: str) -> None:
    assert experiment(f"qwen3-8b-plain-grpo-{name}").episode == reward in EPISODE_REWARDS
    both = experiment(f"qwen3-8b-plain-grpo-{name}-lora-strict")
    assert (both.episode, both.adapter, both.match) == (reward, "lora", "strict")
    with pytest.raises(BadInput, match="unknown experiment"):
        experiment(f"qwen3-8b-plain-grpo-{name}-episode")


def test_adapters_take_one_card_and_a_higher_rate() -> None:
    plain, lora = experiment("qwen3-8b-plain-grpo"), experiment("qwen3-8b-plain-grpo-lora")
    assert (plain.gpus, lora.gpus, experiment("tiny-plain-grpo-lora").gpus) == (8, 1, 0)
    assert lora.scale.learning_rate == pytest.approx(10 * plain.scale.learning_rate)
    assert 0 < lora.gpu_hours() < plain.gpu_hours()


def test_reinforce_plus_plus_has_a_rate_of_its_own_for_the_tiny_model_alone() -> None:
    rate = {name: experiment(name).scale.learning_rate for name in (
        "tiny-plain-grpo", "tiny-plain-reinforce++", "tiny-plain-reinforce++-shuffled", "tiny-plain-reinforce++-baseline",
        "qwen3-8b-plain-grpo", "qwen3-8b-plain-reinforce++",
    )}  # fmt: skip
    assert rate["tiny-plain-reinforce++"] == rate["tiny-plain-reinforce++-shuffled"] < rate["tiny-plain-grpo"]
    assert rate["tiny-plain-reinforce++-baseline"] == rate["tiny-plain-grpo"]
    assert rate["qwen3-8b-plain-reinforce++"] == rate["qwen3-8b-plain-grpo"] == 1e-6


def test_thinking_is_refused_where_the_model_has_none() -> None:
    with pytest.raises(BadInput, match="no thinking mode"):
        experiment("qwen2.5-7b-thinking-grpo")


def test_unknown_name_shows_the_closest() -> None:
    with pytest.raises(BadInput, match="tiny-plain-grpo"):
        experiment("tiny-plain-gpro")


def test_the_list_is_readable_by_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", "--json"])
    assert main() == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [row.name for row in matrix()]
    assert all((row["gpu_hours"] > 0) != (row["cpu_minutes"] > 0) for row in rows)
    assert all((row["gpus"] > 0) == (row["card_gib"] > 0) == (row["gpu_hours"] > 0) for row in rows)


def test_cost_grows_with_the_model_and_is_zero_on_the_cpu() -> None:
    hours = {name: experiment(f"{name}-plain-grpo").gpu_hours() for name in MODELS}
    assert hours["tiny"] == 0 < hours["qwen3-4b"] < hours["qwen3-8b"] < hours["qwen3-14b"]
