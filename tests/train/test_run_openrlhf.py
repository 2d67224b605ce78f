"""From a name to OpenRLHF's command: its own parser takes every experiment, and the paper's numbers are in their flags."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction.jsonl import BadInput
from train.experiments import experiment, matrix
from train.run_openrlhf import build_command, build_flags, read_status, reward_environment, train

ROOT = Path(__file__).resolve().parents[2]


def flags_of(name: str, preset: str = "paper") -> list[str]:
    row = experiment(name)
    return build_flags(
        row, f"models/{row.model.name}", "prompts.jsonl", Path("out"), seed=1, preset=preset, gpus=row.model.gpus, reference="epoch-start",
        samples=512,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parsed() -> dict[str, dict[str, Any]]:
    """Every distinct command of the matrix (the reward's settings are no flags), parsed by OpenRLHF in one process."""
    names: dict[str, str] = {}  # thinking and plain differ in their lengths
    for row in matrix():
        names.setdefault(json.dumps(flags_of(row.name)), row.name)
    lines = [json.dumps(flags_of(name)) for name in names.values()]
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("parse_with_openrlhf.py"))],
        input="\n".join(lines), capture_output=True, text=True, timeout=240, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "VLLM_LOGGING_LEVEL": "ERROR"},
    )  # fmt: skip
    found = [json.loads(line[7:]) for line in result.stdout.splitlines() if line.startswith("PARSED ")]
    assert len(found) == len(lines), result.stderr[-2000:]
    return dict(zip(names.values(), found, strict=True))


def test_openrlhf_parses_every_experiment(parsed: dict[str, dict[str, Any]]) -> None:
    assert {experiment(name).algorithm for name in parsed} == {row.algorithm for row in matrix()}


def value_at(values: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("actor.adam.lr", 1e-6),
        ("actor.adam.betas", [0.9, 0.999]),
        ("actor.adam.weight_decay", 0.01),
        ("actor.lr_scheduler", "constant"),
        ("actor.lr_warmup_ratio", 0.0),
        ("actor.max_norm", 1.0),
        ("actor.eps_clip_low_high", [0.2, 0.2]),
        ("actor.dual_clip", 3.0),
        ("actor.loss_agg_mode", "seq-mean-token-mean"),
        ("actor.entropy_coef", 0.001),
        ("algo.kl.use_loss", True),
        ("algo.kl.estimator", "k3"),
        ("algo.kl.init_coef", 0.001),
        ("algo.advantage.gamma", 1.0),
        ("rollout.batch_size", 512),
        ("rollout.n_samples_per_prompt", 16),
        ("train.batch_size", 512),
        ("rollout.temperature", 1.0),
        ("train.max_epochs", 1),
    ],
)
def test_hyperparameters_of_the_paper(parsed: dict[str, dict[str, Any]], path: str, expected: Any) -> None:
    for name in ("qwen3-8b-plain-grpo", "qwen3-8b-thinking-reinforce++"):
        assert value_at(parsed[name], path) == expected


def test_lengths_follow_the_mode_and_estimators_the_algorithm(parsed: dict[str, dict[str, Any]]) -> None:
    assert parsed["qwen3-8b-plain-grpo"]["data"]["max_len"] == 16384 + 1024
    assert parsed["qwen3-8b-thinking-grpo"]["data"]["max_len"] == 16384 + 8192
    assert parsed["qwen3-8b-plain-grpo"]["algo"]["advantage"]["estimator"] == "group_norm"
    assert parsed["qwen3-8b-plain-reinforce++"]["algo"]["advantage"]["estimator"] == "reinforce"


def test_released_preset_differs_in_temperature_alone() -> None:
    paper, released = flags_of("qwen3-8b-plain-grpo"), flags_of("qwen3-8b-plain-grpo", "released")
    differing = [(a, b) for a, b in zip(paper, released, strict=True) if a != b]
    assert differing == [("1.0", "0.7")]


def test_cpu_goes_through_the_compatibility_module_and_gpus_do_not() -> None:
    assert build_command([], 0)[2] == "train.openrlhf_on_cpu"
    assert build_command([], 8)[2] == "openrlhf.cli.train_ppo_ray"


def test_reward_settings_travel_by_environment() -> None:
    settings = reward_environment(experiment("tiny-plain-grpo-solve-pr-strict"), "shuffled", 3)
    assert settings["FTRL_REWARD_VARIANT"] == "solve_pr"
    assert settings["FTRL_REWARD_MATCH"] == "strict"
    assert settings["FTRL_REWARD_CONTROL"] == "shuffled"


def test_status_lines_are_read_with_nan_and_inf() -> None:
    line = "(PPOTrainer pid=1) INFO ✨ Global step 7: {'reward': 0.5, 'kl': nan, 'x': inf, 'note': 'text'}"
    status = read_status(line)
    assert status is not None and status["step"] == 7 and status["reward"] == 0.5
    assert status["kl"] != status["kl"] and status["x"] == float("inf") and "note" not in status
    assert read_status("nothing of interest") is None


def test_failed_trainer_shows_its_last_lines_and_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "openrlhf").mkdir()
    with pytest.raises(BadInput, match=r"code 3 after 0 of 5 steps; the whole log is .*output\.log"):
        train([sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"], {}, tmp_path, 5)
    assert "out of luck" in capsys.readouterr().err


def test_base_reference_is_refused_with_the_reason() -> None:
    row = experiment("tiny-plain-grpo")
    with pytest.raises(BadInput, match="epoch-start"):
        build_flags(row, "p", "d", Path("o"), seed=0, preset="paper", gpus=0, reference="base", samples=16)
