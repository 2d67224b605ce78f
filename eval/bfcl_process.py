"""The other end of eval/bfcl_checker.py: starts it, asks it, and replaces it when a call hangs or takes too much memory.

Example:
    with BfclProcess() as bfcl:
        cases = bfcl.ask("cases", category="multi_turn_base")
        state = ToolState(bfcl, cases[0]["id"])
        output = state.call("ls", {"a": True})

A multi-turn case's state lives in that process. After it was replaced, each case's earlier calls are run again before its next
one, so that no other case notices.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from eval.games import GameFault

CALL_SECONDS = 10.0
OTHER_SECONDS = 120.0
ROOT = Path(__file__).resolve().parent.parent


class NoAnswer(Exception):
    """The process gave no answer in time or died of the request, and was replaced; or the request cannot be written as JSON."""


class BfclProcess:
    """One process, asked by one thread at a time; others wait."""

    def __init__(self, call_seconds: float = CALL_SECONDS) -> None:
        self.call_seconds = call_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="bfcl-")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._keys = itertools.count()

    def new_key(self) -> str:
        """A name for one case's state that no other state has had."""
        return f"state{next(self._keys)}"

    def ask(self, operation: str, **request: Any) -> Any:
        """The process's answer. Raises NoAnswer, or GameFault if the request itself was refused."""
        seconds = self.call_seconds if operation == "call" else OTHER_SECONDS
        try:
            line = json.dumps({"op": operation, **request}).encode() + b"\n"
        except RecursionError:
            raise NoAnswer("nested too deeply") from None
        with self._lock:
            answer = self._exchange(line, seconds)
        if "error" in answer:
            raise GameFault(f"bfcl-eval: {operation}: {answer['error']}")
        return answer["value"]

    def _exchange(self, line: bytes, seconds: float) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
            seconds += OTHER_SECONDS  # the package's import, under whatever load
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer, deadline = bytearray(), time.monotonic() + seconds
            while not answer.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    raise NoAnswer(f"no answer after {seconds:g} s")
                block = os.read(process.stdout.fileno(), 1 << 20)
                if not block:
                    raise NoAnswer("the process died")
                answer += block
        except (NoAnswer, BrokenPipeError):
            self._stop()
            raise NoAnswer("the tools' process gave no answer") from None
        return dict(json.loads(answer))

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "eval.bfcl_checker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={"PATH": os.environ.get("PATH", ""), "BFCL_PROJECT_ROOT": self._folder.name, "PYTHONHASHSEED": "0"},
        )

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what a broken pipe still buffers is lost with the process
                if pipe is not None:
                    pipe.close()
        self._process = None

    def close(self) -> None:
        self._stop()
        self._folder.cleanup()

    def __enter__(self) -> BfclProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ToolState:
    """The tools of one multi-turn case, on a state that its calls change."""

    def __init__(self, process: BfclProcess, case_id: str) -> None:
        self._process = process
        self._case_id = case_id
        self._key = process.new_key()
        self._journal: list[dict[str, Any]] = []

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """The tool's output, and whether the call came to its end. One that did not leaves the state as it was."""
        call = {"name": name, "arguments": arguments}
        request: dict[str, Any] = {"id": self._case_id, "key": self._key, "call": call}
        try:
            answer = self._process.ask("call", after=len(self._journal), **request)
            if answer.get("unknown"):
                answer = self._process.ask("call", journal=self._journal, **request)
        except NoAnswer:
            return "Error during execution: the call took too much time, memory or nesting", False
        self._journal.append(call)
        return str(answer["output"]), True

    def check(self, turns: Sequence[Sequence[Sequence[dict[str, Any]]]]) -> tuple[bool, str]:
        """The package's verdict on the whole case, and the kind of error; the state is dropped."""
        try:
            found = self._process.ask("check_multi", id=self._case_id, key=self._key, turns=turns)
        except NoAnswer:
            return False, "checker_timeout"
        return bool(found["valid"]), str(found["error_type"])

    def drop(self) -> None:
        """Forget the state; the case is not checked."""
        try:
            self._process.ask("forget", key=self._key)
        except NoAnswer:
            return  # the process was replaced, and the state went with it
