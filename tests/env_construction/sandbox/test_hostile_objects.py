"""Tools that use Python's data model against other calls: each row of GADGETS is a tool `evil` of one environment.

Whatever it does, honest calls before it, beside it (the same response), and after it (its own environment, another one,
later batches) give what they give in a sandbox that has never seen it.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

import pytest

from env_construction.sandbox.code_proof import why_unproven
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult, ToolSandbox

SAME = {
    "dump": "import json\ndef dump(n): return json.dumps({'n': n, 'list': list(range(n))}, sort_keys=True)",
    "many": "import datetime, math, random, re, statistics\ndef many(n):\n"
    "    day = datetime.datetime.strptime('2024-02-29', '%Y-%m-%d') + datetime.timedelta(days=n)\n"
    "    return {'day': day.isoformat(), 'root': math.sqrt(n), 'random': random.random(), 'found': re.findall('[0-9]', f'a{n}b{n}'),\n"
    "            'mean': statistics.mean([1, n]), 'sum': sum([n, 1]), 'sorted': sorted([n, 2, 1]), 'big': len(str(10 ** 3000))}",
    "isolated": "import os, json\nclass Sum:\n    def __init__(self, n): self.n = n\n    def __add__(self, other): return self.n + other\n"
    "def isolated(n): return json.dumps([Sum(n) + 1, os.getcwd()])",
}
OTHER = {
    "capital": "import json\ndef capital(country): return {'capital': {'France': 'Paris', 'Peru': 'Lima'}[country]}",
    "deep": "import decimal\nD = decimal.Decimal\ndef depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
    "def deep(n): return f'{depth(n)} {D(1) / D(7)} {len(bytes(80000000))}'",
    "fails": "def fails(x): return int(x)",
}
SAME_CALLS = [ToolCall("dump", {"n": 3}), ToolCall("many", {"n": 5}), ToolCall("isolated", {"n": 4})]
OTHER_CALLS = [ToolCall("capital", {"country": "Peru"}), ToolCall("deep", {"n": 400}), ToolCall("fails", {"x": "q"})]

MAKE = "make = lambda name, bases, names: type(int)(name, bases, names)\n"
GADGETS: dict[str, str] = {
    # -- reports C1 and C2, and variants of how a class is made
    "reduce_ex sets json.dumps' defaults": """
        import copy, json
        real = json.JSONEncoder
        Enc = type(int)("Enc", (real,), {"encode": lambda self, o: '["x", "FORGED Paris 1 2 3"]'})
        def state(self, p):
            return (lambda: json.dumps, (), (None, {"__kwdefaults__": {"skipkeys": False, "ensure_ascii": True, "check_circular": True,
                "allow_nan": True, "cls": Enc, "indent": None, "separators": None, "default": None, "sort_keys": False}}))
        Gate = type(int)("Gate", (object,), {"__reduce_ex__": state})
        def evil():
            copy.copy(Gate())
            return 'planted'
    """,
    "finalizer in a cycle": """
        def loop(self):
            while True: pass
        def evil():
            Bomb = type(int)("Bomb", (dict,), {"__del__": loop})
            bomb = Bomb()
            bomb['me'] = bomb
            return 'planted'
    """,
    "type in a lambda": "kind = (lambda x: type(x))(int)\ndef evil(): return kind('A', (), {'__del__': print})().__class__.__name__",
    "type in a comprehension": "def evil(): return [type(x) for x in [int]][0]('A', (dict,), {'__del__': print})()",
    "type in a dictionary": "kinds = {'k': type(int)}\ndef evil(): return str(kinds['k']('A', (dict,), {})())",
    "type as a default": "def evil(kind=type(int)): return str(kind('A', (dict,), {})())",
    "type by map": "def evil(): return str([*map(type, [int])][0]('A', (dict,), {})())",
    "type by a conditional": "def evil(): return str((type(int) if True else 0)('A', (dict,), {})())",
    "type by an assignment": "def evil():\n    if (kind := type(int)) is not None:\n        return str(kind('A', (dict,), {})())",
    "type by Counter.copy": "from collections import Counter\nkind = Counter.copy(int)\ndef evil(): return str(kind('A', (dict,), {'__del__': print})())",
    "type by an alias of Counter": "import collections\nC = [collections.Counter][0]\ndef evil(): return str(C.copy(int)('A', (dict,), {})())",
    "type by Counter in a text": "from collections import Counter\ndef evil(): return str(eval(\"[Counter][0].copy(int)('A', (dict,), {})\"))",
    "type by Counter given in a text": "from collections import Counter\nf = lambda c: c.copy(int)\ndef evil(): return str(eval(\"f(Counter)('A', (dict,), {})()\"))",
    "type by Counter bound while a text runs": """
        f = lambda c: c.copy(int)
        def bind():
            global C
            from collections import Counter as C
        def evil(): return str(eval("[bind(), f(C)('A', (dict,), {})()]"))
    """,
    "type through the builtins of eval": """
        def evil():
            names = {}
            eval('1', names)
            seen = names['__builtins__']
            out = sorted(seen)
            seen['sum'] = seen['len'] = lambda *a: 666
            return str('open' in out) + str(seen.get('type', 0))
    """,
    "real builtins through eval": """
        def evil():
            names = {}
            eval('1', names)
            names['__builtins__']['__import__']('json').dumps = lambda *a, **k: 'FORGED'
            return 'planted'
    """,
    # -- functions and classes of the library changed
    "json.dumps replaced": "import json\ndef evil():\n    json.dumps = lambda *a, **k: 'FORGED'\n    return 1",
    "json encoder replaced": "import json.encoder\ndef evil():\n    json.encoder.c_make_encoder = None\n    json.encoder.JSONEncoder.encode = lambda *a: 'FORGED'\n    return 1",
    "re replaced": "import re\ndef evil():\n    re.findall = lambda *a: ['FORGED']\n    re._cache.clear()\n    return 1",
    "datetime replaced": "import datetime\ndef evil():\n    datetime.datetime = None\n    return 1",
    "random replaced": "import random\ndef evil():\n    random.random = lambda: 0.5\n    random.seed = lambda *a: None\n    return 1",
    "math replaced": "import math\ndef evil():\n    math.sqrt = lambda x: -1\n    return 1",
    "functools.wraps(json.dumps)": "import functools, json\ndef evil():\n    functools.wraps(lambda: 1)(json.dumps)\n    return 1",
    "functools.update_wrapper": "import functools, json\ndef evil():\n    functools.update_wrapper(json.loads, evil)\n    return 1",
    "total_ordering on a library class": "import functools, fractions\ndef evil():\n    functools.total_ordering(fractions.Fraction)\n    return 1",
    "typing.no_type_check(json.dumps)": "import json, typing\ndef evil():\n    typing.no_type_check(json.dumps)\n    return 1",
    "typing.final on a library class": "import json, typing\ndef evil():\n    typing.final(json.JSONDecoder)\n    return 1",
    "function defaults": "import json\ndef evil():\n    json.dumps.__kwdefaults__['indent'] = 7\n    json.loads.__defaults__ = (1,)\n    return 1",
    "function code": "import statistics\ndef evil():\n    statistics.mean.__code__ = (lambda x: 666).__code__\n    return 1",
    "setattr by map": "import json\ndef evil(): return str([*map(setattr, [json], ['dumps'], [None])])",
    "operator.attrgetter": "import json, operator\ndef evil():\n    operator.attrgetter('__dict__')(json)['dumps'] = None\n    return 1",
    "operator.methodcaller": "import json, operator\ndef evil():\n    operator.methodcaller('__setattr__', 'dumps', None)(json)\n    return 1",
    "builtins edited": "def evil():\n    __builtins__['sum'] = __builtins__['sorted'] = lambda *a, **k: 666\n    return 1",
    "builtins replaced by import": "import builtins\ndef evil():\n    builtins.len = builtins.range = builtins.str = None\n    return 1",
    "sys.modules edited": "import sys\ndef evil():\n    sys.modules['json'] = sys.modules['re'] = sys.modules['datetime'] = None\n    return 1",
    "import hook": "import sys\nclass Hook:\n    def find_spec(self, *a): raise SystemExit\nsys.meta_path.insert(0, Hook())\ndef evil(): return 1",
    "module __getattr__": "import sys\nsys.modules[__name__].__getattr__ = lambda name: 1 / 0\ndef evil(): return 1",
    "module class assigned": "import json, types\nclass M(types.ModuleType):\n    def __getattribute__(self, n): return lambda *a, **k: 'FORGED'\ndef evil():\n    json.__class__ = M\n    return 1",
    "linecache": "import linecache\ndef evil():\n    linecache.getline = None\n    linecache.cache = None\n    return 1",
    "abc registered": "import collections.abc\ndef evil():\n    collections.abc.Mapping.register(int)\n    collections.abc.Sequence.register(float)\n    return 1",
    # -- special methods
    "equality that lies": "class E:\n    def __eq__(self, o): return True\n    def __hash__(self): return hash('sum')\ndef evil(): return str({E(): 1}.get('sum'))",
    "hash that changes": "class H(str):\n    n = 0\n    def __hash__(self):\n        H.n += 1\n        return H.n\ndef evil(): return str(len({H('a'), H('a')}))",
    "instancecheck": "class M(type):\n    def __instancecheck__(self, o): return True\nclass I(metaclass=M): pass\ndef evil(): return str(isinstance(1, I))",
    "init_subclass": "class B:\n    def __init_subclass__(cls): B.seen = cls\nclass C(B): pass\ndef evil(): return str(B.seen is C)",
    "set_name": "class D:\n    def __set_name__(self, owner, name):\n        import json\n        json.dumps = None\nclass C: d = D()\ndef evil(): return 1",
    "descriptor": "import fractions\nclass D:\n    def __get__(self, o, t): raise SystemExit\ndef evil():\n    fractions.Fraction.numerator = D()\n    return 1",
    "format method": "class F:\n    def __format__(self, spec):\n        import re\n        re.findall = None\n        return 'f'\ndef evil(): return f'{F()}'",
    "str that patches": "class S:\n    def __str__(self):\n        import json\n        json.dumps = None\n        return 's'\ndef evil(): return S()",
    "dict that patches when encoded": "import json\nclass S(dict):\n    def items(self):\n        json.encoder.encode_basestring_ascii = None\n        return []\ndef evil(): return S(a=1)",
    "class assignment": "class A: pass\nclass B:\n    def __str__(self): return 'B'\ndef evil():\n    a = A()\n    a.__class__ = B\n    return str(a)",
    "getattribute": "class G:\n    def __getattribute__(self, n): return evil\ndef evil(): return G().x is evil",
    "exception whose text patches": "class E(Exception):\n    def __str__(self):\n        import json\n        json.dumps = None\n        return 'e'\ndef evil(): raise E",
    "attributes by format": "import json\ndef evil(): return '{0.__globals__[JSONEncoder].__init__.__kwdefaults__}'.format(json.dumps)",
    "subclasses": "def evil():\n    for kind in ().__class__.__base__.__subclasses__():\n        try: kind.__init__ = None\n        except TypeError: pass\n    return 1",
    # -- what runs later
    "generator left open": "kept = []\ndef g():\n    try:\n        yield 1\n    finally:\n        while True: pass\ndef evil():\n    x = g()\n    next(x)\n    kept.append((x, kept))\n    return 1",
    "generator in a cycle": "def g(box):\n    box.append(1)\n    try: yield 1\n    except GeneratorExit:\n        import json\n        json.dumps = None\ndef evil():\n    box = []\n    x = g(box)\n    next(x)\n    box.append(x)\n    return 1",
    "thread": "import threading, time, json\ndef work():\n    while True: json.dumps = None\ndef evil():\n    threading.Thread(target=work, daemon=True).start()\n    return 1",
    "thread by _thread": "import _thread\ndef work():\n    while True: pass\ndef evil():\n    _thread.start_new_thread(work, ())\n    return 1",
    "timer": "import threading, os\ndef evil():\n    threading.Timer(0.05, os.abort).start()\n    return 1",
    "atexit": "import atexit\ndef loop():\n    while True: pass\ndef evil():\n    atexit.register(loop)\n    return 1",
    "gc callback": "import gc\ndef evil():\n    gc.callbacks.append(lambda *a: 1 / 0)\n    gc.set_threshold(1)\n    return 1",
    "weakref finalizer": "import weakref\nclass A: pass\nkept = A()\ndef loop():\n    while True: pass\ndef evil():\n    weakref.finalize(kept, loop)\n    return 1",
    "signal handler": "import signal\ndef evil():\n    signal.signal(signal.SIGALRM, lambda *a: 1 / 0)\n    signal.setitimer(signal.ITIMER_REAL, 0.05)\n    return 1",
    "CPU timer left": "import signal\ndef evil():\n    signal.setitimer(signal.ITIMER_PROF, 0.05)\n    return 1",
    "trace and profile": "import sys\ndef evil():\n    sys.setprofile(lambda *a: 1 / 0)\n    sys.settrace(lambda *a: 1 / 0)\n    return 1",
    "audit hook": "import sys\ndef evil():\n    sys.addaudithook(lambda *a: 1 / 0)\n    return 1",
    "excepthook and displayhook": "import sys\ndef evil():\n    sys.excepthook = sys.unraisablehook = lambda *a: 1 / 0\n    return 1",
    # -- settings of the interpreter
    "decimal precision": "import decimal\ndef evil():\n    decimal.getcontext().prec = 2\n    decimal.DefaultContext.prec = 2\n    return 1",
    "recursion limit": "import sys\ndef evil():\n    sys.setrecursionlimit(60)\n    return 1",
    "digits of numbers": "import sys\ndef evil():\n    sys.set_int_max_str_digits(640)\n    return 1",
    "locale": "import locale\ndef evil():\n    locale.setlocale(locale.LC_ALL, 'C')\n    locale.getlocale = None\n    return 1",
    "warnings": "import warnings\ndef evil():\n    warnings.simplefilter('error')\n    warnings.showwarning = lambda *a, **k: 1 / 0\n    return 1",
    "codecs": "import codecs\ndef evil():\n    codecs.register(lambda name: 1 / 0)\n    codecs.register_error('strict', lambda e: ('', 0))\n    return 1",
    "time zone": "import os, time\ndef evil():\n    os.environ['TZ'] = 'Asia/Tokyo'\n    time.tzset()\n    return 1",
    "first day of the week": "import calendar\ndef evil():\n    calendar.setfirstweekday(6)\n    calendar.mdays[2] = 99\n    return 1",
    "intern and switch interval": "import sys\ndef evil():\n    sys.setswitchinterval(100)\n    return 1",
    "standard output closed": "import sys\ndef evil():\n    sys.stdout.close()\n    sys.stderr = None\n    return 1",
    # -- memory, depth, arguments
    "memory left in a cycle": "def evil():\n    box = [bytes(150_000_000)]\n    box.append(box)\n    return 1",
    "memory kept by a function": "def evil():\n    evil_box = [bytes(150_000_000)]\n    f = lambda: (f, evil_box)\n    return 1",
    "memory error kept": "def evil():\n    try:\n        bytes(1 << 40)\n    except MemoryError as e:\n        box = [e]\n        box.append(box)\n    return 1",
    "deep recursion": "def down(n): return down(n + 1)\ndef evil():\n    try:\n        down(0)\n    except RecursionError:\n        return 'deep'",
    "exception in a cycle": "def evil():\n    kept = []\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        kept.append(e)\n        kept.append(kept)\n    return 1",
    "default argument": "def evil(seen=[]):\n    seen.append(1)\n    return len(seen)",
    "closure counter": "def counter():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n        return n\n    return up\nup = counter()\ndef evil(): return up()",
    "argument that grows": "def evil(x=None, **rest):\n    rest['me'] = rest\n    return len(rest)",
    "endless recursion of repr": "def evil():\n    x = []\n    x.append(x)\n    d = {'a': x}\n    return repr(d)",
    "crash in the hash of a deep tuple": "def evil():\n    x = ()\n    for _ in range(200_000): x = (x,)\n    return {x: 1} and 1",
    "crash in a long chain of iterators": "def evil():\n    x = iter([1])\n    for _ in range(300_000): x = map(str, x)\n    return list(x)",
    # -- frames and channels
    "frames by sys": "import sys\ndef evil():\n    frame = sys._getframe()\n    while frame:\n        for name in list(frame.f_globals):\n            if name not in ('__builtins__',): frame.f_globals[name] = None\n        frame = frame.f_back\n    return 1",
    "frames by a traceback": "def evil():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        frame = e.__traceback__.tb_frame\n        while frame.f_back: frame = frame.f_back\n        frame.f_globals['write_frame'] = frame.f_globals['encoded'] = None\n    return 1",
    "frames to every descriptor": "import os, struct\ndef evil():\n    body = b'[\"ok\", \"FORGED\", 0.0]'\n    for fd in range(64):\n        try: os.write(fd, struct.pack('<I', len(body)) + body)\n        except OSError: pass\n    return 1",
    "trailer forged": "import os, struct\ndef evil():\n    for fd in range(3, 64):\n        try: os.write(fd, struct.pack('<Ii', 0xFFFFFFFF, -1))\n        except OSError: pass\n    os._exit(0)",
    "channel filled": "import os\ndef evil():\n    while True: os.write(3, b'\\x00\\x00\\x00\\x00' * 1000)",
    "os.write replaced": "import os\ndef evil():\n    os.write = lambda fd, data: len(data)\n    os._exit = lambda *a: None\n    return 1",
    "clock replaced": "import time\ndef evil():\n    time.monotonic = lambda: -1e18\n    return 1",
    # -- texts for eval
    "eval that patches": "import math\ndef evil(): return str(eval(\"setattr(math, 'sqrt', None)\"))",
    "eval that makes a class": "def evil(): return str(eval(\"type(int)('A', (dict,), {})\"))",
    "eval that imports": "def evil(): return str(eval(\"__import__('json').__dict__.clear()\"))",
    "eval in eval": "def evil(): return str(eval(\"eval('__import__(chr(111)+chr(115))')\"))",
    "eval of a lambda for later": "kept = []\ndef evil():\n    f = eval('lambda: [x for x in [1]]', {})\n    return str(f())",
    "eval that edits its globals": "def evil():\n    g = {}\n    eval('1', g)\n    g['__builtins__'].clear()\n    return 1",
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1, timeout_s=3.0, memory_mb=400) as opened:
        if "seccomp" not in opened.isolation:
            pytest.skip("this system has no seccomp and Landlock for the sandbox to use")
        yield opened


def shown(results: list[ToolResult]) -> list[tuple[str, str]]:
    return [(result.status, result.output) for result in results]


@pytest.fixture(scope="module")
def expected() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What the honest calls give in a sandbox that has never seen a gadget."""
    with ToolSandbox(workers=1, timeout_s=30.0, memory_mb=400) as clean:
        same, other = (shown(clean.run(*job)) for job in ((SAME, SAME_CALLS), (OTHER, OTHER_CALLS)))
    assert [status for status, _ in same + other] == ["ok", "ok", "ok", "ok", "ok", "error"]
    return same, other


@pytest.mark.parametrize("name", GADGETS)
def test_honest_calls_before_beside_and_after_a_gadget_are_unchanged(
    name: str, sandbox: ToolSandbox, expected: tuple[list[tuple[str, str]], list[tuple[str, str]]]
) -> None:
    same, other = expected
    codes = {**SAME, "evil": textwrap.dedent(GADGETS[name])}
    evil = ToolCall("evil", {})
    before, poisoned, beside_it, after = sandbox.run_batch(
        [
            SandboxJob(OTHER, OTHER_CALLS),
            SandboxJob(codes, [*SAME_CALLS, evil, *SAME_CALLS, evil]),
            SandboxJob(codes, SAME_CALLS),
            SandboxJob(OTHER, OTHER_CALLS),
        ]
    )
    assert shown(before) == other
    assert shown(poisoned[:3]) == same
    assert shown(poisoned[4:7]) == same
    assert shown(beside_it) == same
    assert shown(after) == other
    assert shown(poisoned[3:4])[0][0] in ("ok", "error", "crash", "timeout", "memory")
    assert shown(poisoned[3:4]) == shown(poisoned[7:]), "a tool's own second call differs from its first"
    later = sandbox.run_batch([SandboxJob(SAME, SAME_CALLS), SandboxJob(OTHER, OTHER_CALLS)])
    assert [shown(results) for results in later] == [same, other]


def test_there_are_at_least_forty_gadgets() -> None:
    assert len(GADGETS) >= 80


@pytest.mark.parametrize("name", [name for name in GADGETS if name.startswith(("type ", "reduce_ex", "finalizer"))])
def test_code_that_obtains_type_as_a_value_is_unproven(name: str) -> None:
    """Where a text for `eval` obtains it, the runner finds out when the text is there."""
    if "eval" not in name and " text" not in name:
        assert why_unproven(ast.parse(textwrap.dedent(GADGETS[name]))) is not None
