"""Parameters about other facts of a tool's entity: filters, ranges, choices, and details to add to the result.

A `Filter` is about a sibling relation: one of the same entity type. A required one must be given, and the question
states its value ("Lima (country: Peru)"). Every filter has an effect: an entry that does not meet it is refused.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from env_construction.facts.calculator import number_of
from env_construction.facts.fact_world import PoolView
from env_construction.facts.relations import BY_NAME, TYPE_NAMES, Relation

Style = Literal["equal", "any_of", "at_least", "at_most", "range", "include"]
_NUMBERS = ("integer", "year", "quantity")
_NAMES: dict[Style, tuple[str, ...]] = {
    "equal": ("{k}", "expected_{k}", "{k}_filter", "known_{k}"),
    "any_of": ("{k}_options", "{k}_any_of", "accepted_{k}", "possible_{k}"),
    "at_least": ("min_{k}", "{k}_at_least", "lowest_{k}", "{k}_from"),
    "at_most": ("max_{k}", "{k}_at_most", "highest_{k}", "{k}_up_to"),
    "range": ("{k}_range", "{k}_between", "{k}_limits"),
    "include": ("include_{k}", "with_{k}", "show_{k}", "add_{k}"),
}
_TEXTS: dict[Style, tuple[str, ...]] = {
    "equal": (
        "Accept the entry only if {thing} is the one given here, and report an error otherwise.",
        "{Thing}, so that no other {noun} of the same name is taken by mistake.",
        "Narrow the search down to entries for which {thing} has this value.",
        "{Thing} as far as it is known; an entry that differs is not returned.",
    ),
    "any_of": (
        "Values that are acceptable for {thing}; an entry with any other value is not returned.",
        "Restrict the search to entries for which {thing} is one of these values.",
        "A list of candidates for {thing}, one of which has to be the right one.",
    ),
    "at_least": (
        "The lowest value for {thing}{unit} at which an entry is still accepted.",
        "Only entries for which {thing} is at least this much{unit} are returned.",
        "A lower limit for {thing}{unit}; entries below it are left out.",
    ),
    "at_most": (
        "The highest value for {thing}{unit} at which an entry is still accepted.",
        "Only entries for which {thing} is this much{unit} or less are returned.",
        "An upper limit for {thing}{unit}; entries above it are left out.",
    ),
    "range": (
        "The limits between which {thing} has to lie{unit}; both of them are part of the range.",
        "Only entries for which {thing} lies between these two values{unit} are returned.",
    ),
    "include": (
        "Whether to add {thing} to the returned fields, next to the value that is looked up.",
        "Set this to true in order to get {thing} in the same result, as far as it is on file.",
        "Whether {thing} is to be reported as well, if the table holds it.",
    ),
}
_KINDS: dict[str, tuple[Style, ...]] = {
    "text": ("equal",),
    "enum": ("equal",),
    "array": ("any_of",),
    "integer": ("at_least", "at_most"),
    "number": ("at_least", "at_most"),
    "object": ("range",),
    "boolean": ("include",),
}
STATED_KINDS = {"text": 5.0, "enum": 3.0, "array": 1.0, "integer": 1.5, "object": 0.5}
"""Weights of the kinds that a question can state a value for."""


class Filter(BaseModel):
    """A parameter about the sibling relation `relation`. `options`: its choices, if it is an enumeration.

    `asked`: the question states a value, so the gold call gives it, whether it is required or not.
    """

    name: str
    relation: str
    style: Style
    options: list[str] = Field(default_factory=list)
    required: bool = False
    has_default: bool = False
    asked: bool = False
    words: int = 0

    @property
    def sibling(self) -> Relation:
        return BY_NAME[self.relation]

    @property
    def key(self) -> str:
        """The sibling's name without the entity type: "nearest_city"."""
        return key_of(self.sibling)

    def schema_of(self) -> dict[str, Any]:
        """The JSON Schema of the parameter."""
        relation = self.sibling
        noun = TYPE_NAMES[relation.subject][0]
        thing = relation.phrases[0].replace(" in {u}", "").format(x=f"the {noun}")
        texts = _TEXTS[self.style]
        text = texts[self.words % len(texts)].format(
            thing=thing,
            Thing=thing[0].upper() + thing[1:],
            noun=noun,
            unit=f", in {relation.unit}" if relation.unit else "",
        )
        number = "number" if relation.value == "quantity" else "integer"
        if self.style == "include":
            return {"type": "boolean", "description": text} | ({"default": False} if self.has_default else {})
        if self.style == "any_of":
            return {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": text}
        if self.style == "range":
            limits = {"from": {"type": number}, "to": {"type": number}}
            return {"type": "object", "properties": limits, "required": ["from", "to"], "description": text}
        if self.style in ("at_least", "at_most"):
            return {"type": number, "description": text}
        return {"type": "string", "description": text} | ({"enum": list(self.options)} if self.options else {})

    @property
    def column(self) -> str:
        """Where a tool keeps what this filter needs: "country" to compare, "=country" to show."""
        return f"={self.key}" if self.style == "include" else self.key

    def stated(self, value: str, other: str, rng: random.Random) -> tuple[Any, str]:
        """(argument, words) for an entity with this value. `other`: another value of the relation, for a choice."""
        if self.style == "equal":
            return value, value
        if self.style == "any_of":
            options = [value, other] if rng.random() < 0.5 else [other, value]
            return options, f"{options[0]} or {options[1]}"
        number = number_of(value)
        assert number is not None
        step = 10 ** max(0, len(str(int(abs(number)))) - 2)
        low, high = (
            int(number // step * step) - rng.randint(0, 2) * step,
            int(number // step * step) + rng.randint(1, 3) * step,
        )
        shown = [str(end) if self.sibling.value == "year" else f"{end:,}" for end in (low, high)]
        unit = f" {self.sibling.unit}" if self.sibling.unit else ""
        if self.style == "range":
            return {"from": low, "to": high}, f"between {shown[0]} and {shown[1]}{unit}"
        least = self.style == "at_least"
        return (low if least else high), f"at {'least' if least else 'most'} {shown[0] if least else shown[1]}{unit}"


def checks(filters: Sequence[Filter], columns: Sequence[str]) -> list[str]:
    """Lines of a tool's source that refuse wrong arguments, and an entry that does not meet a filter.

    `about`, in the source, has the entry's facts in the order of `columns`; None if the table does not hold one.
    """
    groups: dict[tuple[Style, str], list[Filter]] = {}
    for item in filters:
        if item.style != "include":
            number = "(int, float)" if item.sibling.value == "quantity" else "int"
            groups.setdefault((item.style, number if item.style in ("at_least", "at_most") else ""), []).append(item)
    lines = []
    for (style, number), items in groups.items():
        kind, words, met = {
            "equal": ("str", "a string", "known == given.strip().casefold()"),
            "any_of": ("list", "a list", "known in [str(item).strip().casefold() for item in given]"),
            "at_least": (number, "a number", "known is not None and known >= given"),
            "at_most": (number, "a number", "known is not None and known <= given"),
            "range": ("dict", "an object", 'known is not None and given["from"] <= known <= given["to"]'),
        }[style]
        listed = [f'("{item.name}", {item.name}, about[{columns.index(item.column)}])' for item in items]
        needed = [item.name for item in items if item.required]
        optional = [item.name for item in items if not item.required]
        wrong = f"not isinstance(given, {kind})" + (" or isinstance(given, bool)" if number else "")
        absent = [
            "        if given is None" + (f" and name not in {needed}" if needed else "") + ":",
            "            continue",
        ]
        lines += [
            f"    for name, given, known in [{', '.join(listed)}]:",
            *(absent if optional else ()),
            f"        if {wrong}:",
            f"""            return {{"error": f"{{name}} must be {words}"}}""",
            f"        if not ({met}):",
            """            return {"error": f"the entry does not meet {name}"}""",
        ]
    return lines


def key_of(relation: Relation) -> str:
    return relation.name.split("_", 1)[1]


def comparable(relation: Relation, value: str) -> Any:
    """A value in the form in which the source compares it: a number, or text without case."""
    return number_of(value) if relation.value in _NUMBERS else value.strip().casefold()


def siblings_of(view: PoolView, subject: str, without: Collection[str]) -> list[Relation]:
    """Relations of an entity type that a filter can be about: not those in `without`, nor their families."""
    families = {BY_NAME[name].family for name in without} - {""}
    return [
        relation
        for relation in view.by_subject.get(subject, ())
        if not relation.pair and relation.name not in without and relation.family not in families
    ]


def draw_filter(
    view: PoolView,
    subject: str,
    without: Collection[str],
    kind: str,
    taken: Collection[str],
    rng: random.Random,
    near: Collection[str] = (),
) -> Filter | None:
    """A filter of a JSON kind, or None if this draw finds none. `taken`: names that other parameters have.

    It is about one of the relations in `near`, if possible.
    """
    style = rng.choice(_KINDS[kind])
    numeric = style in ("at_least", "at_most", "range")
    choices = [
        relation
        for relation in siblings_of(view, subject, without)
        if style == "include"
        or (
            numeric == (relation.value in _NUMBERS)
            and (kind != "integer" or relation.value != "quantity")
            and (kind != "number" or relation.value == "quantity")
        )
    ]
    if not choices:
        return None
    relation = rng.choice([relation for relation in choices if relation.name in near] or choices)
    key = key_of(relation)
    name = rng.choice(_NAMES[style]).format(k=key)
    if name in taken or name == relation.subject:
        return None
    found = Filter(name=name, relation=relation.name, style=style, words=rng.randrange(60))
    if kind == "enum":
        found.options = some_values(view, relation, rng.randint(3, 6), rng)
        if len(found.options) < 2:
            return None
    return found


def some_values(view: PoolView, relation: Relation, count: int, rng: random.Random) -> list[str]:
    """Distinct values of a relation, sorted."""
    values = view.values[relation.name]
    return sorted({rng.choice(values) for _ in range(count)}) if values else []
