"""Graphs in English: the question, its sub-questions, and how the final answer follows from the sub-answers.

An entity that was found by a search is described ("the poet who grew up in Ashford"), and what was found is nested in the
phrase of what needs it. Where nesting would get too deep, or something is needed twice, a sentence introduces it ("Start from the
poet who ... . That poet ...").
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import date

from env_construction.building.author import Decomposition, Step
from env_construction.facts.levels import Level
from env_construction.worlds.graphs import Condition, Graph, Node
from env_construction.worlds.units import UNITS
from env_construction.worlds.world import Entity, Value, long_date, mention, number_text, spoken

_INTRODUCTIONS = ("Start from {p}.", "Consider {p}.", "Take {p}.", "This is about {p}.", "Think of {p}.")
_GIVES = (
    "What is {p}?",
    "What is {p}?",
    "Tell me {p}.",
    "I need to know {p}.",
    "Find {p}.",
    "Can you tell me {p}?",
    "Look up {p}.",
    "Please give {p}.",
)
_SEARCHES = (
    "Which {noun} {clauses}?",
    "Which {noun} {clauses}?",
    "What is the name of the {noun} {that} {clauses}?",
    "Name the {noun} {that} {clauses}.",
    "Find the {noun} {that} {clauses}.",
    "I am looking for the {noun} {that} {clauses}. What is {its} name?",
)
_CALCULATIONS = {
    "days_between": ("How many days lie between {a} and {b}?", "How many days apart are {a} and {b}?"),
    "difference": ("What is the difference between {a} and {b}?", "How far apart are {a} and {b}?"),
    "sum": ("What is the sum of {a} and {b}?", "What do {a} and {b} add up to?"),
    "product": ("What is {b} times {a}?", "How much is {b} times {a}?"),
    "percentage": ("What is {b}% of {a}?", "How much is {b} percent of {a}?"),
}
_YEARS = ("How many years lie between {a} and {b}?", "How many years apart are {a} and {b}?")
MOST_NESTED = 3


def write_decomposition(graph: Graph, level: Level, rng: random.Random) -> Decomposition:
    """The question in English, its steps with their answers, and the final answer."""
    wording = Wording(graph, rng, MOST_NESTED if level.verbose else 2)
    steps = [
        Step(
            id=f"q{index + 1}",
            question=wording.plain_ask(node),
            answer=node.answer,
            depends_on=[f"q{source + 1}" for source in dict.fromkeys(node.sources)],
            function=node.relation,
            inputs=_inputs(node),
        )
        for index, node in enumerate(graph.nodes)
    ]
    derived = _derived(graph, rng) if rng.random() < level.derived_share else None
    if derived:
        question, answer, rule = derived
    else:
        uses = graph.uses()
        sinks = [index for index in range(len(graph.nodes)) if not uses[index]]
        question = wording.question(sinks)
        answer = ", ".join(graph.nodes[index].answer for index in sinks)
        rule = "list" if len(sinks) > 1 else "last"
    return Decomposition(question=question, steps=steps, answer=answer, answer_rule=rule)


def _inputs(node: Node) -> dict[str, str | int | float | None]:
    """The values that determine a node's answer, by name."""
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


def _listing(parts: list[str], last: str = "and") -> str:
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}" if len(parts) > 1 else parts[0]


def _derived(graph: Graph, rng: random.Random) -> tuple[str, str, str] | None:
    """(question, answer, rule) of a question about several entities' values of one numeric attribute; None for other graphs."""
    first = graph.nodes[0]
    attribute = first.attribute
    if (
        len(graph.nodes) < 2
        or attribute is None
        or any(node.attribute is not attribute or node.sources for node in graph.nodes)
    ):
        return None
    values = [node.value for node in graph.nodes]
    if not all(isinstance(value, int | float | date) for value in values) or len(set(values)) < len(values):
        return None
    subjects = [node.subject for node in graph.nodes if node.subject]
    if any(node.conditions for node in graph.nodes):
        return None
    named = [subject.name for subject in subjects]
    phrases = [
        attribute.phrase.format(x=mention(subject)) + _unit_suffix(node)
        for subject, node in zip(subjects, graph.nodes, strict=True)
    ]
    timed = attribute.kind in ("date", "year")
    rules = ["pick", "pick", "compare"] if timed else ["pick", "compare", "sum"]
    rule = rng.choice([name for name in rules if len(values) == 2 or name != "compare"])
    noun = subjects[0].kind.noun
    texts = [float(node.answer.replace(",", "")) if not isinstance(node.value, date) else 0.0 for node in graph.nodes]
    if rule == "pick":
        largest = rng.random() < 0.5
        best = (max if largest else min)(range(len(values)), key=lambda index: values[index])  # type: ignore[arg-type,return-value]
        choices = _listing([mention(subject) for subject in subjects], "or")
        word = ("latest" if largest else "earliest") if timed else ("highest" if largest else "lowest")
        if len(values) == 2:
            word = ("later" if largest else "earlier") if timed else ("higher" if largest else "lower")
        if attribute.ask.startswith(("When ", "In which year ")) and timed and len(values) == 2:
            return f"Which came {word}: {_listing(phrases, 'or')}? Name the {noun}.", named[best], rule
        head = attribute.head if attribute.phrase.startswith(f"the {attribute.head} of") else ""
        if head:
            return f"Which {noun} has the {word} {head}, {choices}?", named[best], rule
        return f"Which is {word}: {_listing(phrases, 'or')}? Name the {noun}.", named[best], rule
    if rule == "compare":
        if isinstance(values[0], date) and isinstance(values[1], date):
            return (
                f"How many days passed between {_listing(phrases)}?",
                number_text(abs((values[0] - values[1]).days)),
                rule,
            )
        gap = round(abs(texts[0] - texts[1]), 2)
        ask = rng.choice(_YEARS if attribute.kind == "year" else ("What is the difference between {a} and {b}?",))
        return ask.format(a=phrases[0], b=phrases[1]), number_text(int(gap) if gap == int(gap) else gap), rule
    total = round(sum(texts), 2)
    return f"What do {_listing(phrases)} add up to?", number_text(int(total) if total == int(total) else total), rule


def _unit_suffix(node: Node) -> str:
    return f" in {UNITS[node.unit].many}" if node.unit else ""


def plain_clause(condition: Condition, spoken_value: str) -> str:
    if condition.bounds:
        low, high = (value.year if isinstance(value, date) else value for value in condition.bounds)
        preposition = " on {v}" if condition.attribute.kind == "date" else " in {v}"
        return condition.attribute.clause.replace(preposition, f" between {low} and {high}")
    return condition.attribute.clause.format(v=spoken_value)


class Wording:
    """Puts a graph into sentences; `rng` chooses among the paraphrases."""

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
        introduced = []
        for index, node in enumerate(graph.nodes):
            self.depth[index] = 1 + max(
                (self.depth[source] for source in node.sources if source not in introduced), default=0
            )
            needed_twice = uses[index] > 1
            if node.entity and uses[index] and (needed_twice or index in joins or self.depth[index] >= most_nested):
                introduced.append(index)
        nouns = Counter(graph.nodes[index].entity.kind.noun for index in introduced)  # type: ignore[union-attr]
        seen: Counter[str] = Counter()
        for index in introduced:
            entity = graph.nodes[index].entity
            assert entity is not None
            noun = entity.kind.noun
            phrase = self._phrase(index)
            if nouns[noun] > 1:
                letter = "ABCDEFGH"[seen[noun]]
                seen[noun] += 1
                self.names[index] = f"{noun} {letter}"
                self.sentences.append(f"Let {noun} {letter} be {phrase}.")
            else:
                self.names[index] = f"that {noun}"
                self.sentences.append(rng.choice(_INTRODUCTIONS).format(p=phrase))

    def question(self, sinks: list[int]) -> str:
        return " ".join([*self.sentences, *(self._ask(index) for index in sinks)])

    def plain_ask(self, node: Node) -> str:
        """A sub-question by itself, with the names that were found filled in."""
        if node.operation:
            a, b = (long_date(value) if isinstance(value, date) else number_text(value) if isinstance(value, float) else str(value) for value in node.operands)  # fmt: skip
            return _CALCULATIONS[node.operation][0].format(a=a, b=b)
        if node.attribute and node.subject:
            return self._lookup_ask(node, self._subject(node, node.subject, False))
        assert node.kind is not None
        clauses = _listing([plain_clause(item, spoken(item.attribute, item.value)) for item in node.conditions])
        return f"Which {node.kind.noun} {clauses}?"

    def _lookup_ask(self, node: Node, subject: str) -> str:
        assert node.attribute is not None
        if node.attribute.ask:
            ask = node.attribute.ask.format(x=subject)
            return f"{ask[:-1]}{_unit_suffix(node)}{ask[-1]}"
        person = node.entity is not None and node.entity.kind.person
        return f"{'Who' if person else 'What'} is {node.attribute.phrase.format(x=subject)}{_unit_suffix(node)}?"

    def _subject(self, node: Node, subject: Entity, vary: bool) -> str:
        """A named entity, often with what it is, and with the qualifier that tells it from others of the name."""
        name = mention(subject)
        kind = subject.kind
        qualifiers = [plain_clause(item, spoken(item.attribute, item.value)) for item in node.conditions]
        told = kind.noun.split(" ")[-1] in subject.name.lower() or kind.form == "the"
        if not told and (qualifiers or kind.form in ("quote", "noun") or (vary and self.rng.random() < 0.5)):
            name = f"{'' if kind.form == 'noun' else 'the '}{kind.noun} {name}"
        return (
            f"{name} that {_listing(qualifiers)}"
            if qualifiers and not kind.person
            else f"{name} who {_listing(qualifiers)}"
            if qualifiers
            else name
        )

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
            subject = self._subject(node, node.subject, True) if not node.sources and node.subject else self._reference(node.sources[0])  # fmt: skip
            nested = bool(node.sources) and node.sources[0] not in self.names and self.depth[node.sources[0]] > 1
            if nested or (self.rng.random() < 0.4 and not (node.entity and node.entity.kind.person)):
                return self._give(node, node.attribute.phrase.format(x=subject) + _unit_suffix(node))
            return self._lookup_ask(node, subject)
        assert node.kind is not None
        pattern = self.rng.choice(_SEARCHES)
        noun = self.rng.choice(node.kind.nouns) if self.rng.random() < 0.25 else node.kind.noun
        that, its = ("who", "this person's") if node.kind.person else ("that", "its")
        return pattern.format(noun=noun, clauses=self._clauses(node), that=that, its=its)

    def _give(self, node: Node, phrase: str) -> str:
        if node.entity and node.entity.kind.person:
            return f"Who is {phrase}?"
        return self.rng.choice(_GIVES).format(p=phrase)

    def _operands(self, node: Node) -> tuple[str, str]:
        phrases = [self._phrase(source) + _unit_suffix(self.graph.nodes[source]) for source in node.sources]
        if len(phrases) == 1:
            given = node.operands[1]
            phrases.append(long_date(given) if isinstance(given, date) else str(given))
        return phrases[0], phrases[1]

    def _clauses(self, node: Node) -> str:
        stated = [item for item in node.conditions if item.source is None]
        linked = [item for item in node.conditions if item.source is not None]
        parts = [plain_clause(item, spoken(item.attribute, item.value)) for item in stated]
        parts += [plain_clause(item, self._reference(item.source)) for item in linked if item.source is not None]
        return _listing(parts)

    def _reference(self, index: int) -> str:
        return self.names[index] if index in self.names else self._phrase(index)

    def _phrase(self, index: int) -> str:
        node = self.graph.nodes[index]
        if node.attribute:
            subject = self._subject(node, node.subject, True) if not node.sources and node.subject else self._reference(node.sources[0])  # fmt: skip
            return node.attribute.phrase.format(x=subject)
        assert node.kind is not None
        return f"the {node.kind.noun} {'who' if node.kind.person else 'that'} {self._clauses(node)}"
