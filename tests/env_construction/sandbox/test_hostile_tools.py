"""Tools that attack. Each must be contained, and the next honest call must get the right answer.

There are three secrets to find: an environment variable of the parent, a file beside the tests, and the source of
another environment's tool, which has just run in the same sandbox. None may appear in a result.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from env_construction.sandbox.tool_sandbox import ToolCall, ToolResult, ToolSandbox

ENVIRONMENT_SECRET = "hidden-in-the-environment-of-the-parent"
FILE_SECRET = "hidden-in-a-file-of-the-project"
FOREIGN_SECRET = "hidden-in-the-code-of-another-environment"
HONEST = {
    "add": (
        "import json, math\ndef add(a, b):\n"
        "    return {'sum': sum([a, b]), 'length': len(str(a)), 'text': json.dumps([a])}"
    ),
    "foreign": f"def foreign():\n    key = '{FOREIGN_SECRET}'\n    return len(key)",
}
ANSWER = '{"sum": 42, "length": 2, "text": "[40]"}'


@dataclass(frozen=True)
class Hostile:
    """A tool named `evil`, the statuses that its call may end with, and text that its output must contain."""

    name: str
    source: str
    statuses: str
    holds: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


TRIES = """
    import os, sys
    def attempt(action):
        try:
            return f"done {action()!r}"
        except OSError as error:
            return f"refused {error.errno}"
"""
CHANNEL = """
    import gc, json, mmap, os, struct, sys
    def channels():
        found = []
        for descriptor in range(3, 64):
            try:
                os.fstat(descriptor)
                found.append(descriptor)
            except OSError:
                pass
        return found
    def nonce():
        frame = sys._getframe()
        while frame is not None:
            if "nonce" in frame.f_locals:
                return frame.f_locals["nonce"]
            frame = frame.f_back
    def forge(key, rows):
        body = json.dumps([key, rows]).encode()
        for descriptor in channels():
            try:
                os.write(descriptor, struct.pack("<I", len(body)) + body)
            except OSError:
                pass
"""

PROCESSES = [
    Hostile(
        "fork bomb",
        TRIES + "\n    def evil():\n        while True:\n            os.fork()",
        "error",
        "Permission denied",
    ),
    Hostile("fork once", TRIES + "\n    def evil(): return attempt(os.fork)", "ok", "refused"),
    Hostile(
        "subprocess", "import subprocess\ndef evil(): return subprocess.run(['true']).returncode", "error", "Permission"
    ),
    Hostile("shell", "import os\ndef evil(): return os.system('echo x')", "ok", "32512"),
    Hostile("exec", "import os\ndef evil(): os.execv('/bin/true', ['true'])", "error", "Permission"),
    Hostile("spawn", "import os\ndef evil(): return os.posix_spawn('/bin/true', ['true'], {})", "error", "Permission"),
    Hostile(
        "multiprocessing",
        "import multiprocessing\ndef evil():\n    p = multiprocessing.Process(target=print)\n    p.start()\n"
        "    p.join()",
        "error",
    ),
    Hostile(
        "kill the parent", TRIES + "\n    def evil(): return attempt(lambda: os.kill(os.getppid(), 9))", "ok", "refused"
    ),
    Hostile("kill everyone", TRIES + "\n    def evil(): return attempt(lambda: os.kill(-1, 9))", "ok", "refused"),
    Hostile("kill the group", TRIES + "\n    def evil(): return attempt(lambda: os.killpg(0, 9))", "ok", "refused"),
    Hostile("kill init", TRIES + "\n    def evil(): return attempt(lambda: os.kill(1, 15))", "ok", "refused"),
    Hostile(
        "signal by a descriptor's owner",
        TRIES + "\n    import fcntl\n    def evil():\n        read, _ = os.pipe()\n"
        "        owner = attempt(lambda: fcntl.fcntl(read, fcntl.F_SETOWN, os.getppid()))\n"
        "        signal = attempt(lambda: fcntl.fcntl(read, fcntl.F_SETSIG, 9))\n"
        "        return [owner, signal, attempt(lambda: fcntl.fcntl(read, fcntl.F_GETFL))]",
        "ok",
        '["refused 13", "refused 13", "done',
    ),
    Hostile("new session", TRIES + "\n    def evil(): return attempt(os.setsid)", "ok", "refused"),
    Hostile(
        "outlive the parent",
        "import ctypes\ndef evil(): return ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)",
        "ok",
        "-1",
    ),
    Hostile(
        "ptrace", "import ctypes, os\ndef evil(): return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)", "ok", "-1"
    ),
    Hostile(
        "read the parent's memory",
        "import ctypes, os\ndef evil(): return ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)",
        "ok",
        "-1",
    ),
    Hostile(
        "raise the limits",
        "import resource\ndef evil(): resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "error",
    ),
    Hostile(
        "32-bit system calls",
        "import ctypes\ndef evil(): return ctypes.CDLL(None).syscall(0x40000000 | 39)",
        "crash ok",
    ),
    Hostile(
        "unshare",
        "import ctypes\ndef evil(): return ctypes.CDLL(None).unshare(0x10000000)",
        "ok",
        "-1",
    ),
    Hostile(
        "thread bomb",
        "import threading, time\ndef evil():\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(60,)).start()",
        "error memory timeout",
    ),
    Hostile(
        "threads left over",
        "import threading, builtins\ndef work():\n    while True:\n        builtins.sum = lambda *a: 666\n"
        "def evil():\n    threading.Thread(target=work, daemon=True).start()\n    return 'left'",
        "ok",
        "left",
    ),
]
TIME = [
    Hostile("endless loop", "def evil():\n    while True:\n        pass", "timeout"),
    Hostile("endless loop, isolated", "import sys\ndef evil():\n    while True:\n        pass", "timeout"),
    Hostile(
        "loop that catches everything",
        "def evil():\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException:\n            pass",
        "timeout",
    ),
    Hostile("regex that holds the lock", "import re\ndef evil(): return re.match('(a+)+$', 'a' * 60 + 'b')", "timeout"),
    Hostile("loop in C", "def evil(): return sum(range(10 ** 13))", "timeout"),
    Hostile("sleep", "import time\ndef evil(): time.sleep(3600)", "timeout"),
    Hostile("loop at import", "while True:\n    pass\ndef evil(): pass", "timeout"),
    Hostile(
        "signals masked",
        "import signal\ndef evil():\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n    while True: pass",
        "timeout",
    ),
    Hostile(
        "signals ignored",
        "import signal\nfor number in (signal.SIGPROF, signal.SIGXCPU, signal.SIGTERM):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "def evil():\n    while True: pass",
        "timeout",
    ),
    Hostile(
        "loop while collected",
        "class Evil:\n    def __del__(self):\n        while True: pass\ndef evil():\n    Evil()\n    return 1",
        "timeout",
    ),
    Hostile(
        "loop while printed",
        "class Evil:\n    def __str__(self):\n        while True: pass\ndef evil(): return Evil()",
        "timeout",
    ),
    Hostile("huge power", "def evil(): return len(str(10 ** 10 ** 8 % 7 ** 10 ** 7))", "timeout error memory"),
    Hostile(
        "progress forged",
        CHANNEL
        + "\n    def evil():\n        for thing in gc.get_objects():\n            if isinstance(thing, mmap.mmap):\n"
        "                struct.pack_into('<qd', thing, 0, 5, 1e18)\n        while True: pass",
        "timeout",
    ),
]
MEMORY = [
    Hostile("memory bomb", "def evil(): return len('x' * (1 << 40))", "memory"),
    Hostile(
        "memory filled slowly",
        "def evil():\n    x = []\n    while True: x.append(' ' * (1 << 20) + str(len(x)))",
        "memory",
    ),
    Hostile("memory bomb, isolated", "import sys\ndef evil(): return len(bytearray(1 << 33))", "memory"),
    Hostile("mapped memory", "import mmap\ndef evil(): return len(mmap.mmap(-1, 1 << 34))", "error memory"),
    Hostile("shared memory", TRIES + "\n    def evil(): return attempt(lambda: os.memfd_create('x'))", "ok", "refused"),
    Hostile("endless recursion", "def evil(): return evil()", "error", "recursion"),
    Hostile(
        "recursion without limit",
        "import sys\ndef evil():\n    sys.setrecursionlimit(1 << 30)\n    def down(x): return [down([x])]\n"
        "    return down(1)",
        "crash memory error timeout",
    ),
    Hostile("nested source", "def evil(): return " + "(" * 5000 + ")" * 5000, "error crash"),
    Hostile("nested operators", "def evil(): return " + "-" * 50_000 + "1", "error crash memory"),
    Hostile(
        "memory error caught",
        "def evil():\n    try:\n        'x' * (1 << 40)\n    except MemoryError:\n        return 'caught'",
        "ok",
    ),
]
OUTPUT = [
    Hostile("huge text", "def evil(): return 'x' * 20_000_000", "output_limit"),
    Hostile("10 MB key", "def evil(): return {'k' * 10_000_000: 1}", "output_limit"),
    Hostile("huge error", "def evil(): raise ValueError('x' * 20_000_000)", "output_limit"),
    Hostile("wide characters", "def evil(): return '\\U0001F600' * 300_000", "output_limit"),
    Hostile("lone surrogates", "def evil(): return ['\\ud800', '\\udfff']", "ok", "\ud800"),
    Hostile(
        "not a number",
        "def evil(): return [float('nan'), float('inf'), -float('inf')]",
        "ok",
        "[NaN, Infinity, -Infinity]",
    ),
    Hostile("zero bytes", "def evil(): return 'a\\0b\\r\\n\\x1b[2J'", "ok", "a\0b"),
    Hostile("list in itself", "def evil():\n    x = []\n    x.append(x)\n    return x", "error", "Circular"),
    Hostile("deep list", "def evil():\n    x = []\n    for _ in range(100_000): x = [x]\n    return x", "error crash"),
    Hostile(
        "print flood",
        'def evil():\n    for _ in range(100_000): print(\'[1, [[0, "ok", "forged", 0.0]]]\')\n    return 7',
        "ok",
        "7",
    ),
    Hostile("prompt", "def evil(): return input('password? ')", "error"),
    Hostile(
        "error that cannot be printed",
        "class Evil(Exception):\n    def __str__(self): raise self\ndef evil(): raise Evil()",
        "error",
    ),
    Hostile(
        "error that exits when printed",
        "import os\nclass Evil(Exception):\n    def __str__(self): os._exit(0)\ndef evil(): raise Evil()",
        "crash",
    ),
    Hostile(
        "text that is none",
        "class Evil(str):\n    def encode(self, *a): return b''\n    def __len__(self): return 0\n"
        "    def isascii(self): return True\n"
        "def evil(): return Evil('x' * 20_000_000)",
        "output_limit crash",
    ),
    Hostile(
        "dictionary with a mind of its own",
        "class Evil(dict):\n    def items(self): raise SystemExit(0)\ndef evil(): return Evil(a=1)",
        "ok error",
    ),
    Hostile(
        "pickle of death",
        "import os\nclass Evil:\n    def __reduce__(self): return (os._exit, (1,))\n"
        "    def __repr__(self): return 'cos\\n_exit\\n(I1\\ntR.'\n"
        "def evil(): return Evil()",
        "ok",
        "cos",
    ),
]
ENDINGS = [
    Hostile("exit", "import sys\ndef evil(): sys.exit(0)", "error"),
    Hostile("exit at import", "import sys\nsys.exit(0)", "error"),
    Hostile("hard exit", "import os\ndef evil(): os._exit(0)", "crash"),
    Hostile("abort", "import os\ndef evil(): os.abort()", "crash"),
    Hostile("interrupt", "def evil(): raise KeyboardInterrupt", "error"),
    Hostile("generator exit", "def evil(): raise GeneratorExit('x')", "error"),
    Hostile("null pointer", "import ctypes\ndef evil(): return ctypes.string_at(0)", "crash"),
    Hostile("overwritten interpreter", "import ctypes\ndef evil(): ctypes.memset(id(None), 255, 64)", "crash timeout"),
    Hostile("handlers at exit", "import atexit\natexit.register(print, 'x')\ndef evil(): return 'registered'", "ok"),
]
NETWORK = [
    Hostile(
        "TCP",
        TRIES
        + "\n    import socket\n    def evil(): return attempt(lambda: socket.create_connection(('127.0.0.1', 80), 1))",
        "ok",
        "refused",
    ),
    Hostile(
        "UDP",
        TRIES + "\n    import socket\n    def evil(): return attempt(lambda: socket.socket(2, 2))",
        "ok",
        "refused",
    ),
    Hostile(
        "local socket",
        TRIES + "\n    import socket\n    def evil(): return attempt(lambda: socket.socket(socket.AF_UNIX))",
        "ok",
        "refused",
    ),
    Hostile(
        "netlink",
        TRIES + "\n    import socket\n    def evil(): return attempt(lambda: socket.socket(16, 3))",
        "ok",
        "refused",
    ),
    Hostile(
        "web", "import urllib.request\ndef evil(): return urllib.request.urlopen('http://127.0.0.1/').read()", "error"
    ),
    Hostile("names", "import socket\ndef evil(): return socket.getaddrinfo('localhost', 80)", "error"),
    Hostile(
        "pass a descriptor out",
        CHANNEL + "\n    import socket\n    def evil():\n        for fd in channels():\n            try:\n"
        "                socket.send_fds(socket.socket(fileno=fd), [b'x'], [0])\n                return 'sent'\n"
        "            except OSError: pass\n        return 'refused'",
        "ok",
        "refused",
    ),
]
FILES = [
    Hostile("write a file", "def evil(path): open(path, 'w').write('x')", "error", "ermission", {"path": "TMP/evil"}),
    Hostile("append to a file", "def evil(path): open(path, 'a').write('x')", "error", "ermission", {"path": "SECRET"}),
    Hostile("read the project", "def evil(path): return open(path).read()", "error", "ermission", {"path": "SECRET"}),
    Hostile("read the worker", "def evil(path): return open(path).read()", "error", "ermission", {"path": "WORKER"}),
    Hostile("own environment", "def evil(): return open('/proc/self/environ').read()", "error", "ermission"),
    Hostile(
        "parent's environment",
        "import os\ndef evil(): return open(f'/proc/{os.getppid()}/environ').read()",
        "error",
        "ermission",
    ),
    Hostile(
        "all environments",
        "import glob\ndef evil(): return [open(p).read() for p in glob.glob('/proc/*/environ')]",
        "ok",
        "[]",
    ),
    Hostile(
        "variables", "import os, sys\ndef evil(): return str(dict(os.environ)) + str(os.environb) + str(sys.argv)", "ok"
    ),
    Hostile("own memory", "def evil(): return open('/proc/self/mem', 'r+b')", "error", "ermission"),
    Hostile("users", "def evil(): return open('/etc/passwd').read()", "error", "ermission"),
    Hostile("root folder", "import os\ndef evil(): return os.listdir('/')", "error", "ermission"),
    Hostile("temporary file", "import tempfile\ndef evil(): return tempfile.NamedTemporaryFile().name", "error"),
    Hostile(
        "database",
        "import sqlite3\ndef evil(path): return sqlite3.connect(path).execute('create table t (a)')",
        "error",
        "",
        {"path": "TMP/evil"},
    ),
    Hostile(
        "delete",
        TRIES + "\n    def evil(path): return attempt(lambda: os.unlink(path))",
        "ok",
        "refused",
        {"path": "SECRET"},
    ),
    Hostile(
        "rename",
        TRIES + "\n    def evil(path): return attempt(lambda: os.rename(path, path + 'x'))",
        "ok",
        "refused",
        {"path": "SECRET"},
    ),
    Hostile(
        "make a folder",
        TRIES + "\n    def evil(path): return attempt(lambda: os.mkdir(path))",
        "ok",
        "refused",
        {"path": "TMP/evil"},
    ),
    Hostile(
        "make a link",
        TRIES + "\n    def evil(path): return attempt(lambda: os.symlink('/', path))",
        "ok",
        "refused",
        {"path": "TMP/evil"},
    ),
    Hostile(
        "change rights",
        TRIES + "\n    def evil(path): return attempt(lambda: os.chmod(path, 0))",
        "ok",
        "refused",
        {"path": "SECRET"},
    ),
    Hostile(
        "truncate",
        TRIES + "\n    def evil(path): return attempt(lambda: os.truncate(path, 0))",
        "ok",
        "refused",
        {"path": "SECRET"},
    ),
    Hostile(
        "import the project",
        "import sys\ndef evil(path):\n    sys.path.insert(0, path)\n    import env_construction.environment.matching",
        "error",
        "",
        {"path": "ROOT"},
    ),
    Hostile(
        "raw system call",
        "import ctypes\ndef evil(path): return ctypes.CDLL(None).open(path.encode(), 0)",
        "ok",
        "-1",
        {"path": "SECRET"},
    ),
    Hostile(
        "io_uring",
        "import ctypes\ndef evil(): return ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(256))",
        "ok",
        "-1",
    ),
]
STATE = [
    Hostile(
        "builtins patched",
        "import builtins\ndef evil():\n    builtins.sum = builtins.len = lambda *a: 666\n    return sum([1])",
        "ok crash timeout",
    ),
    Hostile(
        "builtins of the module",
        "def evil():\n    __builtins__['sum'] = lambda *a: 666\n    return sum([1])",
        "ok",
        "666",
    ),
    Hostile(
        "library patched",
        "import json\ndef evil():\n    json.dumps = lambda *a, **k: 'patched'\n    return 'done'",
        "ok",
        "done",
    ),
    Hostile(
        "library patched by name",
        "import json\ndef evil():\n    setattr(json, 'dumps', lambda *a, **k: 'patched')\n    return 'done'",
        "ok",
    ),
    Hostile(
        "library patched under another name",
        "import json\ndef evil():\n    alias = json\n    alias.dumps = None\n    return 'done'",
        "ok",
    ),
    Hostile(
        "modules poisoned",
        "import sys\ndef evil():\n    sys.modules['json'] = sys.modules['math'] = None\n    return 'done'",
        "ok",
        "done",
    ),
    Hostile(
        "import hook",
        "import sys\nclass Hook:\n    def find_spec(self, *a): raise SystemExit(1)\n"
        "sys.meta_path.insert(0, Hook())\nsys.modules.clear()\n"
        "def evil(): return 'hooked'",
        "ok error crash",
    ),
    Hostile(
        "worker patched",
        "import sys\ndef evil():\n    sys.modules['__main__'].render = lambda value: 'forged'\n    return 'done'",
        "ok",
        "done",
    ),
    Hostile(
        "tracing",
        "import sys\ndef evil():\n    sys.settrace(lambda *a: 1 / 0)\n    sys.setprofile(lambda *a: None)\n"
        "    return 'traced'",
        "ok error",
    ),
    Hostile(
        "collector",
        "import gc\ndef evil():\n    gc.disable()\n    gc.callbacks.append(lambda *a: 1 / 0)\n    return 'done'",
        "ok",
    ),
    Hostile(
        "random",
        "import random\ndef evil():\n    random.seed(1)\n    random.random = lambda: 4\n    return random.random()",
        "ok",
        "4",
    ),
    Hostile(
        "locale and time zone",
        "import os, time\ndef evil():\n    os.environ['TZ'] = 'Asia/Tokyo'\n    time.tzset()\n    return 'set'",
        "ok",
        "set",
    ),
    Hostile(
        "search the memory",
        "import gc\n"
        "def evil(): return [str(x) for x in gc.get_objects() if 'another-environment' in str(x)[:100_000] "
        "and 'gc' not in str(x)]",
        "ok crash error timeout output_limit",
    ),
    Hostile(
        "walk the frames",
        "import sys\ndef evil():\n    seen = ''\n    frame = sys._getframe()\n    while frame:\n"
        "        seen += str(frame.f_locals)\n"
        "        frame = frame.f_back\n    return seen",
        "ok error",
    ),
    Hostile(
        "frames from a generator",
        "def evil():\n    g = (g.gi_frame.f_back.f_back for _ in [1])\n    return str([*g][0].f_globals)",
        "ok error",
    ),
    Hostile(
        "frames from an error",
        "def evil():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n"
        "        frame = e.__traceback__.tb_frame\n"
        "        while frame.f_back: frame = frame.f_back\n"
        "        return (str(frame.f_globals) + str(frame.f_locals)).replace(' at 0x', '')",
        "ok",
    ),
    Hostile(
        "attributes by format",
        "import json\ndef evil(): return '{0.codecs.sys.modules[__main__].__dict__}'.format(json)",
        "ok error",
    ),
    Hostile(
        "attributes by a bound format",
        "def evil():\n    f = '{0.__globals__}'.format\n    return f(evil).replace(' at 0x', '')",
        "ok",
    ),
    Hostile(
        "attributes by map",
        "def evil(): return [*map(str.format, ['{0.__globals__}'], [evil])][0].replace(' at 0x', '')",
        "ok",
    ),
    Hostile("subclasses", "def evil(): return str(().__class__.__base__.__subclasses__())", "ok"),
    Hostile(
        "code from text",
        "def evil(): return str(eval('__import__(\"sys\").modules')['__main__'].__dict__).replace(' at 0x', '')",
        "ok",
    ),
    Hostile("default argument", "def evil(seen=[]):\n    seen.append(1)\n    return len(seen)", "ok", "1"),
]
PROTOCOL = [
    Hostile(
        "garbage to every descriptor",
        CHANNEL + "\n    def evil():\n        for fd in channels():\n            try: os.write(fd, b'\\xff' * 4096)\n"
        "            except OSError: pass\n        return 1",
        "crash",
    ),
    Hostile(
        "frame with a guessed nonce",
        CHANNEL + "\n    def evil():\n        forge('00' * 8, [[0, 'ok', 'forged', 0.0]])\n        return 1",
        "crash",
    ),
    Hostile(
        "result of another call",
        CHANNEL + "\n    def evil():\n        forge(nonce(), [[1, 'ok', 'forged', 0.0], [0, 'ok', 'x', 0.0]])\n"
        "        return 1",
        "crash ok",
    ),
    Hostile(
        "sandbox blamed",
        CHANNEL + "\n    def evil():\n        forge(nonce(), [[0, 'fault', 'x', 0.0]])\n        return 1",
        "crash",
    ),
    Hostile(
        "result of the wrong type",
        CHANNEL + "\n    def evil():\n        forge(nonce(), [[0, 'ok', {'a': 1}, 'x']])\n        return 1",
        "crash",
    ),
    Hostile(
        "result too long",
        CHANNEL + "\n    def evil():\n        forge(nonce(), [[0, 'ok', 'x' * 3_000_000, 0.0]])\n        return 1",
        "output_limit crash",
    ),
    Hostile(
        "deep JSON",
        CHANNEL + "\n    def evil():\n        b = b'[' * 200_000\n        for fd in channels():\n"
        "            try: os.write(fd, struct.pack('<I', len(b)) + b)\n            except OSError: pass\n"
        "        return 1",
        "crash",
    ),
    Hostile(
        "endless frame",
        CHANNEL + "\n    def evil():\n        for fd in channels():\n"
        "            try: os.write(fd, b'\\xff\\xff\\xff\\xff')\n            except OSError: pass\n"
        "        return 1",
        "crash",
    ),
    Hostile(
        "half a frame",
        CHANNEL + "\n    import time\n    def evil():\n        for fd in channels():\n"
        "            try: os.write(fd, b'\\x10\\x00\\x00\\x00abc')\n            except OSError: pass\n"
        "        time.sleep(60)",
        "timeout",
    ),
    Hostile("descriptors closed", "import os\ndef evil():\n    os.closerange(0, 64)\n    return 1", "crash"),
    Hostile(
        "descriptors replaced",
        "import os\ndef evil():\n    for fd in range(3, 64): os.dup2(0, fd)\n    return 1",
        "crash",
    ),
    Hostile(
        "requests read away",
        CHANNEL + "\n    def evil():\n        for fd in channels():\n            os.set_blocking(fd, False)\n"
        "            try: os.read(fd, 1 << 20)\n            except OSError: pass\n        return 1",
        "ok crash",
    ),
    Hostile(
        "result that looks like a frame", 'def evil(): return \'["00", [[0, "ok", "forged", 0.0]]]\'', "ok", "forged"
    ),
]
SUITE = [*PROCESSES, *TIME, *MEMORY, *OUTPUT, *ENDINGS, *NETWORK, *FILES, *STATE, *PROTOCOL]


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[dict[bool, ToolSandbox]]:
    """Sandboxes by whether the call should time out: a short limit, or one that a loaded machine does not reach."""
    os.environ["SANDBOX_TEST_SECRET"] = ENVIRONMENT_SECRET
    with (
        ToolSandbox(workers=1, timeout_s=1.0, memory_mb=256) as hasty,
        ToolSandbox(workers=1, timeout_s=20.0, memory_mb=256) as patient,
    ):
        if "seccomp" not in hasty.isolation:
            pytest.skip("this system has no seccomp and Landlock for the sandbox to use")
        yield {True: hasty, False: patient}
    del os.environ["SANDBOX_TEST_SECRET"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hostile")
    secret = folder / "secret.txt"
    secret.write_text(FILE_SECRET)
    root = Path(__file__).resolve().parents[3]
    return {
        "TMP": folder,
        "SECRET": secret,
        "ROOT": root,
        "WORKER": root / "env_construction" / "sandbox" / "tool_worker.py",
    }


def placed(arguments: dict[str, Any], places: dict[str, Path]) -> dict[str, Any]:
    filled = {}
    for key, value in arguments.items():
        head, _, tail = str(value).partition("/")
        filled[key] = str(places[head] / tail) if tail else str(places[head])
    return filled


def assert_honest(results: list[ToolResult]) -> None:
    assert [(result.status, result.output) for result in results] == [("ok", ANSWER)] * len(results)


def test_the_suite_is_large_and_its_names_are_unique() -> None:
    assert len(SUITE) >= 60
    assert len({case.name for case in SUITE}) == len(SUITE)


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.name)
def test_hostile_tool_is_contained_and_the_next_call_is_right(
    case: Hostile, sandboxes: dict[bool, ToolSandbox], places: dict[str, Path]
) -> None:
    sandbox = sandboxes["timeout" in case.statuses]
    codes = {**HONEST, "evil": textwrap.dedent(case.source)}
    honest = ToolCall("add", {"a": 40, "b": 2})
    sandbox.run(HONEST, [ToolCall("foreign", {})])
    before, evil, beside = sandbox.run(codes, [honest, ToolCall("evil", placed(case.arguments, places)), honest])
    again = (
        sandbox.run(codes, [ToolCall("evil", placed(case.arguments, places)), honest])[-1]
        if evil.ok
        else honest_now(sandbox)
    )
    assert_honest([before, beside, again, honest_now(sandbox)])
    assert evil.status in case.statuses.split(), (evil.status, evil.output[:300])
    assert case.holds in evil.output, evil.output[:300]
    for secret in (ENVIRONMENT_SECRET, FILE_SECRET, FOREIGN_SECRET):
        assert secret not in evil.output
    assert places["SECRET"].read_text() == FILE_SECRET
    assert os.listdir(places["TMP"]) == ["secret.txt"]


def honest_now(sandbox: ToolSandbox) -> ToolResult:
    return sandbox.run(HONEST, [ToolCall("add", {"a": 40, "b": 2})])[0]
