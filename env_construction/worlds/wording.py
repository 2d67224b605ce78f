"""Graphs in English: the question, its sub-questions, and the rule for the final answer.

The question describes an entity that a search finds ("the poet who grew up in Ashford"). The description is nested in
the phrase of the node that needs it. If nesting would be too deep, or several nodes need the entity, a separate
sentence introduces it ("A poet was born in ... . That poet ..."). Questions about the same entity are combined, or the
second one says "it".
"""

from __future__ import annotations

import random
import re
from collections import Counter
from datetime import date

from env_construction.building.author import Decomposition, Step
from env_construction.facts.levels import Level
from env_construction.worlds.comparisons import compare
from env_construction.worlds.english import Clause, join_clauses, listing, plural_head, tidy, with_article
from env_construction.worlds.graphs import Condition, Graph, Node
from env_construction.worlds.units import UNITS
from env_construction.worlds.world import Entity, Value, long_date, mention, number_text, spoken

_INTRODUCTIONS = (
    "Consider {p}.",
    "Take {p}.",
    "I am interested in {p}.",
    "My question is about {p}.",
    "I would like to know more about {p}.",
    "I am reading about {p}.",
)
_LATER_INTRODUCTIONS = ("Also consider {p}.", "Then take {p}.", "Next, find {p}.", "After that, identify {p}.")
_GIVES = (
    "What is {p}?",
    "What is {p}?",
    "Tell me {p}.",
    "I need to know {p}.",
    "Find out {p}.",
    "Can you tell me {p}?",
    "Look up {p}.",
    "Please give me {p}.",
)
_GIVE_ENTITY = ("Tell me {p}.", "I need to know {p}.", "Can you tell me {p}?", "Look up {p}.", "Please find {p}.")
_GIVE_SEVERAL = ("What are {p}?", "What are {p}?", "Tell me {p}.", "I need {p}.", "Please look up {p}.")
_SEARCHES = (
    "Which {noun} {clauses}?",
    "Which {noun} {clauses}?",
    "What is the name of the {noun} {that} {clauses}?",
    "Name the {noun} {that} {clauses}.",
    "Find the {noun} {that} {clauses}.",
    "I am looking for the {noun} {that} {clauses}. What is {its} name?",
    "{A_noun} {clauses}. What is {its} name?",
)
_CALCULATIONS = {
    "days_between": ("How many days lie between {a} and {b}?", "How many days are there between {a} and {b}?"),
    "difference": ("What is the difference between {a} and {b}?", "By how much do {a} and {b} differ?"),
    "sum": ("What is the sum of {a} and {b}?", "What do {a} and {b} add up to?"),
    "percentage": ("What is {b}% of {a}?", "How much is {b} percent of {a}?"),
}
_YEARS = ("How many years lie between {a} and {b}?", "How many years are there between {a} and {b}?")
_HEAD_OF = re.compile(r"the (?P<head>[^{]+) of \{x\}$")


def write_decomposition(graph: Graph, level: Level, rng: random.Random) -> Decomposition:
    """The question in English, its steps with their answers, and the final answer."""
    steps = [
        Step(
            id=f"q{index + 1}",
            question=tidy(plain_ask(node)),
            answer=node.answer,
            depends_on=[f"q{source + 1}" for source in dict.fromkeys(node.sources)],
            function=node.relation,
            inputs=_inputs(node),
        )
        for index, node in enumerate(graph.nodes)
    ]
    derived = compare(graph.nodes, rng) if level.derived_share else None
    if derived:
        question, answer, rule = derived
    else:
        uses = graph.uses()
        sinks = [index for index in range(len(graph.nodes)) if not uses[index]]
        question = Wording(graph, rng, rng.choice((2, 3)) if level.verbose else 2).question(sinks)
        answer = ", ".join(graph.nodes[index].answer for index in sinks)
        rule = "list" if len(sinks) > 1 else "last"
    return Decomposition(question=tidy(question), steps=steps, answer=answer, answer_rule=rule)


def _inputs(node: Node) -> dict[str, str | int | float | None]:
    """{name: value} of the inputs that determine a node's answer."""
    if node.operation:
        return {"a": _input(node.operands[0]), "b": _input(node.operands[1])}
    inputs: dict[str, str | int | float | None] = {"name": node.subject.name} if node.subject else {}
    for condition in node.conditions:
        inputs[condition.attribute.name] = _input(condition.value)
    return inputs


def _input(value: Value) -> str | int | float:
    if isinstance(value, Entity):
        return value.name
    return long_date(value) if isinstance(value, date) else value


def unit_of(node: Node) -> str:
    """ " in meters" for a quantity, else nothing."""
    if node.attribute is None or node.attribute.kind != "quantity":
        return ""
    return f" in {UNITS[node.unit or node.attribute.generator.unit].many}"


def clause_of(condition: Condition, reference: str = "") -> Clause:
    """A condition in words. `reference`: the description of an entity that an earlier node finds."""
    attribute, pattern, stated = condition.attribute, condition.attribute.clause, condition.stated
    if condition.style == "equal":
        return Clause(pattern, reference or spoken(attribute, condition.value), bool(reference))
    if condition.style == "any_of":
        return Clause(pattern, listing(list(stated), "or"))
    if attribute.kind in ("date", "year"):
        years = [
            item.year if isinstance(item, date) else item
            for item in (stated if condition.style == "range" else [stated])
        ]
        preposition = " on {v}" if attribute.kind == "date" else " in {v}"
        text = {
            "range": " between {} and {}",
            "at_least": " in {} or later",
            "at_most": " in {} or earlier",
        }[condition.style].format(*years)
        return Clause(pattern.replace(preposition, text), "")
    if condition.style == "range":
        return Clause(pattern, f"between {number_text(stated[0])} and {spoken(attribute, stated[1])}")
    return Clause(pattern, f"{condition.style.replace('_', ' ')} {spoken(attribute, stated)}")


def plain_ask(node: Node) -> str:
    """A self-contained sub-question, with the results of earlier nodes filled in."""
    if node.operation:
        a, b = (
            long_date(value)
            if isinstance(value, date)
            else number_text(value)
            if isinstance(value, float)
            else str(value)
            for value in node.operands
        )
        return _CALCULATIONS[node.operation][0].format(a=a, b=b)
    if node.attribute and node.subject:
        return _lookup_ask(node, named(node, node.subject, False))
    assert node.kind is not None
    return f"Which {node.kind.noun} {join_clauses([clause_of(item) for item in node.conditions], False)}?"


def _lookup_ask(node: Node, subject: str) -> str:
    assert node.attribute is not None
    unit = unit_of(node)
    if node.attribute.ask:
        ask = node.attribute.ask.format(x=subject)
        return f"{ask[:-1]},{unit}{ask[-1]}" if unit else ask
    person = node.entity is not None and node.entity.kind.person
    return f"{'Who' if person else 'What'} is {node.attribute.phrase.format(x=subject)}{unit}?"


def named(node: Node, subject: Entity, vary: bool) -> str:
    """A named entity, often with its noun, and with the qualifier that distinguishes it from others of that name."""
    name, kind = mention(subject), subject.kind
    clauses = join_clauses([clause_of(item) for item in node.conditions], False)
    if clauses and not kind.person:
        return f"{name}, the {kind.noun} that {clauses},"
    told = kind.noun.split(" ")[-1].lower() in subject.name.lower() or kind.form in ("the", "noun", "at")
    if not told and not name.startswith("the ") and (clauses or kind.form == "quote" or (vary and node.words < 0.5)):
        name = f"the {kind.noun} {name}"
    return f"{name} who {clauses}" if clauses else name


class Wording:
    """Writes a graph as sentences. `rng` selects paraphrases. `most_nested`: the maximum depth of nested phrases."""

    def __init__(self, graph: Graph, rng: random.Random, most_nested: int) -> None:
        self.graph = graph
        self.rng = rng
        self.names: dict[int, str] = {}
        self.sentences: list[str] = []
        self.depth: dict[int, int] = {}
        uses = graph.uses()
        joins = {
            source for node in graph.nodes if len(node.sources) > 1 and not node.operation for source in node.sources
        }
        # "the town where the poet who ... lives": an entity in the middle of a phrase gets a separate sentence
        embedded = {
            source
            for node in graph.nodes
            if node.attribute and not node.attribute.phrase.endswith("{x}")
            for source in node.sources
        }
        embedded |= {
            item.source
            for node in graph.nodes
            for item in node.conditions
            if item.source is not None and not item.attribute.clause.endswith("{v}")
        }
        introduced = []
        for index, node in enumerate(graph.nodes):
            self.depth[index] = 1 + max(
                (self.depth[source] for source in node.sources if source not in introduced), default=0
            )
            wanted = uses[index] > 1 or index in joins or index in embedded or self.depth[index] >= most_nested
            if node.entity and uses[index] and wanted:
                introduced.append(index)
        nouns = Counter(graph.nodes[index].entity.kind.noun for index in introduced)  # type: ignore[union-attr]
        seen: Counter[str] = Counter()
        openings = list(_INTRODUCTIONS)
        rng.shuffle(openings)
        for index in introduced:
            node, entity = graph.nodes[index], graph.nodes[index].entity
            assert entity is not None
            noun = entity.kind.noun
            letter = "ABCDEFGH"[seen[noun]] if nouns[noun] > 1 else ""
            seen[noun] += 1
            if node.attribute is None and rng.random() < 0.75:
                sentence = f"{with_article(noun)} {self._clauses(node)}"
                sentence += (
                    f"; call {'this person' if entity.kind.person else 'it'} {noun} {letter}." if letter else "."
                )
            elif letter:
                sentence = f"Let {noun} {letter} be {self._phrase(index)}."
            else:
                opening = rng.choice(_LATER_INTRODUCTIONS) if self.sentences else openings.pop()
                sentence = opening.format(p=self._phrase(index))
            self.names[index] = f"{noun} {letter}" if letter else f"that {noun}"
            self.sentences.append(tidy(sentence))

    def question(self, sinks: list[int]) -> str:
        """All sentences: the introductions, then the questions for the nodes `sinks`."""
        asked: list[str] = []
        groups: list[list[int]] = []
        for index in sinks:
            if groups and self._together(groups[-1][0], index):
                groups[-1].append(index)
            else:
                groups.append([index])
        for group in groups:
            asked += self._ask_group(group)
        return " ".join(tidy(sentence) for sentence in [*self.sentences, *asked])

    def _together(self, first: int, second: int) -> bool:
        """Whether two lookups ask about the same entity, or about one relation of two named entities."""
        a, b = self.graph.nodes[first], self.graph.nodes[second]
        if a.attribute is None or b.attribute is None:
            return False
        if a.sources:
            return a.sources == b.sources and a.sources[0] in self.names
        return not b.sources and a.attribute is b.attribute and a.unit == b.unit

    def _ask_group(self, group: list[int]) -> list[str]:
        nodes = [self.graph.nodes[index] for index in group]
        first = nodes[0]
        if len(group) == 1 or first.attribute is None:
            return [self._ask(group[0])]
        if not first.sources:
            return self._ask_same(nodes)
        reference = self.names[first.sources[0]]
        heads = [_HEAD_OF.match(node.attribute.phrase) if node.attribute else None for node in nodes]
        if all(heads) and self.rng.random() < 0.6:
            parts = [f"the {head['head']}{unit_of(node)}" for head, node in zip(heads, nodes, strict=True) if head]
            return [self.rng.choice(_GIVE_SEVERAL).format(p=f"{listing(parts)} of {reference}")]
        source = self.graph.nodes[first.sources[0]].entity
        thing = source is not None and not source.kind.person and reference.startswith("that ")
        return [self._ask(group[0]), *(self._ask_again(index) if thing else self._ask(index) for index in group[1:])]

    def _ask_again(self, index: int) -> str:
        """A second question about the same entity: "How long is it?", "What is its height?"."""
        node = self.graph.nodes[index]
        assert node.attribute is not None
        head = _HEAD_OF.match(node.attribute.phrase)
        if " of {x}" not in node.attribute.ask and "{x}'" not in node.attribute.ask and node.attribute.ask:
            return _lookup_ask(node, "it")
        if head is None:
            return self._ask(index)
        part, of, whole = head["head"].partition(" of the ")  # "the color of its tail"
        return f"What is {f'the {part} of its {whole}' if of else f'its {part}'}{unit_of(node)}?"

    def _ask_same(self, nodes: list[Node]) -> list[str]:
        """One relation of several named entities: in one sentence, or as one question per entity."""
        subjects = [named(node, node.subject, False) for node in nodes if node.subject]
        first, attribute = nodes[0], nodes[0].attribute
        assert attribute is not None
        head = _HEAD_OF.match(attribute.phrase)
        person = first.entity is not None and first.entity.kind.person
        plain = head and (person or not first.entity) and not any(node.conditions for node in nodes)
        if head and plain and self.rng.random() < 0.5:
            heads = f"the {plural_head(head['head'])}{unit_of(first)} of {listing(subjects)}"
            return [f"Who are {heads}?" if person else self.rng.choice(_GIVE_SEVERAL).format(p=heads)]
        return [_lookup_ask(node, subject) for node, subject in zip(nodes, subjects, strict=True)]

    def _ask(self, index: int) -> str:
        node = self.graph.nodes[index]
        if node.operation:
            patterns = _CALCULATIONS[node.operation]
            source = self.graph.nodes[node.sources[0]]
            if node.operation == "difference" and source.attribute and source.attribute.kind == "year":
                patterns = _YEARS
            a, b = self._operands(node)
            return self.rng.choice(patterns).format(a=a, b=b)
        if node.attribute:
            given = node.sources and node.sources[0] not in self.names
            share = 0.15 if node.attribute.kind == "integer" else 0.35
            if given or (self.rng.random() < share and not (node.entity and node.entity.kind.person)):
                return self._give(node, self._phrase(index, True))
            return _lookup_ask(node, self._subject(node))
        assert node.kind is not None
        noun = self.rng.choice(node.kind.nouns) if self.rng.random() < 0.25 else node.kind.noun
        that, its = ("who", "this person's") if node.kind.person else ("that", "its")
        pattern = self.rng.choice(_SEARCHES)
        return pattern.format(
            noun=noun, A_noun=with_article(noun).capitalize(), clauses=self._clauses(node), that=that, its=its
        )

    def _give(self, node: Node, phrase: str) -> str:
        if node.entity and node.entity.kind.person:
            return f"Who is {phrase}?"
        return self.rng.choice(_GIVE_ENTITY if node.entity else _GIVES).format(p=phrase)

    def _operands(self, node: Node) -> tuple[str, str]:
        phrases = [self._phrase(source, True) for source in node.sources]
        if len(phrases) == 1:
            given = node.operands[1]
            attribute = self.graph.nodes[node.sources[0]].attribute
            year = "the year " if attribute and attribute.kind == "year" else ""
            phrases.append(long_date(given) if isinstance(given, date) else f"{year}{given}")
        return phrases[0], phrases[1]

    def _clauses(self, node: Node) -> str:
        clauses = [
            clause_of(item, "" if item.source is None else self._reference(item.source)) for item in node.conditions
        ]
        return join_clauses(clauses, self.rng.random() < 0.5)

    def _reference(self, index: int) -> str:
        return self.names[index] if index in self.names else self._phrase(index)

    def _subject(self, node: Node) -> str:
        """The subject of a lookup: a named entity, or the result of an earlier node."""
        if not node.sources and node.subject:
            return named(node, node.subject, True)
        return self._reference(node.sources[0])

    def _phrase(self, index: int, with_unit: bool = False) -> str:
        """ "the height in meters of the tower that ...", "the poet who ..." """
        node = self.graph.nodes[index]
        if node.attribute:
            phrase = node.attribute.phrase
            head = _HEAD_OF.match(phrase)
            unit = unit_of(node) if with_unit else ""
            if head and unit:
                return f"the {head['head']}{unit} of {self._subject(node)}"
            return phrase.format(x=self._subject(node)) + unit
        assert node.kind is not None
        return f"the {node.kind.noun} {'who' if node.kind.person else 'that'} {self._clauses(node)}"
