"""A lane carries calls to one runner, and knows what to do when it hangs, dies or finds code that is not plain.

One lane (a thread) per worker. A lane keeps its pool runner supplied: it sends the next message while the runner still
works on the last. Code that the runner reports as wild is run again in a process of its own, one per call. A call
that has run for STALL_SECONDS steps aside: its runner is left to a thread of its own until the call ends or its time is up, and the
lane goes on with a new runner, so that one slow tool holds up nobody else. A runner that dies fails the one call that it
was executing.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque

from env_construction.sandbox_execution import KNOWN_CODES, Executor
from env_construction.sandbox_processes import Report, Runner, RunnerDied, SandboxFault
from env_construction.sandbox_work import Pending, Work

STALL_SECONDS = 0.5
MOST_OUTSTANDING = 1024
"""Calls that a lane sends ahead to its runner, at most; a few milliseconds of work, so that the runner never waits."""
SENT_AHEAD_BYTES = 1 << 15
"""A longer message waits until the runner has nothing else to do, so that it never blocks in the socket."""


class Lane:
    """One worker's share of the sandbox. `run` is the body of a thread."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._limits = executor.limits
        self._patience = min(STALL_SECONDS, executor.limits.timeout_s)
        self._runner: Runner | None = None
        self._active: list[Work] = []
        self._ready: list[Pending] = []
        """Calls to send to the pool runner."""
        self._outstanding: dict[int, Pending] = {}
        """Calls that the pool runner has, by the index under which it reports them."""
        self._own: deque[Pending] = deque()
        """Calls that need a process of their own."""
        self._faults = 0

    def run(self) -> None:
        """Take work and have it executed until the sandbox is closed."""
        going = True
        while going:
            try:
                going = self._step()
            except Exception as error:
                self._recover(str(error) or type(error).__name__)
        if self._runner is not None:
            with contextlib.suppress(SandboxFault):
                self._runner.kill()

    def _step(self) -> bool:
        """One round: take, send, collect. False at the end."""
        idle = not (self._ready or self._outstanding or self._own)
        works = self._executor.take(idle) if len(self._outstanding) < MOST_OUTSTANDING and not self._ready else []
        if works is None:
            if idle:
                return False
        elif works:
            self._faults = 0 if idle else self._faults
            self._active = [work for work in self._active if work.left] + works
            for work in works:
                self._sort(work)
        if self._ready:
            self._send_ready()
        elif self._outstanding:
            self._collect(0.0 if self._own else self._patience)
        if self._own:
            self._run_own(self._own.popleft())
        return True

    def _recover(self, reason: str) -> None:
        """The sandbox broke under this lane. What is unfinished is tried once more, then comes back as a fault."""
        self._faults += 1
        self._runner = None
        self._ready = []
        self._outstanding = {}
        self._own.clear()
        works, self._active = [work for work in self._active if work.left], []
        for work in works:
            if self._faults > 1 or self._executor.closed:
                work.fault(reason)
            else:
                self._active.append(work)
                self._sort(work)

    def _sort(self, work: Work) -> None:
        """Unfinished calls of a job go where they can be executed."""
        codes = work.job.codes
        for position, call in enumerate(work.job.calls):
            if work.results[position] is not None:
                continue
            source = codes.get(call.name) if isinstance(call.name, str) else None
            if not isinstance(source, str):
                Pending(work, position, -1, "").fail("unknown_tool", repr(call.name))
                continue
            code_id = self._executor.code_id(source)
            pending = Pending(work, position, code_id, source)
            (self._own if code_id in self._executor.wild else self._ready).append(pending)

    # -- the pool runner -------------------------------------------------------------------------------------------

    def _send_ready(self) -> None:
        """Send what is ready; a long message only to a runner that has nothing else to do."""
        if self._runner is not None and len(self._runner.known) > KNOWN_CODES:
            self._drain()
            if self._runner is not None:
                self._runner.kill()
                self._runner = None
        if self._runner is None:
            self._runner = self._executor.fork()
        runner, ready = self._runner, self._ready
        message, sent = _message(runner, "pool", ready)
        if len(message) > SENT_AHEAD_BYTES:
            self._drain()
            if self._runner is not runner or self._ready is not ready:
                return
        self._ready = []
        self._outstanding.update(enumerate(sent, runner.next_index))
        try:
            if sent:
                runner.send(message, len(sent), self._limits.timeout_s)
                runner.known.update(pending.code_id for pending in sent)
        except RunnerDied:
            self._lost()

    def _drain(self) -> None:
        """Collect until the runner has nothing to do, or is another one."""
        runner = self._runner
        while self._outstanding and self._runner is runner:
            self._collect(self._patience)

    def _collect(self, patience: float) -> None:
        """Wait for results, but not beyond a stall."""
        runner = self._runner
        assert runner is not None
        try:
            index, start = runner.progress()
            if index not in self._outstanding:
                start = time.monotonic()  # between two calls: it has just begun the next, or waits for a message
            reports = runner.receive(max(0.0, min(patience, start + self._patience - time.monotonic())))
            if reports is not None:
                self._settle(reports)
                return
        except RunnerDied:
            self._lost()
            return
        index, start = runner.progress()
        waited = time.monotonic() - (start if index in self._outstanding else runner.last_heard)
        if waited >= self._limits.timeout_s:
            self._lost()
        elif waited >= self._patience and index in self._outstanding:
            if self._executor.stalled.acquire(blocking=False):
                self._wait_aside(runner, index, self._outstanding.pop(index), start)
                self._runner = None
                self._again()
            else:
                time.sleep(min(self._patience, self._limits.timeout_s - waited) / 4)

    def _settle(self, reports: list[Report]) -> None:
        """Hand out results. After a call that ran out of memory, the runner is not trusted to be whole."""
        whole = True
        for index, status, output, seconds in reports:
            pending = self._outstanding.pop(index, None)
            if pending is None:
                raise RunnerDied("a report on a call that is not outstanding")
            if status == "ok":
                pending.succeed(output, seconds)
            elif status in ("wild", "wild_call"):
                if status == "wild":
                    self._executor.wild.add(pending.code_id)
                self._own.append(pending)
            else:
                whole = whole and status != "memory"
                pending.fail(status, output, seconds)
        if not whole and self._runner is not None:
            self._runner.kill()
            self._runner = None
            self._again()

    def _lost(self) -> None:
        """The pool runner died or ran out of time: the call that it was executing fails, the others go on."""
        runner = self._runner
        assert runner is not None
        self._runner = None
        index, start = runner.progress()
        waited = time.monotonic() - start
        ending = runner.kill()
        culprit = self._outstanding.pop(index, None) if ending != "dirty" else None
        if culprit is None:  # nobody can be blamed: every unreported call gets a process of its own
            self._own.extend(self._outstanding.values())
            self._outstanding = {}
            return
        ending = "timeout" if waited >= self._limits.timeout_s else ending
        culprit.fail(ending, self._limits.reason(ending), waited)
        self._again()

    def _again(self) -> None:
        """What the runner had not reported goes to the next one."""
        self._ready = [*self._outstanding.values(), *self._ready]
        self._outstanding = {}

    # -- processes of their own ------------------------------------------------------------------------------------

    def _run_own(self, pending: Pending) -> None:
        """One call in a process that ends with it."""
        runner = self._executor.fork(math.ceil(self._limits.cpu_s))
        message, sent = _message(runner, "own", [pending])
        if not sent:
            runner.dismiss()
            return
        start = time.monotonic()
        with contextlib.suppress(RunnerDied):  # heard again when waiting
            runner.send(message, 1, self._limits.timeout_s)
        if not self._wait_for(runner, 0, pending, start, self._patience):
            if self._executor.stalled.acquire(blocking=False):
                self._wait_aside(runner, 0, pending, start)
            else:
                self._wait_for(runner, 0, pending, start, self._limits.timeout_s)

    def _wait_aside(self, runner: Runner, index: int, pending: Pending, start: float) -> None:
        """Wait for a stalled call in a thread of its own."""

        def wait() -> None:
            try:
                self._wait_for(runner, index, pending, start, self._limits.timeout_s)
            except Exception as error:
                pending.fail("fault", f"the tool sandbox failed: {error}")
            finally:
                self._executor.stalled.release()

        threading.Thread(target=wait, name="tool-sandbox-stalled", daemon=True).start()

    def _wait_for(self, runner: Runner, index: int, pending: Pending, start: float, patience: float) -> bool:
        """Settle one call and end its runner; False if it is still running `patience` seconds after `start`."""
        report: Report | None = None
        ending = ""
        try:
            while report is None and not ending:
                reports = runner.receive(max(0.0, start + patience - time.monotonic()))
                if reports is not None:
                    report = next((item for item in reports if item.position == index), None)
                elif patience < self._limits.timeout_s:
                    return False
                else:
                    ending = "timeout"
        except RunnerDied:
            ending = "crash"
        waited = time.monotonic() - start
        if report is None:
            killed = runner.kill()
            ending = "timeout" if "timeout" in (ending, killed) else "crash"
            pending.fail(ending, self._limits.reason(ending), waited)
        else:
            runner.dismiss()
            if report.status == "ok":
                pending.succeed(report.output, report.seconds)
            elif report.status.startswith("wild"):
                pending.fail("crash", self._limits.reason("crash"), waited)
            else:
                pending.fail(report.status, report.output, report.seconds)
        return True


def _message(runner: Runner, mode: str, pendings: list[Pending]) -> tuple[bytes, list[Pending]]:
    """A request and the calls in it; calls whose arguments JSON cannot carry fail here."""
    try:
        return _encoded(runner, mode, pendings), pendings
    except (TypeError, ValueError, RecursionError):
        sound = [pending for pending in pendings if _carried(pending)]
        return _encoded(runner, mode, sound), sound


def _encoded(runner: Runner, mode: str, pendings: list[Pending]) -> bytes:
    new = {pending.code_id: pending.source for pending in pendings if pending.code_id not in runner.known}
    calls = [[pending.code_id, pending.call.name, pending.call.arguments] for pending in pendings]
    return runner.message({"mode": mode, "codes": list(new.items()), "calls": calls})


def _carried(pending: Pending) -> bool:
    try:
        Runner.encodable(pending.call.arguments)
    except (TypeError, ValueError, RecursionError) as error:
        pending.fail("error", f"the arguments are not JSON: {error}")
        return False
    return True
