"""Restrictions that a process applies to itself before it runs tool code. No root, no package; Linux, x86-64 or ARM64.

There are two stages, because a zygote must fork and its runners must not:

- `lock_zygote()` applies resource limits, no new privileges, no capabilities, and a network and user namespace if the
  kernel allows one. It applies Landlock (read only the Python installation; no TCP, no signals to other processes) and
  a seccomp filter that allows a list of harmless system calls and refuses all others.
- `runner_lock()` makes a runner die with the zygote. A second seccomp filter removes fork, signals, prctl and
  descriptor passing.

Every process that a locked process starts inherits both, and neither can be undone. The filters are built here as BPF,
so libseccomp is not needed. A test compares the call numbers with libseccomp's if it is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Callable
from typing import NamedTuple

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> (AUDIT_ARCH constant, column in CALLS)."""

# name: (x86-64, ARM64); -1 if the call does not exist
CALLS: dict[str, tuple[int, int]] = {
    # descriptors and files, read-only (the filter below restricts openat further)
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, -1),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "stat": (4, -1),
    "lstat": (6, -1),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "fcntl": (72, 25),
    "dup": (32, 23),
    "dup2": (33, -1),
    "dup3": (292, 24),
    "pipe": (22, -1),
    "pipe2": (293, 59),
    "eventfd2": (290, 19),
    # memory and threads
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "clone": (56, 220),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # signals to the own process only: handlers, masks, timers
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, -1),
    "pause": (34, -1),
    "restart_syscall": (219, 128),
    # time and waiting
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, -1),
    "times": (100, 153),
    "sched_yield": (24, 124),
    "select": (23, -1),
    "pselect6": (270, 72),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, -1),
    "epoll_pwait": (281, 22),
    # a connected pair inside the process (asyncio); socket() and connect() are not allowed
    "recvfrom": (45, 207),
    "shutdown": (48, 210),
    # identity of the process
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getpgrp": (111, -1),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "sched_getaffinity": (204, 123),
    "getrandom": (318, 278),
    # restricted further in the filters
    "open": (2, -1),
    "openat": (257, 56),
    "prlimit64": (302, 261),
    "ioctl": (16, 29),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "clone3": (435, 435),
    # only for the zygote
    "kill": (62, 129),
    "wait4": (61, 260),
    "prctl": (157, 167),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
    "setpgid": (109, 154),
    "setrlimit": (160, 164),
}
ZYGOTE_ONLY = ("kill", "wait4", "prctl", "recvmsg", "sendmsg", "setpgid", "setrlimit")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
FCNTL_COMMANDS = (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_DUPFD_CLOEXEC)
"""Without F_SETOWN and F_SETSIG, which would have the kernel signal any process of the same user."""
CLONE_THREAD = 0x10000
FIONBIO = 0x5421
X32 = 0x40000000

ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EACCES
ABSENT = 0x00050000 | errno.ENOSYS
KILL = 0x80000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
KILL_SIGNAL = int(signal.SIGKILL)
PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000


class Locks(NamedTuple):
    """The active layers, and the required layers that are not available (with the reason)."""

    layers: tuple[str, ...]
    missing: tuple[str, ...]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _system_call(number: int, *arguments: object) -> int:
    function = _libc().syscall
    function.restype = ctypes.c_long
    result = int(function(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int, pointer: object = None) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), pointer, None, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# -- limits ------------------------------------------------------------------------------------------------------------


def limit_resources(memory_bytes: int) -> None:
    """Limit the address space, file writes, core dumps and descriptors."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 64)
    _lower(resource.RLIMIT_STACK, 8 << 20)
    for name in ("RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE"):
        if hasattr(resource, name):
            _lower(getattr(resource, name), 0)
    with contextlib.suppress(ValueError, OSError):  # macOS has no address-space limit
        _lower(resource.RLIMIT_AS, memory_bytes)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def limit_cpu(seconds: int) -> None:
    """Limit the CPU seconds of this process from now on. The kernel kills it at the limit."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


# -- namespaces and capabilities ---------------------------------------------------------------------------------------


def leave_network() -> None:
    """Enter an empty network namespace, as another user. Raises OSError if the kernel does not allow it."""
    if _libc().unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drop_capabilities() -> None:
    """Give up every capability (a container often runs as root)."""
    header = struct.pack("<Ii", 0x20080522, 0)
    if _libc().capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# -- Landlock ----------------------------------------------------------------------------------------------------------


def readable_places() -> list[str]:
    """The Python installation: its library, the folders of the mapped shared objects, time zones."""
    paths = sysconfig.get_paths()
    places = {os.path.realpath(paths["stdlib"]), os.path.realpath(paths["platstdlib"])}
    places |= {os.path.realpath(os.path.dirname(os.__file__))}
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            path = line.rstrip("\n").split(maxsplit=5)[-1]
            if path.startswith("/") and ".so" in os.path.basename(path):
                places.add(os.path.dirname(path))
    places |= {"/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/null", "/dev/zero", "/dev/urandom"}
    return sorted(place for place in places if os.path.exists(place))


def restrict_files(places: list[str]) -> int:
    """Allow only reading, only below `places`. No TCP, abstract sockets or outside signals. Returns the ABI."""
    abi = _system_call(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    every = (1 << (13 + (abi >= 2) + (abi >= 3))) - 1
    if abi >= 5:
        every |= 1 << 15
    attributes = struct.pack("<QQQ", every, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = _system_call(LANDLOCK_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    execute, read_file, read_folder = 1, 4, 8
    for place in places:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        allowed = execute | read_file | read_folder if os.path.isdir(place) else read_file
        rule = struct.pack("<Qi", allowed, descriptor)
        try:
            _system_call(LANDLOCK_ADD, rules, 1, ctypes.c_char_p(rule), ctypes.c_uint32(0))
        finally:
            os.close(descriptor)
    _system_call(LANDLOCK_RESTRICT, rules, ctypes.c_uint32(0))
    os.close(rules)
    return abi


# -- seccomp -----------------------------------------------------------------------------------------------------------

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, ARGUMENT_AT = 0, 4, 16


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _argument(position: int, high: bool = False) -> bytes:
    return _step(LOAD, ARGUMENT_AT + 8 * position + 4 * high)


def _on_call(number: int, body: list[bytes]) -> list[bytes]:
    """If the loaded call number is `number`, run `body`, which returns on every path."""
    return [_step(JUMP_EQUAL, number, 0, len(body)), *body]


def _unless_bits(position: int, bits: int, refusal: int = REFUSE) -> list[bytes]:
    """Allow if an argument has none of `bits` set."""
    return [_argument(position), _step(JUMP_BITS, bits, 0, 1), _step(RETURN, refusal), _step(RETURN, ALLOW)]


def _if_equal(position: int, *values: int) -> list[bytes]:
    """Allow if an argument is one of `values`."""
    last = len(values)
    tests = [_step(JUMP_EQUAL, value, last - place, 0) for place, value in enumerate(values)]
    return [_argument(position), *tests, _step(RETURN, REFUSE), _step(RETURN, ALLOW)]


def _if_null(position: int) -> list[bytes]:
    """Allow if an argument is a null pointer."""
    return [
        _argument(position),
        _step(JUMP_EQUAL, 0, 0, 2),
        _argument(position, high=True),
        _step(JUMP_EQUAL, 0, 1, 0),
        _step(RETURN, REFUSE),
        _step(RETURN, ALLOW),
    ]


def _head(machine: str) -> list[bytes]:
    """Refuse other calling conventions, then load the call number."""
    steps = [
        _step(LOAD, ARCH_AT),
        _step(JUMP_EQUAL, ARCHITECTURES[machine][0], 1, 0),
        _step(RETURN, KILL),
        _step(LOAD, NUMBER_AT),
    ]
    if machine == "x86_64":
        steps += [_step(JUMP_GREATER_EQUAL, X32, 0, 1), _step(RETURN, KILL)]
    return steps


def zygote_filter(machine: str) -> bytes:
    """BPF program: allow the calls in CALLS (some only with harmless arguments), refuse all others."""
    column = ARCHITECTURES[machine][1]
    number = {name: numbers[column] for name, numbers in CALLS.items() if numbers[column] >= 0}
    steps = _head(machine)
    closer = {
        "fcntl": _if_equal(1, *FCNTL_COMMANDS),
        "open": _unless_bits(1, WRITING),
        "openat": _unless_bits(2, WRITING),
        "ioctl": _if_equal(1, FIONBIO),
        "socketpair": _if_equal(0, 1),
        "sendto": _if_null(4),
        "clone3": [_step(RETURN, ABSENT)],
        "prlimit64": [_step(RETURN, ALLOW)],
    }
    for name, body in closer.items():
        if name in number:
            steps += _on_call(number[name], body)
    for name, value in number.items():
        if name not in closer:
            steps += _on_call(value, [_step(RETURN, ALLOW)])
    return b"".join([*steps, _step(RETURN, REFUSE)])


def runner_filter(machine: str) -> bytes:
    """Second BPF program: allow threads, refuse processes, signals to others, and changes of limits and filters."""
    column = ARCHITECTURES[machine][1]
    threads_only = [_argument(0), _step(JUMP_BITS, CLONE_THREAD, 1, 0), _step(RETURN, REFUSE), _step(RETURN, ALLOW)]
    steps = _head(machine)
    steps += _on_call(CALLS["clone"][column], threads_only)
    steps += _on_call(CALLS["prlimit64"][column], _if_null(2))
    for name in ZYGOTE_ONLY:
        steps += _on_call(CALLS[name][column], [_step(RETURN, REFUSE)])
    return b"".join([*steps, _step(RETURN, ALLOW)])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def install_filter(program: bytes) -> None:
    """Install a seccomp filter on this process. Raises OSError."""
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program) // 8, program)))


# -- the two stages ----------------------------------------------------------------------------------------------------


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies. Call it last: a change of credentials cancels it."""
    _prctl(PR_SET_PDEATHSIG, KILL_SIGNAL)
    if os.getppid() != parent_pid:
        os._exit(0)


def lock_zygote(memory_bytes: int, parent_pid: int) -> Locks:
    """Apply every layer that this system offers to the calling, single-threaded process.

    The process dies with `parent_pid`; to be exact, with the thread that started it.
    """
    limit_resources(memory_bytes)
    layers = ["resource limits", "process groups"]
    missing: list[str] = []
    if not sys.platform.startswith("linux"):
        return Locks(tuple(layers), (f"seccomp and Landlock (Linux only, this is {sys.platform})",))
    places = readable_places()
    with contextlib.suppress(OSError):
        leave_network()
        layers.append("network namespace")
    try:
        drop_capabilities()
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        _prctl(PR_SET_DUMPABLE, 0)
        layers.append("no privileges")
    except OSError as error:
        missing.append(f"no privileges ({error})")
    die_with(parent_pid)
    try:
        layers.append(f"landlock (ABI {restrict_files(places)})")
    except OSError as error:
        missing.append(f"landlock ({error})")
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        missing.append(f"seccomp (no list of system calls for {machine})")
    else:
        try:
            install_filter(zygote_filter(machine))
            layers.append("seccomp")
        except OSError as error:
            missing.append(f"seccomp ({error})")
    return Locks(tuple(layers), tuple(missing))


def runner_lock(locks: Locks, zygote_pid: int) -> Callable[[int], None]:
    """Prepare the second stage for a forked runner: die with the zygote, then give up what only the zygote needs.

    The argument of the returned function limits the CPU seconds of the process (0: the runner limits each call with a
    timer). Preparation is before the fork because every page that a fork touches costs microseconds.
    """
    linux = sys.platform.startswith("linux")
    filtered = "seccomp" in locks.layers
    steps = runner_filter(platform.machine()) if filtered else b""
    program = _Program(len(steps) // 8, steps)
    pointer = ctypes.byref(program)
    prctl = _libc().prctl if linux else None

    def lock(cpu_seconds: int) -> None:
        if cpu_seconds:
            limit_cpu(cpu_seconds)
        if prctl is None:
            return
        if prctl(PR_SET_PDEATHSIG, KILL_SIGNAL, 0, 0, 0) != 0 or os.getppid() != zygote_pid:
            os._exit(1)
        if filtered and prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, pointer, 0, 0) != 0:
            os._exit(1)

    return lock
