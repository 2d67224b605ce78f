"""tau2-bench: the oracle gets full marks through a package in another process, which also gives the verdicts.

The package here is a small stand-in with the same modules and names (`PACKAGE`), run by this interpreter. The real one
needs an environment of its own: TAU2_FOLDER names a checkout with `.venv`, and then the last test runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.sandbox.tool_sandbox import ToolCall
from eval import tau2
from eval.suites.results import read_rows
from eval.suites.suite import DataMissing
from eval.tau.tau2_process import Tau2Process, Tau2State
from reward.tool_calls import render_call
from tests.eval.conftest import UserServer

PACKAGE = {
    "agent/llm_agent.py": """
AGENT_INSTRUCTION = "Serve."
SYSTEM_PROMPT = "{agent_instruction} Policy: {domain_policy}"
""",
    "data_model/message.py": """
from pydantic import BaseModel

class ToolCall(BaseModel):
    id: str
    name: str
    arguments: dict
    requestor: str

class _Said(BaseModel):
    role: str
    content: str | None = None
    tool_calls: list[ToolCall] | None = None

class AssistantMessage(_Said):
    pass

class UserMessage(_Said):
    pass

class ToolMessage(BaseModel):
    role: str = "tool"
    id: str
    content: str
    requestor: str
    error: bool
""",
    "data_model/tasks.py": """
import enum

class RewardType(str, enum.Enum):
    DB, ENV_ASSERTION, ACTION = "DB", "ENV_ASSERTION", "ACTION"
    COMMUNICATE, NL_ASSERTION = "COMMUNICATE", "NL_ASSERTION"
""",
    "user/user_simulator.py": """
class UserSimulator:
    def __init__(self, tools, instructions, llm):
        self.system_prompt = f"You are the customer ({len(tools or [])} tools). {instructions}"
""",
    "registry.py": """
import json, os, pathlib, types
from tau2.data_model.message import ToolMessage

ROOT = pathlib.Path(os.environ["TAU2_DATA_DIR"]) / "tau2" / "domains"

def _schema(name, **properties):
    parameters = {"type": "object", "properties": {k: {"type": v} for k, v in properties.items()}}
    function = {"name": name, "description": name, "parameters": parameters}
    return types.SimpleNamespace(openai_schema={"type": "function", "function": function})

class Environment:
    def __init__(self):
        self.db = {"paid": [], "on": False}
        self.user_tools = object()

    def get_policy(self):
        return "be kind"

    def get_tools(self):
        return [_schema("pay", bill="string"), _schema("sleep", seconds="number")]

    def get_user_tools(self, include=None):
        return [_schema("switch_on")]

    def set_state(self, initialization_data, initialization_actions, message_history):
        for action in initialization_actions or []:
            self.db["paid"].append(action)
        for message in message_history:
            for call in getattr(message, "tool_calls", None) or []:
                self.get_response(call)

    def get_response(self, call):
        error = False
        if (call.name, call.requestor) == ("pay", "assistant") and set(call.arguments) == {"bill"}:
            self.db["paid"].append(call.arguments["bill"])
            content = json.dumps({"paid": call.arguments["bill"]})
        elif (call.name, call.requestor) == ("switch_on", "user") and not call.arguments:
            self.db["on"], content = True, "on"
        elif call.name == "die":
            os._exit(1)
        else:
            content, error = f"Error: no {call.name} of the {call.requestor}", True
        return ToolMessage(id=call.id, content=content, requestor=call.requestor, error=error)

def _task(record):
    criteria = types.SimpleNamespace(
        actions=[types.SimpleNamespace(**action) for action in record["actions"]],
        communicate_info=record["communicate"], reward_basis=record["basis"],
    )
    start = types.SimpleNamespace(
        initialization_data=None, initialization_actions=record["start"], message_history=record["history"]
    )
    return types.SimpleNamespace(
        id=record["id"], user_scenario=record["scenario"], initial_state=start, evaluation_criteria=criteria
    )

class _Registry:
    def get_env_constructor(self, domain):
        return Environment

    def get_tasks_loader(self, domain):
        def load(split=None):
            if split not in (None, "base"):
                raise ValueError(f"Invalid task split name: {split}")
            return [_task(record) for record in json.loads((ROOT / domain / "tasks.json").read_text())]
        return load

registry = _Registry()
""",
    "evaluator/evaluator_env.py": """
import types

class EnvironmentEvaluator:
    @staticmethod
    def calculate_reward(environment_constructor, task, full_trajectory):
        start, gold = task.initial_state, environment_constructor()
        played = environment_constructor()
        played.set_state(None, start.initialization_actions, full_trajectory)
        gold.set_state(None, start.initialization_actions, [])
        for action in task.evaluation_criteria.actions:
            gold.get_response(types.SimpleNamespace(id="g", **vars(action)))
        match = gold.db == played.db
        return types.SimpleNamespace(reward=float(match), db_check=types.SimpleNamespace(db_match=match))
""",
    "evaluator/evaluator_action.py": """
import types

class ActionEvaluator:
    @staticmethod
    def calculate_reward(task, full_trajectory):
        made = [(c.name, c.arguments) for m in full_trajectory for c in getattr(m, "tool_calls", None) or []]
        right = all((action.name, action.arguments) in made for action in task.evaluation_criteria.actions)
        return types.SimpleNamespace(reward=float(right))
""",
    "evaluator/evaluator_communicate.py": """
import types

class CommunicateEvaluator:
    @staticmethod
    def calculate_reward(task, full_trajectory):
        said = " ".join(m.content or "" for m in full_trajectory if m.role == "assistant")
        return types.SimpleNamespace(reward=float(all(i in said for i in task.evaluation_criteria.communicate_info)))
""",
}


def action(name: str, requestor: str = "assistant", **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, "requestor": requestor}


def task(name: str, *actions: dict[str, Any], **more: Any) -> dict[str, Any]:
    known = {"scenario": f"I need {name}.", "communicate": [], "basis": ["DB"], "start": [], "history": []}
    return {"id": name, "actions": list(actions), **known, **more}


TASKS = [
    task("bill", action("pay", bill="B1"), communicate=["12 dollars"], basis=["DB", "COMMUNICATE"]),
    task("phone", action("switch_on", "user"), action("pay", bill="B2"), basis=["DB", "ACTION"], start=["B0"]),
    task("nothing", basis=["DB", "NL_ASSERTION"]),
    task("later", action("pay", bill="B9"), history=[{"role": "user", "content": "As I said"}]),
]


@pytest.fixture
def checkout(tmp_path) -> Path:
    folder = tmp_path / "tau2-bench"
    for name, source in PACKAGE.items():
        path = folder / "src" / "tau2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    place = folder / "data" / "tau2" / "domains" / "telecom"
    place.mkdir(parents=True)
    (place / "tasks.json").write_text(json.dumps(TASKS))
    (place / "db.toml").write_text("paid = []\n")
    return folder


def measure(checkout: Path, out: Path, *more: object, policy: str = "oracle", user: str = "scripted") -> dict[str, Any]:
    flags = ["--policy", policy, "--user-model", user, "--data", checkout, "--python", sys.executable, "--out", out]
    return tau2.run(tau2.parser().parse_args(list(map(str, [*flags, "--domains", "telecom", *more]))))


def test_oracle_gets_full_marks_and_what_needs_a_judge_is_named(checkout, tmp_path, capsys) -> None:
    summary = measure(checkout, tmp_path / "out", "--trials", 2)
    assert (summary["rows"], summary["faults"]) == (6, 0)
    assert summary["pass_hat_k"]["telecom"]["pass^2"]["value"] == 1.0
    assert "1 tasks of telecom start in a recorded conversation" in capsys.readouterr().out
    rows = {row["id"]: row for row in read_rows(tmp_path / "out") if row["trial"] == 0}
    assert {name: (row["reward"], row["unjudged"], row["failure"]) for name, row in rows.items()} == {
        "telecom/bill": (1, 0, ""), "telecom/phone": (1, 0, ""), "telecom/nothing": (1, 1, ""),
    }  # fmt: skip
    phone = rows["telecom/phone"]
    assert (phone["env"], phone["action"], phone["communicate"], phone["calls"]) == (1, 1, None, 1)
    assert phone["user_turns"][1] == render_call(ToolCall("switch_on", {}))
    roles = [message["role"] for message in phone["transcript"]]
    assert (
        roles[:3] == ["system", "assistant", "user"] and "Serve. Policy: be kind" in phone["transcript"][0]["content"]
    )
    assert not any("switch_on" in str(message) for message in phone["transcript"]), (
        "the agent does not see users' calls"
    )
    partial = summary["partial"]["pass^1"]
    assert (partial["groups"], partial["value"]) == (["telecom"], 1.0)


def recorded(path: Path, **turns: list[str]) -> str:
    lines = [json.dumps({"id": f"telecom/{name}", "turns": said}) + "\n" for name, said in turns.items()]
    path.write_text("".join(lines))
    return f"replay:{path}"


def test_wrong_runs_fail_with_their_reason(checkout, tmp_path) -> None:
    pay = render_call(ToolCall("pay", {"bill": "B1"}))
    policy = recorded(
        tmp_path / "turns.jsonl",
        bill=[pay, "Paid."],  # does not say the amount
        phone=[render_call(ToolCall("switch_on", {}))] * 10,  # a tool of the user
        nothing=["<think>so</think>"],
    )
    measure(checkout, tmp_path / "out", policy=policy)
    rows = {row["id"].split("/")[1]: row for row in read_rows(tmp_path / "out")}
    assert {name: row["failure"] for name, row in rows.items()} == {
        "bill": "wrong_communicate", "phone": "too_many_errors", "nothing": "empty",
    }  # fmt: skip
    assert all(row["reward"] == 0 for row in rows.values())
    assert (rows["phone"]["failed_calls"], rows["bill"]["db_match"]) == (10, 1)


def test_recorded_users_and_turns_give_the_same_rewards(checkout, tmp_path) -> None:
    measure(checkout, tmp_path / "out")
    replay = f"replay:{tmp_path / 'out' / 'results.jsonl'}"
    measure(checkout, tmp_path / "again", policy=replay, user=replay)
    first, again = (
        {row["id"]: (row["reward"], row["transcript"]) for row in read_rows(tmp_path / name)}
        for name in ("out", "again")
    )
    assert first == again


@pytest.fixture
def customer() -> Iterator[UserServer]:
    with UserServer() as server:
        yield server


def test_a_models_user_gets_the_packages_prompt_its_tools_and_the_agents_words(checkout, tmp_path, customer) -> None:
    def line(body: dict[str, Any]) -> str:
        messages = body["messages"]
        if messages[-1]["role"] == "tool":
            return "It is on. ###STOP###"
        return "I have no signal." if len(messages) == 2 else render_call(ToolCall("switch_on", {}))

    customer.line = line
    policy = recorded(
        tmp_path / "turns.jsonl", bill=["Hm."], phone=[render_call(ToolCall("pay", {"bill": "B2"})), "Switch it on."],
        nothing=["Hm."],
    )  # fmt: skip
    measure(checkout, tmp_path / "out", policy=policy, user=customer.spec)
    rows = {row["id"]: row for row in read_rows(tmp_path / "out")}
    assert (rows["telecom/phone"]["env"], rows["telecom/phone"]["reward"]) == (1, 1)
    last = next(b for b in customer.bodies if len(b["messages"]) > 4 and "phone" in b["messages"][0]["content"])
    assert last["messages"][0]["content"] == "You are the customer (1 tools). I need phone."
    assert [message["role"] for message in last["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
    ]
    assert last["messages"][3]["content"] == "Switch it on."
    assert [tool["function"]["name"] for tool in last["tools"]] == ["switch_on"]


def test_a_killed_process_is_replaced_and_the_calls_so_far_run_again(checkout) -> None:
    with Tau2Process(checkout, sys.executable) as process:
        domain = process.domain("telecom", None)
        first = Tau2State(process, domain.tasks[0])
        assert first.call("assistant", [("pay", {"bill": "B1"})]) == ['{"paid": "B1"}']
        first.say("assistant", "12 dollars")
        process._stop()
        assert first.call("assistant", [("fly", {}), ("pay", {"bill": "B1"})])[0] == "Error: no fly of the assistant"
        assert (first.errors, first.check()["reward"]) == (1, 0.0), "paid twice"


def test_a_checkout_that_cannot_be_used_is_named(checkout, tmp_path) -> None:
    with pytest.raises(DataMissing, match="git clone"):
        measure(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataMissing, match=r"\.venv/bin/python: not found"):
        tau2.run(
            tau2.parser().parse_args(["--policy", "oracle", "--data", str(checkout), "--out", str(tmp_path / "o")])
        )
    with pytest.raises(BadInput, match="Invalid task split name: tests"):
        measure(checkout, tmp_path / "out", "--split", "tests")
    with pytest.raises(BadInput, match="expected MODEL@BASE_URL"):
        measure(checkout, tmp_path / "out", user="gpt")


def test_oracle_gets_full_marks_with_the_real_package(tmp_path) -> None:
    folder = os.environ.get("TAU2_FOLDER")
    if not folder:
        pytest.skip("needs a checkout of sierra-research/tau2-bench with its own .venv: name it in TAU2_FOLDER")
    python = os.environ.get("TAU2_PYTHON")
    flags = ["--policy", "oracle", "--user-model", "scripted", "--data", folder, "--split", "all", "--domains", "mock"]
    more = ["--python", python] if python else []
    summary = tau2.run(tau2.parser().parse_args([*flags, *more, "--out", str(tmp_path / "out")]))
    failed = {row["id"]: row["failure"] for row in read_rows(tmp_path / "out") if row["reward"] < 1}
    assert failed == {"mock/update_task_with_user_tools": "wrong_env"}, "its recorded actions lack those of the user"
    assert summary["faults"] == 0
