"""Prove from its source that a tool's call cannot affect another call, so calls of this code may share a process.

A process per call isolates any code but costs about a millisecond. `why_unproven(tree)` returns None for code that is
safe to share, and a reason for all other code. The proof is an allow-list with five rules:

1. No classes: no `class`, no `type` as a value, no import that creates a class. So every object that tool code can
   reach has a standard-library type, and the tool defines no special method.
2. Attributes are only read, and only by the public names in ATTRIBUTES. No name starts with two underscores.
   `format` is called only on literals whose fields read no attribute.
3. Imports name listed modules, or packages that are not installed (those raise). Every function in BUILTINS and MODULES
   changes only its arguments and its result, for any arguments that such code can pass. The exception is `random`: the
   runner seeds it before each call of code that imports it. A module is never a value; its name only precedes a listed
   attribute.
4. Nothing runs later: no `yield`, `with`, coroutine, thread or finalizer. An abandoned generator expression runs no
   code when it is collected.
5. Results show no addresses: no `id`, `hash` or `object`, no function or iterator where its text, its order or its
   length could be used, and no order of a set (address_rule.py).

Proven code can still loop, recurse and fill memory. Limits, and a second run of the call in isolation, handle that.
"""

from __future__ import annotations

import ast
import string
import sys
from typing import Any

from env_construction.sandbox.address_rule import AddressRule, root_of
from env_construction.sandbox.listed_names import (
    ANNOTATION_MODULES,
    ATTRIBUTES,
    CALLED_ONLY,
    MODULES,
    OTHER_BUILTINS,
)

SYNTAX = """
Module Expression Expr FunctionDef arguments arg Return Delete Assign AugAssign AnnAssign For While If Raise Try Assert
Import ImportFrom alias Global Nonlocal Pass Break Continue BoolOp NamedExpr BinOp UnaryOp Lambda IfExp Dict Set
ListComp SetComp
DictComp GeneratorExp Compare Call keyword FormattedValue JoinedStr Constant Attribute Subscript Starred
Name List Tuple Slice comprehension ExceptHandler Load Store Del And Or Add Sub Mult MatMult Div Mod Pow LShift RShift
BitOr BitXor BitAnd FloorDiv Invert Not UAdd USub Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn
Match match_case MatchValue MatchSingleton MatchSequence MatchMapping MatchStar MatchAs MatchOr
"""
NODES = frozenset(getattr(ast, name) for name in SYNTAX.split())
_ANNOTATED = frozenset({ast.FunctionDef, ast.arg, ast.AnnAssign})
_BINDING = frozenset({
    ast.Name, ast.Global, ast.Nonlocal, ast.alias, ast.keyword, ast.FunctionDef, ast.arg, ast.ExceptHandler,
    ast.MatchAs, ast.MatchStar, ast.MatchMapping,
})  # fmt: skip
"""Nodes with names that they bind or pass."""


class _Unproven(Exception):
    """The message is the reason."""


def why_unproven(tree: ast.Module | ast.Expression) -> str | None:
    """None if the code is proven, else the first reason against it.

    A direct call of `eval` in a module counts as proven, because the runner replaces `eval` with a version that checks
    its text with this function. Within such a text (an expression), `eval`, attributes, lambdas and assignments are not
    allowed.
    """
    try:
        _check(tree)
    except _Unproven as reason:
        return str(reason)
    return None


def uses_random(tree: ast.Module) -> bool:
    """Whether the code imports `random`, whose state is shared."""
    return any(
        (isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "random")
        for node in ast.walk(tree)
    )


class _Imports:
    """Names that imports bind anywhere in a source. No other statement may bind them."""

    def __init__(self) -> None:
        self.modules: dict[str, set[str]] = {}
        """Name -> modules of MODULES."""
        self.values: set[str] = set()
        self.called: set[str] = set()
        """Names of CALLED_ONLY."""
        self.annotations: set[str] = set()
        """Names that only annotations may use."""
        self.absent: set[str] = set()
        """Names of packages that tools do not have, or names from them. The import raises, so they have no value."""

    def restricted(self) -> set[str]:
        return self.modules.keys() | self.annotations | self.absent


def _check(tree: ast.Module | ast.Expression) -> None:
    nodes, parents = walk_code(tree)
    in_module = isinstance(tree, ast.Module)
    imports = _imports(nodes)
    restricted = imports.restricted()
    in_annotations = {
        id(inner)
        for node in nodes
        if type(node) in _ANNOTATED
        for outer in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if outer is not None
        for inner in ast.walk(outer)
    }
    for node in nodes:
        if type(node) not in NODES or (not in_module and isinstance(node, (ast.NamedExpr, ast.Lambda))):
            raise _Unproven(type(node).__name__)
        for name in _bound(node) if type(node) in _BINDING else ():
            if name.startswith("__"):
                raise _Unproven(f"name {name}")
            if name in restricted:
                raise _Unproven(f"name {name} is bound besides its import")
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            raise _Unproven("decorator")  # `@str` makes a text of a function
        if isinstance(node, ast.Name):
            _check_name(node, parents, imports, in_module, id(node) in in_annotations)
        elif isinstance(node, ast.Attribute):
            _check_attribute(node, imports, in_module)
            if node.attr in CALLED_ONLY and not _is_called(node, parents):
                raise _Unproven(f"{node.attr} as a value")
    if reason := AddressRule(nodes, parents, imports.modules, imports.absent).broken_by():
        raise _Unproven(reason)


def walk_code(tree: ast.AST) -> tuple[list[ast.AST], dict[int, ast.AST]]:
    """All nodes, and each one's parent by id. Omits constants and load contexts: most nodes, and always harmless."""
    nodes, parents = [tree], {}
    for node in nodes:
        for name in node._fields:
            value = getattr(node, name, None)
            for child in value if type(value) is list else (value,):
                if isinstance(child, ast.AST) and type(child) not in (ast.Constant, ast.Load):
                    parents[id(child)] = node
                    nodes.append(child)
    return nodes, parents


def _imports(nodes: list[ast.AST]) -> _Imports:
    found = _Imports()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                if _absent(alias.name):
                    found.absent.add(name)
                elif alias.name in MODULES and "." not in alias.name:
                    found.modules.setdefault(name, set()).add(alias.name)
                else:
                    raise _Unproven(f"import {alias.name}")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name
                if node.level == 0 and _absent(node.module or "") and name != "*":
                    found.absent.add(name)
                elif node.level or alias.name not in MODULES.get(node.module or "", ()):
                    raise _Unproven(f"from {node.module} import {alias.name}")
                else:
                    (found.annotations if node.module in ANNOTATION_MODULES else found.values).add(name)
                    if alias.name in CALLED_ONLY:
                        found.called.add(name)
    kinds = (found.modules.keys(), found.values, found.annotations, found.absent)
    for name in found.restricted() | found.values:
        if sum(name in kind for kind in kinds) > 1:
            raise _Unproven(f"name {name} is imported as two kinds of thing")
    return found


def _absent(module: str) -> bool:
    """Whether importing a module raises, because tools see only the standard library."""
    return bool(module) and module.partition(".")[0] not in sys.stdlib_module_names


def _bound(node: ast.AST) -> list[str]:
    """Names that a node binds or passes as a keyword. Imports count here only if they rename."""
    if isinstance(node, ast.Name):
        return [node.id] if not isinstance(node.ctx, ast.Load) else []
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return list(node.names)
    if isinstance(node, ast.alias):
        return ["__as__"] if (node.asname or "").startswith("__") else []
    if isinstance(node, ast.keyword):
        return ["__keyword__"] if (node.arg or "").startswith("__") else []
    names = [getattr(node, key, None) for key in ("name", "arg", "rest")]
    return [name for name in names if isinstance(name, str)]


def _check_name(
    node: ast.Name, parents: dict[int, ast.AST], imports: _Imports, in_module: bool, in_annotation: bool
) -> None:
    parent, modules = parents.get(id(node)), imports.modules
    if node.id in imports.annotations and not in_annotation:
        raise _Unproven(f"{node.id} outside an annotation")
    if node.id in imports.called and not _is_called(node, parents):
        raise _Unproven(f"{node.id} as a value")
    if node.id in modules:
        if not (isinstance(parent, ast.Attribute) and isinstance(node.ctx, ast.Load)):
            raise _Unproven(f"module {node.id} as a value")
        if not in_annotation and any(module in ANNOTATION_MODULES for module in modules[node.id]):
            raise _Unproven(f"{node.id} outside an annotation")
        return
    if node.id == "__name__":
        return
    if node.id.startswith("__"):
        raise _Unproven(f"name {node.id}")
    if node.id not in OTHER_BUILTINS:
        return
    if isinstance(parent, ast.Call) and parent.func is node and not parent.keywords and isinstance(node.ctx, ast.Load):
        if node.id == "eval" and in_module:
            return
        plain = in_module and len(parent.args) == 1 and not isinstance(parent.args[0], ast.Starred)
        if node.id == "type" and plain and _only_inspected(parent, parents.get(id(parent))):
            return
    raise _Unproven(f"name {node.id}")


def _is_called(node: ast.AST, parents: dict[int, ast.AST]) -> bool:
    parent = parents.get(id(node))
    return isinstance(parent, ast.Call) and parent.func is node


def _only_inspected(call: ast.Call, parent: ast.AST | None) -> bool:
    """Whether a call `type(x)` is `type(x).__name__` or one side of a comparison."""
    if isinstance(parent, ast.Compare):
        return True
    return isinstance(parent, ast.Attribute) and parent.attr == "__name__" and isinstance(parent.ctx, ast.Load)


def _check_attribute(node: ast.Attribute, imports: _Imports, in_module: bool) -> None:
    base: Any = node.value
    modules = imports.modules
    if not isinstance(node.ctx, ast.Load):
        raise _Unproven(f"attribute {node.attr} is set")
    if isinstance(base, ast.Name) and base.id in modules:
        if not all(node.attr in MODULES[module] for module in modules[base.id]):
            raise _Unproven(f"{base.id}.{node.attr}")
    elif node.attr == "format" and isinstance(base, ast.Constant) and isinstance(base.value, str):
        _check_format(base.value)
    elif node.attr == "__name__" and isinstance(base, ast.Call) and isinstance(base.func, ast.Name):
        if base.func.id != "type":
            raise _Unproven("attribute __name__")
    elif (node.attr not in ATTRIBUTES or not in_module) and not (
        not node.attr.startswith("_") and isinstance(root_of(base), ast.Name) and root_of(base).id in imports.absent
    ):
        raise _Unproven(f"attribute {node.attr}")  # none in `eval` text, where a name can be anything


def _check_format(text: str) -> None:
    try:
        for _, name, specification, _ in string.Formatter().parse(text):
            if name and ("." in name or "[" in name):
                raise _Unproven("format looks at attributes")
            if specification and "{" in specification:
                _check_format(specification)
    except ValueError:
        return  # a broken template raises when it is used
