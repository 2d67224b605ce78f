"""The content of a chat message: a text, a list of typed parts, or nothing -> its text, and its thinking apart from it.

Servers answer so and files hold such messages. Only text is read; a part of another kind (an image, a document) is
refused by its name, and nothing is ever turned into text by `str()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_TEXT_TYPES = ("text", "output_text", "input_text", "summary_text")
_THINKING_TYPES = ("thinking", "reasoning", "reasoning_content", "redacted_thinking")
_THINKING_KEYS = ("thinking", "reasoning", "reasoning_content", "text", "summary", "content")


class MessageContent(NamedTuple):
    """What a message says, and what its author thought."""

    text: str = ""
    thinking: str = ""


def read_content(value: Any, between: str = "") -> MessageContent:
    """The content of a message. `between` joins text parts: a server's reply is cut into pieces, a user writes
    paragraphs.

    Raises ValueError, naming the part, for what holds no text.
    """
    if value is None:
        return MessageContent()
    if isinstance(value, str):
        return MessageContent(value)
    texts: list[str] = []
    thoughts: list[str] = []
    for place, part in enumerate([value] if isinstance(value, Mapping) else _as_list(value)):
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind in _THINKING_TYPES:
            found = next((part[key] for key in _THINKING_KEYS if part.get(key)), None)
            inner = read_content(found, between)
            thoughts += [inner.thinking, inner.text]
            continue
        text = part
        if isinstance(part, Mapping):
            text = part.get("refusal") if kind == "refusal" else part.get("text") if kind in _TEXT_TYPES else None
        if not isinstance(text, str):
            raise ValueError(f"part {place}: expected a text part, got {_described(part)}")
        (thoughts if isinstance(part, Mapping) and part.get("thought") is True else texts).append(text)
    return MessageContent(between.join(texts), "\n".join(thought for thought in thoughts if thought))


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ValueError(f"expected a text or a list of text parts, got {_described(value)}")


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        if value.get("type", "text") in _TEXT_TYPES and "text" in value:
            return f"a part whose text is {_described(value['text'])}"
        return f"an object of type {value['type']!r}" if "type" in value else f"an object with the keys {sorted(value)}"
    return "null" if value is None else type(value).__name__
