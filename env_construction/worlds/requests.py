"""A request to a desk: what to change and what to tell, as calls with dependencies, in the shape of a scenario.

A row is named, or described so that a `find` tool has to look it up first. Every request changes something. Its changes
write to different cells, so each can be checked by itself and their order does not matter.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from env_construction.building.author import Rejected
from env_construction.environment.schema import Scenario
from env_construction.environment.state import Cell, Patch, Tables, difference, overlap, patched
from env_construction.worlds.desk_tools import DeskTool, detail_choice, outcome, refusal
from env_construction.worlds.desk_world import DeskWorld, calls_of
from env_construction.worlds.desks import Table
from env_construction.worlds.english import plural_of
from env_construction.worlds.world import long_date, number_text

_PLANS = 40
LEAST_ANSWER = 100
"""A smaller number is in many outputs by chance."""

FRAMES = ("Tell me {}.", "Then let me know {}.", "I would like to know {}.", "Report {}.")
MORE_FRAMES = ("Also tell me {}.", "I would also like to know {}.", "I also want to know {}.")
ENDS = ("Change nothing else.", "Leave everything else as it is.", "Please touch nothing else.")
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}

RowKey = tuple[str, str]


@dataclass
class PlannedCall:
    """`text`: its sub-question; `changes`: of a writing call; `needs`: places of the calls whose answers it uses."""

    tool: DeskTool
    arguments: dict[str, Any]
    answer: str
    needs: list[int]
    text: str
    changes: Patch = field(default_factory=dict)


@dataclass
class Request:
    """The calls in an order that works, the question, and the places of the calls whose answers it asks for."""

    calls: list[PlannedCall]
    question: str
    asked: list[int]

    @property
    def answer(self) -> str:
        return ", ".join(self.calls[place].answer for place in self.asked)


def plan_request(world: DeskWorld, scenario: Scenario, hops: int, rng: random.Random) -> Request:
    """A request of the scenario's shape, with about `hops` calls. Raises Rejected if none is found."""
    for _ in range(_PLANS):
        plan = _Plan(world, rng)
        if plan.fill(scenario, hops):
            return plan.request()
    raise Rejected("no_request", f"{world.desk.domain}: no {scenario} request")


class _Plan:
    def __init__(self, world: DeskWorld, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.tables: Tables = patched(world.tables, {})
        self.calls: list[PlannedCall] = []
        self.parts: list[str] = []
        self.asked: list[int] = []
        self.described: set[RowKey] = set()
        self.found: dict[RowKey, int] = {}
        self.used: set[str] = set()

    def fill(self, scenario: Scenario, hops: int) -> bool:
        """Add the calls of a scenario. False if the random choices do not lead to one."""
        if scenario == "single_hop":
            return self._act()
        if scenario == "parallel_single_hop":
            return self.several(hops)
        return self.chain(hops) if scenario == "multi_hop" else self.fork_or_join()

    def several(self, count: int) -> bool:
        acts = max(1, count - 1) if self.rng.random() < 0.5 else count
        return all(self._act() for _ in range(acts)) and all(self._read() for _ in range(count - acts))

    def chain(self, hops: int) -> bool:
        """One described row, which a row of another table may describe in turn."""
        rows = self._describable()
        if not rows:
            return False
        table, key = self.rng.choice(rows)
        self.described.add((table, key))
        links = self._links(table, key)
        if hops > 2 and links:
            self.described.add(self.rng.choice(links))
        return self._act(must=(table, key)) and all(len(call.needs) == (place > 0) for place, call in self._numbered())

    def fork_or_join(self) -> bool:
        """Two changes of one described row, or a change that needs two described rows."""
        rows = self._describable()
        if not rows:
            return False
        table, key = self.rng.choice(rows)
        self.described.add((table, key))
        links = self._links(table, key)
        if len(links) > 1 and self.rng.random() < 0.5:
            self.described.update(links[:2])
            return self._act(must=(table, key))
        if self.rng.random() < 0.5:
            other = self.rng.choice(rows)
            self.described.add(other)
            if other != (table, key) and self._act(must=(table, key), also=other):
                return len(self.calls) > 2
        return self._act(must=(table, key)) and self._act(must=(table, key))

    # parts of a request

    def _act(self, must: RowKey | None = None, also: RowKey | None = None) -> bool:
        """Add a change by an action that is not in the request yet. `must`, `also`: rows that it is about."""
        tools = [tool for tool in self.world.tools if tool.kind == "act" and tool.subject not in self.used]
        wanted = [row for row in (must, also) if row]
        self.rng.shuffle(tools)
        for tool in tools:
            places = [[item.name for item in tool.parameters if item.table == row[0]] for row in wanted]
            if not all(places):
                continue
            fixed = {names[0]: row[1] for row, names in zip(wanted, places, strict=True)}
            for arguments in calls_of(tool, self.tables, self.rng, fixed):
                if self._is_good(tool, arguments, wanted):
                    return self._add_act(tool, arguments)
        return False

    def _is_good(self, tool: DeskTool, arguments: dict[str, Any], wanted: list[RowKey]) -> bool:
        rows = [(item.table, arguments[item.name]) for item in tool.parameters if item.table]
        if len(set(rows)) < len(rows) or not set(wanted) <= set(rows) or self.described & set(rows) - set(wanted):
            return False
        if refusal(tool, self.tables, arguments) or refusal(tool, self.world.tables, arguments):
            return False
        after, alone = patched(self.tables, {}), patched(self.world.tables, {})
        value = outcome(tool, after, arguments)
        changes = difference(self.tables, after)
        return (
            is_telling(value)
            and bool(changes)
            and not any(overlap(changes, call.changes) for call in self.calls)
            and outcome(tool, alone, arguments) == value
        )

    def _add_act(self, tool: DeskTool, arguments: dict[str, Any]) -> bool:
        action = tool.action
        self.used.add(action.name)
        said: dict[str, Any] = {}
        needs = []
        for item in action.takes:
            if item.table:
                said[item.name], needed = self._refer(self.world.desk.tables[item.table], arguments[item.name])
                needs += needed
            else:
                said[item.name] = _Said(arguments[item.name])
        before = patched(self.tables, {})
        value = outcome(tool, self.tables, arguments)
        sentence = self.rng.choice(action.asks).format(**said)
        sentence = sentence[:1].upper() + sentence[1:]
        phrase = self.rng.choice(action.phrases)
        text = f"{sentence} Tell me {phrase}."
        self._tell(phrase, sentence)
        changes = difference(before, self.tables)
        self.calls.append(PlannedCall(tool, arguments, answer_of(value), needs, text, changes))
        return True

    def _read(self) -> bool:
        """Add a detail of a named row that the request does not change."""
        choices = []
        for table in self.world.desk.tables.values():
            for detail in detail_choice(table).choices:
                if table.columns[detail].generator.kind in ("integer", "text", "date"):
                    choices += [
                        (table, key, detail) for key, row in self.tables[table.name].items() if is_telling(row[detail])
                    ]
        changed = {(table, key) for call in self.calls for table, rows in call.changes.items() for key in rows}
        choices = [choice for choice in choices if (choice[0].name, choice[1]) not in changed]
        if not choices:
            return False
        table, key, detail = self.rng.choice(choices)
        tool = self.world.tool("details", table.name)
        head = self.rng.choice(table.columns[detail].heads)
        phrase = f"the {head if '{}' in head else head + ' of {}'}".format(mention(table, key))
        answer = answer_of(self.tables[table.name][key][detail])
        self._tell(phrase)
        arguments = {table.name: key, "detail": detail}
        self.calls.append(PlannedCall(tool, arguments, answer, [], f"What is {phrase}?"))
        return True

    def _tell(self, phrase: str, *sentences: str) -> None:
        """Ask for what the next call returns, right after the sentence that asks for its change."""
        frames = MORE_FRAMES if self.asked else FRAMES
        self.parts += [*sentences, self.rng.choice(frames).format(phrase)]
        self.asked.append(len(self.calls))

    def _refer(self, table: Table, key: str) -> tuple[str, list[int]]:
        """How the request says a row, and the places of the calls that find it."""
        if (table.name, key) not in self.described:
            return mention(table, key), []
        if (table.name, key) in self.found:
            return f"that {table.noun}", [self.found[table.name, key]]
        row, said, needs = self.tables[table.name][key], {}, []
        for name in table.by:
            target = table.columns[name].generator.target
            if target:
                said[name], needed = self._refer(self.world.desk.tables[target], str(row[name]))
                needs += needed
            else:
                said[name] = answer_of(row[name])
        text = table.described.format(**said)
        self.found[table.name, key] = len(self.calls)
        question = f"What is the {table.label.split(' of ')[0]} of {text}?"
        arguments = {name: row[name] for name in table.by}
        self.calls.append(PlannedCall(self.world.tool("find", table.name), arguments, key, needs, question))
        return text, [len(self.calls) - 1]

    def _describable(self) -> list[RowKey]:
        return [
            (table.name, key)
            for table in self.world.desk.tables.values()
            if table.by
            for key in self.tables[table.name]
        ]

    def _links(self, table: str, key: str) -> list[RowKey]:
        """The describable rows by which a row is described."""
        columns = self.world.desk.tables[table].columns
        found = []
        for name in self.world.desk.tables[table].by:
            target = columns[name].generator.target
            if target and self.world.desk.tables[target].by:
                found.append((target, str(self.tables[table][key][name])))
        return found

    def _numbered(self) -> list[tuple[int, PlannedCall]]:
        return list(enumerate(self.calls))

    def request(self) -> Request:
        today = long_date(date.fromisoformat(self.world.desk.today))
        question = " ".join([f"Today is {today}.", *self.parts, self.rng.choice(ENDS)])
        return Request(self.calls, question, self.asked)


class _Said:
    """An argument in a sentence: "{amount}" is 1,200 and "{bags:more bag}" is "two more bags"."""

    def __init__(self, value: Cell) -> None:
        self.value = value

    def __format__(self, noun: str) -> str:
        if not noun:
            return answer_of(self.value)
        assert isinstance(self.value, int)
        words = COUNTS.get(self.value, number_text(self.value))
        return f"{words} {noun if self.value == 1 else plural_of(noun)}"


def mention(table: Table, key: str) -> str:
    """A row's key in a sentence, in the table's `form`."""
    return {"noun": f"{table.noun} {key}", "quote": f'"{key}"', "the": f"the {key}"}.get(table.form, key)


def answer_of(value: Cell) -> str:
    """A cell as the tools write it; integers with commas."""
    return number_text(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def is_telling(value: Any) -> bool:
    """Whether a value can be a sub-answer that no other output holds by chance."""
    if isinstance(value, bool | float):
        return False
    return value >= LEAST_ANSWER if isinstance(value, int) else len(str(value)) > 2
