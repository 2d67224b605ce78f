"""Parquet for other trainers: prompts with their labels (TRL, verl), and conversations for supervised training.

Objects without a fixed schema (tool documents, arguments) are columns of type Json of `datasets`. They are text in the
file and objects after loading, and no row gets keys of another row. LLaMA-Factory requires a version of `datasets`
without that type, so its files contain JSON text.
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
READERS = ("trl", "llama-factory")
"""Readers of the `sft` conversations. Axolotl reads the same format as TRL."""
LLAMA_FACTORY_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""The `tags` of its `dataset_info.json`. A turn with calls has a separate role."""


def trl_rows(states: Iterable[Environment], settings: LabelSettings) -> Iterator[dict[str, Any]]:
    """Rows with `prompt` (messages that include the tools), `label`, and the state in `messages` and `tools`."""
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
    """Rows with the columns that verl reads, and the state in `messages` and `tools`."""
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
    """A conversation for supervised training. `scores`: Solve-F1, and whether the answer is correct."""
    return {
        "messages": messages,
        "tools": start.openai_tools(),
        "id": start.id,
        "split": start.split,
        "scenario": start.scenario,
        "source": source,
        **scores,
    }


def sft_row_for(reader: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A conversation in the format of a reader; None if LLaMA-Factory would parse a text as a call."""
    if reader == "trl":
        return dict(row)
    messages = [_with_call_role(message) for message in row["messages"]]
    return None if None in messages else {**row, "tools": json_text(row["tools"]), "messages": messages}


def _with_call_role(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """Calls as a JSON list in one pair of tags, because LLaMA-Factory parses only the first pair."""
    thinking = f"<think>\n{message['reasoning_content']}\n</think>\n\n" if message.get("reasoning_content") else ""
    said = thinking + message["content"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    if not calls:
        return {"role": message["role"], "content": said}
    if "<tool_call>" in said:
        return None
    listed = json_text(calls).replace("<", "\\u003c")  # so that no argument closes the tag
    between = "\n" if said and not said.endswith("\n") else ""
    return {"role": LLAMA_FACTORY_TAGS["function_tag"], "content": f"{said}{between}<tool_call>{listed}</tool_call>"}


def prompt_messages(state: Environment) -> list[dict[str, str]]:
    """The state's messages as roles and texts, with the tools in the system message in Qwen's format.

    GRPO trainers render all prompts of a run with the same tools, but here each environment has its own tools.
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
    """Write `<folder>/<split>.parquet` for each split. Returns the number of rows per split."""
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


def features_of(kind: str, reader: str = "trl") -> Any:
    """The column types of an export."""
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
    columns = (
        {"messages": List(Json()), "tools": List(Json())} if reader == "trl" else {"messages": pair, "tools": string}
    )
    columns.update(dict.fromkeys(("id", "split", "scenario", "source"), string))
    return Features({**columns, "solve_f1": Value("float64"), "answer_correct": Value("bool")})
