"""verl's configuration, data set, reward loader and reward manager, on the output of `serving.export --to verl`.

Runs in a separate environment (.ci/faces.sh); verl is not a dependency of the project. Its trainer requires GPUs and is
not run.
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

pytest.importorskip("verl", reason="verl is installed in a separate environment: run .ci/faces.sh")
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
    """verl's configuration with the options of the card's command, for the exported folder."""
    settings = LabelSettings("solve_f1", "strict", "turns")
    counts = write_tables(tmp_path / "out", verl_rows(environments, settings), features_of("verl"))
    write_card(tmp_path / "out", "verl", counts, settings, "trl")
    [command] = re.findall(r"main_ppo (.*?)\n```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=shlex.split(command.replace("\\\n", " ")))
    config.data.train_files = str(tmp_path / "out" / config.data.train_files)
    return config


def test_verl_data_set_has_every_prompt_and_label(configured, environments, tokenizer):
    configured.data.max_prompt_length = 4096
    rows = RLHFDataset(configured.data.train_files, tokenizer, configured.data)
    assert len(rows) == len(environments)
    for row, environment in zip(rows, environments, strict=True):
        assert row["raw_prompt"] == prompt_messages(environment)
        assert row["reward_model"]["ground_truth"] == label_of(
            environment, LabelSettings("solve_f1", "strict", "turns")
        )


def test_verl_reward_manager_returns_the_scorers_exact_rewards(configured, environments, tokenizer, sandbox):
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
    """The turns as verl decodes them, without special tokens."""
    return [
        tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
        for text in texts
    ]


def rollout(response: torch.Tensor, label: str) -> DataProto:
    """One row in the format of verl's rollout: the attention mask covers the prompt and the response."""
    columns = {"data_source": "ftrl", "reward_model": {"ground_truth": label}, "extra_info": {"index": 0}}
    return DataProto.from_dict(
        tensors={"responses": response, "attention_mask": torch.ones(1, response.shape[-1] + 1, dtype=torch.long)},
        non_tensors={name: np.array([value], dtype=object) for name, value in columns.items()},
    )
