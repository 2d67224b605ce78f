"""Run tool code that nobody vouches for: isolated processes, hard limits, one result per call.

Example:
    with ToolSandbox(workers=2) as sandbox:
        [result] = sandbox.run({"add": "def add(a, b):\\n    return a + b"}, [ToolCall("add", {"a": 1, "b": 2})])

Call semantics as published (paper/README.md, Reward): the function is called with `**arguments`; the output is JSON
(`ensure_ascii=False`) of a returned dict or list, else `str()`; a failure reads
`an error occured when call <tool name>: <exception text>`. Unlike the published code, the source runs as a module of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from env_construction.sandbox_processes import Report, Runner, RunnerDied, SandboxFault, Zygote

STATUSES = ("ok", "error", "unknown_tool", "timeout", "memory", "output_limit", "crash", "fault")
BATCH = 64
"""Responses sent to a runner in one message."""
KNOWN_CODES = 4096
"""Sources a runner may hold before it is replaced."""


@dataclass(frozen=True)
class ToolCall:
    """One call of a model turn. `arguments` is what the model wrote; anything but an object is a failing call."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ToolResult:
    """What came back. `output` is the text that the model sees; `status` is one of STATUSES."""

    name: str
    status: str
    output: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class SandboxJob:
    """The calls of one model response and the sources of its environment's tools."""

    codes: Mapping[str, str]
    calls: Sequence[ToolCall]


@dataclass
class _Work:
    """A job on its way: results by position, and whom to tell when all are there."""

    job: SandboxJob
    done: Callable[[], None]
    results: list[ToolResult | None] = field(default_factory=list)
    left: int = 0

    def put(self, position: int, result: ToolResult) -> None:
        if self.results[position] is None:
            self.results[position] = result
            self.left -= 1
            if self.left == 0:
                self.done()


@dataclass
class _Pending:
    """One call on its way."""

    work: _Work
    position: int
    code_id: int
    source: str

    @property
    def call(self) -> ToolCall:
        return self.work.job.calls[self.position]

    def fail(self, status: str, reason: str, seconds: float = 0.0) -> None:
        self.work.put(self.position, failed(self.call.name, status, reason, seconds))


def failed(name: str, status: str, reason: str, seconds: float = 0.0) -> ToolResult:
    """A failed call's result, in the published wording."""
    return ToolResult(name, status, f"an error occured when call {name}: {reason}", seconds)


class ToolSandbox:
    """Executes tool calls in worker processes. Thread-safe; a context manager.

    `workers`: processes that execute at the same time. `timeout_s`: wall-clock seconds a call may take before its process
    is killed; `cpu_s`: CPU seconds likewise. `memory_mb`: address space of a worker process, MiB. `output_bytes`: longest
    output of a call, bytes of UTF-8. `require_isolation`: raise SandboxFault if a layer of isolation is missing here.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout_s: float = 10.0,
        cpu_s: float = 10.0,
        memory_mb: int = 512,
        output_bytes: int = 1 << 20,
        require_isolation: bool = False,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        self.workers = workers
        self.timeout_s = timeout_s
        self.output_bytes = output_bytes
        self._settings = {"cpu_s": cpu_s, "memory_mb": memory_mb, "output_bytes": output_bytes}
        self._reply_bytes = (output_bytes + (1 << 19)) * 6 + 4096
        self._require_isolation = require_isolation
        self._lock = threading.RLock()
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._code_ids: dict[str, int] = {}
        self._next_code = 0
        self._wild: set[int] = set()
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._zygote = Zygote(self._settings)
        self.isolation: tuple[str, ...] = tuple(self._zygote.hello["layers"])
        missing = self._zygote.hello["missing"]
        if missing and self._require_isolation:
            self._zygote.close()
            raise SandboxFault(f"isolation is required, but missing here: {'; '.join(missing)}")
        self._lanes = [
            threading.Thread(target=self._lane, name=f"tool-sandbox-{i}", daemon=True) for i in range(self.workers)
        ]
        for lane in self._lanes:
            lane.start()

    # -- the public calls ------------------------------------------------------------------------------------------

    def run(self, codes: Mapping[str, str], calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Execute the calls of one response; one result per call, in order. Never raises for what a tool does."""
        return self.run_batch([SandboxJob(codes, calls)])[0]

    def run_batch(self, jobs: Sequence[SandboxJob]) -> list[list[ToolResult]]:
        """Execute many responses; results in the order of `jobs`."""
        finished = threading.Event()
        works = self._submit(jobs, finished.set)
        finished.wait()
        return [work.results for work in works]  # type: ignore[misc]

    async def run_async(self, codes: Mapping[str, str], calls: Sequence[ToolCall]) -> list[ToolResult]:
        """`run` for asyncio: the event loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        finished = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finished.set)

        [work] = self._submit([SandboxJob(codes, calls)], tell)
        await finished.wait()
        return work.results  # type: ignore[return-value]

    def close(self) -> None:
        """End all worker processes. Calls that are still waiting come back as "fault"."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._pid != os.getpid():
            return
        for _ in self._lanes:
            self._queue.put(None)
        self._zygote.close()
        for lane in self._lanes:
            if lane is not threading.current_thread():
                lane.join(10)

    def __enter__(self) -> ToolSandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- from jobs to lanes ----------------------------------------------------------------------------------------

    def _submit(self, jobs: Sequence[SandboxJob], tell: Callable[[], None]) -> list[_Work]:
        if self._closed:
            raise SandboxFault("the sandbox is closed")
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._start()
        remaining = len(jobs)
        lock = threading.Lock()

        def one_done() -> None:
            nonlocal remaining
            with lock:
                remaining -= 1
                last = remaining == 0
            if last:
                tell()

        if not jobs:
            tell()
        works = []
        for job in jobs:
            work = _Work(job, one_done, [None] * len(job.calls), len(job.calls))
            works.append(work)
        for work in works:
            if work.left:
                self._queue.put(work)
            else:
                one_done()
        return works

    def _lane(self) -> None:
        """Thread body: take what is waiting, have it executed, hand out results."""
        runner: Runner | None = None
        while True:
            work = self._queue.get()
            if work is None:
                break
            works = [work]
            share = min(BATCH, -(-self._queue.qsize() // self.workers) + 1)
            stop = False
            while len(works) < share:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    stop = True
                    break
                works.append(more)
            try:
                runner = self._execute(works, runner)
            except Exception as error:
                runner = None
                for broken in works:
                    for position, call in enumerate(broken.job.calls):
                        if broken.results[position] is None:
                            broken.put(position, failed(call.name, "fault", f"sandbox fault: {error}"))
            if stop:
                break
        if runner is not None:
            with contextlib.suppress(SandboxFault):
                runner.kill()

    def _execute(self, works: list[_Work], runner: Runner | None) -> Runner | None:
        pool: list[_Pending] = []
        own: list[_Pending] = []
        for work in works:
            for position, call in enumerate(work.job.calls):
                source = work.job.codes.get(call.name) if isinstance(call.name, str) else None
                if not isinstance(source, str):
                    work.put(position, failed(call.name, "unknown_tool", f"there is no tool named {call.name!r}"))
                    continue
                code_id = self._code_id(source)
                (own if code_id in self._wild else pool).append(_Pending(work, position, code_id, source))
        while pool:
            if runner is None or len(runner.known) > KNOWN_CODES:
                if runner is not None:
                    runner.kill()
                runner = self._fork()
            pool, wild, healthy = self._run_pool(runner, pool)
            own += wild
            if not healthy:
                runner = None
        for pending in own:
            self._run_own(pending)
        return runner

    def _code_id(self, source: str) -> int:
        code_id = self._code_ids.get(source)
        if code_id is None:
            with self._lock:
                if len(self._code_ids) > 4 * KNOWN_CODES:
                    self._code_ids.clear()
                    self._wild = set()
                code_id = self._next_code
                self._next_code += 1
                self._code_ids[source] = code_id
        return code_id

    def _fork(self, cpu_seconds: int = 0) -> Runner:
        zygote = self._zygote
        try:
            return zygote.fork(self._reply_bytes, cpu_seconds)
        except SandboxFault:
            with self._lock:
                if self._closed:
                    raise
                if self._zygote is zygote:
                    self._zygote = Zygote(self._settings)
                zygote = self._zygote
            return zygote.fork(self._reply_bytes, cpu_seconds)

    # -- execution -------------------------------------------------------------------------------------------------

    def _send(self, runner: Runner, mode: str, pendings: list[_Pending]) -> list[_Pending]:
        """Send calls; those whose arguments JSON cannot carry fail here. Returns what was sent, in order."""
        new = {item.code_id: item.source for item in pendings if item.code_id not in runner.known}
        request = {
            "mode": mode,
            "codes": list(new.items()),
            "calls": [[p.code_id, p.call.name, p.call.arguments] for p in pendings],
        }
        try:
            runner.send(request, self.timeout_s + 5.0)
        except (TypeError, ValueError, RecursionError):
            sent = []
            for pending in pendings:
                try:
                    runner.encodable(pending.call.arguments)
                    sent.append(pending)
                except (TypeError, ValueError, RecursionError) as error:
                    pending.fail("error", f"arguments are not JSON: {error}")
            if not sent:
                return []
            return self._send(runner, mode, sent)
        runner.known.update(new)
        return pendings

    def _run_pool(self, runner: Runner, pendings: list[_Pending]) -> tuple[list[_Pending], list[_Pending], bool]:
        """Have a pool runner execute calls. Returns (still to do, wild ones, whether the runner lives on)."""
        outstanding: dict[int, _Pending] = {}
        wild: list[_Pending] = []
        reason = ""
        try:
            pendings = self._send(runner, "pool", pendings)
            outstanding = dict(enumerate(pendings))
            while outstanding:
                _, start = runner.progress()
                reports = runner.receive(max(0.001, start + self.timeout_s - time.monotonic()))
                if reports is None:
                    index, start = runner.progress()
                    if time.monotonic() - start >= self.timeout_s:
                        reason = "timeout"
                        break
                    continue
                self._collect(reports, outstanding, wild)
        except RunnerDied:
            reason = "crash"
        if not reason:
            return [], wild, True
        index, start = runner.progress()
        ending = runner.kill()
        if reason == "crash":
            reason = ending
        culprit = outstanding.pop(index, None) if reason != "dirty" else None
        if culprit is None:
            # Nobody can be blamed: every unreported call gets a process of its own.
            return [], wild + list(outstanding.values()), False
        culprit.fail(reason, self._reason(reason), time.monotonic() - start)
        return list(outstanding.values()), wild, False

    def _collect(self, reports: list[Report], outstanding: dict[int, _Pending], wild: list[_Pending]) -> None:
        for index, status, output, seconds in reports:
            pending = outstanding.pop(index, None)
            if pending is None:
                raise RunnerDied("a report on a call that is not outstanding")
            if status == "wild":
                self._wild.add(pending.code_id)
                wild.append(pending)
            elif status == "ok":
                pending.work.put(pending.position, ToolResult(pending.call.name, "ok", output, seconds))
            else:
                pending.fail(status, output, seconds)

    def _run_own(self, pending: _Pending) -> None:
        """One call in a process of its own, which ends with it."""
        runner = self._fork(math.ceil(self._settings["cpu_s"]))
        start = time.monotonic()
        try:
            if self._send(runner, "own", [pending]):
                reports = runner.receive(max(0.0, start + self.timeout_s - time.monotonic()))
                if reports is None:
                    pending.fail("timeout", self._reason("timeout"), time.monotonic() - start)
                else:
                    self._collect(reports, {0: pending}, [])
        except RunnerDied:
            ending = runner.kill()
            reason = "timeout" if ending == "timeout" else "crash"
            pending.fail(reason, self._reason(reason), time.monotonic() - start)
        else:
            runner.kill()

    def _reason(self, status: str) -> str:
        if status == "timeout":
            return f"the time limit of {self.timeout_s:g} s is exceeded"
        return "the tool's process ended"


_shared: ToolSandbox | None = None
_shared_lock = threading.Lock()


def shared_sandbox() -> ToolSandbox:
    """The sandbox of this process: made on first use, closed at exit. TOOL_SANDBOX_WORKERS sets its workers
    (default: the CPUs this process may use, at most 8)."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared._closed:
            count = os.environ.get("TOOL_SANDBOX_WORKERS", "")
            affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            _shared = ToolSandbox(workers=max(1, int(count)) if count.isdigit() else min(8, affinity))
            atexit.register(_shared.close)
        return _shared


def _forget_shared() -> None:
    global _shared, _shared_lock
    _shared = None
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_shared)
