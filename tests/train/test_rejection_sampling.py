"""Rejection sampling: a kept response beats its group, and a learned response becomes more likely."""

import json
import sys
from pathlib import Path

import pytest

from env_construction.building.environment_builder import BuildConfiguration, build_chunk
from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import write_environments
from env_construction.facts.fact_author import FactAuthor
from env_construction.sandbox.tool_sandbox import ToolSandbox
from train import collect_trajectories, rejection_sampling, rl_prompts
from train.teaching.learner import Learner

START = Path(__file__).resolve().parents[2] / "assets" / "tiny_policy"


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    with ToolSandbox(workers=1) as sandbox:
        chunk = build_chunk(FactAuthor(), BuildConfiguration("facts", "compact", 5), "train", list(range(8)), sandbox)
    write_environments(folder / "train.jsonl", [item.environment for item in chunk])
    line = [
        "--environments",
        folder / "train.jsonl",
        "--policy",
        f"hf:{START}",
        "--out",
        folder,
        "--max-new-tokens",
        128,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["collect", *map(str, line), "--max-prompt-tokens", "704"])
        assert collect_trajectories.main() == 0
    return folder / "trajectories.jsonl"


def learn(monkeypatch: pytest.MonkeyPatch, trajectories: Path, out: Path, *more: str) -> dict:
    line = [
        "--policy-dir",
        START,
        "--trajectories",
        trajectories,
        "--out",
        out,
        "--checkpoint",
        out.with_name("policy"),
    ]
    limits = ["--max-prompts", "16", "--max-prompt-tokens", "704", "--max-new-tokens", "128", "--minutes", "1.5"]
    monkeypatch.setattr(sys, "argv", ["rejection_sampling", *map(str, line), *limits, *more])
    assert rejection_sampling.main() == 0
    return json.loads((out / "done.json").read_text())


def test_the_best_responses_are_kept_and_become_more_likely(
    trajectories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = learn(monkeypatch, trajectories, tmp_path / "learned", "--samples", "6")
    rows = [row for _, row in read_jsonl(tmp_path / "learned" / "best.jsonl")]
    assert len(rows) == done["kept"] == done["learned"] > 2
    assert done["kept"] + done["alike"] + done["over_long"] == done["prompts"] == 16
    assert all(row["reward"] > 0 for row in rows)

    from transformers import AutoModelForCausalLM

    from train.policies.prompts import load_tokenizer

    tokenizer = load_tokenizer(START)
    sequences = [rejection_sampling.weighted_sequence(row, tokenizer) for row in rows]
    before, after = (
        Learner(AutoModelForCausalLM.from_pretrained(folder), 0, 1e-4, "adamw").loss(sequences)
        for folder in (START, tmp_path / "policy")
    )
    assert after < before
    assert len(done["losses"]) == rejection_sampling.PASSES and done["updates"] >= rejection_sampling.PASSES

    monkeypatch.setattr(rejection_sampling, "HfPolicy", None)  # the second run must not sample
    assert learn(monkeypatch, trajectories, tmp_path / "learned", "--samples", "6") == done
    assert "already done" in capsys.readouterr().out
    with pytest.raises(BadInput, match="samples"):
        learn(monkeypatch, trajectories, tmp_path / "learned", "--samples", "4")


def test_a_single_sample_per_prompt_is_refused(
    trajectories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="at least 2"):
        learn(monkeypatch, trajectories, tmp_path / "learned", "--samples", "1")


def test_the_prompts_are_those_that_rl_draws(
    trajectories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where long prompts are dropped, which must happen before the draw."""
    limits = ["--max-prompts", "14", "--rollout-batch", "4", "--max-prompt-tokens", "420", "--seed", "3"]
    line = ["--trajectories", trajectories, "--tokenizer", START, "--out", tmp_path / "prompts.jsonl"]
    monkeypatch.setattr(sys, "argv", ["rl_prompts", *map(str, line), *limits])
    assert rl_prompts.main() == 0
    summary = json.loads((tmp_path / "prompts.summary.json").read_text())
    assert summary["over_long"] > 0 and summary["kept"] == 12
    labels = [json.loads(row["label"]) for _, row in read_jsonl(tmp_path / "prompts.jsonl")]
    drawn: list = []

    def no_responses(policy, states, arguments):
        drawn.extend(states)
        raise BadInput("enough")

    monkeypatch.setattr(rejection_sampling, "best_responses", no_responses)
    with pytest.raises(BadInput, match="enough"):
        learn(monkeypatch, trajectories, tmp_path / "learned", *limits)
    assert [(state.id, state.unsolved_set) for state in drawn] == [(row["id"], row["unsolved_set"]) for row in labels]
