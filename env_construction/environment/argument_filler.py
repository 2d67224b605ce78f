"""Arguments made up for a tool's parameters: one walk over the schema, and somebody who chooses what it leaves open.

Used by the random policy and by the validator, which asks tools about the names of other calls.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from env_construction.environment.tool_schema import plain_schema

_DEEPEST = 12
"""Levels of a value that is made up: a schema may refer to itself."""
_MOST_MADE = 1000
"""Elements of a list, characters of padding that are made up at most."""


class Choices(Protocol):
    """Who decides what is left open when arguments are made up. `schema`: the value's, in plain keywords."""

    def optional(self, name: str) -> bool:
        """Whether to give a property that need not be given."""

    def option(self, options: Sequence[Any]) -> Any:
        """One of an enum's options."""

    def text(self, schema: Mapping[str, Any]) -> str:
        """A string; it is cut or padded to the length that the schema wants."""

    def number(self, schema: Mapping[str, Any], low: float | None, high: float | None, whole: bool) -> float:
        """A number from `low` to `high`, inclusive; None: no bound."""

    def boolean(self, schema: Mapping[str, Any]) -> bool:
        """True or false."""

    def length(self, least: int, most: int | None) -> int:
        """How many elements a list gets."""


@dataclass(frozen=True)
class Fixed:
    """Choices: every text the same one, of all else what the document says first. `everything`: optional parameters
    too."""

    filler: str
    everything: bool = False

    def optional(self, name: str) -> bool:
        return self.everything

    def option(self, options: Sequence[Any]) -> Any:
        return options[0]

    def text(self, schema: Mapping[str, Any]) -> str:
        return self.filler

    def number(self, schema: Mapping[str, Any], low: float | None, high: float | None, whole: bool) -> float:
        default = schema.get("default")
        if isinstance(default, int | float):
            return default
        return low if low is not None else 1 if high is None else min(1, high)

    def boolean(self, schema: Mapping[str, Any]) -> bool:
        return bool(schema.get("default", False))

    def length(self, least: int, most: int | None) -> int:
        return max(least, 1)


def fill(parameters: Mapping[str, Any], choices: Choices) -> dict[str, Any]:
    """Arguments that fit a tool's parameters, as `choices` decides.

    Types, enums, bounds, lengths, nesting, references and alternatives are met; `pattern`, `format`, `not`, `if` and
    `contains` are not looked at.
    """
    made = _value(parameters, parameters, choices, 0)
    return made if isinstance(made, dict) else {}


def _value(schema: Any, parameters: Mapping[str, Any], choices: Choices, depth: int) -> Any:
    plain = plain_schema(schema, parameters)
    if plain.get("enum"):
        return choices.option(plain["enum"])
    kind = plain["type"]
    if kind == "object":
        properties = plain.get("properties") or {}
        required = [key for key in plain.get("required", []) if isinstance(key, str)]
        wanted = [
            key
            for key, inner in properties.items()
            if key in required or (inner is not False and depth < _DEEPEST and choices.optional(key))
        ]
        wanted += [key for key in dict.fromkeys(required) if key not in properties]
        rest = plain.get("additionalProperties", True)
        made = {}
        for key in wanted if depth <= 2 * _DEEPEST else ():
            made[key] = _value(properties.get(key, rest), parameters, choices, depth + 1)
        return made
    if kind == "array":
        return _list(plain, parameters, choices, depth)
    if kind in ("number", "integer"):
        return _number(plain, choices)
    if kind == "boolean":
        return choices.boolean(plain)
    return None if kind == "null" else _text(choices.text(plain), plain)


def _list(plain: Mapping[str, Any], parameters: Mapping[str, Any], choices: Choices, depth: int) -> list[Any]:
    first, rest = plain.get("prefixItems") or [], plain.get("items", True)
    if isinstance(rest, list):  # draft 7
        first, rest = rest, plain.get("additionalItems", True)
    least, most = plain.get("minItems", 0), plain.get("maxItems")
    if rest is False:
        most = min(len(first), len(first) if most is None else most)
    count = choices.length(least, most)
    if first and (most is None or most >= len(first)):
        count = max(count, len(first))
    if depth > _DEEPEST:
        count = least if depth <= 2 * _DEEPEST else 0
    made: list[Any] = []
    for place in range(min(count, _MOST_MADE)):
        schema = first[place] if place < len(first) else rest
        made.append(_value(schema, parameters, choices, depth + 1))
    if plain.get("uniqueItems"):
        distinct = {json.dumps(item, sort_keys=True): item for item in made}
        made = list(distinct.values())
    return made


def _number(plain: Mapping[str, Any], choices: Choices) -> float:
    whole, step = plain["type"] == "integer", plain.get("multipleOf")
    low, high = plain.get("minimum"), plain.get("maximum")
    unit = step or (1 if whole else 1e-6)
    if (above := plain.get("exclusiveMinimum")) is not None and (low is None or above >= low):
        low = above + unit
    if (below := plain.get("exclusiveMaximum")) is not None and (high is None or below <= high):
        high = below - unit
    # 1e999 in a document is infinity, and no bound
    low, high = (bound if bound is not None and -1e308 < bound < 1e308 else None for bound in (low, high))
    if whole:
        low, high = low if low is None else math.ceil(low), high if high is None else math.floor(high)
    if step and (low is None or high is None or high - low >= step):
        # count in steps, so that the number is a multiple of one
        first = None if low is None else -(-low // step)
        number = choices.number({}, first, None if high is None else high // step, True) * step
    else:
        number = choices.number(plain, low, high, whole)
    return int(number) if whole else number


def _text(text: str, plain: Mapping[str, Any]) -> str:
    least, most = min(plain.get("minLength", 0), _MOST_MADE), plain.get("maxLength")
    return text.ljust(least, "x")[:most]
