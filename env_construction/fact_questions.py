"""Questions from relations: a random directed acyclic graph of lookups, and the English that asks for it.

A node looks up one relation for an entity, or for what an earlier node found. A node that is used once is nested in the
phrase of its user ("the currency of the country of X"); one that is used by several gets a sentence and a name of its own
("Take the country of X. ... that country ..."). Paper section 3.1, scenario decomposition.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from env_construction.author import Decomposition, Rejected, Step
from env_construction.fact_world import World
from env_construction.levels import Level
from env_construction.relations import TYPE_NAMES, Relation
from env_construction.schema import Scenario

_GROWTHS = 40


@dataclass
class Node:
    """One lookup. `sources` are entity names (str) or indices of earlier nodes (int); `value` is what it finds."""

    relation: Relation
    sources: list[str | int]
    subjects: tuple[str, ...]
    value: str


class Graph:
    """Nodes in an order that respects their dependencies."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.nodes: list[Node] = []
        self.used: set[str] = set()

    def add(self, relation: Relation, sources: list[str | int]) -> bool:
        """Append a lookup; False where the world has no value, or the value was seen before (a loop in the question)."""
        subjects = tuple(source if isinstance(source, str) else self.nodes[source].value for source in sources)
        if any(subject not in self.world.view.members[relation.name] for subject in subjects) or len(
            set(subjects)
        ) < len(subjects):
            return False
        if any(node.relation is relation and node.subjects == subjects for node in self.nodes):
            return False
        if relation.inverse and any(node.relation.name == relation.inverse for node in self.nodes):
            return False
        value = self.world.value(relation, subjects, self.rng)
        if value is None or value in self.used or value in subjects:
            return False
        self.used.update((value, *subjects))
        self.nodes.append(Node(relation, sources, subjects, value))
        return True

    def add_root(self, relations: list[Relation]) -> bool:
        """A lookup for a fresh entity (two, for a pair)."""
        relation = self.rng.choice(relations)
        subjects = self.world.view.subjects[relation.name]
        names = self.rng.sample(subjects, 2 if relation.pair else 1)
        return not self.used & set(names) and self.add(relation, list(names))

    def extend(self, source: int, entity_valued: bool) -> bool:
        """A lookup for what node `source` found."""
        kind = self.nodes[source].relation.value
        near = {node.relation.name for node in self.nodes}
        choices = [
            relation
            for relation in self.world.view.by_subject.get(kind, ())
            if not relation.pair and (relation.is_entity or not entity_valued) and relation.inverse not in near
        ]
        return bool(choices) and self.add(self.rng.choice(choices), [source])

    def join(self, a: int, b: int) -> bool:
        """A lookup that needs what two nodes found."""
        kind = self.nodes[a].relation.value
        choices = [relation for relation in self.world.view.by_subject.get(kind, ()) if relation.pair]
        return bool(choices) and kind == self.nodes[b].relation.value and self.add(self.rng.choice(choices), [a, b])

    def uses(self) -> Counter[int]:
        """How many nodes need each node."""
        return Counter(source for node in self.nodes for source in node.sources if isinstance(source, int))

    @property
    def has_fork_or_join(self) -> bool:
        return any(count > 1 for count in self.uses().values()) or any(
            sum(isinstance(source, int) for source in node.sources) > 1 for node in self.nodes
        )


def grow_graph(scenario: Scenario, hops: int, world: World, rng: random.Random) -> Graph:
    """A graph of `hops` lookups with the scenario's shape. Raises Rejected("no_graph") after bounded tries."""
    grow = {
        "single_hop": _grow_parallel,
        "parallel_single_hop": _grow_parallel,
        "multi_hop": _grow_chain,
        "parallel_multi_hop": _grow_mixed,
    }[scenario]
    for _ in range(_GROWTHS):
        graph = Graph(world, rng)
        if grow(graph, hops):
            return graph
    raise Rejected("no_graph", f"no {scenario} of {hops} lookups found in this pool")


def _root_relations(graph: Graph, entity_valued: bool, pairs: bool) -> list[Relation]:
    view = graph.world.view
    for _ in range(20):
        found = [
            relation
            for relation in view.by_subject[view.draw_type(graph.rng)]
            if (relation.is_entity or not entity_valued) and (pairs or not relation.pair)
        ]
        if found:
            return found
    return [relation for relation in view.relations if relation.is_entity and not relation.pair]


def _grow_parallel(graph: Graph, hops: int) -> bool:
    # Half of the time one relation is asked for several entities: such documents are merged into one tool in stage 3.
    relations = _root_relations(graph, entity_valued=False, pairs=True)
    same = hops > 1 and graph.rng.random() < 0.4
    if same:
        relations = [graph.rng.choice(relations)]
    for _ in range(hops * 4):
        if len(graph.nodes) == hops:
            break
        graph.add_root(relations)
        if not same:
            relations = _root_relations(graph, entity_valued=False, pairs=True)
    return len(graph.nodes) == hops


def _grow_chain(graph: Graph, hops: int) -> bool:
    if not graph.add_root(_root_relations(graph, entity_valued=True, pairs=False)):
        return False
    for position in range(1, hops):
        last = position == hops - 1
        if not any(graph.extend(position - 1, entity_valued=not last) for _ in range(4)):
            return False
    return True


def _grow_mixed(graph: Graph, hops: int) -> bool:
    rng = graph.rng
    if rng.random() < 0.5 and not _start_join(graph, hops):
        return False
    for _ in range(hops * 6):
        if len(graph.nodes) == hops:
            break
        entities = [index for index, node in enumerate(graph.nodes) if node.relation.is_entity]
        if not entities or (rng.random() < 0.12 and len(graph.nodes) < hops - 1):
            graph.add_root(_root_relations(graph, entity_valued=True, pairs=False))
            continue
        if len(entities) > 1 and rng.random() < 0.4 and graph.join(*rng.sample(entities, 2)):
            continue
        graph.extend(rng.choice(entities), entity_valued=rng.random() < 0.5)
    return len(graph.nodes) == hops and graph.has_fork_or_join and _connected(graph)


def _start_join(graph: Graph, hops: int) -> bool:
    """Two lookups that find entities of one type, and a third that needs both."""
    view, rng = graph.world.view, graph.rng
    kinds = sorted({relation.subject for relation in view.relations if relation.pair})
    kind = rng.choice(kinds)
    feeders = [relation for relation in view.relations if relation.value == kind and not relation.pair]
    if hops < 3 or not feeders:
        return False
    weights = [view.roots[relation.subject] for relation in feeders]
    for _ in range(8):
        if len(graph.nodes) == 2:
            break
        graph.add_root(rng.choices(feeders, weights))
    return len(graph.nodes) == 2 and graph.join(0, 1)


def _connected(graph: Graph) -> bool:
    """Every sink depends on something: a lookup that stands alone would make a parallel question of it."""
    uses = graph.uses()
    return all(
        any(isinstance(source, int) for source in node.sources) or uses[index] for index, node in enumerate(graph.nodes)
    )


def write_decomposition(graph: Graph, level: Level, rng: random.Random) -> Decomposition:
    """The question in English, its steps with their answers, and the final answer."""
    ids = [f"q{index + 1}" for index in range(len(graph.nodes))]
    steps = [
        Step(
            id=ids[index],
            question=_ask(node, list(node.subjects), 0),
            answer=_answer(node),
            depends_on=[ids[source] for source in node.sources if isinstance(source, int)],
            function=node.relation.name,
            inputs=dict(zip(input_names(node.relation), node.subjects, strict=True)),
        )
        for index, node in enumerate(graph.nodes)
    ]
    uses = graph.uses()
    sinks = [index for index in range(len(graph.nodes)) if not uses[index]]
    question = _Wording(graph, rng).question(sinks)
    answer = ", ".join(_answer(graph.nodes[index]) for index in sinks)
    return Decomposition(
        question=question, steps=steps, answer=answer, answer_rule="list" if len(sinks) > 1 else "last"
    )


def input_names(relation: Relation) -> list[str]:
    """Names of the inputs of a lookup: the entity's type, numbered for a pair."""
    return [f"{relation.subject}_a", f"{relation.subject}_b"] if relation.pair else [relation.subject]


def value_text(relation: Relation, value: str) -> str:
    """A value as people write it, with its unit."""
    return f"{value} {relation.unit}" if relation.unit else value


def _answer(node: Node) -> str:
    return value_text(node.relation, node.value)


def _fill(pattern: str, relation: Relation, names: list[str]) -> str:
    return pattern.format(x=names[0], y=names[-1], u=relation.unit)


def _ask(node: Node, names: list[str], wording: int) -> str:
    return _fill(node.relation.asks[wording], node.relation, names)


class _Wording:
    """Puts a graph into sentences; `rng` chooses among the paraphrases."""

    def __init__(self, graph: Graph, rng: random.Random) -> None:
        self.graph = graph
        self.rng = rng
        self.uses = graph.uses()
        self.names: dict[int, str] = {}
        self.sentences: list[str] = []
        shared = [index for index in range(len(graph.nodes)) if self.uses[index] > 1]
        kinds = Counter(graph.nodes[index].relation.value for index in shared)
        seen: Counter[str] = Counter()
        for index in shared:
            kind = graph.nodes[index].relation.value
            noun = TYPE_NAMES[kind][0]
            phrase = self._phrase(index)
            if kinds[kind] > 1:
                letter = "ABCDEFGH"[seen[kind]]
                seen[kind] += 1
                self.names[index] = f"{noun} {letter}"
                self.sentences.append(f"Let {noun} {letter} be {phrase}.")
            else:
                self.names[index] = f"that {noun}"
                self.sentences.append(rng.choice(("Take {p}.", "Find {p}.", "Consider {p}.")).format(p=phrase))

    def question(self, sinks: list[int]) -> str:
        phrases = len(sinks) > 1 and self.rng.random() < 0.4
        if phrases:
            parts = [self._phrase(index) for index in sinks]
            start = self.rng.choice(("What are {p}?", "Tell me {p}.", "Give {p}."))
            asks = [start.format(p=", ".join(parts[:-1]) + " and " + parts[-1])]
        else:
            asks = [
                _ask(
                    self.graph.nodes[index],
                    self._sources(index),
                    self.rng.randrange(len(self.graph.nodes[index].relation.asks)),
                )
                for index in sinks
            ]
        return " ".join([*self.sentences, *asks])

    def _sources(self, index: int) -> list[str]:
        return [
            source if isinstance(source, str) else self._reference(source) for source in self.graph.nodes[index].sources
        ]

    def _reference(self, index: int) -> str:
        return self.names[index] if index in self.names else self._phrase(index)

    def _phrase(self, index: int) -> str:
        relation = self.graph.nodes[index].relation
        return _fill(self.rng.choice(relation.phrases), relation, self._sources(index))
