"""The gap between sampler and trainer: zero where they are one model, seen where they are not."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from env_construction.environment.jsonl import BadInput, write_jsonl
from train import logprob_gap
from train.logprob_gap import Gap, Sampled, compare, load_trainers_model, read_prompts, trainer_log_probs
from train.policies.prompts import load_tokenizer, template_sha256


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return load_trainers_model(str(tiny_checkpoint))


def sample(model: Any, prompts: list[list[int]], temperature: float, noise: float = 0.0) -> list[Sampled]:
    """A sampler that goes token by token and keeps the log-probability that it drew each one with."""
    generator = torch.Generator().manual_seed(1)
    sampled = []
    for prompt in prompts:
        ids, log_probs = list(prompt), []
        for _ in range(7):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].float() / temperature
            row = torch.log_softmax(logits + noise * torch.randn(logits.shape, generator=generator), -1)
            token = int(torch.multinomial(row.exp(), 1, generator=generator))
            ids.append(token)
            log_probs.append(row[token].item())
        sampled.append(Sampled(prompt, ids[len(prompt) :], log_probs))
    return sampled


PROMPTS = [[5, 9, 11, 40], [7, 8], [3] * 20]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_no_gap_where_the_sampler_is_the_trainers_model(model: Any, temperature: float) -> None:
    sampled = sample(model, PROMPTS, temperature)
    gap = compare(sampled, trainer_log_probs(model, sampled, temperature))
    assert (gap.responses, gap.tokens) == (3, 21)
    assert gap.max_abs < 1e-5 and gap.beyond_clip == 0.0 and gap.warning == ""


def test_another_temperature_or_noise_is_seen(model: Any) -> None:
    sampled = sample(model, PROMPTS, 1.0)
    assert compare(sampled, trainer_log_probs(model, sampled, 0.3)).warning
    noisy = sample(model, PROMPTS, 1.0, noise=2.0)
    gap = compare(noisy, trainer_log_probs(model, noisy, 1.0))
    assert gap.mean_abs > logprob_gap.MEAN_WARNS and gap.mean > 0, "what was sampled is what the sampler held likelier"


def test_the_numbers() -> None:
    sampled = [Sampled([1], [2, 3], [-1.0, -2.0]), Sampled([1], [4, 5], [-0.5, -0.5])]
    gap = compare(sampled, [[-1.5, -2.0], [-0.4, -0.5]])
    assert gap.mean_abs == pytest.approx(0.15) and gap.max_abs == pytest.approx(0.5)
    assert gap.mean == pytest.approx(0.1) and gap.beyond_clip == 0.25
    with pytest.raises(BadInput, match="nothing to compare"):
        compare([], [])


@pytest.mark.parametrize(
    ("mean_abs", "beyond_clip", "warning"),
    [(0.01, 0.0, ""), (0.03, 0.0, "mean gap"), (0.01, 0.02, "clip range"), (math.nan, 0.0, "not a number")],
)
def test_the_rule(mean_abs: float, beyond_clip: float, warning: str) -> None:
    found = Gap(1, 100, mean_abs, 1.0, 0.0, beyond_clip).warning
    assert warning in found and bool(warning) == bool(found)


def test_the_command_writes_and_warns(
    tiny_checkpoint: Path,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """vLLM takes half a minute to start, so a slow sampler of the same model replaces it. Run the real one by hand."""
    write_jsonl(
        tmp_path / "prompts.jsonl", [{"prompt": f"Question: {name}?", "label": "{}"} for name in ("Peru", "Fiji")]
    )
    for noise, warned in ((0.0, False), (0.5, True)):
        monkeypatch.setattr(
            logprob_gap,
            "sample_with_vllm",
            lambda _, prompts, *, temperature, noise=noise, **__: sample(model, prompts, temperature, noise),
        )
        out = tmp_path / f"gap-{noise}.json"
        line = ["--policy", str(tiny_checkpoint), "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["logprob_gap", *line])
        assert logprob_gap.main() == 0
        found, captured = json.loads(out.read_text()), capsys.readouterr()
        assert (found["responses"], found["tokens"], bool(found["warning"])) == (2, 14, warned)
        assert ("health: the mean gap" in captured.err) == warned
        assert "log-probability gap over 14 tokens of 2 responses" in captured.out


def test_prompts_of_another_template_or_length_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tokenizer, path = load_tokenizer(tiny_checkpoint), tmp_path / "prompts.jsonl"
    good = {"prompt": "Question: Peru?", "template_sha256": template_sha256(tokenizer)}
    write_jsonl(path, [good, {**good, "prompt": good["prompt"] * 50}, good])
    length = len(tokenizer(good["prompt"])["input_ids"])
    assert [len(ids) for ids in read_prompts(path, tokenizer, 5, length)] == [length, length]
    assert len(read_prompts(path, tokenizer, 1, length)) == 1
    with pytest.raises(BadInput, match="no prompt of at most 1 tokens"):
        read_prompts(path, tokenizer, 5, 1)
    write_jsonl(path, [{**good, "template_sha256": "0"}])
    with pytest.raises(BadInput, match=r"prompts\.jsonl:1: rendered with another chat template"):
        read_prompts(path, tokenizer, 5, length)
