"""A model turn's text -> thinking, content, tool calls, malformed calls. Qwen2.5 / Qwen3 (Hermes) tags.

There are two readings, as for matching:
- `published` works exactly as the authors' parser. It splits everything from the first `<tool_call>` on at each
  `</tool_call>`. A piece is a call if it begins with `<tool_call>` and holds a JSON object with a `name` and
  `arguments` (an object, or a string of JSON). Any other piece is dropped. Tags inside the thinking block count like
  any other.
- `strict` separates thinking first and looks for calls only outside it. JSON decides where a call ends, so a tag inside
  a string argument is text. A block that is not a call is kept as malformed, and the scorer counts it.

No text makes a function here raise: a megabyte, unclosed tags, lone surrogates, NaN, JSON nested beyond the recursion
limit. Calls are identified by their order; with_call_ids adds ids when messages leave the project.

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
# a turn that contains any of these but no parsed call is a malformed call
CALL_MARKS = (CALL_OPEN, CALL_CLOSE, "<tool_parsed_response>")
_END_OF_TURN = ("<|endoftext|>", "<|im_end|>")
_TAG = re.compile("<tool_call>|</tool_call>|<think>|</think>")
_DECODER = json.JSONDecoder()
# a JSON text that is shorter than this, or has less than half as many brackets, cannot exceed the recursion limit
_SHALLOW = 400
# inside a call's JSON: a complete string, an escape, or a tag. Possessive, so that a megabyte takes linear time.
_STRING_OR_TAG = re.compile(rf'"(?:[^"\\\n]++|\\.)*+"|\\.|(?P<tag>{_TAG.pattern})')


@dataclass
class ParsedTurn:
    """One model turn. Treat it as immutable.

    `content` is the text before the first call, or all text if there is no call; thinking is stored separately.
    `malformed` are the blocks that look like calls but are not. `calls_in_thinking` counts `<tool_call>` tags inside
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
    """Parse one model turn. `match` is one of MATCHES (ValueError otherwise). No text makes it raise."""
    if match not in MATCHES:
        raise ValueError(f"unknown match {match!r}: expected one of {', '.join(MATCHES)}")
    return _parse_published(text) if match == "published" else _parse_strict(text)


def render_call(call: ToolCall) -> str:
    """The call in Qwen's format. Tags inside an argument are escaped, so parse_turn returns the same call."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    if _TAG.search(body):
        body = body.replace("<", "\\u003c")
    return f"{CALL_OPEN}\n{body}\n{CALL_CLOSE}"


def assistant_message(turn: ParsedTurn) -> dict[str, Any]:
    """The chat message of a turn, OpenAI style. `arguments` stay objects, as chat templates require."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.content}
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    if turn.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in turn.calls
        ]
    return message


def tool_messages(turn: ParsedTurn, results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    """One message of role `tool` per call, in order. Raises ValueError if calls and results differ in number."""
    return [
        {"role": "tool", "name": call.name, "content": result.output}
        for call, result in zip(turn.calls, results, strict=True)
    ]


def with_call_ids(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add ids to the messages: each call gets one, and each tool message refers to its call's id.

    Servers and some chat templates require ids. An id depends only on the call's position, so messages that two
    conversations share get the same ids. It has nine letters and digits, as Mistral's templates require.
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
    """The text without the blocks of these calls, each removed once, wherever it is. None is a malformed call.

    A block matches the same call with keys in another order, or with a number as text. A malformed block is removed if
    one of the calls has no other block: a server then repaired it.
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
        # the published code strips the tag's characters, not the tag: `<tool_call>call {` becomes `{`
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
    """The call in a stripped JSON text, or None. `arguments` may be a string of JSON.

    The published parser (`named` false) accepts calls that no tool can serve: a number as name (kept as its text), or a
    string of JSON that is not an object. Such a call fails and counts in p. With `named`, it is not a call.
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
            json.dumps(arguments)  # raises if it is nested too deep to be sent to a tool
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
    """Scan the tags once: the spans of thinking, and the call blocks outside them (None: malformed).

    A thinking tag inside a block is text. An unopened `</tool_call>` is a malformed block.
    """
    blocks: list[tuple[int, int, ToolCall | None]] = []

    def block_end(tag: re.Match[str]) -> int:
        end, call = _read_block(text, tag.end()) if tag[0] == CALL_OPEN else (tag.end(), None)
        blocks.append((tag.start(), end, call))
        return end

    thinking = thinking_spans(text, tag=_TAG, skip=block_end)
    shown_from = thinking[0][1] if thinking and thinking[0][0] == 0 else 0  # text before a lone </think> is thinking
    return thinking, [block for block in blocks if block[0] >= shown_from]


def _read_block(text: str, start: int) -> tuple[int, ToolCall | None]:
    """The offset after the block whose opening tag ends at `start`, and its call, or None if it is malformed.

    A block ends at the next tag outside JSON strings. If that gives no call, it ends at the very next tag.
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
