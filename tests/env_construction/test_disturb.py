"""Disturbed environments ask the same, run the same tools, and know the new names alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction import disturb
from env_construction.disturb import LEVELS, disturbed
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import Environment, read_environments, write_environments
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from env_construction.validate import judge


@pytest.fixture
def environments(built: Any) -> list[Environment]:
    found: list[Environment] = built("medium")[:12]
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_every_rule_of_construction_still_holds(level: str, environments: list[Environment], tmp_path: Path) -> None:
    path = tmp_path / f"{level}.jsonl"
    write_environments(path, [disturbed(item, level, 0) for item in environments])
    broken = [finding for _, _, findings in judge(path) for finding in findings if finding.fatal]
    assert not broken


@pytest.mark.parametrize("level", LEVELS)
def test_gold_calls_return_what_they_returned_before(level: str, environments: list[Environment]) -> None:
    with ToolSandbox() as sandbox:
        for item in environments:
            noisy = disturbed(item, level, 0)
            before = sandbox.run(item.codes, [ToolCall(call.name, call.arguments) for call in item.gold_plan])
            after = sandbox.run(noisy.codes, [ToolCall(call.name, call.arguments) for call in noisy.gold_plan])
            assert [result.output for result in after] == [result.output for result in before]
            assert noisy.question == item.question and noisy.answer == item.answer


@pytest.mark.parametrize("level", LEVELS)
def test_names_are_other_names_and_unique(level: str, environments: list[Environment]) -> None:
    for item in environments:
        noisy = disturbed(item, level, 0)
        before, after = [tool.name for tool in item.tools], [tool.name for tool in noisy.tools]
        assert len(set(after)) == len(before)
        assert all(old != new for old, new in zip(before, after, strict=True)) or len(before) == 1
        assert (sorted(before) == sorted(after)) == (level == "heavy")
        assert set(noisy.unsolved_set) <= set(after) == set(noisy.codes)


def test_the_former_names_are_refused(environments: list[Environment]) -> None:
    item = environments[0]
    noisy, gold = disturbed(item, "medium", 0), item.gold_plan[0]
    with ToolSandbox() as sandbox:
        new_name, new_arguments = noisy.gold_plan[0].name, noisy.gold_plan[0].arguments
        for name, arguments in ((gold.name, new_arguments), (new_name, gold.arguments)):
            assert sandbox.run(noisy.codes, [ToolCall(name, arguments)])[0].status != "ok"


def test_a_seed_decides_and_the_place_in_the_file_does_not(environments: list[Environment]) -> None:
    item = environments[4]
    assert disturbed(item, "union", 1) == disturbed(item, "union", 1) != disturbed(item, "union", 2)


def test_environments_without_a_gold_plan_are_refused_by_name(
    environments: list[Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = environments[0].model_copy(update={"gold_plan": [], "id": "bare"})
    write_environments(tmp_path / "in.jsonl", [bare])
    monkeypatch.setattr(sys, "argv", ["disturb", "--data", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        run_main(disturb.main)
    assert stopped.value.code == 2 and "'bare' has no gold plan" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tools_that_take_anything_are_refused_by_name(environments: list[Environment]) -> None:
    item = environments[0].model_copy(deep=True)
    name = item.tools[0].name
    item.codes[name] = f"def {name}(**anything):\n    return 1\n"
    with pytest.raises(BadInput, match=f"tool '{name}': expected one function"):
        disturbed(item, "slight", 0)


def test_a_file_is_written_per_level(
    environments: list[Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_environments(tmp_path / "in.jsonl", environments[:3])
    line = [
        "disturb",
        "--data",
        str(tmp_path / "in.jsonl"),
        "--out",
        str(tmp_path),
        "--levels",
        "slight",
        "union",
        "--limit",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", line)
    assert disturb.main() == 0
    assert [len(list(read_environments(tmp_path / f"{level}.jsonl"))) for level in ("slight", "union")] == [2, 2]
