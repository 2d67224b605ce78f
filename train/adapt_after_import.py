"""Change a module of a library right after it is imported, in the processes that import it and only there."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import types
from collections.abc import Callable
from typing import Any

Adaptations = dict[str, Callable[[Any], None]]  # module name -> what is done with the module


class AdaptAfterImport(importlib.abc.MetaPathFinder):
    """Finds a module as Python would, and runs its adaptation right after its own code."""

    def __init__(self, adaptations: Adaptations) -> None:
        self.adaptations = adaptations
        self.searching: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self.adaptations or name in self.searching:
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
            execute(module)
            self.adaptations[name](module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
