"""The OpenAI-compatible policy against a real local HTTP server: rebuilt turns, retries, refusals, faults."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eval.environments
import train.collect_trajectories
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import write_environments
from env_construction.replies.server_replies import ReplyMessage
from env_construction.sandbox.tool_sandbox import ToolCall
from eval.environments import evaluate
from eval.suites.results import read_rows
from reward.tool_calls import parse_turn, render_call
from tests.local_server import Asked, LocalServer, Said
from train.policies.interface import Generation, PolicyRequest
from train.policies.prompts import load_tokenizer, render_prompt
from train.policies.rollout import play
from train.policies.server_policy import ServerPolicy, raw_text, server_messages
from train.policies.specs import load_policy

Answer = tuple[int, dict[str, Any] | bytes]


HTML = b"<!doctype html><html><body>Welcome to the console</body></html>"


class ScriptedServer(LocalServer):
    """Answers each request by `answer(body, how many came before)`."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda body, count: said({"content": "hello"})
        super().__init__()

    def reply(self, asked: Asked) -> Said:
        return *self.answer(asked.body, asked.number), {}


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
    with ScriptedServer() as scripted:
        yield scripted


def policy(server: ScriptedServer, **options: Any) -> ServerPolicy:
    return ServerPolicy("m", server.url, **{"longest_wait_s": 0.01, "attempts": 3, **options})


def rebuilt(message: dict[str, Any]) -> str:
    return raw_text(ReplyMessage.model_validate(message))


def run_command(
    command: str,
    server: ScriptedServer,
    environments: list[Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *flags: str,
) -> Any:
    """The exit code of `evaluate` or `collect` on the environments."""
    data, out = str(folder / "e.jsonl"), str(folder / "out")
    write_environments(data, environments)
    main, flag = {
        "evaluate": (eval.environments.main, "--data"),
        "collect": (train.collect_trajectories.main, "--environments"),
    }[command]
    monkeypatch.setattr("sys.argv", [command, "--policy", f"openai:m@{server.url}", flag, data, "--out", out, *flags])
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    return ended.value.code


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
        text = rebuilt({"content": None, "tool_calls": [{"function": {"name": "capital_of", "arguments": arguments}}]})
        turn = parse_turn(text, "strict")
        assert (turn.calls, len(turn.malformed)) == ((), 1)


CALL = ToolCall("capital_of", {"country": "Fiji"})
OTHER = ToolCall("capital_of", {"country": "Peru"})
FIVE = ToolCall("f", {"x": 5, "y": "2"})
WRITTEN = render_call(CALL)


def parsed(*calls: ToolCall) -> list[dict[str, Any]]:
    return [{"function": {"name": call.name, "arguments": json.dumps(call.arguments)}} for call in calls]


@pytest.mark.parametrize(
    ("message", "calls", "content", "thinking"),
    [
        ({"content": WRITTEN, "tool_calls": parsed(CALL)}, [CALL], "", ""),
        ({"content": f"I look.\n{WRITTEN}\n", "tool_calls": parsed(CALL)}, [CALL], "I look.", ""),
        ({"content": [{"type": "text", "text": WRITTEN}], "tool_calls": parsed(CALL)}, [CALL], "", ""),
        ({"content": WRITTEN, "function_call": parsed(CALL)[0]["function"]}, [CALL], "", ""),
        ({"content": WRITTEN.replace('", "', '" ,  "'), "tool_calls": parsed(CALL)}, [CALL], "", ""),
        ({"content": WRITTEN.replace("}}", "},}"), "tool_calls": parsed(CALL)}, [CALL], "", ""),
        ({"content": render_call(OTHER), "tool_calls": parsed(CALL)}, [OTHER, CALL], "", ""),
        ({"content": render_call(ToolCall("f", {"y": 2, "x": "5"})), "tool_calls": parsed(FIVE)}, [FIVE], "", ""),
        ({"content": WRITTEN + WRITTEN, "tool_calls": parsed(CALL, CALL)}, [CALL, CALL], "", ""),
        ({"content": WRITTEN, "tool_calls": parsed(OTHER, CALL)}, [OTHER, CALL], "", ""),
        ({"content": WRITTEN + render_call(OTHER), "tool_calls": parsed(CALL)}, [OTHER, CALL], "", ""),
        ({"content": f"<think>\nhm\n{WRITTEN}\n</think>", "tool_calls": parsed(CALL)}, [CALL], "", "hm"),
        ({"content": f"<think>\nhm\n{WRITTEN}", "tool_calls": parsed(CALL)}, [CALL], "", "hm"),
        ({"content": "hm</think>", "tool_calls": parsed(CALL)}, [CALL], "", "hm"),
        ({"content": [{"text": "Suva."}], "reasoning": "a </think> b"}, [], "Suva.", "a   b"),
        (
            {"content": [{"type": "thinking", "thinking": "<think>Suva?"}, {"text": "No idea."}]},
            [], "No idea.", "Suva?",
        ),
        ({"content": None, "reasoning_content": "Suva"}, [], "", "Suva"),
        ({"content": None, "refusal": "I will not."}, [], "I will not.", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("match", ["strict", "published"])
def test_a_call_counts_once_and_thinking_is_no_answer(message, calls, content, thinking, match) -> None:
    turn = parse_turn(rebuilt(message), match)
    assert (list(turn.calls), turn.content, turn.thinking, turn.malformed) == (calls, content, thinking, ())


def test_a_broken_call_in_both_places_is_malformed_once() -> None:
    broken = {"function": {"name": "f", "arguments": '{"x": 1'}}
    message = {"content": '<tool_call>\n{"name": "f", "arguments": {"x": 1\n</tool_call>', "tool_calls": [broken]}
    for match in ("strict", "published"):
        turn = parse_turn(rebuilt(message), match)
        assert (turn.calls, len(turn.malformed)) == ((), 1)


CALLS = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from(["f", "g"]),
        st.dictionaries(st.sampled_from(["x", "</tool_call>"]), st.integers(0, 1) | st.text(max_size=4), max_size=2),
    ),
    max_size=4,
)


@given(CALLS, st.data())
def test_what_content_repeats_of_the_servers_calls_never_adds_to_them(calls: list[ToolCall], data: Any) -> None:
    shown = data.draw(st.lists(st.sampled_from(calls), max_size=3, unique_by=id)) if calls else []
    content = "\n".join(["Let me see.", *map(render_call, shown)])
    for match in ("strict", "published"):
        turn = parse_turn(rebuilt({"content": content, "tool_calls": parsed(*calls)}), match)
        assert (list(turn.calls), turn.content, turn.malformed) == (calls, "Let me see.", ())


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
    assert all(len(message["tool_call_id"]) == 9 and message["tool_call_id"].isalnum() for message in sent[2:])
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"x": "é"}
    assert sent[1]["reasoning_content"] == "secret"
    assert calls[0]["function"]["arguments"] == {"x": "é"}


def test_thinking_of_earlier_turns_is_sent_until_the_server_refuses_it(server, environments, capsys) -> None:
    """Whether a model sees it is for the template to decide, as with a local policy; a refusal costs no episode."""
    first = {"role": "assistant", "content": "", "reasoning_content": "so", "tool_calls": [
        {"type": "function", "function": {"name": "capital_of", "arguments": {"country": "Fiji"}}}
    ]}  # fmt: skip
    messages = [*environments[0].messages, first, {"role": "tool", "name": "capital_of", "content": "Suva"}]
    played = environments[0].model_copy(update={"messages": messages})
    server.answer = lambda body, count: said({"content": "Suva"})
    asking = policy(server)
    asking.generate([request(played)])
    assert server.bodies[-1]["messages"][1]["reasoning_content"] == "so"

    def strict(body: dict[str, Any], count: int) -> Answer:
        if any("reasoning_content" in message for message in body["messages"]):
            return refused(400, "messages.1: unknown field reasoning_content")
        return said({"content": "Suva"})

    server.answer = strict
    for _ in range(2):
        assert [generation.text for generation in asking.generate([request(played)])] == ["Suva"]
    assert len(server.bodies) == 1 + 2 + 1, "it is refused once, and not sent again"
    assert capsys.readouterr().out.count("takes no reasoning_content") == 1


def test_the_template_behind_a_server_renders_the_prompts_of_a_local_policy(server, environments, tiny_checkpoint):
    """Thinking between calls included: what a model reads does not depend on the back end."""
    tokenizer, environment = load_tokenizer(tiny_checkpoint), environments[2]
    call = {"country": "Fiji"}, {"city": "Suva"}
    said_turns: list[dict[str, Any]] = [
        {"reasoning_content": "The capital first.", "content": "One moment.", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "capital_of", "arguments": json.dumps(call[0])}}]},
        {"reasoning_content": "Now its people.", "content": None, "tool_calls": [
            {"id": "b", "type": "function", "function": {"name": "population_of", "arguments": json.dumps(call[1])}}]},
        {"reasoning_content": "Known.", "content": "77366 people."},
    ]  # fmt: skip
    of_server: list[str] = []

    def answer(body: dict[str, Any], count: int) -> Answer:
        messages = body["messages"]
        for message in messages:  # a server gives its template objects
            for made in message.get("tool_calls", ()):
                made["function"]["arguments"] = json.loads(made["function"]["arguments"])
        of_server.append(render_prompt(tokenizer, messages, body["tools"], True))
        return said(said_turns[count])

    server.answer = answer
    play(policy(server, thinking=True), [environment])

    class Local:
        name = "local"

        def __init__(self) -> None:
            self.prompts: list[str] = []

        def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
            [asked] = requests
            state = asked.environment
            self.prompts.append(render_prompt(tokenizer, state.messages, state.openai_tools(), True))
            return [Generation(rebuilt(said_turns[asked.turn]), 1, 1, False)]

    local = Local()
    play(local, [environment])
    assert local.prompts == of_server and len(of_server) == 3
    assert "The capital first." in of_server[1] and "Now its people." in of_server[2]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_errors_are_retried(server, environments, status) -> None:
    server.answer = lambda body, count: refused(status, "busy") if count < 2 else said({"content": "at last"})
    [generation] = policy(server).generate([request(environments[0])])
    assert (generation.text, len(server.bodies)) == ("at last", 3)


def test_a_rate_limit_with_status_200_is_retried_and_then_told(server, environments) -> None:
    limited = {"error": {"code": 429, "message": "upstream rate limit"}, "choices": None}
    server.answer = lambda body, count: (200, limited) if count < 2 else said({"content": "at last"})
    [generation] = policy(server).generate([request(environments[0])])
    assert (generation.text, len(server.bodies)) == ("at last", 3)
    server.answer = lambda body, count: (200, limited)
    [generation] = policy(server).generate([request(environments[0])])
    assert "upstream rate limit" in generation.fault
    assert len(server.bodies) == 6


@pytest.mark.parametrize("payload", [HTML, {"error": "no such model"}, {"choices": []}, {"choices": [{}]}])
def test_a_reply_that_no_retry_mends_is_asked_for_once(server, environments, payload) -> None:
    server.answer = lambda body, count: (200, payload)
    [generation] = policy(server).generate([request(environments[0])])
    assert generation.fault
    assert len(server.bodies) == 1


@pytest.mark.parametrize("workers", [1, 8])
def test_one_odd_reply_costs_its_episode_alone_and_the_rerun_mends_it(server, environments, tmp_path, workers) -> None:
    many = [
        environments[0].model_copy(update={"id": f"e{n}", "messages": [{"role": "user", "content": f"Question {n}."}]})
        for n in range(30)
    ]

    def answer(body: dict[str, Any], count: int) -> Answer:
        odd = broken and body["messages"][0]["content"] == "Question 17."
        return (200, {"choices": [{"message": "odd"}]}) if odd else said({"content": "Suva"})

    server.answer, broken = answer, True
    rows, faults = evaluate(policy(server, concurrency=workers), many, tmp_path)
    assert (len(rows), faults) == (29, 1)
    [fault] = read_rows(tmp_path / "faults.jsonl")
    assert fault["id"] == "e17"
    assert "'choices.0.message'" in fault["fault"] and '"odd"' in fault["fault"]
    assert evaluate(policy(server, concurrency=workers), many, tmp_path)[1] == 1
    broken, asked = False, len(server.bodies)
    rows, faults = evaluate(policy(server, concurrency=workers), many, tmp_path)
    assert (len(rows), faults, len(server.bodies) - asked) == (30, 0, 1)


@pytest.mark.parametrize("command", ["evaluate", "collect"])
def test_in_flight_is_the_number_of_requests_that_a_server_sees_at_once(
    server, environments, tmp_path, monkeypatch, command
) -> None:
    many = [environments[0].model_copy(update={"id": f"e{n}"}) for n in range(12)]
    four, lock, running, most, turns = threading.Barrier(4, timeout=20), threading.Lock(), 0, 0, 0

    def answer(body: dict[str, Any] | None, count: int) -> Answer:
        nonlocal running, most, turns
        if body is None:
            return refused(404, "this server does not list its models")
        with lock:
            running, turns = running + 1, turns + 1
            most, first = max(most, running), turns <= 4
        if first:
            four.wait()  # breaks if fewer than four requests are sent at once
        with lock:
            running -= 1
        return said({"content": "Suva"})

    server.answer = answer
    assert run_command(command, server, many, tmp_path, monkeypatch, "--in-flight", "4") == 0
    assert (len(server.bodies), most) == (12, 4)
    assert run_command(command, server, many, tmp_path, monkeypatch, "--in-flight", "0") == 2


@pytest.mark.parametrize("command", ["evaluate", "collect"])
def test_a_rerun_whose_only_case_fails_again_is_no_failed_run(
    server, environments, tmp_path, monkeypatch, command
) -> None:
    server.answer = lambda body, count: (200, {"error": "odd"}) if "Fiji" in str(body) else said({"content": "Lima"})
    for _ in range(2):
        assert run_command(command, server, environments[1:3], tmp_path, monkeypatch) == 0
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, HTML), "no API at this URL.*Welcome to the console"),
        ((404, {"detail": "Not Found"}), "status 404: Not Found"),
        ((200, {"object": "error", "message": "no such model", "code": 404}), "no such model"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "collect"])
def test_a_run_in_which_every_request_failed_says_why_and_exits_with_2(
    server, environments, tmp_path, monkeypatch, capsys, command, answer, words
) -> None:
    server.answer = lambda body, count: answer
    assert run_command(command, server, environments, tmp_path, monkeypatch) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert re.search(f"no episode of 4 could be played; 4 times: .*{words}", line)


def test_what_cannot_be_sent_as_it_is_still_gets_an_answer(server, environments) -> None:
    """A model writes a lone surrogate as a JSON escape: the next request holds it in its history."""
    messages = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "\ud800",
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": "\udfff"}}}],
        },
        {"role": "tool", "name": "f", "content": "a \ud800 b"},
    ]
    tool = environments[0].tools[0].model_copy(update={"description": "\ud800"})
    state = environments[0].model_copy(update={"messages": messages, "tools": [tool]})
    [generation] = policy(server).generate([request(state)])
    assert (generation.text, generation.fault) == ("hello", "")
    assert server.bodies[0]["messages"][2]["content"] == "a ? b"
    endless = state.model_copy(update={"messages": [{"role": "user", "content": "q", "score": float("nan")}]})
    assert "could not be written" in policy(server).generate([request(endless)])[0].fault


def test_the_key_is_in_no_fault(server, environments, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key\n")
    server.answer = lambda body, count: refused(401, "Incorrect API key provided: secret-key")
    [generation] = policy(server).generate([request(environments[0])])
    assert "Incorrect API key provided: [key]" in generation.fault


@pytest.mark.parametrize("url", ["ftp://host/v1", "http://host:port/v1", "http://[::/v1"])
def test_a_base_url_that_is_none_is_refused_by_name(url) -> None:
    with pytest.raises(BadInput, match="base URL"):
        ServerPolicy("m", url)


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
    server.answer = lambda body, count: (200, refused(400, "This model's maximum context length is 4096 tokens")[1])
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
    assert rebuilt(message) == render_call(call)
