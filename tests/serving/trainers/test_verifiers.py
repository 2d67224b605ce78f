"""verifiers itself, on the package that `serving.export --to verifiers` wrote and pip installed: its validation and its evaluation.

Runs in an environment of its own (.ci/faces.sh), with the package of the folder FTRL_VERIFIERS_PACKAGE. The model is a scripted
OpenAI-compatible server, so no turn is left to chance.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from env_construction.environment.schema import Environment, read_environments
from env_construction.sandbox.tool_sandbox import ToolCall
from tests.serving.recorded_episodes import Turns, digits, episodes, expected, texts_of

vf = pytest.importorskip("verifiers.v1", reason="verifiers lives in an environment of its own: .ci/faces.sh")

PACKAGE = Path(os.environ.get("FTRL_VERIFIERS_PACKAGE", ""))
BIN = Path(sys.executable).parent
SETTINGS = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "SCRIPTED_KEY": "x"}


def scripts(environments: list[Environment]) -> dict[str, Turns]:
    """By question: right, one call too many, a wrong tool and a wrong answer, a tool that does not exist."""
    plans = [[ToolCall(call.name, call.arguments) for call in item.gold_plan] for item in environments]
    endings = [f"The answer is {item.answer}." for item in environments]
    turns: list[Turns] = [
        [plans[0], endings[0]],
        [[*plans[1], plans[1][0]], endings[1]],
        [[ToolCall("larger_of", {"a": 1, "b": 2})], plans[2][:1], "I do not know."],
        [[ToolCall("no_such_tool", {"x": "</tool_call>"})], plans[3][:2], plans[3][2:], endings[3]],
    ]
    return {item.question: turn for item, turn in zip(environments, turns, strict=True)}


class Scripted(BaseHTTPRequestHandler):
    """A chat server that says the next turn of the script of the question that it is asked."""

    played: dict[str, Turns]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        messages = request["messages"]
        question = next(text(m["content"]) for m in messages if m["role"] == "user")
        turn = self.played[question][sum(message["role"] == "assistant" for message in messages)]
        message: dict = {"role": "assistant", "content": turn if isinstance(turn, str) else None}
        if not isinstance(turn, str):
            message["tool_calls"] = [
                {
                    "id": f"call{place}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for place, call in enumerate(turn)
            ]
        reason = "stop" if isinstance(turn, str) else "tool_calls"
        head = {"id": "x", "created": 0, "model": "scripted"}
        usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        if request.get("stream"):
            calls = [{**call, "index": place} for place, call in enumerate(message.get("tool_calls", ()))]
            delta = {**message, "tool_calls": calls} if calls else message
            choices = [[{"index": 0, "delta": delta}], [{"index": 0, "delta": {}, "finish_reason": reason}]]
            chunks = [{**head, "object": "chat.completion.chunk", "choices": choice, **usage} for choice in choices]
            lines = [*map(json.dumps, chunks), "[DONE]"]
            self._answer("text/event-stream", "".join(f"data: {line}\n\n" for line in lines))
        else:
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self._answer(
                "application/json", json.dumps({**head, "object": "chat.completion", "choices": [choice], **usage})
            )

    def _answer(self, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def text(content) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def run(tool: str, folder: Path, *options: str) -> None:
    command = [str(BIN / tool), "ftrl-tools-v1", "--no-rich", "-o", str(folder), *options]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=SETTINGS)
    assert said.returncode == 0, said.stdout[-3000:] + said.stderr[-3000:]


def test_its_own_validation_passes(tmp_path):
    run("vf-validate", tmp_path, "--runtime.type", "subprocess")
    [file] = tmp_path.glob("*/results.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 4 and all(row["gold"]["valid"] and row["noop"]["rewards"] == {"ftrl": 0.0} for row in rows)


def test_its_evaluation_gives_the_scorers_digits(tmp_path, sandbox):
    environments = list(read_environments(PACKAGE / "environments.jsonl"))
    Scripted.played = scripts(environments)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        run(
            "vf-eval",
            tmp_path,
            "-m",
            "scripted",
            "--client.base-url",
            f"http://127.0.0.1:{server.server_port}/v1",
            "--client.api-key-var",
            "SCRIPTED_KEY",
            "--env.agent.harness.id",
            "null",
            "--env.agent.runtime.type",
            "subprocess",
            "--no-push",
        )
    finally:
        server.shutdown()
    [file] = tmp_path.glob("**/traces.jsonl")
    traces = [trace for line in file.read_text().splitlines() for trace in json.loads(line)["traces"]]
    assert len(traces) == 4
    for trace in traces:
        environment = next(item for item in environments if item.id == trace["task"]["data"]["id"])
        wanted = expected(environment, texts_of(Scripted.played[environment.question]), "published", sandbox)
        found = trace["rewards"]["ftrl"]["score"]
        assert digits(found) == digits(wanted["rewards"]["turns"])
        assert digits(trace["metrics"]["solve_f1"]) == digits(wanted["score"]["solve_f1"])


def test_its_reward_of_200_episodes_is_the_scorers(sandbox):
    from ftrl_tools_v1.taskset import FtrlToolsConfig, FtrlToolsTaskset

    tasks = {task.data.id: task for task in FtrlToolsTaskset(FtrlToolsConfig()).load()}
    environments = list(read_environments(PACKAGE / "environments.jsonl"))
    for environment, turns in episodes(environments, 200):
        trace = SimpleNamespace(assistant_messages=[said(turn) for turn in turns])
        wanted = expected(environment, texts_of(turns), "published", sandbox)
        assert digits(asyncio.run(tasks[environment.id].ftrl(trace))) == digits(wanted["rewards"]["turns"])


def said(turn) -> vf.AssistantMessage:
    if isinstance(turn, str):
        return vf.AssistantMessage(content=turn)
    calls = [
        vf.ToolCall(id=str(i), name=call.name, arguments=json.dumps(call.arguments)) for i, call in enumerate(turn)
    ]
    return vf.AssistantMessage(content=None, tool_calls=calls)
