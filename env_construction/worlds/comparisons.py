"""Parallel questions that compare or add one attribute of several entities: which has more, the difference, the sum."""

from __future__ import annotations

import random
import re
from datetime import date

from env_construction.worlds.domains import Attribute
from env_construction.worlds.english import listing
from env_construction.worlds.graphs import Node
from env_construction.worlds.units import UNITS
from env_construction.worlds.world import mention, number_text

_YEARS = ("How many years lie between {a} and {b}?", "How many years passed between {a} and {b}?")
_COUNTED = re.compile(r"(?P<before>.+) \{v\} (?P<after>.+)$")
_TOTALS = (
    (" does {x} ", " do {x} "),
    (" has {x} ", " have {x} "),
    (" did {x} ", " did {x} "),
    (" is {x} ", " are {x} "),
)
_RATED = ("USD", "%", "C", "hPa", "ppm", "")


def compare(nodes: list[Node], rng: random.Random) -> tuple[str, str, str] | None:
    """(question, answer, rule) if all nodes look up one attribute of named entities with distinct values, else None."""
    attribute = nodes[0].attribute
    subjects = [node.subject for node in nodes if node.subject]
    if len(nodes) < 2 or attribute is None or len(subjects) < len(nodes):
        return None
    if any(node.attribute is not attribute or node.sources or node.conditions for node in nodes):
        return None
    values = [node.value for node in nodes]
    if not all(isinstance(value, int | float | date) for value in values) or len(set(values)) < len(values):
        return None
    names = [mention(subject) for subject in subjects]
    noun = subjects[0].kind.noun
    rules = ["pick", "pick"]
    if len(nodes) == 2:
        rules.append("compare")
    if _total(attribute):
        rules.append("sum")
    rule = rng.choice(rules)
    if rule == "pick":
        largest = rng.random() < 0.5
        best = (max if largest else min)(range(len(values)), key=lambda index: values[index])  # type: ignore[arg-type,return-value]
        return _pick(attribute, noun, names, largest), subjects[best].name, rule
    texts = [0.0 if isinstance(node.value, date) else float(node.answer.replace(",", "")) for node in nodes]
    unit = UNITS[nodes[0].unit or attribute.generator.unit].many if attribute.generator.unit else ""
    if rule == "sum":
        total = round(sum(texts), 2)
        ask = attribute.ask
        for one, many in _TOTALS:
            ask = ask.replace(one, many)
        ask = ask.format(x=listing(names))
        return f"{ask[:-1]} in total{f', in {unit}' if unit else ''}?", _number(total), rule
    first = attribute.phrase.format(x=names[0])
    head = re.match(r"the (.+) of \{x\}$", attribute.phrase)
    second = f"that of {names[1]}" if head else attribute.phrase.format(x=names[1])
    if isinstance(values[0], date) and isinstance(values[1], date):
        return (
            f"How many days passed between {first} and {second}?",
            number_text(abs((values[0] - values[1]).days)),
            rule,
        )
    gap = _number(round(abs(texts[0] - texts[1]), 2))
    if attribute.kind == "year":
        return rng.choice(_YEARS).format(a=first, b=second), gap, rule
    return f"What is the difference between {first} and {second}{f', in {unit}' if unit else ''}?", gap, rule


def _number(value: float) -> str:
    return number_text(int(value) if value == int(value) else value)


def _total(attribute: Attribute) -> bool:
    """Whether a sum makes sense: counts and money, with a question that has a plural form."""
    counted = attribute.kind == "integer" and attribute.ask.startswith("How many")
    money = attribute.generator.unit == "USD" and attribute.ask.startswith("How much")
    return (counted or money) and any(one in attribute.ask for one, _ in _TOTALS)


def _pick(attribute: Attribute, noun: str, names: list[str], largest: bool) -> str:
    """ "Which poet was born earlier, Ada Ashford or Bruno Beck?", "Which novel has the most pages, ...?" """
    choices = listing(names, "or")
    two = len(names) == 2
    if attribute.kind in ("date", "year"):
        word = ("later" if largest else "earlier") if two else ("last" if largest else "first")
        found = re.match(r"(.+) (?:on|in) \{v\}$", attribute.clause)
        if found and " first" not in attribute.clause and " last" not in attribute.clause:
            return f"Which {noun} {found[1]} {word}, {choices}?"
        word = ("later" if largest else "earlier") if two else ("latest" if largest else "earliest")
        return f"Which {noun} has the {word} {attribute.head}, {choices}?"
    counted = _COUNTED.match(attribute.clause)
    if attribute.head.startswith("number of ") and counted and attribute.kind == "integer":
        word = ("more" if largest else "fewer") if two else ("the most" if largest else "the fewest")
        return f"Which {noun} {counted['before']} {word} {counted['after']}, {choices}?"
    rated = attribute.generator.unit in _RATED
    word = ("higher" if largest else "lower") if rated else ("greater" if largest else "smaller")
    if not two:
        word = ("highest" if largest else "lowest") if rated else ("greatest" if largest else "smallest")
    return f"Which {noun} has the {word} {attribute.head}, {choices}?"
