"""The sandbox for honest tools: call semantics, limits, batches, threads, asyncio."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from env_construction.sandbox.tool_sandbox import (
    SandboxFault,
    SandboxJob,
    ToolCall,
    ToolResult,
    ToolSandbox,
    shared_sandbox,
)

ECHO = {"echo": "def echo(value):\n    return value"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=2, timeout_s=20.0, memory_mb=256, output_bytes=100_000) as opened:
        yield opened


@pytest.fixture(scope="module")
def hasty() -> Iterator[ToolSandbox]:
    """A sandbox for calls that should time out."""
    with ToolSandbox(workers=2, timeout_s=1.0) as opened:
        yield opened


def run_one(sandbox: ToolSandbox, source: str, arguments: Any = None, name: str = "tool") -> ToolResult:
    return sandbox.run({name: source}, [ToolCall(name, {} if arguments is None else arguments)])[0]


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ({"a": "é", "b": [1, None]}, '{"a": "é", "b": [1, null]}'),
        ([1, "ü", True], '[1, "ü", true]'),
        ("plain", "plain"),
        ("", ""),
        (3, "3"),
        (2.5, "2.5"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_output_is_json_for_containers_and_str_for_other_values(sandbox: ToolSandbox, value: Any, output: str) -> None:
    [result] = sandbox.run(ECHO, [ToolCall("echo", {"value": value})])
    assert (result.status, result.output, result.ok) == ("ok", output, True)


def test_tuples_and_sets_are_printed_and_not_json(sandbox: ToolSandbox) -> None:
    assert run_one(sandbox, "def tool(): return (1, 'a')").output == "(1, 'a')"
    assert run_one(sandbox, "def tool(): return {1}").output == "{1}"


@pytest.mark.parametrize(
    ("source", "arguments", "text"),
    [
        ("def tool(): raise ValueError('no such city')", {}, "no such city"),
        ("def tool(): raise KeyError('city')", {}, "'city'"),
        ("def tool(): return {'when': {1}}", {}, "Object of type set is not JSON serializable"),
        ("def tool(a): return a", {}, "tool() missing 1 required positional argument: 'a'"),
        ("def tool(a): return a", {"b": 1}, "tool() got an unexpected keyword argument 'b'"),
        ("def tool(a): return a", ["x"], "tool.tool() argument after ** must be a mapping, not list"),
        ("def other(): pass", {}, "name 'tool' is not defined"),
        ("tool = 3", {}, "'int' object is not callable"),
        ("def tool(:", {}, "invalid syntax (<string>, line 1)"),
        ("import no_such_module\ndef tool(): pass", {}, "No module named 'no_such_module'"),
        ("def tool(): return 1 / 0", {}, "division by zero"),
    ],
)
def test_error_text_is_as_published(sandbox: ToolSandbox, source: str, arguments: Any, text: str) -> None:
    result = run_one(sandbox, source, arguments)
    assert (result.status, result.output) == ("error", f"an error occured when call tool: {text}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def tool():\n    yield 1", "a generator"),
        ("def tool(): return (x for x in [1])", "a generator"),
        ("async def tool():\n    yield 1", "an asynchronous generator"),
        ("def tool(): return tool", "a function"),
        ("def tool(): return len", "a function"),
        ("def tool(): return 'x'.upper", "a function"),
        ("import math\ndef tool(): return math", "a module"),
        ("async def inner():\n    return (x for x in [1])\nasync def tool(): return await inner()", "a generator"),
        ("class A: pass\ndef tool(): return A()", "an object without a text of its own"),
        ("def tool(): return map(str, [1])", "an object without a text of its own"),
        ("class A: pass\ndef tool(): return (1, A())", "an object without a text of its own"),
        ("class A: pass\ndef tool(): return f'it is {A()}'", "an object without a text of its own"),
        ("def tool(): raise ValueError(tool)", "an object without a text of its own"),
    ],
)
def test_a_result_that_is_not_a_value_is_an_error_that_names_it(sandbox: ToolSandbox, source: str, said: str) -> None:
    result = run_one(sandbox, source)
    assert result.status == "error"
    assert f"returned {said}, which is no value" in result.output
    with sandbox.open_session({"tool": source}) as session:
        assert session.call("tool", {}).output == result.output


@pytest.mark.parametrize(
    "source",
    [
        "async def tool(): return {'a': 4.0}",
        "import asyncio\nasync def tool():\n    await asyncio.sleep(0.01)\n    return {'a': 4.0}",
        "async def part(): return 4.0\nasync def tool():\n    return {'a': await part()}",
        "async def part(): return {'a': 4.0}\ndef tool(): return part()",
        "import asyncio\nasync def part(): return 4.0\nasync def tool():\n"
        "    return {'a': (await asyncio.gather(part(), part()))[1]}",
    ],
)
def test_what_an_asynchronous_tool_returns_is_awaited(sandbox: ToolSandbox, source: str) -> None:
    assert run_one(sandbox, source).output == '{"a": 4.0}'
    with sandbox.open_session({"tool": source}) as session:
        assert [session.call("tool", {}).output for _ in range(2)] == ['{"a": 4.0}'] * 2


def test_an_address_that_the_model_wrote_may_come_back(sandbox: ToolSandbox) -> None:
    text = "<object object at 0x7f0000001234>"
    assert sandbox.run(ECHO, [ToolCall("echo", {"value": text})])[0].output == text


def test_unknown_tool(sandbox: ToolSandbox) -> None:
    [result] = sandbox.run(ECHO, [ToolCall("nope", {})])
    assert result.status == "unknown_tool"
    assert result.output.startswith("an error occured when call nope: ")


@pytest.mark.parametrize("name", [None, 7, ["x"], "\ud800"])
def test_invalid_names(sandbox: ToolSandbox, name: Any) -> None:
    assert sandbox.run(ECHO, [ToolCall(name, {})])[0].status == "unknown_tool"


@pytest.mark.parametrize(
    "source",
    [
        "import math\ndef helper(x): return math.sqrt(x)\ndef tool(): return helper(16.0)",
        "def tool(n=10): return 1.0 if n == 0 else tool(n - 1) * 1.0 + 3.0 * (n == 1)",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: 'float'\ndef tool(): return P(4.0).x",
        "from __future__ import annotations\nimport typing\nclass P(typing.NamedTuple):\n    x: float\n"
        "def tool(): return P(4.0).x",
        "import enum\nclass E(enum.Enum):\n    A = 4.0\ndef tool(): return E.A.value",
        "import asyncio\nasync def work(): return 4.0\ndef tool(): return asyncio.run(work())",
        "from concurrent.futures import ThreadPoolExecutor\ndef tool():\n"
        "    with ThreadPoolExecutor(2) as p:\n        return sum(p.map(float, [1, 3]))",
        "values = {'a': 4.0}\ndef tool():\n    global values\n    return values['a']",
        "import decimal\ndef tool():\n    with decimal.localcontext() as c:\n        c.prec = 2\n"
        "        return float(decimal.Decimal(4))",
        "tool = lambda: 4.0",
        "import sqlite3\ndef tool(): return sqlite3.connect(':memory:').execute('select 4.0').fetchone()[0]",
        "from zoneinfo import ZoneInfo\nimport datetime\n"
        "def tool(): return 4.0 if datetime.datetime(2024, 7, 1, "
        "tzinfo=ZoneInfo('Europe/Paris')).utcoffset().seconds == 7200 else 0.0",
    ],
)
def test_source_runs_as_a_module(sandbox: ToolSandbox, source: str) -> None:
    result = run_one(sandbox, source)
    assert (result.status, result.output) == ("ok", "4.0")


@pytest.mark.parametrize(
    "expression",
    [
        "2 + 3 * x",
        "  max(x, 4)",
        "[i * 2 for i in range(3)]",
        "[i * x for i in range(3)]",
        "(y := x + 1) * y",
        "1 +",
        "1 / 0",
        "x = 1",
        "__import__('math').sqrt(16)",
        "eval('x')",
        "().__class__.__name__",
        "math.floor(x + 0.5)",
        "str(math)[:14]",
    ],
)
@pytest.mark.parametrize("call", ["eval(expression)", "eval(expression, {'x': 12})", "eval(expression, {}, {'x': 13})"])
def test_eval_returns_what_python_returns(sandbox: ToolSandbox, expression: str, call: str) -> None:
    source = f"import math\ndef tool(expression):\n    x = 11\n    return {call}"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    try:
        expected = str(namespace["tool"](expression))
    except Exception as error:
        expected = f"an error occured when call tool: {error}"
    assert run_one(sandbox, source, {"expression": expression}).output == expected


def test_changes_by_eval_do_not_persist(sandbox: ToolSandbox) -> None:
    change = "import math\ndef tool(expression): return [eval(expression), math.pi]"
    assert run_one(sandbox, change, {"expression": "setattr(math, 'pi', 3)"}).output == "[null, 3]"
    assert run_one(sandbox, "import math\ndef tool(): return math.pi").output.startswith("3.14")


def test_an_eval_whose_exception_is_caught_still_runs_in_a_separate_process(sandbox: ToolSandbox) -> None:
    source = "def tool(x):\n    try:\n        return eval(x, {'y': 2})\n    except:\n        return 'caught'"
    assert run_one(sandbox, source, {"x": "y + len(vars(str)['__doc__'][:1])"}).output == "3"
    assert run_one(sandbox, source, {"x": "y + 1"}).output == "3"
    assert run_one(sandbox, source, {"x": "z"}).output == "caught"


def test_module_is_not_main(sandbox: ToolSandbox) -> None:
    assert run_one(sandbox, "if __name__ == '__main__':\n    raise SystemExit\ndef tool(): return 1").output == "1"


@pytest.mark.parametrize("first_line", ["", "import sys\n"], ids=["proven", "isolated"])
def test_no_global_passes_to_the_next_call_or_response(sandbox: ToolSandbox, first_line: str) -> None:
    source = first_line + "seen = []\ndef tool(x):\n    seen.append(x)\n    return seen"
    calls = [ToolCall("tool", {"x": 1}), ToolCall("tool", {"x": 2})]
    for _ in range(2):
        assert [result.output for result in sandbox.run({"tool": source}, calls)] == ["[1]", "[2]"]


@pytest.mark.parametrize("first_line", ["", "import sys\n"], ids=["proven", "isolated"])
def test_random_and_sets_are_the_same_in_every_call(sandbox: ToolSandbox, first_line: str) -> None:
    source = first_line + "import random\ndef tool(): return str(random.random()) + str({'a', 'b', 'c', 'd'})"
    outputs = {result.output for _ in range(3) for result in sandbox.run({"tool": source}, [ToolCall("tool", {})] * 3)}
    assert len(outputs) == 1


def test_results_keep_the_order_of_calls_whatever_their_kind(hasty: ToolSandbox) -> None:
    codes = {
        **ECHO,
        "unproven": "import os\ndef unproven(value): return value",
        "slow": "import time\ndef slow(value):\n    time.sleep(0.4)\n    return value",
        "hang": "def hang(value):\n    while True: pass",
    }
    names = ["echo", "unproven", "hang", "slow", "echo", "none", "slow", "unproven", "echo"]
    results = hasty.run(codes, [ToolCall(name, {"value": i}) for i, name in enumerate(names)])
    assert [result.name for result in results] == names
    expected = [str(i) for i in range(len(names))]
    assert [r.output for r in results if r.ok] == [
        e for e, name in zip(expected, names, strict=True) if name not in ("hang", "none")
    ]
    assert (results[2].status, results[5].status) == ("timeout", "unknown_tool")


def test_a_hanging_call_fails_after_its_time_and_alone(hasty: ToolSandbox) -> None:
    start = time.monotonic()
    codes = {**ECHO, "hang": "def hang():\n    while True: pass"}
    before, hang, after = hasty.run(
        codes, [ToolCall("echo", {"value": 1}), ToolCall("hang", {}), ToolCall("echo", {"value": 2})]
    )
    assert (before.output, after.output) == ("1", "2")
    assert hang.status == "timeout"
    assert hang.output == "an error occured when call hang: the time limit of 1 s is exceeded"
    assert 0.9 <= hang.seconds <= time.monotonic() - start


def test_a_hanging_call_does_not_delay_other_responses() -> None:
    with ToolSandbox(workers=1, timeout_s=30.0) as sandbox:
        codes = {"hang": "import time\ndef hang(): time.sleep(3600)"}
        threading.Thread(target=sandbox.run, args=(codes, [ToolCall("hang", {})]), daemon=True).start()
        unproven = {"hang": "import os, time\ndef hang(): time.sleep(3600)"}
        threading.Thread(target=sandbox.run, args=(unproven, [ToolCall("hang", {})]), daemon=True).start()
        time.sleep(0.1)
        start = time.monotonic()
        assert sandbox.run(ECHO, [ToolCall("echo", {"value": 5})])[0].output == "5"
        assert time.monotonic() - start < 15.0


def test_more_hanging_calls_than_a_lane_can_isolate(hasty: ToolSandbox) -> None:
    codes = {**ECHO, "hang": "def hang():\n    while True: pass"}
    jobs = [SandboxJob(codes, [ToolCall("hang", {}), ToolCall("echo", {"value": i})]) for i in range(10)]
    results = hasty.run_batch(jobs)
    assert [[r.status for r in row] for row in results] == [["timeout", "ok"]] * 10
    assert [row[1].output for row in results] == [str(i) for i in range(10)]


@pytest.mark.parametrize("first_line", ["", "import sys\n"], ids=["proven", "isolated"])
def test_cpu_time_is_limited_apart_from_wall_time(first_line: str) -> None:
    with ToolSandbox(timeout_s=30.0, cpu_s=0.3) as sandbox:
        asleep = run_one(sandbox, first_line + "import time\ndef tool():\n    time.sleep(0.6)\n    return 'slept'")
        busy = run_one(sandbox, first_line + "def tool():\n    while True: pass")
    assert (asleep.status, busy.status) == ("ok", "timeout")
    assert busy.seconds < 10.0


def test_memory_and_output_limits(sandbox: ToolSandbox) -> None:
    assert run_one(sandbox, "def tool(): return len('x' * (16 << 20))").status == "ok"
    assert run_one(sandbox, "def tool(): return len('x' * (600 << 20))").status == "memory"
    assert run_one(sandbox, "def tool(): return 'x' * 100_000").status == "ok"
    assert run_one(sandbox, "def tool(): return 'x' * 100_001").status == "output_limit"
    assert run_one(sandbox, "def tool(): return 'é' * 50_000").status == "ok"
    assert run_one(sandbox, "def tool(): return 'é' * 50_001").status == "output_limit"


def test_arguments_that_are_not_json_fail_alone(sandbox: ToolSandbox) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    calls = [ToolCall("echo", {"value": value}) for value in (1, {2}, float("inf"), deep, 10**5000, "\ud800", 3)]
    statuses = [result.status for result in sandbox.run(ECHO, calls)]
    assert statuses == ["ok", "error", "ok", "error", "error", "ok", "ok"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(json_values)
def test_any_json_value_arrives_and_comes_back(value: Any) -> None:
    [result] = shared_sandbox().run(ECHO, [ToolCall("echo", {"value": value})])
    assert result.output == (json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value))


def test_empty_batches_and_responses(sandbox: ToolSandbox) -> None:
    assert sandbox.run_batch([]) == []
    assert sandbox.run({}, []) == []
    assert [
        len(row)
        for row in sandbox.run_batch([SandboxJob(ECHO, []), SandboxJob(ECHO, [ToolCall("echo", {"value": 1})])])
    ] == [0, 1]


def test_a_batch_returns_what_single_runs_return(sandbox: ToolSandbox) -> None:
    jobs = [SandboxJob(ECHO, [ToolCall("echo", {"value": [i, j]}) for j in range(i % 4)]) for i in range(300)]
    batch = sandbox.run_batch(jobs)
    assert [[r.output for r in row] for row in batch] == [[f"[{i}, {j}]" for j in range(i % 4)] for i in range(300)]


def test_a_stream_takes_jobs_as_it_goes_and_gives_results_in_order(sandbox: ToolSandbox) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[SandboxJob]:
        for i in range(6000):
            taken.append(i)
            yield SandboxJob(ECHO, [ToolCall("echo", {"value": i})] * (i % 3))

    results: list[list[str]] = []
    for row in sandbox.stream(jobs()):
        if not results:
            assert len(taken) < 6000
        results.append([result.output for result in row])
    assert results == [[str(i)] * (i % 3) for i in range(6000)]


def test_a_stream_may_be_left_and_its_source_may_raise(sandbox: ToolSandbox) -> None:
    def jobs() -> Iterator[SandboxJob]:
        yield from [SandboxJob(ECHO, [ToolCall("echo", {"value": 1})])] * 500
        raise LookupError("no more")

    assert next(sandbox.stream([SandboxJob(ECHO, [ToolCall("echo", {"value": 7})])] * 500))[0].output == "7"
    with pytest.raises(LookupError, match="no more"):
        list(sandbox.stream(jobs()))
    assert sandbox.run(ECHO, [ToolCall("echo", {"value": 2})])[0].output == "2"


def test_sixty_four_threads(sandbox: ToolSandbox) -> None:
    codes = {**ECHO, "unproven": "import sys\ndef unproven(value): return value"}

    def work(i: int) -> bool:
        name = "unproven" if i % 50 == 0 else "echo"
        return [
            r.output for r in sandbox.run(codes, [ToolCall(name, {"value": i}), ToolCall("echo", {"value": -i})])
        ] == [str(i), str(-i)]

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(work, range(2000)))


def test_asyncio_runs_side_by_side(sandbox: ToolSandbox) -> None:
    async def many() -> list[list[ToolResult]]:
        return await asyncio.gather(*(sandbox.run_async(ECHO, [ToolCall("echo", {"value": i})]) for i in range(100)))

    assert [row[0].output for row in asyncio.run(many())] == [str(i) for i in range(100)]


def test_many_different_sources_pass_through_one_runner() -> None:
    with ToolSandbox(workers=1) as sandbox:
        jobs = [SandboxJob({"tool": f"def tool(): return {i}"}, [ToolCall("tool", {})]) for i in range(9000)]
        assert [row[0].output for row in sandbox.run_batch(jobs)] == [str(i) for i in range(9000)]


def test_fresh_processes_under_load_give_no_false_timeout_and_no_impossible_time() -> None:
    """A short form of tests/benchmarks/fresh_runners.py. Burning threads in other processes make the machine busy."""
    burn = SandboxJob({"burn": "import os\ndef burn(): return sum(range(3_000_000))"}, [ToolCall("burn", {})])
    fresh = {"tool": "import os\ndef tool(x): return x"}
    with ToolSandbox(workers=2, timeout_s=20.0) as busy:
        load = threading.Thread(target=busy.run_batch, args=([burn] * 40,))
        load.start()
        for _ in range(4):
            with ToolSandbox(workers=2, timeout_s=20.0) as sandbox:
                time.sleep(0.05)
                start = time.monotonic()
                jobs = [
                    SandboxJob({**fresh, **ECHO}, [ToolCall("tool", {"x": i}), ToolCall("echo", {"value": i})])
                    for i in range(20)
                ]
                results = [result for row in sandbox.run_batch(jobs) for result in row]
                wall = time.monotonic() - start
            assert [result.output for result in results] == [str(i) for i in range(20) for _ in range(2)]
            assert all(0.0 <= result.seconds <= wall for result in results)
        load.join()


def test_a_call_cannot_claim_more_time_than_passed(sandbox: ToolSandbox) -> None:
    source = (
        "import sys\ndef tool():\n    sys._getframe(1).f_back.f_locals['clock']\n    import time\n"
        "    time.monotonic = lambda: 1e12\n    return 1"
    )
    start = time.monotonic()
    result = run_one(sandbox, source)
    assert 0.0 <= result.seconds <= time.monotonic() - start
    forged = (
        'import os, struct\ndef tool():\n    body = b\'["ok", "1", 1e12]\'\n'
        "    os.write(3, struct.pack('<I', len(body)) + body)\n    os._exit(0)"
    )
    start = time.monotonic()
    result = run_one(sandbox, forged)
    assert 0.0 <= result.seconds <= time.monotonic() - start


def test_a_closed_sandbox_says_so() -> None:
    sandbox = ToolSandbox()
    sandbox.close()
    sandbox.close()
    with pytest.raises(SandboxFault, match="closed"):
        sandbox.run(ECHO, [ToolCall("echo", {"value": 1})])


def test_closing_turns_what_is_running_into_a_result() -> None:
    sandbox = ToolSandbox(timeout_s=60.0)
    results: list[ToolResult] = []
    codes = {"hang": "import time\ndef hang(): time.sleep(3600)"}
    thread = threading.Thread(target=lambda: results.extend(sandbox.run(codes, [ToolCall("hang", {})])))
    thread.start()
    time.sleep(0.5)
    sandbox.close()
    thread.join(20)
    assert [result.status for result in results] == ["fault"]


@pytest.mark.parametrize("settings", [{"workers": 0}, {"timeout_s": 0.0}, {"cpu_s": -1.0}])
def test_nonsense_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ToolSandbox(**settings)


def test_shared_sandbox_takes_its_workers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    shared_sandbox().close()
    monkeypatch.setenv("TOOL_SANDBOX_WORKERS", "3")
    assert shared_sandbox() is shared_sandbox()
    assert shared_sandbox().workers == 3
    shared_sandbox().close()
    monkeypatch.setenv("TOOL_SANDBOX_WORKERS", "many")
    with pytest.raises(ValueError, match="TOOL_SANDBOX_WORKERS"):
        shared_sandbox()
