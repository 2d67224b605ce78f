"""Stateful environments: all calls of one episode share one state (such as a database in tau-bench).

Example:
    with sandbox.open_session({"book": source}, state={"flights": {...}}) as session:
        result = session.call("book", {"flight": "F1"})
        database = session.state()

With a state, a tool's function is called as `function(state, **arguments)` and may change the state. Module globals
live as long as the session. The state is copied in as JSON and lives in a process that belongs to this session alone.

A call that hangs or crashes fails, and its process is replaced. The earlier calls are then replayed from the first
state, which restores the session to its state before the failed call (exactly, for tools that use neither clock nor
threads).

The tools of an episode share this process. One of them can corrupt the session's later calls, but no other session and
no other call of the sandbox. Functions bound before tool code runs write the results, with a nonce per request.
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
"""CPU seconds of a session's process, as a multiple of the limit per call."""


class Report(NamedTuple):
    """A process's report on one call."""

    position: int
    status: str
    output: str
    seconds: float


class ToolSession:
    """Created by `ToolSandbox.open_session`. Thread-safe; its calls run one after another."""

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
        """Execute one call on the session's state. No tool behavior makes it raise."""
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
                except SandboxFault:  # its process may have died with the zygote: try once more in a new one
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
            status = self._end_process() if isinstance(error, RunnerDied) else self._end_process() and "timeout"
            return failed(name, status, self._limits.reason(status), time.monotonic() - start)
        seconds = min(max(0.0, report.seconds), time.monotonic() - start)
        if report.status in ("memory", "output_limit"):
            self._end_process()
            return failed(name, report.status, report.output, seconds)
        self._journal.append(row)
        if report.status == "ok":
            return ToolResult(name, "ok", report.output, seconds)
        return failed(name, "error", report.output, seconds)

    async def call_async(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """`call` for asyncio."""
        return await asyncio.to_thread(self.call, name, arguments)

    def state(self) -> Any:
        """A copy of the current state. Raises SandboxFault if a tool left it in a form that JSON cannot represent."""
        with self._lock:
            if self._state is NO_STATE:
                raise SandboxFault("the session was opened without a state")
            try:
                report = self._report_state()
            except SandboxFault:  # its process may have died with the zygote: try once more in a new one
                self._runner = None
                report = self._report_state()
            if report.status != "ok":
                raise SandboxFault(f"the state is no longer JSON: {report.output}")
            try:
                return json.loads(report.output)
            except (ValueError, RecursionError) as error:
                raise SandboxFault(f"the state cannot be read: {error}") from None

    def _report_state(self) -> Report:
        try:
            [report] = self._ask(self._running(), [], want_state=True)
        except (RunnerDied, TimeoutError) as error:
            self._end_process()
            raise SandboxFault(f"the state cannot be read: {error}") from None
        return report

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
        """The session's process. A new one gets the first state and replays the calls made so far."""
        if self._closed:
            raise SandboxFault("the session is closed")
        if self._runner is None:
            runner = self._executor.fork(SESSION, self._limits.cpu_s * SESSION_CPU_CALLS)
            self._runner = runner
            try:
                self._ask(runner, self._journal, first=True)
            except (RunnerDied, TimeoutError) as error:
                self._end_process()
                raise SandboxFault(f"the session could not be restored: {error}") from None
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

    def _end_process(self) -> str:
        """End the process, if there is one. Returns how it ended."""
        runner, self._runner = self._runner, None
        if runner is None:
            return "crash"
        if not runner.ended:
            runner.close()
            return "crash"
        return "timeout" if runner.ending(self._limits.cpu_s * SESSION_CPU_CALLS) == "timeout" else "crash"
