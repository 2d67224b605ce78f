"""A Python whose modules are already imported: each new process is a fork of one that has imported them.

OpenRLHF on a CPU starts about ten Python processes per training (Ray's agents, the policy, its reference, the trainer,
the rollout engine and its core). Each imports torch, DeepSpeed and vLLM, which takes 15 to 30 seconds of a core. For a
tiny model that is as long as its training. The pipeline's commands need a quarter of a minute each.

`start` forks a server and returns the path of a program that acts like `python`: it takes `-c CODE`, `-m MODULE` or a
script, with arguments. The program (`preloaded_client.py`) passes its arguments, environment, working directory and
file descriptors to the server through a Unix socket. The server forks a child that takes them over and runs the code.
Signals go to the child, and its exit code comes back. If the program is killed, so is its child. If the caller of
`start` ends, the server kills the remaining children, removes its folder and ends.

Limits: Linux. The caller has one thread and has not used a GPU. Of the interpreter's options and variables, only -u and
PYTHONUNBUFFERED have an effect. Libraries that read the environment when they are imported see that of the server.
Never use this Python for untrusted code: it needs a clean process.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from train.trainer.preloaded_client import CODE, LENGTH

CLIENT = Path(__file__).with_name("preloaded_client.py")
MOST_DESCRIPTORS = 253  # Linux's SCM_MAX_FD
OPTIONS_WITH_VALUE = ("-X", "-W")


@dataclass(frozen=True)
class Request:
    """A process to start. `descriptors`: its file descriptor numbers, and where this process has them now.

    `leads`: it leads a session, and signals are for its process group.
    """

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    leads: bool
    descriptors: dict[int, int]


@dataclass(frozen=True)
class Child:
    """A running child. `ended`: a descriptor that is readable after its end; `connection`: to its program."""

    pid: int
    leads: bool
    ended: int
    connection: socket.socket

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            try:
                (os.killpg if self.leads else os.kill)(self.pid, number)
            except ProcessLookupError:  # it has no group yet
                os.kill(self.pid, number)


def start(modules: Sequence[str]) -> str:
    """Import the modules, fork the server, and return the path of the program. Call it before any thread starts.

    Returns the path of this interpreter if the system lacks process descriptors, or if no program may run in the folder
    of temporary files.
    """
    # the path of a socket has at most 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="preloaded-python-", dir=None if len(tempfile.gettempdir()) < 60 else "/tmp"))
    program = folder / "python"
    line = [sys.executable, "-IS", str(CLIENT), str(folder / "socket")]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(line)} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    if not (os.access(program, os.X_OK) and _has_process_descriptors()):
        shutil.rmtree(folder)
        return sys.executable
    for name in modules:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    lifeline, own_end = os.pipe()  # the caller's end stays open until the caller ends
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(lifeline)
        listener.close()
        return str(program)
    os.close(own_end)
    # Signals to the process group are for the caller, whose end ends the server. Blocked ones reach the children later.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    gc.freeze()  # the collector would otherwise copy the shared pages of all modules into every child
    request = serve(listener, lifeline)
    if request is None:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)
    take_over(request, str(program))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os._exit(exit_code(request.arguments))


def _has_process_descriptors() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def serve(listener: socket.socket, lifeline: int) -> Request | None:
    """Start a child for every request until the lifeline closes. Returns the request in a child, None in the server."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(lifeline, selectors.EVENT_READ)
        children: dict[int, Child] = {}  # by both descriptors of a child
        while True:
            # One event at a time: the next one may be about a descriptor that this one closes.
            key = selector.select()[0][0]
            if key.fd == lifeline:
                for child in children.values():
                    child.signal(signal.SIGKILL)
                return None
            if key.fileobj is listener:
                connection = listener.accept()[0]
                if (request := _receive(connection)) is None:
                    connection.close()
                    continue
                pid = os.fork()
                if not pid:
                    for child in set(children.values()):
                        child.connection.close()
                        os.close(child.ended)
                    connection.close()
                    listener.close()
                    os.close(lifeline)
                    return request
                for descriptor in request.descriptors.values():
                    os.close(descriptor)
                child = Child(pid, request.leads, os.pidfd_open(pid), connection)
                for file in (child.ended, connection.fileno()):
                    children[file] = child
                    selector.register(file, selectors.EVENT_READ)
                continue
            child = children[key.fd]
            if key.fd == child.ended:
                code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
                for file in (child.ended, child.connection.fileno()):
                    if children.pop(file, None):
                        selector.unregister(file)
                with suppress(OSError):
                    child.connection.sendall(CODE.pack(code))
                child.connection.close()
                os.close(child.ended)
            elif data := child.connection.recv(1):
                child.signal(data[0])
            else:  # the program was killed
                child.signal(signal.SIGKILL)
                selector.unregister(key.fd)
                del children[key.fd]


def _receive(connection: socket.socket) -> Request | None:
    """Read a request. None if its program ended before it was complete."""
    try:
        first, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, MOST_DESCRIPTORS)
        if len(first) < LENGTH.size:
            return None
        text = connection.recv(LENGTH.unpack(first)[0], socket.MSG_WAITALL)
        arguments, environment, folder, leads, numbers = json.loads(text)
    except (OSError, ValueError):
        return None
    return Request(arguments, environment, folder, leads, dict(zip(numbers, descriptors, strict=True)))


def take_over(request: Request, program: str) -> None:
    """Give this process the session, file descriptors, environment and working directory of a request."""
    if request.leads:
        os.setsid()
    above = max(request.descriptors, default=2) + 1
    moved = {number: fcntl.fcntl(now, fcntl.F_DUPFD, above) for number, now in request.descriptors.items()}
    for now in request.descriptors.values():
        os.close(now)
    for number, now in moved.items():
        os.dup2(now, number)
        os.close(now)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    multiprocessing.set_executable(program)  # what this process spawns is preloaded too
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # a new process has a random state of its own


def exit_code(arguments: Sequence[str]) -> int:
    """Run the arguments up to the exit functions and return the exit code.

    The process should then end at once. To take apart all modules would take seconds.
    """
    code: object = 0
    try:
        run(arguments)
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    assert isinstance(code, int)
    return code & 0xFF


def run(arguments: Sequence[str]) -> None:
    """Run `[options] -c CODE | -m MODULE | SCRIPT [arguments]` as the main module, like the interpreter."""
    with suppress(ImportError):  # otherwise the process has the name of the server
        importlib.import_module("setproctitle").setproctitle(shlex.join(["python", *arguments]))
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] not in ("-c", "-m"):
        option = rest.pop(0)
        if option in OPTIONS_WITH_VALUE:
            rest.pop(0)
        if option == "-u":
            os.environ["PYTHONUNBUFFERED"] = "1"
    for stream in (sys.stdout, sys.stderr) if os.environ.get("PYTHONUNBUFFERED") else ():
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    kind = rest.pop(0)
    if kind == "-c":
        code = rest.pop(0)
        sys.argv = ["-c", *rest]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        module = rest.pop(0)
        sys.modules.pop(module, None)  # runpy warns about modules that are imported already
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        sys.path[0] = str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")
