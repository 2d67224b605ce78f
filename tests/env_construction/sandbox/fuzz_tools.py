"""Run small random programs in the sandbox and check that honest calls around them do not change.

The programs are deterministic for a seed. They use allowed syntax and the building blocks of gadgets (classes by
`type`, special methods, patched modules, open generators, finalizers, cycles, frames, texts for `eval`). For each
batch:

- honest calls before it, beside it (same response) and after it return the same as in a clean sandbox;
- every result has one of the statuses and a text;
- a proven program returns the same in a separate process (its source plus an import that is not proven).

Example (one minute, as in CI):
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/env_construction/sandbox/fuzz_tools.py --seconds 60
"""

from __future__ import annotations

import argparse
import ast
import random
import time
from collections import Counter

from env_construction.sandbox import listed_names
from env_construction.sandbox.code_proof import why_unproven
from env_construction.sandbox.tool_sandbox import STATUSES, SandboxJob, ToolCall, ToolResult, ToolSandbox

HONEST = {
    "dump": (
        "import json, re, math\n"
        "def dump(n): return json.dumps({'n': n, 'found': re.findall('[0-9]', f'a{n}'), 'root': math.sqrt(n)})"
    ),
    "day": "import datetime, random, statistics\ndef day(n):\n"
    "    when = datetime.datetime.strptime('2024-02-29', '%Y-%m-%d') + datetime.timedelta(days=n)\n"
    "    return {'day': when.isoformat(), 'random': random.random(), 'mean': statistics.mean([1, n]), 'sorted': "
    "sorted([n, 2, 1])}",
}
HONEST_CALLS = [ToolCall("dump", {"n": 16}), ToolCall("day", {"n": 3})]
ISOLATE = "\nimport sys as _isolated\n"

MODULES = (
    "json",
    "re",
    "math",
    "datetime",
    "random",
    "statistics",
    "collections",
    "itertools",
    "operator",
    "functools",
    "copy",
    "typing",
    "decimal",
)
NAMES = (
    "dumps", "loads", "findall", "compile", "sqrt", "pi", "datetime", "random", "seed", "mean", "Counter", "deque",
    "chain", "add", "itemgetter",
    "reduce", "wraps", "copy", "Any", "no_type_check", "Decimal", "getcontext", "attrgetter",
)  # fmt: skip
ATTRIBUTES = (
    "append", "items", "update", "copy", "upper", "format", "join", "args", "clear", "__class__", "__dict__",
    "__globals__",
    "__kwdefaults__", "__defaults__", "__code__", "gi_frame", "f_back", "__reduce_ex__", "__subclasses__", "__name__",
    "send", "pop", "get",
)  # fmt: skip
SPECIAL = (
    "__del__",
    "__eq__",
    "__hash__",
    "__str__",
    "__reduce_ex__",
    "__format__",
    "__getattr__",
    "__iter__",
    "__len__",
    "__set_name__",
)
TEXTS = (
    "1 + 2",
    "x",
    "[i for i in range(3)]",
    "type(1)",
    "type(int)",
    "().__class__",
    "__import__('json')",
    "setattr(1, 'a', 2)",
    "max(1, 2)",
    "a.b",
)


CODE_NAMES = {
    module: names
    - {
        "time",
        "localtime",
        "gmtime",
        "ctime",
        "asctime",
        "perf_counter",
        "monotonic",
        "process_time",
        "mktime",
        "strftime",
        "count",
        "cycle",
        "repeat",
    }
    for module, names in listed_names.MODULES.items()
    if module not in ("__future__", "typing", "time")
}
"""Listed functions, except those that read a clock or never end."""
CODE_MODULES = sorted(CODE_NAMES)


class Program:
    """One random program with a function `tool(x)`."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.tame = self.chance(0.6)
        """Without gadgets; most such programs are proven."""
        known = CODE_MODULES if self.tame else MODULES
        self.modules = self.random.sample(known, self.random.randint(0, 3))
        body = [self.statement(2) for _ in range(self.random.randint(1, 5))]
        lines = [f"import {module}" for module in self.modules]
        lines.append(f"kept = {self.expression(0) if self.tame else '[1]'}".replace("kept = kept", "kept = [1]"))
        lines += [
            "def helper(a=None, b=0):",
            *indent(self.statement(1)),
            f"    return {self.expression(1)}",
            "def tool(x):",
        ]
        lines += [line for statement in body for line in indent(statement)]
        self.source = "\n".join([*lines, f"    return {self.expression(2)}"])

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def expression(self, depth: int) -> str:
        r = self.random
        if depth == 0 or self.chance(0.2):
            return r.choice(
                [
                    "x",
                    "1",
                    "2.5",
                    "'text'",
                    "None",
                    "[1, 2]",
                    "{'a': 1}",
                    "int",
                    "len",
                    "(1, 2)",
                    "True",
                    "kept",
                    r.choice(["helper", "tool", "x", "[3]"]),  # a function as a value is unproven
                ]
            )
        one, two = self.expression(depth - 1), self.expression(depth - 1)
        tame = [
            f"({one} + {two})", f"({one} == {two})", f"[{one}, {two}]", f"{{'k': {one}}}", f"str({one})", f"len({one})",
            f"helper({one})",
            f"(lambda y=None: {one})()", f"[{one} for i in range(3)]", f"[*({one} for i in [1])]", f"repr({one})",
            f"[*map(str, [{one}])]",
            f"sorted([{one}, {two}], key=str)", f"'{{}}'.format({one})", f"type({one}).__name__",
            f"(type({one}) is int)", "f'{x}'",
            f"({one} if {two} else x)", f"dict(a={one})", f"isinstance({one}, int)", f"next(iter([{one}]))",
            f"eval({r.choice(TEXTS)!r})",
            f"eval({r.choice(TEXTS)!r}, {{'x': {one}}})", f"str({one}).upper()", f"dict(a={one}).items()",
            f"[{one}].copy()", self.of_module(one),
            f"sorted([{one}, {two}], key=helper)", f"[*map(helper, [{one}, {two}])]",
            f"dict(zip(['a', 'b'], [{one}, x]))",
            f"{{'a': helper, 'b': lambda y: {one}}}['b']({two})", f"max([1, 2], key=lambda y: len(str({one})))",
            f"[i for i in enumerate([{one}])]", f"(helper if {one} else tool)({two})",
            *self.of_sets(one, two),
        ]  # fmt: skip
        if self.tame:
            return r.choice(tame)
        return r.choice(
            [
                *tame,
                f"(lambda y=None: {one})", f"({one} for i in [1])", f"{{{one} for i in [1]}}",
                f"f'{{{r.choice(['kept', 'helper'])}}}'", f"type({one})",
                f"'{{0.__class__}}'.format({one})", f"map(type, [{one}])", f"({one}).{r.choice(ATTRIBUTES)}",
                f"({one}).{r.choice(ATTRIBUTES)}({two})",
                f"type(int)('T', ({r.choice(['object', 'dict', 'str'])},), {{'{r.choice(SPECIAL)}': "
                    f"{r.choice(['helper', 'lambda *a: 1', 'print'])}}})",
            ]
        )  # fmt: skip

    def of_sets(self, one: str, two: str) -> list[str]:
        """Sets, also of values whose hash is an address."""
        value = self.random.choice(
            [f"'{one[:1]}b'", f"({one},)", "float('nan')", f"ValueError({one})", "(1e999 - 1e999)", "(0, 1, None)"]
        )
        made = self.random.choice(
            [f"{{{one}, {value}}}", f"set([{one}, {two}, {value}])", "{'a', 'b'}", f"frozenset([{value}] * 2)",
             "dict(a=1).keys()", f"dict(a={one}).items()", "{v for v in 'abc'}"]
        )  # fmt: skip
        other = self.random.choice([f"{{{two}, {value}}}", "{'b', 3}", f"set([{value}])", "dict(b=2).keys()"])
        joined = self.random.choice([made, f"({made} {self.random.choice('|&^-')} {other})", f"{made}.union({other})"])
        return [
            f"len({joined})", f"({value} in {joined})", f"({joined} == {other})", f"(1 if {joined} else {one})",
            f"{joined}.isdisjoint({other})", joined, f"list({joined})", f"str({joined})", f"sorted({joined}, key=str)",
        ]  # fmt: skip

    def of_module(self, argument: str) -> str:
        if not self.modules:
            return "x"
        if self.tame:
            module = self.random.choice(self.modules)
            return f"{module}.{self.random.choice(sorted(CODE_NAMES[module]))}({argument})"
        name = f"{self.random.choice(self.modules)}.{self.random.choice(NAMES)}"
        return self.random.choice([name, f"{name}({argument})"])

    def statement(self, depth: int) -> list[str]:
        r, value = self.random, self.expression(2)
        simple = [
            f"y = {value}",
            f"y = x = {value}",
            f"print({value})",
            f"{value}",
            "box = []",
            "box = [1]; box.append(box)",
            "kept.append(1)",
            f"s = set(); s.add({self.expression(0)}); y = {self.expression(0)} in s",
            "s = {'a', 'b'}; t = s; y = list(s)",
        ]
        simple += [] if self.tame else [
            f"assert {value}", f"x[{self.expression(0)}] = {value}", f"raise ValueError({value})", "del x",
            f"helper.{r.choice(ATTRIBUTES)} = {value}",
            f"from {r.choice(MODULES)} import {r.choice(NAMES)}",
            f"import {r.choice((*MODULES, 'sys', 'gc', 'os', 'no_such_package'))}", "yield 1",
        ]  # fmt: skip
        if self.modules and not self.tame:
            module, name = r.choice(self.modules), r.choice(NAMES)
            simple += [
                f"{module}.{name} = {value}",
                f"setattr({module}, '{name}', {value})",
                f"{module}.{name}.__defaults__ = (1,)",
                f"y = {module}",
            ]
        if depth == 0 or self.chance(0.55):
            return [r.choice(simple)]
        inner = indent(self.statement(depth - 1))
        tame = [
            [f"if {value}:", *inner],
            ["for i in range(3):", *inner],
            ["try:", *inner, "except Exception as error:", "    y = str(error)"],
        ]
        if self.tame:
            return r.choice(tame)
        return r.choice(
            [
                *tame,
                [f"@{r.choice(['str', 'repr', 'list', 'helper'])}", "def y():", *inner],
                [
                    "try:",
                    *inner,
                    "except Exception as error:",
                    f"    y = error.{r.choice((*ATTRIBUTES, 'args', '__traceback__'))}",
                ],
                ["try:", *inner, "finally:", *indent(self.statement(0))],
                [
                    "def generate(out):",
                    "    try:",
                    "        yield 1",
                    "    finally:",
                    *indent(inner),
                    "g = generate(x); next(g)",
                ],
                [
                    "class C:",
                    f"    def {r.choice(SPECIAL)}(self, *rest):",
                    *indent(inner),
                    f"        return {self.expression(1)}",
                    "c = C(); c.me = c",
                ],
                ["match x:", "    case {'a': z}:", *indent(inner), "    case _:", "        pass"],
                ["with x:", *inner],
            ]
        )


def indent(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def shown(results: list[ToolResult]) -> list[tuple[str, str]]:
    return [(result.status, result.output) for result in results]


def well_formed(result: ToolResult) -> bool:
    return (
        result.status in STATUSES
        and result.status != "fault"
        and isinstance(result.output, str)
        and result.seconds >= 0.0
    )


def proven(source: str) -> bool:
    try:
        return why_unproven(ast.parse(source)) is None
    except SyntaxError:
        return False


def fuzz(seconds: float, seed: int, batch: int = 24) -> Counter[str]:
    """Run programs for `seconds`. Returns how many were proven and not, and their statuses.

    Raises AssertionError with the program that broke a rule.
    """
    counts: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    number = 0
    with ToolSandbox(workers=2, timeout_s=2.0, memory_mb=400) as sandbox, ToolSandbox(timeout_s=30.0) as clean:
        expected = shown(clean.run(HONEST, HONEST_CALLS))
        while time.monotonic() < deadline:
            sources = [Program(f"{seed}:{number + i}").source for i in range(batch)]
            number += batch
            call = ToolCall("tool", {"x": [3, {"a": "b"}, "text", 7][number % 4]})
            jobs = [SandboxJob({**HONEST, "tool": source}, [*HONEST_CALLS, call, *HONEST_CALLS]) for source in sources]
            rows = sandbox.run_batch([SandboxJob(HONEST, HONEST_CALLS), *jobs, SandboxJob(HONEST, HONEST_CALLS)])
            after = sandbox.run(HONEST, HONEST_CALLS)
            around = [rows[0], rows[-1], after, *(part for row in rows[1:-1] for part in (row[:2], row[3:]))]
            for place, results in enumerate(around):
                assert shown(results) == expected, (seed, number, place, sources, shown(results))
            likely = [source for source in sources if proven(source)]
            alone = iter(sandbox.run_batch([SandboxJob({"tool": source + ISOLATE}, [call]) for source in likely]))
            for source, row in zip(sources, rows[1:-1], strict=True):
                assert well_formed(row[2]), (source, row[2])
                counts[row[2].status] += 1
                counts["proven" if source in likely else "unproven"] += 1
                if source in likely:
                    assert shown(row[2:3]) == shown(next(alone)), source
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Run small random programs against the sandbox.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: {dict(fuzz(arguments.seconds, arguments.seed).most_common())}")


if __name__ == "__main__":
    main()
