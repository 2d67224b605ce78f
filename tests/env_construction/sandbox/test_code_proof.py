"""Which code may share a process: honest tools are proven, and code that could affect another call is not."""

from __future__ import annotations

import ast
import datetime
import importlib
import json
import re
import types
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction

import pytest

from env_construction.sandbox.code_proof import uses_random, why_unproven
from env_construction.sandbox.listed_names import ATTRIBUTES, CALLED_ONLY, MODULES


def reason(source: str) -> str | None:
    return why_unproven(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b=2): return {'sum': a + b}",
        "from datetime import datetime\ndef f(d): return datetime.strptime(d, '%Y-%m-%d').year",
        "import datetime\ndef f(): return datetime.datetime(2020, 1, 1).isoformat()",
        "import re, json, math\ndef f(x): return json.dumps(re.findall('a', x)) + str(math.sqrt(4))",
        "def f(x):\n    try:\n        return int(x)\n    except (ValueError, TypeError) as e:\n"
        "        return {'error': str(e)}",
        "def f(x): return '{} and {:.2f}'.format(x, 1.0) + f'{x!r:>10}'",
        "def f(x):\n    def inner(y):\n        nonlocal x\n        x += y\n        return x\n"
        "    return [inner(i) for i in range(3)]",
        "def f(x):\n    match x:\n        case {'a': y, **rest}: return y\n"
        "        case [first, *_]: return first\n        case _: return None",
        "def f(x): return type(x).__name__ if not isinstance(x, str) else sorted(x, key=lambda c: c.lower())",
        "import no_such_package\ndef f(x): return no_such_package.thing(x).other[1].third",
        "from no_such_package.module import thing\ndef f(x): return thing.other",
        "def f(x): return eval(x, {'__builtins__': None}, {'y': 1})",
        "import random\ndef f(): return random.choice([1, 2])",
        "def f(x): return 'int' if type(x) is int else type(x).__name__ if type(x) in (str, float) else 'other'",
        "from typing import Dict, Optional\ndef f(x: Optional[str] = None) -> Dict[str, int]:\n"
        "    y: Optional[int] = 1\n    return {'a': y}",
        "import operator\ndef f(a, b): return {'+': operator.add}['+'](a, b)",
        "from collections import Counter, defaultdict\ndef f(x): return Counter(x).most_common(1)",
    ],
)
def test_honest_tools_are_proven(source: str) -> None:
    assert reason(source) is None


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import sys",
        "import urllib.parse",
        "import urllib.parse as p\ndef f(x): return p.quote(x)",
        "import os as o\nimport no_such_package as o",
        "import json as j\nimport no_such_package as j",
        "from no_such_package import *",
        "import no_such_package\nno_such_package.__dict__",
        "import no_such_package\nno_such_package.thing = 1",
        "try:\n    import no_such_package as p\nexcept ImportError:\n    p = 1\np.anything",
        "def f():\n    for i in range(3):\n        yield i",
        "def f():\n    yield from [1]",
        "import copy\ndef f(x): return copy.deepcopy(x)",
        "from collections import namedtuple",
        "from collections import Counter\nCounter.copy(int)",
        "import collections\ncollections.Counter.copy(int)",
        "import collections as c\nx = c.Counter",
        "from collections import Counter as C\nx = [C]",
        "from collections import Counter\ndef f(x: Counter): pass",
        "from fractions import Fraction\nFraction.limit_denominator(1)",
        "from collections import ChainMap",
        "from functools import lru_cache",
        "from functools import partial",
        "from functools import wraps",
        "from functools import cmp_to_key",
        "from operator import attrgetter",
        "from operator import methodcaller",
        "from typing import no_type_check, final",
        "from typing import NamedTuple",
        "from typing import List\nx = List[int]([1])",
        "import typing\nx = typing.List",
        "from dataclasses import dataclass",
        "from enum import Enum",
        "from re import purge",
        "from itertools import tee",
        "from heapq import merge",
        "import time\ntime.sleep(1)",
        "import json\nimport math as json\njson.dumps(1)",
        "from math import sqrt\nimport math as sqrt",
        "import math\ndef f(math): return math.sqrt(2)",
        "import json\njson.dumps.cls",
        "kind = type(x)",
        "kinds = [type(x)]",
        "kinds = {'k': type(x)}",
        "f = lambda: type(x)",
        "def f(kind=type(int)): pass",
        "[type(x) for x in y]",
        "(type(int) if x else y)('A', (), {})",
        "map(type, [int])",
        "type(int)('A', (), {})",
        "type(*x) is int",
        "type(x).mro()",
        "type(x).__dict__",
        "type(x).__name__.__class__",
        "str(type(x))",
        "f'{type(x)}'",
        "return_(type(x))",
        "try:\n    pass\nexcept type(x):\n    pass",
        "id(x)",
        "hash(x)",
        "object()",
        "hasattr(x, 'gi_frame')",
        "f.__name__",
        "x.send(1)",
        "x.throw(1)",
        "x.with_traceback(None)",
        "x.add_note('')",
        "x.__setitem__",
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
        "import decimal\ndecimal.localcontext()",
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
def test_what_could_affect_another_call_is_unproven(source: str) -> None:
    assert reason(source) is not None


def test_no_listed_module_attribute_is_a_module_or_can_be_changed() -> None:
    changeable = (dict, list, set, bytearray, types.ModuleType)
    for module, names in MODULES.items():
        holder = importlib.import_module(module)
        assert [name for name in names if isinstance(getattr(holder, name, None), changeable)] == []


def test_no_listed_module_attribute_makes_classes_or_reaches_modules() -> None:
    for module, names in MODULES.items():
        holder = importlib.import_module(module)
        assert [name for name in names if not hasattr(holder, name)] == []
        assert not names & {
            "wraps",
            "namedtuple",
            "make_dataclass",
            "attrgetter",
            "methodcaller",
            "copy",
            "deepcopy",
            "new_class",
        }


def test_the_methods_of_listed_classes_are_written_in_c_and_check_their_self() -> None:
    for module, names in MODULES.items():
        for name in names - CALLED_ONLY:
            value = getattr(importlib.import_module(module), name)
            if module != "typing" and isinstance(value, type):
                methods = [vars(kind).get(key) for kind in value.__mro__ for key in ATTRIBUTES]
                assert not any(
                    isinstance(m, (types.FunctionType, staticmethod, classmethod, property)) for m in methods
                ), name


def test_no_listed_attribute_leads_to_a_module_frame_or_namespace() -> None:
    values = ["", b"", 1, 1.0, 1j, [], (), {}, set(), frozenset(), range(1), slice(1), re.compile(""), re.match("", "")]
    values += [Counter(), deque(), OrderedDict(), defaultdict(list), Decimal(1), Fraction(1), datetime.datetime.now()]
    values += [
        (x for x in ()),
        lambda: 1,
        len,
        map(str, ()),
        iter([]),
        ValueError("x"),
        datetime.UTC,
        json.dumps,
        int,
    ]
    for value in values:
        for name in ATTRIBUTES & set(dir(value)):
            found = getattr(value, name)
            assert not isinstance(found, (types.ModuleType, types.FrameType, types.CodeType, types.TracebackType)), (
                value,
                name,
            )
            assert found is not type and not name.startswith("_")


def test_every_import_of_random_is_detected() -> None:
    assert uses_random(ast.parse("def f():\n    from random import choice as c"))
    assert uses_random(ast.parse("import json, random as r"))
    assert not uses_random(ast.parse("import json\nrandom = 1"))
