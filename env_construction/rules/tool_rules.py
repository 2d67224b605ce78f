"""Rules for a tool, for any author: its document, the calls to it, and what its source shows without running it.

The stages check an author's proposals with these rules, and the validator checks records of any origin.
"""

from __future__ import annotations

import ast
import json
import re
from functools import lru_cache
from types import CodeType
from typing import Any

from env_construction.building.author import Rejected
from env_construction.environment.schema import ToolDocument
from env_construction.environment.tool_schema import CannotApply, fits, plain_schema, schema_problem
from env_construction.sandbox.code_proof import walk_code
from env_construction.sandbox.listed_names import MODULES

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
ALLOWED_IMPORTS = frozenset(MODULES) | {"dataclasses", "difflib", "enum", "textwrap", "zoneinfo"}
"""What the sandbox can prove harmless, and modules that need a process of their own."""
FORBIDDEN_NAMES = frozenset(
    [
        "open",
        "exec",
        "eval",
        "compile",
        "input",
        "print",
        "breakpoint",
        "__import__",
        "globals",
        "locals",
        "vars",
        "exit",
        "quit",
        "help",
        "getattr",
        "setattr",
        "delattr",
        "memoryview",
        "__builtins__",
        "__loader__",
        "__spec__",
    ]
)


def check_document(document: ToolDocument) -> None:
    """Check for a valid name (also a Python function's name) and a satisfiable object schema. Raises Rejected."""
    if not _NAME.fullmatch(document.name):
        raise Rejected("tool_name_invalid", f"{document.name!r} is no function name")
    problem = schema_problem(document.parameters)
    if problem:
        raise Rejected("schema_invalid", f"{document.name}: {problem}")
    plain = plain_schema(document.parameters, document.parameters)
    properties = plain.get("properties", {})
    unknown = [name for name in plain.get("required", []) if name not in properties]
    if unknown and plain.get("additionalProperties", False) is False:
        raise Rejected("schema_invalid", f"{document.name}: required {', '.join(unknown)} are not among the properties")
    for name, schema in properties.items():
        if not isinstance(schema, dict):
            continue
        choices = [json.dumps(choice, sort_keys=True) for choice in schema.get("enum", [])]
        if len(set(choices)) < len(choices):
            raise Rejected("schema_invalid", f"{document.name}.{name}: the enum names a choice twice")
        if "enum" in schema and "default" in schema and schema["default"] not in schema["enum"]:
            raise Rejected("schema_invalid", f"{document.name}.{name}: the default is not in the enum")


def check_described(document: ToolDocument) -> None:
    """Check that the tool has a description. Only for authors; OpenAI and MCP do not require one. Raises Rejected."""
    if not document.description.strip():
        raise Rejected("tool_undescribed", f"{document.name} has no description")


def check_arguments(document: ToolDocument, arguments: dict[str, Any]) -> None:
    """Check that a call's arguments fit the document, which passed `check_document`. Raises Rejected."""
    plain = plain_schema(document.parameters, document.parameters)
    properties, rest = plain.get("properties", {}), plain.get("additionalProperties", False)
    for name in plain.get("required", []):
        if name not in arguments:
            raise Rejected("gold_call_invalid", f"{document.name}: the call lacks the required {name!r}")
    for name, value in arguments.items():
        if name not in properties and rest is False:
            raise Rejected("gold_call_invalid", f"{document.name}: the call has {name!r}, which is no parameter")
        schema = properties.get(name, rest)
        if isinstance(value, str) and schema == {"type": "string"}:
            continue
        try:
            fitting = fits(value, schema, document.parameters)
        except CannotApply as error:
            raise Rejected("schema_invalid", f"{document.name}.{name}: cannot be applied: {error}") from None
        if not fitting:
            raise Rejected("gold_call_invalid", f"{document.name}: {name} = {value!r} does not fit its schema")


@lru_cache(maxsize=4096)
def source_problem(source: str, name: str) -> tuple[str, str] | None:
    """(rule, message) of a problem in a tool's source, or None. It must parse, define `name` and do no I/O."""
    try:
        module = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "source_does_not_parse", f"{name}: {error}"
    if not any(isinstance(inner, CodeType) and inner.co_name == name for inner in module.co_consts):
        return "source_lacks_function", f"{name}: no function of that name at top level"
    names = _names_in(module)
    if "import" in source or not names.isdisjoint(FORBIDDEN_NAMES) or any(other.startswith("__") for other in names):
        return _forbidden_use(source, name)
    return None


def _names_in(code: CodeType) -> set[str]:
    """Global names and attributes that compiled code and the functions in it refer to."""
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _names_in(inner)
    return names


def _forbidden_use(source: str, name: str) -> tuple[str, str] | None:
    """The slow check, which distinguishes `open(...)` from a method or a local variable of that name."""
    nodes, _ = walk_code(ast.parse(source))
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "."]
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES - bound:
            return "source_does_io", f"{name}: uses {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr.startswith("__") and node.attr.endswith("__"):
            return "source_does_io", f"{name}: reaches for {node.attr}"
        for module in modules:
            if module.split(".")[0] not in ALLOWED_IMPORTS:
                return "source_does_io", f"{name}: imports {module}"
    return None
