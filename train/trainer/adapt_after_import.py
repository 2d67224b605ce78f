"""Patch a library's module right after it is imported, only in the processes that import it."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

Adaptations = Mapping[str, Callable[[Any], None]]  # module name -> function that patches the module
Surroundings = Mapping[str, Callable[[], AbstractContextManager[None]]]  # module name -> context of its execution


class AdaptAfterImport(importlib.abc.MetaPathFinder):
    """An import finder that runs every table's adaptation of a module right after the module's code."""

    def __init__(self, tables: Sequence[Adaptations], around: Surroundings | None = None) -> None:
        self.tables = tables
        self.around = around or {}
        self.searching: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = name in self.around or any(name in table for table in self.tables)
        if not known or name in self.searching:
            return None
        self.searching.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching.discard(name)
        if spec is None or spec.loader is None:
            return None
        loader = spec.loader
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            with self.around.get(name, contextlib.nullcontext)():
                execute(module)
            self.adapt(name, module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def adapt(self, name: str, module: types.ModuleType) -> None:
        """Run all adaptations of an executed module."""
        for table in self.tables:
            if name in table:
                table[name](module)

    def install(self) -> None:
        """Adapt modules that are already imported, and those imported later."""
        sys.meta_path.insert(0, self)
        for name in {name for table in self.tables for name in table}:
            if name in sys.modules:
                self.adapt(name, sys.modules[name])
