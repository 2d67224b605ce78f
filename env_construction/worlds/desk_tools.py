"""The tools of a desk: two that read for each table, one for each action. Document and source come from one record.

A tool's source gets the tables as `state`, so it is the same in every world of the desk. Its errors are constants: the
sentences of its document, which tell nothing about the tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from env_construction.environment.schema import ToolDocument
from env_construction.environment.state import Tables
from env_construction.worlds.desks import Action, Column, Desk, Parameter, Table, desks
from env_construction.worlds.domains import Generator
from env_construction.worlds.english import listing, with_article

SHAPES = ("field", "nested", "text")


@dataclass(frozen=True)
class DeskTool:
    """`kind`: "find" (the key of a row), "details" (one column of a row) or "act". `subject`: the table or action.

    `shape` is that of its results, `wording` the number of its document's wording (modulo their count).
    """

    name: str
    kind: str
    domain: str
    subject: str
    shape: str = "field"
    wording: int = 0

    @property
    def desk(self) -> Desk:
        return desks()[self.domain]

    @property
    def table(self) -> Table:
        return self.desk.tables[self.subject]

    @property
    def action(self) -> Action:
        return self.desk.actions[self.subject]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        if self.kind == "act":
            return self.action.takes
        table = self.table
        if self.kind == "details":
            return (Parameter(table.name, table.name), Parameter("detail", "", detail_choice(table)))
        return tuple(
            Parameter(name, table.columns[name].generator.target, _unless_row(table.columns[name])) for name in table.by
        )


def detail_choice(table: Table) -> Generator:
    """The columns of a table that its `details` tool tells: those that do not find a row."""
    return Generator("choice", choices=tuple(name for name in table.columns if name not in table.by))


def _unless_row(column: Column) -> Generator | None:
    return None if column.generator.target else column.generator


def plain_tools(desk: Desk) -> list[DeskTool]:
    """All tools of a desk under their first names."""
    tools = []
    for table in desk.tables.values():
        if table.by:
            tools.append(DeskTool(f"find_{table.name}", "find", desk.domain, table.name))
        if detail_choice(table).choices:
            tools.append(DeskTool(f"{table.name}_details", "details", desk.domain, table.name))
    return tools + [DeskTool(name, "act", desk.domain, name) for name in desk.actions]


# Wordings of documents by kind. Their lengths differ, so that neither the longest nor the shortest document of a world
# tells a needed tool: the tools of details, which requests need least, have both the longest and the shortest.
WORDINGS: dict[str, tuple[str, ...]] = {
    "find": (
        "Finds {a_noun} by {heads}, and returns the {label}. It returns no other detail of {a_noun}, and it does not "
        "search for parts of a value.",
        "Returns the {label} for {heads}. At most one {noun} fits; if there is none, the call is refused with an error "
        "that says so.",
        "Given {heads}, returns the {label}. At most one {noun} fits. Parts of a code or a name are not "
        "enough, and for all other details of {a_noun} there are other tools.",
    ),
    "details": (
        "Returns one detail of {a_noun}.",
        "Reads the entry of {a_noun}, and returns the detail that was chosen. {values}",
        "Reads one detail of {a_noun}, and writes none. Several details require several calls. {values} Dates are "
        "given as year, month and day, amounts and counts as whole numbers. The detail is that at the time of the "
        "call: after a change, the same call returns the new value. An unknown {noun} leads to an error, as does a "
        "detail that is not among the choices.",
    ),
    "act": (
        "{about} {rules}",
        "{about} {rules} A call that breaks a rule is refused with an error.",
        "{about} {rules} All rules are checked before the first value is written.",
    ),
}


def document(tool: DeskTool) -> ToolDocument:
    """The document that the model sees, with every rule of an action in the words of its error."""
    properties = {item.name: _schema(tool, item) for item in tool.parameters}
    wordings = WORDINGS[tool.kind]
    wording = wordings[tool.wording % len(wordings)]
    if tool.kind == "act":
        text = wording.format(about=tool.action.about, rules=" ".join(sentence for _, sentence in tool.action.rules))
    else:
        table = tool.table
        heads = listing([f"the {table.columns[name].head}" for name in table.by])
        text = wording.format(
            noun=table.noun, a_noun=with_article(table.noun), label=table.label, heads=heads, values=_values(table)
        )
        text = " ".join(text.split())  # a table without choices leaves a gap
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ToolDocument(name=tool.name, description=text, parameters=schema)


def _schema(tool: DeskTool, item: Parameter) -> dict[str, Any]:
    if item.table:
        return {"type": "string", "description": _row_text(tool.desk.tables[item.table], item.name)}
    made = item.generator
    assert made is not None
    what = item.name.replace("_", " ")
    if tool.kind == "details":
        return {"type": "string", "enum": sorted(made.choices), "description": f"The {what} to return."}
    if tool.kind == "find":
        what = f"{tool.table.columns[item.name].head} of the {tool.table.noun}"
    if made.kind == "choice":
        choices = sorted(set(made.choices))
        return {"type": "string", "enum": choices, "description": f"The {what}: {listing(choices, 'or')}."}
    if made.kind == "integer":
        return {"type": "integer", "minimum": 1, "description": f"The {what}, a whole number."}
    if made.kind == "date":
        return {"type": "string", "format": "date", "description": f"The {what} (YYYY-MM-DD)."}
    return {"type": "string", "description": f"The {what}."}


def _values(table: Table) -> str:
    """Which values the columns with a choice of words have."""
    chosen = [(name, table.columns[name].generator) for name in detail_choice(table).choices]
    return " ".join(
        f"The values of {name.replace('_', ' ')} are {listing(sorted(set(made.choices)))}."
        for name, made in chosen
        if made.kind == "choice"
    )


def _row_text(table: Table, name: str) -> str:
    """What a parameter for a row takes. It names what does not identify the row, because a `find` tool comes first."""
    label = f"The {table.label}" if name == table.name else f"The {table.label} ({name.replace('_', ' ')})"
    codes = [table.columns[by].head for by in table.by if not table.columns[by].generator.target]
    return f"{label}, not the {codes[0]}." if codes else f"{label}."


def source(tool: DeskTool) -> str:
    """The Python source: `function(state, **arguments)` over the tables."""
    lines = _head(tool)
    if tool.kind == "find":
        table = tool.table
        test = " and ".join(f'row["{name}"] == {name}' for name in table.by)
        lines.append(f'    found = [key for key, row in state["{table.name}"].items() if {test}]')
        lines += _refusal("not found", f"No {table.noun} matches.")
        return "\n".join([*lines, *_result(tool, table.noun, "found[0]")]) + "\n"
    if tool.kind == "details":
        lines.append(f'    value = state["{tool.table.name}"][{tool.table.name}][detail]')
        return "\n".join([*lines, '    return {"detail": detail, "value": value}']) + "\n"
    lines += [f"    {line}" for line in tool.action.body]
    return "\n".join([*lines, *_result(tool, tool.action.head, tool.action.result)]) + "\n"


def _head(tool: DeskTool) -> list[str]:
    """The function's first line, the checks of its arguments, and an action's rules."""
    lines = [f"def {tool.name}({', '.join(['state', *(item.name for item in tool.parameters)])}):"]
    for item in tool.parameters:
        lines += _check(tool, item)
    for test, sentence in tool.action.rules if tool.kind == "act" else ():
        lines += _refusal(f"not ({test})", sentence)
    return lines


def _check(tool: DeskTool, item: Parameter) -> list[str]:
    if item.table and tool.kind != "find":
        noun = tool.desk.tables[item.table].noun
        return _refusal(f'{item.name} not in state["{item.table}"]', f"There is no such {noun}.")
    if item.generator is not None and item.generator.kind == "integer":
        wrong = f"isinstance({item.name}, bool) or not isinstance({item.name}, int) or {item.name} < 1"
        return _refusal(wrong, f"The {item.name.replace('_', ' ')} must be a whole number above 0.")
    if item.generator is not None and item.generator.kind == "choice":
        return _refusal(f"{item.name} not in {sorted(item.generator.choices)!r}", f"Invalid {item.name}.")
    return []


def _refusal(test: str, message: str) -> list[str]:
    return [f"    if {test}:", f'        return {{"error": {json.dumps(message)}}}']


def _result(tool: DeskTool, head: str, value: str) -> list[str]:
    key = head.replace(" ", "_")
    return {
        "field": [f'    return {{"{key}": {value}}}'],
        "nested": [f'    return {{"result": {{"{key}": {value}}}, "done": True}}'],
        "text": [f'    return "{head[:1].upper()}{head[1:]}: " + str({value})'],
    }[tool.shape]


@lru_cache(maxsize=1024)
def _function(domain: str, kind: str, subject: str, checks_only: bool) -> Any:
    tool = DeskTool("tool", kind, domain, subject)
    lines = [*_head(tool), "    return {}"] if checks_only else [source(tool)]
    namespace: dict[str, Any] = {}
    exec(compile("\n".join(lines), tool.name, "exec"), namespace)
    return namespace[tool.name]


def refusal(tool: DeskTool, tables: Tables, arguments: dict[str, Any]) -> str:
    """The error of an action's call, empty if it would succeed. Changes nothing."""
    return str(_function(tool.domain, tool.kind, tool.subject, True)(tables, **arguments).get("error", ""))


def outcome(tool: DeskTool, tables: Tables, arguments: dict[str, Any]) -> Any:
    """The value that a call returns, which changes `tables`. The call must be one that is not refused.

    The author's own source runs here to plan requests; the validator runs it in the sandbox.
    """
    return next(iter(_function(tool.domain, tool.kind, tool.subject, False)(tables, **arguments).values()))
