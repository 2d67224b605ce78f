"""Server replies: every known variant is read, and everything else is rejected with the server's own words."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from env_construction.replies.message_content import MessageContent, read_content
from env_construction.replies.server_replies import BadReply, ask, may_pass, read_reply, words_of
from tests.local_server import Asked, LocalServer, Said

USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def body(message: Any, finish: Any = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return json.dumps({"choices": [choice], "usage": USAGE, **more}).encode()


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments, **more}}]}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"river": "Orm"}', '{"river": "Orm"}'),
        ({"river": "Orm"}, '{"river": "Orm"}'),
        (None, "{}"),
        ("", "{}"),
        ("null", "{}"),
        (" null\n", "{}"),
        ('{"river": "Or', '{"river": "Or'),
        ([1], "[1]"),
        (5, "5"),
    ],
)
def test_arguments_are_read_as_text_object_or_nothing(arguments: Any, text: str) -> None:
    [call] = read_reply(body(called(arguments))).message.calls
    assert (call.name, call.arguments) == ("f", text)


def test_a_call_without_arguments_or_in_the_old_field_is_read() -> None:
    assert read_reply(body({"tool_calls": [{"function": {"name": "f"}}]})).message.calls[0].arguments == "{}"
    [call] = read_reply(body({"content": None, "function_call": {"name": "f", "arguments": "{}"}})).message.calls
    assert call.name == "f"


@pytest.mark.parametrize(
    ("message", "text", "thinking"),
    [
        ({"content": "hi"}, "hi", ""),
        ({"content": None, "tool_calls": None}, "", ""),
        (
            {"content": [{"type": "text", "text": "The Orm "}, {"type": "text", "text": "is long."}]},
            "The Orm is long.", "",
        ),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "412?"}]}, {"text": "No."}]},
            "No.", "412?",
        ),
        ({"content": [{"type": "thinking", "thinking": "412?", "signature": "x"}, "No."]}, "No.", "412?"),
        ({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "412?"}]}]}, "", "412?"),
        ({"content": [{"type": "redacted_thinking", "data": "eA=="}, {"text": "No.", "type": "text"}]}, "No.", ""),
        ({"content": [{"text": "412?", "thought": True}, {"text": "No."}]}, "No.", "412?"),
        ({"content": "No.", "reasoning_content": "412?"}, "No.", "412?"),
        ({"content": "No.", "reasoning_content": None, "reasoning": "412?"}, "No.", "412?"),
        ({"content": None, "reasoning_content": "412"}, "", "412"),
        ({"content": None, "refusal": "I will not."}, "I will not.", ""),
        ({"content": [{"type": "refusal", "refusal": "I will not."}]}, "I will not.", ""),
        ({"content": "lone \ud800"}, "lone \ud800", ""),
    ],
)  # fmt: skip
def test_thinking_is_separate_from_the_text(message: dict[str, Any], text: str, thinking: str) -> None:
    read = read_reply(body(message)).message
    assert (read.text, read.thinking) == (text, thinking)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (USAGE, (7, 3)),
        (None, (None, None)),
        ({"prompt_tokens": None, "completion_tokens": None}, (None, None)),
        ({"total_tokens": 13}, (None, None)),
        ({"prompt_tokens": "7", "completion_tokens": "many"}, (7, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": -1}, (None, None)),
        ({"prompt_tokens": float("inf"), "completion_tokens": [3]}, (None, None)),
        ([7, 3], (None, None)),
    ],
)
def test_invalid_token_counts_are_unknown_and_keep_the_reply(usage: Any, counts: Any) -> None:
    read = read_reply(body({"content": "hi"}, usage=usage))
    assert (read.message.text, (read.prompt_tokens, read.completion_tokens)) == ("hi", counts)


@pytest.mark.parametrize(("finish", "cut_off"), [("length", True), ("MAX_TOKENS", True), (None, False), (3, False)])
def test_finish_reasons_of_any_type_are_read(finish: Any, cut_off: bool) -> None:
    assert read_reply(body({"content": "hi"}, finish)).cut_off is cut_off


ODD = [
    (b"<!doctype html><html><head><style>p {}</style></head><body>Welcome</body></html>", False, "a page, 'Welcome'"),
    (b"upstream closed the connection", True, "upstream closed the connection"),
    (body({"content": "hi"})[:40], True, "no JSON"),
    (b"", True, "nothing"),
    (b"\xe9", True, "UTF-8"),
    (b"[" * 100_000, True, "no JSON"),
    (b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n', False, "streams"),
    (b'{"object": "chat.completion.chunk", "choices": [{"delta": {"content": "x"}}]}', False, "choices.0.message"),
    (b"null", False, "null"),
    (b"[]", False, "no JSON object"),
    (b"{}", False, "no completion"),
    (b'{"choices": []}', False, "no completion"),
    (b'{"choices": {"0": 1}}', False, "choices"),
    (b'{"choices": [null]}', False, "choices"),
    (b'{"error": {"code": 429, "message": "upstream rate limit"}, "choices": null}', True, "upstream rate limit (429)"),
    (b'[{"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}]', True, "busy (503)"),
    (b'{"error": {"type": "overloaded_error", "message": "Overloaded"}}', True, "Overloaded"),
    (b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}', True, "slow down"),
    (b'{"error": {"message": "Incorrect API key", "code": 401}}', False, "Incorrect API key"),
    (b'{"error": "model not loaded"}', False, "model not loaded"),
    (b'{"error": "\\ud800\\u001b[31m\\nred"}', False, "??[31m red"),
    (b'{"detail": "Not Found"}', False, "Not Found"),
    (b'{"object": "error", "message": "no such model", "code": 404}', False, "no such model"),
    (b'{"choices": [{"finish_reason": "error", "message": {"content": "The Or"}}]}', True, "The Or"),
    (b'{"choices": [{"error": {"code": 502, "message": "lost"}, "message": {"content": ""}}]}', True, "lost"),
    (body(None), False, "'choices.0.message': Input should be a valid dictionary;"),
    (body("hi"), False, "choices.0.message"),
    (body({"content": 5}), False, "choices.0.message.content"),
    (body({"content": [{"type": "image_url", "image_url": {}}]}), False, "an object of type 'image_url'"),
    (body({"content": [{"type": "text", "text": {"value": "x"}}]}), False, "part 0"),
    (body({"tool_calls": "none"}), False, "tool_calls"),
    (body({"tool_calls": [None]}), False, "tool_calls.0"),
    (body(called("{}", name=None)), False, "tool_calls.0.function.name"),
    (body({"content": None}, "content_filter"), False, "content_filter"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "passing", "words"), ODD, ids=range(len(ODD)))
def test_what_is_no_completion_is_rejected_in_the_servers_words(sent: bytes, passing: bool, words: str) -> None:
    with pytest.raises(BadReply) as caught:
        read_reply(sent)
    assert words in str(caught.value)
    assert caught.value.passing is may_pass(caught.value) is passing
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [200, 980, 1_500, 10_000, 100_000])
def test_arguments_nested_beyond_the_recursion_limit_are_refused(depth: int) -> None:
    deep = b'{"x": ' * depth + b"1" + b"}" * depth
    sent = body(called("DEEP")).replace(b'"DEEP"', deep)
    try:
        [call] = read_reply(sent).message.calls
    except BadReply:
        assert depth > 200
    else:
        assert len(call.arguments) == len(deep)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MESSAGE_KEYS = ("content", "tool_calls", "reasoning_content", "refusal", "function_call")
MESSAGE = st.dictionaries(st.sampled_from(MESSAGE_KEYS), JSON | st.just([{"function": {"name": "f"}}]), max_size=4)


@settings(max_examples=300, deadline=None)
@given(JSON | MESSAGE, JSON, JSON)
def test_any_json_in_any_place_is_read_or_refused(message: Any, finish: Any, usage: Any) -> None:
    try:
        read = read_reply(body(message, finish, usage=usage))
    except BadReply:
        return
    assert all(isinstance(part, str) for part in (read.message.text, read.message.thinking, read.finish))


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_as_a_whole_reply_is_read_or_refused(payload: Any) -> None:
    with pytest.raises(BadReply):
        read_reply(json.dumps(payload).encode())


def test_text_parts_are_joined_as_requested_and_other_parts_are_named() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read_content(parts, "\n") == MessageContent("a\nb")
    assert read_content(None) == MessageContent()
    for value, named in ((3, "int"), ([None], "null"), ({"type": "file"}, "'file'"), ({"x": 1}, "['x']")):
        with pytest.raises(ValueError, match="expected a text") as caught:
            read_content(value)
        assert named in str(caught.value)


@pytest.fixture
def answers() -> Iterator[tuple[list[tuple[int, str, bytes]], openai.OpenAI]]:
    """A list that determines how a real local server answers, and a client of it."""
    queue: list[tuple[int, str, bytes]] = []

    class Queued(LocalServer):
        def reply(self, asked: Asked) -> Said:
            status, kind, data = queue.pop(0)
            return status, data, {"Content-Type": kind}

    with Queued() as server:
        yield queue, openai.OpenAI(base_url=server.url, api_key="secret-key", max_retries=0)


def test_ask_reads_the_bytes_whatever_content_type_the_server_sends(answers: Any) -> None:
    queue, client = answers
    fields = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
    queue += [(200, kind, body(called({"x": 1}))) for kind in ("application/json", "text/plain", "text/html")]
    for _ in range(3):
        assert ask(client, **fields).message.calls[0].arguments == '{"x": 1}'
    queue.append((200, "text/html", b"<html><body>Welcome to the console</body></html>"))
    with pytest.raises(BadReply, match=r"no API at this URL.*Welcome to the console"):
        ask(client, **fields)


def test_words_of_an_error_are_the_servers_without_the_key(answers: Any) -> None:
    queue, client = answers
    queue += [
        (401, "application/json", b'{"error": {"message": "no such key: secret-key", "type": "auth", "code": "bad"}}'),
        (502, "text/html", b"<html><h1>Bad gateway</h1></html>"),
        (404, "application/json", b'{"detail": "Not Found"}'),
    ]
    wanted = [("status 401", "no such key: [key]"), ("status 502", "Bad gateway"), ("status 404", "Not Found")]
    for status, words in wanted:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, model="m", messages=[])
        said = words_of(caught.value, "secret-key")
        assert status in said and words in said and "<" not in said
        assert may_pass(caught.value) is (status == "status 502")
    gone = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=0)
    with pytest.raises(openai.APIConnectionError) as lost:
        ask(gone, model="m", messages=[])
    assert "refused" in words_of(lost.value) and may_pass(lost.value)
