"""Episodes in process: rewards equal the scorer's to the last digit, and no request disturbs another episode."""

import asyncio
import json
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult, ToolSandbox
from reward.tool_calls import render_call
from serving.episodes.errors import EpisodeError
from serving.episodes.log import EpisodeLog
from serving.episodes.server import EpisodeServer, Limits
from tests.serving.recorded_episodes import RAW, SCRIPTED, Turns, digits, episodes, expected, raw_episodes, texts_of


def serve(environments: list[Environment], sandbox: ToolSandbox, **settings) -> EpisodeServer:
    return EpisodeServer({item.id: item for item in environments}, sandbox=sandbox, **settings)


def play(server: EpisodeServer, environment: Environment, turns: Turns):
    key = server.reset(id=environment.id).episode
    for number, turn in enumerate(turns):
        if isinstance(turn, str):
            return server.finish(key, turn)
        for call in turn:
            server.call(key, call.name, call.arguments, turn=number)
    return server.finish(key)


def refused(code: str, request, *arguments, **named) -> None:
    with pytest.raises(EpisodeError) as caught:
        request(*arguments, **named)
    assert caught.value.code == code


def test_rewards_of_scripted_episodes_equal_the_scorers_to_the_last_digit(played, sandbox):
    server = serve(played, sandbox)
    for environment, turns in episodes(played, SCRIPTED):
        outcome = asdict(play(server, environment, turns))
        for match in MATCHES:
            assert digits(outcome[match]) == digits(expected(environment, texts_of(turns), match, sandbox))


@pytest.mark.parametrize("match", MATCHES)
def test_rewards_of_raw_turns_equal_the_scorers_to_the_last_digit(match, played, sandbox):
    server = serve(played, sandbox, match=match)
    for environment, texts in raw_episodes(played, RAW // 2, seed=MATCHES.index(match)):
        key, outcome, said = server.reset(id=environment.id).episode, None, []
        for text in texts:
            reply = server.turn(key, text)
            said.append(text)
            if reply.outcome:
                outcome = reply.outcome
                break
        outcome = outcome or server.finish(key)
        for name in MATCHES:
            assert digits(asdict(outcome)[name]) == digits(expected(environment, said, name, sandbox))


def test_a_batch_of_calls_returns_the_results_of_single_calls(environments, sandbox):
    server = serve(environments, sandbox)
    one, two = (server.reset(id="atlas-single_hop").episode for _ in range(2))
    good = ("capital_of", {"country": "Fiji"})
    found = server.call_many([(one, *good, 0), ("nobody", *good, 0), (two, "nothing", {}, 0), (one, *good, 0)])
    assert isinstance(found[1], EpisodeError) and found[1].code == "unknown_episode"
    assert [item.status for item in (found[0], found[2], found[3])] == ["ok", "unknown_tool", "ok"]
    assert server.finish(one).published.turns[0].p == 2


def test_calls_of_one_turn_may_run_concurrently_and_keep_their_order(environments, sandbox):
    server = serve(environments, sandbox)

    async def main():
        key = server.reset(id="atlas-parallel_single_hop").episode
        names = ["Peru", "Ghana", "Fiji"]
        found = await asyncio.gather(
            *(server.call_async(key, "capital_of", {"country": name}, turn=0) for name in names)
        )
        assert [json.loads(item.output)["capital"] for item in found] == ["Lima", "Accra", "Suva"]
        return await server.finish_async(key, "The answer is Lima.")

    outcome = asyncio.run(main())
    assert [(turn.p, turn.q) for turn in outcome.published.turns] == [(3, 2), (0, 0)]


def test_gold_and_rewards_stay_hidden_until_the_end(environments, sandbox):
    server = serve(environments, sandbox)
    start = server.reset(id="atlas-multi_hop")
    shown = json.dumps(asdict(start))
    assert "77366" not in shown and "unsolved" not in shown and "Suva" not in shown
    assert set(asdict(start)) == {"episode", "environment", "split", "messages", "tools"}
    assert isinstance(server.call(start.episode, "capital_of", {"country": "Fiji"}), ToolResult)


def test_wrong_requests_are_typed_errors_and_change_nothing(environments, sandbox):
    server = serve(environments, sandbox, limits=Limits(calls=3, request_bytes=1000))
    refused("unknown_split", server.reset, split="nowhere")
    refused("unknown_environment", server.reset, id="nobody")
    refused("unknown_environment", server.reset, index=4)
    refused("unknown_environment", server.reset, index=-1)
    refused("unknown_episode", server.call, "nobody", "capital_of", {})
    key = server.reset(id="atlas-single_hop").episode
    refused("bad_request", server.call, key, "capital_of", ["Fiji"])
    refused("bad_request", server.call, key, "capital_of", {"country": {1, 2}})
    refused("bad_request", server.call, key, "", {})
    refused("byte_limit", server.call, key, "capital_of", {"country": "x" * 10_000_000})
    refused("byte_limit", server.finish, key, "x" * 1001)
    assert server.call(key, "capital_of", {"country": "Fiji"}, turn=1).ok
    assert server.call(key, "nothing", {}, turn=2).status == "unknown_tool"
    refused("closed_turn", server.call, key, "capital_of", {"country": "Fiji"}, turn=1)
    server.call(key, "capital_of", {"country": "Peru"})
    refused("call_limit", server.call, key, "capital_of", {"country": "Fiji"})
    outcome = server.finish(key, "The answer is Suva.")
    assert [turn.reward for turn in outcome.published.turns] == [1.0, 0.0, 0.0, 1.0]
    refused("ended", server.call, key, "capital_of", {})
    refused("ended", server.finish, key, "The answer is Suva.")


def test_a_second_client_of_an_episode_gets_a_busy_error(environments, sandbox):
    slow = environments[0].model_copy(
        update={
            "codes": {**environments[0].codes, "capital_of": "import time\ndef capital_of(country):\n    time.sleep(1)"}
        }
    )
    server = serve([slow], sandbox)
    key = server.reset().episode
    first = threading.Thread(target=server.call, args=(key, "capital_of", {"country": "Fiji"}))
    first.start()
    while not server._live[key].running:
        pass
    refused("busy", server.call, key, "capital_of", {"country": "Fiji"})
    refused("busy", server.finish, key)
    first.join()
    assert len(server.finish(key).published.turns) == 1


def test_idle_and_long_episodes_expire_with_a_typed_error(environments, sandbox, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("serving.episodes.server.time.monotonic", lambda: now[0])
    server = serve(environments, sandbox, limits=Limits(idle_seconds=10, seconds=25, episodes=2))
    idle, busy = server.reset().episode, server.reset().episode
    refused("full", server.reset)
    for _ in range(3):
        now[0] += 8
        server._find(busy)
    assert server.live() == 1
    refused("expired", server.call, idle, "capital_of", {})
    now[0] += 2
    refused("expired", server.finish, busy, "late")


def test_the_call_of_a_disconnected_client_counts_and_the_episode_stays_open(environments, sandbox):
    server = serve(environments, sandbox)

    async def main() -> str:
        key = server.reset(id="atlas-single_hop").episode
        task = asyncio.create_task(server.call_async(key, "capital_of", {"country": "Fiji"}))
        await asyncio.sleep(0)
        task.cancel()
        while server._live[key].running:
            await asyncio.sleep(0.01)
        return key

    assert [turn.q for turn in server.finish(asyncio.run(main())).published.turns] == [1]


def test_a_sandbox_fault_does_not_count_against_the_model(environments):
    with ToolSandbox(workers=1) as broken:
        server = serve(environments, broken)
        key = server.reset(id="atlas-single_hop").episode
        server.call(key, "capital_of", {"country": "Fiji"})
        real, broken.run = (
            broken.run,
            lambda codes, calls: [ToolResult(call.name, "fault", "gone", 0.0) for call in calls],
        )
        refused("sandbox_fault", server.call, key, "capital_of", {"country": "Fiji"})
        broken.run = real
        assert [turn.q for turn in server.finish(key).published.turns] == [1]


def test_an_episode_whose_scoring_failed_can_be_finished_again(environments, monkeypatch):
    with ToolSandbox(workers=1) as working:
        server = serve(environments, working)
        key = server.reset(id="atlas-single_hop").episode
        server.call(key, "capital_of", {"country": "Fiji"})
        real = working.run_batch
        monkeypatch.setattr(
            working,
            "run_batch",
            lambda jobs: [[ToolResult(c.name, "fault", "gone", 0.0) for c in j.calls] for j in jobs],
        )
        last = render_call(ToolCall("capital_of", {"country": "Peru"}))
        refused("sandbox_fault", server.finish, key, last)
        monkeypatch.setattr(working, "run_batch", real)
        assert [turn.q for turn in server.finish(key, last).published.turns] == [1, 0]


@pytest.mark.parametrize("raw", [False, True])
def test_a_killed_server_resumes_from_its_log_with_the_same_rewards(raw, environments, sandbox, tmp_path):
    environment = environments[3]
    plan = [ToolCall(call.name, call.arguments) for call in environment.gold_plan]
    turns: Turns = [plan[:2], plan[2:], "The answer is 7737002."]
    first = serve(environments, sandbox, log=EpisodeLog(tmp_path, "data"))
    over, key = first.reset().episode, first.reset(id=environment.id).episode
    first.finish(over)
    if raw:
        first.turn(key, texts_of(turns)[0])
    else:
        for call in plan[:2]:
            first.call(key, call.name, call.arguments, turn=0)
    with (tmp_path / "episodes.jsonl").open("a") as log:  # killed while writing
        log.write('{"episode": "' + key)
    for _ in range(2):  # a restart can also read the log that a restart wrote
        second = serve(environments, sandbox, log=EpisodeLog(tmp_path, "data"))
    refused("ended", second.call, over, "capital_of", {})
    for call in plan[2:]:
        second.call(key, call.name, call.arguments, turn=1)
    outcome = asdict(second.finish(key, "The answer is 7737002."))
    assert digits(outcome["strict"]) == digits(expected(environment, texts_of(turns), "strict", sandbox))
    with pytest.raises(BadInput, match="another configuration"):
        EpisodeLog(tmp_path, "other data")


def test_the_core_needs_no_torch(tmp_path):
    import subprocess
    import sys

    code = "import sys, serving.episodes.server; sys.exit('torch' in sys.modules or 'mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
