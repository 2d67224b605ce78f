"""The policies of assets/: the shape of their row, the hashes of their card, and calls of its tools, in both modes."""

import json
from pathlib import Path

import pytest

from env_construction.building.environment_builder import BuildConfiguration
from env_construction.building.workers import ChunkBuilder
from env_construction.environment.jsonl import file_sha256
from env_construction.environment.schema import Environment
from reward.tool_calls import parse_turn
from train.experiments import MODELS
from train.policies.rollout import play
from train.policies.specs import load_policy
from train.stages.profiles import SIZES
from train.teaching.warm_start_card import HASHED

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.mark.parametrize("size", SIZES)
def test_a_shipped_policy_is_the_one_of_its_row_and_card(size: str) -> None:
    folder, row = ASSETS / f"{size}_policy", MODELS[size]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["num_hidden_layers"], config["hidden_size"]) == (row.layers, row.width)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name in HASHED:
        assert f"`{name}`: {file_sha256(folder / name)}" in card


@pytest.fixture(scope="module")
def built() -> list[Environment]:
    job = BuildConfiguration("facts", "compact", seed=3), "dev", list(range(4))
    return [item.environment for item in ChunkBuilder("facts").build(job)]


@pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thinking"])
@pytest.mark.parametrize("size", SIZES)
def test_a_shipped_policy_begins_with_calls_of_the_tools_it_has(
    size: str, thinking: bool, built: list[Environment]
) -> None:
    policy = load_policy(f"hf:{ASSETS / f'{size}_policy'}", max_new_tokens=192, thinking=thinking, device="cpu")
    for episode in play(policy, built, max_turns=1):
        called = {call.name for call in parse_turn(episode.generations[0].text).calls}
        assert called and called <= {tool.name for tool in episode.start.tools}
