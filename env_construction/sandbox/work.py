"""What passes through the sandbox: calls, results, jobs, and the bookkeeping of unfinished ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STATUSES = ("ok", "error", "unknown_tool", "timeout", "memory", "output_limit", "crash", "fault")
"""error: the tool raised, or does not accept these arguments. fault: the sandbox itself failed.

The tool or the model causes all others.
"""


@dataclass(frozen=True)
class ToolCall:
    """One call of a model turn. `arguments` is what the model wrote; anything except an object makes the call fail."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ToolResult:
    """The result of a call. `output`: the text that the model sees; `status`: one of STATUSES; `seconds`: wall time."""

    name: str
    status: str
    output: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class SandboxJob:
    """The calls of one model response and the sources of its environment's tools, by name."""

    codes: Mapping[str, str]
    calls: Sequence[ToolCall]


def failed(name: str, status: str, reason: str, seconds: float = 0.0) -> ToolResult:
    """A failed call's result, in the published wording (paper/README.md, Reward)."""
    return ToolResult(name, status, f"an error occured when call {name}: {reason}", seconds)


class Batch:
    """Jobs that were submitted together. `on_done` is called once, when all of them are done."""

    __slots__ = ("left", "lock", "on_done")

    def __init__(self, size: int, on_done: Callable[[], None]) -> None:
        self.left = size
        self.lock = threading.Lock()
        self.on_done = on_done


class Work:
    """An unfinished job: results by position."""

    __slots__ = ("batch", "job", "left", "results")

    def __init__(self, job: SandboxJob, batch: Batch) -> None:
        self.job = job
        self.batch = batch
        self.left = len(job.calls)
        self.results: list[Any] = [None] * self.left

    def put(self, position: int, result: ToolResult) -> None:
        """Settle a call; only the first result counts. Thread-safe."""
        batch = self.batch
        with batch.lock:
            if self.results[position] is not None:
                return
            self.results[position] = result
            self.left -= 1
            if self.left:
                return
            batch.left -= 1
            if batch.left:
                return
        batch.on_done()

    def fault(self, reason: str) -> None:
        """Settle all open calls as faults, because the sandbox itself failed."""
        for position, call in enumerate(self.job.calls):
            self.put(position, failed(call.name, "fault", f"the tool sandbox failed: {reason}"))


class Pending:
    """One unfinished call."""

    __slots__ = ("call", "code_id", "position", "source", "work")

    def __init__(self, work: Work, position: int, call: ToolCall, code_id: int, source: str) -> None:
        self.work = work
        self.position = position
        self.call = call
        self.code_id = code_id
        self.source = source

    def succeed(self, output: str, seconds: float) -> None:
        self.work.put(self.position, ToolResult(self.call.name, "ok", output, seconds))

    def fail(self, status: str, reason: str, seconds: float = 0.0) -> None:
        self.work.put(self.position, failed(self.call.name, status, reason, seconds))
