"""A worker process that answers JSON lines for many threads, and is killed and replaced when it hangs or dies.

The worker side (`serve`) writes a line when it is ready, reads `{"op": ..., ...}` from standard input, and writes one
line per request: `{"value": ...}` or `{"error": ...}`. Unlike signals and threads, this kind of time limit works in
every thread and stops code that holds the interpreter.

Example:
    with LineProcess("eval.graders.math_grader") as grader:
        equal = grader.request({"op": "same", "gold": "1/2", "answer": "0.5"}, seconds=10)["value"]
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_SECONDS = 120.0
"""Time limit for the imports of the process, generous for a loaded machine."""
ROOT = Path(__file__).resolve().parents[2]


class NoAnswer(Exception):
    """The process gave no answer.

    It was too slow or died, and was replaced; or the request cannot be written as JSON.
    """


class LineProcess:
    """One process, `python -m MODULE`, used by one thread at a time; others wait. It starts with the first request.

    `folder_variable` names an environment variable that receives the path of a scratch folder. `python` is another
    interpreter, for a module that needs packages of its own; `environ` are more variables of the process.
    """

    def __init__(
        self,
        module: str,
        folder_variable: str = "SCRATCH_FOLDER",
        *,
        python: str = sys.executable,
        environ: Mapping[str, str] | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._module, self._variable = module, folder_variable
        self._python, self._environ, self._start_seconds = python, dict(environ or {}), start_seconds
        self._folder = tempfile.TemporaryDirectory(prefix=f"{module}-")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def request(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The process's answer, an object. Raises NoAnswer."""
        try:
            line = json.dumps(message).encode() + b"\n"
        except RecursionError:
            raise NoAnswer("the request is nested too deeply") from None
        with self._lock:
            return self._exchange(line, seconds)

    def _exchange(self, line: bytes, seconds: float) -> dict[str, Any]:
        try:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._process = self._start()
                # wait until it is ready, so that imports do not use the request's time
                self._read_line(self._process, self._start_seconds)
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answer = self._read_line(self._process, seconds)
        except (NoAnswer, BrokenPipeError) as error:
            self._stop()
            raise NoAnswer(f"the process {self._module} gave no answer ({error})") from None
        return dict(json.loads(answer))

    def _read_line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        assert process.stdout is not None
        answer, deadline = bytearray(), time.monotonic() + seconds
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise NoAnswer(f"no output after {seconds:g} s")
            block = os.read(process.stdout.fileno(), 1 << 20)
            if not block:
                raise NoAnswer("the process died")
            answer += block
        return bytes(answer)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._python, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={
                "PATH": os.environ.get("PATH", ""),
                self._variable: self._folder.name,
                "PYTHONHASHSEED": "0",
                **self._environ,
            },
        )

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # data buffered in a broken pipe are lost with the process
                if pipe is not None:
                    pipe.close()
        self._process = None

    def close(self) -> None:
        self._stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(answer: Callable[[Mapping[str, Any]], Any], memory_bytes: int) -> None:
    """The worker side: answer requests until standard input ends. Prints inside `answer` go to standard error."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        try:
            found = {"value": answer(json.loads(line))}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {re.sub(r'[^ -~]', ' ', str(error))[:300]}"}
        answers.write(json.dumps(found, default=str) + "\n")
        answers.flush()
