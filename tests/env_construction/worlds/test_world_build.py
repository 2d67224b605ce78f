"""Worlds build verified environments on every level, from the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from env_construction.build import main as build
from env_construction.building.environment_builder import BuildConfiguration, build_chunk
from env_construction.environment.matching import strict_match
from env_construction.environment.schema import read_environments
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from env_construction.worlds.domains import catalog
from env_construction.worlds.world_author import WorldAuthor


@pytest.mark.parametrize("level", ["compact", "medium", "paper"])
def test_build_writes_the_same_verified_environments_twice(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        counts = ["--n-train", "3", "--n-dev", "0", "--n-test", "0"]
        options = ["--author", "worlds", "--level", level, *counts, "--no-parquet", "--out", str(tmp_path / name)]
        monkeypatch.setattr("sys.argv", ["build", *options])
        build()
    assert len(list(read_environments(tmp_path / "a" / "train.jsonl"))) == 3
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (tmp_path / "b" / "train.jsonl").read_bytes()


def test_optional_arguments_of_gold_calls_are_needed(construction_sandbox: ToolSandbox) -> None:
    """A gold call that leaves out one of its optional arguments does not find the answer."""
    configuration = BuildConfiguration("worlds", "medium", 5)
    built = build_chunk(WorldAuthor(), configuration, "train", list(range(24)), construction_sandbox)
    left_out = 0
    for environment in (item.environment for item in built):
        required = {tool.name: tool.parameters["required"] for tool in environment.tools}
        answers = {item.id: item.answer for item in environment.sub_questions}
        for call in environment.gold_plan:
            for name in call.arguments.keys() - set(required[call.name]):
                arguments = {key: value for key, value in call.arguments.items() if key != name}
                [result] = construction_sandbox.run(environment.codes, [ToolCall(call.name, arguments)])
                assert not (result.ok and strict_match(answers[call.sub_question], result.output)), (call, name)
                left_out += 1
    assert left_out


def test_words_that_yaml_parses_as_booleans_stay_text() -> None:
    for kind in catalog().types.values():
        assert kind.attributes and all(isinstance(attribute.ask, str) for attribute in kind.attributes.values())
