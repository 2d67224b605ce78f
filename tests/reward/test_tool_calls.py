"""Parsing a model turn: all habits of the published parser, the fixes of the strict one, and never an exception."""

import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult
from reward.tool_calls import assistant_message, parse_turn, render_call, tool_messages

F = '{"name": "f", "arguments": {"x": 1}}'
G = '{"name": "g", "arguments": {}}'
CALL_F, CALL_G = ToolCall("f", {"x": 1}), ToolCall("g", {})


def block(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


# text -> (calls in published, calls in strict, malformed blocks in strict)
TURNS = {
    "one call": (block(F), [CALL_F], [CALL_F], 0),
    "several calls": (block(F) + "\n" + block(G), [CALL_F, CALL_G], [CALL_F, CALL_G], 0),
    "text before": ("I look it up.\n" + block(F), [CALL_F], [CALL_F], 0),
    "text after": (block(F) + "\nDone.", [CALL_F], [CALL_F], 0),
    # published drops a piece that does not begin with the tag, including its call
    "text between": (block(F) + " and " + block(G), [CALL_F], [CALL_F, CALL_G], 0),
    "end-of-turn tokens": (block(F) + "<|im_end|><|endoftext|>\n", [CALL_F], [CALL_F], 0),
    "no line breaks": (f"<tool_call>{F}</tool_call>", [CALL_F], [CALL_F], 0),
    "unclosed at the end": (block(F) + f"<tool_call>{G}", [CALL_F, CALL_G], [CALL_F, CALL_G], 0),
    "unclosed before another": (f"<tool_call>{F}\n{block(G)}", [], [CALL_F, CALL_G], 0),
    "opening tag twice": (f"<tool_call>{block(F)}", [CALL_F], [CALL_F], 1),
    "tag letters before the JSON": (f"<tool_call>tool_call{F}</tool_call>", [CALL_F], [], 1),
    "closing tag twice": (block(F) + "</tool_call>", [CALL_F], [CALL_F], 1),
    "closing tag only": (F + "</tool_call>", [], [], 1),
    "broken JSON": (block('{"name": "f", "arguments": {'), [], [], 1),
    "broken beside a call": (block("{oops") + block(F), [CALL_F], [CALL_F], 1),
    "two objects in a block": (block(F + G), [], [], 1),
    "words behind the JSON": (block(F + " please"), [], [], 1),
    "no arguments": (block('{"name": "g"}'), [], [], 1),
    "no name": (block('{"arguments": {}}'), [], [], 1),
    "empty name": (block('{"name": "", "arguments": {}}'), [], [], 1),
    "a list": (block("[1, 2]"), [], [], 1),
    "a number": (block("5"), [], [], 1),
    "an empty block": (block(""), [], [], 1),
    "arguments as JSON text": (block('{"name": "f", "arguments": "{\\"x\\": 1}"}'), [CALL_F], [CALL_F], 0),
    "arguments as other text": (block('{"name": "f", "arguments": "x = 1"}'), [], [], 1),
    "arguments null": (block('{"name": "f", "arguments": null}'), [], [], 1),
    "arguments a list": (block('{"name": "f", "arguments": [1]}'), [], [], 1),
    # in published, it is a call (which fails)
    "arguments as text of a list": (block('{"name": "f", "arguments": "[1]"}'), [ToolCall("f", cast(Any, [1]))], [], 1),
    "a number as name": (block('{"name": 5, "arguments": {}}'), [ToolCall("5", {})], [], 1),
    "a list as name": (block('{"name": ["f"], "arguments": {}}'), [], [], 1),
    "further keys": (block('{"id": 7, "name": "g", "arguments": {}}'), [CALL_G], [CALL_G], 0),
    "non-ASCII": (
        block('{"name": "suche", "arguments": {"ort": "Zürich 東京"}}'),
        [ToolCall("suche", {"ort": "Zürich 東京"})],
        [ToolCall("suche", {"ort": "Zürich 東京"})],
        0,
    ),
    "closing tag in an argument": (
        block('{"name": "f", "arguments": {"x": "a</tool_call>b"}}'),
        [],
        [ToolCall("f", {"x": "a</tool_call>b"})],
        0,
    ),
    "thinking, then a call": (f"<think>\nHm.\n</think>\n\n{block(F)}", [CALL_F], [CALL_F], 0),
    "call in thinking": (f"<think>{block(F)}</think>Done.", [CALL_F], [], 0),
    # in published, the second call's piece begins with "</think>"
    "call in thinking and after": (f"<think>{block(F)}</think>{block(G)}", [CALL_F], [CALL_G], 0),
    "unclosed thinking": (f"<think>I call {block(F)}", [CALL_F], [], 0),
    "thinking opened by the prompt": (f"Maybe {block(F)}\n</think>\n{block(G)}", [CALL_F], [CALL_G], 0),
    "a tag named in thinking": (f"<think>a <tool_call> it is</think>\n{block(G)}", [], [CALL_G], 0),
    "thinking tag in an argument": (
        block('{"name": "f", "arguments": {"x": "<think>"}}') + block(G),
        [ToolCall("f", {"x": "<think>"}), CALL_G],
        [ToolCall("f", {"x": "<think>"}), CALL_G],
        0,
    ),
    "no call": ("The answer is 4.", [], [], 0),
    "empty": ("", [], [], 0),
    "only blanks and tokens": (" \n<|im_end|>\n", [], [], 0),
    "not a number": (block('{"name": "g", "arguments": {}, "z": NaN}'), [CALL_G], [CALL_G], 0),
}


@pytest.mark.parametrize("name", TURNS)
def test_calls_as_published(name):
    text, published, _, _ = TURNS[name]
    assert list(parse_turn(text, "published").calls) == published


@pytest.mark.parametrize("name", TURNS)
def test_calls_in_strict(name):
    text, _, strict, malformed = TURNS[name]
    turn = parse_turn(text, "strict")
    assert list(turn.calls) == strict
    assert len(turn.malformed) == malformed


def test_thinking_is_separate_from_content():
    for match in ("published", "strict"):
        turn = parse_turn(f"<think>\nHm.\n</think>\n\nI look.\n{block(F)}<|im_end|>", match)
        assert (turn.thinking, turn.content, turn.calls) == ("Hm.", "I look.", (CALL_F,))
        assert turn.text == f"<think>\nHm.\n</think>\n\nI look.\n{block(F)}"
        turn = parse_turn("<think>never closed", match)
        assert (turn.thinking, turn.content) == ("never closed", "")
        turn = parse_turn("opened by the prompt</think>So: 4", match)
        assert (turn.thinking, turn.content) == ("opened by the prompt", "So: 4")


def test_calls_in_thinking_are_counted():
    for match in ("published", "strict"):
        assert parse_turn(f"<think>{block(F)}{block(G)}</think>{block(G)}", match).calls_in_thinking == 2
        assert parse_turn(f"<think>x</think>{block(G)}", match).calls_in_thinking == 0


def test_published_strips_one_end_of_turn_token_of_each():
    assert parse_turn("hi<|im_end|><|endoftext|>", "published").text == "hi"
    assert parse_turn("hi<|endoftext|><|im_end|>", "published").text == "hi<|endoftext|>"
    assert parse_turn("hi<|endoftext|><|im_end|>", "strict").text == "hi"


def test_messages_of_a_turn():
    turn = parse_turn(f"<think>Hm.</think>I look.{block(F)}{block(G)}", "strict")
    assert assistant_message(turn) == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
            {"type": "function", "function": {"name": "g", "arguments": {}}},
        ],
    }
    results = [ToolResult("f", "ok", "1", 0.0), ToolResult("g", "error", "an error occured when call g: x", 0.0)]
    assert tool_messages(turn, results) == [
        {"role": "tool", "name": "f", "content": "1"},
        {"role": "tool", "name": "g", "content": "an error occured when call g: x"},
    ]
    assert assistant_message(parse_turn("Four.", "strict")) == {"role": "assistant", "content": "Four."}
    with pytest.raises(ValueError, match="shorter"):
        tool_messages(turn, results[:1])


def test_unknown_match_is_refused():
    with pytest.raises(ValueError, match="published, strict"):
        parse_turn("x", "loose")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TAGGY_TEXT = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "<think>", "</think>", '"', "\\", "\n", "{", "}", "x", "\ud800", "é"]
    )
).map("".join)
CALLS = st.builds(
    ToolCall,
    st.text(min_size=1) | TAGGY_TEXT.filter(bool),
    st.dictionaries(st.text() | TAGGY_TEXT, JSON_VALUES | TAGGY_TEXT, max_size=4),
)


@given(st.lists(CALLS, min_size=1, max_size=4), st.sampled_from(["published", "strict"]))
def test_rendered_calls_parse_to_the_same_calls(calls, match):
    turn = parse_turn("I call.\n" + "\n".join(map(render_call, calls)) + "<|im_end|>\n", match)
    assert list(turn.calls) == calls
    assert turn.malformed == ()
    assert turn.content == "I call."


PIECES = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_parsed_response>", "<|im_end|>", "<|endoftext|>",
        F, G, block(F), '{"name": "f", "arguments": ', "{", "}", '"', "\\", "\n", " ", "NaN", "\ud800", "\x00",
        "[" * 50,
    ]
)  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join), st.sampled_from(["published", "strict"]))
@settings(max_examples=300)
def test_any_text_can_be_parsed(text, match):
    turn = parse_turn(text, match)
    assert turn == parse_turn(text, match)
    assert turn.text in text
    assert turn.calls_in_thinking <= text.count("<tool_call>")
    assert len(turn.calls) <= text.count("<tool_call>")
    assert all(json.dumps(call.arguments) for call in turn.calls)
    assert len(turn.content) <= len(text)


MEGABYTE = 10**6
HUGE = {
    "plain": "a" * MEGABYTE,
    "open brackets": "<tool_call>" + "[" * MEGABYTE,
    "open objects": "<tool_call>" + '{"a":' * (MEGABYTE // 5),
    "deep JSON, closed": block('{"name": "f", "arguments": {"x": ' + "[" * 5000 + "]" * 5000 + "}}"),
    "digits": block('{"name": "f", "arguments": {"x": ' + "9" * MEGABYTE + "}}"),
    "opening tags": "<tool_call>" * (MEGABYTE // 11),
    "closing tags": "</tool_call>" * (MEGABYTE // 12),
    "opening thoughts": "<think>" * (MEGABYTE // 7),
    "closing thoughts": "</think>" * (MEGABYTE // 8),
    "tags and quotes": '<tool_call>["' * (MEGABYTE // 13),
    "tags in quotes": '<tool_call>"</tool_call>' * (MEGABYTE // 24),
    "backslashes": "<tool_call>" + "\\" * MEGABYTE,
    "escaped quotes": '<tool_call>"' + '\\"' * (MEGABYTE // 2),
    "end tokens": "<|im_end|>" * (MEGABYTE // 10),
    "blanks": " " * MEGABYTE,
    "surrogates": "\ud800" * MEGABYTE,
}


@pytest.mark.parametrize("match", ["published", "strict"])
@pytest.mark.parametrize("name", HUGE)
def test_a_megabyte_is_parsed_and_contains_no_call(name, match):
    assert parse_turn(HUGE[name], match).calls == ()


@pytest.mark.parametrize("match", ["published", "strict"])
def test_a_megabyte_of_calls_is_parsed(match):
    count = MEGABYTE // len(block(F))
    assert len(parse_turn(block(F) * count, match).calls) == count
    long = ToolCall("f", {"x": "y" * MEGABYTE})
    assert parse_turn(render_call(long), match).calls == (long,)
