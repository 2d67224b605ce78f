"""The questions of ToolHop, in both published layouts.

Input: a JSONL file (the authors' `ToolHop.jsonl`) or one JSON list (the original data set's `ToolHop.json`).
Output: `Question`s.

A record has `question`, `answer`, `tools` (`{sub-question: tool document}`) and `functions`: `{tool name: source}` or a
list of sources. In a list, a tool's source is the first that defines a function with its name. `id` and `domain` are
used if present.

A name can occur twice, with two documents, for two sub-questions (in 7 of 100 sampled questions), but only one source
can have that name. The tool is offered once, with the document that fits the source, because servers refuse duplicate
names. The authors' code shows both documents.

Source: paper/README.md, "Evaluation".
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl, read_text


@dataclass(frozen=True)
class Question:
    """One question. `tools` are OpenAI functions, `codes` maps a tool's name to its source."""

    id: str
    question: str
    answer: str
    tools: tuple[Mapping[str, Any], ...]
    codes: Mapping[str, str]
    domain: str = ""


def read_questions(path: Path | str, limit: int | None = None) -> list[Question]:
    """The questions of a JSONL file or a JSON list. Raises BadInput with line (or item) and key."""
    path = Path(path)
    questions: list[Question] = []
    for number, record in _records(path):
        if limit is not None and len(questions) >= limit:
            break
        questions.append(_question(record, f"{path}:{number}", len(questions)))
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise BadInput(f"{path}: duplicate id {question.id!r}; ids must be unique")
        seen.add(question.id)
    return questions


def _records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return list(read_jsonl(path))
    try:
        records = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{path}: expected a JSON list ({error})") from None
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise BadInput(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
    return list(enumerate(records, start=1))


def _question(record: Mapping[str, Any], where: str, place: int) -> Question:
    for key, kinds in (("question", (str,)), ("answer", (str, int, float)), ("tools", (dict, list))):
        if not isinstance(record.get(key), kinds):
            raise BadInput(f"{where}: key {key!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
    documents = list(record["tools"].values()) if isinstance(record["tools"], dict) else list(record["tools"])
    tools = [document.get("function", document) if isinstance(document, dict) else document for document in documents]
    offered: dict[str, list[dict[str, Any]]] = {}
    for tool in tools:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise BadInput(f"{where}: key 'tools': expected documents with a name, got {str(tool)[:80]!r}")
        offered.setdefault(tool["name"], []).append(tool)
    codes = _codes(record.get("functions"), list(offered), where)
    return Question(
        id=str(record.get("id", place)),
        question=record["question"],
        answer=str(record["answer"]),
        tools=tuple(_fitting(documents, codes.get(name, "")) for name, documents in offered.items()),
        codes=codes,
        domain=str(record.get("domain") or ""),
    )


def _fitting(documents: Sequence[dict[str, Any]], source: str) -> dict[str, Any]:
    """Of several documents with one name, the one whose parameters match the source; the first if tied."""
    if len(documents) == 1:
        return documents[0]
    name = documents[0]["name"]
    try:
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError, RecursionError):
        functions = []
    found = next((function.args for function in functions if function.name == name), None)
    taken = {argument.arg for argument in (*found.posonlyargs, *found.args, *found.kwonlyargs)} if found else set()
    return min(documents, key=lambda document: len(_properties(document) - taken))


def _properties(document: Mapping[str, Any]) -> set[str]:
    parameters = document.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return set(properties) if isinstance(properties, dict) else set()


def _codes(functions: Any, names: Sequence[str], where: str) -> dict[str, str]:
    """`{tool name: source}`. In a list, a tool's source is the first that defines a function with its name."""
    if isinstance(functions, dict) and all(isinstance(source, str) for source in functions.values()):
        return dict(functions)
    if not isinstance(functions, list) or not all(isinstance(source, str) for source in functions):
        raise BadInput(f"{where}: key 'functions': expected {{name: source}} or a list of sources")
    defines = {name: re.compile(rf"^(?:async )?def {re.escape(name)}\s*\(", re.MULTILINE) for name in names}
    found = ((name, next((source for source in functions if defines[name].search(source)), None)) for name in names)
    return {name: source for name, source in found if source is not None}
