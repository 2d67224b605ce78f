"""Tools of the world author: their parameters, outputs and documents.

A `Tool` is a complete specification. The document (here) and the source (`tool_code.py`) are functions of it, so they
always agree. Every tool is a query over one entity type. Required parameters select the entity. Optional ones narrow
the search or change the output. Every parameter has an effect.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, Field

from env_construction.environment.schema import ToolDocument
from env_construction.worlds.domains import Attribute, EntityType, catalog
from env_construction.worlds.english import listing, with_article
from env_construction.worlds.phrases import phrases
from env_construction.worlds.units import UNITS

Style = Literal["equal", "range", "any_of", "at_least", "at_most", "include", "case", "format", "label"]
FUNCTIONS = ("lookup", "search", "calculate")
SHAPES = ("field", "nested", "text", "table", "list", "value")
NAME = "name"
FORMATS = ("json", "text")
_NEAR_SHARE = 0.6


class Param(BaseModel):
    """A parameter. `attribute`: the attribute that it filters by or adds to the result ("name" for the entity itself).

    `form`: how a required name is passed: plain, or inside an object or an array. `asked`: the gold call gives it, even
    if it is optional, because without it several entries match.
    """

    name: str
    attribute: str = NAME
    style: Style = "equal"
    form: Literal["plain", "object", "array"] = "plain"
    required: bool = False
    asked: bool = False
    has_default: bool = False
    words: int = 0


class Tool(BaseModel):
    """A query over `kind`, or a calculator (`kind` is "" and `outputs` holds its operations).

    `outputs`: the attributes that it returns, "name" for a search. `selector`: the parameter that selects one of
    several outputs.
    """

    name: str
    function: Literal["lookup", "search", "calculate"]
    kind: str = ""
    outputs: list[str] = Field(default_factory=list)
    params: list[Param] = Field(default_factory=list)
    selector: str = ""
    unit_choice: bool = False
    shape: str = "field"
    words: int = 0
    needed: bool = True

    @property
    def type(self) -> EntityType:
        return catalog().types[self.kind]

    @property
    def required(self) -> list[str]:
        names = [param.name for param in self.params if param.required]
        unit = self.unit_choice and not self.unit_default
        return names + ([self.selector] if self.selector else []) + (["unit"] if unit else [])

    @property
    def unit_default(self) -> str:
        """The unit of a call that gives none; "" if the unit is required or cannot be chosen."""
        return self.attribute(self.outputs[0]).generator.unit if self.unit_choice and self.words % 3 == 1 else ""

    @property
    def relations(self) -> list[str]:
        """The ids of what it returns and of what selects an entry: "poem.year", "calculate.sum"."""
        if not self.kind:
            return [f"calculate.{operation}" for operation in self.outputs]
        names = {*self.outputs, *(param.attribute for param in self.params if param.required or param.asked)} - {NAME}
        return sorted(self.attribute(name).id for name in names)

    def attribute(self, name: str) -> Attribute:
        return self.type.attributes[name]

    def option(self, output: str) -> str:
        """The value of the selector for an attribute."""
        return output

    def units(self) -> list[str]:
        base = self.attribute(self.outputs[0]).generator.unit
        return sorted([base, *(unit for unit, _ in UNITS[base].others)])

    @property
    def labels(self) -> dict[str, str]:
        """{attribute: its key in the result}."""
        return {name: self.type.name if name == NAME else name for name in self.outputs}


def head_of(tool: Tool, name: str) -> str:
    return f"name of the {tool.type.noun}" if name == NAME else tool.attribute(name).head


def describe(tool: Tool, verbose: bool) -> ToolDocument:
    """The document that the model sees."""
    properties: dict[str, Any] = {}
    for param in sorted(tool.params, key=lambda param: not param.required):
        properties[param.name] = _schema(tool, param, verbose)
    if tool.selector:
        said = (
            {}
            if tool.function == "calculate" and not verbose
            else {"description": phrases("selector", tool.words, noun=_noun(tool))}
        )
        properties[tool.selector] = {
            "type": "string",
            "enum": sorted(tool.option(name) for name in tool.outputs),
            **said,
        }
    if tool.unit_choice:
        properties["unit"] = {"type": "string", "enum": tool.units(), "description": phrases("unit", tool.words)}
        if tool.unit_default:
            properties["unit"]["default"] = tool.unit_default
    schema = {"type": "object", "properties": properties, "required": tool.required}
    return ToolDocument(name=tool.name, description=_description(tool, verbose), parameters=schema)


def _noun(tool: Tool) -> str:
    return tool.type.noun if tool.kind else "calculation"


def _description(tool: Tool, verbose: bool) -> str:
    if tool.function == "calculate":
        return phrases(f"calculator_{tool.selector or tool.outputs[0]}", tool.words)
    kind = tool.type
    domain = catalog().domains[kind.domain]
    nouns = kind.nouns
    heads = [head_of(tool, name) for name in tool.outputs]
    keys = [head_of(tool, param.attribute) for param in tool.params if param.required]
    known = dict(
        noun=nouns[tool.words % len(nouns)],
        a_noun=with_article(nouns[tool.words % len(nouns)]),
        plural=kind.plural,
        heads=listing([f"the {head}" for head in heads], "or" if tool.selector else "and"),
        keys=listing([f"the {key}" for key in keys]),
        source=domain.sources[tool.words // 7 % len(domain.sources)],
        about=domain.about,
    )
    lead = phrases(f"lead_{tool.function}", tool.words, **known)
    if not verbose:
        return lead
    filters = [
        head_of(tool, param.attribute) for param in tool.params if not param.required and param.attribute != NAME
    ]
    known["filters"] = listing([f"the {head}" for head in dict.fromkeys(filters)][:3]) if filters else "further details"
    return " ".join([lead, phrases("middle", tool.words // 3, **known), phrases("tail", tool.words // 5, **known)])


_JSON_TYPES = {
    "entity": "string",
    "date": "string",
    "year": "integer",
    "integer": "integer",
    "quantity": "number",
    "choice": "string",
    "text": "string",
}


def value_schema(attribute: Attribute) -> dict[str, Any]:
    """The JSON Schema of an argument with a value of this attribute."""
    schema: dict[str, Any] = {"type": _JSON_TYPES[attribute.kind]}
    if attribute.kind == "choice":
        schema["enum"] = sorted(attribute.generator.choices)
    if attribute.kind == "date":
        schema["format"] = "date"
    return schema


def _schema(tool: Tool, param: Param, verbose: bool) -> dict[str, Any]:
    if tool.function == "calculate":
        return _operand_schema(param, verbose)
    kind = tool.type
    said = {"noun": kind.noun, "a_noun": with_article(kind.noun), "plural": kind.plural}
    said["A_noun"] = said["a_noun"].capitalize()
    if param.attribute == NAME and param.style == "equal":
        text = phrases("name", param.words, **said)
        inner = {"type": "string", "description": text} if verbose or param.words % 2 else {"type": "string"}
        if param.form == "array":
            return {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": 1,
                "description": phrases("name_array", param.words, **said),
            }
        if param.form == "object":
            return {
                "type": "object",
                "properties": {"name": inner},
                "required": ["name"],
                "description": phrases("name_object", param.words, **said),
            }
        return inner
    if param.style in ("case", "format", "label"):
        schema: dict[str, Any] = (
            {"type": "string", "enum": list(FORMATS)} if param.style == "format" else {"type": "boolean"}
        )
        schema["description"] = phrases(f"param_{param.style}", param.words, **said)
        if param.has_default:
            schema["default"] = FORMATS[0] if param.style == "format" else False
        return schema
    attribute = tool.attribute(param.attribute)
    said["head"] = attribute.head
    unit = attribute.generator.unit
    suffix = f", in {UNITS[unit].many}" if unit and param.style != "include" else ""
    style: str = "key" if param.required and param.style == "equal" else param.style
    if attribute.kind in ("date", "year") and style in ("at_least", "at_most", "range"):
        style += "_time"
    text = phrases(f"param_{style}", param.words, **said)
    if attribute.kind == "date" and param.style in ("equal", "range", "at_least", "at_most"):
        suffix += " (YYYY-MM-DD)"
    described = {"description": f"{text[:-1]}{suffix}."}
    if param.style == "include":
        return {"type": "boolean", **described, **({"default": False} if param.has_default else {})}
    value = value_schema(attribute)
    if param.style == "range":
        return {"type": "object", "properties": {"from": value, "to": value}, "required": ["from", "to"], **described}
    if param.style == "any_of":
        return {"type": "array", "items": value, "minItems": 1, **described}
    return {**value, **described}


def _operand_schema(param: Param, verbose: bool) -> dict[str, Any]:
    if param.style == "range":  # an array of two
        return {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 2,
            "maxItems": 2,
            "description": phrases("operands", param.words),
        }
    kind: dict[str, Any] = {"type": "string", "format": "date"} if param.attribute == "date" else {"type": "number"}
    return {**kind, "description": phrases("operand_date" if param.attribute == "date" else "operand", param.words)}


@lru_cache(maxsize=4096)
def optional_params(kind: str) -> dict[str, list[tuple[str, Style, str]]]:
    """{JSON kind: [(attribute, style, name)]}: the optional parameters that a tool for a type may have."""
    found: dict[str, list[tuple[str, Style, str]]] = {
        name: [] for name in ("text", "enum", "boolean", "object", "number", "array", "integer")
    }
    found["enum"].append((NAME, "format", "output_format"))
    found["boolean"] += [(NAME, "case", "exact_spelling"), (NAME, "label", "include_category")]
    for name, attribute in catalog().types[kind].attributes.items():
        found["boolean"] += [
            (name, "include", f"include_{name}"),
            (name, "include", f"with_{name}"),
            (name, "include", f"show_{name}"),
        ]
        match attribute.kind:
            case "entity" | "text":
                found["text"] += [
                    (name, "equal", name),
                    (name, "equal", f"{name}_name" if attribute.kind == "entity" else f"{name}_text"),
                ]
            case "choice":
                found["enum"] += [(name, "equal", name), (name, "equal", f"{name}_filter")]
                found["array"].append((name, "any_of", f"{name}_options"))
            case "date":
                found["text"] += [
                    (name, "at_least", f"{name}_after"),
                    (name, "at_most", f"{name}_before"),
                    (name, "equal", name),
                ]
                found["object"].append((name, "range", f"{name}_range"))
            case "year" | "integer":
                found["integer"] += [
                    (name, "at_least", f"min_{name}"),
                    (name, "at_most", f"max_{name}"),
                    (name, "equal", name),
                ]
                found["object"].append((name, "range", f"{name}_range"))
            case "quantity":
                found["number"] += [(name, "at_least", f"min_{name}"), (name, "at_most", f"max_{name}")]
                found["object"].append((name, "range", f"{name}_between"))
    return found


def expand(
    tool: Tool,
    total: int,
    kinds: dict[str, float],
    default_share: float,
    rng: random.Random,
    near: Collection[str] = (),
) -> None:
    """Add optional parameters until the tool has `total`. `kinds`: the weight of each JSON kind.

    About half of them are about an attribute in `near`, if possible: those that the question mentions, so that their
    words do not point to the needed tool alone.
    """
    offered = optional_params(tool.kind)
    names, weights = list(kinds), list(kinds.values())
    taken = {*tool.required, *(param.name for param in tool.params), *(["unit"] if tool.unit_choice else [])}
    filtered = {(param.attribute, param.style) for param in tool.params}
    for kind in rng.choices(names, weights, k=3 * max(0, total - len(taken))):
        if len(taken) >= total:
            break
        choices = offered[kind] or offered["text"]
        close = [item for item in choices if item[0] in near] if near and rng.random() < _NEAR_SHARE else []
        attribute, style, name = rng.choice(close or choices or offered["boolean"])
        if name in taken or (attribute, style) in filtered or attribute in tool.outputs:
            continue
        taken.add(name)
        filtered.add((attribute, style))
        has_default = style in ("include", "case", "label", "format") and rng.random() < min(1.0, default_share * 1.5)
        tool.params.append(
            Param(name=name, attribute=attribute, style=style, has_default=has_default, words=rng.randrange(720720))
        )
