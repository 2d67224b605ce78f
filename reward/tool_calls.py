"""A model turn's text -> thinking, content, tool calls, malformed calls. Qwen2.5 / Qwen3 (Hermes) tags.

Two readings, as for matching:
- `published` reads exactly as the authors' parser does: everything from the first `<tool_call>` on is cut at each
  `</tool_call>`; a piece counts if it begins with `<tool_call>` and holds a JSON object with a `name` and `arguments`
  (an object, or a string of JSON). Any other piece is dropped. Tags inside the thinking block are tags like any other.
- `strict` reads thinking first and looks for calls outside of it only; JSON decides where a call ends, so that a tag
  inside a string argument is text; a block that is no call is kept as malformed, and counted by the scorer.

Nothing here raises, whatever the text: a megabyte, unclosed tags, lone surrogates, NaN, JSON nested beyond the
recursion limit. The order of the calls is their identity; ids are made where a message leaves us (with_call_ids).

Source: paper/README.md, "Reward for one model turn", defects 6 and 6b.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from env_construction.environment.matching import MATCHES
from env_construction.replies.reply_text import THINK_CLOSE, THINK_OPEN, Span, outside, thinking_spans
from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
# any of these in a turn without a parsed call makes it a malformed call
CALL_MARKS = (CALL_OPEN, CALL_CLOSE, "<tool_parsed_response>")
_END_OF_TURN = ("<|endoftext|>", "<|im_end|>")
_TAG = re.compile("<tool_call>|</tool_call>|<think>|</think>")
_DECODER = json.JSONDecoder()
# a JSON text of this many characters, or with half as many brackets, cannot be nested beyond the recursion limit
_SHALLOW = 400
# inside a call's JSON: a whole string, an escape, or a tag. Possessive, so that a megabyte of it stays linear.
_STRING_OR_TAG = re.compile(rf'"(?:[^"\\\n]++|\\.)*+"|\\.|(?P<tag>{_TAG.pattern})')


@dataclass
class ParsedTurn:
    """One model turn; nothing changes it. `content` is what stands before the first call, or all of it without calls;
    thinking is apart.

    `malformed` are the blocks that look like calls and are none. `calls_in_thinking` counts `<tool_call>` tags inside
    the thinking block: `published` executes those calls (they are in `calls` too), `strict` does not.
    `text` is the raw turn without its end-of-turn tokens.
    """

    thinking: str
    content: str
    calls: tuple[ToolCall, ...]
    malformed: tuple[str, ...]
    calls_in_thinking: int
    text: str


def parse_turn(text: str, match: str = "published") -> ParsedTurn:
    """Read one model turn. `match` is one of MATCHES (ValueError otherwise); no text makes it raise."""
    if match not in MATCHES:
        raise ValueError(f"unknown match {match!r}: expected one of {', '.join(MATCHES)}")
    return _parse_published(text) if match == "published" else _parse_strict(text)


def render_call(call: ToolCall) -> str:
    """The call as Qwen writes it. A tag inside an argument is escaped, so that parse_turn gives back the same call."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    if _TAG.search(body):
        body = body.replace("<", "\\u003c")
    return f"{CALL_OPEN}\n{body}\n{CALL_CLOSE}"


def assistant_message(turn: ParsedTurn) -> dict[str, Any]:
    """The chat message of a turn, OpenAI style; `arguments` stay objects, as chat templates want them."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.content}
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    if turn.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in turn.calls
        ]
    return message


def tool_messages(turn: ParsedTurn, results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    """One message of role `tool` for each call, in order. Raises ValueError if calls and results differ in number."""
    return [
        {"role": "tool", "name": call.name, "content": result.output}
        for call, result in zip(turn.calls, results, strict=True)
    ]


def with_call_ids(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with ids: each call gets one, and each tool message names its call's.

    Servers and some chat templates want ids. They are made of the calls' order alone, nine letters and digits as
    Mistral's templates demand, so that a longer conversation gives the same ids to what it shares with a shorter one.
    """
    numbered: list[dict[str, Any]] = []
    count, open_ids = 0, deque[str]()
    for message in messages:
        new = dict(message)
        if message.get("tool_calls"):
            new["tool_calls"] = [
                {**call, "id": f"call{place:05d}"} for place, call in enumerate(message["tool_calls"], start=count)
            ]
            count += len(new["tool_calls"])
            open_ids = deque(call["id"] for call in new["tool_calls"])
        elif message.get("role") == "tool":
            new["tool_call_id"] = open_ids.popleft() if open_ids else f"none{count:05d}"
        numbered.append(new)
    return numbered


def without_calls(text: str, calls: Sequence[ToolCall | None]) -> str:
    """The text without the blocks of these calls, each of them once, wherever it stands. None is a malformed call.

    The same call may be written in another order of keys, or with a number as text. A malformed block is what a server
    has repaired, where one of the calls stands nowhere else.
    """
    blocks: list[tuple[int, int, ToolCall | None]] = []
    position = 0
    while (start := text.find(CALL_OPEN, position)) >= 0:
        position, call = _read_block(text, start + len(CALL_OPEN))
        blocks.append((start, position, call))
    left = [_identity(call) for call in calls]
    spans: list[tuple[int, int]] = []
    for start, end, call in sorted(blocks, key=lambda block: block[2] is None):
        found = _identity(call)
        if call is None and left and found not in left:
            found = left[0]
        if found in left:
            left.remove(found)
            spans.append((start, end))
    return outside(text, sorted(spans))


def _identity(call: ToolCall | None) -> str:
    return f"{call.name} {json.dumps(call.arguments, sort_keys=True)}".replace('"', "") if call else ""


def _parse_published(raw: str) -> ParsedTurn:
    text = raw.strip()
    for token in _END_OF_TURN:
        text = text.removesuffix(token).strip()
    calls: list[ToolCall] = []
    malformed: list[str] = []
    start = text.find(CALL_OPEN)
    for piece in text[start:].split(CALL_CLOSE) if start >= 0 else ():
        piece = piece.strip()
        if not piece.startswith(CALL_OPEN):
            if CALL_OPEN in piece:
                malformed.append(piece)
            continue
        # the published code strips the tag's characters, not the tag: `<tool_call>call {` reads as `{`
        call = _read_call(piece.lstrip(CALL_OPEN).strip(), named=False)
        if call is None:
            malformed.append(piece)
        else:
            calls.append(call)
    if THINK_OPEN not in text and THINK_CLOSE not in text:
        content = (text[:start] if calls else text).strip()
        return ParsedTurn("", content, tuple(calls), tuple(malformed), 0, text)
    thinking = _scan(text)[0]
    shown = [(begin, min(end, start)) for begin, end in thinking if begin < start] if calls else thinking
    return ParsedTurn(
        thinking=_thinking_text(text, shown),
        content=outside(text[:start] if calls else text, shown),
        calls=tuple(calls),
        malformed=tuple(malformed),
        calls_in_thinking=sum(text.count(CALL_OPEN, begin, end) for begin, end in thinking),
        text=text,
    )


def _read_call(body: str, named: bool) -> ToolCall | None:
    """The call in a stripped JSON text, else None. `arguments` may be a string of JSON.

    The published parser (`named` false) takes what no tool can serve: a name that is a number (kept as its text), and a
    string of JSON that is no object. Such a call fails, and counts in p. With `named` it is no call.
    """
    try:
        value, end = _DECODER.raw_decode(body)
        if end != len(body):
            return None
        name, arguments = value["name"], value["arguments"]
        if not name or isinstance(name, (list, dict)):
            return None
        if not isinstance(arguments, dict):
            arguments = json.loads(arguments)
        if named and not (isinstance(name, str) and isinstance(arguments, dict)):
            return None
        if len(body) > _SHALLOW and body.count("[") + body.count("{") > _SHALLOW // 2:
            json.dumps(arguments)  # nested too deep to be sent to a tool?
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    return ToolCall(name if isinstance(name, str) else json.dumps(name), arguments)


def _parse_strict(raw: str) -> ParsedTurn:
    text = raw.strip()
    while (shorter := _without_end_token(text)) != text:
        text = shorter
    thinking, blocks = _scan(text)
    calls = tuple(call for _, _, call in blocks if call is not None)
    malformed = tuple(text[begin:end] for begin, end, call in blocks if call is None)
    stop = blocks[0][0] if calls else len(text)
    return ParsedTurn(
        thinking=_thinking_text(text, thinking),
        content=outside(text[:stop], thinking),
        calls=calls,
        malformed=malformed,
        calls_in_thinking=sum(text.count(CALL_OPEN, begin, end) for begin, end in thinking),
        text=text,
    )


def _without_end_token(text: str) -> str:
    for token in _END_OF_TURN:
        text = text.removesuffix(token).rstrip()
    return text


def _scan(text: str) -> tuple[list[Span], list[tuple[int, int, ToolCall | None]]]:
    """One pass over the tags: the spans of thinking, and the call blocks outside of it (None: malformed).

    A thinking tag inside a block is text. A `</tool_call>` that nothing opened is a malformed block.
    """
    blocks: list[tuple[int, int, ToolCall | None]] = []

    def block_end(tag: re.Match[str]) -> int:
        end, call = _read_block(text, tag.end()) if tag[0] == CALL_OPEN else (tag.end(), None)
        blocks.append((tag.start(), end, call))
        return end

    thinking = thinking_spans(text, tag=_TAG, skip=block_end)
    shown_from = thinking[0][1] if thinking and thinking[0][0] == 0 else 0  # what a lone </think> made thinking
    return thinking, [block for block in blocks if block[0] >= shown_from]


def _read_block(text: str, start: int) -> tuple[int, ToolCall | None]:
    """The offset behind the block whose opening tag ends at `start`, and its call, or None if it is malformed.

    A block ends at the next tag outside of JSON strings; if that gives no call, at the very next tag.
    """
    tag = next((found for found in _STRING_OR_TAG.finditer(text, start) if found["tag"]), None)
    call = _read_call(text[start : tag.start() if tag else len(text)].strip(), named=True)
    if call is None:
        tag = _TAG.search(text, start)
    if tag is None:
        return len(text), call
    return (tag.end() if tag.group() == CALL_CLOSE else tag.start()), call


def _thinking_text(text: str, thinking: list[Span]) -> str:
    blocks = (text[begin:end].replace(THINK_OPEN, "").replace(THINK_CLOSE, "").strip() for begin, end in thinking)
    return "\n".join(block for block in blocks if block)
