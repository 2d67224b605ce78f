"""One environment's fictional world: entities are created on demand and stay consistent.

An attribute's value is sampled once, after the values that it depends on. So dates are in order, and sums are correct.
All names belong to the pool of one split (`pool_of`, a hash of the name), so splits share no entity.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from datetime import date, timedelta

from env_construction.building.author import Rejected
from env_construction.facts.facts import pool_of
from env_construction.worlds.domains import Attribute, Catalog, EntityType
from env_construction.worlds.names import drawer
from env_construction.worlds.units import UNITS

_DRAWS = 200
_TODAY = date(2024, 12, 31)
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]  # strftime depends on the locale


@dataclass(eq=False)
class Entity:
    """An entity of the world. `values` are sampled on demand."""

    kind: EntityType
    name: str
    values: dict[str, Value] = field(default_factory=dict)


Value = Entity | date | float | int | str


class World:
    """Creates the entities of one environment and samples their values."""

    def __init__(self, catalog: Catalog, split: str, rng: random.Random) -> None:
        self.catalog = catalog
        self.split = split
        self.rng = rng
        self.names: set[str] = set()

    def new(self, kind: EntityType, name: str = "") -> Entity:
        """A new entity. Pass `name` to reuse the name of another one."""
        return Entity(kind, name or self._fresh_name(kind))

    def _fresh_name(self, kind: EntityType) -> str:
        draw = drawer(kind.pattern)
        for _ in range(_DRAWS):
            name = draw(self.rng)
            if name not in self.names and pool_of(name) == self.split:
                self.names.add(name)
                return name
        raise Rejected("no_name", f"{kind.name}: no fresh name in the pool {self.split}")

    def value(self, entity: Entity, attribute: Attribute) -> Value:
        """The value of an attribute, sampled on first use."""
        if attribute.name not in entity.values:
            entity.values[attribute.name] = self._draw(entity, attribute)
        return entity.values[attribute.name]

    def link(self, entity: Entity, attribute: Attribute, other: Entity) -> bool:
        """Let a new entity refer to another one. Returns False if their known values conflict."""
        entity.values[attribute.name] = other
        return self._agree(entity, attribute.generator.where, other)

    def _agree(self, entity: Entity, where: tuple[tuple[str, str], ...], other: Entity) -> bool:
        """Make the pairs of values in `where` equal. Returns False if they are known to differ."""
        for theirs, ours in where:
            if ours != "self" and ours not in entity.values and theirs in other.values:
                entity.values[ours] = other.values[theirs]
            mine = entity if ours == "self" else self.value(entity, entity.kind.attributes[ours])
            if other.values.setdefault(theirs, mine) is not mine:
                return False
        return True

    def _at(self, entity: Entity, path: str) -> Value:
        first, _, second = path.partition(".")
        value = self.value(entity, entity.kind.attributes[first])
        return self._at(value, second) if second and isinstance(value, Entity) else value

    def _draw(self, entity: Entity, attribute: Attribute) -> Value:
        rng, made = self.rng, attribute.generator
        if made.kind == "entity":
            other = self.new(self.catalog.types[made.target])
            self._agree(entity, made.where, other)
            return other
        if made.operation:
            first, second = (self._at(entity, path) for path in made.operands)
            return _derived(made.operation, first, second)
        if made.kind == "choice":
            return made.choices[int(rng.random() * len(made.choices))]
        if made.kind == "text":
            return drawer(made.pattern)(rng)
        if made.kind in ("integer", "quantity"):
            steps = int((made.high - made.low) / made.step + 0.5)
            number = made.low + made.step * int(rng.random() * (steps + 1))
            return round(number, made.decimals) if made.decimals else int(number)
        return self._day(entity, attribute)

    def _day(self, entity: Entity, attribute: Attribute) -> date | int:
        rng, made = self.rng, attribute.generator
        if made.after:
            start = self._at(entity, made.after)
            if isinstance(start, int):
                start = date(start, 7, 1)
            if not isinstance(start, date):
                raise Rejected("no_date", f"{attribute.id}: {made.after} is no date")
            unit = 1 if made.in_days else 365.25
            soonest = start + timedelta(days=int(made.low * unit) + 1)
            latest = start + timedelta(days=int(made.high * unit))
            # no day is after _TODAY, unless the span begins later
            day = soonest + timedelta(days=int(rng.random() * max(1, (min(latest, _TODAY) - soonest).days)))
        else:
            first, last = date(int(made.low), 1, 1).toordinal(), date(int(made.high), 12, 31).toordinal()
            day = date.fromordinal(rng.randint(first, last))
        return day.year if made.kind == "year" else day


def _derived(operation: str, first: Value, second: Value) -> float | int:
    if operation == "years":
        years = [value.year if isinstance(value, date) else value for value in (first, second)]
        if isinstance(first, date) and isinstance(second, date):
            return second.year - first.year - ((second.month, second.day) < (first.month, first.day))
        first, second = years
        operation, first, second = "minus", second, first
    if not isinstance(first, int | float) or not isinstance(second, int | float):
        raise Rejected("no_number", f"{operation} needs two numbers")
    number = {"sum": first + second, "minus": first - second, "product": first * second}[operation]
    return round(number, 2) if isinstance(number, float) else number


def long_date(day: date) -> str:
    """A day in the format of the published data: "August 21, 1949"."""
    return f"{_MONTHS[day.month - 1]} {day.day}, {day.year}"


def number_text(number: float) -> str:
    """1234.5 -> "1,234.5"."""
    return f"{number:,.2f}".rstrip("0").rstrip(".") if isinstance(number, float) else f"{number:,}"


def answer_text(kind: str, value: Value) -> str:
    """A value as the tools return it: an entity's name, a day in words, a number without its unit."""
    if isinstance(value, Entity):
        return value.name
    if isinstance(value, date):
        return long_date(value)
    if isinstance(value, str):
        return value
    return str(value) if kind == "year" else number_text(value)


def spoken(attribute: Attribute, value: Value) -> str:
    """A value in a sentence: a quantity with its unit in words, an entity as in `mention`."""
    if isinstance(value, Entity):
        return mention(value)
    text = answer_text(attribute.kind, value)
    if attribute.kind == "quantity":
        unit = UNITS[attribute.generator.unit]
        return f"{text} {unit.one if value == 1 else unit.many}"
    return text


def mention(entity: Entity) -> str:
    """An entity's name in a sentence: plain, in quotes, with an article, or after its noun ("order SO-1").

    The article follows from the type's `form`, or from an "of" in the name.
    """
    name, form = entity.name, entity.kind.form
    if form == "quote":
        return f'"{name}"'
    if form == "noun":
        return f"{entity.kind.noun} {name}"
    if form == "at":
        return f"the {entity.kind.noun} at {name}"
    named_after = re.match(r"[\w\-]+'s ", name)
    if not name.startswith("The ") and ((form == "the" and not named_after) or re.match(r"[A-Z]\w+ of ", name)):
        return f"the {name}"
    return name
