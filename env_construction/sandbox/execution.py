"""What the lanes of a sandbox share: limits, the zygote, the queue, and which code is to be isolated."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from dataclasses import dataclass

from env_construction.sandbox.processes import KILL_SLACK_SECONDS, Process, SandboxFault, Zygote
from env_construction.sandbox.protocol import ISOLATED
from env_construction.sandbox.work import Work

BATCH = 128
"""Responses sent to a runner in one message, at most."""
KNOWN_CODES = 4096
"""Sources a runner may hold before it is replaced."""
START_ATTEMPTS = 3
"""How often a zygote that has died is started again, one attempt after the other, before it is a fault."""


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


@dataclass(frozen=True)
class Surroundings:
    """What a tool's result must not depend on: the seed of Python's hashes (the order of sets), and the date (seconds
    from now)."""

    hash_seed: int = 0
    clock_shift_s: float = 0.0


USUAL = Surroundings()
OTHER_SURROUNDINGS = (Surroundings(1, 466.4 * 86400), Surroundings(2, 3333.6 * 86400))
"""Other years, months, days of the month and of the week. Two of them, since two names in a set have only two
orders."""


class Executor:
    """Shared state of `workers` lanes. Thread-safe. `hello` tells which layers of isolation are active."""

    def __init__(self, workers: int, limits: Limits, surroundings: Surroundings = USUAL) -> None:
        self.workers = workers
        self.limits = limits
        self.isolated: set[int] = set()
        """Ids of sources whose calls each get a process of their own."""
        self.compiled: dict[int, bytes] = {}
        """Their compiled code, as a process sent it before it ran any; passed on to the next, never looked into."""
        self.closed = False
        self._settings = {
            "cpu_s": limits.cpu_s,
            "memory_mb": limits.memory_mb,
            "output_bytes": limits.output_bytes,
            "hash_seed": surroundings.hash_seed,
            "clock_shift_s": surroundings.clock_shift_s,
        }
        self._lock = threading.Lock()
        self._code_ids: dict[str, int] = {}
        self._next_code = 0
        self._groups: deque[list[Work]] = deque()
        self._singles: deque[list[Work]] = deque()
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """One True for each element of the two queues, put after it; False at the end."""
        self._zygote = Zygote(self._settings)
        self.hello = self._zygote.hello

    def submit(self, works: list[Work]) -> None:
        """Queue jobs that have at least one call each, at most BATCH."""
        (self._groups if len(works) > 1 else self._singles).append(works)
        self._tokens.put(True)

    def take(self, idle: bool, wait: bool) -> list[Work] | None:
        """What a lane executes next. None at the end.

        An idle lane takes its share of the responses that were handed in one by one, and waits for work if `wait`. A
        busy lane takes only a group more, if there are enough for the others too.
        """
        if not idle and len(self._groups) < self.workers:
            return []
        try:
            going = self._tokens.get(block=wait)
        except queue.Empty:
            return []
        if not going:
            self._tokens.put(False)  # for the other lanes
            return None
        works = self._pop()
        with contextlib.suppress(queue.Empty):
            for _ in range(len(self._singles) // self.workers):
                if len(works) >= BATCH:
                    break
                if not self._tokens.get_nowait():
                    self._tokens.put(False)
                    break
                works = works + self._pop()
        return works

    def _pop(self) -> list[Work]:
        """An element, for a token that was taken: there are never fewer elements than tokens."""
        while True:
            for waiting in (self._groups, self._singles):
                with contextlib.suppress(IndexError):
                    return waiting.popleft()

    def fork(self, kind: bytes, cpu_seconds: float = 0.0) -> Process:
        """A fresh process; a zygote that has died is replaced. Raises SandboxFault if that fails START_ATTEMPTS
        times.
        """
        isolated = kind == ISOLATED
        cpu_seconds = self.limits.cpu_s if isolated else cpu_seconds
        wall_seconds = self.limits.timeout_s + KILL_SLACK_SECONDS if isolated else 0.0
        for attempt in range(START_ATTEMPTS):
            zygote = self._zygote
            try:
                if zygote.alive():
                    return zygote.fork(kind, self.limits.output_bytes, cpu_seconds, wall_seconds)
            except SandboxFault:
                if attempt == START_ATTEMPTS - 1:
                    raise
            with self._lock:
                if self.closed:
                    raise SandboxFault("the sandbox is closed")
                if self._zygote is zygote:
                    zygote.close()
                    self._zygote = self._restarted()
        raise SandboxFault("the sandbox's zygote dies as soon as it has started")

    def _restarted(self) -> Zygote:
        for attempt in range(START_ATTEMPTS):
            try:
                return Zygote(self._settings)
            except SandboxFault:
                if attempt == START_ATTEMPTS - 1:
                    raise
        raise AssertionError

    def code_id(self, source: str) -> int:
        """The number under which runners know a source."""
        code_id = self._code_ids.get(source)
        if code_id is None:
            with self._lock:
                if len(self._code_ids) > 4 * KNOWN_CODES:
                    self._code_ids = {}
                    self.isolated = set()
                    self.compiled = {}
                code_id = self._code_ids.setdefault(source, self._next_code)
                self._next_code += 1
        return code_id

    def close(self, lanes: list[threading.Thread]) -> None:
        """End the processes and `lanes`; what is still waiting comes back as a fault."""
        self.closed = True
        self._tokens.put(False)
        self._zygote.close()
        for lane in lanes:
            lane.join(10)
        for works in (*self._groups, *self._singles):
            for work in works:
                work.fault("the sandbox is closed")
