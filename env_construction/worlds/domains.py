"""The domains: entity types and their attributes, read from `domains/*.yaml`.

One line defines one attribute (a relation from an entity to a value):

    born: date 1790..1930 | date of birth | When was {x} born? | was born on {v}

It has four parts, separated by `|`:
1. how values are sampled (see below)
2. the name of the value, as in "the date of birth of {x}". If that is bad English, add a separate phrase:
   `town; the town where {x} stands`
3. the question
4. the clause that describes an entity by this value, as in "the poet who was born on {v}"
Units are added automatically, and so are articles and quotes of entities (key `form` of their type).

How values are sampled (`Generator`):
    -> town                         another entity, of this or another domain
    -> novel where author = self    an entity whose author is this entity
    -> town where country = country and ...    an entity with the same country
    date 1790..1930                 a day (year 1790..1930: a year)
    date 20..40y after born         a day or year in a span after another attribute of this entity, or of an entity that
                                    it refers to (`author.born`); y: years, d: days
    int 12..480 step 4              an integer
    quantity 2.5..90.0 km           a number with a unit of `units.py` (with decimals if the bounds have them)
    one of oil, tempera             a choice
    words The {adjective} {thing}   a generated text
    code AB-###                     a code (# digit, @ letter)
    sum a + b                       also minus, product, years (between two days or years)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from env_construction.environment.jsonl import BadInput
from env_construction.worlds.english import plural_of
from env_construction.worlds.names import FOLDER, drawer, load_yaml
from env_construction.worlds.units import UNITS

Kind = Literal["entity", "date", "year", "integer", "quantity", "choice", "text"]
_RANGE = re.compile(r"(-?[\d.]+?)\.\.(-?[\d.]+)(y|d)?$")
_DERIVED = {"sum": "+", "minus": "-", "product": "*", "years": ".."}
RESERVED = ("name", "noun", "also", "form", "plural", "person")


@dataclass(frozen=True)
class Generator:
    """How an attribute's values are sampled.

    `after`: the attribute that a date follows. `operands`: the attributes of a derived number. `where`: pairs
    (attribute of the other entity, attribute of this one or "self") that must be equal.
    """

    kind: Kind
    target: str = ""
    low: float = 0.0
    high: float = 0.0
    step: float = 1.0
    decimals: int = 0
    unit: str = ""
    after: str = ""
    in_days: bool = False
    choices: tuple[str, ...] = ()
    pattern: str = ""
    operation: str = ""
    operands: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Attribute:
    """A relation of an entity type. `head` names its value; `phrase`, `ask`, `clause` are patterns with {x} and {v}."""

    owner: str
    name: str
    generator: Generator
    head: str
    phrase: str
    ask: str
    clause: str

    @property
    def id(self) -> str:
        return f"{self.owner}.{self.name}"

    @property
    def kind(self) -> Kind:
        return self.generator.kind

    @property
    def is_number(self) -> bool:
        return self.kind in ("year", "integer", "quantity")


@dataclass
class EntityType:
    """An entity type. `also`: synonyms of the noun.

    `form`: how a sentence shows names: "the" (the Orm), "quote" ("The Silent Bell"), "noun" (order SO-17), "at" (the
    house at 12 Oak Lane), or empty for the plain name.
    """

    name: str
    domain: str
    noun: str
    plural: str
    pattern: str
    person: bool
    also: tuple[str, ...] = ()
    form: str = ""
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def nouns(self) -> tuple[str, ...]:
        return (self.noun, *self.also)


@dataclass
class Domain:
    """A domain: its types, its subject (`about`), and names of the collections that its tools search (`sources`)."""

    name: str
    about: str
    sources: tuple[str, ...]
    types: dict[str, EntityType]


@dataclass
class Catalog:
    """All domains. `referrers`: for each type, the attributes of any type that refer to it."""

    domains: dict[str, Domain]
    types: dict[str, EntityType] = field(default_factory=dict)
    referrers: dict[str, list[Attribute]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for domain in self.domains.values():
            self.types.update(domain.types)
        for kind in self.types.values():
            for attribute in kind.attributes.values():
                if attribute.kind == "entity":
                    self.referrers[attribute.generator.target].append(attribute)

    def attribute(self, id_: str) -> Attribute:
        owner, name = id_.split(".")
        return self.types[owner].attributes[name]


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    """All domains of `domains/`, read once per process. Raises BadInput with file, type and attribute."""
    return read_catalog(shipped_domains())


def shipped_domains() -> list[Path]:
    """The files of `domains/`, sorted by name."""
    return sorted((FOLDER / "domains").glob("*.yaml"))


def read_catalog(paths: Sequence[Path]) -> Catalog:
    """The domains of these files. Raises BadInput with file, type and attribute, also if two files define one type."""
    domains = [_read_domain(path) for path in paths]
    read = Catalog({domain.name: domain for domain in domains})
    if sum(len(domain.types) for domain in domains) > len(read.types):
        names = [name for domain in domains for name in domain.types]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise BadInput(f"{paths[0].parent}: two domains define the types {', '.join(twice)}; rename one of each pair")
    where = {path.stem: path for path in paths}
    for kind in read.types.values():
        for attribute in kind.attributes.values():
            _check_references(read, kind, attribute, where[kind.domain])
    return read


def _check_references(read: Catalog, kind: EntityType, attribute: Attribute, path: Path) -> None:
    where = f"{path}: {attribute.id}"
    made = attribute.generator
    if made.kind == "entity" and made.target not in read.types:
        raise BadInput(f"{where}: unknown type {made.target!r}; define it, or refer to another type")
    for theirs, ours in made.where:
        if theirs not in read.types[made.target].attributes:
            raise BadInput(f"{where}: {made.target} has no attribute {theirs!r}; define it, or change the condition")
        if ours != "self" and ours not in kind.attributes:
            raise BadInput(f"{where}: {kind.name} has no attribute {ours!r}; define it, or change the condition")
    for reference in (*([made.after] if made.after else []), *made.operands):
        first, _, second = reference.partition(".")
        owner = kind
        if second:
            link = kind.attributes.get(first)
            if link is None or link.kind != "entity":
                raise BadInput(
                    f"{where}: {first!r} in {reference!r} is not a reference of {kind.name}; define it as '-> type'"
                )
            owner, first = read.types[link.generator.target], second
        if first not in owner.attributes:
            raise BadInput(f"{where}: {owner.name} has no attribute {first!r}; define it, or use another attribute")


def _read_domain(path: Path) -> Domain:
    data = load_yaml(path)
    if not isinstance(data, dict) or not {"about", "sources", "types"} <= data.keys():
        raise BadInput(f"{path}: expected the keys about, sources and types; add what is missing")
    types = {name: _read_type(path, name, rows) for name, rows in data["types"].items()}
    return Domain(path.stem, data["about"], tuple(part.strip() for part in data["sources"].split(",")), types)


def _read_type(path: Path, name: str, rows: dict[str, Any]) -> EntityType:
    if not isinstance(rows, dict) or "name" not in rows:
        raise BadInput(f"{path}: type {name!r}: expected attributes and the key 'name' (a pattern over names.yaml)")
    noun = rows.get("noun", name.replace("_", " "))
    pattern = rows["name"] if "{" in rows["name"] or rows["name"].startswith("code ") else f"{{{rows['name']}}}"
    drawer(pattern)
    kind = EntityType(
        name=name,
        domain=path.stem,
        noun=noun,
        plural=rows.get("plural", plural_of(noun)),
        pattern=pattern,
        person="{person}" in pattern or rows.get("person") == "yes",
        also=tuple(word.strip() for word in rows.get("also", "").split(",") if word.strip()),
        form=rows.get("form", ""),
    )
    for key, line in rows.items():
        if key not in RESERVED:
            kind.attributes[key] = _read_attribute(f"{path}: {name}.{key}", name, key, str(line))
    return kind


def _read_attribute(where: str, owner: str, name: str, line: str) -> Attribute:
    parts = [part.strip() for part in line.split("|")] + ["", "", ""]
    generator = read_generator(where, parts[0])
    head, _, phrase = (part.strip() for part in (parts[1] or name.replace("_", " ")).partition(";"))
    phrase = phrase or f"the {head} of {{x}}"
    if "{x}" in head or "{x}" not in phrase:
        raise BadInput(f"{where}: {parts[1]!r}: expected the name of the value, optionally with '; the ... {{x}}'")
    if parts[2] and "{x}" not in parts[2]:
        raise BadInput(f"{where}: the question {parts[2]!r} lacks {{x}}; add it in place of the entity")
    if parts[3] and "{v}" not in parts[3]:
        raise BadInput(f"{where}: the clause {parts[3]!r} lacks {{v}}; add it in place of the value")
    return Attribute(owner, name, generator, head, phrase, parts[2], parts[3])


def read_generator(where: str, text: str) -> Generator:
    """The generator of a text such as `int 12..480 step 4`. Raises BadInput with `where` and what was expected."""
    word, _, rest = text.partition(" ")
    if word == "->":
        target, _, conditions = rest.partition(" where ")
        pairs = [tuple(part.strip() for part in pair.split("=")) for pair in conditions.split(" and ") if pair]
        if any(len(pair) != 2 for pair in pairs):
            raise BadInput(f"{where}: {conditions!r}: expected 'where attribute = self' or 'attribute = attribute'")
        return Generator("entity", target=target.strip(), where=tuple((pair[0], pair[1]) for pair in pairs))
    if word == "one":
        choices = tuple(part.strip() for part in rest.removeprefix("of ").split(","))
        return Generator("choice", choices=choices)
    if word == "words":
        drawer(rest)
        return Generator("text", pattern=rest)
    if word == "code":
        return Generator("text", pattern=text)
    if word in _DERIVED:
        operands = tuple(part.strip() for part in rest.replace(_DERIVED[word], "|").split("|"))
        if len(operands) != 2:
            raise BadInput(f"{where}: expected {word!r} with two attributes joined by {_DERIVED[word]!r}, got {rest!r}")
        unit = operands[1].partition(" ")[2]
        kind: Kind = "quantity" if unit else "integer"
        return Generator(kind, operation=word, operands=(operands[0], operands[1].split(" ")[0]), unit=unit)
    if word in ("date", "year", "int", "quantity"):
        return _read_number(where, word, rest)
    raise BadInput(
        f"{where}: {text!r} is not a known generator; see the docstring of env_construction/worlds/domains.py"
    )


def _read_number(where: str, word: str, rest: str) -> Generator:
    first, *others = rest.split()
    bounds = _RANGE.match(first)
    if not bounds:
        raise BadInput(f"{where}: expected a range such as 12..480, got {first!r}")
    low, high, span = float(bounds[1]), float(bounds[2]), bounds[3]
    decimals = len(bounds[1].partition(".")[2]) if "." in bounds[1] else 0
    options = dict(zip(others[::2], others[1::2], strict=False))
    if word == "quantity":
        unit = " ".join(others[:1])
        if unit not in UNITS:
            raise BadInput(f"{where}: unit {unit!r} is not in worlds/units.py; known: {', '.join(UNITS)}")
        options = dict(zip(others[1::2], others[2::2], strict=False))
        step = float(options.get("step", 10**-decimals))
        return Generator("quantity", low=low, high=high, step=step, decimals=decimals, unit=unit)
    if word == "int":
        return Generator("integer", low=low, high=high, step=float(options.get("step", 1)))
    if bool(span) != ("after" in options):
        raise BadInput(f"{where}: expected a range of years, or a span such as 20..40y after another attribute")
    kind: Kind = "date" if word == "date" else "year"
    return Generator(kind, low=low, high=high, after=options.get("after", ""), in_days=span == "d")
