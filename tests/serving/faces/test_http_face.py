"""HTTP from a client's point of view: exact rewards, typed errors, the token, and recovery from a killed server."""

import concurrent.futures
import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from env_construction.environment.matching import MATCHES
from tests.serving.recorded_episodes import RAW, SCRIPTED, digits, episodes, expected, raw_episodes, texts_of

ROOT = Path(__file__).resolve().parents[3]


def test_rewards_over_http_equal_the_scorers_to_the_last_digit(data, played, server, sandbox):
    with server(data) as address, httpx.Client(base_url=address) as client:
        for environment, turns in episodes(played, SCRIPTED):
            key = client.post("/episodes", json={"id": environment.id}).json()["episode"]
            text = None
            for number, turn in enumerate(turns):
                if isinstance(turn, str):
                    text = turn
                    break
                for call in turn:
                    body = {"name": call.name, "arguments": call.arguments, "turn": number}
                    assert client.post(f"/episodes/{key}/calls", json=body).status_code == 200
            outcome = client.post(f"/episodes/{key}/finish", json={"text": text}).json()
            for match in MATCHES:
                assert digits(outcome[match]) == digits(expected(environment, texts_of(turns), match, sandbox))
        for environment, texts in raw_episodes(played, RAW):
            key, outcome = client.post("/episodes", json={"id": environment.id}).json()["episode"], None
            for place, text in enumerate(texts):
                outcome = client.post(f"/episodes/{key}/turns", json={"text": text}).json()["outcome"]
                if outcome:
                    texts = texts[: place + 1]
                    break
            outcome = outcome or client.post(f"/episodes/{key}/finish", json={}).json()
            for match in MATCHES:
                assert digits(outcome[match]) == digits(expected(environment, texts, match, sandbox))


def test_wrong_requests_are_typed_errors_and_the_episode_continues(data, server):
    with server(data, "--max-calls", "2") as address, httpx.Client(base_url=address) as client:
        key = client.post("/episodes", json={"id": "atlas-single_hop"}).json()["episode"]
        path = f"/episodes/{key}/calls"
        good = {"name": "capital_of", "arguments": {"country": "Fiji"}}

        def refused(status: int, code: str, path: str, **request) -> None:
            answer = client.post(path, **request)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)

        refused(404, "unknown_split", "/episodes", json={"split": "nowhere"})
        refused(404, "unknown_environment", "/episodes", json={"id": "nobody"})
        refused(404, "unknown_environment", "/episodes", json={"index": 10**6})
        refused(404, "unknown_episode", "/episodes/nobody/calls", json=good)
        for wrong in (b"", b"{", b'{"name": "capital_of", "arguments": "{"}'):
            refused(422, "bad_request", path, content=wrong, headers={"content-type": "application/json"})
        refused(400, "bad_request", path, content=b"[" * 100_000, headers={"content-type": "application/json"})
        refused(422, "bad_request", path, json={**good, "code": "import os"})
        refused(413, "byte_limit", path, json={"name": "capital_of", "arguments": {"country": "x" * 10_000_000}})
        refused(413, "byte_limit", path, content=iter([b"x" * 100_000] * 100))
        assert client.post(path, json={"name": "nothing"}).json()["status"] == "unknown_tool"
        assert client.post(path, json=good).json()["status"] == "ok"
        refused(429, "call_limit", path, json=good)
        outcome = client.post(f"/episodes/{key}/finish", json={"text": "Suva"}).json()
        assert [turn["q"] for turn in outcome["strict"]["turns"]] == [0, 1, 0]
        refused(409, "ended", path, json=good)
        assert client.get("/splits").json() == {
            "splits": {"test": client.get("/splits").json()["splits"]["test"]},
            "live": 0,
        }


def test_a_second_client_is_busy_and_the_call_of_a_disconnected_one_counts(slow_data, server):
    with server(slow_data) as address, httpx.Client(base_url=address) as client:
        key = client.post("/episodes", json={}).json()["episode"]
        slow = {"name": "capital_of", "arguments": {"country": "Fiji"}}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/episodes/{key}/calls", json=slow, timeout=httpx.Timeout(60, read=1))
        busy = client.post(f"/episodes/{key}/calls", json={"name": "nothing"})
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "busy")
        while (end := client.post(f"/episodes/{key}/finish", json={})).status_code == 409:
            assert end.json()["error"]["code"] == "busy"
            time.sleep(0.1)
        assert [(turn["p"], turn["q"]) for turn in end.json()["strict"]["turns"]] == [(1, 1)]


def test_no_answered_call_is_lost_when_the_server_is_killed_under_load(data, server, tmp_path):
    log = ["--log", str(tmp_path / "log"), "--max-calls", "100000"]
    call = {"name": "capital_of", "arguments": {"country": "Fiji"}}
    answered: dict[str, int] = {}

    def play(address: str, key: str) -> None:
        with contextlib.suppress(httpx.HTTPError), httpx.Client(base_url=address, timeout=60) as client:
            while client.post(f"/episodes/{key}/calls", json=call).status_code == 200:
                answered[key] += 1

    with server(data, *log) as address:
        answered.update(
            (httpx.post(f"{address}/episodes", json={"id": "atlas-single_hop"}).json()["episode"], 0) for _ in range(8)
        )
        players = [threading.Thread(target=play, args=(address, key)) for key in answered]
        for player in players:
            player.start()
        while sum(answered.values()) < 200:
            time.sleep(0.01)
    for player in players:  # the server was killed while each of them waited for an answer
        player.join()
    with server(data, *log) as address:
        for key, count in answered.items():
            outcome = httpx.post(f"{address}/episodes/{key}/finish", json={}, timeout=60).json()
            assert count <= outcome["strict"]["score"]["calls"] <= count + 1


def test_many_clients_at_once_each_get_their_own_rewards(shared_server):
    with httpx.Client(base_url=shared_server) as client:

        def play(number: int) -> float:
            key = client.post("/episodes", json={"id": "atlas-single_hop"}).json()["episode"]
            body = {"name": "capital_of", "arguments": {"country": "Fiji" if number % 2 else "Peru"}}
            client.post(f"/episodes/{key}/calls", json=body)
            return client.post(f"/episodes/{key}/finish", json={}).json()["published"]["turns"][0]["reward"]

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert list(pool.map(play, range(200))) == [float(number % 2) for number in range(200)]


def test_a_server_for_other_machines_requires_a_token(data, server):
    command = [sys.executable, "-m", "serving.serve", "--data", str(data), "--host", "0.0.0.0"]
    alone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert alone.returncode == 2 and "FTRL_SERVE_TOKEN" in alone.stderr
    with server(data, "--mcp", "--host", "0.0.0.0", FTRL_SERVE_TOKEN="secret") as address:
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert httpx.get(f"{address}/splits", headers=wrong).status_code == 401
            assert httpx.post(f"{address}/mcp", headers=wrong).status_code == 401
        assert httpx.get(f"{address}/splits", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_local_server_answers_to_local_names_only(shared_server):
    assert httpx.get(f"{shared_server}/splits", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("options", [["--id", "nobody"], ["--split", "nowhere"], ["--stdio"]])
def test_an_invalid_choice_is_a_one_line_error(options, data):
    command = [sys.executable, "-m", "serving.serve", "--data", str(data), *options]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 2 and said.stderr.startswith("error: ") and said.stderr.count("\n") == 1


def test_a_restarted_server_resumes_its_episodes(data, server, tmp_path):
    good = {"name": "capital_of", "arguments": {"country": "Fiji"}, "turn": 0}
    log = ["--log", str(tmp_path / "log")]
    with server(data, *log) as address:
        over, key = (httpx.post(f"{address}/episodes", json={"id": "atlas-multi_hop"}).json()["episode"] for _ in "ab")
        httpx.post(f"{address}/episodes/{over}/finish", json={})
        httpx.post(f"{address}/episodes/{key}/calls", json=good)
    with server(data, *log) as address:
        assert httpx.post(f"{address}/episodes/{over}/finish", json={}).json()["error"]["code"] == "ended"
        body = {"name": "population_of", "arguments": {"city": "Suva"}, "turn": 1}
        assert httpx.post(f"{address}/episodes/{key}/calls", json=body).json()["output"] == "77366"
        outcome = httpx.post(f"{address}/episodes/{key}/finish", json={"text": "77366"}).json()
        assert outcome["strict"]["rewards"]["solve_f1"] == 1.0


def test_every_response_is_documented(shared_server):
    paths = httpx.get(f"{shared_server}/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, described in methods.items():
            assert {"200", "401", "413", "422"} <= described["responses"].keys(), (path, method)
