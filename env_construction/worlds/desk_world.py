"""One world of a desk: its tables at the start, its tools, and a call that breaks each rule.

Names belong to the pool of one split, as in `world.py`, so splits share no entity.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice, product
from typing import Any

from env_construction.building.author import Rejected
from env_construction.environment.state import Cell, StateRule, Tables
from env_construction.facts.facts import pool_of
from env_construction.worlds.desk_tools import SHAPES, WORDINGS, DeskTool, plain_tools, refusal
from env_construction.worlds.desks import Desk, Parameter, Table, key_number
from env_construction.worlds.domains import Generator
from env_construction.worlds.names import drawer

_DRAWS = 200
_MOST_CALLS = 4000
_NUMBERS = 6
"""How many values of a number to try."""
_ROUNDS = 12
"""How often a world gets further rows until every rule has a case."""
LEAST_ROWS = 5


@dataclass(frozen=True)
class DeskWorld:
    """`tools` have this world's names. Treat `tables` as immutable: requests run on copies."""

    desk: Desk
    tables: Tables
    tools: tuple[DeskTool, ...]
    rules: tuple[StateRule, ...]

    def tool(self, kind: str, subject: str) -> DeskTool:
        return next(tool for tool in self.tools if (tool.kind, tool.subject) == (kind, subject))


def make_world(desk: Desk, split: str, rows: tuple[int, int], rng: random.Random) -> DeskWorld:
    """A world from a seeded generator. Raises Rejected if no call breaks one of its rules."""
    tables: Tables = {}
    for table in desk.tables.values():
        links = any(table.columns[name].generator.target for name in table.by)
        count = max(LEAST_ROWS, rng.randint(*rows)) * (3 if links else 2) // 2
        tables[table.name] = {}
        for _ in range(count):
            _add_row(table, tables, split, rng)
    tools = tuple(_renamed(plain_tools(desk), rng))
    rules: list[StateRule] = []
    for tool in tools:
        for _ in range(_ROUNDS):
            cases, missing = _cases(tool, tables, rng)
            if not missing:
                rules += cases
                break
            for table in desk.tables.values():  # among more rows, one may be the case of a rule
                _add_row(table, tables, split, rng)
        else:
            raise Rejected("rule_without_case", f"{tool.name}: no call breaks {sorted(missing)[0]!r}")
    return DeskWorld(desk, tables, tools, tuple(rules))


def _add_row(table: Table, tables: Tables, split: str, rng: random.Random) -> None:
    rows = tables[table.name]
    for _ in range(_DRAWS):
        row = {name: _cell(column.generator, tables, rng) for name, column in table.columns.items()}
        by = [row[name] for name in table.by]
        if by and any([other[name] for name in table.by] == by for other in rows.values()):
            continue
        key = added_key(table, by) if table.prefix else drawer(table.pattern)(rng)
        if key not in rows and (table.prefix or pool_of(key) == split):
            rows[key] = row
            return
    # a table that links few rows may have no further pair
    if len(rows) < LEAST_ROWS:
        raise Rejected("no_row", f"{table.name}: no further row")


def added_key(table: Table, by: list[Cell]) -> str:
    """The key that an action gives a row with these `by` values, unless another row has it."""
    return f"{table.prefix}{eval(key_number([repr(value) for value in by]))}"


def _cell(made: Generator, tables: Tables, rng: random.Random) -> Cell:
    if made.kind == "entity":
        return rng.choice(list(tables[made.target]))
    if made.kind == "choice":
        return rng.choice(made.choices)
    if made.kind == "integer":
        return int(made.low + made.step * rng.randrange(int((made.high - made.low) / made.step) + 1))
    if made.kind == "date":
        first, last = date(int(made.low), 1, 1).toordinal(), date(int(made.high), 12, 31).toordinal()
        return date.fromordinal(rng.randint(first, last)).isoformat()
    return drawer(made.pattern)(rng)


def _renamed(tools: list[DeskTool], rng: random.Random) -> Iterator[DeskTool]:
    for tool in tools:
        names = {
            "find": (tool.name, f"look_up_{tool.subject}", f"search_{tool.subject}"),
            "details": (tool.name, f"get_{tool.subject}", f"show_{tool.subject}"),
        }.get(tool.kind) or tool.action.names
        yield replace(
            tool, name=rng.choice(names), shape=rng.choice(SHAPES), wording=rng.randrange(len(WORDINGS[tool.kind]))
        )


def calls_of(
    tool: DeskTool, tables: Tables, rng: random.Random, fixed: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Arguments that fit the tool's document, in random order. `fixed`: the values of some parameters."""
    known = fixed or {}
    choices = [[known[item.name]] if item.name in known else _choices(item, tables, rng) for item in tool.parameters]
    combinations = list(islice(product(*choices), _MOST_CALLS))
    rng.shuffle(combinations)
    names = [item.name for item in tool.parameters]
    return (dict(zip(names, values, strict=True)) for values in combinations)


def _choices(item: Parameter, tables: Tables, rng: random.Random) -> list[Any]:
    made = item.generator
    if made is None:
        return list(tables[item.table])
    if made.kind == "choice":
        return list(made.choices)
    return [_cell(made, tables, rng) for _ in range(_NUMBERS)]


def _cases(tool: DeskTool, tables: Tables, rng: random.Random) -> tuple[list[StateRule], set[str]]:
    """A call for each rule of an action that this rule refuses, and the rules without one."""
    missing = {sentence for _, sentence in tool.action.rules} if tool.kind == "act" else set()
    cases = []
    for arguments in calls_of(tool, tables, rng) if missing else ():
        error = refusal(tool, tables, arguments)
        if error in missing:
            missing.remove(error)
            cases.append(StateRule(tool=tool.name, text=error, arguments=arguments))
            if not missing:
                break
    return cases, missing
