"""The matrix: names mean what they say, and a wrong name shows the closest."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput
from reward.episode_rewards import EPISODE_REWARDS
from train.experiments import ABLATIONS, ALGORITHMS, MODELS, PUBLISHED_HOURS, experiment, main, matrix

ROOT = Path(__file__).resolve().parents[2]


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
    if algorithm == "ppo" and "credit" in ABLATIONS[ablation]:
        with pytest.raises(
            BadInput, match="ppo assigns credit with its critic; use tiny-plain-ppo-episode, or tiny-plain-grpo-"
        ):
            experiment(f"tiny-plain-{algorithm}-{ablation}")
        return
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


@pytest.mark.parametrize(
    "credit", ["turn-reward", "discounted", "turn-index", "dual-level", "matchtir-hard", "matchtir-soft", "turnsight"]
)
def test_credit_per_turn_by_name(credit: str) -> None:
    row = experiment(f"tiny-plain-reinforce++-strict-episode-credit-{credit}-lora")
    assert (row.episode, row.credit, row.match, row.adapter) == ("turns", credit, "strict", "lora")
    assert f"qwen3-8b-thinking-grpo-episode-credit-{credit}" in {row.name for row in matrix()}


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("tiny-plain-grpo-credit-matchtir-hard", "tiny-plain-grpo-episode-credit-matchtir-hard"),
        ("tiny-plain-grpo-episode-credit-matchtir", "tiny-plain-grpo-episode-credit-matchtir-"),
        ("tiny-plain-grpo-episode-credit-discount", "tiny-plain-grpo-episode-credit-discounted"),
    ],
)
def test_credit_that_is_no_row_shows_the_closest(name: str, closest: str) -> None:
    with pytest.raises(BadInput, match=f"unknown experiment .*closest: .*{closest}"):
        experiment(name)


def test_adapters_take_one_gpu_and_a_higher_rate() -> None:
    plain, lora = experiment("qwen3-8b-plain-grpo"), experiment("qwen3-8b-plain-grpo-lora")
    assert (plain.gpus, lora.gpus, experiment("tiny-plain-grpo-lora").gpus) == (8, 1, 0)
    assert lora.scale.learning_rate == pytest.approx(10 * plain.scale.learning_rate)
    assert 0 < lora.gpu_hours() < plain.gpu_hours()


def test_reinforce_plus_plus_has_a_rate_of_its_own_for_the_tiny_model_alone() -> None:
    rate = {name: experiment(name).scale.learning_rate for name in (
        "tiny-plain-grpo", "tiny-plain-reinforce++", "tiny-plain-reinforce++-shuffled",
        "tiny-plain-reinforce++-baseline",
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
    assert all((row["gpus"] > 0) == (row["gpu_gb"] > 0) == (row["gpu_hours"] > 0) for row in rows)


def test_cost_grows_with_the_model_and_is_zero_on_the_cpu() -> None:
    hours = {name: experiment(f"{name}-plain-grpo").gpu_hours() for name in MODELS}
    assert hours["tiny"] == 0 < hours["qwen3-4b"] < hours["qwen3-8b"] < hours["qwen3-14b"]


def test_a_published_run_is_within_a_factor_of_two_of_its_estimate() -> None:
    for name, hours in PUBLISHED_HOURS.items():
        assert 0.5 < hours / experiment(name).gpu_hours() < 2


def test_the_list_says_how_its_estimates_compare_with_published_hours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments"])
    assert main() == 0
    assert (
        "published for qwen3.5-4b-thinking-grpo-outcome: 88 GPU hours, 0.9 times our estimate"
        in capsys.readouterr().out
    )


def test_a_model_of_your_own_has_its_own_shape(tmp_path: Path) -> None:
    row = experiment("own-plain-grpo-strict", str(ROOT / "assets" / "tiny_policy"))
    shape = {"name": "own", "start": row.model.start, "thinking": True, "gpus": 1}
    assert row.model == replace(MODELS["tiny"], **shape) and row.match == "strict"
    assert row.scale == experiment("qwen2.5-3b-plain-grpo").scale
    with pytest.raises(BadInput, match="needs the model's folder or hub name"):
        experiment("own-plain-grpo")
    with pytest.raises(BadInput, match="expected a causal language model's folder"):
        experiment("own-plain-grpo", str(tmp_path))


def test_a_large_or_hybrid_model_of_your_own_is_planned_as_the_matrix_does(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen3_5TextConfig

    large = Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    large.save_pretrained(tmp_path / "large")
    row = experiment("own-thinking-grpo", str(tmp_path / "large"))
    seven = MODELS["qwen2.5-7b"]
    assert (row.gpus, row.model.parameters) == (8, seven.parameters)
    assert row.scale == experiment("qwen3-8b-thinking-grpo").scale

    Qwen3_5TextConfig().save_pretrained(tmp_path / "hybrid")  # its defaults are those of the 9B
    hybrid = experiment("own-plain-grpo", str(tmp_path / "hybrid"))
    assert hybrid.model.parameters == MODELS["qwen3.5-9b"].parameters
    assert hybrid.scale.token_budget == 0


def test_hybrids_and_adapters_take_one_sequence_at_a_time() -> None:
    for name in ("qwen3.5-4b-plain-grpo", "qwen3.5-9b-thinking-reinforce++", "qwen2.5-7b-plain-grpo-lora"):
        assert (experiment(name).scale.token_budget, experiment(name).scale.micro_batch) == (0, 1)
    assert experiment("smollm2-135m-plain-grpo-lora").scale.token_budget == 0
    for name in ("qwen2.5-1.5b-plain-grpo", "qwen3-14b-thinking-grpo"):
        scale = experiment(name).scale
        assert scale.token_budget == scale.max_prompt + scale.max_response
