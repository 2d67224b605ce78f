"""A turn on a state: in order or each call alone, every tool apart, failures as data."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from env_construction.sandbox.code_proof import why_unproven
from env_construction.sandbox.stateful_turn import StatefulRun, read_run, stateful_job
from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult, ToolSandbox

CODES = {
    "add": "STEP = 2\ndef add(state, key):\n    row = state['t'][key]\n    row['n'] += STEP\n"
    "    return {'now': row['n']}\n",
    "take": "STEP = 1\ndef take(state, key):\n    row = state['t'][key]\n    row['n'] -= STEP\n    if row['n'] < 0:\n"
    "        raise ValueError('below zero')\n    return [row['n']]\n",
    "count": "calls = 0\ndef count(state):\n    global calls\n    calls += 1\n    return calls\n",
    "spoil": "def spoil(state):\n    state['t'] = {1}\n",
    "forget": "def forget(state):\n    del state['t']['x']['n']\n",
    "blank": "def blank(state):\n    state['t']['x']['n'] = None\n",
    "replace": "def replace(state):\n    state['t'] = 3\n",
    "future": "from __future__ import annotations\ndef future(state, x: Nowhere = 1):\n    return x\n",
    "stars": "from math import *\ndef stars(state):\n    return sqrt(4)\n",
    "unbound": "def unbound(state):\n    global hits\n    hits = 1\n    return hits\n",
    "leave": "import os\ndef leave(state):\n    os._exit(1)\n",
    "broken": "def broken(state:\n",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1, timeout_s=2.0, cpu_s=2.0) as opened:
        yield opened


def tables(number: int) -> dict[str, Any]:
    return {"t": {"x": {"n": number}}}


def run(sandbox: ToolSandbox, calls: Sequence[tuple[str, dict[str, Any]]], alone: bool = False) -> StatefulRun:
    made, state = [ToolCall(*call) for call in calls], tables(1)
    run = read_run(CODES, made, state, sandbox.run_batch([stateful_job(CODES, made, state, alone)])[0])
    assert state == tables(1) and len(run.results) == len(made)
    return run


X: Mapping[str, Any] = {"key": "x"}


def test_calls_run_in_order_and_helpers_of_one_name_do_not_collide(sandbox: ToolSandbox) -> None:
    found = run(sandbox, [("add", dict(X)), ("take", dict(X)), ("add", dict(X))])
    assert [result.output for result in found.results] == ['{"now": 3}', "[2]", '{"now": 4}']
    assert found.state == tables(4)


def test_alone_each_call_starts_from_the_first_state(sandbox: ToolSandbox) -> None:
    found = run(sandbox, [("add", dict(X)), ("take", dict(X)), ("add", dict(X))], alone=True)
    assert [result.output for result in found.results] == ['{"now": 3}', "[0]", '{"now": 3}']


def test_failed_calls_are_results_in_the_published_wording(sandbox: ToolSandbox) -> None:
    found = run(sandbox, [("add", {"key": "y"}), ("nope", {}), ("broken", {}), ("add", {"state": 1}), ("add", dict(X))])
    assert [result.status for result in found.results] == ["error", "unknown_tool", "error", "error", "ok"]
    assert found.results[0].output == "an error occured when call add: 'y'"
    assert found.state == tables(3)


def test_globals_live_for_one_turn(sandbox: ToolSandbox) -> None:
    assert [result.output for result in run(sandbox, [("count", {}), ("count", {})]).results] == ["1", "2"]
    assert run(sandbox, [("count", {})]).results[0].output == "1"


@pytest.mark.parametrize(("name", "status"), [("leave", "crash"), ("spoil", "error")])
def test_a_turn_that_fails_as_a_whole_keeps_the_state(sandbox: ToolSandbox, name: str, status: str) -> None:
    found = run(sandbox, [("add", dict(X)), (name, {})])
    assert [result.status for result in found.results] == [status, status]
    assert found.state == tables(1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("forget", "removed 'n' of t 'x'"),
        ("blank", "left t 'x' with 'n', which is no text or number"),
        ("replace", "left a table 't' that is no set of rows"),
    ],
)
def test_tables_that_a_patch_cannot_hold_are_an_error_and_change_nothing(
    sandbox: ToolSandbox, name: str, words: str
) -> None:
    found = run(sandbox, [("add", dict(X)), (name, {})])
    assert [result.status for result in found.results] == ["error", "error"]
    assert all(words in result.output for result in found.results)
    assert found.state == tables(1)


@pytest.mark.parametrize("reported", ['[["ok", 5]]', "[5]", '[["fault", "x"]]', '[["ok", "x"], ["ok", "y"]]', "{}"])
def test_what_tools_report_is_not_trusted(reported: str) -> None:
    whole = ToolResult("run_calls", "ok", f'{{"results": {reported}, "state": {{"t": {{}}}}}}', 0.0)
    found = read_run(CODES, [ToolCall("count", {})], tables(1), [whole])
    assert [(result.status, found.state) for result in found.results] == [("error", tables(1))]
    assert "did not report every call" in found.results[0].output


def test_a_source_that_a_function_cannot_hold_fails_alone(sandbox: ToolSandbox) -> None:
    found = run(sandbox, [("future", {}), ("stars", {}), ("unbound", {}), ("add", dict(X))])
    assert [result.status for result in found.results] == ["ok", "error", "error", "ok"]
    assert found.state == tables(3)


def test_plain_tools_share_a_process() -> None:
    job = stateful_job(CODES, [ToolCall("add", dict(X)), ToolCall("take", dict(X))], tables(1))
    [source] = job.codes.values()
    assert why_unproven(ast.parse(source)) is None
