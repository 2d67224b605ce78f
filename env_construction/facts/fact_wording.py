"""Graphs of lookups in English: the question, its sub-questions, and how the final answer follows from the sub-answers.

A node with one user is nested in its user's phrase ("the currency of the country of X"). A node with several users gets
a separate sentence and name ("Take the country of X. ... that country ..."). Paper section 3.1, scenario decomposition.
"""

from __future__ import annotations

import random
import re
from collections import Counter

from env_construction.building.author import Decomposition, Step
from env_construction.facts.calculator import number_of, written
from env_construction.facts.fact_questions import Graph, Node, input_values, value_text
from env_construction.facts.levels import Level
from env_construction.facts.relations import TYPE_NAMES

_INTRODUCTIONS = ("Take {p}.", "Find {p}.", "Consider {p}.")
_LISTS = ("What are {p}?", "Tell me {p}.", "Give {p}.")
_NUMBERS = ("integer", "quantity", "year")
_HEAD = re.compile(r"the (.+) of \{x\}(?: in \{u\})?")


def write_decomposition(graph: Graph, level: Level, rng: random.Random) -> Decomposition:
    """The question in English, its steps with their answers, and the final answer."""
    ids = [f"q{index + 1}" for index in range(len(graph.nodes))]
    steps = [
        Step(
            id=ids[index],
            question=_fill(node.relation.asks[0], node, [mention(node, name) for name in node.subjects]),
            answer=_answer(node),
            depends_on=[ids[source] for source in node.sources if isinstance(source, int)],
            function=node.relation.name,
            inputs=input_values(node),
        )
        for index, node in enumerate(graph.nodes)
    ]
    derived = _derived(graph, rng) if rng.random() < level.derived_share or graph.derived else None
    if derived:
        question, answer, rule = derived
        return Decomposition(question=question, steps=steps, answer=answer, answer_rule=rule)
    uses = graph.uses()
    sinks = [index for index in range(len(graph.nodes)) if not uses[index]]
    question = _Wording(graph, rng).question(sinks)
    answer = ", ".join(_answer(graph.nodes[index]) for index in sinks)
    return Decomposition(
        question=question, steps=steps, answer=answer, answer_rule="list" if len(sinks) > 1 else "last"
    )


def _answer(node: Node) -> str:
    return value_text(node.relation, node.shown, node.unit)


def mention(node: Node, name: str) -> str:
    """A given entity with what the question states about it: "Lima (country: Peru)"."""
    return f"{name} ({'; '.join(item.words for item in node.stated)})" if node.stated else name


def _fill(pattern: str, node: Node, names: list[str]) -> str:
    return pattern.format(x=names[0], y=names[-1], u=node.shown_unit)


def _listing(parts: list[str], last: str = "and") -> str:
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}" if len(parts) > 1 else parts[0]


def _derived(graph: Graph, rng: random.Random) -> tuple[str, str, str] | None:
    """(question, answer, rule) about several entities' values of a numeric relation, or None for other graphs.

    Two entities may also have comparable values of different relations; then the question is about their difference
    or sum.
    """
    relation = graph.nodes[0].relation
    numbers = [number_of(node.shown) for node in graph.nodes]
    if (
        len(graph.nodes) < 2
        or relation.pair
        or relation.value not in _NUMBERS
        or any(isinstance(node.sources[0], int) for node in graph.nodes)
        or (any(node.relation is not relation for node in graph.nodes) and not graph.derived)
        or len(set(numbers)) < len(numbers)
    ):
        return None
    known = [number for number in numbers if number is not None]
    names = [mention(node, node.subjects[0]) for node in graph.nodes]
    unit = graph.nodes[0].unit
    phrases = [_fill(node.relation.phrases[0], node, [name]) for node, name in zip(graph.nodes, names, strict=True)]
    rules = ["pick", "compare"] if relation.value == "year" else ["pick", "compare", "sum"]
    head = _HEAD.fullmatch(relation.phrases[0])
    if head and relation.value != "year":
        rules.append("count")
    if any(node.relation is not relation for node in graph.nodes):
        rules = ["compare"] if relation.value == "year" else ["compare", "sum"]
    rule = rng.choice([name for name in rules if len(known) == 2 or name != "compare"])
    if rule == "pick":
        largest = rng.random() < 0.5
        extreme = max(known) if largest else min(known)
        word = ("later" if largest else "earlier") if relation.value == "year" else ("larger" if largest else "smaller")
        noun = TYPE_NAMES[relation.subject][0]
        choices = _listing(phrases, "or")
        return f"Which is {word}: {choices}? Name the {noun}.", graph.nodes[known.index(extreme)].subjects[0], rule
    if rule == "compare":
        gap = written(abs(known[0] - known[1]))
        return (
            f"How far apart are {_listing(phrases)}?",
            value_text(relation, gap, unit),
            rule,
        )
    if rule == "sum":
        total = written(sum(known))
        return (
            f"What do {_listing(phrases)} add up to?",
            value_text(relation, total, unit),
            rule,
        )
    bound = written(round(sum(known) / len(known)))
    above = sum(number > round(sum(known) / len(known)) for number in known)
    unit_text = f" {graph.nodes[0].shown_unit}" if relation.unit else ""
    article = "an" if head and head[1][0] in "aeiou" else "a"
    counted = f"{article} {head[1] if head else ''} above {bound}{unit_text}"
    return f"Of {_listing(names)}, how many have {counted}?", str(above), rule


_DOUBLED = re.compile(r"\b(\w+) \1\b")


class _Wording:
    """Writes a graph as sentences; `rng` chooses the paraphrases."""

    def __init__(self, graph: Graph, rng: random.Random) -> None:
        self.graph = graph
        self.rng = rng
        self.names: dict[int, str] = {}
        self.sentences: list[str] = []
        uses = graph.uses()
        shared = [index for index in range(len(graph.nodes)) if uses[index] > 1]
        kinds = Counter(graph.nodes[index].relation.value for index in shared)
        seen: Counter[str] = Counter()
        for index in shared:
            kind = graph.nodes[index].relation.value
            noun = TYPE_NAMES[kind][0] if kind in TYPE_NAMES else "number"
            phrase = self._phrase(index)
            if kinds[kind] > 1:
                letter = "ABCDEFGH"[seen[kind]]
                seen[kind] += 1
                self.names[index] = f"{noun} {letter}"
                self.sentences.append(f"Let {noun} {letter} be {phrase}.")
            else:
                self.names[index] = f"that {noun}"
                self.sentences.append(rng.choice(_INTRODUCTIONS).format(p=phrase))

    def question(self, sinks: list[int]) -> str:
        if len(sinks) > 1 and self.rng.random() < 0.4:
            parts = [self._phrase(index) for index in sinks]
            asks = [self.rng.choice(_LISTS).format(p=_listing(parts))]
        else:
            asks = [self._ask(index) for index in sinks]
        return " ".join([*self.sentences, *asks])

    def _ask(self, index: int) -> str:
        node = self.graph.nodes[index]
        chosen = self.rng.choice(node.relation.asks)
        sources = self._sources(index)
        texts = [_fill(ask, node, sources) for ask in (chosen, *node.relation.asks)]
        # "Which city of the country where the airport lies lies farthest south?" is hard to read.
        return next((text for text in texts if not _DOUBLED.search(text)), texts[0])

    def _sources(self, index: int) -> list[str]:
        node = self.graph.nodes[index]
        return [
            mention(node, source) if isinstance(source, str) else self._reference(source) for source in node.sources
        ]

    def _reference(self, index: int) -> str:
        return self.names[index] if index in self.names else self._phrase(index)

    def _phrase(self, index: int) -> str:
        node = self.graph.nodes[index]
        # Only the first phrase may end in its entity: "the country where the city that ... lies lies" is hard to read.
        nested = any(isinstance(source, int) and source not in self.names for source in node.sources)
        phrase = node.relation.phrases[0] if nested else self.rng.choice(node.relation.phrases)
        return _fill(phrase, node, self._sources(index))
