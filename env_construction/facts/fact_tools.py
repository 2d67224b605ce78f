"""Tools of the fact author: what a tool serves, its document, and the parameters that stage 4 adds to it.

A `Blueprint` describes a tool completely. Its document (here) and its source (`fact_code.py`) are functions of it, so
they always agree. Additional parameters are filters (`filters.py`) and rows of `parameters.csv`; each has an effect.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from env_construction.environment.schema import ToolDocument
from env_construction.facts.fact_questions import input_names
from env_construction.facts.fact_world import PoolView
from env_construction.facts.filters import Filter, draw_filter
from env_construction.facts.levels import Level
from env_construction.facts.relations import BY_NAME, TYPE_NAMES, Relation

Form = Literal["plain", "array", "object"]
SUFFIXES = ("finder", "lookup", "retriever", "search", "locator", "service")
_LEADS = (
    "Retrieves {thing}.",
    "Looks up {thing} in a table that is kept with the tool.",
    "Finds {thing} for a given name.",
    "Returns {thing}, taken from a curated data set.",
)
_MIDDLES = (
    "The required parameters say what is looked up; the optional ones narrow the search or change how the result is "
    "presented.",
    "Designed for step-by-step research in which the result of one request becomes the input of the next one.",
    "Suited both to single questions and to longer chains of questions, where it serves as one step among several "
    "others.",
    "The request is answered from local data alone, without any connection to other services, and within a fraction of "
    "a second.",
)
_TAILS = (
    "Names that the data set does not hold are reported as an error that says what is unknown, so that the request can "
    "be corrected and sent once more.",
    "The same request always gives the same result; parameters that are left out take the documented default, or are "
    "not taken into account at all.",
    "Arguments of a wrong type, or outside of the documented range, are refused with a message that names the "
    "parameter and says what it expects instead.",
    "Every parameter is described below together with its type; where a list of permitted values is given, no other "
    "value is accepted in its place.",
)


class Extra(BaseModel):
    """An additional, optional parameter of a tool: a row of parameters.csv."""

    name: str
    has_default: bool = False


class Parameter(BaseModel):
    """A row of parameters.csv. `effect` names its effect on the result or on how names are compared."""

    name: str
    type: str
    options: list[str]
    default: Any
    effect: str
    description: str

    @property
    def kind(self) -> str:
        """The kind for weighting: enum or boolean."""
        return "enum" if self.options else self.type

    def schema_of(self, extra: Extra) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": self.type, "description": self.description}
        if self.options:
            schema["enum"] = list(self.options)
        if extra.has_default:
            schema["default"] = self.default
        return schema


class Blueprint(BaseModel):
    """A tool over one or more relations of one subject type.

    `selector` names the parameter that chooses the relation ("" if there is only one). `unit_choice` adds a `unit`
    parameter; with `unit_optional` it has the relation's own unit as its default. `form` is how entities are passed: an
    array is for two of them. `words` chooses one of the wordings of the description.
    """

    name: str
    relations: list[str]
    selector: str = ""
    unit_choice: bool = False
    unit_optional: bool = False
    needed: bool = True
    form: Form = "plain"
    extras: list[Extra] = Field(default_factory=list)
    filters: list[Filter] = Field(default_factory=list)
    words: int = 0

    @property
    def first(self) -> Relation:
        return BY_NAME[self.relations[0]]

    @property
    def inputs(self) -> list[str]:
        return input_names(self.first)

    @property
    def entity_parameters(self) -> list[str]:
        """The parameters that carry the entities: the inputs themselves, or one array."""
        return [self.array_name] if self.form == "array" else self.inputs

    @property
    def array_name(self) -> str:
        subject = self.first.subject
        return subject[:-1] + "ies" if subject.endswith("y") else subject + "s"

    @property
    def required(self) -> list[str]:
        names = [
            *self.entity_parameters,
            self.selector,
            "unit" if self.unit_choice and not self.unit_optional else "",
            *(item.name for item in self.filters if item.required),
        ]
        return [name for name in names if name]

    @property
    def all_parameters(self) -> list[str]:
        optional = [item.name for item in self.filters if not item.required] + [extra.name for extra in self.extras]
        return [*self.required, *(["unit"] if self.unit_choice and self.unit_optional else []), *optional]

    def option(self, relation: str) -> str:
        """The selector's value for a relation: its name without the subject."""
        return relation.split("_", 1)[1]

    def units(self) -> list[str]:
        return [self.first.unit, *(unit for unit, _ in self.first.other_units)]

    def arguments(
        self, relation: str, inputs: dict[str, Any], stated: Mapping[str, Any] | None = None, unit: str = ""
    ) -> dict[str, Any]:
        """The call that looks up `relation` for `inputs`, with what the question states, in the unit it asks for."""
        if self.form == "array":
            arguments: dict[str, Any] = {self.array_name: list(inputs.values())}
        elif self.form == "object":
            arguments = {name: {"name": value} for name, value in inputs.items()}
        else:
            arguments = dict(inputs)
        if self.selector:
            arguments[self.selector] = self.option(relation)
        unit = unit or self.first.unit
        if self.unit_choice and not (self.unit_optional and unit == self.first.unit):
            arguments["unit"] = unit
        return arguments | dict(stated or {})


def describe(blueprint: Blueprint, verbose: bool) -> ToolDocument:
    """The document that the model sees. Without `verbose`, self-explanatory parameters have no description."""
    properties = _entity_schemas(blueprint, verbose)
    if blueprint.selector:
        chooser: dict[str, Any] = {"type": "string", "enum": [blueprint.option(name) for name in blueprint.relations]}
        properties[blueprint.selector] = chooser | ({"description": "Which of the facts to return."} if verbose else {})
    if blueprint.unit_choice:
        unit: dict[str, Any] = {"type": "string", "enum": blueprint.units()}
        properties["unit"] = unit | ({"description": "The unit in which the value is returned."} if verbose else {})
        if blueprint.unit_optional:
            properties["unit"]["default"] = blueprint.first.unit
    catalog = parameters()
    for item in sorted(blueprint.filters, key=lambda item: not item.required):
        properties[item.name] = item.schema_of()
    for extra in blueprint.extras:
        properties[extra.name] = catalog[extra.name].schema_of(extra)
    schema = {"type": "object", "properties": properties, "required": blueprint.required}
    return ToolDocument(name=blueprint.name, description=_description(blueprint, verbose), parameters=schema)


def _entity_schemas(blueprint: Blueprint, verbose: bool) -> dict[str, Any]:
    noun, named = TYPE_NAMES[blueprint.first.subject]
    kind = "number" if blueprint.first.compute else "string"
    spelled = "" if kind == "number" else ", written out in full"
    described = {"description": f"The {named} in question{spelled}."} if verbose else {}
    if blueprint.form == "array":
        count = len(blueprint.inputs)
        listed = {"type": "array", "items": {"type": kind}, "minItems": count, "maxItems": count}
        what = "values" if kind == "number" else "names"
        how = f"Two {noun} {what}{spelled and ', each written out in full'}."
        return {blueprint.array_name: listed | ({"description": how} if verbose else {})}
    if blueprint.form == "object":
        inner = {"type": "object", "properties": {"name": {"type": kind, **described}}, "required": ["name"]}
        order = ("first ", "second ") if len(blueprint.inputs) == 2 else ("",)
        return {
            name: inner | ({"description": f"The {place}{noun}, by its name."} if verbose else {})
            for name, place in zip(blueprint.inputs, order, strict=True)
        }
    if len(blueprint.inputs) == 2 and verbose:
        places = zip(blueprint.inputs, ("first", "second"), strict=True)
        return {name: {"type": kind, "description": f"The {place} {named}{spelled}."} for name, place in places}
    return {name: {"type": kind, **described} for name in blueprint.inputs}


def _description(blueprint: Blueprint, verbose: bool) -> str:
    relation = blueprint.first
    noun = TYPE_NAMES[relation.subject][0]
    article = "an" if noun[0] in "aeio" else "a"
    if blueprint.selector:
        facts = ", ".join(blueprint.option(name).replace("_", " ") for name in blueprint.relations)
        brief = f"{blueprint.name.split('_', 1)[1].replace('_', ' ')} of {article} {noun}"
        thing = f"one of several facts about {article} {noun} ({facts})"
    else:
        pattern = relation.phrases[0].replace(" in {u}", "")
        thing = pattern.format(x=f"{article} {noun}", y=f"another {noun}")
        brief = thing.removeprefix("the ")
    if not verbose:
        return f"{brief[0].upper()}{brief[1:]}."
    texts = (_LEADS, _MIDDLES, _TAILS)
    lead, middle, tail = (choices[blueprint.words // 4**place % 4] for place, choices in enumerate(texts))
    return f"{lead.format(thing=thing)} {middle} {tail}"


@lru_cache(maxsize=1)
def parameters() -> dict[str, Parameter]:
    """The catalog of additional parameters, by name."""
    catalog = {}
    with Path(__file__).with_name("parameters.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            default: Any = row["default"]
            if row["type"] == "boolean":
                default = default == "true"
            catalog[row["name"]] = Parameter(
                name=row["name"],
                type=row["type"],
                options=row["options"].split("|") if row["options"] else [],
                default=default if row["default"] else None,
                effect=row["effect"],
                description=row["description"],
            )
    return catalog


def expand_parameters(
    blueprint: Blueprint,
    level: Level,
    rng: random.Random,
    view: PoolView,
    answers: Collection[str] = (),
    near: Collection[str] = (),
) -> None:
    """Add optional parameters until the tool has as many as the level draws.

    No filter adds one of the relations in `answers` to a result. About half of the filters are about a relation in
    `near`, if possible: those that the question mentions, so that their words do not point to the needed tool alone.
    """
    total = rng.choices(list(level.parameters), weights=list(level.parameters.values()))[0]
    kinds, weights = list(level.kinds), list(level.kinds.values())
    catalog = _catalog_by_kind()
    for _ in range(4 * max(0, total - len(blueprint.all_parameters))):
        taken = {*blueprint.all_parameters, *blueprint.inputs}
        if len(blueprint.all_parameters) >= total:
            break
        kind = rng.choices(kinds, weights)[0]
        share = 0.9 if kind == "boolean" else level.default_share
        if catalog.get(kind) and rng.random() < _CATALOG_SHARE[kind]:
            parameter = rng.choice(catalog[kind])
            if parameter.name not in taken:
                has_default = parameter.default is not None and rng.random() < share
                blueprint.extras.append(Extra(name=parameter.name, has_default=has_default))
            continue
        add_filter(blueprint, kind, view, rng, answers, share, near if rng.random() < _NEAR_SHARE else ())


_CATALOG_SHARE = {"enum": 0.6, "boolean": 0.35}
"""How often an additional parameter of a kind comes from the catalog, if not from a filter."""
_NEAR_SHARE = 0.9


def add_filter(
    blueprint: Blueprint,
    kind: str,
    view: PoolView,
    rng: random.Random,
    answers: Collection[str] = (),
    default_share: float = 0.0,
    near: Collection[str] = (),
) -> Filter | None:
    """Add an optional filter of a JSON kind. None if the tool's entity type has none, or this draw found none."""
    if blueprint.first.pair:
        return None
    taken = {*blueprint.all_parameters, *blueprint.inputs}
    found = draw_filter(view, blueprint.first.subject, blueprint.relations, kind, taken, rng, near)
    known = {(item.relation, item.style) for item in blueprint.filters}
    if (
        found is None
        or (found.relation, found.style) in known
        or (found.style == "include" and found.relation in answers)
    ):
        return None
    found.has_default = found.style == "include" and rng.random() < default_share
    blueprint.filters.append(found)
    return found


@lru_cache(maxsize=1)
def _catalog_by_kind() -> dict[str, list[Parameter]]:
    found: dict[str, list[Parameter]] = defaultdict(list)
    for parameter in parameters().values():
        found[parameter.kind].append(parameter)
    return dict(found)
