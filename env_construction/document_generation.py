"""Stage 2, document generation: one tool document for each sub-question (OpenAI function format, JSON Schema 2020-12).

Paper section 3.1, second stage. What a document must fulfil stands in `tool_rules.py`.

In: JSONL of the stage before. Out: the same drafts with `documents`.

Example:
    python -m env_construction.document_generation --in outputs/demo/1_decomposition.jsonl \\
        --out outputs/demo/2_documents.jsonl
"""

from __future__ import annotations

from env_construction.building.author import Author, Draft, Step, WrittenDocument, ask_until_valid
from env_construction.building.stage_runner import author_maker, read_drafts, run_stage, stage_parser
from env_construction.environment.jsonl import run_main
from env_construction.rules.tool_rules import check_arguments, check_described, check_document


def generate_documents(author: Author, draft: Draft) -> Draft:
    """Fill `draft.documents`, one entry a sub-question. Raises Rejected."""
    for step in draft.plan.steps:
        draft.documents[step.id] = _document_for(author, draft, step)
    return draft


def _document_for(author: Author, draft: Draft, step: Step) -> WrittenDocument:
    def check(written: WrittenDocument) -> None:
        check_document(written.document)
        check_described(written.document)
        check_arguments(written.document, written.arguments)

    return ask_until_valid(
        author, draft, "document_generation", lambda problem: author.write_document(draft, step, problem), check
    )


def main() -> int:
    arguments = stage_parser(__doc__, "python -m env_construction.document_generation").parse_args()
    authors = author_maker(arguments)
    return run_stage("document_generation", generate_documents, read_drafts(arguments.source), arguments.out, authors)


if __name__ == "__main__":
    run_main(main)
