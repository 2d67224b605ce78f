"""Tools of the fact author: what a tool serves, its document, and the parameters that stage 4 adds to it.

A `Blueprint` is all that there is to know about a tool; its document (here) and its source (`fact_code.py`) are
functions of it, so that both always agree. The optional parameters come from `parameters.csv`.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from env_construction.environment.schema import ToolDocument
from env_construction.facts.calculator import number_of
from env_construction.facts.fact_questions import input_names
from env_construction.facts.levels import Level
from env_construction.facts.relations import BY_NAME, TYPE_NAMES, Relation

Form = Literal["plain", "array", "object"]
SUFFIXES = ("finder", "lookup", "retriever", "search", "locator", "service")
SCOPES = {
    "place": ("country", "city", "airport", "subdivision", "state", "county", "timezone", "territory"),
    "chemistry": ("element", "isotope", "scientist"),
    "language": ("language", "family", "script"),
    "money": ("currency",),
    "number": ("number",),
}
_LEADS = (
    "Retrieves {thing}.",
    "Looks up {thing} in a table that is kept with the tool.",
    "Finds {thing} for a given name.",
    "Returns {thing}, taken from a curated data set.",
)
_MIDDLES = (
    "The required parameters say what is looked up; the optional ones narrow the search or change how the result is presented.",
    "Designed for step-by-step research in which the result of one request becomes the input of the next one.",
    "Suited both to single questions and to longer chains of questions, where it serves as one step among several others.",
    "The request is answered from local data alone, without any connection to other services, and within a fraction of a second.",
)
_TAILS = (
    "Names that the data set does not hold are reported as an error that says what is unknown, so that the request can be "
    "corrected and sent once more.",
    "The same request always gives the same result; parameters that are left out take the documented default, or are not "
    "taken into account at all.",
    "Arguments of a wrong type, or outside of the documented range, are refused with a message that names the parameter and "
    "says what it expects instead.",
    "Every parameter is described below together with its type; where a list of permitted values is given, no other value "
    "is accepted in its place.",
)


class Extra(BaseModel):
    """A further parameter of a tool: a row of parameters.csv. Required ones have no default."""

    name: str
    required: bool = False
    has_default: bool = False


class Parameter(BaseModel):
    """A row of parameters.csv. `effect` names what it does to the result ("" = it is checked, and changes nothing)."""

    name: str
    scope: str
    type: str
    options: list[str]
    default: Any
    low: float | None
    high: float | None
    effect: str
    description: str
    may_be_required: bool

    @property
    def kind(self) -> str:
        """For weighting: text, enum, boolean, object, number, array or integer."""
        return ("enum" if self.options else "text") if self.type == "string" else self.type

    def schema_of(self, extra: Extra) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": self.type, "description": self.description}
        if self.type == "string" and self.options:
            schema["enum"] = list(self.options)
        if self.type == "array":
            schema["items"] = {"type": "string"}
        if self.type == "object":
            schema["properties"] = {name: {"type": "string"} for name in self.options}
        if self.effect == "date":
            schema["format"] = "date"
        if self.low is not None and self.high is not None:
            whole = self.type == "integer"
            schema["minimum"], schema["maximum"] = (int(self.low), int(self.high)) if whole else (self.low, self.high)
        if extra.has_default:
            schema["default"] = self.default
        return schema


class Blueprint(BaseModel):
    """A tool over one or more relations of one subject type.

    `selector` names the parameter that chooses the relation ("" with a single one); `unit_choice` adds a `unit`
    parameter; `form` is how entities are passed; `words` chooses among the wordings of the description.
    """

    name: str
    relations: list[str]
    selector: str = ""
    unit_choice: bool = False
    needed: bool = True
    form: Form = "plain"
    extras: list[Extra] = Field(default_factory=list)
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
        names = [*self.entity_parameters, self.selector, "unit" if self.unit_choice else ""]
        return [name for name in names if name] + [extra.name for extra in self.extras if extra.required]

    def option(self, relation: str) -> str:
        """The selector's value for a relation: its name without the subject."""
        return relation.split("_", 1)[1]

    def units(self) -> list[str]:
        return [self.first.unit, *(unit for unit, _ in self.first.other_units)]

    def arguments(self, relation: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """The call that looks up `relation` for `inputs`."""
        if self.form == "array":
            arguments: dict[str, Any] = {self.array_name: list(inputs.values())}
        elif self.form == "object":
            arguments = {name: {"name": value} for name, value in inputs.items()}
        else:
            arguments = dict(inputs)
        if self.selector:
            arguments[self.selector] = self.option(relation)
        if self.unit_choice:
            arguments["unit"] = self.first.unit
        return arguments


def describe(blueprint: Blueprint, verbose: bool) -> ToolDocument:
    """The document that the model sees. Unless `verbose`, a parameter that its own name explains has no description."""
    properties = _entity_schemas(blueprint, verbose)
    if blueprint.selector:
        chooser: dict[str, Any] = {"type": "string", "enum": [blueprint.option(name) for name in blueprint.relations]}
        properties[blueprint.selector] = chooser | ({"description": "Which of the facts to return."} if verbose else {})
    if blueprint.unit_choice:
        unit: dict[str, Any] = {"type": "string", "enum": blueprint.units()}
        properties["unit"] = unit | ({"description": "The unit in which the value is returned."} if verbose else {})
    catalog = parameters()
    for extra in sorted(blueprint.extras, key=lambda extra: not extra.required):
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
        listed: dict[str, Any] = {"type": "array", "items": {"type": kind}, "minItems": count}
        if count > 1:
            listed["maxItems"] = count
        how = f"{'Two' if count > 1 else 'One or more'} {noun} {'values' if kind == 'number' else 'names'}{spelled and ', each written out in full'}."
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
    """The catalog of further parameters, by name."""
    catalog = {}
    with Path(__file__).with_name("parameters.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            default: Any = row["default"]
            if row["type"] == "boolean":
                default = default == "true"
            elif row["type"] in ("number", "integer") and default:
                default = number_of(default)
            catalog[row["name"]] = Parameter(
                name=row["name"],
                scope=row["scope"],
                type=row["type"],
                options=row["options"].split("|") if row["options"] else [],
                default=default if row["default"] else None,
                low=float(row["low"]) if row["low"] else None,
                high=float(row["high"]) if row["high"] else None,
                effect=row["effect"],
                description=row["description"],
                may_be_required=row["may_be_required"] == "yes",
            )
    return catalog


@lru_cache(maxsize=64)
def _choices(subject: str) -> dict[str, list[str]]:
    """{kind: names of parameters} that suit a subject type; "required <kind>" holds those that a call can be asked to
    give.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for parameter in parameters().values():
        if parameter.scope == "any" or subject in SCOPES[parameter.scope]:
            found[parameter.kind].append(parameter.name)
            if parameter.may_be_required:
                found[f"required {parameter.kind}"].append(parameter.name)
    return dict(found)


def expand_parameters(blueprint: Blueprint, level: Level, required: float, rng: random.Random) -> None:
    """Add parameters until the tool has as many as the level draws; `required` of them, on average, are required."""
    catalog, choices = parameters(), _choices(blueprint.first.subject)
    total = rng.choices(list(level.parameters), weights=list(level.parameters.values()))[0]
    taken = set(blueprint.required) | set(blueprint.inputs)
    kinds, weights = list(level.kinds), list(level.kinds.values())
    wanted = int(required) + (rng.random() < required % 1)
    missing = total - len(blueprint.required)
    for _ in range(4 * max(0, missing)):
        if missing <= 0:
            break
        kind = rng.choices(kinds, weights)[0]
        must = wanted > 0 and kind in ("text", "enum")
        name = rng.choice(choices["required " + kind if must else kind])
        if name in taken:
            continue
        missing -= 1
        taken.add(name)
        parameter = catalog[name]
        wanted -= must
        share = 0.9 if parameter.type == "boolean" else level.default_share
        has_default = not must and parameter.default is not None and rng.random() < share / _defaults_in(parameter.kind)
        blueprint.extras.append(Extra(name=name, required=must, has_default=has_default))


@lru_cache(maxsize=16)
def _defaults_in(kind: str) -> float:
    """Which share of the catalog's parameters of a kind has a default at all."""
    rows = [parameter for parameter in parameters().values() if parameter.kind == kind]
    return max(0.01, sum(parameter.default is not None for parameter in rows) / len(rows))
