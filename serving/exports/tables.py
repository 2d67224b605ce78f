"""Parquet for other trainers: prompts with their labels (TRL, verl), and conversations for supervised training.

Objects of no fixed shape (tool documents, arguments) are columns of the type Json of `datasets`: text in the file, objects once loaded,
and no key is filled in from another row. Conversations can be written with plain JSON text instead, for readers without
that type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import json_text
from env_construction.environment.schema import Environment
from serving.episodes.recorded import turn_text
from serving.exports.labels import LabelSettings, label_of

FORMATS = ("trl", "verl", "sft")


def trl_rows(states: Iterable[Environment], settings: LabelSettings) -> Iterator[dict[str, Any]]:
    """`prompt` as messages that hold the tools, for GRPO and its kin; the state itself in `messages` and `tools`."""
    for state in states:
        yield {
            "prompt": prompt_messages(state),
            "label": label_of(state, settings),
            "id": state.id,
            "split": state.split,
            "messages": state.messages,
            "tools": state.openai_tools(),
        }


def verl_rows(states: Iterable[Environment], settings: LabelSettings) -> Iterator[dict[str, Any]]:
    """The columns that verl reads, and the state itself."""
    for index, state in enumerate(states):
        yield {
            "data_source": state.data_source or "ftrl",
            "prompt": prompt_messages(state),
            "ability": "tool_use",
            "reward_model": {"style": "rule", "ground_truth": label_of(state, settings)},
            "extra_info": {"index": index, "split": state.split, "id": state.id},
            "messages": json_text(state.messages),
            "tools": json_text(state.openai_tools()),
        }


def sft_row(start: Environment, messages: list[dict[str, Any]], source: str, **scores: Any) -> dict[str, Any]:
    """A conversation to imitate. `scores`: Solve-F1 and whether the answer is right."""
    return {
        "messages": messages,
        "tools": start.openai_tools(),
        "id": start.id,
        "split": start.split,
        "scenario": start.scenario,
        "source": source,
        **scores,
    }


def as_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation with tools and arguments as JSON text, every message with the same keys."""
    return {**row, "tools": json_text(row["tools"]), "messages": [_plain(message) for message in row["messages"]]}


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {
            "type": "function",
            "function": {"name": call["function"]["name"], "arguments": json_text(call["function"]["arguments"])},
        }
        for call in message.get("tool_calls") or ()
    ]
    thinking = f"<think>\n{message['reasoning_content']}\n</think>\n\n" if message.get("reasoning_content") else ""
    return {"role": message["role"], "content": thinking + message["content"], "tool_calls": calls or None}


def prompt_messages(state: Environment) -> list[dict[str, str]]:
    """The state's messages as roles and texts alone, the tools in the system message as Qwen's templates write them.

    GRPO trainers render all prompts of a run with the same tools; here each environment has its own.
    """
    texts = [
        {
            "role": message["role"],
            "content": turn_text(message) if message["role"] == "assistant" else message["content"],
        }
        for message in state.messages
    ]
    system = texts.pop(0)["content"] + "\n\n" if texts and texts[0]["role"] == "system" else ""
    tools = "\n".join(json_text(tool) for tool in state.openai_tools())
    return [{"role": "system", "content": system + _TOOLS.replace("{tools}", tools)}, *texts]


_TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def write_tables(folder: Path, rows: Iterable[Mapping[str, Any]], features: Any) -> dict[str, int]:
    """`<folder>/<split>.parquet` for each split of the rows; returns how many rows each has."""
    from datasets import Dataset

    by_split: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_split.setdefault(_split(row) or "train", []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in by_split.items():
        partial = folder / f"{split}.parquet.partial"
        Dataset.from_list([dict(row) for row in some], features=features).to_parquet(str(partial))
        partial.replace(folder / f"{split}.parquet")
    return {split: len(some) for split, some in by_split.items()}


def _split(row: Mapping[str, Any]) -> str:
    return str(row.get("split") or row.get("extra_info", {}).get("split", ""))


def features_of(kind: str, text: bool = False) -> Any:
    """The columns' types. `text`: conversations with JSON text."""
    from datasets import Features, Json, List, Value

    string = Value("string")
    pair = List({"role": string, "content": string})
    if kind == "trl":
        columns: dict[str, Any] = {"prompt": pair, "label": string, "id": string, "split": string}
        return Features({**columns, "messages": List(Json()), "tools": List(Json())})
    if kind == "verl":
        columns = {"data_source": string, "prompt": pair, "ability": string}
        columns["reward_model"] = {"style": string, "ground_truth": string}
        columns["extra_info"] = {"index": Value("int64"), "split": string, "id": string}
        return Features({**columns, "messages": string, "tools": string})
    call = {"type": string, "function": {"name": string, "arguments": string}}
    message = {"role": string, "content": string, "tool_calls": List(call)}
    columns = (
        {"messages": List(message), "tools": string} if text else {"messages": List(Json()), "tools": List(Json())}
    )
    columns.update(dict.fromkeys(("id", "split", "scenario", "source"), string))
    return Features({**columns, "solve_f1": Value("float64"), "answer_correct": Value("bool")})
