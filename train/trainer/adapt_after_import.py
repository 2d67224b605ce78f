"""Change a module of a library right after it is imported, in the processes that import it and only there."""

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

Adaptations = Mapping[str, Callable[[Any], None]]  # module name -> what is done with the module
Surroundings = Mapping[str, Callable[[], AbstractContextManager[None]]]  # module name -> what surrounds its execution


class AdaptAfterImport(importlib.abc.MetaPathFinder):
    """Finds a module as Python would, and runs every table's adaptation right after the module's own code."""

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
        """Run the adaptations of a module that has been executed."""
        for table in self.tables:
            if name in table:
                table[name](module)

    def install(self) -> None:
        """Adapt what is imported already, and what will be."""
        sys.meta_path.insert(0, self)
        for name in {name for table in self.tables for name in table}:
            if name in sys.modules:
                self.adapt(name, sys.modules[name])
