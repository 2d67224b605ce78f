"""Questions from relations: a random directed acyclic graph of lookups, grown to a scenario's shape.

A node looks up one relation for an entity, or for the result of an earlier node. The last nodes may be arithmetic on
the results. `fact_wording.py` writes the graph in English. Paper section 3.1, scenario decomposition.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from env_construction.building.author import Rejected
from env_construction.environment.schema import Scenario
from env_construction.facts.calculator import CONSTANTS, number_of
from env_construction.facts.fact_tables import thousands
from env_construction.facts.fact_world import World
from env_construction.facts.filters import STATED_KINDS, Filter, draw_filter
from env_construction.facts.levels import Level
from env_construction.facts.relations import BY_NAME, Relation

_GROWTHS = 40
_NUMBERS = ("integer", "year", "quantity")


@dataclass
class Stated:
    """What the question states about a given entity: a filter of its tool, its argument, and the same in words."""

    filter: Filter
    argument: Any
    words: str
    value: str


@dataclass
class Node:
    """One lookup. `sources` are given values (str) or indices of earlier nodes (int); `value` is its result.

    `unit`: the unit that the question asks for ("": the relation's own, and the tool offers no choice).
    """

    relation: Relation
    sources: list[str | int]
    subjects: tuple[str, ...]
    value: str
    unit: str = ""
    stated: list[Stated] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The value in the unit that is asked for, without the unit."""
        return convert(self.relation, self.value)[self.unit].rsplit(" ", 1)[0] if self.unit else self.value

    @property
    def shown_unit(self) -> str:
        return self.unit or self.relation.unit


class Graph:
    """Nodes in an order that respects their dependencies. `derived`: the answer is to be computed from all of them."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.nodes: list[Node] = []
        self.derived = False
        self.used: set[str] = set()

    def add(self, relation: Relation, sources: list[str | int], numeric: bool = False) -> bool:
        """Append a lookup. False if the world has no value, or the value was seen before (a loop in the question).

        With `numeric`, the value must be a number that may be an argument of another call.
        """
        subjects = tuple(source if isinstance(source, str) else self.nodes[source].value for source in sources)
        members = self.world.view.members.get(relation.name)
        if members is not None and any(subject not in members for subject in subjects):
            return False
        if len(set(subjects)) < len(subjects) or self._asked(relation, subjects):
            return False
        value = self.world.value(relation, subjects, self.rng, self.world.numbers_allowed if numeric else None)
        if value is None or value in self.used or value in subjects:
            return False
        self.used.update((value, *subjects))
        self.nodes.append(Node(relation, sources, subjects, value))
        return True

    def _asked(self, relation: Relation, subjects: tuple[str, ...]) -> bool:
        return any(
            node.relation.name == relation.inverse
            or (node.relation is relation and set(node.subjects) == set(subjects))
            for node in self.nodes
        )

    def fresh(self, relations: list[Relation]) -> list[Relation]:
        """Relations that no node uses yet, and no other of their family; all relations if the level does not care."""
        if not self.world.view.level.distinct:
            return relations
        taken = {node.relation.family or node.relation.name for node in self.nodes}
        return [relation for relation in relations if (relation.family or relation.name) not in taken]

    def add_root(self, relations: list[Relation]) -> bool:
        """A lookup for a fresh entity (two, for a pair)."""
        if not relations:
            return False
        relation = self.rng.choice(relations)
        names = self.rng.sample(self.world.view.subjects[relation.name], 2 if relation.pair else 1)
        return not self.used & set(names) and self.add(relation, list(names))

    def extend(self, source: int, entity_valued: bool = False, numeric: bool = False) -> bool:
        """Add a lookup for the result of node `source`."""
        kind = self.nodes[source].relation.value
        choices = [
            relation
            for relation in self.world.view.by_subject.get(kind, ())
            if not relation.pair
            and (relation.is_entity or not entity_valued)
            and (relation.value in _NUMBERS or not numeric)
        ]
        choices = self.fresh(choices)
        return bool(choices) and self.add(self.rng.choice(choices), [source], numeric)

    def join(self, a: int, b: int) -> bool:
        """Add a lookup that needs the results of two nodes."""
        kind = self.nodes[a].relation.value
        choices = self.fresh([relation for relation in self.world.view.by_subject.get(kind, ()) if relation.pair])
        return bool(choices) and kind == self.nodes[b].relation.value and self.add(self.rng.choice(choices), [a, b])

    def operate(self) -> bool:
        """Arithmetic on the last number found, with another number of its kind if there is one, else a given one."""
        numbers = [
            index
            for index, node in enumerate(self.nodes)
            if node.relation.value in _NUMBERS and self.world.numbers_allowed(node.value)
        ]
        if not numbers or numbers[-1] != len(self.nodes) - 1:
            return False
        last = self.nodes[numbers[-1]].relation
        partners = [
            index
            for index in numbers[:-1]
            if (self.nodes[index].relation.value, self.nodes[index].relation.unit) == (last.value, last.unit)
        ]
        names = (
            ["difference"]
            if last.value == "year"
            else ["sum", "difference"]
            if partners
            else [name for name in CONSTANTS if name != "difference"]
        )
        name = self.rng.choice(names)
        operation = next((item for item in self.world.view.operations if item.compute == name), None)
        if operation is None:
            return False
        if partners:
            return self.add(operation, [numbers[-1], self.rng.choice(partners)])
        low, high, step = CONSTANTS[name]
        return self.add(operation, [numbers[-1], str(self.rng.randrange(low, high + 1, step))])

    def uses(self) -> Counter[int]:
        """How many nodes need each node."""
        return Counter(source for node in self.nodes for source in node.sources if isinstance(source, int))

    @property
    def has_fork_or_join(self) -> bool:
        return any(count > 1 for count in self.uses().values()) or any(
            sum(isinstance(source, int) for source in node.sources) > 1 for node in self.nodes
        )


_MOST_DRAWS = 12


def state_details(graph: Graph, level: Level, scenario: Scenario) -> None:
    """Choose units, and facts that the question states about its entities, so that calls have to give them.

    All nodes of one tool get the same. A node whose value is used further keeps its own unit, since arithmetic needs
    it. Only given entities are described, and only in a permuted world: the tool also knows another entity that meets
    the description.
    """
    rng, uses = graph.rng, graph.uses()
    groups: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        groups.setdefault(node.relation.family or node.relation.name, []).append(index)
    for indices in groups.values():
        nodes = [graph.nodes[index] for index in indices]
        relation = nodes[0].relation
        if relation.compute or any(node.relation is not relation for node in nodes):
            continue
        if relation.other_units and not any(uses[index] for index in indices) and rng.random() < level.unit_share:
            unit = rng.choice([relation.unit, *(name for name, _ in relation.other_units)])
            for node in nodes:
                node.unit = unit
        mean = level.required_extra[scenario] / _STATED_REQUIRED
        given = all(isinstance(node.sources[0], str) for node in nodes)
        if given and not relation.pair and graph.world.counterfactual:
            _describe_entities(graph, nodes, int(mean) + (rng.random() < mean % 1))


_STATED_REQUIRED = 0.7
"""The share of stated filters that the tool requires; the others are optional, and the gold call gives them too."""


def _describe_entities(graph: Graph, nodes: list[Node], count: int) -> None:
    rng, view, relation = graph.rng, graph.world.view, nodes[0].relation
    asked = {node.relation.name for node in graph.nodes} | {node.relation.inverse for node in graph.nodes} - {""}
    kinds, weights = list(STATED_KINDS), list(STATED_KINDS.values())
    for _ in range(_MOST_DRAWS):
        if len(nodes[0].stated) >= count:
            break
        known = {item.filter.relation for item in nodes[0].stated}
        taken = {item.filter.name for item in nodes[0].stated}
        kind = rng.choices(kinds, weights)[0]
        found = draw_filter(view, relation.subject, (asked & BY_NAME.keys()) | known, kind, taken, rng)
        values = [_stated_value(graph, node, found) for node in nodes] if found else []
        if found is None or None in values:
            continue
        found.asked, found.required = True, rng.random() < _STATED_REQUIRED
        texts = [value for value in values if value is not None]
        if found.options:
            found.options = sorted({*found.options, *texts})
        for node, value in zip(nodes, texts, strict=True):
            other = rng.choice(view.values[found.relation])
            if found.style == "any_of" and other == value:
                continue
            argument, words = found.stated(value, other, rng)
            graph.used.add(value)
            node.stated.append(Stated(found, argument, f"{found.key.replace('_', ' ')}: {words}", value))
        if len({len(node.stated) for node in nodes}) > 1:  # one of them found no other value
            for node in nodes:
                node.stated = [item for item in node.stated if item.filter is not found]


def _stated_value(graph: Graph, node: Node, found: Filter | None) -> str | None:
    """The entity's value, or None if it has none, or one that the question is about."""
    subject = node.subjects[0]
    if found is None or subject not in graph.world.view.members[found.relation]:
        return None
    value = graph.world.value(found.sibling, (subject,), graph.rng)
    number = value is None or found.style in ("equal", "any_of") or number_of(value) is not None
    return value if number and value not in graph.used else None


def grow_graph(scenario: Scenario, hops: int, world: World, rng: random.Random) -> Graph:
    """A graph of `hops` lookups with the scenario's shape. Raises Rejected("no_graph") after several failed tries."""
    grow = {
        "single_hop": _grow_parallel,
        "parallel_single_hop": _grow_parallel,
        "multi_hop": _grow_chain,
        "parallel_multi_hop": _grow_mixed,
    }[scenario]
    for _ in range(_GROWTHS):
        graph = Graph(world, rng)
        if grow(graph, hops):
            if world.view.level.verbose:
                state_details(graph, world.view.level, scenario)
            return graph
    raise Rejected("no_graph", f"no {scenario} of {hops} lookups found in this pool")


def _root_relation(graph: Graph, relations: list[Relation], evenly: float = 1.0) -> list[Relation]:
    """A list with one fresh relation of `relations`, or an empty list. `evenly` < 1 evens out the weights."""
    fresh = graph.fresh(relations)
    roots = graph.world.view.roots
    return graph.rng.choices(fresh, [roots[relation.name] ** evenly for relation in fresh]) if fresh else []


def _leading_to_entities(graph: Graph) -> list[Relation]:
    return [relation for relation in graph.world.view.relations if relation.is_entity and not relation.pair]


def _grow_parallel(graph: Graph, hops: int) -> bool:
    # one relation for several entities: stage 3 merges such documents into one tool
    relations = graph.world.view.relations
    level = graph.world.view.level
    same = hops > 1 and graph.rng.random() < level.same_share
    if hops > 1 and level.verbose and graph.rng.random() < level.derived_share:
        return _grow_comparable(graph, hops, same)
    relation = _root_relation(graph, relations)
    for _ in range(hops * 4):
        if len(graph.nodes) == hops:
            break
        graph.add_root(relation if same else _root_relation(graph, relations))
    return len(graph.nodes) == hops


def _grow_comparable(graph: Graph, hops: int, same: bool) -> bool:
    """Numbers of one kind: one relation of several entities, or (for two) different ones, so that two tools serve."""
    graph.derived = True
    numeric = [item for item in graph.world.view.relations if item.value in _NUMBERS and not item.pair]
    if not same and hops == 2:
        numeric = [item for item in numeric if _partners(item, numeric)]
    first = _root_relation(graph, numeric)
    for _ in range(hops * 4):
        if len(graph.nodes) == hops or not first:
            break
        later = not same and hops == 2 and len(graph.nodes) == 1
        graph.add_root(_partners(graph.nodes[0].relation, numeric) if later else first)
    return len(graph.nodes) == hops


def _partners(relation: Relation, numeric: list[Relation]) -> list[Relation]:
    """Relations whose values can be compared with those of `relation`, without a unit that a question could vary."""
    if relation.unit:
        return []
    return [
        other
        for other in numeric
        if (other.value, other.key, other.unit) == (relation.value, relation.key, "")
        and other is not relation
        and (not other.family or other.family != relation.family)
    ]


def _with_calculator(graph: Graph, hops: int) -> bool:
    return hops > 2 and graph.rng.random() < graph.world.view.level.calculator_share


def _grow_chain(graph: Graph, hops: int) -> bool:
    lookups = hops - 1 if _with_calculator(graph, hops) else hops
    if not graph.add_root(_root_relation(graph, _leading_to_entities(graph))):
        return False
    for position in range(1, lookups):
        last = position == lookups - 1
        if not any(graph.extend(position - 1, not last, numeric=last and lookups < hops) for _ in range(4)):
            return False
    return lookups == hops or any(graph.operate() for _ in range(4))


def _grow_mixed(graph: Graph, hops: int) -> bool:
    rng = graph.rng
    lookups = hops - 1 if _with_calculator(graph, hops) else hops
    if rng.random() < 0.5 and not _start_join(graph, lookups):
        return False
    for _ in range(hops * 6):
        if len(graph.nodes) == lookups:
            break
        last = len(graph.nodes) == lookups - 1 and lookups < hops
        entities = [index for index, node in enumerate(graph.nodes) if node.relation.is_entity]
        if not entities or (rng.random() < 0.12 and not last and len(graph.nodes) < lookups - 1):
            graph.add_root(_root_relation(graph, _leading_to_entities(graph)))
            continue
        if not last and len(entities) > 1 and rng.random() < 0.4 and graph.join(*rng.sample(entities, 2)):
            continue
        graph.extend(rng.choice(entities), entity_valued=not last and rng.random() < 0.5, numeric=last)
    if len(graph.nodes) == lookups < hops:
        any(graph.operate() for _ in range(4))
    return len(graph.nodes) == hops and graph.has_fork_or_join and _connected(graph)


def _start_join(graph: Graph, hops: int) -> bool:
    """Two lookups that find entities of one type, and a third that needs both."""
    view, rng = graph.world.view, graph.rng
    kinds = sorted({relation.subject for relation in view.relations if relation.pair})
    kind = rng.choice(kinds) if kinds else ""
    feeders = [relation for relation in view.relations if relation.value == kind and not relation.pair]
    if hops < 3 or not feeders:
        return False
    for _ in range(8):
        if len(graph.nodes) == 2:
            break
        graph.add_root(_root_relation(graph, feeders, 0.3))
    return len(graph.nodes) == 2 and graph.join(0, 1)


def _connected(graph: Graph) -> bool:
    """Whether every sink depends on something: an isolated lookup would make it a parallel question."""
    uses = graph.uses()
    return all(
        any(isinstance(source, int) for source in node.sources) or uses[index] for index, node in enumerate(graph.nodes)
    )


def input_names(relation: Relation) -> list[str]:
    """Names of the inputs of a lookup: the entity's type, numbered for a pair; a and b in arithmetic."""
    if relation.compute:
        return ["a", "b"]
    return [f"{relation.subject}_a", f"{relation.subject}_b"] if relation.pair else [relation.subject]


def input_values(node: Node) -> dict[str, str | int | float | None]:
    """The named inputs of a lookup; numbers as numbers in arithmetic."""
    values = [number_of(subject) for subject in node.subjects] if node.relation.compute else list(node.subjects)
    return dict(zip(input_names(node.relation), values, strict=True))


def value_text(relation: Relation, value: str, unit: str = "") -> str:
    """A value as people write it, with its unit. `value` is in `unit`, if one is given."""
    return f"{value} {unit or relation.unit}" if relation.unit else value


def convert(relation: Relation, value: str) -> Mapping[str, str]:
    """A quantity in each of its units, as people write it: {"ft": "681 ft", "m": "208 m"}."""
    number = float(value.replace(",", ""))
    return {relation.unit: value_text(relation, value)} | {
        unit: f"{thousands(round(number * factor, 2))} {unit}" for unit, factor in relation.other_units
    }
