"""Which code may share a process: honest tools are plain, and nothing that could leave a trace is."""

from __future__ import annotations

import ast
import importlib
import types

import pytest

from env_construction.plain_code import ATTRIBUTES, MODULES, PLAIN_TYPES, uses_random, why_wild


def reason(source: str) -> str | None:
    return why_wild(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b=2): return {'sum': a + b}",
        "from datetime import datetime\ndef f(d): return datetime.strptime(d, '%Y-%m-%d').year",
        "import datetime\ndef f(): return datetime.datetime(2020, 1, 1).isoformat()",
        "import re, json, math\ndef f(x): return json.dumps(re.findall('a', x)) + str(math.sqrt(4))",
        "def f(x):\n    try:\n        return int(x)\n    except (ValueError, TypeError) as e:\n        return {'error': str(e)}",
        "def f(x): return '{} and {:.2f}'.format(x, 1.0) + f'{x!r:>10}'",
        "def f(x):\n    def inner(y):\n        nonlocal x\n        x += y\n        return x\n    return [inner(i) for i in range(3)]",
        "def f(x):\n    match x:\n        case {'a': y, **rest}: return y\n        case [first, *_]: return first\n        case _: return None",
        "def f(x): return type(x).__name__ if not isinstance(x, str) else sorted(x, key=lambda c: c.lower())",
        "def f():\n    for i in range(3):\n        yield i",
        "import urllib.parse as p\ndef f(x): return p.quote(x)",
        "import no_such_package\ndef f(x): return no_such_package.thing(x).other[1].third",
        "from no_such_package.module import thing\ndef f(x): return thing.other",
        "def f(x): return eval(x, {'__builtins__': None}, {'y': 1})",
        "import random\ndef f(): return random.choice([1, 2])",
    ],
)
def test_honest_tools_are_plain(source: str) -> None:
    assert reason(source) is None


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import sys",
        "import urllib.parse",
        "from json import *",
        "from json import encoder",
        "from . import x",
        "import json\njson.dumps = 1",
        "import json\nx = json",
        "import json\nprint(json)",
        "import json\njson.codecs",
        "import json\ndef f(j=json): pass",
        "import json\njson += 1",
        "import json as j\n[j for _ in [1]]",
        "import string\nstring.Formatter",
        "import functools\nfunctools.wraps",
        "import operator\noperator.attrgetter",
        "import decimal\ndecimal.getcontext()",
        "import calendar\ncalendar.mdays",
        "import collections\ncollections.abc",
        "x.attribute = 1",
        "del x.attribute",
        "x.__class__",
        "x._private",
        "x.gi_frame",
        "x.tb_frame",
        "x.f_back",
        "x.cr_frame",
        "x.mro()",
        "x.obj",
        "'{0.x}'.format(1)",
        "'{0[x]}'.format(1)",
        "'{:{0.x}}'.format(1, 2)",
        "x.format(1)",
        "str.format",
        "x.format_map({})",
        "getattr(x, 'y')",
        "setattr(x, 'y', 1)",
        "map(eval, ['1'])",
        "e = eval",
        "eval = 1",
        "eval(x, locals=y)",
        "import no_such_package as p\np = x\np.anything",
        "import no_such_package\ndef f(no_such_package): return no_such_package.anything",
        "exec('1')",
        "compile('1', '', 'eval')",
        "open('x')",
        "globals()",
        "vars()",
        "dir()",
        "__import__('os')",
        "__builtins__",
        "type('A', (), {})",
        "t = type",
        "map(type, [1])",
        "super()",
        "input()",
        "breakpoint()",
        "memoryview(b'')",
        "class A: pass",
        "async def f(): pass",
        "with x: pass",
        "try:\n    pass\nexcept* ValueError:\n    pass",
        "def f():\n    try:\n        yield 1\n    finally:\n        g()",
        "match x:\n    case int(real=y): pass",
        "def __getattr__(n): pass",
        "lambda __x: 1",
        "f(__x=1)",
        "__name__ = 1",
        "global __builtins__",
        "try:\n    pass\nexcept E as __x:\n    pass",
    ],
)
def test_what_could_leave_a_trace_is_wild(source: str) -> None:
    assert reason(source) is not None


def test_no_listed_module_attribute_is_a_module_or_can_be_changed() -> None:
    changeable = (dict, list, set, bytearray, types.ModuleType)
    for module, names in MODULES.items():
        holder = importlib.import_module(module)
        assert [name for name in names if isinstance(getattr(holder, name, None), changeable)] == []


def test_no_listed_attribute_of_a_plain_type_leads_to_a_module_or_frame() -> None:
    for kind in PLAIN_TYPES:
        for name in ATTRIBUTES & set(dir(kind)):
            assert not isinstance(getattr(kind, name), (types.ModuleType, types.FrameType, types.CodeType))


def test_random_is_seen_however_it_is_imported() -> None:
    assert uses_random(ast.parse("def f():\n    from random import choice as c"))
    assert uses_random(ast.parse("import json, random as r"))
    assert not uses_random(ast.parse("import json\nrandom = 1"))
