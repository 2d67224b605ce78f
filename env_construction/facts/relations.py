"""The relations that the fact author asks about, each with one source and three wordings.

`relations.csv` has one row per relation. `facts.py` fills each relation's table from the named package.
`fact_author.py` turns rows into questions, tool documents and tool code. `{x}` (and `{y}` for a relation of two
entities) is replaced by the entity or by the phrase that leads to it. So `ask` of one relation around `phrase` of
another makes a multi-hop question.

Paper section 3.1 (scenario decomposition). The paper's authors got these facts from GPT-4o; here they come from data
packages.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from env_construction.building.hold_out import Label

LITERALS = ("text", "integer", "year", "date", "quantity")

# How running text names a type: (singular, parameter description).
TYPE_NAMES: dict[str, tuple[str, str]] = {
    "country": ("country", "country name"),
    "city": ("city", "city name"),
    "airport": ("airport", "airport name"),
    "element": ("element", "chemical element name"),
    "scientist": ("scientist", "name of the scientist"),
    "isotope": ("isotope", "isotope name, as Boron-11"),
    "currency": ("currency", "currency name"),
    "language": ("language", "language name"),
    "family": ("language family", "language family name"),
    "script": ("script", "script name"),
    "subdivision": ("subdivision", "name of the subdivision"),
    "state": ("US state", "US state name"),
    "county": ("US county", "US county name"),
    "timezone": ("time zone", "time zone, as Oslo Time"),
    "number": ("number", "number"),
    "territory": ("former country", "name of the former country"),
}


@dataclass(frozen=True)
class Relation:
    """A function from one entity (or two) to a value.

    `subject` is an entity type; with `pair`, the relation is about two entities of it. `value` is an entity type or one
    of LITERALS. `unit` is the unit of a quantity; `other_units` maps more units to their factor. Relations that share a
    `family` can be served by one tool with a selector. With `compute`, the relation is arithmetic on two numbers
    instead of a fact: `subject` is "number", and `fact_world.py` computes it.
    """

    name: str
    subject: str
    value: str
    key: str
    source: str
    asks: tuple[str, ...]
    phrases: tuple[str, ...]
    pair: bool = False
    unit: str = ""
    other_units: tuple[tuple[str, float], ...] = ()
    family: str = ""
    inverse: str = ""
    compute: str = ""

    @property
    def is_entity(self) -> bool:
        return self.value not in LITERALS


# Entity types by domain.
DOMAINS = {
    "geography": ("country", "city", "airport", "subdivision", "state", "county", "timezone", "territory"),
    "chemistry": ("element", "isotope", "scientist"),
    "languages": ("language", "family", "script"),
    "money": ("currency",),
    "arithmetic": ("number",),
}
FUNCTIONS = ("lookup", "relate", "calculate")


def domain_of(subject: str) -> str:
    """The domain of an entity type."""
    return next(domain for domain, subjects in DOMAINS.items() if subject in subjects)


def label_of(relation: Relation) -> Label:
    """The label of a relation. `relate`: about two entities."""
    function = "calculate" if relation.compute else "relate" if relation.pair else "lookup"
    return Label(domain_of(relation.subject), relation.name, function, relation.family)


def _read_relations() -> tuple[Relation, ...]:
    """The rows of relations.csv. "|" separates wordings; a blank cell means the default."""
    with Path(__file__).with_name("relations.csv").open(encoding="utf-8", newline="") as handle:
        return tuple(
            Relation(
                name=row["name"],
                subject=row["name"].split("_", 1)[0],
                value=row["value"],
                key=row["key"],
                source=row["source"],
                asks=tuple(row["asks"].split("|")),
                phrases=tuple(row["phrases"].split("|")),
                pair=bool(row["pair"]),
                unit=row["unit"],
                other_units=tuple(
                    (unit, float(factor)) for unit, factor in (item.split("=") for item in row["other_units"].split())
                ),
                family=row["family"],
                inverse=row["inverse"],
            )
            for row in csv.DictReader(handle)
        )


RELATIONS: tuple[Relation, ...] = _read_relations()

# Arithmetic: {x} is the result of an earlier lookup, {y} that of another one, {c} a number given in the question.
OPERATIONS: tuple[Relation, ...] = tuple(
    Relation(
        name=f"number_{compute}",
        subject="number",
        value="integer",
        key="result",
        source="arithmetic",
        asks=asks,
        phrases=phrases,
        pair=True,
        family="number_calculator",
        compute=compute,
    )
    for compute, asks, phrases in (
        (
            "sum",
            ("What is the sum of {x} and {y}?", "How much are {x} and {y} together?", "Add {x} and {y}."),
            ("the sum of {x} and {y}",),
        ),
        (
            "difference",
            (
                "How far apart are {x} and {y}?",
                "What is the difference between {x} and {y}?",
                "Give the absolute difference of {x} and {y}.",
            ),
            ("the difference between {x} and {y}",),
        ),
        (
            "product",
            ("How much is {x} times {y}?", "What is {x} multiplied by {y}?", "Multiply {x} by {y}."),
            ("{x} times {y}",),
        ),
        (
            "percentage",
            ("How much is {y} percent of {x}?", "What is {y}% of {x}?", "Give {y} percent of {x}."),
            ("{y} percent of {x}",),
        ),
    )
)

BY_NAME: dict[str, Relation] = {relation.name: relation for relation in (*RELATIONS, *OPERATIONS)}
