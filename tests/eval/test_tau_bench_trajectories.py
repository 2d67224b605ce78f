"""tau-bench's recorded trajectories are converted to replay lines, scored again, and compared by reward."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from eval.tau_bench import parser, run
from eval.tau_bench_trajectories import differences, main, read_trajectories
from reward.tool_calls import parse_turn


def called(name: str, content: str | None = None, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }


def episode(task: int, reward: float, *messages: dict[str, Any]) -> dict[str, Any]:
    opened = [{"role": "system", "content": "rules"}, {"role": "user", "content": "Hello."}]
    return {"task_id": task, "trial": 0, "reward": reward, "info": {}, "traj": [*opened, *messages]}


def said(content: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": content, "tool_calls": None}, {"role": "user", "content": "###STOP###"}]


TOOL = {"role": "tool", "name": "x", "tool_call_id": "c", "content": "..."}
RECORDED = [
    episode(0, 1.0, called("cancel_booking", booking="B1"), TOOL, *said("Cancelled.")),
    episode(1, 0.0, called("read_booking", "One moment.", booking="B1"), TOOL, *said("1200.")),
    episode(2, 1.0, called("transfer_to_human_agents", summary="x"), TOOL),
]


def file(folder: Path, records: Any) -> Path:
    path = folder / "trajectories.json"
    path.write_text(json.dumps(records))
    return path


def test_recorded_episodes_get_the_reward_that_tau_bench_gave_them(
    tau_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines, out = file(tau_folder.parent, RECORDED), tau_folder.parent / "lines.jsonl", tau_folder.parent / "out"
    command = ["trajectories", str(path), "--domain", "airline", "--out", str(lines)]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 0
    replay = f"replay:{lines}"
    flags = ["--policy", replay, "--user-model", replay, "--data", str(tau_folder), "--out", str(out)]
    summary = run(parser().parse_args([*flags, "--domains", "airline", "--limit", "3"]))
    assert (summary["rows"], summary["faults"]) == (3, 0)
    monkeypatch.setattr(sys, "argv", [*command, "--results", str(out)])
    assert main() == 0
    assert "3 of 3 episodes get the same reward" in capsys.readouterr().out
    path.write_text(json.dumps([{**RECORDED[0], "reward": 0.0}, *RECORDED[1:]]))
    assert main() == 1
    said_now = capsys.readouterr().out
    assert "airline/0, trial 0: tau-bench gave 0, this suite 1" in said_now
    assert "2 of 3 episodes" in said_now


def test_turns_keep_content_and_first_call(tmp_path: Path) -> None:
    [_, line, _], left_out = read_trajectories(file(tmp_path, RECORDED), "airline")
    assert left_out == []
    assert line["turns"][0].startswith("One moment.\n<tool_call>")
    assert line["turns"][1] == "1200."
    assert line["user_turns"] == ["Hello.", "###STOP###"]
    assert (line["id"], line["trial"], line["reward"]) == ("airline/1", 0, 0.0)


def test_server_messages_are_parsed_and_an_invalid_item_is_skipped(tmp_path: Path) -> None:
    as_object, without = called("cancel_booking", booking="B1"), called("transfer_to_human_agents")
    as_object["tool_calls"][0]["function"]["arguments"] = {"booking": "B1"}
    without["tool_calls"][0]["function"]["arguments"] = ""
    as_object["content"] = [{"type": "thinking", "thinking": "Sure?"}, {"type": "text", "text": "One moment."}]
    parts = {"role": "user", "content": [{"type": "text", "text": "Hello."}]}
    odd = [{**RECORDED[0], "traj": None}, "text", {**RECORDED[0], "traj": [{"role": "assistant", "content": 5}]}]
    records = [odd[0], episode(1, 1.0, as_object, TOOL, parts, without, TOOL), *odd[1:]]
    [line], left_out = read_trajectories(file(tmp_path, records), "airline")
    turns = [parse_turn(turn, "strict") for turn in line["turns"]]
    assert [(call.name, call.arguments) for turn in turns for call in turn.calls] == [
        ("cancel_booking", {"booking": "B1"}),
        ("transfer_to_human_agents", {}),
    ]
    assert (turns[0].content, turns[0].thinking) == ("One moment.", "Sure?")
    assert line["user_turns"] == ["Hello.", "Hello."]
    assert [reason.split(": ")[1] for reason in left_out] == ["item 0", "item 2", "item 3"]


def test_no_shared_episode_is_not_agreement(tmp_path: Path) -> None:
    lines, _ = read_trajectories(file(tmp_path, RECORDED), "retail")
    assert differences(lines, [{"id": "airline/0", "trial": 0, "reward": 1.0, "failure": ""}]) == (0, [])


@pytest.mark.parametrize(
    "records",
    [
        {"a": 1},
        [],
        [{"task_id": 1}],
        [{**RECORDED[0], "trial": None}],
        [{**RECORDED[0], "traj": ["text"]}],
        [{**RECORDED[0], "traj": [{"role": "assistant", "tool_calls": [{}]}]}],
    ],
)
def test_invalid_files_are_refused_in_one_line(tmp_path: Path, records: Any) -> None:
    with pytest.raises(BadInput, match="expected"):
        read_trajectories(file(tmp_path, records), "airline")
