"""The parent's side of the sandbox processes: start a zygote, have it fork runners, talk to them, kill them.

Nothing that arrives from a runner is trusted: frames are bounded in size, parsed as JSON (never unpickled), and checked
field by field against what was asked.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

PROGRESS = struct.Struct("<qd")
CONTROL = struct.Struct("<cq")
LENGTH = struct.Struct("<I")
START_SECONDS = 60.0
"""How long a zygote may take to come up on a loaded machine."""
RUNNER_STATUSES = frozenset({"ok", "error", "memory", "output_limit", "wild", "wild_call"})
"""What a runner may report; everything else is decided by the parent."""
GATHERED_BYTES = 1 << 19
"""An honest runner sends at most this beyond one output of full length in a frame."""
LONGEST_ESCAPE = 6
"""Bytes that JSON takes at most for a byte of output."""
REASON_BYTES = 100
EXIT_DIRTY = 86
"""As in tool_worker.py: a pool runner found its interpreter changed."""
WORKER = Path(__file__).with_name("tool_worker.py")


class SandboxFault(Exception):
    """The sandbox itself broke: no tool and no model is to blame."""


class RunnerDied(Exception):
    """The runner closed its channel or broke the protocol."""


class Report(NamedTuple):
    """What a runner says about one call: position in the request, status, text, seconds."""

    position: int
    status: str
    output: str
    seconds: float


class Zygote:
    """A process that forks runners. Started from a thread that lives as long as it, since the kernel's parent-death
    signal follows the starting *thread*."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._failure = ""
        self._control: socket.socket
        self.pid = -1
        self.hello: dict[str, Any] = {}
        self.alive = False
        self._thread = threading.Thread(target=self._keep, name="tool-sandbox-zygote", daemon=True)
        self._thread.start()
        self._ready.wait()
        if not self.alive:
            raise SandboxFault(f"the tool sandbox did not start: {self._failure}")

    def _keep(self) -> None:
        """Thread body: start the process, hold it until `close`."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-s", "-S", "-B", "-P", str(WORKER)]
        environment = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        try:
            with theirs:
                settings = json.dumps({**self._settings, "control": theirs.fileno(), "parent": os.getpid()})
                process = subprocess.Popen(
                    [*command, settings],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            ours.settimeout(START_SECONDS)
            size = LENGTH.unpack(self._receive(ours, LENGTH.size))[0]
            self.hello = json.loads(self._receive(ours, size))
            if "failure" in self.hello:
                raise SandboxFault(self.hello["failure"])
        except (OSError, ValueError, SandboxFault, struct.error) as error:
            self._failure = str(error) or type(error).__name__
            ours.close()
            self._ready.set()
            return
        self.pid = process.pid
        self._control = ours
        self.alive = True
        self._ready.set()
        self._stop.wait()
        with self._lock:
            self.alive = False
            ours.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @staticmethod
    def _receive(channel: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = channel.recv(size - len(data))
            if not part:
                raise SandboxFault("the worker process ended during its start")
            data += part
        return data

    def _ask(self, operation: bytes, number: int, descriptors: list[int]) -> int:
        with self._lock:
            if not self.alive:
                raise SandboxFault("the sandbox is closed")
            try:
                socket.send_fds(self._control, [CONTROL.pack(operation, number)], descriptors)
                return int(CONTROL.unpack(self._receive(self._control, CONTROL.size))[1])
            except (OSError, SandboxFault) as error:
                self.alive = False
                self._stop.set()
                raise SandboxFault(f"the sandbox's zygote is gone ({error})") from None

    def fork(self, output_bytes: int, cpu_seconds: int = 0) -> Runner:
        """A fresh runner that has seen no tool code. `cpu_seconds`: limit of the whole process, 0 for none beyond the
        limit per call. Raises SandboxFault."""
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else _memory_file() as page:
            os.ftruncate(page.fileno(), mmap.PAGESIZE)
            progress = mmap.mmap(page.fileno(), mmap.PAGESIZE)
            try:
                pid = self._ask(b"F", cpu_seconds, [theirs.fileno(), page.fileno()])
            except SandboxFault:
                ours.close()
                raise
        if pid < 0:
            ours.close()
            raise SandboxFault("the sandbox could not fork a runner")
        return Runner(self, pid, ours, progress, output_bytes)

    def kill(self, pid: int) -> int:
        """Kill and bury a runner; its wait status (of its own death, if it was dead already)."""
        return self._ask(b"K", pid, [])

    def dismiss(self, pid: int) -> None:
        """Kill a runner without waiting for its end."""
        with self._lock, contextlib.suppress(OSError):
            if self.alive:
                self._control.sendall(CONTROL.pack(b"D", pid))

    def close(self) -> None:
        """End the process; its runners go with it."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(10)


def _memory_file() -> Any:
    return os.fdopen(os.memfd_create("progress"), "r+b")


class Runner:
    """One forked process that executes calls."""

    def __init__(
        self, zygote: Zygote, pid: int, channel: socket.socket, progress: mmap.mmap, output_bytes: int
    ) -> None:
        self.pid = pid
        self._zygote = zygote
        self._channel = channel
        self._progress = progress
        self._output_bytes = output_bytes
        self._buffer = bytearray()
        self._nonce = secrets.token_hex(8)
        self._incoming = select.poll()
        self._incoming.register(channel, select.POLLIN)
        self._both = select.poll()
        self._both.register(channel, select.POLLIN | select.POLLOUT)
        channel.setblocking(False)
        PROGRESS.pack_into(progress, 0, -1, 0.0)
        self.next_index = 0
        """Index under which the next call will be reported."""
        self.last_heard = time.monotonic()
        """When the last message went out or came in (monotonic clock)."""
        self.known: set[int] = set()
        """Ids of the sources that this runner already holds."""

    def message(self, request: dict[str, Any]) -> bytes:
        """A request as it goes over the channel. `request["calls"]` is a list of `[code id, name, arguments]`,
        `request["codes"]` of `[code id, source]` that this runner has not seen yet.

        Raises ValueError, TypeError or RecursionError if the arguments of a call cannot be written as JSON.
        """
        body = json.dumps({**request, "nonce": self._nonce, "first": self.next_index}).encode("ascii")
        return LENGTH.pack(len(body)) + body

    def send(self, message: bytes, calls: int, timeout_s: float) -> None:
        """Send a message with so many calls; what arrives meanwhile is kept. Raises RunnerDied."""
        self.next_index += calls
        self.last_heard = time.monotonic()
        deadline = self.last_heard + timeout_s
        view = memoryview(message)
        while view:
            try:
                view = view[self._channel.send(view) :]
            except BlockingIOError:
                self._both.poll(max(0.0, deadline - time.monotonic()) * 1000.0)
                self._read()
                if time.monotonic() > deadline:
                    raise RunnerDied("it does not read") from None
            except OSError as error:
                raise RunnerDied(str(error)) from None

    @staticmethod
    def encodable(arguments: Any) -> None:
        """Raise what `send` would raise for these arguments."""
        json.dumps(arguments)

    def receive(self, timeout_s: float) -> list[Report] | None:
        """The next frame's reports, or None if none is complete after `timeout_s`. Raises RunnerDied."""
        deadline = time.monotonic() + timeout_s
        while True:
            frame = self._take_frame()
            if frame is not None:
                self.last_heard = time.monotonic()
                return self._checked(frame)
            wait = deadline - time.monotonic()
            if not self._incoming.poll(max(0.0, wait * 1000.0)):
                return None
            self._read()

    def _read(self) -> None:
        try:
            part = self._channel.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            raise RunnerDied(str(error)) from None
        if not part:
            raise RunnerDied("the process ended")
        self._buffer += part

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < LENGTH.size:
            return None
        size = LENGTH.unpack_from(self._buffer)[0]
        if size > (self._output_bytes + GATHERED_BYTES) * LONGEST_ESCAPE:
            raise RunnerDied(f"a frame of {size} bytes")
        end = LENGTH.size + size
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[LENGTH.size : end])
        del self._buffer[:end]
        return frame

    def _checked(self, frame: bytes) -> list[Report]:
        try:
            nonce, rows = json.loads(frame)
            if nonce != self._nonce:
                raise ValueError("wrong nonce")
            reports = [Report(*row) for row in rows]
            for position, status, output, seconds in reports:
                if (
                    type(position) is not int
                    or status not in RUNNER_STATUSES
                    or type(output) is not str
                    or type(seconds) is not float
                ):
                    raise ValueError("malformed report")
                if len(output) > self._output_bytes + REASON_BYTES:
                    raise ValueError("an output beyond the limit")
        except (ValueError, TypeError, RecursionError) as error:
            raise RunnerDied(f"broken frame: {error}") from None
        return reports

    def progress(self) -> tuple[int, float]:
        """Index of the call that is running, or was last (-1: none yet), and when it began (monotonic clock)."""
        index, start = PROGRESS.unpack_from(self._progress)
        return index, start

    def dismiss(self) -> None:
        """End the process, whatever it does; nobody waits for it."""
        self._zygote.dismiss(self.pid)
        self._close()

    def kill(self) -> str:
        """End the process. Returns how it had ended: "timeout" (CPU limit), "crash", or "dirty"."""
        try:
            status = self._zygote.kill(self.pid)
        finally:
            self._close()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU):
            return "timeout"
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXIT_DIRTY:
            return "dirty"
        return "crash"

    def _close(self) -> None:
        self._channel.close()
        with contextlib.suppress(BufferError):
            self._progress.close()
