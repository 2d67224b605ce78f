"""Fixtures for the readers of conversations: exported gold conversations, and a check of the tokens with loss."""

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.schema import Environment, write_environments
from reward.tool_calls import parse_turn

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def written(environments: list[Environment], tmp_path: Path) -> Callable[[str], Path]:
    """Exports gold conversations for a reader with the project's environment. The last conversation has thinking."""

    def write(reader: str) -> Path:
        write_environments(tmp_path / "environments.jsonl", environments)
        lines = [conversation(environment, thinks=environment is environments[-1]) for environment in environments]
        (tmp_path / "trajectories.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        command = [ROOT / ".venv/bin/python", "-m", "serving.export", "--to", "sft", "--reader", reader]
        command += ["--data", tmp_path / "environments.jsonl", "--trajectories", tmp_path / "trajectories.jsonl"]
        subprocess.run([*command, "--out", tmp_path / "exported"], cwd=ROOT, check=True)
        return tmp_path / "exported"

    return write


def conversation(environment: Environment, thinks: bool) -> dict[str, Any]:
    """A row in the format of train.collect_trajectories: the complete gold plan in one turn, then the answer."""
    plan = [
        {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in environment.gold_plan
    ]
    said: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": plan}
    if thinks:
        said["reasoning_content"] = "First the capitals."
    outputs = [{"role": "tool", "name": call.name, "content": "out"} for call in environment.gold_plan]
    ending = {"role": "assistant", "content": f"The answer is {environment.answer}."}
    return {
        "id": environment.id,
        "prefixes": [],
        "environment": environment.to_record(),
        "messages": [*environment.messages, said, *outputs, ending],
        "solve_f1": 1.0,
        "answer_correct": True,
    }


@pytest.fixture
def learned(environments: list[Environment]) -> Callable[[Iterable[Mapping[str, Any]], Any], None]:
    """Checks that tokenized rows have all tool documents, and that only the gold calls and the answer have labels."""

    def check(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> None:
        for row, environment in zip(rows, environments, strict=True):
            everything = tokenizer.decode(row["input_ids"])
            assert all(tool.name in everything and tool.description in everything for tool in environment.tools)
            text = tokenizer.decode([token for token in row["labels"] if token != -100])
            turns = [turn for turn in text.split("<|im_end|>") if turn.strip()]
            calls = [call for turn in turns for call in parse_turn(turn, "strict").calls]
            assert [(call.name, call.arguments) for call in calls] == [
                (call.name, call.arguments) for call in environment.gold_plan
            ]
            assert str(environment.answer) in turns[-1] and "<tool_response>" not in text
            assert ("First the capitals." in text) == (environment is environments[-1])

    return check
