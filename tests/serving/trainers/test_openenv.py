"""OpenEnv's client plays the episodes of the package that `serving.export --to openenv` wrote and pip installed.

Runs in a separate environment (.ci/faces.sh), with the package in the folder FTRL_OPENENV_PACKAGE. OpenEnv requires
another version of `mcp` than the project.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import read_environments
from tests.serving.recorded_episodes import RAW, SCRIPTED, digits, episodes, expected, texts_of
from tests.serving.server_process import free_port, running

pytest.importorskip("openenv", reason="OpenEnv is installed in a separate environment: run .ci/faces.sh")
from ftrl_tools import FtrlToolsEnv
from openenv.core.env_server.mcp_types import CallToolAction
from websockets.sync.client import connect

PACKAGE = Path(os.environ.get("FTRL_OPENENV_PACKAGE", ""))


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    port, command = free_port(), [sys.executable, "-m", "ftrl_tools.server.app"]
    # the folder is empty, so the server uses only the installed package
    with running(command, port, tmp_path_factory.mktemp("elsewhere"), {**os.environ, "PORT": str(port)}) as url:
        yield url


def act(client, tool: str, arguments: dict, turn: int | None = None):
    return client.step(
        CallToolAction(tool_name=tool, arguments=arguments, metadata={} if turn is None else {"turn": turn})
    )


def test_openenv_client_gets_the_scorers_exact_rewards_in_1000_episodes(address, sandbox):
    environments = list(read_environments(PACKAGE / "environments.jsonl"))
    with FtrlToolsEnv(base_url=address).sync() as client:
        for environment, turns in episodes(environments, SCRIPTED + RAW):
            start = client.reset(id=environment.id)
            assert start.observation.messages == environment.messages and not start.done
            answer: dict = {}
            for number, turn in enumerate(turns):
                if isinstance(turn, str):
                    answer = {"answer": turn}
                    break
                for call in turn:
                    step = act(client, call.name, call.arguments, number)
                    assert step.reward is None and not step.done
            end = act(client, "submit_answer", answer)
            assert end.done
            wanted = {match: expected(environment, texts_of(turns), match, sandbox) for match in MATCHES}
            for match in MATCHES:
                assert digits(end.observation.result[match]) == digits(wanted[match])
            assert digits(end.reward) == digits(wanted["published"]["rewards"]["turns"])


def test_tasks_are_listed_by_split_without_their_answers(address):
    environments = list(read_environments(PACKAGE / "environments.jsonl"))
    assert [split["name"] for split in httpx.get(f"{address}/ftrl_tools/splits").json()] == ["test"]
    tasks = httpx.post(f"{address}/ftrl_tools/tasks", json={"split": "test"}).text
    assert all(environment.id in tasks for environment in environments) and "7737002" not in tasks
    with FtrlToolsEnv(base_url=address).sync() as client:
        for index, environment in enumerate(environments):
            assert client.reset(split="test", index=index).observation.environment == environment.id
            assert [tool.name for tool in client.list_tools(use_cache=False)] == [
                *(tool.name for tool in environment.tools),
                "submit_answer",
            ]


def test_wrong_requests_are_typed_errors_and_the_next_reset_works(address):
    with FtrlToolsEnv(base_url=address).sync() as client:
        with pytest.raises(Exception, match="unknown_split"):
            client.reset(split="nowhere")
        with pytest.raises(Exception, match="unknown_environment"):
            client.reset(id="nobody")
        client.reset(split="test", index=0)
        assert "byte_limit" in act(client, "capital_of", {"country": "x" * 10_000_000}).observation.error.message
        assert act(client, "no_such_tool", {}).observation.metadata["status"] == "unknown_tool"
        act(client, "submit_answer", {"answer": "x"})
        assert "ended" in act(client, "capital_of", {}).observation.error.message
        client.reset(split="test", index=0)
        assert act(client, "capital_of", {"country": "Fiji"}).observation.error is None


def test_invalid_json_is_a_typed_error_and_a_disconnected_client_disturbs_no_other(address):
    path = address.replace("http", "ws") + "/ws"
    good = {"tool_name": "capital_of", "arguments": {"country": "Fiji"}}
    with FtrlToolsEnv(base_url=address).sync() as client:
        client.reset(id="atlas-single_hop")
        for _ in range(3):
            with connect(path) as other:  # plays the same environment in a separate episode
                for message, kind, code in (
                    ("{", "error", "INVALID_JSON"),
                    ({"type": "reset", "data": {"id": "atlas-single_hop"}}, "observation", None),
                    ({"type": "step", "data": {**good, "arguments": "{"}}, "error", "VALIDATION_ERROR"),
                    ({"type": "step", "data": good}, "observation", None),
                ):
                    other.send(message if isinstance(message, str) else json.dumps(message))
                    answer = json.loads(other.recv())
                    assert answer["type"] == kind and answer["data"].get("code") == code
                other.send(json.dumps({"type": "step", "data": good}))
                other.socket.close()  # without closing the protocol, and without reading the reply
        act(client, "capital_of", {"country": "Fiji"})
        end = act(client, "submit_answer", {"answer": "Suva"})
        assert [turn["q"] for turn in end.observation.result["strict"]["turns"]] == [1, 0]


def test_openenv_validate_accepts_the_package():
    said = subprocess.run(
        [sys.executable, "-m", "openenv.cli", "validate", str(PACKAGE)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
