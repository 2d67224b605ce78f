"""Questions as graphs: lookups, searches and arithmetic over a fictional world, grown to a scenario's shape.

- lookup: an attribute of an entity. The question names the entity, or an earlier node found it. A qualifier
distinguishes
  entities with the same name.
- search: the only entity that meets all conditions. A condition may refer to the result of an earlier node, so a chain
can
  also run against the direction of the references: from a poet to the poem that the poet wrote in 1931.
- calculate: arithmetic on numbers or days that earlier nodes found.

All arguments that the question provides belong to the pool of the split. Source: paper section 3.1, scenario
decomposition.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from env_construction.building.author import Rejected
from env_construction.building.hold_out import HoldOut, Label
from env_construction.environment.schema import Scenario
from env_construction.facts.facts import pool_of
from env_construction.facts.levels import Level
from env_construction.worlds.domains import Attribute, Catalog, EntityType
from env_construction.worlds.units import UNITS
from env_construction.worlds.world import Entity, Value, World, answer_text, number_text

_GROWTHS = 80
_TRIES = 6
Operation = Literal["difference", "sum", "days_between", "product", "percentage"]


Match = Literal["equal", "range", "at_least", "at_most", "any_of"]


@dataclass
class Condition:
    """A condition on an entity. `source` is the node that found the value.

    `stated` is what the question states: None for "equal", (low, high) for "range", choices for "any_of", or a limit.
    """

    attribute: Attribute
    value: Value
    source: int | None = None
    style: Match = "equal"
    stated: Any = None


@dataclass
class Node:
    """One call. `sources`: nodes whose results it needs. `value`: its result, `answer`: the result as text.

    `words`: a random number that selects the wording.
    """

    function: Literal["lookup", "search", "calculate"]
    kind: EntityType | None
    value: Value
    answer: str
    sources: list[int] = field(default_factory=list)
    subject: Entity | None = None
    attribute: Attribute | None = None
    conditions: list[Condition] = field(default_factory=list)
    unit: str = ""
    operation: Operation | None = None
    operands: list[Value] = field(default_factory=list)
    words: float = 0.0

    @property
    def entity(self) -> Entity | None:
        return self.value if isinstance(self.value, Entity) else None

    @property
    def relation(self) -> str:
        """The relation without the entities: "poem.year", "poem?author+year", "calculate.sum"."""
        if self.kind is None:
            return f"calculate.{self.operation}"
        if self.attribute:
            return self.attribute.id
        return f"{self.kind.name}?{'+'.join(sorted(item.attribute.name for item in self.conditions))}"


Function = Literal["lookup", "search", "calculate"]


@dataclass(frozen=True)
class Allowed:
    """What the split may ask about and offer: the rules of `--hold-out`."""

    catalog: Catalog
    split: str
    hold_out: HoldOut

    def attribute(self, attribute: Attribute, function: str) -> bool:
        """Whether a tool of this function may look up an attribute, or search by it."""
        return not self.hold_out.rules or self.hold_out.allows(
            self.split, Label(self.catalog.types[attribute.owner].domain, attribute.id, function)
        )

    def operation(self, operation: str) -> bool:
        return self.hold_out.allows(self.split, Label("arithmetic", f"calculate.{operation}", "calculate"))

    def types(self) -> list[list[EntityType]]:
        """The types by domain, without those that the split may ask nothing about."""
        domains = [list(domain.types.values()) for domain in self.catalog.domains.values()]
        if not self.hold_out.rules:
            return domains
        found = [[kind for kind in kinds if self._some(kind)] for kinds in domains]
        return [kinds for kinds in found if kinds]

    def _some(self, kind: EntityType) -> bool:
        return any(self.attribute(item, name) for item in kind.attributes.values() for name in ("lookup", "search"))


class Graph:
    """Nodes in topological order."""

    def __init__(self, world: World, rng: random.Random, level: Level, allowed: Allowed) -> None:
        self.world = world
        self.rng = rng
        self.level = level
        self.allowed = allowed
        self.kinds = allowed.types()
        self.nodes: list[Node] = []
        self.answers: list[str] = []
        self.relations: set[str] = set()

    # random choices

    def some_type(self) -> EntityType:
        """A random type of a random domain; all domains have the same probability."""
        return self.rng.choice(self.rng.choice(self.kinds))

    def _attributes(self, kind: EntityType, entity_valued: bool) -> list[Attribute]:
        return [
            attribute
            for attribute in kind.attributes.values()
            if (attribute.kind == "entity") == entity_valued and self.allowed.attribute(attribute, "lookup")
        ]

    def _add(self, node: Node) -> bool:
        """Append a node, unless its answer overlaps another answer or would match almost any output."""
        plain = node.answer.lower().replace(",", "")
        if (
            len(plain) < 2
            or plain in ("positional", "missing")
            or any(plain in other or other in plain for other in self.answers)
        ):
            return False
        self.answers.append(plain)
        self.nodes.append(node)
        return True

    # nodes

    def lookup(self, entity: Entity, attribute: Attribute, source: int | None, qualified: bool = False) -> bool:
        """Add a lookup of `attribute` for an entity that a node found or that the question names."""
        value = self.world.value(entity, attribute)
        unit, shown = "", value
        if attribute.kind == "quantity":
            unit, shown = self._in_some_unit(attribute, value)
        conditions = []
        if qualified:
            others = [
                other
                for other in self._describing(entity.kind, "lookup")
                if other is not attribute and other.kind not in ("entity", "quantity")
            ]
            conditions = [self._condition(entity, self.rng.choice(others))] if others else []
        node = Node(
            "lookup",
            entity.kind,
            value,
            answer_text(attribute.kind, shown),
            [] if source is None else [source],
            entity,
            attribute,
            conditions,
            unit,
            words=self.rng.random(),
        )
        return self._add(node)

    def _in_some_unit(self, attribute: Attribute, value: Value) -> tuple[str, Value]:
        base = attribute.generator.unit
        others = UNITS[base].others
        if not others or not isinstance(value, int | float) or self.rng.random() >= self.level.unit_share:
            return "", value
        unit, factor = self.rng.choice([(base, 1.0), *others])
        return unit, round(value * factor, 2)

    def _describing(self, kind: EntityType, function: Function) -> list[Attribute]:
        """Attributes that can describe an entity in words. Quantities require a range or a limit."""
        loose = self.level.loose_share > 0
        return [
            attribute
            for attribute in kind.attributes.values()
            if attribute.clause
            and (loose or attribute.kind != "quantity")
            and self.allowed.attribute(attribute, function)
        ]

    def _condition(self, entity: Entity, attribute: Attribute) -> Condition:
        value = self.world.value(entity, attribute)
        if attribute.kind == "quantity" or self.rng.random() < self.level.loose_share:
            return loosened(attribute, value, self.rng)
        return Condition(attribute, value)

    def search(self, entity: Entity, links: list[Condition], most: int = 2) -> bool:
        """Add a search with `links` (conditions on earlier results) and up to `most` conditions from the question."""
        if not all(self.allowed.attribute(link.attribute, "search") for link in links):
            return False
        linked = {link.attribute.name for link in links}
        choices = [attribute for attribute in self._describing(entity.kind, "search") if attribute.name not in linked]
        fewest = 1 if links else 2
        if len(choices) < fewest - (len(links) > 1):
            return False
        wanted = min(
            len(choices),
            self.rng.randint(fewest - (len(links) > 1 or (bool(links) and self.rng.random() < 0.3)), max(most, fewest)),
        )
        picked = self.rng.sample(choices, wanted)
        stated = [self._condition(entity, attribute) for attribute in picked]
        # without a rare value, a description would match many entities
        if not links and not any(item.style == "equal" and item.attribute.kind != "choice" for item in stated):
            return False
        conditions = [*stated, *links]
        if not any(isinstance(condition.value, Entity) for condition in conditions):
            key = "|".join(
                sorted(
                    f"{item.attribute.id}={item.stated or answer_text(item.attribute.kind, item.value)}"
                    for item in stated
                )
            )
            if pool_of(key) != self.world.split:
                return False
        sources = [link.source for link in links if link.source is not None]
        return self._add(Node("search", entity.kind, entity, entity.name, sources, None, None, conditions))

    def root(self, ends_in_entity: bool, kind: EntityType | None = None) -> bool:
        """Add a first node: a lookup for a named entity, or a search by description."""
        for _ in range(_TRIES):
            subject = kind or self.some_type()
            if ends_in_entity and self.rng.random() < 0.5 and self.search(self.world.new(subject), []):
                return True
            if not ends_in_entity and self.rng.random() < 0.55 and self.search(self.world.new(subject), [], 3):
                return True
            links = [attribute for attribute in self._attributes(subject, True) if attribute.id not in self.relations]
            choices = links if ends_in_entity else [*links, *self._attributes(subject, False)]
            if choices and self._first_lookup(subject, self.rng.choice(choices)):
                return True
        return False

    def _first_lookup(self, subject: EntityType, attribute: Attribute) -> bool:
        self.relations.add(attribute.id)
        return self.lookup(self.world.new(subject), attribute, None, self.rng.random() < 0.4)

    def root_to(self, target: EntityType) -> bool:
        """Add a first node that finds an entity of the type `target`."""
        feeders = [
            attribute
            for attribute in self.world.catalog.referrers[target.name]
            if self.allowed.attribute(attribute, "lookup")
        ]
        if feeders and self.rng.random() < 0.6:
            attribute = self.rng.choice(feeders)
            return self._first_lookup(self.world.catalog.types[attribute.owner], attribute)
        return self.search(self.world.new(target), [])

    def step(self, source: int) -> bool:
        """Add a node that leads from a node's entity to another one, along a reference or against it."""
        entity = self.nodes[source].entity
        if entity is None:
            return False
        came_by = {item.attribute.id for item in self.nodes[source].conditions}
        if attribute := self.nodes[source].attribute:
            came_by.add(attribute.id)
        known = [item for node in self.nodes for item in (node.subject, node.entity) if item]
        forward = [
            attribute
            for attribute in self._attributes(entity.kind, True)
            if attribute.id not in self.relations | came_by and entity.values.get(attribute.name) not in known
        ]
        backward = [
            attribute
            for attribute in self.world.catalog.referrers[entity.kind.name]
            if attribute.clause
            and attribute.id not in self.relations | came_by
            and self.allowed.attribute(attribute, "search")
        ]
        if backward and (not forward or self.rng.random() < 0.5):
            attribute = self.rng.choice(backward)
            self.relations.add(attribute.id)
            found = self.world.new(self.world.catalog.types[attribute.owner])
            return self.world.link(found, attribute, entity) and self.search(
                found, [Condition(attribute, entity, source)]
            )
        if not forward:
            return False
        attribute = self.rng.choice(forward)
        self.relations.add(attribute.id)
        return self.lookup(entity, attribute, source)

    def finish(self, source: int, like: Attribute | None = None, number: bool = False) -> bool:
        """Add a lookup of a literal attribute of a node's entity.

        With `like`, the attribute is comparable with `like`. With `number`, it is a number or a day.
        """
        entity = self.nodes[source].entity
        if entity is None:
            return False
        described = {item.attribute.name for item in self.nodes[source].conditions}
        choices = [
            attribute
            for attribute in self._attributes(entity.kind, False)
            if attribute.name not in described
            and attribute.id not in self.relations | {like.id if like else ""}
            and (like is None or comparable(attribute, like))
            and (not number or attribute.is_number or attribute.kind == "date")
        ]
        if not choices:
            return False
        attribute = self.rng.choice(choices)
        self.relations.add(attribute.id)
        return self.lookup(entity, attribute, source)

    def calculate(self, first: int, second: int | None = None) -> bool:
        """Add arithmetic on the results of one or two nodes. The question provides a missing operand."""
        a = self.nodes[first]
        attribute = a.attribute
        if attribute is None:
            return False
        left, right = _number(a), None if second is None else _number(self.nodes[second])
        choices: list[Operation]
        if attribute.kind == "date":
            choices = ["days_between"]
        elif attribute.kind == "year":
            choices = ["difference"]
        else:
            choices = ["percentage"] if second is None else ["difference"]
            if second is not None and self.nodes[second].attribute is attribute:
                choices.append("sum")
            if second is None and attribute.generator.unit in ("%", "years"):
                return False
        choices = [operation for operation in choices if self.allowed.operation(operation)]
        for _ in range(_TRIES * 3 if choices else 0):
            operation = self.rng.choice(choices)
            given = self._constant(operation, left) if right is None else right
            result = compute(operation, left, given)
            if operation == "percentage" and isinstance(left, int) and not isinstance(result, int):
                continue  # nobody asks for half a person
            key = f"{operation} {sorted((str(left), str(given)))}"
            if result is None or pool_of(key) != self.world.split:
                if second is not None and len(choices) == 1:
                    return False
                continue
            answer = number_text(result)
            sources = [first] if second is None else [first, second]
            return self._add(
                Node(
                    "calculate", None, result, answer, sources, unit=a.unit, operation=operation, operands=[left, given]
                )
            )
        return False

    def _constant(self, operation: Operation, left: Value) -> Value:
        if operation == "days_between" and isinstance(left, date):
            return date(left.year + self.rng.choice((-2, -1, 1, 2, 3)), self.rng.choice((1, 4, 7, 10)), 1)
        if operation == "difference" and isinstance(left, int):
            return min(2025, left + self.rng.choice((-1, 1, 1)) * self.rng.randint(2, 120))
        return self.rng.randrange(5, 100, 5)

    # shapes

    def uses(self) -> Counter[int]:
        return Counter(source for node in self.nodes for source in node.sources)

    def parallel(self, hops: int) -> bool:
        """Add independent nodes, often the same relation for several entities."""
        if self.rng.random() < (self.level.same_share if hops > 1 else 0):
            kind = self.some_type()
            choices = [*self._attributes(kind, False)] * 2 + self._attributes(kind, True)
            if not choices:
                return False
            attribute = self.rng.choice(choices)
            if self.rng.random() < self.level.derived_share:
                attribute = self.rng.choice([a for a in choices if a.is_number or a.kind == "date"] or [attribute])
            for _ in range(hops * 3):
                if len(self.nodes) < hops:
                    self.lookup(self.world.new(kind), attribute, None)
            return len(self.nodes) == hops and len({node.unit for node in self.nodes}) == 1
        return all(self.root(False) for _ in range(hops))

    def chain(self, hops: int, like: Attribute | None = None, number: bool = False, literal: bool = True) -> bool:
        """Add `hops` nodes, each of which needs the one before."""
        start = len(self.nodes)
        if not self.root(True):
            return False
        for _ in range(hops - 1 - literal):
            last = len(self.nodes) - 1
            if not any(self.step(last) for _ in range(4)):
                return False
        if hops > 1 and literal:
            last = len(self.nodes) - 1
            if not any(self.finish(last, like, number) for _ in range(3)):
                return False
        return len(self.nodes) == start + hops

    def multi_hop(self, hops: int) -> bool:
        if hops > 2 and self.rng.random() < max(self.level.calculator_share, 0.15) * 0.6:
            return self.chain(hops - 1, number=True) and self.calculate(len(self.nodes) - 1)
        return self.chain(hops, literal=self.rng.random() < 0.7)

    def parallel_multi_hop(self, hops: int) -> bool:
        draw = self.rng.random()
        if hops >= 4 and draw < 0.4:
            return self._two_chains(hops)
        return self._search_join(hops) if draw < 0.7 else self._fork(hops)

    def _two_chains(self, hops: int) -> bool:
        """Add two chains that end in comparable values, and arithmetic on both."""
        split = self.rng.randint(2, hops - 3) if hops > 5 else (hops - 1) // 2
        if split < 1 or (hops - 1 - split) < 2:
            return False
        if split == 1:
            kind = self.some_type()
            numbers = [a for a in self._attributes(kind, False) if a.is_number or a.kind == "date"]
            if not numbers or not self._first_lookup(kind, self.rng.choice(numbers)):
                return False
        elif not self.chain(split, number=True):
            return False
        first = len(self.nodes) - 1
        like = self.nodes[first].attribute
        if not self.chain(hops - 1 - split, like=like):
            return False
        second = len(self.nodes) - 1
        return self.nodes[first].unit == self.nodes[second].unit and self.calculate(second, first)

    def _search_join(self, hops: int) -> bool:
        """Add two nodes that find entities, a search for the entity that refers to both, and steps from there."""
        if hops < 3:
            return False
        kind = self.some_type()
        links = [a for a in self._attributes(kind, True) if a.clause]
        if len(links) < 2:
            return False
        types = self.world.catalog.types
        chosen = self.rng.sample(links, 2)
        conditions = []
        found = self.world.new(kind)
        for link in chosen:
            self.relations.add(link.id)
            if not any(self.root_to(types[link.generator.target]) for _ in range(4)):
                return False
            source = len(self.nodes) - 1
            conditions.append(Condition(link, self.nodes[source].value, source))
            value = self.nodes[source].value
            if not isinstance(value, Entity) or not self.world.link(found, link, value):
                return False
        if not any(self.search(found, conditions, 1) for _ in range(3)):
            return False
        return self._continue(hops)

    def _fork(self, hops: int) -> bool:
        """Add a chain, and several lookups for the entity at its end."""
        trunk = self.rng.randint(1, max(1, hops - 2))
        if not self.chain(trunk, literal=False):
            return False
        joint = len(self.nodes) - 1
        for _ in range(2):
            if len(self.nodes) < hops and not any(self.finish(joint) for _ in range(3)):
                return False
        return self._continue(hops) and max(self.uses().values(), default=0) > 1

    def _continue(self, hops: int) -> bool:
        """Add steps or literal lookups until there are `hops` nodes, mostly from the entity that was found last."""
        for _ in range(hops * 4):
            left = hops - len(self.nodes)
            if left == 0:
                return True
            entities = [index for index, node in enumerate(self.nodes) if node.entity]
            source = entities[-1] if self.rng.random() < 0.7 else self.rng.choice(entities)
            if left == 1 or self.rng.random() < 0.4:
                self.finish(source)
            else:
                self.step(source)
        return False


def _number(node: Node) -> Value:
    """The value as an operand of a calculator, in the requested unit."""
    if node.unit and isinstance(node.value, int | float) and node.attribute:
        factor = dict(((node.attribute.generator.unit, 1.0), *UNITS[node.attribute.generator.unit].others))[node.unit]
        return round(node.value * factor, 2)
    return node.value


_TIMES = ("date", "year")
_SMALL_WORDS = {"number", "of", "the", "a", "total", "yearly", "first", "main", "average"}


def comparable(first: Attribute, second: Attribute) -> bool:
    """Whether a comparison of two attributes makes sense: times, amounts of money, or values with similar names."""
    if first.kind != second.kind or first.generator.unit != second.generator.unit:
        return False
    if first.kind in _TIMES or first.generator.unit == "USD" or first.head == second.head:
        return True
    words = [set(attribute.head.split()) - _SMALL_WORDS for attribute in (first, second)]
    return bool(words[0] & words[1])


def loosened(attribute: Attribute, value: Value, rng: random.Random) -> Condition:
    """A range, limit or list of choices that the value meets, or the value itself if the clause allows none of them."""
    if attribute.kind == "choice":
        others = [choice for choice in attribute.generator.choices if choice != value]
        options = [str(value), rng.choice(others)] if others else []
        rng.shuffle(options)
        return Condition(attribute, value, None, "any_of", options) if options else Condition(attribute, value)
    if attribute.kind in _TIMES:
        if (" on {v}" if attribute.kind == "date" else " in {v}") not in attribute.clause:
            return Condition(attribute, value)
        year = value.year if isinstance(value, date) else int(value)  # type: ignore[arg-type]
        low, high = year - rng.randint(1, 6), year + rng.randint(1, 6)
        style: Match = rng.choice(("range", "range", "at_least", "at_most"))
        first: Value = date(low, 1, 1) if attribute.kind == "date" else low
        last: Value = date(high, 12, 31) if attribute.kind == "date" else high
        return Condition(
            attribute, value, None, style, {"range": (first, last), "at_least": first, "at_most": last}[style]
        )
    if isinstance(value, int | float) and attribute.kind in ("integer", "quantity"):
        step = 10 ** max(0, len(str(int(value))) - 2)
        below = int(value // step * step)
        above = below + step * rng.randint(1, 4)
        style = rng.choice(("range", "at_least", "at_most"))
        return Condition(
            attribute, value, None, style, {"range": (below, above), "at_least": below, "at_most": above}[style]
        )
    return Condition(attribute, value)


def compute(operation: str, a: Value, b: Value) -> float | int | None:
    """The result as the tools compute it, or None if the operation makes no sense."""
    if isinstance(a, date) and isinstance(b, date):
        return abs((a - b).days) or None
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        return None
    result = {"difference": abs(a - b), "sum": a + b, "product": a * b, "percentage": a * b / 100}.get(operation)
    if not result:
        return None
    result = round(float(result), 2)
    return int(result) if result == int(result) else result


def grow_graph(
    scenario: Scenario, hops: int, world: World, level: Level, rng: random.Random, allowed: Allowed
) -> Graph:
    """A graph of `hops` nodes with the scenario's shape. Raises Rejected("no_graph") after bounded tries."""
    if not allowed.types():
        raise Rejected("no_graph", f"no entity type is left for {allowed.split}")
    for _ in range(_GROWTHS):
        graph = Graph(world, rng, level, allowed)
        if scenario in ("single_hop", "parallel_single_hop"):
            grown = graph.parallel(hops)
        elif scenario == "multi_hop":
            grown = graph.multi_hop(hops)
        else:
            grown = graph.parallel_multi_hop(hops)
        if grown:
            return graph
    raise Rejected("no_graph", f"no {scenario} of {hops} nodes found")
