"""What readers of conversations share: the oracle's conversations as they are exported, and what a trainer learns from them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.schema import Environment
from reward.tool_calls import parse_turn
from serving.exports.cards import write_card
from serving.exports.labels import LabelSettings
from serving.exports.tables import features_of, sft_row, sft_row_for, write_tables


@pytest.fixture
def written(environments: list[Environment], tmp_path: Path) -> Callable[[str], Path]:
    """The folder of the oracle's conversations for a reader. One thinks before its first call."""
    # here, since OpenEnv's and verifiers' environments lack what these need
    from train.policies.interface import OraclePolicy
    from train.policies.rollout import Episode, play

    def write(reader: str) -> Path:
        played: dict[str, Episode] = {}
        play(OraclePolicy(), environments, match="strict", on_episode=lambda e: played.update({e.id: e}))
        rows = []
        for environment in environments:
            messages = played[environment.id].environment.messages
            if environment is environments[-1]:
                said = next(message for message in messages if message["role"] == "assistant")
                said["reasoning_content"] = "First the capitals."
            row = sft_row(environment, messages, "oracle", solve_f1=1.0, answer_correct=True)
            rows.append(sft_row_for(reader, row))
        folder = tmp_path / "exported"
        counts = write_tables(folder, [row for row in rows if row], features_of("sft", reader))
        write_card(folder, "sft", counts, LabelSettings("solve_f1", "strict", "turn"), reader)
        return folder

    return write


@pytest.fixture
def learned(environments: list[Environment]) -> Callable[[Iterable[Mapping[str, Any]], Any], None]:
    """Checks that tokenized rows hold all tool documents, and that what is learned is the gold plan's calls and the answer."""

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
