"""The parent's side of the sandbox processes: start a zygote, have it fork, talk to what it forked, kill it.

Nothing that arrives from a process is trusted: frames are bounded in size, parsed as JSON (never unpickled), and
checked field by field. A frame belongs to the process at whose channel it arrives, never to one that it names.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from env_construction.sandbox.protocol import (
    CONTROL,
    EXIT_DIRTY,
    FORK,
    FORK_FAILED,
    ISOLATED,
    KILL,
    LENGTH,
    TRAILER,
    TRAILER_MARK,
    frame,
)

START_SECONDS = 60.0
"""How long a process may take to come up on a loaded machine."""
KILL_SLACK_SECONDS = START_SECONDS + 5.0
"""The zygote kills an isolated process this long after the time limit by itself, should the parent not have done it."""
GATHERED_BYTES = 1 << 19
"""An honest process sends at most this beyond one output of full length in a frame."""
LONGEST_ESCAPE = 6
"""Bytes that JSON takes at most for a byte of output."""
REASON_BYTES = 100
WORKER = Path(__file__).with_name("tool_worker.py")


class SandboxFault(Exception):
    """The sandbox itself broke: no tool and no model is to blame."""


class RunnerDied(Exception):
    """A process closed its channel or broke the protocol."""


class Zygote:
    """A process that forks others. Started from a thread that lives as long as it, since the kernel's parent-death
    signal follows the starting *thread*. Raises SandboxFault, with the worker's own last words, if it does not
    start.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._failure = ""
        self._tokens = itertools.count()
        self._control: socket.socket
        self.hello: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._keep, name="tool-sandbox-zygote", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure:
            raise SandboxFault(f"the tool sandbox did not start: {self._failure}")

    def _keep(self) -> None:
        """Thread body: start the process, hold it until `close`."""
        process: subprocess.Popen[bytes] | None = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-s", "-S", "-B", "-P", str(WORKER)]
        seed = str(self._settings["hash_seed"])
        environment = {"PYTHONHASHSEED": seed, "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        try:
            with theirs:
                settings = json.dumps({**self._settings, "control": theirs.fileno(), "parent": os.getpid()})
                process = subprocess.Popen(
                    [*command, settings],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=environment,
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            ours.settimeout(START_SECONDS)
            self.hello = json.loads(ours.recv(1 << 16)[LENGTH.size :] or b"null")
            if not isinstance(self.hello, dict):
                raise SandboxFault("the worker process ended during its start")
            assert process.stderr is not None
            process.stderr.close()
        except (OSError, ValueError, SandboxFault, struct.error) as error:
            ours.close()
            self._failure = str(error) or type(error).__name__
            if process is not None:
                process.kill()
                words = process.communicate()[1].decode("utf-8", "replace").strip()
                self._failure = words.splitlines()[-1] if words else self._failure
            self._ready.set()
            return
        ours.settimeout(None)
        self._control = ours
        self._ready.set()
        self._stop.wait()
        with self._lock:
            ours.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _tell(self, message: bytes, descriptors: list[int]) -> None:
        with self._lock:
            if self._stop.is_set():
                raise SandboxFault("the sandbox is closed")
            try:
                socket.send_fds(self._control, [message], descriptors)
            except OSError as error:
                raise SandboxFault(f"the sandbox's zygote is gone ({error})") from None

    def alive(self) -> bool:
        """Whether the process is there. It never writes, so its channel can only be readable at its end."""
        with self._lock:
            return not self._stop.is_set() and not select.select([self._control], [], [], 0)[0]

    def fork(self, kind: bytes, output_bytes: int, cpu_seconds: float, wall_seconds: float = 0.0) -> Process:
        """A fresh process that has seen no tool code. `cpu_seconds`: limit of the whole process (0: none); the zygote
        kills it after `wall_seconds` (0: never). Raises SandboxFault."""
        ours, theirs = socket.socketpair()
        token = next(self._tokens)
        with theirs:
            try:
                message = CONTROL.pack(FORK, kind, token, math.ceil(cpu_seconds), wall_seconds)
                self._tell(message, [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return Process(self, token, ours, output_bytes)

    def kill(self, token: int) -> None:
        with contextlib.suppress(SandboxFault):
            self._tell(CONTROL.pack(KILL, ISOLATED, token, 0, 0.0), [])

    def close(self) -> None:
        """End the process; all that it forked go with it."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(10)


class Process:
    """One forked process, seen from the parent. `ended` is set once it is dead and its frames are read."""

    def __init__(self, zygote: Zygote, token: int, channel: socket.socket, output_bytes: int) -> None:
        self._zygote = zygote
        self._token = token
        self._channel = channel
        self._longest = (output_bytes + GATHERED_BYTES) * LONGEST_ESCAPE
        self._incoming = bytearray()
        self._outgoing = memoryview(b"")
        channel.setblocking(False)
        self.started = self.heard = time.monotonic()
        """When it was forked, and when something last arrived from it or was sent to it when it had nothing to do."""
        self.ended = False
        self.broken = ""
        """How it broke the protocol; it is killed then."""
        self._status: int | None = None
        self._spoke = False
        self.next_index = 0
        self.known: set[int] = set()
        """Ids of the sources that it holds."""

    def fileno(self) -> int:
        return self._channel.fileno()

    @property
    def events(self) -> int:
        return select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    def send(self, message: bytes) -> None:
        """Send what fits now; `pump` sends the rest."""
        self._outgoing = memoryview(bytes(self._outgoing) + message)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self._channel.send(self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing = memoryview(b"")  # it does not read any more; its end will be heard

    def pump(self) -> list[bytes]:
        """Send and receive what is possible now; the complete frames that arrived."""
        if self._outgoing:
            self._flush()
        try:
            part = self._channel.recv(1 << 20)
            self._incoming += part
            self.ended = not part
            self.heard = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        frames = [] if self.broken else self._frames()
        if self.ended:
            if len(self._incoming) == TRAILER.size and not self.broken:
                self._status = TRAILER.unpack(self._incoming)[1]
            elif len(self._incoming) >= TRAILER.size:
                self.broken = self.broken or "a broken frame"
                mark, status = TRAILER.unpack(self._incoming[-TRAILER.size :])
                self._status = status if mark == TRAILER_MARK else None
            self._channel.close()
        elif self.broken:
            del self._incoming[: -TRAILER.size]
            self.kill()
        return frames

    def _frames(self) -> list[bytes]:
        frames = []
        while len(self._incoming) >= LENGTH.size:
            size = LENGTH.unpack_from(self._incoming)[0]
            end = LENGTH.size + size
            if size == TRAILER_MARK and len(self._incoming) <= TRAILER.size:
                break
            if size > self._longest:
                self.broken = f"a frame of {size} bytes"
                break
            if len(self._incoming) < end:
                break
            self._spoke = True
            frames.append(bytes(self._incoming[LENGTH.size : end]))
            del self._incoming[:end]
        return frames

    def wait(self, seconds: float) -> list[bytes]:
        """`pump` when something can be read or written, or after `seconds`."""
        poller = select.poll()
        poller.register(self._channel, self.events)
        poller.poll(max(0.0, seconds) * 1000)
        return self.pump()

    def kill(self) -> None:
        """End the process; nobody waits for it."""
        self._zygote.kill(self._token)

    def close(self) -> None:
        """Kill it and hear no more of it."""
        if not self.ended:
            self.kill()
            self._channel.close()
            self.ended = True

    def ending(self, cpu_s: float) -> str:
        """How it died: "timeout" (CPU limit), "dirty", or "crash". Raises SandboxFault if the sandbox is to blame."""
        status = self._status
        if status is None and not self._zygote.alive():
            raise SandboxFault("the sandbox's zygote is gone")
        if status == FORK_FAILED and not self._spoke:
            raise SandboxFault("the sandbox could not fork a process")
        if status is None:
            return "crash"
        if os.WIFSIGNALED(status):
            limit = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU)
            killed = os.WTERMSIG(status) == signal.SIGKILL and time.monotonic() - self.started >= cpu_s
            return "timeout" if limit or killed else "crash"
        return "dirty" if os.WEXITSTATUS(status) == EXIT_DIRTY else "crash"


def json_frame(value: Any) -> bytes:
    """A frame of JSON. Raises ValueError, TypeError or RecursionError for what JSON cannot carry."""
    return frame(json.dumps(value).encode("ascii"))
