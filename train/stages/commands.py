"""Run the pipeline's commands with a log each, also in parallel, and record finished stages.

Each command is printed before it runs. Its output goes to the screen and to `<run>/logs/<name>.log`. A failed command
raises `CommandFailed` with the path and the last lines of its log. `<run>/stages.jsonl` has one row per finished stage;
its keys identify the stage.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import JsonlWriter, read_jsonl

LAST_LINES = 15
KEPT_BYTES = 1 << 16
"""Bytes at the end of a failed command's log that are searched for its last lines."""


class CommandFailed(Exception):
    """A command ended with a nonzero exit code. The message has the path and the last lines of its log."""


class CommandRunner:
    """Runs commands as process groups, so that an interrupted pipeline leaves no process behind. Thread-safe.

    `python`: runs the commands of this interpreter that add nothing to the environment (preloaded_python.py).
    """

    def __init__(self, logs: Path, *, dry_run: bool = False) -> None:
        self.python = sys.executable
        self._logs = logs
        self._dry_run = dry_run
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(
        self, log: str, command: Sequence[str], tag: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        """Print the command and run it. Raises CommandFailed.

        `tag` is put before each output line of a parallel command. `environment` is added to the current environment.
        """
        shown = ["python" if part == sys.executable else part for part in command]
        settings = [f"{name}={value}" for name, value in (environment or {}).items()]
        self._print(f"{tag}  $ {' '.join([*settings, shlex.join(shown)])}\n".encode())
        if self._dry_run:
            return
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{log}.log"
        with path.open("ab") as handle:
            process = self._start(command, environment)
            try:
                self._follow(process, handle, tag.encode())
                code = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
        if code:
            raise CommandFailed(
                f"exit code {code}: {shlex.join(shown)}\nThe log is {path}. Its last lines:\n{_end_of(path)}"
            )

    def stop(self) -> None:
        """Terminate all running commands and their child processes. Later commands are refused."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def _start(self, command: Sequence[str], environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise CommandFailed("not started: the pipeline was stopped")
            preloaded = not environment and command[0] == sys.executable
            process = subprocess.Popen(
                [self.python, *command[1:]] if preloaded else command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )
            self._running.add(process)
        return process

    def _follow(self, process: subprocess.Popen[bytes], log: Any, tag: bytes) -> None:
        """Copy the output to the log and to the screen: chunk by chunk, or line by line if there is a tag."""
        assert process.stdout is not None
        rest = b""
        while chunk := process.stdout.read1(1 << 16):  # type: ignore[attr-defined]
            log.write(chunk)
            log.flush()
            if not tag:
                self._print(chunk)
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:  # a progress bar writes many states in one line; show the last
                self._print(tag + line.rpartition(b"\r")[2] + b"\n")
        if rest:
            self._print(tag + rest.rpartition(b"\r")[2] + b"\n")

    def _print(self, data: bytes) -> None:
        with self._lock:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _end_of(path: Path) -> str:
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - KEPT_BYTES))
        text = handle.read().decode("utf-8", "replace")
    lines = [line.rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join([line for line in lines if line.strip()][-LAST_LINES:])


class StageLog:
    """`stages.jsonl`: the finished stages of a run, and the seconds that each took."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        if path.is_file():
            JsonlWriter(path).close()  # drops an incomplete last line
            self._rows = [row for _, row in read_jsonl(path)]

    def finished(self, key: Mapping[str, Any]) -> bool:
        """Whether a row has exactly these keys and values, ignoring its times."""
        return any(_key_of(row) == dict(key) for row in self._rows)

    def up_to_date(self, key: Mapping[str, Any], later: Collection[str]) -> bool:
        """Whether a row with these keys follows every row of the stages that are not in `later`."""
        needed = [place for place, row in enumerate(self._rows) if row["stage"] not in later]
        made = [place for place, row in enumerate(self._rows) if _key_of(row) == dict(key)]
        return bool(made) and made[-1] > max(needed, default=-1)

    def write(self, key: Mapping[str, Any], started: float) -> int:
        """Record a finished stage that began at `started` (time.monotonic). Return its duration in seconds."""
        seconds = round(time.monotonic() - started)
        row = {**key, "seconds": seconds, "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        with JsonlWriter(self._path) as rows:
            rows.write(row)
        self._rows.append(row)
        return seconds


def _key_of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("seconds", "finished")}
