"""Tool documents and Python source for lookups: what the fact author writes in stages 2 to 5.

A `Blueprint` says what a tool serves; its document and its source are functions of it, so that both always agree.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, Field

from env_construction.fact_questions import input_names, value_text
from env_construction.facts import thousands
from env_construction.relations import BY_NAME, TYPE_NAMES, Relation
from env_construction.schema import ToolDocument


class Blueprint(BaseModel):
    """A tool over one or more relations of one subject type.

    `selector` names the parameter that chooses the relation ("" with a single one). `unit_choice` adds a `unit` parameter.
    """

    name: str
    relations: list[str]
    selector: str = ""
    unit_choice: bool = False
    needed: bool = True

    @property
    def first(self) -> Relation:
        return BY_NAME[self.relations[0]]

    @property
    def inputs(self) -> list[str]:
        return input_names(self.first)

    def option(self, relation: str) -> str:
        """The selector's value for a relation: its name without the subject."""
        return relation.split("_", 1)[1]

    def units(self) -> list[str]:
        return [self.first.unit, *(unit for unit, _ in self.first.other_units)]

    def arguments(self, relation: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """The call that looks up `relation` for `inputs`."""
        arguments = dict(inputs)
        if self.selector:
            arguments[self.selector] = self.option(relation)
        if self.unit_choice:
            arguments["unit"] = self.first.unit
        return arguments


def describe(blueprint: Blueprint, verbose: bool) -> ToolDocument:
    """The document that the model sees. Unless `verbose`, a parameter that its own name explains has no description."""
    relation = blueprint.first
    noun, named = TYPE_NAMES[relation.subject]
    article = "an" if noun[0] in "aeiou" else "a"
    entity = {"type": "string", "description": named} if verbose else {"type": "string"}
    properties: dict[str, Any] = {name: dict(entity) for name in blueprint.inputs}
    if blueprint.selector:
        properties[blueprint.selector] = {
            "type": "string",
            "enum": [blueprint.option(name) for name in blueprint.relations],
        }
        description = f"{blueprint.name.split('_', 1)[1].replace('_', ' ')} of {article} {noun}"
    else:
        pattern = relation.phrases[0].replace(" in {u}", "").removeprefix("the ")
        description = pattern.format(x=f"{article} {noun}", y=f"another {noun}")
    if blueprint.unit_choice:
        properties["unit"] = {"type": "string", "enum": blueprint.units()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return ToolDocument(
        name=blueprint.name, description=f"{description[0].upper()}{description[1:]}.", parameters=parameters
    )


def convert(relation: Relation, value: str) -> dict[str, str]:
    """A quantity in each of its units, as people write it: {"ft": "681 ft", "m": "208 m"}."""
    number = float(value.replace(",", ""))
    return {relation.unit: value_text(relation, value)} | {
        unit: f"{thousands(round(number * factor, 2))} {unit}" for unit, factor in relation.other_units
    }


def write_source(blueprint: Blueprint, rows: dict[str, Any]) -> str:
    """Source of the tool over `rows`: {entity or "a|b": value, or {option or unit: value}}."""
    names = blueprint.inputs
    noun = TYPE_NAMES[blueprint.first.subject][0]
    parameters = [
        *names,
        *([blueprint.selector] if blueprint.selector else []),
        *(["unit"] if blueprint.unit_choice else []),
    ]
    lines = [f"def {blueprint.name}({', '.join(parameters)}):", f"    rows = {json.dumps(rows, ensure_ascii=False)}"]
    for name in parameters:
        lines += [f"    if not isinstance({name}, str):", f'        return {{"error": "{name} must be a string"}}']
    if len(names) == 2:
        a, b = names
        lines += [f'    row = rows.get({a} + "|" + {b}, rows.get({b} + "|" + {a}))']
        unknown = f"no data for these two {noun} names"
    else:
        lines += [f"    row = rows.get({names[0]})"]
        unknown = f"unknown {noun}"
    lines += ["    if row is None:", f'        return {{"error": "{unknown}"}}']
    key = json.dumps(blueprint.first.key)
    chooser = blueprint.selector or ("unit" if blueprint.unit_choice else "")
    if chooser:
        lines += [f"    if {chooser} not in row:", f'        return {{"error": "unknown {chooser}"}}']
    if blueprint.selector:
        lines += [f"    return {{{chooser}: row[{chooser}]}}"]
    else:
        lines += [f"    return {{{key}: row[{chooser}]}}" if chooser else f"    return {{{key}: row}}"]
    return "\n".join(lines) + "\n"


class FactNotes(BaseModel):
    """What the fact author remembers between stages: its tools, and the values of this environment's world."""

    blueprints: dict[str, Blueprint] = Field(default_factory=dict)
    known: dict[str, dict[str, str]] = Field(default_factory=dict)
