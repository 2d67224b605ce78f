"""The state of an environment whose tools change a database: its tables, what the gold plan changes, what was changed.

`tables` is {table: {row key: {column: cell}}}. A cell is a text, a number or a truth value. A patch has the same shape
and holds only what differs; null in place of a row means that the row is gone. Plans are compared by their result: a
goal is met if its cells have the gold plan's values, whichever calls wrote them.

Gold stays in this process. A tool gets a copy of the tables and nothing else of this record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

Cell = bool | int | float | str
Row = dict[str, Cell]
Tables = dict[str, dict[str, Row]]
Patch = dict[str, dict[str, Row | None]]


class StateGoal(BaseModel):
    """What one writing gold call changes. Goals of one environment share no cell, so each can be met by itself."""

    sub_question: str
    tool: str
    answer: str
    changes: Patch


class StateRule(BaseModel):
    """A rule of a writing tool, as its document and its error state it, and a call that breaks it at the start."""

    tool: str
    text: str
    arguments: dict[str, Any]


class EnvironmentState(BaseModel):
    """The key `state` of a record.

    `tables`: at the start of the episode. `goals`: what counts; every other change is unasked. `changes`: the patch
    from the start to now. `credited`: sub-questions whose goal was met once, so that a goal earns reward only once.
    """

    tables: Tables
    goals: list[StateGoal]
    rules: list[StateRule] = Field(default_factory=list)
    changes: Patch = Field(default_factory=dict)
    credited: list[str] = Field(default_factory=list)

    @property
    def now(self) -> Tables:
        """The current tables, as a copy. Tools get these."""
        return patched(self.tables, self.changes)

    @property
    def writing_tools(self) -> set[str]:
        """The tools that are known to change the tables."""
        return {goal.tool for goal in self.goals} | {rule.tool for rule in self.rules}

    def after(self, tables: Tables) -> EnvironmentState:
        """The state whose current tables are `tables`."""
        return self.model_copy(update={"changes": difference(self.tables, tables)})

    def met(self) -> set[str]:
        """The sub-questions whose goals are met now."""
        return {goal.sub_question for goal in self.goals if all(map(self._holds, _cells(goal.changes)))}

    def unasked(self) -> set[tuple[str, str]]:
        """The rows (table, key) with a change that no goal asks for.

        A number on its way from the start to its goal is none: two payments of 50 may replace one of 100.
        """
        asked = {cell[:3]: cell[3] for goal in self.goals for cell in _cells(goal.changes)}
        found = set()
        for table, key, column, value in _cells(self.changes):
            place = (table, key, column)
            if place not in asked:
                found.add((table, key))
                continue
            start = self.tables.get(table, {}).get(key, {}).get(column)
            if not _same(value, asked[place]) and not _between(start, value, asked[place]):
                found.add((table, key))
        return found

    def is_right(self) -> bool:
        """Whether the current tables are those that the gold plan leaves."""
        return len(self.met()) == len(self.goals) and not self.unasked()

    def _holds(self, cell: tuple[str, str, str, Any]) -> bool:
        table, key, column, wanted = cell
        row = self.tables.get(table, {}).get(key)
        rows = self.changes.get(table, {})
        if key in rows:
            changed = rows[key]
            row = None if changed is None else {**(row or {}), **changed}
        if column == "":
            return row is None
        return row is not None and column in row and _same(row[column], wanted)


def patched(tables: Tables, patch: Patch) -> Tables:
    """A copy of the tables with the patch applied."""
    copy = {table: {key: dict(row) for key, row in rows.items()} for table, rows in tables.items()}
    for table, rows in patch.items():
        of_table = copy.setdefault(table, {})
        for key, row in rows.items():
            if row is None:
                of_table.pop(key, None)
            else:
                of_table[key] = {**of_table.get(key, {}), **row}
    return copy


def difference(start: Tables, now: Tables) -> Patch:
    """The patch that turns `start` into `now`. A column that is missing now is null in place of its row.

    `tables_problem` refuses that within a turn. Over several turns, a row may be deleted and made again with fewer.
    """
    patch: Patch = {}
    for table in dict.fromkeys((*start, *now)):
        before, after = start.get(table, {}), now.get(table, {})
        for key in dict.fromkeys((*before, *after)):
            old, new = before.get(key), after.get(key)
            if new is None or (old is not None and not old.keys() <= new.keys()):
                patch.setdefault(table, {})[key] = None
            elif old is None:
                patch.setdefault(table, {})[key] = dict(new)
            elif changed := {c: cell for c, cell in new.items() if c not in old or not _same(cell, old[c])}:
                patch.setdefault(table, {})[key] = changed
    return patch


def tables_problem(before: Any, after: Any) -> str:
    """What is wrong with the tables that tools left; empty if nothing is.

    The value must have the shape of tables, and a row must keep the columns that it had.
    """
    if not isinstance(after, dict):
        return "the tools of this turn left a state that is no set of tables"
    for table, rows in after.items():
        if not isinstance(rows, dict):
            return f"the tools of this turn left a table {table!r} that is no set of rows"
        for key, row in rows.items():
            if not isinstance(row, dict):
                return f"the tools of this turn left {table} {key!r}, which is no row"
            wrong = [column for column, cell in row.items() if not isinstance(cell, bool | int | float | str)]
            if wrong:
                return f"the tools of this turn left {table} {key!r} with {wrong[0]!r}, which is no text or number"
            if lost := before.get(table, {}).get(key, {}).keys() - row.keys():
                return f"the tools of this turn removed {sorted(lost)[0]!r} of {table} {key!r}"
    return ""


def overlap(first: Patch, second: Patch) -> bool:
    """Whether two patches write to one cell."""
    cells = [{cell[:3] for cell in _cells(patch)} for patch in (first, second)]
    return not cells[0].isdisjoint(cells[1])


def _cells(patch: Patch) -> Iterator[tuple[str, str, str, Any]]:
    """(table, key, column, value) of each cell; the column is empty for a row that is gone."""
    for table, rows in patch.items():
        for key, row in rows.items():
            if not row:
                yield table, key, "", None
            else:
                for column, value in row.items():
                    yield table, key, column, value


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _between(start: Any, value: Any, goal: Any) -> bool:
    numbers = [start, value, goal]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        return False
    return bool(min(start, goal) <= value <= max(start, goal))
