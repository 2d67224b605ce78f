"""Stateful environments: all calls of one episode on one shared state (a database, as tau-bench has).

Example:
    with sandbox.open_session({"book": source}, state={"flights": {...}}) as session:
        result = session.call("book", {"flight": "F1"})
        database = session.state()

With a state, a tool's function is called as `function(state, **arguments)` and may change the state; module globals
live as long as the session. The state is copied in as JSON and lives in a process of this session alone. A call that
hangs or crashes fails, and its process is replaced: the earlier calls are replayed on the first state, so that the
session stands where it stood before the failing call (exactly so for tools that use neither clock nor threads).
The tools of an episode share this process: one of them can spoil the session's later calls, but no other session and no
other call of the sandbox. Results are written by functions bound before tool code runs, with a nonce per request.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple

from env_construction.sandbox.execution import Executor
from env_construction.sandbox.processes import REASON_BYTES, Process, RunnerDied, SandboxFault, json_frame
from env_construction.sandbox.protocol import SESSION
from env_construction.sandbox.work import ToolResult, failed

NO_STATE: Final = object()
SESSION_STATUSES = ("ok", "error", "memory", "output_limit")
SESSION_CPU_CALLS = 100
"""CPU seconds of a session's process, in units of the limit per call."""


class Report(NamedTuple):
    """What the process says about one call."""

    position: int
    status: str
    output: str
    seconds: float


class ToolSession:
    """Made by `ToolSandbox.open_session`. Thread-safe; its calls run one after the other."""

    def __init__(self, executor: Executor, codes: Mapping[str, str], state: Any = NO_STATE) -> None:
        self._executor = executor
        self._limits = executor.limits
        self._codes = dict(codes)
        self._ids = {name: executor.code_id(source) for name, source in self._codes.items()}
        self._state = state if state is NO_STATE else json.loads(json.dumps(state))
        self._journal: list[list[Any]] = []
        self._runner: Process | None = None
        self._lock = threading.Lock()
        self._closed = False

    def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Execute one call on the session's state. Never raises for what a tool does."""
        with self._lock:
            if name not in self._codes:
                return failed(name, "unknown_tool", repr(name))
            try:
                row = [self._ids[name], name, json.loads(json.dumps(arguments))]
            except (TypeError, ValueError, RecursionError) as error:
                return failed(name, "error", f"the arguments are not JSON: {error}")
            try:
                try:
                    return self._call(row)
                except SandboxFault:  # its process may have died with the zygote: once more, in a new one
                    self._runner = None
                    return self._call(row)
            except SandboxFault as error:
                self._runner = None
                return failed(name, "fault", f"the tool sandbox failed: {error}")

    def _call(self, row: list[Any]) -> ToolResult:
        name, runner = row[1], self._running()
        start = time.monotonic()
        try:
            report = self._ask(runner, [row])[0]
        except (RunnerDied, TimeoutError) as error:
            status = self._bury() if isinstance(error, RunnerDied) else self._bury() and "timeout"
            return failed(name, status, self._limits.reason(status), time.monotonic() - start)
        seconds = min(max(0.0, report.seconds), time.monotonic() - start)
        if report.status in ("memory", "output_limit"):
            self._bury()
            return failed(name, report.status, report.output, seconds)
        self._journal.append(row)
        if report.status == "ok":
            return ToolResult(name, "ok", report.output, seconds)
        return failed(name, "error", report.output, seconds)

    async def call_async(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """`call` for asyncio."""
        return await asyncio.to_thread(self.call, name, arguments)

    def state(self) -> Any:
        """A copy of the state as it is now. Raises SandboxFault if a tool left it in a shape that JSON cannot carry."""
        with self._lock:
            if self._state is NO_STATE:
                raise SandboxFault("the session was opened without a state")
            try:
                [report] = self._ask(self._running(), [], want_state=True)
                if report.status != "ok":
                    raise SandboxFault(f"the state is no longer JSON: {report.output}")
                return json.loads(report.output)
            except (RunnerDied, TimeoutError, ValueError, RecursionError) as error:
                self._bury()
                raise SandboxFault(f"the state cannot be read: {error}") from None

    def close(self) -> None:
        """End the session's process."""
        with self._lock:
            self._closed = True
            if self._runner is not None:
                self._runner.close()
            self._runner = None

    def __enter__(self) -> ToolSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> Process:
        """The session's process; a new one gets the first state and the calls made so far."""
        if self._closed:
            raise SandboxFault("the session is closed")
        if self._runner is None:
            runner = self._executor.fork(SESSION, self._limits.cpu_s * SESSION_CPU_CALLS)
            self._runner = runner
            try:
                self._ask(runner, self._journal, first=True)
            except (RunnerDied, TimeoutError) as error:
                self._bury()
                raise SandboxFault(f"the session could not be brought back: {error}") from None
        return self._runner

    def _ask(
        self, runner: Process, rows: list[list[Any]], first: bool = False, want_state: bool = False
    ) -> list[Report]:
        """Execute calls and collect their reports, in order. Raises RunnerDied or TimeoutError."""
        new = {code_id: self._codes[name] for code_id, name, _ in rows if code_id not in runner.known}
        request: dict[str, Any] = {
            "codes": list(new.items()),
            "calls": rows,
            "want_state": want_state,
        }
        if first and self._state is not NO_STATE:
            request["state"] = self._state
        position, nonce = runner.next_index, secrets.token_hex(8)
        expected = len(rows) + want_state
        runner.next_index += expected
        runner.known.update(new)
        runner.send(json_frame({**request, "nonce": nonce, "first": position}))
        deadline = time.monotonic() + self._limits.timeout_s * max(1, len(rows))
        frames: list[bytes] = []
        while not frames and not runner.ended and not runner.broken:
            if time.monotonic() > deadline:
                raise TimeoutError("time is up")
            frames = runner.wait(deadline - time.monotonic())
        try:
            [body] = frames
            said, reports = json.loads(body)
            reports = [Report(*row) for row in reports]
            if said != nonce or [report.position for report in reports] != [*range(position, position + expected)]:
                raise ValueError("a report on something else")
            for _, status, output, seconds in reports:
                if status not in SESSION_STATUSES or type(output) is not str or type(seconds) is not float:
                    raise ValueError("malformed report")
                if len(output) > self._limits.output_bytes + REASON_BYTES and not want_state:
                    raise ValueError("an output beyond the limit")
        except (ValueError, TypeError, RecursionError) as error:
            raise RunnerDied(f"broken frame: {error}") from None
        return reports

    def _bury(self) -> str:
        """End the process, if there is one; how it had ended."""
        runner, self._runner = self._runner, None
        if runner is None:
            return "crash"
        if not runner.ended:
            runner.close()
            return "crash"
        return "timeout" if runner.ending(self._limits.cpu_s * SESSION_CPU_CALLS) == "timeout" else "crash"
