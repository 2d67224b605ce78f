"""verifiers' validation and evaluation, on the package that `serving.export --to verifiers` wrote and pip installed.

Runs in a separate environment (.ci/faces.sh), with the package in the folder FTRL_VERIFIERS_PACKAGE. The model is a
scripted OpenAI-compatible server, so all turns are deterministic.
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
from serving.episodes.recorded import turn_text
from tests.reward.stateful_bank import bank
from tests.serving.recorded_episodes import RAW, SCRIPTED, Turns, digits, episodes, expected, texts_of

vf = pytest.importorskip("verifiers.v1", reason="verifiers is installed in a separate environment: run .ci/faces.sh")

PACKAGE = Path(os.environ.get("FTRL_VERIFIERS_PACKAGE", ""))
BIN = Path(sys.executable).parent
SETTINGS = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "SCRIPTED_KEY": "x"}


def scripts(environments: list[Environment]) -> dict[str, Turns]:
    """{question: turns}: correct, one call too many, a wrong tool and answer, and a tool that does not exist."""
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
    """A chat server that replies with the next turn of the question's script."""

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
        """Log nothing."""


def text(content) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def run(tool: str, folder: Path, *options: str) -> None:
    command = [str(BIN / tool), "ftrl-tools-v1", "--no-rich", "-o", str(folder), *options]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=SETTINGS)
    assert said.returncode == 0, said.stdout[-3000:] + said.stderr[-3000:]


def test_verifiers_validation_passes(tmp_path):
    run("vf-validate", tmp_path, "--runtime.type", "subprocess")
    [file] = tmp_path.glob("*/results.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 4 and all(row["gold"]["valid"] and row["noop"]["rewards"] == {"ftrl": 0.0} for row in rows)


def test_verifiers_evaluation_returns_the_scorers_exact_rewards(tmp_path, sandbox):
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


def test_verifiers_reward_equals_the_scorers_in_1000_episodes(sandbox):
    from ftrl_tools_v1.taskset import FtrlToolsConfig, FtrlToolsTaskset

    tasks = {task.data.id: task for task in FtrlToolsTaskset(FtrlToolsConfig()).load()}
    environments = list(read_environments(PACKAGE / "environments.jsonl"))
    for environment, turns in episodes(environments, SCRIPTED + RAW):
        trace = SimpleNamespace(assistant_messages=[said(turn) for turn in turns])
        wanted = expected(environment, texts_of(turns), "published", sandbox)
        assert digits(asyncio.run(tasks[environment.id].ftrl(trace))) == digits(wanted["rewards"]["turns"])


def test_wrong_requests_are_typed_errors_and_score_like_in_the_scorer(sandbox):
    from ftrl_tools_v1.servers.tools import FtrlToolset
    from ftrl_tools_v1.taskset import FtrlToolsConfig, FtrlToolsTaskset

    with pytest.raises(Exception, match="expected one of test") as caught:
        list(FtrlToolsTaskset(FtrlToolsConfig(split="nowhere")).load())
    assert caught.value.code == "unknown_split"
    task = next(iter(FtrlToolsTaskset(FtrlToolsConfig(split="test")).load()))
    environment = Environment.model_validate_json(task.data.environment)

    async def main() -> None:
        tools = FtrlToolset(vf.ToolsetConfig())
        await tools.setup_task(task.data)
        for name, arguments in (("no_such_tool", {}), ("capital_of", {"country": "x" * 10_000_000})):
            assert (await tools._call_tool(name, arguments)).is_error
        assert not (await tools._call_tool("capital_of", {"country": "Fiji"})).is_error
        for arguments in ("{oops", "[]", json.dumps({"country": "x" * 10_000_000})):
            call = vf.ToolCall(id="a", name="capital_of", arguments=arguments)
            message = vf.AssistantMessage(content=None, tool_calls=[call])
            written = turn_text({"tool_calls": [{"name": "capital_of", "arguments": arguments}]})
            wanted = expected(environment, [written], "published", sandbox)
            found = await task.ftrl(SimpleNamespace(assistant_messages=[message]))
            assert digits(found) == digits(wanted["rewards"]["turns"])

    asyncio.run(main())


def test_a_stateful_environment_keeps_its_tables_from_call_to_call(sandbox):
    from ftrl_tools_v1.servers.tools import FtrlToolset

    async def main() -> list[str]:
        tools = FtrlToolset(vf.ToolsetConfig())
        await tools.setup_task(SimpleNamespace(environment=bank().model_dump_json()))
        move = {"sender": "A1", "receiver": "A2", "amount": 50}
        made = await asyncio.gather(*(tools._call_tool("transfer", move) for _ in range(2)))
        return [result.content[0].text for result in (*made, await tools._call_tool("owner_of", {"account": "A3"}))]

    assert asyncio.run(main()) == [
        '{"balance of the receiver": 280}', '{"balance of the receiver": 330}', '{"owner": "Cleo Hart"}',
    ]  # fmt: skip


def said(turn) -> vf.AssistantMessage:
    if isinstance(turn, str):
        return vf.AssistantMessage(content=turn)
    calls = [
        vf.ToolCall(id=str(i), name=call.name, arguments=json.dumps(call.arguments)) for i, call in enumerate(turn)
    ]
    return vf.AssistantMessage(content=None, tool_calls=calls)
