"""Desks: the tables of a domain that its tools change, and the actions on them, read from `actions/*.yaml`.

A table has a `name` (a pattern as in `domains.py`) and columns `generator | what it is called`, with the generators of
`domains.py`; `-> table` refers to an earlier table. What a column is called may have choices, split by ` / `, and a
`{}` for the row: `price / amount that a buyer pays for {}`. Other keys of a table: `by`, columns that find a row;
`described`, how a request says a row by them; `form` and `noun` as in `domains.py`. Actions can add rows to a table
whose name is a `code`: the key of a row follows from its `by` columns, so it does not depend on the order of the calls.

    cancel_booking:
      also: drop_booking                         other names that a world may give the tool
      about: Cancels a booking and returns the refund.
      takes: {booking: booking}                  parameter: a table, `int 10..90 step 5`, or `one of a, b`
      rules:                                     test | sentence, in the document and in the error
        - booking.flight.departs > today | Bookings on flights that have departed cannot be cancelled.
        - booking.status == 'active' | Only active bookings can be cancelled.
      changes: [booking.status = 'cancelled', booking.flight.seats += 1]
      gives: refund = booking.price | how much money comes back / the amount that the passenger gets
      ask:                                       sentences, of which a request has one
        - The passenger of {booking} can no longer make the trip.
        - Please undo {booking}, which was made by mistake.

Requests say what people want, in other words than the tool's name and document: a policy that counts common words must
not find the tool (`measures/shortcuts.py`). `{bags:more bag}` in a sentence becomes "one more bag" or "two more bags".

Tests and values are Python over `parameter.column`, `today` and texts in single quotes. Three forms stand for more:
`no loan(member, status = 'open')`, `fewer than 3 loan(member)` and, in `changes`, `new loan(member, book) status =
'open'`; `new` is then the key of the new row. An amount that moves is an integer, so that sums are exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput
from env_construction.worlds.domains import Generator, read_generator
from env_construction.worlds.names import FOLDER, drawer, load_yaml

LEAST_TOOLS = 12
LEAST_ASKS = 2
_TABLE_KEYS = ("name", "noun", "form", "by", "described")
_ACTION_KEYS = {"about", "takes", "changes", "gives", "ask"}
_TOKEN = re.compile(r"'[^']*'|[A-Za-z_]\w*(?:\.\w+)*")
_ROWS = re.compile(r"(no|fewer than (?P<most>\S+)) (?P<table>\w+)\((?P<where>.*)\)$")
_NEW = re.compile(r"new (?P<table>\w+)\((?P<by>[\w, ]+)\) (?P<cells>.+)$")
_CHANGE = re.compile(r"(?P<place>[\w.]+) (?P<sign>[-+]?=) (?P<value>.+)$")
_WORDS = ("and", "or", "not", "in")


@dataclass(frozen=True)
class Column:
    """A column. `heads`: what it is called, "locker" or, with a slot for the row, "price of a visit to {}"."""

    name: str
    generator: Generator
    heads: tuple[str, ...]

    @property
    def head(self) -> str:
        return self.heads[0]


@dataclass(frozen=True)
class Table:
    """`by`: columns that find a row; `described`: a phrase with them; `prefix`: of the keys of added rows, or empty."""

    name: str
    noun: str
    pattern: str
    form: str
    by: tuple[str, ...]
    described: str
    columns: dict[str, Column]
    prefix: str

    @property
    def label(self) -> str:
        """What its key is called."""
        return f"{'number' if self.pattern.startswith('code ') else 'name'} of the {self.noun}"


@dataclass(frozen=True)
class Parameter:
    """A parameter of an action: a row of `table`, or a value of `generator`."""

    name: str
    table: str = ""
    generator: Generator | None = None


@dataclass(frozen=True)
class Action:
    """A writing tool. `rules` are (test, sentence) and `body` the changes, as lines of Python over `state`.

    `result`: the expression of its output, called `head`. A request has one of `asks`, and one of `phrases` for the
    output.
    """

    name: str
    names: tuple[str, ...]
    about: str
    takes: tuple[Parameter, ...]
    rules: tuple[tuple[str, str], ...]
    body: tuple[str, ...]
    head: str
    result: str
    phrases: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True)
class Desk:
    """The tables and actions of a domain. `today`: the day on which its worlds play."""

    domain: str
    about: str
    today: str
    tables: dict[str, Table]
    actions: dict[str, Action] = field(default_factory=dict)


@lru_cache(maxsize=1)
def desks() -> dict[str, Desk]:
    """All desks by domain, read once per process. Raises BadInput with file and key."""
    return {path.stem: read_desk(path) for path in sorted((FOLDER / "actions").glob("*.yaml"))}


def read_desk(path: Path) -> Desk:
    """The desk of a file. Raises BadInput with file, action or table, and what to do."""
    data = load_yaml(path)
    if not isinstance(data, dict) or not {"about", "today", "tables", "actions"} <= data.keys():
        raise BadInput(f"{path}: expected the keys about, today, tables and actions; add what is missing")
    desk = Desk(path.stem, data["about"], data["today"], {})
    for name, rows in data["tables"].items():
        desk.tables[name] = _read_table(f"{path}: {name}", name, rows, desk.tables)
    for name, rows in data["actions"].items():
        where = f"{path}: {name}"
        missing = _ACTION_KEYS - rows.keys()
        if missing:
            raise BadInput(f"{where}: expected the keys {', '.join(sorted(missing))}; add them")
        desk.actions[name] = _Reader(where, desk, rows.get("takes", {})).action(name, rows)
    tools = sum(len(table.by) > 0 for table in desk.tables.values()) + len(desk.tables) + len(desk.actions)
    if tools < LEAST_TOOLS:
        raise BadInput(f"{path}: its worlds have {tools} tools, expected {LEAST_TOOLS} or more; add actions or tables")
    return desk


def _read_table(where: str, name: str, rows: dict[str, str], known: dict[str, Table]) -> Table:
    if "name" not in rows:
        raise BadInput(f"{where}: expected the key 'name' (a pattern over names.yaml)")
    pattern = rows["name"] if "{" in rows["name"] or rows["name"].startswith("code ") else f"{{{rows['name']}}}"
    drawer(pattern)
    columns = {}
    for key, line in rows.items():
        if key not in _TABLE_KEYS:
            made, _, called = (part.strip() for part in line.partition("|"))
            generator = read_generator(f"{where}.{key}", made)
            if made == "code":
                raise BadInput(f"{where}.{key}: the code is empty: ' #' begins a comment; start the code with a letter")
            if generator.kind == "entity" and generator.target not in known:
                raise BadInput(f"{where}.{key}: {generator.target!r} is no earlier table; define it above")
            columns[key] = Column(key, generator, _choices(called or key.replace("_", " ")))
    by = tuple(part.strip() for part in rows.get("by", "").split(",") if part.strip())
    unknown = [column for column in by if column not in columns or f"{{{column}}}" not in rows.get("described", "")]
    if unknown:
        raise BadInput(f"{where}: 'by' names {unknown[0]!r}; expected a column that 'described' holds in braces")
    prefix = pattern[5:].split("#")[0] if re.fullmatch(r"code [A-Z]+-#####", pattern) and by else ""
    noun = rows.get("noun", name.replace("_", " "))
    return Table(name, noun, pattern, rows.get("form", ""), by, rows.get("described", ""), columns, prefix)


def _choices(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(" / ") if part.strip())


class _Reader:
    """Reads one action: its expressions become Python over `state`."""

    def __init__(self, where: str, desk: Desk, takes: dict[str, str]) -> None:
        self.where = where
        self.desk = desk
        self.takes: dict[str, Parameter] = {}
        self.new = ""
        for name, kind in takes.items():
            table = kind if kind in desk.tables else ""
            generator = None if table else read_generator(f"{where}: {name}", kind)
            self.takes[name] = Parameter(name, table, generator)

    def action(self, name: str, rows: dict[str, Any]) -> Action:
        rules = []
        for line in rows.get("rules", ()):
            test, _, sentence = (part.strip() for part in line.partition(" | "))
            if not sentence.endswith("."):
                raise BadInput(f"{self.where}: rule {line!r}: expected 'test | a sentence that ends in a period'")
            rules.append((self._test(test), sentence))
        body = [line for change in rows["changes"] for line in self._change(change)]
        gives, _, phrases = (part.strip() for part in rows["gives"].partition(" | "))
        head, _, value = (part.strip() for part in gives.partition(" = "))
        if not phrases or not value:
            raise BadInput(f"{self.where}: expected 'gives: name = value | phrase / phrase'")
        also = tuple(part.strip() for part in rows.get("also", "").split(",") if part.strip())
        return Action(
            name=name,
            names=(name, *also),
            about=rows["about"],
            takes=tuple(self.takes.values()),
            rules=tuple(rules),
            body=tuple(body),
            head=head,
            result=self._value(value),
            phrases=_choices(phrases),
            asks=self._asks(rows["ask"]),
        )

    def _asks(self, asks: Any) -> tuple[str, ...]:
        if not isinstance(asks, list) or len(asks) < LEAST_ASKS:
            raise BadInput(f"{self.where}: expected a list of {LEAST_ASKS} sentences or more under 'ask'; add some")
        for ask in asks:
            unsaid = [name for name in self.takes if not re.search(rf"\{{{name}[:}}]", ask)]
            if unsaid or not ask.endswith("."):
                raise BadInput(
                    f"{self.where}: {ask!r}: expected a sentence with a period and each of {list(self.takes)}"
                )
        return tuple(asks)

    def _value(self, text: str) -> str:
        return _TOKEN.sub(lambda found: self._token(found[0]), text)

    def _token(self, token: str) -> str:
        if token.startswith("'") or token in _WORDS:
            return token
        if token == "today":
            return repr(self.desk.today)
        first, *columns = token.split(".")
        if first == "new" and self.new:
            table, code = self.new, "new"
        elif first in self.takes:
            table, code = self.takes[first].table, first
        else:
            raise BadInput(f"{self.where}: {token!r} is no parameter; put a text in single quotes")
        for column in columns:
            if not table or column not in self.desk.tables[table].columns:
                raise BadInput(f"{self.where}: {token!r}: there is no column {column!r}; add it to its table")
            code = f'state["{table}"][{code}]["{column}"]'
            table = self.desk.tables[table].columns[column].generator.target
        return code

    def _test(self, text: str) -> str:
        found = _ROWS.match(text)
        if found is None:
            return self._value(text)
        conditions = []
        for part in found["where"].split(","):
            column, _, value = (piece.strip() for piece in part.partition("="))
            if column not in self._table(found["table"]).columns:
                raise BadInput(f"{self.where}: {text!r}: {found['table']} has no column {column!r}")
            conditions.append(f'row["{column}"] == {self._value(value or column)}')
        rows = f'for row in state["{found["table"]}"].values() if {" and ".join(conditions)}'
        if found["most"] is None:
            return f"not any(True {rows})"
        most = found["most"] if found["most"].isdigit() else self._value(found["most"])
        return f"sum(1 {rows}) < {most}"

    def _table(self, name: str) -> Table:
        if name not in self.desk.tables:
            raise BadInput(f"{self.where}: there is no table {name!r}; define it under tables")
        return self.desk.tables[name]

    def _change(self, text: str) -> list[str]:
        found = _NEW.match(text)
        if found is not None:
            return self._new_row(text, self._table(found["table"]), found["by"], found["cells"])
        found = _CHANGE.match(text)
        if found is None:
            raise BadInput(f"{self.where}: change {text!r}: expected 'row.column = value', '+=', '-=', or 'new ...'")
        return [f"{self._value(found['place'])} {found['sign']} {self._value(found['value'])}"]

    def _new_row(self, text: str, table: Table, by: str, cells: str) -> list[str]:
        columns = tuple(part.strip() for part in by.split(","))
        values = {column: self._value(column) for column in columns}
        for cell in cells.split(", "):
            column, _, value = (part.strip() for part in cell.partition(" = "))
            values[column] = self._value(value)
        if columns != table.by or not table.prefix or values.keys() != table.columns.keys():
            raise BadInput(
                f"{self.where}: {text!r}: expected new {table.name}({', '.join(table.by)}) with every column of the "
                "table, whose name is a code such as AB-#####"
            )
        self.new = table.name
        rows = f'state["{table.name}"]'
        found = ", ".join(f'{rows}[new]["{column}"]' for column in columns)
        wanted = ", ".join(values[column] for column in columns)
        row = ", ".join(f'"{column}": {value}' for column, value in values.items())
        return [
            f"number = {key_number([values[column] for column in columns])}",
            f'new = "{table.prefix}" + str(number)',
            f"while new in {rows} and [{found}] != [{wanted}]:",
            "    number += 1",
            f'    new = "{table.prefix}" + str(number)',
            f"{rows}[new] = {{{row}}}",
        ]


def key_number(values: list[str]) -> str:
    """The Python expression of the number in a new row's key; it depends on the row's `by` columns alone."""
    text = ' + "|" + '.join(values)
    return f"10000 + sum((place + 7) * ord(letter) for place, letter in enumerate({text})) * 7919 % 90000"
