"""The process side of the tool sandbox: a zygote that forks, and the processes that execute tool code.

`processes.py` starts it with a clean environment. Nothing here knows a gold answer, a reward or a policy.

The *zygote* imports a few standard modules, locks itself down (`isolation.py`), and then only forks and reaps. It never
reads tool code or arguments, so every fork inherits the same state. A forked process closes every descriptor except its
own channel, locks itself, reads source and arguments from the channel, and answers with text. There are three kinds:

- isolated: one call of any code, then the process exits. What it writes can affect only that call.
- pool: many calls of code that `code_proof.py` proves unable to affect another call. Other code is reported as
  `unproven` and not executed. Calls whose answer could differ in a shared process (memory, deep recursion, addresses)
  are reported as `retry`.
- session: the calls of one episode on one shared state.

Only one process writes to a channel, and the zygote after that process has died (`protocol.py`).
"""

from __future__ import annotations

import _signal
import _socket
import contextlib
import gc
import json
import marshal
import os
import select
import signal
import socket
import sys
import time
import types
from json import dumps
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
from env_construction.sandbox import isolation, other_clock
from env_construction.sandbox.output import (
    CHANNEL,
    MODULE,
    RANDOM_SEED,
    checked,
    decoded,
    encoded,
    error_text,
    read_frame,
    render,
    write_frame,
)
from env_construction.sandbox.pool import Pool
from env_construction.sandbox.protocol import (
    CONTROL,
    FORK,
    FORK_FAILED,
    ISOLATED,
    POOL,
    TRAILER,
    TRAILER_MARK,
    frame,
)

del sys.path[0]
EXIT_BROKEN = 70
PRELOAD = "collections datetime functools itertools json math operator re string time typing _strptime"
"""More modules would make every fork slower. Tools import the others when they need them."""


def run_isolated(settings: dict[str, Any]) -> None:
    """Run one call, then exit. The first frame (the compiled code, or nothing) is sent before tool code runs."""
    request = decoded(read_frame(CHANNEL))
    source = read_frame(CHANNEL)
    leave = os._exit
    clock = time.monotonic
    code: Any = None
    failure: BaseException | None = None
    try:
        if request["compiled"]:
            code = marshal.loads(source)
        else:
            code = compile(source.decode("utf-8", "surrogatepass"), "<string>", "exec", dont_inherit=True)
        write_frame(b"" if request["compiled"] else marshal.dumps(code))
    except BaseException as error:
        failure = error
        write_frame(b"")
    signal.setitimer(signal.ITIMER_PROF, settings["cpu_s"])
    start = clock()
    status, output = "error", ""
    try:
        if failure is not None:
            raise failure
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module
        namespace = module.__dict__
        exec(code, namespace)
        status, output = "ok", render(called(namespace, request["name"], (), request["arguments"]))
    except MemoryError as error:
        status, output = "memory", error_text(error) or "out of memory"
    except BaseException as error:
        output = error_text(error)
    try:
        status, output = checked(status, output, request["arguments"], settings["output_bytes"])
        body = encoded([status, output, clock() - start])
    except MemoryError:
        body = encoded(["memory", "out of memory", clock() - start])
    write_frame(body)
    leave(0)


def called(namespace: dict[str, Any], name: str, state: tuple[Any, ...], arguments: Any) -> Any:
    """The return value of a tool. Raises NameError if its source does not define it."""
    if name not in namespace:
        raise NameError(f"name {name!r} is not defined")
    return namespace[name](*state, **arguments)


class Session:
    """The calls of one episode, one after another, on one state."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._output_bytes = settings["output_bytes"]
        self._cpu_s = settings["cpu_s"]
        self._sources: dict[int, str] = {}
        self._namespaces: dict[int, dict[str, Any]] = {}
        self._state: tuple[Any, ...] = ()

    def serve(self) -> None:
        while True:
            request = json.loads(read_frame(CHANNEL))
            if "state" in request:
                self._state = (request["state"],)
            self._sources.update(request["codes"])
            rows = []
            for index, (code_id, name, arguments) in enumerate(request["calls"], request["first"]):
                signal.setitimer(signal.ITIMER_PROF, self._cpu_s)
                start = time.monotonic()
                status, output = self._outcome(code_id, name, arguments)
                rows.append([index, status, output, time.monotonic() - start])
            if request["want_state"]:
                rows.append([request["first"] + len(request["calls"]), *self._rendered_state(), 0.0])
            write_frame(encoded([request["nonce"], rows]))

    def _outcome(self, code_id: int, name: str, arguments: Any) -> tuple[str, str]:
        try:
            namespace = self._namespaces.get(code_id)
            if namespace is None:
                sys.modules["random"].seed(RANDOM_SEED)
                code = compile(self._sources[code_id], "<string>", "exec", dont_inherit=True)
                module = types.ModuleType(MODULE)
                sys.modules[MODULE] = module
                namespace = module.__dict__
                exec(code, namespace)
                self._namespaces[code_id] = namespace
            outcome = "ok", render(called(namespace, name, self._state, arguments))
        except MemoryError as error:
            outcome = "memory", error_text(error) or "out of memory"
        except BaseException as error:
            outcome = "error", error_text(error)
        return checked(*outcome, arguments, self._output_bytes)

    def _rendered_state(self) -> tuple[str, str]:
        try:
            return "ok", dumps(self._state[0])
        except BaseException as error:
            return "error", error_text(error)


def leave_parent(channel: int, descriptors: set[int]) -> None:
    """Of all descriptors that the zygote has, keep only this process's channel, as CHANNEL."""
    if channel != CHANNEL:
        os.dup2(channel, CHANNEL)
    for descriptor in descriptors - {CHANNEL}:
        os.close(descriptor)


def run_forked(kind: bytes, settings: dict[str, Any]) -> None:
    if kind == ISOLATED:
        run_isolated(settings)
    elif kind == POOL:
        Pool(settings).serve()
    else:
        Session(settings).serve()


def trailer(channel: int, status: int) -> None:
    """Close a dead process's channel, with its wait status at the end."""
    ending = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, channel)
    with contextlib.suppress(OSError):  # the parent has closed it, or the process had filled the channel
        ending.send(TRAILER.pack(TRAILER_MARK, status), _socket.MSG_DONTWAIT)
    ending.close()


def zygote(control: socket.socket, locks: isolation.Locks, settings: dict[str, Any]) -> None:
    """Fork, kill and reap processes for the parent, until it closes its end or dies."""
    parent = os.getppid()
    lock = isolation.runner_lock(locks, os.getpid())
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(woken, select.POLLIN)
    channels: dict[int, int] = {}
    pids: dict[int, int] = {}
    tokens: dict[int, int] = {}
    deadlines: dict[int, float] = {}
    try:
        while True:
            wait = max(0.0, min(deadlines.values()) - time.monotonic()) if deadlines else 1.0
            events = poller.poll(1000 * min(1.0, wait) + 1)
            if not events and os.getppid() != parent:
                return
            ready = {descriptor for descriptor, _ in events}
            if woken in ready:
                os.read(woken, 4096)
            while channels:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                trailer(channels.pop(pid), status)
                del pids[tokens.pop(pid)]
                deadlines.pop(pid, None)
            now = time.monotonic()
            for pid in [pid for pid, deadline in deadlines.items() if deadline < now]:
                del deadlines[pid]
                os.kill(pid, signal.SIGKILL)
            if control.fileno() not in ready:
                continue
            message, descriptors, _, _ = socket.recv_fds(control, CONTROL.size, 2)
            if len(message) < CONTROL.size:
                return
            operation, kind, token, cpu_seconds, wall_seconds = CONTROL.unpack(message)
            if operation != FORK:
                if token in pids:
                    os.kill(pids[token], signal.SIGKILL)
                continue
            [channel] = descriptors
            try:
                pid = os.fork()
            except OSError:
                trailer(channel, FORK_FAILED)
                continue
            if pid == 0:
                try:
                    _signal.set_wakeup_fd(-1)
                    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # the C function: it touches fewer pages
                    leave_parent(channel, {control.fileno(), woken, wake, channel, *channels.values()})
                    lock(cpu_seconds)
                    run_forked(kind, settings)
                finally:
                    os._exit(EXIT_BROKEN)
            channels[pid], pids[token], tokens[pid] = channel, pid, token
            if wall_seconds:
                deadlines[pid] = time.monotonic() + wall_seconds
    finally:
        for pid in channels:
            os.kill(pid, signal.SIGKILL)


def seed_random() -> None:
    """Import `random` without its fork hook, which would reseed it in every forked process."""
    register, os.register_at_fork = os.register_at_fork, lambda **_: None  # type: ignore[misc,assignment]
    try:
        import random
    finally:
        os.register_at_fork = register
    random.seed(RANDOM_SEED)


def main() -> None:
    settings = json.loads(sys.argv[1])
    del sys.argv[1:]
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, settings["control"])
    seed_random()
    for name in PRELOAD.split():
        __import__(name)
    json.loads('[{"a": "b"}]')
    if settings["clock_shift_s"]:
        other_clock.shift_clock(settings["clock_shift_s"])
    os.environ.clear()
    locks = isolation.lock_zygote(settings["memory_mb"] << 20, settings["parent"])
    gc.collect()
    gc.freeze()
    os.dup2(1, 2)
    control.sendall(frame(json.dumps({"layers": locks.layers, "missing": locks.missing}).encode("ascii")))
    zygote(control, locks, settings)


if __name__ == "__main__":
    main()
