"""The endpoint: retries that honour Retry-After, faults, refused fields, answers kept on disk, and a budget that is
never overrun.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted_author_server import ScriptedAuthorServer, questions

from env_construction.building.author import AuthorFault, BudgetSpent, Rejected
from env_construction.environment.jsonl import BadInput
from env_construction.llm.endpoint import LONGEST_RETRY_AFTER_S, Endpoint, EndpointOptions, retry_after
from env_construction.llm.ledger import Ledger, Prices

KEY = "sk-very-secret-0123456789"
STAGE = "scenario_decomposition"
MESSAGES = [
    {"role": "system", "content": "You build."},
    {"role": "user", "content": f"Stage 1\nThe question, as JSON text\n{json.dumps(questions(1)[0]['question'])}"},
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedAuthorServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    scripted = ScriptedAuthorServer()
    yield scripted
    scripted.close()


def endpoint(
    server: ScriptedAuthorServer, ledger: Ledger | None = None, cache: Path | None = None, **more: Any
) -> Endpoint:
    options = EndpointOptions(server.url, "m", **{"longest_wait_s": 0.01, "attempts": 3, "timeout_s": 10.0, **more})
    return Endpoint(options, ledger or Ledger(None, Prices()), cache)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_errors_are_retried_and_counted(server: ScriptedAuthorServer, status: int) -> None:
    server.transport = lambda number: (status, {}, 0) if number < 2 else None
    asked = endpoint(server)
    assert json.loads(asked.ask(STAGE, MESSAGES, 1, True).text)["scenario"] == "single_hop"
    assert (len(server.bodies), asked.ledger.total.retries, asked.ledger.total.requests) == (3, 2, 1)


def test_retry_after_is_waited_for_by_every_thread(server: ScriptedAuthorServer) -> None:
    server.transport = lambda number: (429, {"Retry-After": "0.6"}, 0) if number == 0 else None
    asked = endpoint(server)
    first = threading.Thread(target=asked.ask, args=(STAGE, MESSAGES, 1, True))
    begun = time.monotonic()
    first.start()
    while not asked.ledger.total.retries:
        time.sleep(0.005)
    asked.ask(STAGE, MESSAGES, 2, True)
    assert time.monotonic() - begun > 0.55
    first.join()
    assert len(server.bodies) == 3


def test_retry_after_may_be_seconds_or_a_date() -> None:
    def error(value: str | None) -> openai.APIStatusError:
        headers = {} if value is None else {"Retry-After": value}
        response = httpx.Response(429, headers=headers, request=httpx.Request("POST", "http://localhost"))
        return openai.RateLimitError("slow down", response=response, body=None)

    assert retry_after(error("7")) == 7.0
    assert 25 < (retry_after(error(formatdate(time.time() + 30, usegmt=True))) or 0) <= 30
    assert retry_after(error(formatdate(time.time() - 30, usegmt=True))) == 0.0
    assert retry_after(error("1e9")) == LONGEST_RETRY_AFTER_S
    assert [retry_after(error(value)) for value in (None, "soon", "nan")] == [None, None, None]


def test_what_lasts_is_a_fault_and_a_hanging_server_too(server: ScriptedAuthorServer) -> None:
    server.transport = lambda number: (500, {}, 0)
    asked = endpoint(server)
    with pytest.raises(AuthorFault, match="InternalServerError"):
        asked.ask(STAGE, MESSAGES, 1, True)
    total = asked.ledger.total
    assert (len(server.bodies), total.faults, total.requests, total.retries) == (3, 1, 0, 2)
    server.transport = lambda number: (500, {}, 1.0)
    with pytest.raises(AuthorFault, match="APITimeoutError"):
        endpoint(server, timeout_s=0.1, attempts=2).ask(STAGE, MESSAGES, 1, True)


def test_unreachable_and_senseless_endpoints(server: ScriptedAuthorServer) -> None:
    options = EndpointOptions("http://127.0.0.1:9/v1", "m", attempts=2, longest_wait_s=0.01)
    with pytest.raises(AuthorFault, match="APIConnectionError"):
        Endpoint(options, Ledger(None, Prices())).ask(STAGE, MESSAGES, 1, True)
    with pytest.raises(BadInput, match="expected a URL"):
        Endpoint(EndpointOptions("localhost:8000", "m"), Ledger(None, Prices()))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_is_the_users_to_mend_and_not_retried(server: ScriptedAuthorServer, status: int) -> None:
    server.transport = lambda number: (status, {}, 0)
    with pytest.raises(BadInput, match="check --base-url, --model and OPENAI_API_KEY"):
        endpoint(server).ask(STAGE, MESSAGES, 1, True)
    assert len(server.bodies) == 1


def test_a_request_that_the_server_will_not_take_is_rejected_not_a_fault(server: ScriptedAuthorServer) -> None:
    server.refusal = "Invalid prompt: flagged by the content policy"
    with pytest.raises(Rejected, match="request_refused"):
        endpoint(server).ask(STAGE, MESSAGES, 1, True)
    server.refusal = "messages: something is odd"
    with pytest.raises(AuthorFault, match="something is odd"):
        endpoint(server).ask(STAGE, MESSAGES, 1, True)


def test_fields_that_the_server_does_not_take_are_left_out(server: ScriptedAuthorServer) -> None:
    server.refuse_fields = ("seed", "response_format", "temperature", "max_tokens")
    asked = endpoint(server)
    asked.ask(STAGE, MESSAGES, 1, True)
    asked.ask(STAGE, MESSAGES, 2, True)
    assert len(server.bodies) == 6
    assert server.bodies[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert server.bodies[0].keys() == {"model", "messages", "max_tokens", "seed", "response_format", "temperature"}


def test_the_same_request_is_asked_once_whatever_cut_the_first_run_off(
    server: ScriptedAuthorServer, tmp_path: Path
) -> None:
    first = endpoint(server, cache=tmp_path)
    reply = first.ask(STAGE, MESSAGES, 1, True)
    again = endpoint(server, cache=tmp_path)
    assert again.ask(STAGE, MESSAGES, 1, True) == reply
    assert (len(server.bodies), again.ledger.total.cached, again.ledger.total.requests) == (1, 1, 0)
    again.ask(STAGE, MESSAGES, 2, True)
    again.ask(STAGE, [*MESSAGES, {"role": "assistant", "content": "no"}, {"role": "user", "content": "mend"}], 1, True)
    endpoint(server, cache=tmp_path, temperature=0.1).ask(STAGE, MESSAGES, 1, True)
    assert len(server.bodies) == 4


def test_a_torn_file_of_the_cache_is_asked_for_again(server: ScriptedAuthorServer, tmp_path: Path) -> None:
    reply = endpoint(server, cache=tmp_path).ask(STAGE, MESSAGES, 1, True)
    [kept] = tmp_path.rglob("*.json")
    kept.write_text('{"text": "ha')
    assert endpoint(server, cache=tmp_path).ask(STAGE, MESSAGES, 1, True) == reply
    assert len(server.bodies) == 2 and json.loads(kept.read_text())["text"] == reply.text


def test_the_key_is_sent_and_written_nowhere(server: ScriptedAuthorServer, tmp_path: Path) -> None:
    asked = endpoint(server, Ledger(tmp_path / "ledger.json", Prices()), tmp_path / "cache")
    asked.ask(STAGE, MESSAGES, 1, True)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert all(KEY not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    server.refusal = f"Incorrect API key provided: {KEY}"
    with pytest.raises(AuthorFault) as caught:
        asked.ask(STAGE, MESSAGES, 2, True)
    assert KEY not in str(caught.value) and "[key]" in str(caught.value)
    assert EndpointOptions("http://me:secret@host:8000/v1", "m").host == "host:8000"


def test_the_ledger_adds_up_by_stage_and_over_runs(server: ScriptedAuthorServer, tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    for run in (1, 2):
        asked = endpoint(server, Ledger(path, Prices(prompt=2.0, completion=10.0)))
        asked.ask(STAGE, MESSAGES, run, True)
        asked.ask("repair", MESSAGES, run, True)
    written = json.loads(path.read_text())
    assert written["total"]["requests"] == 4 and written["stages"][STAGE]["requests"] == 2
    assert written["total"]["prompt_tokens"] == 4000 and written["total"]["completion_tokens"] == 800
    assert written["total"]["cost_usd"] == pytest.approx(4 * (1000 * 2 + 200 * 10) / 1e6)
    path.write_text("[]")
    with pytest.raises(BadInput, match=r"ledger\.json: expected a ledger"):
        Ledger(path, Prices())


def test_a_budget_is_never_overrun_however_many_ask_at_once(server: ScriptedAuthorServer) -> None:
    """A request costs 0.0012 and may cost up to 0.0013 + 0.001 per token of the prompt: eleven threads share 0.01."""
    server.delay_s = 0.02
    asked = endpoint(server, Ledger(None, Prices(1.0, 1.0, budget=0.01)), max_tokens=1300)
    ended: list[str] = []

    def ask(number: int) -> None:
        try:
            asked.ask(STAGE, MESSAGES, number, True)
            ended.append("answered")
        except BudgetSpent:
            ended.append("spent")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ended) == 11
    assert asked.ledger.total.cost_usd <= 0.01
    assert ended.count("answered") >= 7  # what was set aside and not used is given back
    assert ended.count("spent") >= 2


def _message(**fields: Any) -> Any:
    def mangle(number: int, payload: dict[str, Any]) -> dict[str, Any]:
        payload["choices"][0]["message"] |= fields
        return payload

    return mangle


NO_COMPLETIONS: list[tuple[str, Any, str, int]] = [
    # what, what is sent, the fault's words, requests made of the three that are allowed
    ("page", lambda n, p: b"<!doctype html><html><body>Welcome to the console</body></html>", "Welcome to the console", 1),
    ("no JSON", lambda n, p: b"upstream closed the connection", "upstream closed the connection", 3),
    ("message null", lambda n, p: {**p, "choices": [{"index": 0, "message": None}]}, "message", 1),
    ("rate limit", lambda n, p: {"error": {"code": 429, "message": "upstream rate limit"}, "choices": None}, "upstream rate limit", 3),
    ("error object", lambda n, p: {"error": {"message": "the model is broken"}}, "the model is broken", 1),
    ("image", _message(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "image_url", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "words", "requests"), [c[1:] for c in NO_COMPLETIONS], ids=[c[0] for c in NO_COMPLETIONS]
)
def test_what_is_no_completion_is_a_fault_in_the_servers_words_and_never_kept(
    server: ScriptedAuthorServer, tmp_path: Path, sent: Any, words: str, requests: int
) -> None:
    server.mangle = sent
    with pytest.raises(AuthorFault, match=words):
        endpoint(server, cache=tmp_path).ask(STAGE, MESSAGES, 1, True)
    assert len(server.bodies) == requests and not list(tmp_path.rglob("*.json"))
    server.mangle = lambda number, payload: payload
    assert json.loads(endpoint(server, cache=tmp_path).ask(STAGE, MESSAGES, 1, True).text)["scenario"] == "single_hop"


def test_a_rate_limit_with_status_200_is_waited_out(server: ScriptedAuthorServer) -> None:
    server.mangle = lambda n, p: {"error": {"code": 429, "message": "slow down"}, "choices": None} if n < 2 else p
    asked = endpoint(server)
    asked.ask(STAGE, MESSAGES, 1, True)
    assert (len(server.bodies), asked.ledger.total.retries) == (3, 2)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}, {"total_tokens": 13}])
def test_unknown_token_counts_are_estimated(server: ScriptedAuthorServer, usage: Any) -> None:
    server.mangle = lambda number, payload: {**payload, "usage": usage}
    asked = endpoint(server)
    asked.ask(STAGE, MESSAGES, 1, True)
    total = asked.ledger.total
    assert total.estimated == 1 and total.prompt_tokens > 0 and total.completion_tokens > 0


def test_content_in_parts_is_read_and_its_thinking_left_out(server: ScriptedAuthorServer, tmp_path: Path) -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    server.mangle = _message(content=[thought, {"type": "text", "text": "It "}, {"type": "text", "text": "is."}])
    assert endpoint(server, cache=tmp_path).ask(STAGE, MESSAGES, 1, True).text == "It is."
    [kept] = tmp_path.rglob("*.json")
    assert json.loads(kept.read_text())["text"] == "It is."


@pytest.mark.parametrize(
    "broken", [{"text": [{"type": "text", "text": "x"}]}, {"text": None}, {"text": "", "finish": "stop"}, {}, [], "x"]
)
def test_a_broken_reply_in_the_cache_is_asked_for_again(
    server: ScriptedAuthorServer, tmp_path: Path, broken: Any
) -> None:
    reply = endpoint(server, cache=tmp_path).ask(STAGE, MESSAGES, 1, True)
    [kept] = tmp_path.rglob("*.json")
    kept.write_text(json.dumps(broken))
    assert endpoint(server, cache=tmp_path).ask(STAGE, MESSAGES, 1, True) == reply
    assert len(server.bodies) == 2 and json.loads(kept.read_text())["text"] == reply.text
