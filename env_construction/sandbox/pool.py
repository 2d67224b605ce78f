"""The pool runner: executes proven code of many environments in one process. Part of the worker (`tool_worker.py`).

The proof (`code_proof.py`) says that no call can affect another. This module adds a second line of defense. Tool code
gets a small separate set of builtins and a guarded import. The cycle collector runs only between calls. Before each
report, the runner checks that the shared state is unchanged. If it changed, the runner exits, and everything that it
had not reported runs again in isolation.
"""

from __future__ import annotations

import _thread
import ast
import builtins
import gc
import importlib
import json
import os
import resource
import sys
import time
import types
import warnings
from typing import Any

from env_construction.sandbox.code_proof import uses_random, why_unproven
from env_construction.sandbox.listed_names import BUILTINS, CALLED_ONLY, MODULES
from env_construction.sandbox.output import (
    CHANNEL,
    MODULE,
    RANDOM_SEED,
    dumps_unmarked,
    encoded,
    error_text,
    holds_address,
    read_frame,
    render,
    too_long,
    write_frame,
)
from env_construction.sandbox.protocol import EXIT_DIRTY

FLUSH_SECONDS = 0.005
FLUSH_CHARACTERS = 1 << 18
GROWTH_KIB = 48 << 10
"""Peak memory that a pool runner's calls may add before it is replaced. Its unreported calls then run again."""

HEAP_TYPE = 1 << 9
HELPERS = frozenset({"_strptime", "json.decoder", "numbers"})
"""Modules that C functions of the library import themselves, through the import function of the calling code."""


class Retry(BaseException):
    """The call needs a separate process."""


class Fingerprint:
    """The interpreter state that calls share and could change in the worst case."""

    def __init__(self) -> None:
        inner = ("builtins", "json.encoder", "json.decoder", "json.scanner")
        spaces: list[Any] = [vars(sys.modules[name]) for name in (*MODULES, *inner)]
        listed = [getattr(sys.modules[module], name) for module, names in MODULES.items() for name in names]
        listed += [value for name in inner[1:] for value in vars(sys.modules[name]).values()]
        spaces += [vars(value) for value in {*filter(_changeable, listed)}]
        self._spaces = [(space, dict(space)) for space in spaces]
        self._functions = [
            (
                function,
                function.__code__,
                function.__defaults__,
                function.__kwdefaults__,
                dict(function.__kwdefaults__ or {}),
            )
            for function in listed
            if isinstance(function, types.FunctionType)
        ]
        self._context = sys.modules["decimal"].getcontext()
        self._rest = self._others()

    def _others(self) -> tuple[Any, ...]:
        context = self._context
        return (
            (context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp),
            (_thread._count(), sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.getswitchinterval()),
            (sys.gettrace(), sys.getprofile(), gc.isenabled(), len(gc.callbacks), tuple(warnings.filters)),
            (tuple(sys.meta_path), tuple(sys.path), sys.stdout, sys.stderr),
        )

    def holds(self) -> bool:
        return (
            all(now == before or _settled(now) == _settled(before) for now, before in self._spaces)
            and all(
                function.__code__ is code
                and function.__defaults__ is defaults
                and function.__kwdefaults__ is named
                and (named is None or named == values)
                for function, code, defaults, named, values in self._functions
            )
            and self._others() == self._rest
        )


def _changeable(value: Any) -> bool:
    """Whether attributes of a function or class can be set, which means that it is written in Python."""
    return isinstance(value, types.FunctionType) or (isinstance(value, type) and bool(value.__flags__ & HEAP_TYPE))


def _settled(space: Any) -> dict[str, Any]:
    """The namespace without the registry of issued warnings, which changes no result."""
    return {name: value for name, value in space.items() if name != "__warningregistry__"}


class Pool:
    def __init__(self, settings: dict[str, Any]) -> None:
        for name in MODULES:
            importlib.import_module(name)
        self._seed = sys.modules["random"].seed
        self._output_bytes = settings["output_bytes"]
        self._sources: dict[int, str] = {}
        self._compiled: dict[int, Any] = {}
        self._random: set[int] = set()
        self._names = {name: getattr(builtins, name) for name in BUILTINS}
        self._text_names = dict(self._names)
        """The builtins for a text passed to `eval`."""
        self._names |= {"__import__": self._import, "eval": self._eval, "type": self._type}
        self._leave = os._exit
        self._retry = False
        for name in HELPERS:
            importlib.import_module(name)
        gc.disable()
        gc.collect()
        gc.freeze()
        self._clean = Fingerprint()
        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def serve(self) -> None:
        clock = time.monotonic
        while True:
            request = json.loads(read_frame(CHANNEL))
            nonce, patience = request["nonce"], 0.0 if request["careful"] else FLUSH_SECONDS
            self._sources.update(request["codes"])
            rows: list[list[Any]] = []
            pending = 0
            now = flushed = clock()
            for index, (code_id, name, arguments) in enumerate(request["calls"], request["first"]):
                start = now
                status, output = self._call(code_id, name, arguments)
                now = clock()
                rows.append([index, status, output, now - start])
                pending += len(output)
                if now - flushed >= patience or pending > FLUSH_CHARACTERS:
                    self._check()
                    write_frame(encoded([nonce, rows]))
                    rows = []
                    pending = 0
                    now = flushed = clock()
            if rows:
                self._check()
                write_frame(encoded([nonce, rows]))

    def _check(self) -> None:
        """Collect garbage before a report, and end the process if the shared state changed."""
        gc.collect(0)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._peak
        if grown > GROWTH_KIB or not self._clean.holds():
            self._leave(EXIT_DIRTY)

    def _compile(self, code_id: int) -> Any:
        """A code object, or the exception that every call of this code raises."""
        try:
            source = self._sources.pop(code_id)
            tree = ast.parse(source, "<string>")
            if why_unproven(tree) is not None:
                return None
            if "random" in source and uses_random(tree):
                self._random.add(code_id)
            return compile(tree, "<string>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            return error.with_traceback(None)
        except (RecursionError, MemoryError):
            return None

    def _call(self, code_id: int, name: str, arguments: Any) -> tuple[str, str]:
        if code_id not in self._compiled:
            self._compiled[code_id] = self._compile(code_id)
        code = self._compiled[code_id]
        if code is None:
            return "unproven", ""
        if isinstance(code, BaseException):
            return "error", error_text(code)
        if code_id in self._random:
            self._seed(RANDOM_SEED)
        namespace: dict[str, Any] = {"__name__": MODULE, "__builtins__": dict(self._names)}
        self._retry = False
        try:
            exec(code, namespace)
            if name not in namespace:
                raise NameError(f"name {name!r} is not defined")
            status, output = "ok", render(namespace[name](**arguments), dumps_unmarked)
        except (MemoryError, RecursionError):
            return "retry", ""
        except BaseException as error:
            status, output = "error", error_text(error)
        finally:
            namespace.clear()
        if self._retry or too_long(output, self._output_bytes) or holds_address(output):
            return "retry", ""
        return status, output

    def _import(self, name: str, _globals: Any = None, _locals: Any = None, names: Any = (), level: int = 0) -> Any:
        """`import` for proven code: only the listed modules."""
        if name.partition(".")[0] not in sys.stdlib_module_names:
            __import__(name)  # raises, because it is not installed
            self._give_up()
        if name not in HELPERS and (level or name not in MODULES or not set(names or ()) <= MODULES[name]):
            self._give_up()
        return sys.modules[name]

    def _eval(self, text: Any, global_names: Any = None, local_names: Any = None, /) -> Any:
        """`eval` for proven code (calculators). Evaluates a text that is proven itself; any other ends the call."""
        if type(text) is not str or any(
            type(names) not in (dict, types.NoneType) for names in (global_names, local_names)
        ):
            self._give_up()
        own_globals = global_names is None
        if own_globals:
            frame = sys._getframe(1)
            global_names = frame.f_globals
            if local_names is None and frame.f_locals is not global_names:
                local_names = dict(frame.f_locals)
        tree = ast.parse(text.lstrip(" \t"), "<string>", "eval")
        if why_unproven(tree) is not None:
            self._give_up()
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        # copies, so that calls within the text cannot rebind a name that was checked
        seen = [{name: scope[name] for name in names & scope.keys()} for scope in (global_names, local_names or {})]
        for value in (value for scope in seen for value in scope.values()):
            if isinstance(value, types.ModuleType) or (isinstance(value, type) and value.__name__ in CALLED_ONLY):
                self._give_up()
        seen[0]["__builtins__"] = (
            self._text_names.copy() if own_globals else global_names.get("__builtins__", self._text_names.copy())
        )
        code = compile(tree, "<string>", "eval", dont_inherit=True)
        return eval(code, seen[0], None if local_names is None else seen[1])

    def _type(self, value: Any) -> type:
        kind = type(value)
        if kind is type:
            self._give_up()
        return kind

    def _give_up(self) -> None:
        self._retry = True
        raise Retry
