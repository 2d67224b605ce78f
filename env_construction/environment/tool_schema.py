"""JSON Schemas of tool documents: whether they are valid, whether a value fits, and what values are possible.

Schemas are draft 2020-12, which MCP requires, or draft 7, which many generators still write (only there is `items` a
list). Documents have all forms that OpenAI and MCP allow: without parameters, with boolean schemas, references, lists
of types, empty enums. `parameters_schema` converts them to one form. `schema_problem` reports what is not a schema.
`plain_schema` describes the possible values. A reference is resolved only within its document: no file is read, and no
network is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

_DEEPEST = 12
"""Maximum number of levels to follow, because a schema may refer to itself."""
_TYPES = frozenset(["string", "number", "integer", "boolean", "array", "object", "null"])
_TEXTS = frozenset(["description", "title", "format", "$comment"])
_COUNTS = frozenset(["minItems", "maxItems", "minLength", "maxLength"])
_SHAPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("properties",), dict),
    **dict.fromkeys(("required", "enum", "prefixItems", "allOf", "anyOf", "oneOf"), list),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (int, float)),
    **dict.fromkeys(_COUNTS, int),
}
_QUICK = frozenset([*_TEXTS, "type", "enum", "default", "examples", "minimum", "maximum"])
_KINDS: dict[type, tuple[str, ...]] = {str: ("string",), int: ("integer", "number"), float: ("number",)}
"""Python type -> types of JSON Schema that its values have."""
_COMBINING = frozenset(["$ref", "allOf", "anyOf", "oneOf"])
_HINTS = (
    ("object", ("properties", "additionalProperties", "required")),
    ("array", ("items", "prefixItems", "minItems", "maxItems")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)


def parameters_schema(parameters: Any) -> Any:
    """A tool's `parameters` in one form: missing, null and `{}` mean none; an object has `type` and `properties`."""
    whole = {"type": "object", "properties": {}}
    if parameters is None or parameters == {}:
        return whole
    if not isinstance(parameters, dict) or (parameters.get("type") != "object" and "properties" not in parameters):
        return parameters
    return parameters | {key: value for key, value in whole.items() if key not in parameters}


def required_of(parameters: Mapping[str, Any]) -> list[str]:
    """The required parameters; none if a tool's schema has something else than a list there."""
    required = parameters.get("required")
    return required if isinstance(required, list) else []


def schema_problem(parameters: Any) -> str:
    """Why `parameters` is not an object schema, with the location of the problem. Empty if it is valid."""
    if not isinstance(parameters, dict):
        return f"expected a JSON Schema object, got {json.dumps(parameters)[:80]}"
    if not _plainly_valid(parameters, 0):
        problem = _metaschema_problem(json.dumps(parameters, sort_keys=True))
        if problem:
            return problem
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        return f"type: expected 'object', got {json.dumps(kind)[:80]}"
    return ""


def _plainly_valid(schema: Any, depth: int) -> bool:
    """Whether a quick check shows that a schema is valid. Most are, and the metaschema check takes two milliseconds."""
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return False
    for key, value in schema.items():
        if key == "type":
            plain = isinstance(value, str) and value in _TYPES
        elif key in _TEXTS:
            plain = isinstance(value, str)
        elif key == "properties":
            plain = isinstance(value, dict) and all(_plainly_valid(inner, depth + 1) for inner in value.values())
        elif key in ("items", "additionalProperties"):
            plain = _plainly_valid(value, depth + 1)
        elif key == "required":
            plain = isinstance(value, list) and all(isinstance(name, str) for name in value)
            plain = plain and len(set(value)) == len(value)
        elif key in ("enum", "examples"):
            plain = isinstance(value, list)
        elif key in ("minimum", "maximum"):
            plain = isinstance(value, int | float) and not isinstance(value, bool)
        elif key in _COUNTS:
            plain = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        else:
            plain = key in ("default", "const")
        if not plain:
            return False
    return True


@lru_cache(maxsize=20_000)
def _metaschema_problem(schema: str) -> str:
    parsed = json.loads(schema)
    if Draft7Validator(Draft7Validator.META_SCHEMA).is_valid(parsed):
        return ""
    try:
        Draft202012Validator.check_schema(parsed)
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path))
        told = str(error.message)
        if error.validator == "type":
            kinds = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
            told = f"expected {' or '.join(kinds)}, got {json.dumps(error.instance)[:80]}"
        return f"{place}: {told}"[:300] if place else told[:300]
    except RecursionError:
        return "nested too deep"
    return ""


class CannotApply(ValueError):
    """A valid schema that cannot be applied: a pattern that does not compile, a dangling reference, endless nesting."""


def fits(value: Any, schema: Any, parameters: Mapping[str, Any]) -> bool:
    """Whether a value fits a schema that is part of `parameters`. Raises CannotApply."""
    if _plainly_fits(value, schema):
        return True
    validator = _validator(json.dumps(parameters, sort_keys=True))
    try:
        return next(iter(validator.descend(value, schema)), None) is None
    except (re.error, Unresolvable, RecursionError) as error:
        raise CannotApply(str(error)) from None


def _plainly_fits(value: Any, schema: Any) -> bool:
    """Whether a quick check shows that a value fits. Most do, and a validator takes 50 microseconds."""
    if not isinstance(schema, dict) or not schema.keys() <= _QUICK:
        return False
    if schema.get("type") not in _KINDS.get(type(value), ()):
        return False
    if "enum" in schema and not any(type(choice) is type(value) and choice == value for choice in schema["enum"]):
        return False
    if isinstance(value, str):
        return True
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    return isinstance(low, int | float) and isinstance(high, int | float) and low <= value <= high


@lru_cache(maxsize=20_000)
def _validator(parameters: str) -> Validator:
    parsed = json.loads(parameters)
    modern = _plainly_valid(parsed, 0) or Draft202012Validator(Draft202012Validator.META_SCHEMA).is_valid(parsed)
    # an empty registry: a reference in a document never makes this process read a file or use the network
    return (Draft202012Validator if modern else Draft7Validator)(parsed, registry=Registry())


def plain_schema(schema: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema in plain keywords: follow references, join `allOf`, use the first alternative, turn `const` to `enum`.

    `type` is a single type: the first that is not null. Without a type, it follows from the other keywords, and is
    string if they imply none or the schema accepts any value. `parameters` is the document's complete schema, in which
    references are looked up.
    """
    plain = _joined(schema, parameters, 0)
    if "const" in plain:
        plain["enum"] = [plain["const"]]
    kind = plain.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if not isinstance(kind, str) or kind not in _TYPES:
        kind = next((name for name, keys in _HINTS if any(key in plain for key in keys)), "string")
    return {**plain, "type": kind}


def _joined(schema: Any, parameters: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if schema is False:
        return {"type": "null"}
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return {}
    # benchmarks contain invalid schemas: ignore a keyword whose value has the wrong type
    schema = {key: value for key, value in schema.items() if isinstance(value, _SHAPES.get(key, object))}
    if schema.keys().isdisjoint(_COMBINING):
        return schema
    parts = [_at(parameters, schema["$ref"])] if isinstance(schema.get("$ref"), str) else []
    parts += schema.get("allOf") or []
    for key in ("anyOf", "oneOf"):
        options = [_joined(option, parameters, depth + 1) for option in schema.get(key) or []]
        parts += [option for option in options if option.get("type") != "null"][:1] or options[:1]
    joined: dict[str, Any] = {}
    for part in [*(_joined(part, parameters, depth + 1) for part in parts), schema]:
        for key, value in part.items():
            if key == "properties" and isinstance(value, dict):
                value = {**joined.get(key, {}), **value}
            elif key == "required" and isinstance(value, list):
                value = [*joined.get(key, []), *value]
            joined[key] = value
    return {key: value for key, value in joined.items() if key not in _COMBINING}


def _at(parameters: Any, reference: str) -> Any:
    """The target of a reference such as `#/$defs/Point`. A dangling reference accepts any value."""
    found = parameters
    for part in reference.removeprefix("#").split("/")[1:] if reference.startswith("#") else ["/"]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            return True
    return found


def without_filled_nulls(arguments: Any, schema: Any, parameters: Mapping[str, Any]) -> Any:
    """The arguments without null keys that `schema` neither requires nor allows to be null."""
    plain = plain_schema(schema, parameters)
    if isinstance(arguments, list):
        items = plain.get("items", True)
        if plain.get("prefixItems") or isinstance(items, list):
            return arguments
        return [without_filled_nulls(item, items, parameters) for item in arguments]
    if not isinstance(arguments, dict):
        return arguments
    properties, required = plain.get("properties", {}), plain.get("required", [])
    left = {}
    for name, value in arguments.items():
        inner = properties.get(name, False)
        try:
            takes_null = name in required or fits(None, inner, parameters)
        except CannotApply:
            takes_null = True
        if value is not None or takes_null:
            left[name] = without_filled_nulls(value, inner, parameters)
    return left
