"""OpenEnv itself, on the package that `serving.export --to openenv` wrote and pip installed: its client plays the episodes.

Runs in an environment of its own (.ci/faces.sh), with the package of the folder FTRL_OPENENV_PACKAGE; OpenEnv wants another version of
`mcp` than the project.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import read_environments
from tests.serving.recorded_episodes import digits, episodes, expected, texts_of

pytest.importorskip("openenv", reason="OpenEnv lives in an environment of its own: .ci/faces.sh")
from ftrl_tools import FtrlToolsEnv
from openenv.core.env_server.mcp_types import CallToolAction

PACKAGE = Path(os.environ.get("FTRL_OPENENV_PACKAGE", ""))


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "ftrl_tools.server.app"],
        env={**os.environ, "PORT": str(port)},
        cwd=tmp_path_factory.mktemp("elsewhere"),  # the installed package alone, without the repository
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the server has ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def act(client, tool: str, arguments: dict, turn: int | None = None):
    return client.step(
        CallToolAction(tool_name=tool, arguments=arguments, metadata={} if turn is None else {"turn": turn})
    )


def test_its_client_plays_200_episodes_with_the_scorers_digits(address, sandbox):
    environments = list(read_environments(PACKAGE / "environments.jsonl"))
    with FtrlToolsEnv(base_url=address).sync() as client:
        for environment, turns in episodes(environments, 200):
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


def test_wrong_requests_are_typed_and_the_next_reset_works(address):
    with FtrlToolsEnv(base_url=address).sync() as client:
        with pytest.raises(Exception, match="unknown_split"):
            client.reset(split="nowhere")
        client.reset(split="test", index=0)
        assert act(client, "no_such_tool", {}).observation.metadata["status"] == "unknown_tool"
        act(client, "submit_answer", {"answer": "x"})
        assert "ended" in act(client, "capital_of", {}).observation.error.message
        client.reset(split="test", index=0)
        assert act(client, "capital_of", {"country": "Fiji"}).observation.error is None


def test_the_tool_of_openenv_finds_the_folder_valid():
    said = subprocess.run(
        [sys.executable, "-m", "openenv.cli", "validate", str(PACKAGE)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
