"""Stage 2, document generation: one tool document for each sub-question (OpenAI function format, JSON Schema 2020-12).

Paper section 3.1, second stage. `check_document` and `check_arguments` also serve the later stages and the validator.

In: JSONL of the stage before. Out: the same drafts with `documents`.

Example:
    python -m env_construction.document_generation --in outputs/demo/1_decomposition.jsonl --out outputs/demo/2_documents.jsonl
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from env_construction.author import Author, Draft, Rejected, Step, WrittenDocument, ask_until_valid
from env_construction.jsonl import run_main
from env_construction.schema import ToolDocument
from env_construction.stage_runner import author_maker, read_drafts, run_stage, stage_parser

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def generate_documents(author: Author, draft: Draft) -> Draft:
    """Fill `draft.documents`, one entry a sub-question. Raises Rejected."""
    for step in draft.plan.steps:
        draft.documents[step.id] = _document_for(author, draft, step)
    return draft


def _document_for(author: Author, draft: Draft, step: Step) -> WrittenDocument:
    def check(written: WrittenDocument) -> None:
        check_document(written.document)
        check_arguments(written.document, written.arguments)

    return ask_until_valid(
        author, draft, "document_generation", lambda problem: author.write_document(draft, step, problem), check
    )


def check_document(document: ToolDocument) -> None:
    """Valid name (it is also a Python function's name), a description, an object schema. Raises Rejected."""
    if not _NAME.fullmatch(document.name):
        raise Rejected("tool_name_invalid", f"{document.name!r} is no function name")
    if not document.description.strip():
        raise Rejected("tool_undescribed", f"{document.name} has no description")
    parameters = document.parameters
    if parameters.get("type") != "object" or not isinstance(parameters.get("properties"), dict):
        raise Rejected("schema_invalid", f"{document.name}: parameters are no object schema")
    if not isinstance(parameters.get("required", []), list):
        raise Rejected("schema_invalid", f"{document.name}: required is no list of names")
    unknown = [str(name) for name in parameters.get("required", []) if name not in parameters["properties"]]
    if unknown:
        raise Rejected("schema_invalid", f"{document.name}: required {', '.join(unknown)} are not among the properties")
    for name, schema in parameters["properties"].items():
        if not isinstance(schema, dict):
            raise Rejected("schema_invalid", f"{document.name}.{name}: expected an object")
        problem = _schema_problem(json.dumps(schema, sort_keys=True))
        if problem:
            raise Rejected("schema_invalid", f"{document.name}.{name}: {problem}")
        if "enum" in schema and "default" in schema and schema["default"] not in schema["enum"]:
            raise Rejected("schema_invalid", f"{document.name}.{name}: the default is not in the enum")


def check_arguments(document: ToolDocument, arguments: dict[str, Any]) -> None:
    """The arguments of a call fit the document, which `check_document` has passed. Raises Rejected."""
    properties = document.parameters.get("properties", {})
    for name in document.parameters.get("required", []):
        if name not in arguments:
            raise Rejected("gold_call_invalid", f"{document.name}: the call lacks the required {name!r}")
    for name, value in arguments.items():
        if name not in properties:
            raise Rejected("gold_call_invalid", f"{document.name}: the call has {name!r}, which is no parameter")
        if isinstance(value, str) and properties[name] == {"type": "string"}:
            continue
        try:
            fits = _validator(json.dumps(properties[name], sort_keys=True)).is_valid(value)
        except (re.error, Unresolvable, RecursionError) as error:
            raise Rejected("schema_invalid", f"{document.name}.{name}: cannot be applied: {error}") from None
        if not fits:
            raise Rejected("gold_call_invalid", f"{document.name}: {name} = {value!r} does not fit its schema")


@lru_cache(maxsize=20_000)
def _schema_problem(schema: str) -> str:
    parsed = json.loads(schema)
    try:
        Draft202012Validator.check_schema(parsed)
    except SchemaError as error:
        return str(error.message)
    choices = [json.dumps(choice, sort_keys=True) for choice in parsed.get("enum", [])]
    return "the enum names a choice twice" if len(set(choices)) < len(choices) else ""


@lru_cache(maxsize=20_000)
def _validator(schema: str) -> Draft202012Validator:
    # an empty registry: a reference in a document never makes this process read a file or ask a network
    return Draft202012Validator(json.loads(schema), registry=Registry())


def main() -> int:
    arguments = stage_parser(__doc__).parse_args()
    authors = author_maker(arguments)
    return run_stage("document_generation", generate_documents, read_drafts(arguments.source), arguments.out, authors)


if __name__ == "__main__":
    run_main(main)
