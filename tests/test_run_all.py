"""run_all.sh as a dry run: the commands of each profile and its options."""

import subprocess
from pathlib import Path

import pytest

from train.experiments import MODELS, experiment

ROOT = Path(__file__).resolve().parents[1]


def dry(*arguments: str, code: int = 0) -> str:
    result = subprocess.run(
        ["bash", "run_all.sh", *arguments, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def test_small_warm_starts_only_smollm2() -> None:
    shown = dry("--profile", "small")
    assert "--continue-from HuggingFaceTB/SmolLM2-135M-Instruct" in shown
    assert "--policy vllm:outputs/small/start" in shown
    shown = dry("--profile", "small", "--experiment", "qwen3-1.7b-plain-grpo")
    assert "train.warm_start" not in shown and "--policy vllm:Qwen/Qwen3-1.7B" in shown


@pytest.mark.parametrize("name", [model.name for model in MODELS.values() if model.gpus and model.start])
def test_every_model_of_the_matrix_starts_from_its_own_weights(name) -> None:
    profile = "small" if MODELS[name].gpus == 1 else "paper"
    shown = dry("--profile", profile, "--experiment", f"{name}-plain-grpo")
    taught = name == "smollm2-135m"
    assert f"{'--continue-from' if taught else '--policy-dir'} {MODELS[name].start} " in shown
    assert f"--max-prompt-tokens {experiment(f'{name}-plain-grpo').scale.max_prompt}" in shown


def test_your_own_model_gets_its_own_row() -> None:
    shown = dry("--profile", "small", "--model", "assets/tiny_policy")
    assert "--experiment own-plain-grpo --policy-dir assets/tiny_policy" in shown
    assert "--experiment own-plain-reinforce++ --policy-dir assets/tiny_policy" in shown
    assert "which model? --model PATH" in dry("--profile", "small", "--experiment", "own-plain-grpo", code=2)


def test_earlier_weights_are_deleted_on_gpus_unless_kept() -> None:
    one = ("--profile", "paper", "--experiment", "qwen2.5-7b-plain-grpo")
    assert dry(*one).count("train.prune_checkpoints") == 2  # after the second and the third epoch
    assert "train.prune_checkpoints" not in dry(*one, "--keep-checkpoints") + dry("--profile", "cpu")
