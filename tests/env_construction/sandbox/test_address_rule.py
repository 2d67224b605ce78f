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


@pytest.mark.parametrize("source", SHOWN)
def test_an_address_that_could_show_is_unproven(source: str) -> None:
    assert why_unproven(ast.parse(source)) is not None


@pytest.mark.parametrize("source", HIDDEN)
def test_functions_and_iterators_in_their_places_are_proven(source: str) -> None:
    assert why_unproven(ast.parse(source)) is None


def test_a_text_for_eval_names_no_values_of_the_code() -> None:
    for text in ("helper", "str(helper)", "[f for f in [helper]]", "list(map(str, [1]))", "sum(i for i in [1])"):
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
