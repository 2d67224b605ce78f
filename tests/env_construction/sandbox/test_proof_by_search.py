"""A random search through everything that proven code can reach, since it uses only listed names and attributes.

From the listed builtins and module attributes, values of every kind and a few functions, the search applies calls,
attributes, subscripts and operators to what it has found. It must never reach a class that creates classes, a module,
a frame, code or the namespace of a module, and it must leave the interpreter unchanged.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import operator
import random
import re
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from env_construction.sandbox.listed_names import ATTRIBUTES, BUILTINS, CALLED_ONLY, MODULES
from env_construction.sandbox.pool import HELPERS, Fingerprint

STEPS = 40_000
ENDLESS = {
    "print",
    "count",
    "cycle",
    "repeat",
    "range",
    "pow",
    "factorial",
    "comb",
    "perm",
    "lshift",
    "ascii_letters",
    "bytes",
    "mul",
    "concat",
}
"""Excluded because they never end or fill memory. They are C functions over numbers and sequences."""
FORBIDDEN = (types.ModuleType, types.FrameType, types.CodeType, types.TracebackType, types.MappingProxyType)


def listed() -> list[tuple[str, Any]]:
    found = [(name, getattr(builtins, name)) for name in sorted(BUILTINS) if not name.endswith(("Exit", "Interrupt"))]
    for module, names in sorted(MODULES.items()):
        if module not in ("typing", "__future__", "time"):
            found += [(f"{module}.{name}", getattr(importlib.import_module(module), name)) for name in sorted(names)]
    return [(name, value) for name, value in found if name.rpartition(".")[2] not in ENDLESS]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reached(value: Any) -> list[Any]:
    """A value, and what tool code gets by unpacking it."""
    found = [value]
    if isinstance(value, (list, tuple, set, frozenset)):
        found += list(value)[:5]
    elif isinstance(value, dict):
        found += [*list(value)[:5], *list(value.values())[:5]]
    return found


def module_namespaces() -> dict[int, Any]:
    """Every module's namespace by its id. Kept alive, because a freed id can be reused for another dictionary."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]
    return {id(namespace): namespace for namespace in map(vars, modules)}


def forbidden(value: Any, namespaces: dict[int, Any]) -> bool:
    makes_classes = isinstance(value, type) and issubclass(value, type)
    return makes_classes or isinstance(value, FORBIDDEN) or id(value) in namespaces


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_proven_code_can_reach_creates_classes_or_changes_the_interpreter(seed: int) -> None:
    for name in (*MODULES, *HELPERS):
        importlib.import_module(name)
    rng = random.Random(seed)
    clean = Fingerprint()
    namespaces = module_namespaces()
    tools: list[Callable[..., Any]] = [lambda *a: a, lambda *a: int, lambda *a, **k: {}, lambda *a, **k: "a"]
    start = [(name, value) for name, value in listed() if name.rpartition(".")[2] not in CALLED_ONLY]
    python_classes = [value for name, value in listed() if name.rpartition(".")[2] in CALLED_ONLY]
    start += [(f"tool{i}", tool) for i, tool in enumerate(tools)]
    literals: list[Any] = [
        "a b",
        b"ab",
        3,
        2.5,
        1j,
        [1, 2],
        (int, str),
        {"a": 1},
        {1, 2},
        None,
        "%Y",
        [int, dict],
        [["a", 1]],
        (x for x in [1]),
    ]
    start += [(repr(value), value) for value in literals]
    operators = [
        operator.add,
        operator.or_,
        operator.and_,
        operator.mod,
        operator.eq,
        operator.lt,
        operator.sub,
        operator.getitem,
        operator.is_,
    ]
    names = sorted(ATTRIBUTES - {"to_bytes", "ljust", "rjust", "center", "zfill", "expandtabs"})
    pool = list(start)
    for _ in range(STEPS):
        where, one = rng.choice(pool)
        arguments = [rng.choice(pool) for _ in range(rng.randint(0, 3))]
        keywords = (
            {rng.choice(["key", "default", "cls", "object_hook", "function", "start", "sep"]): rng.choice(pool)[1]}
            if rng.random() < 0.1
            else {}
        )
        kind = rng.random()
        try:
            with time_limit(0.2):
                if kind < 0.45:
                    result = one(*[value for _, value in arguments], **keywords)
                    path = f"{where}({', '.join(name for name, _ in arguments)}, {keywords})"
                elif kind < 0.5:
                    result, path = (
                        rng.choice(python_classes)(*[value for _, value in arguments[:1]]),
                        "Counter or Fraction",
                    )
                elif kind < 0.85:
                    known = [name for name in names if hasattr(one, name)]
                    if not known:
                        continue
                    name = rng.choice(known)
                    result, path = getattr(one, name), f"{where}.{name}"
                elif arguments:
                    apply = rng.choice(operators)
                    result, path = apply(one, arguments[0][1]), f"{apply.__name__}({where}, {arguments[0][0]})"
                else:
                    result, path = [*itertools.islice(one, 4)], f"[*{where}]"
        except (Exception, TimeoutError):
            continue
        for value in reached(result):
            assert not forbidden(value, namespaces), path[:600]
        small = (
            not isinstance(result, (str, bytes, int, list, tuple))
            or (isinstance(result, int) and abs(result) < 1000)
            or (hasattr(result, "__len__") and len(result) < 50)
        )
        if len(path) < 400 and small:
            pool.append((path, result))
            if len(pool) > 800:
                pool = start + rng.sample(pool[len(start) :], 300)
    assert clean.holds()


def sweep(start: list[tuple[str, Any]]) -> list[str]:
    """Call every value and each listed attribute of it with up to two arguments. Returns paths to forbidden values."""
    namespaces = module_namespaces()
    given: list[Any] = [int, dict, "a", [1], lambda *a, **k: int, re.I]
    found = []
    for name, one in start:
        targets = [(name, one)] + [
            (f"{name}.{key}", getattr(one, key)) for key in sorted(ATTRIBUTES) if hasattr(one, key)
        ]
        for path, target in targets:
            for count in range(3):
                for arguments in itertools.product(given, repeat=count):
                    try:
                        with time_limit(0.2):
                            result = target(*arguments)
                    except (Exception, TimeoutError):
                        continue
                    found += [path for value in reached(result) if forbidden(value, namespaces)]
    return found


def test_no_listed_function_or_method_returns_a_class_that_creates_classes() -> None:
    for name in (*MODULES, *HELPERS):
        importlib.import_module(name)
    clean = Fingerprint()
    allowed = [(name, value) for name, value in listed() if name.rpartition(".")[2] not in CALLED_ONLY]
    assert sweep(allowed) == []
    assert clean.holds()


def test_the_sweep_finds_a_known_case() -> None:
    assert set(sweep([(name, value) for name, value in listed() if name == "collections.Counter"])) == {
        "collections.Counter.copy"
    }
