"""Runs the README section on serving and exporting: the table's commands, the agent's config, and the Python code."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from mcp import Client, StdioServerParameters

from env_construction.environment.schema import write_environments
from reward.score import read_gold
from serving.episodes.server import EpisodeServer

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text().split("## Environments wherever people train\n")[1].split("\n## ")[0]


def commands() -> list[str]:
    """The commands in the table. A bare `--to X` means the row's first command with another trainer."""
    found = []
    for row in re.findall(r"^\|[^|]*\| (`python -m serving.*) \|$", SECTION, re.MULTILINE):
        first, *others = re.findall("`([^`]*)`", row)
        found += [first, *(re.sub(r"--to \w+", other, first) for other in others)]
    return found


COMMANDS = commands()


@pytest.fixture
def data(environments, tmp_path) -> Path:
    write_environments(tmp_path / "FILE.jsonl", environments)
    return tmp_path / "FILE.jsonl"


def block(language: str) -> str:
    [text] = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert text.count("\n") == 3
    return text


def test_the_table_names_every_export_and_server() -> None:
    options = [re.sub(r".*-m serving\.|--(data|out) \S+ ?", "", command).strip() for command in COMMANDS]
    assert options == [
        "serve",
        "serve --mcp",
        *(f"export --to {to}" for to in ("openenv", "verifiers", "trl", "verl", "sft")),
    ]


@pytest.mark.parametrize("command", [command for command in COMMANDS if "serving.export" in command])
def test_exports_of_the_table_are_written(command, data, tmp_path) -> None:
    words = shlex.split(command.replace("FILE.jsonl", str(data)).replace("DIR", str(tmp_path / "out")))
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True)
    assert {"README.md"} < {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "serving.serve" in command])
def test_servers_of_the_table_answer(command, data, server) -> None:
    with server(data, *shlex.split(command.partition("FILE.jsonl")[2])) as address:
        assert httpx.get(f"{address}/docs").status_code == 200
        assert httpx.get(f"{address}/splits").json() == {"splits": {"test": 4}, "live": 0}
        if "--mcp" in command:
            assert asyncio.run(tools_of(Client(f"{address}/mcp")))[-1] == "submit_answer"


def test_a_desktop_agent_gets_the_tools_with_three_config_lines(data, tmp_path) -> None:
    lines = block("json").replace("/REPOSITORY/.venv/bin/python", sys.executable)
    lines = lines.replace("/REPOSITORY/FILE.jsonl", str(data)).replace("/REPOSITORY", str(ROOT))
    [settings] = json.loads(lines)["mcpServers"].values()
    elsewhere = StdioServerParameters(**settings, cwd=tmp_path)
    assert "capital_of" in asyncio.run(tools_of(Client(elsewhere)))


async def tools_of(client: Client) -> list[str]:
    async with client:
        return [tool.name for tool in (await client.list_tools()).tools]


def test_three_lines_of_python_play_an_episode(data) -> None:
    with EpisodeServer(read_gold(data, "strict")) as server:
        names = {"server": server}
        exec(block("python"), names)
    assert names["result"].ok and names["outcome"].strict.rewards["solve_f1"] == 1.0
