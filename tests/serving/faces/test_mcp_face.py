"""MCP with the package's own client: stdio and streamable HTTP, with both versions of the protocol."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import ToolDocument
from serving.episodes.server import EpisodeServer, submit_name
from serving.faces.mcp_face import McpFace
from tests.serving.recorded_episodes import RAW, SCRIPTED, digits, episodes, expected, texts_of

ROOT = Path(__file__).resolve().parents[3]


async def play(client: Client, environment, turns) -> dict | None:
    for number, turn in enumerate(turns):
        if isinstance(turn, str):
            return (await client.call_tool("submit_answer", {"answer": turn})).structured_content
        for call in turn:
            await client.call_tool(call.name, call.arguments, meta={"ftrl/turn": number})
    return (await client.call_tool("submit_answer", {})).structured_content


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_rewards_over_mcp_equal_the_scorers_to_the_last_digit(mode, played, sandbox):
    core = EpisodeServer({item.id: item for item in played}, sandbox=sandbox)

    async def main():
        for environment, turns in episodes(played, (SCRIPTED + RAW) // 2, seed=len(mode)):
            async with Client(McpFace(core, {"id": environment.id}).server(), mode=mode) as client:
                outcome = await play(client, environment, turns)
            for match in MATCHES:
                assert digits(outcome[match]) == digits(expected(environment, texts_of(turns), match, sandbox))

    asyncio.run(main())


def test_stdio_serves_one_environment_to_a_desktop_agent(data):
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "serving.serve", "--data", str(data), "--mcp", "--stdio", "--id", "atlas-single_hop"],
        cwd=ROOT,
    )

    async def main():
        async with Client(command) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["capital_of", "population_of", "larger_of", "submit_answer"]
            assert "capital of Fiji" in tools[-1].description
            question = await client.get_prompt("question")
            assert "capital of Fiji" in question.messages[0].content.text
            found = await client.call_tool("capital_of", {"country": "Fiji"})
            assert "Suva" in found.content[0].text and not found.is_error
            assert (await client.call_tool("capital_of", {"country": "Mars"})).is_error
            done = await client.call_tool("submit_answer", {"answer": "The answer is Suva."})
            assert [turn["reward"] for turn in done.structured_content["published"]["turns"]] == [1.0, 0.0, 1.0]

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_over_http_each_url_plays_its_own_episode_and_errors_are_typed(mode, shared_server):
    async def main(address: str):
        started = httpx.post(f"{address}/episodes", json={"id": "atlas-multi_hop"}).json()["episode"]
        async with (
            Client(f"{address}/mcp?episode={started}", mode=mode) as trainer,
            Client(f"{address}/mcp?id=atlas-single_hop&session=a-{mode}", mode=mode) as one,
            Client(f"{address}/mcp?id=atlas-single_hop&session=b-{mode}", mode=mode) as two,
            Client(f"{address}/mcp?id=nobody", mode=mode) as lost,
        ):
            await trainer.call_tool("capital_of", {"country": "Fiji"})
            await asyncio.gather(*(one.call_tool("capital_of", {"country": "Fiji"}) for _ in range(5)))
            first = (await one.call_tool("submit_answer", {"answer": "Suva"})).structured_content
            second = (await two.call_tool("submit_answer", {"answer": "Suva"})).structured_content
            assert [turn["q"] for turn in first["published"]["turns"]] == [1, 0, 0, 0, 0, 0]
            assert [turn["reward"] for turn in second["published"]["turns"]] == [0.5]
            outcome = httpx.post(f"{address}/episodes/{started}/finish", json={"text": "77366"}).json()
            assert [turn["q"] for turn in outcome["strict"]["turns"]] == [1, 0]
            for client, name, arguments, code in (
                (trainer, "capital_of", {}, "ended"),
                (one, "submit_answer", {"answer": "Suva"}, "ended"),
                (lost, "capital_of", {}, "unknown_environment"),
            ):
                with pytest.raises(MCPError) as caught:
                    await client.call_tool(name, arguments)
                assert caught.value.data == {"code": code}
            await two.get_prompt("question")  # a request for the question starts the next episode
            assert not (await two.call_tool("capital_of", {"country": "Fiji"})).is_error
            huge = two.call_tool("capital_of", {"country": "x" * 1_100_000})
            with pytest.raises(MCPError) as caught:
                await huge
            assert caught.value.data == {"code": "byte_limit"}

    asyncio.run(main(shared_server))


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_wrong_requests_are_typed_errors_and_the_episode_continues(mode, environments, sandbox):
    core = EpisodeServer({item.id: item for item in environments}, sandbox=sandbox)
    good = ("capital_of", {"country": "Fiji"})

    async def main():
        for choice, code in (
            ({"split": "nowhere"}, "unknown_split"),
            ({"id": "nobody"}, "unknown_environment"),
            ({"index": "four"}, "bad_request"),
        ):
            async with Client(McpFace(core, choice).server(), mode=mode) as client:
                assert await code_of(client, *good) == code
        async with Client(McpFace(core, {"id": "atlas-single_hop"}).server(), mode=mode) as client:
            assert await code_of(client, "capital_of", {"country": "x" * 10_000_000}) == "byte_limit"
            assert (await client.call_tool("no_such_tool", {})).is_error
            assert await code_of(client, "submit_answer", {"answer": ["Suva"]}) == "bad_request"
            assert not (await client.call_tool(*good)).is_error
            done = (await client.call_tool("submit_answer", {"answer": "Suva"})).structured_content
            assert [turn["q"] for turn in done["published"]["turns"]] == [0, 1, 0]
            assert await code_of(client, *good) == "ended"

    asyncio.run(main())


async def code_of(client: Client, name: str, arguments: dict) -> str:
    with pytest.raises(MCPError) as caught:
        await client.call_tool(name, arguments)
    return caught.value.data["code"]


def test_invalid_json_and_10_mb_over_http_are_errors_and_disturb_nothing(shared_server):
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    path = f"{shared_server}/mcp?id=atlas-single_hop&session=broken"
    broken = httpx.post(path, content=b'{"jsonrpc": "2.0",', headers=headers)
    assert broken.status_code == 400 and broken.json()["error"]["code"] == -32700
    large = httpx.post(path, content=b"x" * 10_000_000, headers=headers)
    assert large.status_code == 413 and large.json()["error"]["code"] == "byte_limit"

    async def main():
        async with Client(path) as client:
            assert not (await client.call_tool("capital_of", {"country": "Fiji"})).is_error

    asyncio.run(main())


def test_a_second_client_is_busy_and_the_call_of_a_disconnected_one_counts(slow_data, server):
    async def main(address: str):
        key = httpx.post(f"{address}/episodes", json={}).json()["episode"]
        async with Client(f"{address}/mcp?episode={key}") as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.call_tool("capital_of", {"country": "Fiji"}), 1)
            busy = httpx.post(f"{address}/episodes/{key}/calls", json={"name": "nothing"})
            assert busy.json()["error"]["code"] == "busy"
        while "error" in (end := httpx.post(f"{address}/episodes/{key}/finish", json={}, timeout=60).json()):
            assert end["error"]["code"] == "busy"
            await asyncio.sleep(0.1)
        assert [(turn["p"], turn["q"]) for turn in end["strict"]["turns"]] == [(1, 1)]

    with server(slow_data, "--mcp") as address:
        asyncio.run(main(address))


def test_a_tool_of_the_environment_keeps_its_name(environments):
    taken = [ToolDocument(name=name, description="", parameters={}) for name in ("submit_answer", "submit_answer_")]
    assert submit_name(environments[0].model_copy(update={"tools": taken})) == "submit_answer__"
