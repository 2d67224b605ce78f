"""The calls of one model turn on a state: one ordinary job of the sandbox, so nothing outlives the turn.

Example:
    job = stateful_job(codes, calls, tables)
    run = read_run(codes, calls, tables, sandbox.run_batch([job])[0])
    run.results, run.state  # the next turn of the episode starts from this state

A tool's function is called as `function(state, **arguments)` and may change the state, a JSON object of this turn
alone. Whoever plays an episode passes the state on: training, evaluation, serving and validation all do it by this
module. A turn is exact and repeatable, because its results depend only on the sources, the state and the calls. Proven
code shares a process as in every other job, and other code gets a process per turn.

Module globals live for one turn. The calls of a turn share its time limit: after a timeout or a crash, every call of
the turn has that status, and the state is as before. `open_session` keeps a process per episode instead; a prompt that
begins in the middle of an episode could not be scored by it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from env_construction.environment.state import tables_problem
from env_construction.sandbox.work import SandboxJob, ToolCall, ToolResult, failed

_RUNNER = "run_calls"
_DRIVER = f"""
import json

def {_RUNNER}(state, calls, alone):
    first = json.dumps(state)
    tools = load_tools()
    results = []
    for name, arguments in calls:
        if alone:
            state = json.loads(first)
        try:
            value = tools[name](state, **arguments)
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            results.append(["ok", text])
        except (MemoryError, RecursionError):
            raise
        except Exception as error:
            results.append(["error", str(error)])
    return {{"results": results, "state": state}}
"""


@dataclass(frozen=True)
class StatefulRun:
    """The results of a turn, one per call, and the state after its last call."""

    results: list[ToolResult]
    state: Any


def stateful_job(codes: Mapping[str, str], calls: Sequence[ToolCall], state: Any, alone: bool = False) -> SandboxJob:
    """The job that executes the calls in order. `alone`: each call starts from `state` instead."""
    known = list(_known(codes, calls))
    source = _source(tuple(sorted({call.name: codes[call.name] for call in known}.items())))
    arguments = {"state": state, "calls": [[call.name, call.arguments] for call in known], "alone": alone}
    return SandboxJob({_RUNNER: source}, [ToolCall(_RUNNER, arguments)])


def read_run(
    codes: Mapping[str, str], calls: Sequence[ToolCall], state: Any, found: Sequence[ToolResult]
) -> StatefulRun:
    """The run of `calls` from the results of their `stateful_job`.

    The tools wrote those results, so nothing in them is trusted. A turn whose tools left no set of tables, or removed a
    column of a row, is an error of all its calls, and the state is as before.
    """
    [whole] = found
    rows: list[list[str]] = []
    status, reason = whole.status, whole.output.removeprefix(failed(_RUNNER, "error", "").output)
    known = list(_known(codes, calls))
    if whole.ok:
        try:
            answer = json.loads(whole.output)
            rows, after = answer["results"], answer["state"]
            if len(rows) != len(known) or not all(map(_is_row, rows)):
                status, reason = "error", "the tools of this turn did not report every call"
            elif problem := tables_problem(state, after):
                status, reason = "error", problem
            else:
                state = after
        except (ValueError, TypeError, KeyError, RecursionError):
            status, reason = "error", "the tools of this turn did not leave a state that is JSON"
    if status != "ok":
        rows = [[status, reason]] * len(known)
    results, share, remaining = [], whole.seconds / max(1, len(known)), iter(rows)
    for call in calls:
        if not _is_known(codes, call):
            results.append(failed(call.name, "unknown_tool", repr(call.name)))
            continue
        outcome, text = next(remaining)
        good = ToolResult(call.name, "ok", text, share)
        results.append(good if outcome == "ok" else failed(call.name, outcome, text, share))
    return StatefulRun(results, state)


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and row[0] in ("ok", "error") and isinstance(row[1], str)


def _is_known(codes: Mapping[str, str], call: ToolCall) -> bool:
    return isinstance(call.name, str) and isinstance(codes.get(call.name), str)


def _known(codes: Mapping[str, str], calls: Sequence[ToolCall]) -> Iterator[ToolCall]:
    return (call for call in calls if _is_known(codes, call))


@lru_cache(maxsize=4096)
def _source(codes: tuple[tuple[str, str], ...]) -> str:
    """A module with the tools, each in a function of its own so that their helpers do not collide, and the driver.

    A tool whose source does not compile in a function fails alone, when it is called.
    """
    loaders, entries, futures = [], [], False
    for place, (name, source) in enumerate(codes):
        try:
            visitor = _InFunction()
            loader = _loader(place, visitor.visit(ast.parse(source)).body, f"    return {name}")
            compile(loader, name, "exec")
            futures |= visitor.futures
        except (SyntaxError, ValueError, RecursionError) as error:
            fail = f"    def fail(*_, **given):\n        raise ValueError({str(error)!r})\n    return fail"
            loader = _loader(place, [], fail)
        loaders.append(loader)
        entries.append(f"{name!r}: load_{place}()")
    head = "from __future__ import annotations\n\n" if futures else ""
    tools = "\n\n".join(loaders)
    return f"{head}{tools}\n\ndef load_tools():\n    return {{{', '.join(entries)}}}\n{_DRIVER}"


def _loader(place: int, body: list[ast.stmt], end: str) -> str:
    """The source of a function that runs `body`, then `end`."""
    tree = ast.parse(f"def load_{place}():\n{end}")
    loader = tree.body[0]
    assert isinstance(loader, ast.FunctionDef)
    loader.body[:0] = body
    return ast.unparse(ast.fix_missing_locations(tree))


class _InFunction(ast.NodeTransformer):
    """A module's code as the body of a function: what was global belongs to that function.

    `futures`: whether the module imports from `__future__`, which only the head of a file may do.
    """

    futures = False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module != "__future__":
            return node
        self.futures = True
        return None

    def visit_Global(self, node: ast.Global) -> ast.AST:
        return ast.copy_location(ast.Nonlocal(names=node.names), node)
