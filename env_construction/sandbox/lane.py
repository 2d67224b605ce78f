"""A lane executes calls: proven code in one pool runner, every other call in a process of its own.

One lane (a thread) per worker, one event loop per lane. The pool runner gets the next message while it still works on
the last. A call is run again in isolation if the pool runner says so, and if that runner dies, stalls, or finds itself
changed before it has reported the call. Isolated calls run one or two at a time; those that take long move aside, so
that a slow tool holds up nobody else. Time limits apply to isolated calls only, since no call stays in a pool runner
for longer.
"""

from __future__ import annotations

import json
import secrets
import select
import threading
import time
from collections import deque

from env_construction.sandbox.execution import KNOWN_CODES, Executor
from env_construction.sandbox.processes import START_SECONDS, Process, RunnerDied, SandboxFault, json_frame
from env_construction.sandbox.protocol import ISOLATED, POOL, frame
from env_construction.sandbox.work import Pending, Work

STALL_SECONDS = 0.5
"""A pool runner that has not reported for so long is killed."""
MOST_OUTSTANDING = 1024
"""Calls that a lane sends ahead to its runner, at most; a few milliseconds of work, so that the runner never waits."""
ISOLATED_AFTER_STALL = 64
"""With more unreported calls after a stall, a new runner reports each call at once, so that the next stall names
one.
"""
SHORT_SECONDS = 0.05
SHORT_CALLS, MOST_CALLS = 2, 10
"""Isolated calls side by side: those younger than SHORT_SECONDS, and all."""
TICK_SECONDS = 0.005
"""How often a lane whose calls are all slow looks for new work."""
POOL_STATUSES = frozenset({"ok", "error", "unproven", "retry"})
ISOLATED_STATUSES = frozenset({"ok", "error", "memory", "output_limit"})


class IsolatedCall:
    """A call in a process of its own."""

    def __init__(self, pending: Pending, process: Process) -> None:
        self.pending = pending
        self.process = process
        self.frames: list[bytes] = []
        self.began = 0.0
        """When its process was heard first: it had read everything and was about to run tool code."""
        self.killed = False
        self.timed_out = False
        """Killed before its result was there."""


class Lane:
    """One worker's share of the sandbox. `run` is the body of a thread."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._limits = executor.limits
        self._stall = min(STALL_SECONDS, executor.limits.timeout_s)
        self._pool: Process | None = None
        self._nonces: deque[tuple[str, int]] = deque()
        """Nonce and end index of each message that the pool runner has not answered fully."""
        self._careful = False
        self._active: list[Work] = []
        self._ready: list[Pending] = []
        """Calls to send to the pool runner."""
        self._outstanding: dict[int, Pending] = {}
        """Calls that the pool runner has, by the index under which it reports them, in order."""
        self._waiting: deque[Pending] = deque()
        """Calls to isolate."""
        self._calls: list[IsolatedCall] = []
        self._faults = 0

    def run(self) -> None:
        """Take work and have it executed until the sandbox is closed."""
        going = True
        while going:
            try:
                going = self._step()
            except Exception as error:
                self._recover(str(error) or type(error).__name__)
        self._drop_processes()

    def _step(self) -> bool:
        """One round: take, send, listen. False at the end."""
        now = time.monotonic()
        short = sum(now - call.process.started < SHORT_SECONDS for call in self._calls)
        idle = not (self._ready or self._outstanding or self._waiting or short)
        works = self._executor.take(idle, idle and not self._calls) if self._room() else []
        if works is None:
            if idle and not self._calls:
                return False
            if self._executor.closed:
                raise SandboxFault("the sandbox is closed")
        elif works:
            self._faults = 0 if idle else self._faults
            self._active = [work for work in self._active if work.left] + works
            for work in works:
                self._sort(work)
        if self._ready:
            self._send_ready()
        while self._waiting and short < SHORT_CALLS and len(self._calls) < MOST_CALLS:
            self._isolate(self._waiting.popleft())
            short += 1
        self._listen()
        return True

    def _room(self) -> bool:
        return len(self._outstanding) < MOST_OUTSTANDING and not self._ready

    def _recover(self, reason: str) -> None:
        """The sandbox broke under this lane. What is unfinished is tried once more, then comes back as a fault."""
        self._faults += 1
        self._drop_processes()
        self._ready = []
        self._waiting.clear()
        works, self._active = [work for work in self._active if work.left], []
        for work in works:
            if self._faults > 1 or self._executor.closed:
                work.fault(reason)
            else:
                self._active.append(work)
                self._sort(work)

    def _drop_processes(self) -> None:
        for call in self._calls:
            call.process.close()
        self._calls = []
        self._drop_pool()
        self._outstanding = {}

    def _drop_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._pool = None
        self._nonces.clear()

    def _sort(self, work: Work) -> None:
        """Unfinished calls of a job go where they can be executed."""
        codes, results, executor = work.job.codes, work.results, self._executor
        for position, call in enumerate(work.job.calls):
            if results[position] is not None:
                continue
            name = call.name
            source = codes.get(name) if isinstance(name, str) else None
            if not isinstance(source, str):
                Pending(work, position, call, -1, "").fail("unknown_tool", repr(name))
                continue
            code_id = executor.code_id(source)
            pending = Pending(work, position, call, code_id, source)
            (self._waiting if code_id in executor.isolated else self._ready).append(pending)

    def _listen(self) -> None:
        """Wait until a process says something, or a deadline is near."""
        poller = select.poll()
        processes = [call.process for call in self._calls]
        now = time.monotonic()
        wait = TICK_SECONDS if self._calls else self._stall
        if self._pool is not None and self._outstanding:
            processes.append(self._pool)
            wait = min(wait, self._pool.heard + self._stall - now)
        if not processes:
            return
        for process in processes:
            poller.register(process, process.events)
        ready = {descriptor for descriptor, _ in poller.poll(max(0.0, wait) * 1000)}
        pool = self._pool
        if pool is not None and self._outstanding and pool.fileno() in ready:
            self._hear_pool(pool)
        elif pool is not None and self._outstanding and time.monotonic() - pool.heard >= self._stall:
            self._retry()
        for call in list(self._calls):
            self._hear(call, call.process.fileno() in ready)

    # -- the pool runner -------------------------------------------------------------------------------------------

    def _send_ready(self) -> None:
        if self._pool is not None and len(self._pool.known) > KNOWN_CODES:
            if self._outstanding:
                return
            self._drop_pool()
        if self._pool is None:
            self._pool = self._executor.fork(POOL)
        pool = self._pool
        nonce = secrets.token_hex(8)
        carried = self._ready
        self._ready = []
        try:
            message = self._message(pool, nonce, carried)
        except (TypeError, ValueError, RecursionError):
            carried = [pending for pending in carried if _carried(pending)]
            message = self._message(pool, nonce, carried)
        if not carried:
            return
        if not self._outstanding:
            pool.heard = time.monotonic()
        self._outstanding.update(enumerate(carried, pool.next_index))
        pool.next_index += len(carried)
        self._nonces.append((nonce, pool.next_index))
        pool.known.update(pending.code_id for pending in carried)
        pool.send(message)

    def _message(self, pool: Process, nonce: str, pendings: list[Pending]) -> bytes:
        new = {pending.code_id: pending.source for pending in pendings if pending.code_id not in pool.known}
        calls = [[pending.code_id, pending.call.name, pending.call.arguments] for pending in pendings]
        return json_frame(
            {
                "nonce": nonce,
                "first": pool.next_index,
                "careful": self._careful,
                "codes": list(new.items()),
                "calls": calls,
            }
        )

    def _hear_pool(self, pool: Process) -> None:
        try:
            for body in pool.pump():
                self._settle(self._rows(pool, body))
        except RunnerDied:
            pool.kill()
            self._retry()
            return
        if pool.ended or pool.broken:
            pool.ending(0.0)
            self._retry()
        elif not self._outstanding:
            self._careful = False

    def _rows(self, pool: Process, body: bytes) -> list[tuple[int, str, str, float]]:
        """A checked report: consecutive calls, from the first that is outstanding. Raises RunnerDied."""
        try:
            nonce, rows = json.loads(body)
            if len(rows) > len(self._outstanding):
                raise ValueError("a report of calls that were not made")
            age, longest = time.monotonic() - pool.started, self._limits.output_bytes
            for (index, status, output, seconds), expected in zip(rows, self._outstanding, strict=False):
                if (
                    index != expected
                    or status not in POOL_STATUSES
                    or type(output) is not str
                    or type(seconds) is not float
                    or not 0.0 <= seconds <= age
                    or len(output) > longest
                ):
                    raise ValueError("malformed report")
            while rows and self._nonces and self._nonces[0][1] <= rows[-1][0]:
                self._nonces.popleft()
            if nonce != self._nonces[0][0]:
                raise ValueError("wrong nonce")
        except (ValueError, TypeError, RecursionError, IndexError) as error:
            raise RunnerDied(f"broken frame: {error}") from None
        return rows  # type: ignore[no-any-return]

    def _settle(self, rows: list[tuple[int, str, str, float]]) -> None:
        settled = self._outstanding.pop
        for index, status, output, seconds in rows:
            pending = settled(index)
            if status == "ok":
                pending.succeed(output, seconds)
            elif status == "error":
                pending.fail("error", output, seconds)
            else:
                if status == "unproven":
                    self._executor.isolated.add(pending.code_id)
                self._waiting.append(pending)

    def _retry(self) -> None:
        """The pool runner is lost, and with it the results that it had not reported: those calls run again."""
        unreported = list(self._outstanding.values())
        self._outstanding = {}
        self._drop_pool()
        if unreported and (self._careful or len(unreported) == 1):  # this call is why
            self._executor.isolated.add(unreported[0].code_id)
            self._waiting.append(unreported.pop(0))
            self._ready = unreported + self._ready
        elif len(unreported) <= ISOLATED_AFTER_STALL:
            self._waiting.extend(unreported)
        else:
            self._careful = True
            self._ready = unreported + self._ready

    # -- isolated calls --------------------------------------------------------------------------------------------

    def _isolate(self, pending: Pending) -> None:
        compiled = self._executor.compiled.get(pending.code_id)
        request = {"name": pending.call.name, "arguments": pending.call.arguments, "compiled": compiled is not None}
        try:
            message = json_frame(request) + frame(compiled or pending.source.encode("utf-8", "surrogatepass"))
        except (TypeError, ValueError, RecursionError) as error:
            pending.fail("error", f"the arguments are not JSON: {error}")
            return
        process = self._executor.fork(ISOLATED)
        process.send(message)
        self._calls.append(IsolatedCall(pending, process))

    def _hear(self, call: IsolatedCall, ready: bool) -> None:
        process = call.process
        if ready:
            call.frames += process.pump()
            if call.frames and not call.began:
                call.began = time.monotonic()
                if call.frames[0]:
                    self._executor.compiled.setdefault(call.pending.code_id, call.frames[0])
        if process.ended:
            self._calls.remove(call)
            self._finish(call)
            return
        now = time.monotonic()
        limit = self._limits.timeout_s
        late = now - call.began > limit if call.began else now - process.started > START_SECONDS + limit
        if late and not call.killed:
            call.killed = True
            call.timed_out = len(call.frames) < 2
            process.kill()

    def _finish(self, call: IsolatedCall) -> None:
        """Settle a call whose process is dead."""
        pending = call.pending
        seconds = time.monotonic() - (call.began or call.process.started)
        if not call.process.broken and not call.timed_out and len(call.frames) == 2:
            try:
                status, output, inside = json.loads(call.frames[1])
                if (
                    status in ISOLATED_STATUSES
                    and type(output) is str
                    and len(output) <= self._limits.output_bytes + 100
                    and type(inside) is float
                ):
                    seconds = min(max(0.0, inside), time.monotonic() - call.process.started)
                    if status == "ok":
                        pending.succeed(output, seconds)
                    else:
                        pending.fail(status, output, seconds)
                    return
            except (ValueError, TypeError, RecursionError):
                pass  # it broke the protocol: it counts as a crash
        ending = "timeout" if call.timed_out else call.process.ending(self._limits.cpu_s)
        if call.timed_out and not call.began:
            raise SandboxFault("a process did not start in time")
        ending = "timeout" if ending == "timeout" else "crash"
        pending.fail(ending, self._limits.reason(ending), seconds)


def _carried(pending: Pending) -> bool:
    try:
        json.dumps(pending.call.arguments)
    except (TypeError, ValueError, RecursionError) as error:
        pending.fail("error", f"the arguments are not JSON: {error}")
        return False
    return True


def start_lane(executor: Executor, number: int) -> threading.Thread:
    thread = threading.Thread(target=Lane(executor).run, name=f"tool-sandbox-{number}", daemon=True)
    thread.start()
    return thread
