"""Serve environments: to trainers over HTTP, to agents over MCP.

In:  --data FILE   environments, JSONL or Parquet
Out: a server on --host and --port: HTTP with /docs, and with --mcp also /mcp
     with --mcp --stdio: one episode on stdin and stdout

By default it accepts connections from this machine only. To serve other machines, pass --host, set a token in the
variable FTRL_SERVE_TOKEN, and put a TLS proxy in front. With --log FOLDER, a restarted server resumes its live
episodes.

Examples:
    python -m serving.serve --data env.jsonl
    python -m serving.serve --data env.jsonl --mcp --id ENVIRONMENT --stdio
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, file_sha256, run_main
from env_construction.environment.matching import MATCHES
from reward.rewards import REWARDS
from reward.score import open_sandbox, read_gold
from serving.episodes.errors import EpisodeError
from serving.episodes.log import EpisodeLog
from serving.episodes.server import EpisodeServer, Limits
from serving.faces.http_face import LOCAL, http_app
from serving.faces.mcp_face import McpFace

TOKEN_VARIABLE = "FTRL_SERVE_TOKEN"


def main() -> int:
    arguments = _parser().parse_args()
    token = os.environ.get(TOKEN_VARIABLE, "")
    if arguments.stdio and not arguments.mcp:
        raise BadInput("--stdio: add --mcp; only MCP runs on stdin and stdout")
    if arguments.host not in LOCAL and not token:
        raise BadInput(f"--host {arguments.host}: set {TOKEN_VARIABLE} before serving other machines")
    if token and not token.isascii():
        raise BadInput(f"{TOKEN_VARIABLE}: expected ASCII characters only; choose another token")
    environments = read_gold(arguments.data, "strict")
    limits = Limits(
        calls=arguments.max_calls,
        seconds=arguments.seconds,
        idle_seconds=arguments.idle_seconds,
        episodes=arguments.episodes,
    )
    log = EpisodeLog(arguments.log, file_sha256(arguments.data)) if arguments.log else None
    choice = {
        name: str(value) for name in ("id", "split", "index", "seed") if (value := getattr(arguments, name)) is not None
    }
    with (
        open_sandbox(arguments.workers, arguments.require_isolation) as sandbox,
        EpisodeServer(
            environments, limits=limits, variant=arguments.variant, match=arguments.match, sandbox=sandbox, log=log
        ) as episodes,
    ):
        try:
            episodes.choose(arguments.split, arguments.index, arguments.id)
        except EpisodeError as error:
            raise BadInput(f"{arguments.data}: {error}") from None
        face = McpFace(episodes, choice).server() if arguments.mcp else None
        if arguments.stdio and face is not None:
            asyncio.run(_serve_stdio(face))
            return 0
        hosts = (*LOCAL, arguments.host) if arguments.host in LOCAL else ("*",)
        app = http_app(episodes, token=token, hosts=hosts, mcp=face)
        print(
            f"serving {len(environments)} environments on http://{arguments.host}:{arguments.port}/docs",
            file=sys.stderr,
        )
        uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", access_log=False)
    return 0


async def _serve_stdio(face: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await face.run(read, write, face.create_initialization_options())


def _parser() -> argparse.ArgumentParser:
    parser = ScriptParser(__doc__, "python -m serving.serve")
    parser.add_argument("--data", type=Path, required=True, help="environments, JSONL or Parquet")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--mcp", action="store_true", help="also serve MCP, at /mcp")
    parser.add_argument("--stdio", action="store_true", help="MCP on stdin and stdout instead of HTTP")
    parser.add_argument("--id", help="MCP: environment to play if the URL names none")
    parser.add_argument("--split", help="MCP: choose from this split")
    parser.add_argument("--index", type=int, help="MCP: position of the environment in --split, or in the file")
    parser.add_argument("--seed", type=int, help="MCP: seed for a random choice without --id and --index")
    parser.add_argument("--variant", choices=list(REWARDS), default="solve_f1", help="row of the reward table")
    parser.add_argument(
        "--match", choices=list(MATCHES), default="published", help="how to parse calls in turns of text"
    )
    parser.add_argument("--log", type=Path, metavar="FOLDER", help="keep episodes across restarts")
    parser.add_argument("--episodes", type=int, default=Limits.episodes, help="maximum number of live episodes")
    parser.add_argument("--max-calls", type=int, default=Limits.calls, help="maximum calls per episode")
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="maximum seconds per episode")
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=Limits.idle_seconds,
        help="an episode expires after this many seconds without a request",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="sandbox processes")
    parser.add_argument(
        "--require-isolation", action="store_true", help="exit with an error if a sandbox layer is missing"
    )
    return parser


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
