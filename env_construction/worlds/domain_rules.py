"""The rules for domain files: they ensure that questions are good English and that tools are distinguishable."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

from env_construction.worlds.domains import Attribute, Catalog, EntityType
from env_construction.worlds.english import article_of
from env_construction.worlds.names import drawer
from env_construction.worlds.units import UNITS

_LEAST_ATTRIBUTES = 4
_LEAST_CHOICES = 4
_NAME_DRAWS = 200
_LEAST_NAMES = 120
_DOUBLED = re.compile(r"\b(\w+) \1\b", re.IGNORECASE)
_FORMS = ("", "the", "quote", "noun", "at")

Problem = tuple[str, str]
"""(key, what is wrong and what to do)"""


def _shape(catalog: Catalog, kind: EntityType) -> Iterator[Problem]:
    if kind.form not in _FORMS:
        yield f"{kind.name}.form", f"unknown form {kind.form!r}; use the, quote, noun or at, or omit it for plain names"
    if len(kind.attributes) < _LEAST_ATTRIBUTES:
        yield kind.name, f"has {len(kind.attributes)} attributes; define at least {_LEAST_ATTRIBUTES}"
    rare = [a for a in kind.attributes.values() if a.clause and a.kind not in ("choice", "quantity")]
    if len(rare) < 2:
        yield (
            kind.name,
            "has too few clauses for descriptions; add a clause (fourth part) to at least two attributes that are "
            "neither choices nor quantities",
        )
    references = [a for a in kind.attributes.values() if a.kind == "entity"]
    if not references and not catalog.referrers[kind.name]:
        yield kind.name, "has no references in either direction; add an attribute such as '-> town'"
    literal = [a for a in kind.attributes.values() if a.kind != "entity"]
    if not literal:
        yield kind.name, "has only references; add a date, a number or a text, so that chains can end in it"


def _names(catalog: Catalog, kind: EntityType) -> Iterator[Problem]:
    draw, rng = drawer(kind.pattern), random.Random(kind.name)
    names = {draw(rng) for _ in range(_NAME_DRAWS)}
    if len(names) < _LEAST_NAMES:
        yield f"{kind.name}.name", f"{_NAME_DRAWS} draws gave only {len(names)} names; add families or alternatives"
    for name in sorted(names):
        if _DOUBLED.search(name) or "  " in name or name != name.strip():
            yield f"{kind.name}.name", f"generates {name!r} with a doubled word or space; change the pattern"
            return


def _wordings(catalog: Catalog, kind: EntityType) -> Iterator[Problem]:
    for attribute in kind.attributes.values():
        for problem in _wording(catalog, attribute):
            yield attribute.id, problem
    for what, texts in (
        ("name of the value", [a.head for a in kind.attributes.values() if "{x}" in a.phrase]),
        ("question", [a.ask for a in kind.attributes.values()]),
        ("clause", [a.clause for a in kind.attributes.values()]),
    ):
        for text, count in Counter(texts).items():
            if text and count > 1:
                yield kind.name, f"{count} attributes have the same {what} {text!r}; reword them"


def _wording(catalog: Catalog, attribute: Attribute) -> Iterator[str]:
    if not attribute.ask or not attribute.clause:
        yield "has no question (third part) or no clause (fourth part); add both"
    if attribute.ask and not (attribute.ask.endswith("?") and attribute.ask[0].isupper()):
        yield f"the question {attribute.ask!r} does not start with a capital or does not end with a question mark"
    if attribute.head.startswith(("the ", "a ", "an ")) or "its " in attribute.head:
        yield f"the name of the value {attribute.head!r} has an article or 'its'; remove it, as in 'the ... of X'"
    for text in (attribute.ask, attribute.clause, attribute.phrase):
        if _DOUBLED.search(text) or "  " in text:
            yield f"{text!r} has a doubled word or space"
    made = attribute.generator
    if attribute.kind == "entity":
        if re.search(r"\bthe \{v\}|\"\{v\}|\ban? \{v\}", attribute.clause):
            yield (
                f"the clause {attribute.clause!r} has an article or quotes before {{v}}; remove them, because the "
                "type's 'form' adds them"
            )
        target = catalog.types[made.target]
        if re.search(rf"\b{re.escape(target.noun)}( at| of| called)? \{{v\}}", attribute.clause):
            yield (
                f"the clause {attribute.clause!r} names the type before {{v}}; remove it, because descriptions "
                "already name it"
            )
        if target.person and attribute.ask.startswith("What "):
            yield f"the question {attribute.ask!r} asks 'what' about a person; ask 'who' or 'which {target.noun}'"
    if attribute.kind == "choice":
        yield from _choices(attribute)
    if attribute.kind == "integer" and not made.operation and made.low < 10:
        yield f"the lower bound {made.low:g} is too short for an answer; start at 11 or above"
    if attribute.kind in ("integer", "quantity") and re.search(r"\bat \{v\}", attribute.clause):
        yield f"the clause {attribute.clause!r} does not fit 'at least ...' in place of {{v}}; drop the preposition"
    if attribute.kind == "text" and re.search(r"\ban? \{v\}", attribute.clause):
        yield (
            f"the clause {attribute.clause!r} has an indefinite article before a generated text; write 'the {{v}}', "
            "or move the article into the text"
        )
    if attribute.kind == "quantity":
        words = {
            UNITS[made.unit].one,
            UNITS[made.unit].many,
            *(UNITS[other].many for other, _ in UNITS[made.unit].others),
        }
        if any(re.search(rf"\b{re.escape(word)}\b", attribute.ask) for word in words):
            yield f"the question {attribute.ask!r} names the unit; remove it, because it is added automatically"
    if attribute.kind in ("date", "year") and not made.operation:
        preposition = " on {v}" if attribute.kind == "date" else " in {v}"
        if attribute.clause and preposition not in attribute.clause:
            yield f"the clause {attribute.clause!r} lacks {preposition.strip()!r}; add it, because ranges replace it"


def _choices(attribute: Attribute) -> Iterator[str]:
    choices = attribute.generator.choices
    if len(choices) < _LEAST_CHOICES:
        yield f"has {len(choices)} choices; define at least {_LEAST_CHOICES}"
    found = re.search(r"\b(an?) \{v\}", attribute.clause)
    for choice in choices:
        if found and article_of(choice) != found[1]:
            yield (
                f"the clause has {found[1]!r} before {choice!r}; drop the choice, or move the article into the choices"
            )
        if any(choice != other and choice in other for other in choices):
            yield f"the choice {choice!r} is a part of another choice; reword one of them"
        if choice.lower() in attribute.ask.lower():
            yield f"the question contains the choice {choice!r}; reword it"


RULES: tuple[Callable[[Catalog, EntityType], Iterator[Problem]], ...] = (_shape, _names, _wordings)


def problems_of(catalog: Catalog, kind: EntityType) -> list[Problem]:
    """All problems of a type, in the order of the rules."""
    return [problem for rule in RULES for problem in rule(catalog, kind)]
