"""Stateful episodes: one database handed to every call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from env_construction.sandbox.tool_sandbox import SandboxFault, ToolSandbox

CODES = {
    "book": "def book(data, flight, seats=1):\n    if data['flights'][flight] < seats:\n"
    "        raise ValueError('sold out')\n"
    "    data['flights'][flight] -= seats\n    return data['flights']",
    "count": "calls = 0\ndef count(data):\n    global calls\n    calls += 1\n    return calls",
    "crash": "import os\ndef crash(data):\n    data['flights']['F1'] = 99\n    os._exit(1)",
    "hang": "def hang(data):\n    data['flights']['F1'] = 98\n    while True: pass",
    "bomb": "def bomb(data): return len('x' * (1 << 40))",
    "spoil": "def spoil(data): data['bad'] = {1}",
}
STATE = {"flights": {"F1": 5, "F2": 0}}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1, timeout_s=1.5) as opened:
        yield opened


def test_calls_change_the_state_and_the_parent_keeps_its_own(sandbox: ToolSandbox) -> None:
    with sandbox.open_session(CODES, STATE) as session:
        assert session.call("book", {"flight": "F1"}).output == '{"F1": 4, "F2": 0}'
        assert session.call("book", {"flight": "F1", "seats": 2}).output == '{"F1": 2, "F2": 0}'
        assert session.call("book", {"flight": "F2"}).output == "an error occured when call book: sold out"
        assert session.state() == {"flights": {"F1": 2, "F2": 0}}
    assert STATE == {"flights": {"F1": 5, "F2": 0}}


def test_globals_live_as_long_as_the_session(sandbox: ToolSandbox) -> None:
    with sandbox.open_session(CODES, STATE) as first, sandbox.open_session(CODES, STATE) as second:
        assert [first.call("count", {}).output for _ in range(3)] == ["1", "2", "3"]
        assert second.call("count", {}).output == "1"


@pytest.mark.parametrize(("name", "status"), [("crash", "crash"), ("hang", "timeout"), ("bomb", "memory")])
def test_a_call_that_kills_the_process_leaves_the_state_as_it_was(sandbox: ToolSandbox, name: str, status: str) -> None:
    with sandbox.open_session(CODES, STATE) as session:
        session.call("book", {"flight": "F1"})
        session.call("count", {})
        result = session.call(name, {})
        assert result.status == status
        assert result.output.startswith(f"an error occured when call {name}: ")
        assert session.call("count", {}).output == "2"
        assert session.state() == {"flights": {"F1": 4, "F2": 0}}


def test_bad_calls_fail_alone(sandbox: ToolSandbox) -> None:
    with sandbox.open_session(CODES, STATE) as session:
        assert session.call("nope", {}).status == "unknown_tool"
        assert session.call("book", {"flight": {1}}).status == "error"
        assert session.call("book", {"wing": 1}).status == "error"
        assert session.call("book", {"flight": "F1"}).ok


def test_a_state_that_json_cannot_carry_is_reported(sandbox: ToolSandbox) -> None:
    with sandbox.open_session(CODES, STATE) as session:
        assert session.call("spoil", {}).ok
        with pytest.raises(SandboxFault, match="no longer JSON"):
            session.state()
        assert session.call("count", {}).ok


def test_a_session_without_state_calls_tools_as_usual(sandbox: ToolSandbox) -> None:
    with sandbox.open_session(
        {"add": "total = 0\ndef add(x):\n    global total\n    total += x\n    return total"}
    ) as session:
        assert [session.call("add", {"x": x}).output for x in (1, 2)] == ["1", "3"]
        with pytest.raises(SandboxFault, match="without a state"):
            session.state()


def test_large_states_and_asyncio(sandbox: ToolSandbox) -> None:
    state = {"rows": [{"id": i, "text": "x" * 100} for i in range(5000)]}
    codes = {"size": "def size(data): return len(data['rows'])"}

    async def many() -> list[str]:
        with sandbox.open_session(codes, state) as session:
            return [(await session.call_async("size", {})).output for _ in range(3)]

    assert asyncio.run(many()) == ["5000"] * 3


def test_a_closed_session_is_a_fault(sandbox: ToolSandbox) -> None:
    session = sandbox.open_session(CODES, STATE)
    session.close()
    assert session.call("count", {}).status == "fault"
