"""Messages of environment records: the content is text or text parts, or the record is rejected by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment, read_environments

TEXT = {"type": "text", "text": "How deep is it?"}
CALLS = [{"type": "function", "function": {"name": "f", "arguments": {}}}]


def record(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages), "tools": "[]", "codes": "{}", "unsolved_set": "{}"}


def read(tmp_path: Path, *messages: Any) -> Environment:
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps(record(*messages)) + "\n")
    [environment] = read_environments(path)
    return environment


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("How deep is it?", "How deep is it?"),
        ([TEXT], "How deep is it?"),
        (TEXT, "How deep is it?"),
        ([TEXT, {"type": "text", "text": "Call the tool."}], "How deep is it?\nCall the tool."),
        (["How deep is it?"], "How deep is it?"),
    ],
)
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_text_parts_are_read_as_their_text(tmp_path: Path, role: str, content: Any, text: str) -> None:
    environment = read(tmp_path, {"role": role, "content": content}, {"role": "user", "content": content})
    assert [message["content"] for message in environment.messages] == [text, text]
    assert environment.question == text
    assert Environment.from_record(environment.to_record()) == environment


def test_an_assistant_may_call_without_text_and_its_thinking_is_separate(tmp_path: Path) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "42?"}]}
    environment = read(
        tmp_path,
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "assistant", "tool_calls": CALLS},
        {"role": "assistant", "content": [thinking, TEXT]},
    )
    assert [message["content"] for message in environment.messages] == ["", "", TEXT["text"]]
    assert environment.messages[2]["reasoning_content"] == "42?"


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"role": "system", "content": None}, "nothing"),
        ({"role": "user"}, "nothing"),
        ({"role": "user", "content": []}, "nothing"),
        ({"role": "tool", "content": None}, "nothing"),
        ({"role": "assistant", "content": None}, "tool_calls"),
        ({"role": "user", "content": [{"type": "thinking", "thinking": "42?"}]}, "thinking"),
        (
            {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": "x"}}]},
            "part 1: .*'image_url'",
        ),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "part 0: .*whose text is null"),
        ({"role": "tool", "content": {"depth": 42}}, "depth"),
        ({"role": "user", "content": 42}, "int"),
    ],
)  # fmt: skip
def test_content_that_is_not_text_is_rejected_by_line_and_key(
    tmp_path: Path, message: dict[str, Any], found: str
) -> None:
    with pytest.raises(BadInput, match=rf"e\.jsonl:1: key 'messages\.1\.content': (?=.*expected).*{found}"):
        read(tmp_path, {"role": "user", "content": "?"}, message)


def test_a_message_that_is_not_an_object_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"key 'messages\.0': Input should be a valid dictionary"):
        read(tmp_path, "text")
