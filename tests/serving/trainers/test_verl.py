"""verl itself, on what `serving.export --to verl` wrote: its configuration, its data set, its reward manager and its loader of rewards.

Runs in an environment of its own (.ci/faces.sh); verl is no dependency of the project. Its trainer needs GPUs and is not run.
"""

import asyncio
import re
import shlex
from pathlib import Path

import pytest

from env_construction.environment.matching import MATCHES
from serving.exports.cards import write_card
from serving.exports.labels import LabelSettings, label_of
from serving.exports.tables import features_of, prompt_messages, verl_rows, write_tables
from tests.serving.recorded_episodes import RAW, SCRIPTED, digits, episodes, expected, raw_episodes, texts_of

pytest.importorskip("verl", reason="verl lives in an environment of its own: .ci/faces.sh")
import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.dataset.rl_dataset import RLHFDataset

ROOT = Path(__file__).resolve().parents[3]
BETWEEN = "<|im_end|>\n<|im_start|>user\n<tool_response>\nout\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ROOT / "assets/tiny_policy")


@pytest.fixture
def configured(environments, tmp_path, monkeypatch) -> DictConfig:
    """verl's configuration with what the card's command sets, for the folder that was exported."""
    settings = LabelSettings("solve_f1", "strict", "turns")
    counts = write_tables(tmp_path / "out", verl_rows(environments, settings), features_of("verl"))
    write_card(tmp_path / "out", "verl", counts, settings, "trl")
    [command] = re.findall(r"main_ppo (.*?)\n```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=shlex.split(command.replace("\\\n", " ")))
    config.data.train_files = str(tmp_path / "out" / config.data.train_files)
    return config


def test_its_data_set_holds_every_prompt_and_label(configured, environments, tokenizer):
    configured.data.max_prompt_length = 4096
    rows = RLHFDataset(configured.data.train_files, tokenizer, configured.data)
    assert len(rows) == len(environments)
    for row, environment in zip(rows, environments, strict=True):
        assert row["raw_prompt"] == prompt_messages(environment)
        assert row["reward_model"]["ground_truth"] == label_of(
            environment, LabelSettings("solve_f1", "strict", "turns")
        )


def test_its_reward_manager_gives_the_scorers_digits(configured, environments, tokenizer, sandbox):
    async def main() -> None:
        manager = load_reward_manager(configured, tokenizer)
        recorded = [(environment, texts_of(turns)) for environment, turns in episodes(environments, SCRIPTED)]
        recorded += raw_episodes(environments, RAW)
        for number, (environment, texts) in enumerate(item for item in recorded if item[1]):
            match = MATCHES[number % 2]
            label = label_of(environment, LabelSettings("solve_f1", match, "turns"))
            response = tokenizer(BETWEEN.join(texts), add_special_tokens=False, return_tensors="pt")["input_ids"]
            wanted = expected(environment, spoken(tokenizer, texts), match, sandbox)
            found = await manager.run_single(rollout(response, label))
            assert digits(found["reward_score"]) == digits(wanted["rewards"]["turns"])
            assert digits(found["reward_extra_info"]["solve_f1"]) == digits(wanted["score"]["solve_f1"])

    asyncio.run(main())


def spoken(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """The turns as verl decodes them: special tokens are gone."""
    return [
        tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
        for text in texts
    ]


def rollout(response: torch.Tensor, label: str) -> DataProto:
    """One row as verl's rollout leaves it: the prompt's mask before the response's."""
    columns = {"data_source": "ftrl", "reward_model": {"ground_truth": label}, "extra_info": {"index": 0}}
    return DataProto.from_dict(
        tensors={"responses": response, "attention_mask": torch.ones(1, response.shape[-1] + 1, dtype=torch.long)},
        non_tensors={name: np.array([value], dtype=object) for name, value in columns.items()},
    )
