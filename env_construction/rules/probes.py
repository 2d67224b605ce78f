"""Probes: extra calls that show how a tool behaves for a caller who does not know what to ask.

- Neutral calls name no entity: no arguments, or meaningless texts.
- Option calls are about an unknown entity, with every boolean and every enum choice.
- Entity calls put other names of the tool's own table into a gold call.
- Echo calls put an unknown word into one additional text parameter of a gold call.

The published data has no gold plan, so only neutral and option calls are possible. Gold answers stay in this process.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from env_construction.environment.argument_filler import Fixed, fill
from env_construction.environment.schema import Environment, GoldCall, ToolDocument
from env_construction.environment.tool_schema import plain_schema
from env_construction.rules.replay import UNKNOWN, names_in, swap
from env_construction.sandbox.code_proof import walk_code
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult

NEUTRAL_TEXTS = (UNKNOWN, "x", "")
MOST_CANDIDATES = 24
"""Maximum number of names of a tool's table to try, per gold call."""
MOST_CHOICES = 12
"""Maximum number of enum choices to try."""
MOST_NAME = 80
"""Maximum length of a name in a table, in characters; longer texts are prose."""


VARYING_NODES = (ast.Import, ast.ImportFrom, ast.Set, ast.SetComp, ast.BitAnd, ast.BitOr, ast.BitXor)
_SET_NAMES = ("set", "frozenset", "hash", "id", "keys", "intersection", "union", "difference", "symmetric_difference")
_HIDDEN = (
    "dir",
    "vars",
    "globals",
    "locals",
    "eval",
    "exec",
    "compile",
    "getattr",
    "__import__",
    "__builtins__",
    "__hash__",
)
VARYING_NAMES = frozenset(_SET_NAMES + _HIDDEN)


@dataclass(frozen=True)
class Probe:
    """A call, its purpose ("neutral", "option", "entity", "echo"), its tool or sub-question, and the inserted name."""

    kind: str
    place: str
    call: ToolCall
    name: str = ""


@dataclass(frozen=True)
class Probed:
    """The probes with their results, and repeated calls in other surroundings.

    The repeated calls are (place, usual result, results in other surroundings) for tools that may vary: the gold calls,
    or the neutral and option calls if there is no gold plan.
    """

    probes: list[tuple[Probe, ToolResult]]
    elsewhere: list[tuple[str, ToolResult, list[ToolResult]]]

    def of(self, kind: str, place: str) -> list[tuple[Probe, ToolResult]]:
        return [(probe, result) for probe, result in self.probes if probe.kind == kind and probe.place == place]


class ProbePlan:
    """The probes of one environment: `jobs` for the usual sandbox, and `again` for those in other surroundings."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.documents = {
            tool.name: tool
            for tool in environment.tools
            if environment.unsolved_set.get(tool.name) and tool.name in environment.codes
        }
        self.properties = {name: _properties(tool) for name, tool in self.documents.items()}
        found = [*self._neutral(), *self._options(), *self._entities(), *self._echoes()]
        self.probes = [probe for probe in found if not self._is_gold(probe.call)]
        codes = {name: environment.codes[name] for name in self.documents}
        repeated = [(call.sub_question, ToolCall(call.name, call.arguments)) for call in environment.gold_plan] or [
            (probe.place, probe.call) for probe in self.probes if probe.kind in ("neutral", "option")
        ]
        repeated = [(place, call) for place, call in repeated if may_vary(environment.codes[call.name])]
        self.repeated = [place for place, _ in repeated]
        self.again = SandboxJob(codes, [call for _, call in repeated])
        self.jobs = [SandboxJob(codes, [probe.call for probe in self.probes]), self.again]

    def read(self, results: Sequence[list[ToolResult]], others: Sequence[list[ToolResult]]) -> Probed:
        """`results` are in the order of `jobs`; `others` are those of `again` in each of the other surroundings."""
        here = results[1]
        elsewhere = [
            (place, result, [other[number] for other in others])
            for number, (place, result) in enumerate(zip(self.repeated, here, strict=True))
        ]
        return Probed(list(zip(self.probes, results[0], strict=True)), elsewhere)

    def _neutral(self) -> Iterator[Probe]:
        """No arguments; then meaningless texts in the required parameters, and in all of them.

        A tool that requires no text gets only the call without arguments, because choices and numbers may be all that
        a caller can ask it by.
        """
        for name, tool in self.documents.items():
            properties = self.properties[tool.name]
            if not properties:
                continue
            calls: list[dict[str, Any]] = [{}]
            for text in NEUTRAL_TEXTS:
                required = fill(tool.parameters, Fixed(text))
                if text in names_in(_open(required, properties), set()):
                    calls += [required, fill(tool.parameters, Fixed(text, everything=True))]
            for arguments in _distinct(calls):
                yield Probe("neutral", name, ToolCall(name, arguments), UNKNOWN)

    def _options(self) -> Iterator[Probe]:
        """An unknown name as the entity, with each boolean set and unset, each choice, and all booleans set at once."""
        for place, tool, base in self._about_nobody():
            properties = self.properties[tool.name]
            booleans = [name for name, schema in properties.items() if schema["type"] == "boolean"]
            calls = [{**base, name: value} for name in booleans for value in (True, False)]
            whole = {**base, **dict.fromkeys(booleans, True)}
            calls.append(whole)
            for name, schema in properties.items():
                choices = list(schema.get("enum") or ())[:MOST_CHOICES]
                calls += [{**start, name: choice} for choice in choices for start in (base, whole)]
            for arguments in _distinct(calls):
                yield Probe("option", place, ToolCall(tool.name, arguments), UNKNOWN)

    def _about_nobody(self) -> Iterator[tuple[str, ToolDocument, dict[str, Any]]]:
        """Each gold call about an unknown name. Without a gold plan, each tool's simplest call about one."""
        for call, tool, entities in self._asked():
            if entities:
                yield (
                    call.sub_question,
                    tool,
                    {key: swap(value, UNKNOWN) if key in entities else value for key, value in call.arguments.items()},
                )
        for name, tool in self.documents.items() if not self.environment.gold_plan else ():
            filled = fill(tool.parameters, Fixed(UNKNOWN))
            if UNKNOWN in names_in(_open(filled, self.properties[tool.name]), set()):
                yield name, tool, filled

    def _asked(self) -> Iterator[tuple[GoldCall, ToolDocument, list[str]]]:
        """The gold calls, with the parameters that name entities: texts that are not enum choices."""
        for call in self.environment.gold_plan:
            tool = self.documents.get(call.name)
            if tool is not None:
                yield (
                    call,
                    tool,
                    [
                        key
                        for key, value in _open(call.arguments, self.properties[tool.name]).items()
                        if names_in(value, set())
                    ],
                )

    def _entities(self) -> Iterator[Probe]:
        """For a gold call with a single name, other names from the same table, in its place."""
        for call, _, entities in self._asked():
            names = [name for key in entities for name in names_in(call.arguments[key], set())]
            table = known_names(self.environment.codes[call.name], names[0]) if len(names) == 1 else None
            for name in [*table[:MOST_CANDIDATES], UNKNOWN] if table is not None else ():
                swapped = {**call.arguments, entities[0]: swap(call.arguments[entities[0]], name)}
                yield Probe("entity", call.sub_question, ToolCall(call.name, swapped), name)

    def _echoes(self) -> Iterator[Probe]:
        for call, tool, entities in self._asked():
            for name, schema in self.properties[tool.name].items():
                if schema["type"] == "string" and not schema.get("enum") and name not in entities:
                    yield Probe(
                        "echo", call.sub_question, ToolCall(call.name, {**call.arguments, name: UNKNOWN}), UNKNOWN
                    )

    def _is_gold(self, call: ToolCall) -> bool:
        return any(call.name == gold.name and call.arguments == gold.arguments for gold in self.environment.gold_plan)


def _properties(tool: ToolDocument) -> dict[str, dict[str, Any]]:
    """The parameters of a tool in plain keywords."""
    plain = plain_schema(tool.parameters, tool.parameters)
    return {name: plain_schema(inner, tool.parameters) for name, inner in plain.get("properties", {}).items()}


def _open(arguments: Mapping[str, Any], properties: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments whose parameters have no enum."""
    return {key: value for key, value in arguments.items() if not properties.get(key, {}).get("enum")}


def _distinct(calls: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return iter({repr(sorted(call.items())): call for call in calls}.values())


def known_names(source: str, name: str) -> tuple[str, ...] | None:
    """Other names that occur in a source as `name` does: keys of its table, values of its column, compared values.

    None if `name` does not occur there: the tool computes, or stores its table in another form.
    """
    wanted = name.casefold()
    holding = [column for column in _read(source)[0] if any(text.casefold() == wanted for text in column)]
    if not holding:
        return None
    return tuple(dict.fromkeys(text for column in holding for text in column if text.casefold() != wanted))


def may_vary(source: str) -> bool:
    """Whether the result of a call may depend on more than its arguments.

    Code without imports sees no clock. Without sets, no order in it depends on hashes.
    """
    return _read(source)[1]


@lru_cache(maxsize=1024)
def _read(source: str) -> tuple[tuple[tuple[str, ...], ...], bool]:
    """The columns of short texts in a source, and whether it may vary."""
    columns: dict[Any, list[str]] = defaultdict(list)
    varies, seen, rows = False, set[Any](), set[int]()
    for node in walk_code(ast.parse(source))[0]:
        varies = varies or isinstance(node, VARYING_NODES)
        seen |= {type(node), getattr(node, "id", None), getattr(node, "attr", None)}
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                columns["keys", id(node)] += _texts(key)
                columns["value", *_texts(key)] += _texts(value)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set) and id(node) not in rows:
            for row in node.elts:
                columns["elements", id(node)] += _texts(row)
                rows.add(id(row))
                for place, cell in enumerate(row.elts) if isinstance(row, ast.List | ast.Tuple) else ():
                    columns["column", id(node), place] += _texts(cell)
        elif isinstance(node, ast.Compare | ast.MatchValue):
            for text in ast.walk(node):
                columns["compared"] += _texts(text)
    varies = varies or bool(seen & VARYING_NAMES) or {"items", ast.Sub} <= seen  # items() - items() is a set
    return tuple(map(tuple, columns.values())), varies


def _texts(node: ast.AST | None) -> list[str]:
    value = node.value if isinstance(node, ast.Constant) else None
    return [value] if isinstance(value, str) and 0 < len(value) <= MOST_NAME else []
