"""Every spec gives its policy; what is no spec is refused with those that there are."""

import json

import pytest

from env_construction.environment.jsonl import BadInput
from train.policies.interface import OraclePolicy, RandomPolicy, ReplayPolicy
from train.policies.specs import load_policy


def test_policies_without_a_model(tmp_path) -> None:
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text(json.dumps({"id": "a", "turns": ["x"]}) + "\n")
    assert isinstance(load_policy("oracle"), OraclePolicy)
    assert isinstance(load_policy("random", seed=3), RandomPolicy)
    assert isinstance(load_policy(f"replay:{recorded}"), ReplayPolicy)


def test_folder_alone_means_hf(tiny_checkpoint) -> None:
    assert load_policy(str(tiny_checkpoint), device="cpu").name == f"hf:{tiny_checkpoint}"


@pytest.mark.parametrize("spec", ["", "oracel", "replay:", "hf:", "openai:gpt", "/no/such/folder", "oracle:x"])
def test_unknown_spec_names_the_valid_ones(spec) -> None:
    with pytest.raises(BadInput, match=r"unknown policy.*oracle, random, replay:FILE, hf:DIR"):
        load_policy(spec)


def test_openai_spec_needs_a_url() -> None:
    with pytest.raises(BadInput, match="base URL"):
        load_policy("openai:model@localhost:8000")
