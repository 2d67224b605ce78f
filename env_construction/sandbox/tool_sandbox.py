"""Run untrusted tool code: isolated processes, hard limits, one result per call.

Example:
    with ToolSandbox(workers=2) as sandbox:
        [result] = sandbox.run({"add": "def add(a, b):\\n    return a + b"}, [ToolCall("add", {"a": 1, "b": 2})])

Call semantics as published (paper/README.md, Reward): the function is called with `**arguments`. The output is JSON
(`ensure_ascii=False`) for a returned dict or list, else `str()`. The text of a failure is
`an error occured when call <tool name>: <exception text>`.

Deviations from the published code: the source runs as a separate module, so that imports, helpers and recursion work.
It runs in another process, which is killed at its time limit. In every call, `random` starts from the same seed and
sets iterate in the same order. So a result depends only on source, arguments and the date. `other_surroundings` finds
results that depend on the date or on the order of sets.

A coroutine that a tool returns is awaited. A generator, a function, a module, or a text that contains an object's
address is not a value. Such a call is an error that says so.

How calls are isolated
- Isolated: by default, every call runs in a separate process, forked from one that has never seen tool code. The
  process can write to only one channel. What arrives there counts as the result of this call, whatever it says.
- Proven: code that passes `code_proof.py` shares a process with other proven code. The proof is an allow-list: no
  classes, no attribute is set, nothing runs later, and all functions change only their arguments and result. The
  process checks itself (`pool.py`). If it dies, stalls or finds a change, its unreported calls run again in isolation.

Covered (Linux, x86-64 and ARM64, no root needed; `isolation` lists the active layers)
- Time (wall clock and CPU), memory, output size: the process is killed, and its call fails with the kind of failure.
  Other calls continue.
- Files: nothing can be written. Only the Python installation, its shared libraries and time zones can be read
  (Landlock, seccomp). So project data, /proc and home folders are not readable.
- Network, new processes, other programs, signals, ptrace, mounts, keys, shared memory: refused (seccomp allow-list,
  Landlock, an empty network namespace if the kernel allows one).
- Environment variables, weights, gold answers: never in the process. Only code and calls go in. Only text comes out,
  as JSON whose size and shape are checked.
- Cleanup: processes die with this one, even if it is killed (parent-death signal, closed channel). A sandbox whose
  processes were killed starts new ones. If that fails, SandboxFault or the status "fault" gives the reason.

Not covered
- A call can lie about its own result, because a tool's result is whatever the tool says.
- Kernel bugs, and side channels such as timing between processes on one machine.
- Third-party packages: tools cannot import them, but the site-packages of a base interpreter may be in a readable
  folder.
- A session (`open_session`) shares state between the calls of one episode, by design.
- Without Landlock or seccomp (macOS, old kernels), limits and processes remain, but files and network are open. A
  warning says so once, and `require_isolation=True` refuses to start.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any

from env_construction.sandbox.execution import BATCH, OTHER_SURROUNDINGS, USUAL, Executor, Limits, Surroundings
from env_construction.sandbox.lane import start_lane
from env_construction.sandbox.processes import SandboxFault
from env_construction.sandbox.tool_session import NO_STATE, ToolSession
from env_construction.sandbox.work import STATUSES, Batch, SandboxJob, ToolCall, ToolResult, Work

__all__ = [
    "STATUSES",
    "SandboxFault",
    "SandboxJob",
    "ToolCall",
    "ToolResult",
    "ToolSandbox",
    "ToolSession",
    "shared_sandbox",
]

WORKERS_VARIABLE = "TOOL_SANDBOX_WORKERS"
AHEAD = 1024
MOST_WORKERS = 8
"""Maximum number of workers of `shared_sandbox`, unless TOOL_SANDBOX_WORKERS is set."""


class ToolSandbox:
    """Executes tool calls in worker processes. Thread-safe; a context manager.

    `workers`: number of processes that execute at the same time. `timeout_s`, `cpu_s`: wall-clock and CPU seconds that
    a call may take before its process is killed. `memory_mb`: address space of a process, MiB. `output_bytes`: longest
    output of a call, bytes of UTF-8. `require_isolation`: raise SandboxFault if an isolation layer is missing on this
    system. `surroundings`: hash seed and date that tools see. `isolation`: the active layers.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout_s: float = 10.0,
        cpu_s: float = 10.0,
        memory_mb: int = 512,
        output_bytes: int = 1 << 20,
        require_isolation: bool = False,
        surroundings: Surroundings = USUAL,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        if timeout_s <= 0 or cpu_s <= 0:
            raise ValueError(f"timeout_s, cpu_s: expected more than 0 seconds, got {timeout_s}, {cpu_s}")
        self.workers = workers
        self.limits = Limits(timeout_s, cpu_s, memory_mb, output_bytes)
        self._require_isolation = require_isolation
        self._surroundings = surroundings
        self._others: list[ToolSandbox] = []
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._executor = executor = Executor(self.workers, self.limits, self._surroundings)
        self._lanes = [start_lane(executor, number) for number in range(self.workers)]
        self._pid = os.getpid()
        self.isolation: tuple[str, ...] = tuple(self._executor.hello["layers"])
        missing = "; ".join(self._executor.hello["missing"])
        if missing and self._require_isolation:
            self._executor.close(self._lanes)
            raise SandboxFault(f"isolation is required, but this system lacks: {missing}")
        if missing:
            _warn_once(missing)

    def run(self, codes: Mapping[str, str], calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Execute the calls of one response; one result per call, in order. No tool behavior makes it raise."""
        return self.run_batch([SandboxJob(codes, calls)])[0]

    def run_batch(self, jobs: Sequence[SandboxJob]) -> list[list[ToolResult]]:
        """Execute many responses; results in the order of `jobs`."""
        return list(self.stream(jobs))

    def stream(self, jobs: Iterable[SandboxJob], expected: int | None = None) -> Iterator[list[ToolResult]]:
        """Execute responses while `jobs` yields them. Yields their results in order, as soon as they are ready.

        So parsing before and scoring after the sandbox continue while tools run. At most AHEAD responses per worker
        are in flight. `expected`: about how many there will be, so that even a few are divided among all workers.
        """
        if expected is None:
            expected = len(jobs) if isinstance(jobs, Sequence) else BATCH * self.workers
        size = max(1, min(BATCH, -(-expected // self.workers)))
        rest = iter(jobs)
        waiting: deque[tuple[list[Work], threading.Lock]] = deque()
        while True:
            group = list(islice(rest, size))
            if group:
                finished = threading.Lock()
                finished.acquire()
                waiting.append((self._submit(group, finished.release), finished))
            while waiting and (not group or len(waiting) * size > AHEAD * self.workers):
                works, finished = waiting.popleft()
                finished.acquire()
                for work in works:
                    yield work.results
            if not group:
                return

    async def run_async(self, codes: Mapping[str, str], calls: Sequence[ToolCall]) -> list[ToolResult]:
        """`run` for asyncio; the event loop continues in the meantime."""
        loop = asyncio.get_running_loop()
        finished = asyncio.Event()

        def on_done() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
                loop.call_soon_threadsafe(finished.set)

        [work] = self._submit([SandboxJob(codes, calls)], on_done)
        await finished.wait()
        return work.results

    def open_session(self, codes: Mapping[str, str], state: Any = NO_STATE) -> ToolSession:
        """A stateful episode in a separate process: see `tool_session`."""
        self._check_open()
        return ToolSession(self._executor, codes, state)

    def other_surroundings(self) -> Sequence[ToolSandbox]:
        """Sandboxes like this one with other dates and hash seeds, to see what results depend on.

        They are created on first use and closed with this one.
        """
        self._check_open()
        with self._lock:
            if not self._others:
                limits = vars(self.limits)
                self._others = [ToolSandbox(self.workers, **limits, surroundings=other) for other in OTHER_SURROUNDINGS]
            return self._others

    def close(self) -> None:
        """End all worker processes. Calls that are still waiting come back as "fault"."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for other in self._others:
            other.close()
        if self._pid == os.getpid():
            self._executor.close(self._lanes)

    def __enter__(self) -> ToolSandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxFault("the sandbox is closed")
        if self._pid != os.getpid():  # this is a forked copy: threads and channels belong to the parent
            with self._lock:
                if self._pid != os.getpid():
                    self._start()

    def _submit(self, jobs: Sequence[SandboxJob], on_done: Callable[[], None]) -> list[Work]:
        self._check_open()
        batch = Batch(sum(1 for job in jobs if job.calls), on_done)
        works = [Work(job, batch) for job in jobs]
        if batch.left:
            self._executor.submit([work for work in works if work.left])
        else:
            on_done()
        return works


_shared: ToolSandbox | None = None
_shared_lock = threading.Lock()
_warned = False


def shared_sandbox() -> ToolSandbox:
    """The sandbox of this process, created on first use and closed at exit.

    TOOL_SANDBOX_WORKERS sets its workers (default: the CPUs that this process may use, at most MOST_WORKERS).
    """
    global _shared
    with _shared_lock:
        if _shared is None or _shared._closed:
            asked = os.environ.get(WORKERS_VARIABLE, "")
            if asked and not (asked.isdigit() and int(asked) > 0):
                raise ValueError(f"{WORKERS_VARIABLE}: expected a whole number above 0, got {asked!r}")
            cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            _shared = ToolSandbox(workers=int(asked) if asked else min(MOST_WORKERS, cpus))
            atexit.register(_shared.close)
        return _shared


def _forget_shared() -> None:
    """In a forked child, drop the parent's sandbox without closing it."""
    global _shared, _shared_lock
    _shared = None
    _shared_lock = threading.Lock()


def _warn_once(missing: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"the tool sandbox runs without: {missing}", RuntimeWarning, stacklevel=4)


os.register_at_fork(after_in_child=_forget_shared)
