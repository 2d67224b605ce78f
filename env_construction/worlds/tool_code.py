"""Python source of the world author's tools (stage 5): records, argument checks, a query, and the formatted result."""

from __future__ import annotations

import json
from typing import Any

from env_construction.environment.schema import ToolDocument
from env_construction.worlds.tools import FORMATS, NAME, Param, Tool
from env_construction.worlds.units import UNITS

_PYTHON_TYPES = {
    "string": "str",
    "boolean": "bool",
    "number": "(int, float)",
    "integer": "int",
    "array": "list",
    "object": "dict",
}
_WORDS = {
    "string": "a string",
    "boolean": "true or false",
    "number": "a number",
    "integer": "an integer",
    "array": "a list",
    "object": "an object",
}
_EXPRESSIONS = {"difference": "abs(a - b)", "sum": "a + b", "product": "a * b", "percentage": "a * b / 100"}


def write_source(tool: Tool, document: ToolDocument, rows: list[dict[str, Any]], verbose: bool) -> str:
    """Source of the tool over `rows`: {"name": ..., attribute: value to compare, "=attribute": value to return}."""
    properties = document.parameters["properties"]
    optional = [f"{param.name}={_default(param)!r}" for param in tool.params if not param.required]
    optional += [f"unit={tool.unit_default!r}"] if tool.unit_default else []
    lines = [f"def {tool.name}({', '.join([*tool.required, *optional])}):"]
    if verbose:
        lines += _docstring(tool, document)
    refuse = _Refusal(tool.words)
    if tool.function == "calculate":
        return "\n".join([*lines, *_calculation(tool, refuse)]) + "\n"
    checks = [line for param in tool.params for line in _checks(param, properties[param.name], refuse)]
    lines += ["    import re"] if any("re.fullmatch" in line for line in checks) else []
    lines += [*_records(rows, verbose), *checks]
    if tool.selector:
        lines += refuse(
            f"{tool.selector} not in {sorted(tool.outputs)!r}",
            f"unknown {tool.selector}; see the list of permitted values",
        )
    if tool.unit_choice:
        lines += refuse(f"unit not in {tool.units()!r}", f"unit must be one of {', '.join(tool.units())}")
    lines.append("    matches = records")
    for param in tool.params:
        lines += _filter(tool, param, properties[param.name])
    noun, plural = tool.type.noun, tool.type.plural
    lines += refuse("not matches", f"no {noun} matches the request")
    lines += refuse("len(matches) > 1", f"several {plural} match; give further criteria")
    lines.append("    found = matches[0]")
    return "\n".join(lines + _result(tool, refuse)) + "\n"


class _Refusal:
    """How the tool reports errors: as an object, a text or an exception, one kind per tool.

    Messages never contain an argument.
    """

    def __init__(self, words: int) -> None:
        self.way = ("object", "object", "text", "message", "raise")[words % 5]

    def __call__(self, condition: str, message: str) -> list[str]:
        text = json.dumps(message)
        report = {
            "object": f'return {{"error": {text}}}',
            "text": f'return "Error: {message}"',
            "message": f'return {{"success": False, "message": {text}}}',
            "raise": f"raise ValueError({text})",
        }[self.way]
        return [f"    if {condition}:", f"        {report}"]


def _default(param: Param) -> Any:
    if not param.has_default:
        return None
    return FORMATS[0] if param.style == "format" else False


def _docstring(tool: Tool, document: ToolDocument) -> list[str]:
    lines = [f'    """{document.description.split(". ")[0].rstrip(".")}.', "", "    Parameters:"]
    required = set(document.parameters["required"])
    for name, schema in document.parameters["properties"].items():
        optional = "" if name in required else ", optional"
        lines.append(f"    - {name} ({schema['type']}{optional}): {schema.get('description', '')}")
    return [*lines, '    """']


def _records(rows: list[dict[str, Any]], verbose: bool) -> list[str]:
    entries = [json.dumps(row, ensure_ascii=False) for row in rows]
    if not verbose:
        return [f"    records = [{', '.join(entries)}]"]
    return ["    records = [", *(f"        {entry}," for entry in entries), "    ]"]


def _checks(param: Param, schema: dict[str, Any], refuse: _Refusal) -> list[str]:
    name, kind = param.name, schema["type"]
    given = "" if param.required else f"{name} is not None and "
    wrong = f"not isinstance({name}, {_PYTHON_TYPES[kind]})"
    if kind in ("integer", "number"):
        wrong = f"(isinstance({name}, bool) or {wrong})"
    if param.attribute == NAME and param.style == "equal":
        item = {"plain": name, "object": f'{name}.get("name")', "array": f"{name}[0]"}[param.form]
        lines = (
            []
            if param.form == "plain"
            else refuse(
                wrong + (f" or len({name}) != 1" if param.form == "array" else ""),
                f"{name} must be {_WORDS[kind]}{' with one name' if param.form == 'array' else ''}",
            )
        )
        return [
            *lines,
            *refuse(
                f"not isinstance({item}, str) or not {item}.strip()",
                f"{name} {'must be a non-empty string' if param.form == 'plain' else 'needs a non-empty name'}",
            ),
        ]
    if "enum" in schema and not param.required:
        return refuse(f"{given}{name} not in {schema['enum']!r}", f"{name} must be one of the listed values")
    if "enum" in schema:
        return refuse(f"{name} not in {schema['enum']!r}", f"invalid {name}")
    lines = refuse(given + wrong, f"{name} must be {_WORDS[kind]}")
    if param.style == "range":
        lines += refuse(f'{given}not ("from" in {name} and "to" in {name})', f"{name} needs the keys from and to")
    elif schema.get("format") == "date" and param.style != "range":
        lines += refuse(
            f'{given}not re.fullmatch(r"\\d{{4}}-\\d\\d-\\d\\d", {name})', f"{name} must have the form YYYY-MM-DD"
        )
    return lines


def _filter(tool: Tool, param: Param, schema: dict[str, Any]) -> list[str]:
    name, key = param.name, json.dumps(param.attribute)
    if param.style in ("include", "case", "format", "label"):
        return []
    if param.attribute == NAME:
        item = {"plain": name, "object": f'{name}["name"]', "array": f"{name}[0]"}[param.form]
        strict = next((other.name for other in tool.params if other.style == "case"), "")
        lines = [
            f'    wanted = " ".join({item}.split()).casefold()',
            '    matches = [row for row in matches if row["name"].casefold() == wanted]',
        ]
        return lines + (
            [f"    if {strict}:", f'        matches = [row for row in matches if row["name"] == {item}.strip()]']
            if strict
            else []
        )
    text = schema["type"] == "string" and "enum" not in schema and schema.get("format") != "date"
    test = {
        "equal": f"row[{key}].casefold() == {name}.strip().casefold()" if text else f"row[{key}] == {name}",
        "range": f'{name}["from"] <= row[{key}] <= {name}["to"]',
        "any_of": f"row[{key}] in {name}",
        "at_least": f"row[{key}] >= {name}",
        "at_most": f"row[{key}] <= {name}",
    }[param.style]
    line = f"matches = [row for row in matches if {test}]"
    return [f"    {line}"] if param.required else [f"    if {name} is not None:", f"        {line}"]


def _result(tool: Tool, refuse: _Refusal) -> list[str]:
    labels = tool.labels
    if tool.selector:
        lines = refuse(f'found.get("=" + {tool.selector}) is None', "this detail is not on file")
        lines.append(f'    value = found["=" + {tool.selector}]')
        label = tool.selector
    else:
        key = tool.outputs[0]
        label = json.dumps(labels[key])
        lines = [f"    value = found[{json.dumps('=' + key)}]"]
        if tool.unit_choice:
            factors = dict(
                [(tool.attribute(key).generator.unit, 1.0), *UNITS[tool.attribute(key).generator.unit].others]
            )
            lines.append(f"    value = round(value * {json.dumps(factors)}[unit], 2)")
    included = [param for param in tool.params if param.style == "include"]
    extra = any(param.style == "label" for param in tool.params)
    wanted_format = next((param.name for param in tool.params if param.style == "format"), "")
    lines.append(f"    result = {{{label}: value}}")
    if tool.unit_choice:
        lines.append('    result["unit"] = unit')
    for param in included:
        lines += [
            f'    if {param.name} and "={param.attribute}" in found:',
            f'        result["{param.attribute}"] = found["={param.attribute}"]',
        ]
    if extra:
        name = next(param.name for param in tool.params if param.style == "label")
        lines += [f"    if {name}:", f'        result["category"] = "{tool.type.noun}"']
    as_text = 'return "; ".join(key.replace("_", " ") + ": " + str(item) for key, item in result.items())'
    if wanted_format:
        lines += [f'    if {wanted_format} == "text":', f"        {as_text}"]
    return [
        *lines,
        {
            "field": "    return result",
            "nested": '    return {"query": "completed", "result": result}',
            "text": f"    {as_text}",
            "table": '    return {"columns": list(result), "rows": [list(result.values())]}',
            "list": '    return [{"field": key, "value": item} for key, item in result.items()]',
            "value": "    return value if len(result) == 1 else result",
        }[tool.shape],
    ]


def _calculation(tool: Tool, refuse: _Refusal) -> list[str]:
    names = [param.name for param in tool.params]
    if tool.outputs == ["days_between"]:
        lines = ["    from datetime import date", "    try:"]
        lines += [
            f"        gap = date.fromisoformat({names[0]}) - date.fromisoformat({names[1]})",
            "    except (TypeError, ValueError):",
        ]
        lines += ['        return {"error": "both dates must have the form YYYY-MM-DD"}']
        return [*lines, '    return {"days": abs(gap.days)}']
    if tool.params[0].style == "range":
        lines = refuse(
            f"not isinstance({names[0]}, list) or len({names[0]}) != 2", f"{names[0]} must be a list of two numbers"
        )
        lines.append(f"    a, b = {names[0]}")
    else:
        lines = [f"    a, b = {names[0]}, {names[1]}"]
    lines += refuse(
        "any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in (a, b))",
        "both operands must be numbers",
    )
    if tool.selector:
        for place, operation in enumerate(tool.outputs):
            lines += [
                f'    {"elif" if place else "if"} {tool.selector} == "{operation}":',
                f"        value = {_EXPRESSIONS[operation]}",
            ]
        lines += ["    else:", '        return {"error": "unknown operation"}']
    else:
        lines.append(f"    value = {_EXPRESSIONS[tool.outputs[0]]}")
    lines.append("    value = round(float(value), 2)")
    written = "    value = int(value) if value == int(value) else value"
    return [*lines, written, '    return {"result": value}' if tool.words % 2 else '    return f"{value:,}"']
