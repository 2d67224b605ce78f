"""The OpenAI-compatible policy against a real local HTTP server: rebuilt turns, retries, refusals, faults."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from env_construction.tool_sandbox import ToolCall
from reward.tool_calls import parse_turn, render_call
from train.policies import PolicyRequest
from train.policy_specs import load_policy
from train.rollout import play
from train.server_policy import ServerPolicy, raw_text, server_messages

Answer = tuple[int, dict[str, Any]]


class ScriptedServer:
    """Answers each request by `answer(body, how many came before)`; keeps the bodies."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda body, count: said({"content": "hello"})
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    count = len(outer.bodies)
                    outer.bodies.append(body)
                status, payload = outer.answer(body, count)
                data = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def said(message: dict[str, Any], finish: str = "stop") -> Answer:
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def refused(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "type": "error", "code": status}}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.server.shutdown()
    scripted.server.server_close()


def policy(server: ScriptedServer, **options: Any) -> ServerPolicy:
    return ServerPolicy("m", server.url, **{"longest_wait_s": 0.01, "attempts": 3, **options})


def request(environment: Any, seed: int = 11) -> PolicyRequest:
    return PolicyRequest(environment, environment.id, 0, 0, seed)


def test_request_carries_tools_seed_and_limits(server, environments) -> None:
    [generation] = policy(server, max_new_tokens=55, temperature=0.7).generate([request(environments[0])])
    assert (generation.text, generation.tokens, generation.prompt_tokens) == ("hello", 3, 7)
    assert (generation.truncated, generation.fault) == (False, "")
    body = server.bodies[0]
    assert body["tools"] == environments[0].openai_tools()
    assert (body["model"], body["seed"], body["max_tokens"], body["temperature"]) == ("m", 11, 55, 0.7)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_parsed_calls_and_thinking_are_rebuilt_as_raw_text(server, environments) -> None:
    call = ToolCall("capital_of", {"country": "Fiji"})
    server.answer = lambda body, count: said(
        {
            "content": "Let me see.",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
            ],
        },
        "tool_calls",
    )
    [generation] = policy(server).generate([request(environments[0])])
    turn = parse_turn(generation.text, "strict")
    assert turn.calls == (call,)
    assert (turn.thinking, turn.content, turn.malformed) == ("hm", "Let me see.", ())


def test_arguments_that_are_no_object_become_a_malformed_call() -> None:
    for arguments in ('{"country": "Fi', "[1]"):
        text = raw_text({"content": None, "tool_calls": [{"function": {"name": "capital_of", "arguments": arguments}}]})
        turn = parse_turn(text, "strict")
        assert (turn.calls, len(turn.malformed)) == ((), 1)


def test_history_is_sent_with_ids_and_json_arguments() -> None:
    calls: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": "f", "arguments": {"x": "é"}}} for _ in range(2)
    ]
    sent = server_messages(
        [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": calls, "reasoning_content": "secret"},
            {"role": "tool", "name": "f", "content": "1"},
            {"role": "tool", "name": "f", "content": "2"},
        ]
    )
    assert [call["id"] for call in sent[1]["tool_calls"]] == [message["tool_call_id"] for message in sent[2:]]
    assert len({message["tool_call_id"] for message in sent[2:]}) == 2
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"x": "é"}
    assert "reasoning_content" not in sent[1]
    assert calls[0]["function"]["arguments"] == {"x": "é"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_errors_are_retried(server, environments, status) -> None:
    server.answer = lambda body, count: refused(status, "busy") if count < 2 else said({"content": "at last"})
    [generation] = policy(server).generate([request(environments[0])])
    assert (generation.text, len(server.bodies)) == ("at last", 3)


def test_lasting_errors_are_a_fault_of_that_episode_alone(server, environments) -> None:
    server.answer = lambda body, count: (
        refused(500, "broken") if "Fiji" in json.dumps(body["messages"]) else said({"content": "fine"})
    )
    found = policy(server).generate([request(environment) for environment in environments])
    assert [bool(generation.fault) for generation in found] == [True, False, True, False]
    assert "broken" in found[0].fault
    assert [generation.text for generation in found] == ["", "fine", "", "fine"]


def test_unreachable_server_is_a_fault(environments) -> None:
    [generation] = ServerPolicy("m", "http://127.0.0.1:9/v1", attempts=2, longest_wait_s=0.01).generate(
        [request(environments[0])]
    )
    assert "APIConnectionError" in generation.fault


def test_prompt_over_the_context_is_too_long_not_a_fault(server, environments) -> None:
    server.answer = lambda body, count: refused(400, "This model's maximum context length is 4096 tokens")
    [generation] = policy(server).generate([request(environments[0])])
    assert (generation.too_long, generation.fault) == (True, "")


def test_server_that_knows_no_template_kwargs_is_asked_without_them(server, environments) -> None:
    server.answer = lambda body, count: (
        refused(400, "Unrecognized request argument: chat_template_kwargs")
        if "chat_template_kwargs" in body
        else said({"content": "ok"})
    )
    plain = policy(server)
    assert plain.generate([request(environments[0])])[0].text == "ok"
    assert plain.generate([request(environments[0])])[0].text == "ok"
    assert ["chat_template_kwargs" in body for body in server.bodies] == [True, False, False]
    assert "chat_template_kwargs" in policy(server, thinking=True).generate([request(environments[0])])[0].fault


def test_requests_run_at_the_same_time_and_come_back_in_order(server, environments) -> None:
    barrier = threading.Barrier(4, timeout=10)

    def answer(body: dict[str, Any], count: int) -> Answer:
        barrier.wait()
        return said({"content": str(body["seed"])})

    server.answer = answer
    found = policy(server, concurrency=4).generate([request(environments[0], seed=seed) for seed in range(8)])
    assert [generation.text for generation in found] == [str(seed) for seed in range(8)]


def test_rollout_does_not_wait_for_the_slowest_episode(server, environments, sandbox) -> None:
    """The second episode is asked for all its turns while the first one's first turn is still being written."""
    others_done = threading.Event()

    def answer(body: dict[str, Any], count: int) -> Answer:
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        if "Fiji" in body["messages"][0]["content"]:
            assert others_done.wait(timeout=10)
        elif turns == 2:
            others_done.set()
        call = {"id": "a", "type": "function", "function": {"name": "capital_of", "arguments": '{"country": "Peru"}'}}
        return said({"content": "done"} if turns == 2 else {"content": None, "tool_calls": [call]})

    server.answer = answer
    episodes = play(policy(server, concurrency=2), environments[:2], sandbox=sandbox)
    assert [len(episode.turns) for episode in episodes] == [3, 3]
    assert [episode.outcome for episode in episodes] == ["answered", "answered"]


def test_truncation_is_reported(server, environments) -> None:
    server.answer = lambda body, count: said({"content": "half"}, "length")
    loaded = load_policy(f"openai:m@{server.url}")
    assert loaded.generate([request(environments[0])])[0].truncated


def test_render_call_survives_the_round_trip_through_a_server() -> None:
    call = ToolCall("f", {"text": "a </tool_call> b", "n": [1, {"k": None}]})
    message = {"tool_calls": [{"function": {"name": "f", "arguments": json.dumps(call.arguments)}}]}
    assert raw_text(message) == render_call(call)
