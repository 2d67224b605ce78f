"""Lanes that carry calls to runners, and what happens when a runner hangs, dies or finds code that is not plain.

One lane (a thread) per worker. A lane sends up to BATCH waiting responses in one message to its pool runner. Code that the runner
reports as wild is run again in a process of its own, one per call. A call that has run for STALL_SECONDS is taken out
of the way: its runner is left to a thread of its own until the call ends or its time is up, and the lane goes on with a new runner, so
that one slow tool holds up nobody else. A runner that dies fails the one call that it was executing.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from dataclasses import dataclass

from env_construction.sandbox_processes import Report, Runner, RunnerDied, SandboxFault, Zygote
from env_construction.sandbox_work import Pending, Work

BATCH = 64
"""Responses sent to a runner in one message."""
KNOWN_CODES = 4096
"""Sources a runner may hold before it is replaced."""
STALL_SECONDS = 0.25
STALLED_PER_WORKER = 4
"""How many stalled calls per worker may run beside the lanes; with more, a lane waits."""


@dataclass(frozen=True)
class Limits:
    """Wall-clock and CPU seconds of a call, address space of a process in MiB, output bytes (UTF-8)."""

    timeout_s: float
    cpu_s: float
    memory_mb: int
    output_bytes: int

    def reason(self, status: str) -> str:
        """What a failed call's text says."""
        if status == "timeout":
            return f"the time limit of {self.timeout_s:g} s is exceeded"
        return "the process of the tool ended"


class Executor:
    """Executes `Work` in `workers` lanes. `hello` tells which layers of isolation are active."""

    def __init__(self, workers: int, limits: Limits) -> None:
        self.limits = limits
        self._workers = workers
        self._settings = {"cpu_s": limits.cpu_s, "memory_mb": limits.memory_mb, "output_bytes": limits.output_bytes}
        self._lock = threading.Lock()
        self._closed = False
        self._code_ids: dict[str, int] = {}
        self._next_code = 0
        self._wild: set[int] = set()
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._stalled = threading.BoundedSemaphore(STALLED_PER_WORKER * workers)
        self._zygote = Zygote(self._settings)
        self.hello = self._zygote.hello
        self._lanes = [
            threading.Thread(target=self._lane, name=f"tool-sandbox-{i}", daemon=True) for i in range(workers)
        ]
        for lane in self._lanes:
            lane.start()

    def submit(self, work: Work) -> None:
        """Queue a job that has at least one call."""
        self._queue.put(work)

    def close(self) -> None:
        """End the processes; what is still waiting comes back as a fault."""
        self._closed = True
        for _ in self._lanes:
            self._queue.put(None)
        self._zygote.close()
        for lane in self._lanes:
            lane.join(10)
        with contextlib.suppress(queue.Empty):
            while True:
                work = self._queue.get_nowait()
                if work is not None:
                    _fault(work, "the sandbox is closed")

    def fork(self, cpu_seconds: int = 0) -> Runner:
        """A fresh runner; a zygote that was killed from outside is replaced once. Raises SandboxFault."""
        zygote = self._zygote
        with contextlib.suppress(SandboxFault):
            return zygote.fork(self.limits.output_bytes, cpu_seconds)
        with self._lock:
            if self._closed:
                raise SandboxFault("the sandbox is closed")
            if self._zygote is zygote:
                zygote.close()
                self._zygote = Zygote(self._settings)
            zygote = self._zygote
        return zygote.fork(self.limits.output_bytes, cpu_seconds)

    # -- lanes -----------------------------------------------------------------------------------------------------

    def _lane(self) -> None:
        """Thread body: take what is waiting, have it executed."""
        runner: Runner | None = None
        while True:
            works = self._take()
            if not works:
                break
            for attempt in ("first", "last"):
                try:
                    runner = self._execute(works, runner)
                    break
                except Exception as error:
                    runner = None
                    if attempt == "last" or self._closed:
                        for work in works:
                            _fault(work, str(error) or type(error).__name__)
        if runner is not None:
            with contextlib.suppress(SandboxFault):
                runner.kill()

    def _take(self) -> list[Work]:
        """What this lane executes next: its share of what is waiting; nothing at the end."""
        work = self._queue.get()
        if work is None:
            return []
        works = [work]
        share = min(BATCH, -(-self._queue.qsize() // self._workers) + 1)
        while len(works) < share:
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                break
            if work is None:
                self._queue.put(None)
                break
            works.append(work)
        return works

    def _execute(self, works: list[Work], runner: Runner | None) -> Runner | None:
        """Settle every call of `works` (stalled ones later). Returns the pool runner for the next time."""
        pool: list[Pending] = []
        own: list[Pending] = []
        for work in works:
            codes = work.job.codes
            for position, call in enumerate(work.job.calls):
                if work.results[position] is not None:
                    continue
                source = codes.get(call.name) if isinstance(call.name, str) else None
                pending = Pending(work, position, self.code_id(source) if isinstance(source, str) else -1, source or "")
                if pending.code_id < 0:
                    pending.fail("unknown_tool", f"there is no tool named {call.name!r}")
                else:
                    (own if pending.code_id in self._wild else pool).append(pending)
        while pool:
            if runner is not None and len(runner.known) > KNOWN_CODES:
                runner.kill()
                runner = None
            runner = runner or self.fork()
            pool, runner = self._run_pool(runner, pool, own)
        for pending in own:
            self._run_own(pending)
        return runner

    def code_id(self, source: str) -> int:
        """The number under which runners know a source."""
        code_id = self._code_ids.get(source)
        if code_id is None:
            with self._lock:
                if len(self._code_ids) > 4 * KNOWN_CODES:
                    self._code_ids = {}
                    self._wild = set()
                code_id = self._code_ids.setdefault(source, self._next_code)
                self._next_code += 1
        return code_id

    # -- execution -------------------------------------------------------------------------------------------------

    def _send(self, runner: Runner, mode: str, pendings: list[Pending]) -> list[Pending]:
        """Send calls; those whose arguments JSON cannot carry fail here. Returns what was sent, in order."""
        new = {item.code_id: item.source for item in pendings if item.code_id not in runner.known}
        calls = [[item.code_id, item.call.name, item.call.arguments] for item in pendings]
        try:
            runner.send({"mode": mode, "codes": list(new.items()), "calls": calls}, self.limits.timeout_s)
        except (TypeError, ValueError, RecursionError):
            sound = [item for item in pendings if _carried(item)]
            return self._send(runner, mode, sound) if len(sound) < len(pendings) else _give_up(pendings)
        runner.known.update(new)
        return pendings

    def _run_pool(
        self, runner: Runner, pendings: list[Pending], own: list[Pending]
    ) -> tuple[list[Pending], Runner | None]:
        """Have a pool runner execute calls. Returns those still to do, and the runner if it can go on.

        Calls that need a process of their own are added to `own`.
        """
        outstanding: dict[int, Pending] = {}
        patience = min(STALL_SECONDS, self.limits.timeout_s)
        try:
            outstanding = dict(enumerate(self._send(runner, "pool", pendings)))
            while outstanding:
                index, start = runner.progress()
                reports = runner.receive(max(0.001, start + patience - time.monotonic()))
                if reports is not None:
                    if not self._settle(reports, outstanding, own):
                        break
                    continue
                index, start = runner.progress()
                waited = time.monotonic() - start
                if waited < patience:
                    continue
                if waited >= self.limits.timeout_s:
                    raise RunnerDied("time is up")
                if index in outstanding and self._stalled.acquire(blocking=False):
                    stalled = outstanding.pop(index)
                    self._wait_aside(runner, index, stalled, start)
                    return list(outstanding.values()), None
                patience = self.limits.timeout_s
            else:
                return [], runner
            runner.kill()
            return list(outstanding.values()), None
        except RunnerDied:
            index, start = runner.progress()
            waited = time.monotonic() - start
            ending = runner.kill()
        culprit = outstanding.pop(index, None) if ending != "dirty" else None
        if culprit is None:  # nobody can be blamed: every unreported call gets a process of its own
            own.extend(outstanding.values() or pendings)
            return [], None
        ending = "timeout" if waited >= self.limits.timeout_s else ending
        culprit.fail(ending, self.limits.reason(ending), waited)
        return list(outstanding.values()), None

    def _settle(self, reports: list[Report], outstanding: dict[int, Pending], own: list[Pending]) -> bool:
        """Hand out results. False if a call ran out of memory: the runner is then not trusted to be whole."""
        whole = True
        for index, status, output, seconds in reports:
            pending = outstanding.pop(index, None)
            if pending is None:
                raise RunnerDied("a report on a call that is not outstanding")
            if status == "ok":
                pending.succeed(output, seconds)
            elif status == "wild":
                self._wild.add(pending.code_id)
                own.append(pending)
            else:
                whole = whole and status != "memory"
                pending.fail(status, output, seconds)
        return whole

    def _run_own(self, pending: Pending) -> None:
        """One call in a process of its own, which ends with it."""
        runner = self.fork(math.ceil(self.limits.cpu_s))
        start = time.monotonic()
        try:
            if not self._send(runner, "own", [pending]):
                runner.kill()
                return
        except RunnerDied:
            pass
        patience = min(STALL_SECONDS, self.limits.timeout_s)
        if not self._wait_for(runner, 0, pending, start, patience):
            if self._stalled.acquire(blocking=False):
                self._wait_aside(runner, 0, pending, start)
            else:
                self._wait_for(runner, 0, pending, start, self.limits.timeout_s)

    def _wait_aside(self, runner: Runner, index: int, pending: Pending, start: float) -> None:
        """Wait for a stalled call in a thread of its own."""

        def wait() -> None:
            try:
                self._wait_for(runner, index, pending, start, self.limits.timeout_s)
            except Exception as error:
                pending.fail("fault", f"the tool sandbox failed: {error}")
            finally:
                self._stalled.release()

        threading.Thread(target=wait, name="tool-sandbox-stalled", daemon=True).start()

    def _wait_for(self, runner: Runner, index: int, pending: Pending, start: float, patience: float) -> bool:
        """Settle one call and end its runner; False if it is still running `patience` seconds after `start`."""
        report: Report | None = None
        ending = ""
        try:
            while report is None and not ending:
                reports = runner.receive(max(0.0, start + patience - time.monotonic()))
                if reports is None:
                    if patience < self.limits.timeout_s:
                        return False
                    ending = "timeout"
                else:
                    report = next((item for item in reports if item.position == index), None)
        except RunnerDied:
            ending = "crash"
        waited = time.monotonic() - start
        killed = runner.kill()
        if report is None:
            ending = killed if ending == "crash" and killed == "timeout" else ending
            pending.fail(ending, self.limits.reason(ending), waited)
        elif report.status == "ok":
            pending.succeed(report.output, report.seconds)
        else:
            pending.fail(report.status if report.status != "wild" else "crash", report.output, report.seconds)
        return True


def _carried(pending: Pending) -> bool:
    """Whether a call's arguments can be sent; if not, the call has failed."""
    try:
        Runner.encodable(pending.call.arguments)
    except (TypeError, ValueError, RecursionError) as error:
        pending.fail("error", f"the arguments are not JSON: {error}")
        return False
    return True


def _give_up(pendings: list[Pending]) -> list[Pending]:
    for pending in pendings:
        pending.fail("error", "the arguments are not JSON")
    return []


def _fault(work: Work, reason: str) -> None:
    for position in range(len(work.results)):
        if work.results[position] is None:
            Pending(work, position, -1, "").fail("fault", f"the tool sandbox failed: {reason}")
