"""Python source of the fact author's tools (stage 5): a table, checks of the arguments, a lookup, the result."""

from __future__ import annotations

import json
from typing import Any

from env_construction.environment.schema import ToolDocument
from env_construction.facts.calculator import EXPRESSIONS
from env_construction.facts.fact_questions import value_text
from env_construction.facts.fact_tables import thousands
from env_construction.facts.fact_tools import Blueprint, Extra, Parameter, parameters
from env_construction.facts.relations import BY_NAME, TYPE_NAMES, Relation

_RESULT_EFFECTS = {
    "source": '    if {name}:\n        result["source"] = "{source}"',
    "origin": '    if {name} == "detailed":\n        result["origin"] = "{source}"',
    "entity_type": '    if {name}:\n        result["entity_type"] = "{noun}"',
    "record_count": '    if {name}:\n        result["record_count"] = {count}',
    "license": '    if {name}:\n        result["license"] = "open data"',
    "disclaimer": '    if {name}:\n        result["disclaimer"] = "Provided as it stands."',
}
_PYTHON_TYPES = {
    "string": "str",
    "boolean": "bool",
    "number": "(int, float)",
    "integer": "int",
    "array": "list",
    "object": "dict",
}
_ARTICLES = {
    "string": "a string",
    "boolean": "a boolean",
    "number": "a number",
    "integer": "an integer",
    "array": "a list",
    "object": "an object",
}


def convert(relation: Relation, value: str) -> dict[str, str]:
    """A quantity in each of its units, as people write it: {"ft": "681 ft", "m": "208 m"}."""
    number = float(value.replace(",", ""))
    return {relation.unit: value_text(relation, value)} | {
        unit: f"{thousands(round(number * factor, 2))} {unit}" for unit, factor in relation.other_units
    }


def write_source(blueprint: Blueprint, document: ToolDocument, rows: dict[str, Any], verbose: bool) -> str:
    """Source of the tool over `rows`: {entity or "a|b": value, or {option or unit: value}}; arithmetic needs no
    rows.
    """
    lines = [_signature(blueprint)]
    if verbose:
        lines += _docstring(document)
    if not blueprint.first.compute:
        lines += _table(rows, verbose)
    lines += _entity_checks(blueprint, verbose)
    choices = [name for name in (blueprint.selector, "unit" if blueprint.unit_choice else "") if name]
    for name in choices:
        lines += _refuse(f"not isinstance({name}, str)", f"{name} must be a string")
    for extra in blueprint.extras:
        lines += _extra_checks(parameters()[extra.name], extra)
    lines += _arithmetic(blueprint) if blueprint.first.compute else _lookup(blueprint, verbose)
    return "\n".join(lines) + "\n" + _finish(blueprint, len(rows))


def _signature(blueprint: Blueprint) -> str:
    catalog = parameters()
    optional = [
        f"{extra.name}={(catalog[extra.name].default if extra.has_default else None)!r}"
        for extra in blueprint.extras
        if not extra.required
    ]
    return f"def {blueprint.name}({', '.join([*blueprint.required, *optional])}):"


def _docstring(document: ToolDocument) -> list[str]:
    lines = [f'    """{document.description.split(". ")[0]}.', "", "    Parameters:"]
    required = document.parameters["required"]
    for name, schema in document.parameters["properties"].items():
        what = schema.get("description", "") if name in required else "optional"
        lines.append(f"    - {name} ({schema['type']}): {what}")
    return [*lines, '    """']


def _table(rows: dict[str, Any], verbose: bool) -> list[str]:
    if not verbose:
        return [f"    rows = {json.dumps(rows, ensure_ascii=False)}"]
    entries = [
        f"        {json.dumps(key, ensure_ascii=False)}: {json.dumps(row, ensure_ascii=False)},"
        for key, row in rows.items()
    ]
    return ["    rows = {", *entries, "    }"]


def _refuse(condition: str, message: str) -> list[str]:
    return [f"    if {condition}:", f'        return {{"error": "{message}"}}']


def _entity_checks(blueprint: Blueprint, verbose: bool) -> list[str]:
    kind = "(int, float)" if blueprint.first.compute else "str"
    word = "a number" if blueprint.first.compute else "a string"
    if blueprint.form == "array":
        name, count = blueprint.array_name, len(blueprint.inputs)
        short = f"len({name}) != {count}" if count > 1 else f"not {name}"
        return [
            *_refuse(
                f"not isinstance({name}, list) or {short}",
                f"{name} must be a list of {'two' if count > 1 else 'at least one'}",
            ),
            *_refuse(f"not all(isinstance(item, {kind}) for item in {name})", f"each of {name} must be {word}"),
        ]
    lines = []
    for name in blueprint.inputs:
        if blueprint.form == "object":
            lines += _refuse(
                f'not isinstance({name}, dict) or not isinstance({name}.get("name"), {kind})',
                f"{name} must have a name",
            )
        elif blueprint.first.compute:
            lines += _refuse(f"isinstance({name}, bool) or not isinstance({name}, {kind})", f"{name} must be {word}")
        elif verbose:
            lines += _refuse(
                f"not isinstance({name}, {kind}) or not {name}.strip()", f"{name} must be a non-empty string"
            )
        else:
            lines += _refuse(f"not isinstance({name}, {kind})", f"{name} must be {word}")
    return lines


def _extra_checks(parameter: Parameter, extra: Extra) -> list[str]:
    name = parameter.name
    given = "" if extra.required or extra.has_default else f"{name} is not None and "
    wrong = f"not isinstance({name}, {_PYTHON_TYPES[parameter.type]})"
    if parameter.type in ("integer", "number"):
        wrong = f"isinstance({name}, bool) or {wrong} or not {parameter.low:g} <= {name} <= {parameter.high:g}"
        wrong = f"({wrong})" if given else wrong
        return _refuse(
            given + wrong, f"{name} must be {_ARTICLES[parameter.type]} from {parameter.low:g} to {parameter.high:g}"
        )
    if parameter.kind == "enum":
        return _refuse(
            f"{given}{name} not in {parameter.options!r}", f"{name} must be one of {', '.join(parameter.options)}"
        )
    if parameter.effect == "date":
        return [
            "    import re",
            *_refuse(f'{given}not re.fullmatch(r"\\d{{4}}-\\d\\d-\\d\\d", str({name}))', f"{name} must be YYYY-MM-DD"),
        ]
    return _refuse(given + wrong, f"{name} must be {_ARTICLES[parameter.type]}")


def _exactness(blueprint: Blueprint) -> str:
    """The condition under which a name has to match letter by letter."""
    names = {extra.name for extra in blueprint.extras}
    conditions = [f'{name} == "exact"' for name in ("match_mode",) if name in names]
    return " or ".join(conditions + [name for name in ("strict",) if name in names])


def _lookup(blueprint: Blueprint, verbose: bool) -> list[str]:
    noun = TYPE_NAMES[blueprint.first.subject][0]
    pair = len(blueprint.inputs) == 2
    unknown = f"no data for these two {noun} names" if pair else f"unknown {noun}"
    several = blueprint.form == "array" and not pair
    names = ["item"] if several else _entity_names(blueprint)
    indent = "        " if several else "    "
    body: list[str] = []
    if verbose:
        exact = _exactness(blueprint)
        body += [f'names = [" ".join(name.split()).casefold() for name in ({", ".join(names)},)]']
        if exact:
            body += [f"if {exact}:", f"    names = [{', '.join(names)}]"]
        keys = "index" if not exact else f"(rows if {exact} else index)"
        body += [f'row = {keys}.get("|".join(names))' + (f', {keys}.get("|".join(names[::-1]))' if pair else "")]
        if pair:
            body[-1] = f'row = {keys}.get("|".join(names), {keys}.get("|".join(names[::-1])))'
    elif pair:
        a, b = names
        body += [f'row = rows.get({a} + "|" + {b}, rows.get({b} + "|" + {a}))']
    else:
        body += [f"row = rows.get({names[0]})"]
    quiet = any(extra.name == "on_missing" for extra in blueprint.extras)
    body += ['if row is None and on_missing == "empty":', "    return {}"] if quiet else []
    body += ["if row is None:", f'    return {{"error": "{unknown}"}}']
    chooser = blueprint.selector or ("unit" if blueprint.unit_choice else "")
    if chooser:
        body += [f"if {chooser} not in row:", f'    return {{"error": "no such {chooser} for this {noun}"}}']
    value = f"row[{chooser}]" if chooser else "row"
    key = blueprint.selector or json.dumps(blueprint.first.key)
    lines = ["    index = {key.casefold(): row for key, row in rows.items()}"] if verbose else []
    if several:
        return [
            *lines,
            "    found = []",
            f"    for item in {blueprint.array_name}:",
            *(indent + line for line in body),
            f"        found.append({value})",
            f"    result = {{{key}: found}}",
        ]
    return [*lines, *(indent + line for line in body), f"    result = {{{key}: {value}}}"]


def _entity_names(blueprint: Blueprint) -> list[str]:
    """Expressions for the entities' names in the source."""
    if blueprint.form == "array":
        return [f"{blueprint.array_name}[{position}]" for position in range(len(blueprint.inputs))]
    if blueprint.form == "object":
        return [f'{name}["name"]' for name in blueprint.inputs]
    return blueprint.inputs


def _arithmetic(blueprint: Blueprint) -> list[str]:
    lines = [
        f"    {name} = {given}"
        for name, given in zip(("a", "b"), _entity_names(blueprint), strict=True)
        if name != given
    ]
    if blueprint.selector:
        options = {blueprint.option(name): BY_NAME[name].compute for name in blueprint.relations}
        for position, (option, compute) in enumerate(options.items()):
            lines += [
                f'    {"if" if position == 0 else "elif"} {blueprint.selector} == "{option}":',
                f"        value = {EXPRESSIONS[compute]}",
            ]
        lines += ["    else:", f'        return {{"error": "unknown {blueprint.selector}"}}']
    else:
        lines += [f"    value = {EXPRESSIONS[blueprint.first.compute]}"]
    return [*lines, '    result = {"result": f"{value:,.2f}".rstrip("0").rstrip(".")}']


def _finish(blueprint: Blueprint, count: int) -> str:
    noun = TYPE_NAMES[blueprint.first.subject][0]
    lines = []
    for extra in blueprint.extras:
        parameter = parameters()[extra.name]
        if parameter.effect in _RESULT_EFFECTS:
            pattern = _RESULT_EFFECTS[parameter.effect]
            lines.append(pattern.format(name=extra.name, source=blueprint.first.source, noun=noun, count=count))
    if any(parameters()[extra.name].effect == "text" for extra in blueprint.extras):
        lines += [
            '    if output_format == "text":',
            '        return "; ".join(f"{key}: {value}" for key, value in result.items())',
        ]
    return "\n".join([*lines, "    return result"]) + "\n"
