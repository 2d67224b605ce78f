"""Rule 5 of the proof: where functions and iterators may stand, so that no result depends on an address."""

import ast

import pytest

from env_construction.sandbox.code_proof import why_unproven
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox

SHOWN = [
    "import statistics\ndef helper(): pass\ndef tool(x): return statistics.median_low(str(helper).upper())",
    "def tool(x): return str(x.append)",
    "def tool(x):\n    f = lambda: 1\n    return len(str(f))",
    'def tool(x): return f"{tool}"[:20]',
    "def tool(x): return str(i for i in x)",
    "def tool(x): return [zip(x, x)]",
    "def tool(x): return list(map(iter, [x]))",
    "def tool(x): return sorted([1], key=lambda v: v) + [map]",
    "def show(key): return str(key)\ndef tool(x): return show(key=lambda: 1)",
    "import itertools\ndef tool(x): return [str(g) for k, g in itertools.groupby(x)]",
    "import itertools\ndef tool(x): return list(itertools.groupby(x))",
    "def tool(x): return max(zip(x), zip(x), key=callable)",
    "def tool(x): return next(iter([]), zip(x))",
    "import collections\ndef tool(x): return str(collections.defaultdict(lambda: 0))",
    "def sorted(x, key): return str(key)\ndef tool(x): return sorted(x, key=lambda v: v)",
    "def tool(x):\n    helper = 1\n    return [str(helper) for helper in [2]]\n\ndef helper(): return str(helper)",
    "def tool(x): return [h for h in [1]] + [h]\ndef h(): pass",
    'def tool(x):\n    ops = {"a": lambda: 1}\n    return str(ops)',
    'def tool(x):\n    ops = {"a": lambda: 1}\n    return str(ops["a"])',
    'def tool(x):\n    ops = {"a": lambda: 1}\n    return str(ops.get("a"))',
    'def tool(x):\n    ops = {"a": lambda: 1}\n    return list(ops.values())',
    "def tool(x):\n    f = tool if x else None\n    return str(f)",
    "import json\ndef tool(x): return str(json.dumps)",
    "from json import dumps\ndef tool(x): return [dumps]",
    "import random\ndef tool(x): return str(random.random)",
    "def tool(x): return {1: tool}",
    "def tool(x):\n    return (y := lambda: 1)",
    "def tool(x, f=len, g=lambda: 1): return str(g)",
    "from itertools import repeat\ndef tool(x): return next(repeat(zip(x)))",
    "def tool(x):\n    for a in zip(x):\n        pass\n    return str(a.count)",
    "import functools\ndef tool(x): return functools.reduce(lambda a, b: a, x, zip(x))",
    "def tool(x):\n    global k\n    k = lambda: 1\ndef other(): return str(k)",
    "def tool(x): return (lambda: tool)()",
    "def tool(x): return print(tool)",
    "def tool(x): raise ValueError(tool)",
    "import re\ndef tool(x): return str(re.finditer('a', x))",
    "def tool(x): return str(reversed(x))",
    "def tool(x): return [*zip(x, x)] + [enumerate(x)]",
    "def tool(x): return map",
    "def other(zip): pass\ndef tool(x): return str(zip(x))",
    "from itertools import chain\ndef other():\n    chain = 1\ndef tool(x): return str(chain(x))",
    "import itertools as t\nimport math as t\ndef tool(x): return str(t.count(1))",
    "def make():\n    return lambda: 1\ndef tool(x): return str(make())",
    "def make():\n    return lambda: 1\ndef tool(x): return [str(f) for f in map(make, x)]",
    "def make():\n    return lambda: 1\ndef tool(x):\n    g = make\n    return str(g())",
    'def make():\n    return {"a": lambda: 1}\ndef tool(x):\n    return str(make()["a"])',
    "def make():\n    return other\ndef other():\n    return make\ndef tool(x): return str(make()())",
    "def tool(x):\n    if x:\n        global f\n    def f(): pass\ndef other(): return str(f)",
    "def tool(x):\n    match tool:\n        case f: return str(f)",
    "def tool(x):\n    @str\n    def f(): pass\n    return f",
    'def tool(x):\n    match {"f": tool}:\n        case {"f": g}: return str(g)',
]
"""Tools in which the text, the order or the length of a function or iterator could reach the result."""
HIDDEN = [
    "def tool(x): return sum(i for i in x)",
    "def tool(x): return sorted(x.items(), key=lambda kv: kv[1])",
    "def tool(x): return max(x, key=x.get)",
    'def tool(x):\n    ops = {"a": lambda a: a}\n'
    '    if x not in ops: return "unknown: " + ", ".join(ops)\n    return ops[x](1)',
    'def tool(x):\n    ops = {"a": lambda a: a}\n    f = ops.get(x)\n    if f is None: return "no"\n    return f(1)',
    "def tool(x):\n    pairs = zip(x, x)\n    return [a for a, b in pairs]",
    "def tool(x):\n    found = next((r for r in x if r), None)\n    return found",
    'import re\ndef tool(x): return re.sub("a", lambda m: m.group(0), x)',
    "import itertools\ndef tool(x): return {k: list(g) for k, g in itertools.groupby(sorted(x), key=len)}",
    'def tool(x): return " ".join(w.capitalize() for w in x.split())',
    "def tool(x):\n    tool = 3\n    return tool",
    'def population(city):\n    population = {"a": 1}\n    return population[city]',
    "def tool(x):\n    out = []\n    out += (i for i in x)\n    return out",
    "def tool(x): return list(map(str.strip, x)) if 0 else dict(zip(x, x))",
    "def tool(x): return any(map(lambda v: v, x))",
    "import datetime\ndef tool(x): return datetime.datetime.now(datetime.timezone.utc).year",
    'from datetime import datetime\ndef tool(x): return datetime.strptime(x, "%Y").year',
    "import math\ndef tool(x):\n    f = math.sqrt\n    return f(x)",
    "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)",
    'def tool(x): return eval("1 + 2")',
    "def make():\n    return lambda: 1\ndef tool(x): return make()()",
    'def make():\n    k = 0\n    def f(): return 1\n    return f\ndef tools(): return {"a": make()}\n'
    "def tool(x):\n    t = tools()\n    return t[x](1)",
]
"""Tools that call functions and read iterators."""

SET_ORDERS = [
    'import re\ndef tool(x): return list({m for m in re.finditer("a", x)})',
    "def tool(x): return str({ValueError(i) for i in range(9)})",
    "def tool(x): return sorted(set(x))",
    'def tool(x): return "%s" % set(x)',
    "def tool(x):\n    f = set(x).copy\n    return list(f())",
    "def tool(x):\n    s = set()\n    for v in x: s.add(v)\n    return [v for v in s]",
    'def tool(x):\n    s = {"a"}\n    t = s\n    t |= set(x)\n    return list(s)',
    'def tool(x):\n    s = {"a"}\n    s.add(float("nan"))\n    return list(s)',
    "def tool(x):\n    d = {}\n    e = d\n    d |= set(x)\n    return list(e)",
    "def tool(x):\n    d = {}\n    e = d\n    if 0: d = set()\n    d.update(set(x))\n    return list(e)",
    'def tool(x): return list(x.keys() | [float("nan")])',
    'def tool(x):\n    k = x.keys()\n    k |= [float("nan")]\n    return list(k)',
    'def tool(x): return list(map({"a"}.union, [[x]]))',
    'def tool(x):\n    a = {"k": x}\n    return [k - [1] for k in map(dict.keys, [a])]',
    "import operator\ndef tool(x): return list(operator.sub(x.keys(), [1]))",
    "from operator import or_\ndef tool(x): return list(or_(x.keys(), [1]))",
    'def helper(x): return x.keys()\ndef tool(x): return list(eval("helper({1: 2}) - [1]"))',
    "def tool(x): return set(x).pop()",
    "from collections import defaultdict\ndef tool(x):\n    d = defaultdict(set)\n    d[1].add(x)\n    return d",
    "def tool(x): return list(map(list, map(set, [x])))",
    "from functools import reduce\ndef tool(x): return list(reduce(set.union, x))",
    "def f(s=set()): return list(s)\ndef tool(x): return f()",
    "def tool(x):\n    try:\n        set().remove(set(x))\n    except KeyError as e:\n        return str(e)",
    "if 0: zip = 1\ndef tool(x): return str(zip(x))",
    "if 0: set = 1\ndef tool(x): return list(set(x))",
    "zip = 1\ndel zip\ndef tool(x): return str(zip(x))",
    "def tool(x): return list({None, x})",
    "def tool(x): return max(set(x))",
    "def tool(x): return [*{v for v in x}]",
    "def tool(x):\n    a, *b = set(x)\n    return a",
    "def tool(x): return dict.fromkeys(set(x))",
    "def tool(x):\n    d = {}\n    d[0] = set(x)\n    return list(d[0])",
    'def tool(x): return f"{set(x)}"',
    'def tool(x): return f"{[s for s in [frozenset(x)]]}"',
    "def tool(x):\n    d = x.items()\n    y = [d]\n    return list(y[0] - [1])",
    "def f(a, b): return a - b\ndef tool(x): return list(f(x.keys(), [1]))",
    'def tool(x):\n    s = {"a", "b"}\n    e = s\n    s &= set(x)\n    return list(e)',
    'def tool(x):\n    s = {"a", "b"}\n    s.intersection_update(set(x))\n    return list(s)',
    "def f(x): return set(x)\ndef tool(x): return list(f(x))",
    "def tool(x, y: list[set] = 1): return y",
    "def f(x):\n    def g() -> [v for v in set(x)]: return 1\n    return g()\ndef tool(x): return f(x)",
]
"""Tools in which the order of a set could reach the result."""
SETS = [
    'def tool(x): return x in {"a", "b"}',
    'def tool(x):\n    units = {"km", "mi"}\n    return x if x in units else f"choose from {sorted(units)}"',
    "def tool(x):\n    seen = set()\n    kept = []\n    for v in x:\n"
    "        if v not in seen:\n            seen.add(v)\n            kept.append(v)\n    return kept",
    "def tool(x): return len(set(x)) == len(x)",
    'def tool(x): return {"a", "b"}.issubset(x) and set(x).issubset(["a"])',
    "def tool(x, y):\n    a = set(x)\n    b = set(y)\n    return len(a & b) / len(a | b)",
    "def tool(x, y): return len(set(x).intersection(y)) - len(set(x) - set(y))",
    "def tool(x): return isinstance(x, (list, set)) or isinstance(x, set) or type(x) is set",
    "def tool(x: set[str], y: set | None = None) -> frozenset:\n    z: set[int] = set()\n    return len(z)",
    "def tool(x): return [k for k, v in x.items() if v - 1 > 0] + list(x.keys())",
    "def tool(x): return max(x.items(), key=lambda kv: kv[1] - 1)",
    'def tool(x): return len(x.keys() - ["a"]) == 0 or not set(x)',
    'def tool(x):\n    keys = x.keys()\n    return "no" if "a" not in keys else 3 - len(keys)',
]
"""Tools that use sets and never read their order."""


@pytest.mark.parametrize("source", [*SHOWN, *SET_ORDERS])
def test_an_address_that_could_show_is_unproven(source: str) -> None:
    assert why_unproven(ast.parse(source)) is not None


@pytest.mark.parametrize("source", [*HIDDEN, *SETS])
def test_functions_iterators_and_sets_in_their_places_are_proven(source: str) -> None:
    assert why_unproven(ast.parse(source)) is None


def test_a_text_for_eval_names_no_values_of_the_code() -> None:
    for text in (
        "helper",
        "str(helper)",
        "[f for f in [helper]]",
        "list(map(str, [1]))",
        "sum(i for i in [1])",
        "{1, 2}",
    ):
        assert why_unproven(ast.parse(text, mode="eval")) is not None
    for text in ("1 + 2 * 3", "max(1, 2)", "helper(3)", "[i * 2 for i in [1, 2]]"):
        assert why_unproven(ast.parse(text, mode="eval")) is None


def test_the_result_does_not_depend_on_the_process(sandbox: ToolSandbox) -> None:
    """Found by random programs: one character of an address, which differs between processes."""
    source = (
        "import statistics\ndef helper(): pass\ndef tool(x): return statistics.median_low(str(helper).upper() + str(x))"
    )
    assert why_unproven(ast.parse(source)) == "function helper as a value"
    results = sandbox.run({"tool": source}, [ToolCall("tool", {"x": 1}), ToolCall("tool", {"x": 1})])
    assert [result.status for result in results] == ["ok", "ok"]
