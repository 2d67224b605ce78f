"""The process side of the tool sandbox: a zygote that forks runners, and the runner that executes tool code.

Started by `tool_sandbox.py` with a clean environment; nothing here knows a gold answer, a reward or a policy.

The *zygote* imports the standard modules that tools use, locks itself down (`isolation.py`), and then only forks and
buries runners. It never reads tool code, so what a fork inherits is the same every time. A *runner* gets source and
arguments over its own socket and sends back text. It runs in one of three modes, chosen by the parent:

- `pool`: many responses one after the other. Only code that `plain_code.py` proves unable to leave a trace is run;
  other code is reported back as `wild` and not touched, a call that wants to `eval` such code as `wild_call`.
- `own`: one call of wild code; the parent discards the process afterwards.
- `session`: all calls of one episode on one shared state.

Frames both ways: 4 bytes length (little endian), then JSON in ASCII. A runner's frames carry the nonce of the request.
The progress page (16 bytes of shared memory: call index, start time) tells the parent which call is running, so that
it can kill a stuck one and blame nobody else; no call costs a system call for that.
"""

from __future__ import annotations

import _thread
import ast
import builtins
import contextlib
import gc
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import sys
import time
import types
from json import dumps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from env_construction import isolation, plain_code

del sys.path[0]

PROGRESS = struct.Struct("<qd")
CONTROL = struct.Struct("<cq")
LENGTH = struct.Struct("<I")
FLUSH_SECONDS = 0.005
FLUSH_CHARACTERS = 1 << 18
EXIT_DIRTY = 86
"""Exit status of a pool runner that found its interpreter changed: nothing unreported of it is believed."""
EXIT_BROKEN = 70

PRELOAD = (
    "abc array base64 bisect calendar cmath collections collections.abc contextlib copy csv dataclasses datetime decimal"
    " difflib enum fractions functools hashlib heapq html io itertools json keyword locale math numbers operator random"
    " re statistics string textwrap time traceback types typing unicodedata urllib.parse uuid zoneinfo _strptime"
)
MODULE = "tool"
"""`__name__` of the module that tool code runs as."""
RANDOM_SEED = 0
"""`random` starts from here in every call, so that a result depends on source and arguments alone."""


def read_exactly(descriptor: int, size: int) -> bytes | None:
    """Read `size` bytes, or None at end of file."""
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def too_long(text: str, limit: int) -> bool:
    """Whether `text` takes more than `limit` bytes of UTF-8."""
    if len(text) > limit:
        return True
    return len(text) * 4 > limit and not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > limit


def render(value: Any) -> str:
    """What the model sees of a returned value: JSON for a dict or list, else `str()` (paper/README.md, Reward)."""
    if isinstance(value, (dict, list)):
        return dumps(value, ensure_ascii=False)
    return str(value)


def error_text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return type(error).__name__


def fresh_module() -> dict[str, Any]:
    """The globals of a new module, registered so that dataclasses and typing find it."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    return module.__dict__


class Fingerprint:
    """What plain code could at worst have changed: builtins, the modules that it may import, threads, limits.

    `plain_code` proves that it cannot; this is the second look.
    """

    def __init__(self) -> None:
        watched = [vars(builtins), *(vars(sys.modules[name]) for name in plain_code.MODULES)]
        self._watched = [(now, dict(now)) for now in watched]
        self._rest = self._others()

    @staticmethod
    def _others() -> tuple[int, int]:
        return _thread._count(), sys.getrecursionlimit()

    def holds(self) -> bool:
        return self._others() == self._rest and all(now == before for now, before in self._watched)


class Wild(BaseException):
    """This code, or this call of it, needs a process of its own."""


class Runner:
    """Executes calls; lives in a forked process of its own."""

    def __init__(self, channel: int, page: int, output_bytes: int, cpu_s: float) -> None:
        self._channel = channel
        self._progress = mmap.mmap(page, mmap.PAGESIZE)
        self._output_bytes = output_bytes
        self._cpu_s = cpu_s
        self._sources: dict[int, str] = {}
        self._compiled: dict[int, Any] = {}
        self._random: set[int] = set()
        self._namespaces: dict[int, dict[str, Any]] = {}
        self._state: Any = None
        self._has_state = False
        self._wild_call = False
        self._clean: Fingerprint | None = None

    def serve(self) -> None:
        """Answer requests until the parent closes the channel."""
        while True:
            head = read_exactly(self._channel, LENGTH.size)
            if head is None:
                os._exit(0)
            body = read_exactly(self._channel, LENGTH.unpack(head)[0])
            if body is None:
                os._exit(0)
            self._answer(json.loads(body))

    def _answer(self, request: dict[str, Any]) -> None:
        nonce, mode, first, calls = request["nonce"], request["mode"], request["first"], request["calls"]
        if "state" in request:
            self._state = request["state"]
            self._has_state = True
            self._namespaces.clear()
        self._sources.update(request["codes"])
        if mode == "pool" and self._clean is None:
            self._clean = Fingerprint()
        done: list[list[Any]] = []
        pending = 0
        now = flushed = self._start_clock()
        for index, (code_id, name, arguments) in enumerate(calls, first):
            start = now
            PROGRESS.pack_into(self._progress, 0, index, start)
            status, output = self._call(code_id, name, arguments, mode)
            now = time.monotonic()
            done.append([index, status, output, now - start])
            pending += len(output)
            if now - flushed > FLUSH_SECONDS or pending > FLUSH_CHARACTERS:
                self._send(nonce, done)
                done = []
                pending = 0
                now = flushed = self._start_clock()
        if request.get("want_state"):
            done.append([first + len(calls), *self._rendered_state(), 0.0])
        if done or not calls:
            self._send(nonce, done)

    def _start_clock(self) -> float:
        """Rearm the CPU limit (SIGPROF ends the process; waiting takes no CPU); returns the time."""
        if self._cpu_s:
            signal.setitimer(signal.ITIMER_PROF, self._cpu_s)
        return time.monotonic()

    def _send(self, nonce: str, done: list[list[Any]]) -> None:
        if self._clean is not None and not self._clean.holds():
            os._exit(EXIT_DIRTY)
        body = dumps([nonce, done]).encode("ascii")
        write_all(self._channel, LENGTH.pack(len(body)) + body)

    def _compile(self, code_id: int, mode: str) -> Any:
        """A code object, or the exception that every call of this code raises."""
        source = self._sources.pop(code_id)
        if mode != "pool":
            random.seed(RANDOM_SEED)
            return compile(source, "<string>", "exec", dont_inherit=True)
        try:
            tree = ast.parse(source, "<string>")
            if plain_code.why_wild(tree) is not None:
                return Wild()
            if plain_code.uses_random(tree):
                self._random.add(code_id)
            return compile(tree, "<string>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            return error.with_traceback(None)
        except (RecursionError, MemoryError):
            return Wild()

    def _function(self, code_id: int, name: str, mode: str) -> Any:
        code = self._compiled.get(code_id)
        if code is None:
            code = self._compiled[code_id] = self._compile(code_id, mode)
        if mode == "pool":
            if isinstance(code, BaseException):
                raise code
            if code_id in self._random:
                random.seed(RANDOM_SEED)
            namespace: dict[str, Any] = {"__name__": MODULE, "eval": self._eval}
            exec(code, namespace)
        elif code_id in self._namespaces:
            namespace = self._namespaces[code_id]
        else:
            namespace = fresh_module()
            exec(code, namespace)
            self._namespaces[code_id] = namespace
        if name not in namespace:
            raise NameError(f"name {name!r} is not defined")
        return namespace[name]

    def _eval(self, text: Any, global_names: Any = None, local_names: Any = None, /) -> Any:
        """`eval` for plain code (calculators): a text that is plain itself is evaluated, any other ends the call here."""
        if type(text) is not str or any(
            type(names) not in (dict, types.NoneType) for names in (global_names, local_names)
        ):
            self._wild_call = True
            raise Wild
        if global_names is None:
            frame = sys._getframe(1)
            global_names = frame.f_globals
            if local_names is None and frame.f_locals is not global_names:
                local_names = dict(frame.f_locals)
        tree = ast.parse(text.lstrip(" \t"), "<string>", "eval")
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        values = [scope[name] for scope in (global_names, local_names or {}) for name in names if name in scope]
        if plain_code.why_wild(tree) is not None or any(isinstance(value, types.ModuleType) for value in values):
            self._wild_call = True
            raise Wild
        return eval(compile(tree, "<string>", "eval", dont_inherit=True), global_names, local_names)

    def _call(self, code_id: int, name: str, arguments: Any, mode: str) -> tuple[str, str]:
        status, output = self._outcome(code_id, name, arguments, mode)
        if self._wild_call:
            self._wild_call = False
            return "wild_call", ""
        if too_long(output, self._output_bytes):
            return "output_limit", f"the output is longer than {self._output_bytes} bytes"
        return status, output

    def _outcome(self, code_id: int, name: str, arguments: Any, mode: str) -> tuple[str, str]:
        """What the call returned or raised; with side effects on nothing but, perhaps, `_wild_call`."""
        try:
            function = self._function(code_id, name, mode)
            value = function(self._state, **arguments) if self._has_state else function(**arguments)
            return "ok", render(value)
        except Wild:
            return "wild", ""
        except MemoryError as error:
            return "memory", error_text(error) or "out of memory"
        except BaseException as error:
            return "error", error_text(error)

    def _rendered_state(self) -> tuple[str, str]:
        try:
            return "ok", dumps(self._state)
        except BaseException as error:
            return "error", error_text(error)


def zygote(control: socket.socket, locks: isolation.Locks, output_bytes: int, cpu_s: float) -> None:
    """Fork (`F`; its number limits the CPU seconds of the process, 0: each call by a timer), kill and
    bury (`K`, pid, answered with the wait status), or kill and forget (`D`, pid, not answered).

    Ends when the parent closes its end or is gone.
    """
    parent = os.getppid()
    lock = isolation.runner_lock(locks, os.getpid())
    poller = select.poll()
    poller.register(control, select.POLLIN)
    children: set[int] = set()
    dismissed: set[int] = set()
    try:
        while True:
            dismissed = {pid for pid in dismissed if not os.waitpid(pid, os.WNOHANG)[0]}
            if not poller.poll(1000):
                if os.getppid() != parent:
                    return
                continue
            message, descriptors, _, _ = socket.recv_fds(control, CONTROL.size, 2)
            if len(message) < CONTROL.size:
                return
            operation, number = CONTROL.unpack(message)
            answer = -1
            if operation == b"F":
                with contextlib.suppress(OSError):
                    answer = os.fork()
                if answer == 0:
                    try:
                        control.close()
                        os.setpgid(0, 0)
                        lock(number)
                        Runner(descriptors[0], descriptors[1], output_bytes, cpu_s).serve()
                    finally:
                        os._exit(EXIT_BROKEN)
                for descriptor in descriptors:
                    os.close(descriptor)
                children.add(answer)
            elif number in children:
                os.kill(number, signal.SIGKILL)
                children.discard(number)
                if operation == b"K":
                    answer = os.waitpid(number, 0)[1]
                else:
                    dismissed.add(number)
            if operation != b"D":
                control.sendall(CONTROL.pack(operation, answer))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    settings = json.loads(sys.argv[1])
    del sys.argv[1:]
    control = socket.socket(fileno=settings["control"])
    for name in PRELOAD.split():
        __import__(name)
    os.environ.clear()
    locks = isolation.lock_zygote(settings["memory_mb"] << 20, settings["parent"])
    random.seed(RANDOM_SEED)
    gc.collect()
    gc.freeze()
    hello = json.dumps({"layers": locks.layers, "missing": locks.missing}).encode("ascii")
    control.sendall(LENGTH.pack(len(hello)) + hello)
    zygote(control, locks, settings["output_bytes"], settings["cpu_s"])


if __name__ == "__main__":
    main()
