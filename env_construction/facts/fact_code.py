"""Python source of the fact author's tools (stage 5): a table, argument checks, a lookup, the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from env_construction.environment.schema import ToolDocument
from env_construction.facts.calculator import EXPRESSIONS
from env_construction.facts.fact_tools import Blueprint, parameters
from env_construction.facts.filters import checks
from env_construction.facts.relations import BY_NAME, TYPE_NAMES

_RESULT_EFFECTS = {
    "source": '    if {name}:\n        result["source"] = "{source}"',
    "origin": '    if {name} == "detailed":\n        result["origin"] = "{source}"',
    "entity_type": '    if {name}:\n        result["entity_type"] = "{noun}"',
    "record_count": '    if {name}:\n        result["record_count"] = {count}',
    "disclaimer": '    if {name}:\n        result["disclaimer"] = "Provided as it stands."',
}


def write_source(
    blueprint: Blueprint,
    document: ToolDocument,
    rows: dict[str, Any],
    verbose: bool,
    about: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Source of the tool over `rows`: {entity or "a|b": value or {option or unit: value}}. Arithmetic needs no rows.

    `about`: {entity without case: {sibling: value to compare, "=sibling": value to show}}, for the filters.
    """
    lines = [_signature(blueprint)]
    if verbose:
        lines.append(f'    """{document.description.split(". ")[0].removesuffix(".")}."""')
    if not blueprint.first.compute:
        lines += _table(_with_details(blueprint, rows, about or {}) if blueprint.filters else rows, verbose)
    lines += _entity_checks(blueprint, verbose)
    choices = [name for name in (blueprint.selector, "unit" if blueprint.unit_choice else "") if name]
    for name in choices:
        lines += _refuse(f"not isinstance({name}, str)", f"{name} must be a string")
    lines += _option_checks(blueprint)
    lines += _arithmetic(blueprint) if blueprint.first.compute else _lookup(blueprint, verbose)
    return "\n".join(lines) + "\n" + _finish(blueprint, len(rows))


def _signature(blueprint: Blueprint) -> str:
    catalog = parameters()
    optional = [f"unit={blueprint.first.unit!r}"] if blueprint.unit_choice and blueprint.unit_optional else []
    optional += [
        f"{item.name}={False if item.style == 'include' else None}" for item in blueprint.filters if not item.required
    ]
    optional += [
        f"{extra.name}={(catalog[extra.name].default if extra.has_default else None)!r}" for extra in blueprint.extras
    ]
    return f"def {blueprint.name}({', '.join([*blueprint.required, *optional])}):"


def _table(rows: Mapping[str, Any], verbose: bool) -> list[str]:
    if not verbose:
        return [f"    rows = {json.dumps(rows, ensure_ascii=False)}"]
    return ["    rows = {", *(f"        {_literal(key)}: {_literal(row)}," for key, row in rows.items()), "    }"]


def _with_details(
    blueprint: Blueprint, rows: Mapping[str, Any], about: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """{entity: [its row, and what the filters need to know about it]}."""
    columns = _columns(blueprint)
    return {key: [row, *(about.get(key.casefold(), {}).get(name) for name in columns)] for key, row in rows.items()}


def _literal(value: Any) -> str:
    """A Python literal; text has double quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value) if value is None else json.dumps(value, ensure_ascii=False)


def _columns(blueprint: Blueprint) -> list[str]:
    """What the filters need to know about each entity, in this order. Two filters may share a column."""
    return list(dict.fromkeys(item.column for item in blueprint.filters))


def _refuse(condition: str, message: str) -> list[str]:
    return [f"    if {condition}:", f'        return {{"error": "{message}"}}']


def _entity_checks(blueprint: Blueprint, verbose: bool) -> list[str]:
    kind = "(int, float)" if blueprint.first.compute else "str"
    word = "a number" if blueprint.first.compute else "a string"
    if blueprint.form == "array":
        name = blueprint.array_name
        return [
            *_refuse(f"not isinstance({name}, list) or len({name}) != 2", f"{name} must be a list of two"),
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
        else:
            lines += _refuse(f"not isinstance({name}, {kind})", f"{name} must be {word}")
    return lines


def _option_checks(blueprint: Blueprint) -> list[str]:
    """Lines that refuse values outside of an enumeration, and values that are not booleans."""
    catalog = [parameters()[extra.name] for extra in blueprint.extras]
    options = [(item.name, item.options) for item in catalog if item.options]
    options += [(item.name, item.options) for item in blueprint.filters if item.options]
    lines = []
    if len(options) == 1:
        [(name, values)] = options
        test = f"{name} is not None and {name} not in {json.dumps(values, ensure_ascii=False)}"
        lines += _refuse(test, f"{name} must be one of its permitted values")
    elif options:
        lines += ["    for name, given, options in ["]
        lines += [
            f"        ({json.dumps(name)}, {name}, {json.dumps(values, ensure_ascii=False)}),"
            for name, values in options
        ]
        lines += [
            "    ]:",
            "        if given is not None and given not in options:",
            """            return {"error": f"{name} must be one of {', '.join(options)}"}""",
        ]
    switches = [item.name for item in catalog if not item.options]
    switches += [item.name for item in blueprint.filters if item.style == "include"]
    if len(switches) == 1:
        [name] = switches
        lines += _refuse(f"{name} is not None and not isinstance({name}, bool)", f"{name} must be a boolean")
    elif switches:
        lines += [
            f"    for name, given in [{', '.join(f'({json.dumps(name)}, {name})' for name in switches)}]:",
            "        if given is not None and not isinstance(given, bool):",
            """            return {"error": f"{name} must be a boolean"}""",
        ]
    return lines


def _exactness(blueprint: Blueprint) -> str:
    """The condition under which a name must match exactly."""
    names = {extra.name for extra in blueprint.extras}
    conditions = [f'{name} == "exact"' for name in ("match_mode",) if name in names]
    return " or ".join(conditions + [name for name in ("strict",) if name in names])


def _lookup(blueprint: Blueprint, verbose: bool) -> list[str]:
    noun = TYPE_NAMES[blueprint.first.subject][0]
    pair = len(blueprint.inputs) == 2
    unknown = f"no data for these two {noun} names" if pair else f"unknown {noun}"
    names = _entity_names(blueprint)
    body: list[str] = []
    exact = _exactness(blueprint)
    if verbose and not pair and not exact:
        body += [f'name = " ".join({names[0]}.split()).casefold()']
        body += ["row = {key.casefold(): row for key, row in rows.items()}.get(name)"]
    elif verbose:
        body += ["index = {key.casefold(): row for key, row in rows.items()}"]
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
    if blueprint.filters:
        body += ["row, *about = row"]
    chooser = blueprint.selector or ("unit" if blueprint.unit_choice else "")
    if chooser:
        body += [f"if {chooser} not in row:", f'    return {{"error": "no such {chooser} for this {noun}"}}']
    value = f"row[{chooser}]" if chooser else "row"
    key = blueprint.selector or json.dumps(blueprint.first.key)
    lines = ["    " + line for line in body]
    if blueprint.filters:
        lines += checks(blueprint.filters, _columns(blueprint))
    lines.append(f"    result = {{{key}: {value}}}")
    for item in blueprint.filters:
        if item.style == "include":
            shown = f"about[{_columns(blueprint).index(item.column)}]"
            lines += [f"    if {item.name} and {shown} is not None:", f'        result["{item.key}"] = {shown}']
    return lines


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
