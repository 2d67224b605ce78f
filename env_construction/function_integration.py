"""Stage 3, function integration: overlapping tool documents are merged, n tools become m <= n.

Paper section 3.1, third stage. The mapping from sub-questions to merged tools stays in the calls; a merged tool serves
all sub-questions of its parts, which the call checks prove.

In: JSONL of the stage before. Out: the same drafts with `tools` and `calls`.

Example:
    python -m env_construction.function_integration --in outputs/demo/2_documents.jsonl \\
        --out outputs/demo/3_integration.jsonl
"""

from __future__ import annotations

from env_construction.building.author import Author, Draft, Rejected, Toolset, ask_until_valid
from env_construction.building.stage_runner import author_maker, read_drafts, run_stage, stage_parser
from env_construction.environment.jsonl import run_main
from env_construction.rules.tool_rules import check_arguments, check_described, check_document


def integrate_functions(author: Author, draft: Draft) -> Draft:
    """Fill `draft.tools` and `draft.calls`; record how many documents became how many tools. Raises Rejected."""

    def check(toolset: Toolset) -> None:
        check_toolset(draft, toolset)
        if len(toolset.tools) > len(draft.documents):
            raise Rejected("merge_grew", f"{len(draft.documents)} documents became {len(toolset.tools)} tools")
        idle = {tool.name for tool in toolset.tools} - {call.name for call in toolset.calls}
        if idle:
            raise Rejected("merge_lost_call", f"no sub-question is served by {', '.join(sorted(idle))}")

    toolset = ask_until_valid(
        author, draft, "function_integration", lambda problem: author.integrate(draft, problem), check
    )
    draft.tools, draft.calls = toolset.tools, toolset.calls
    draft.provenance["merge"] = {"documents": len(draft.documents), "tools": len(draft.tools)}
    return draft


def check_toolset(draft: Draft, toolset: Toolset) -> None:
    """Distinct, valid tools; exactly one fitting call for each sub-question, in order. Raises Rejected."""
    documents = {tool.name: tool for tool in toolset.tools}
    if len(documents) < len(toolset.tools):
        raise Rejected("tool_name_twice", "two tools have one name")
    for document in toolset.tools:
        check_document(document)
        check_described(document)
    if [call.sub_question for call in toolset.calls] != [step.id for step in draft.plan.steps]:
        raise Rejected("call_missing", "expected one call for each sub-question, in order")
    for call in toolset.calls:
        if call.name not in documents:
            raise Rejected("call_to_unknown_tool", f"{call.sub_question} calls {call.name!r}, which is no tool")
        check_arguments(documents[call.name], call.arguments)


def main() -> int:
    arguments = stage_parser(__doc__, "python -m env_construction.function_integration").parse_args()
    authors = author_maker(arguments)
    return run_stage("function_integration", integrate_functions, read_drafts(arguments.source), arguments.out, authors)


if __name__ == "__main__":
    run_main(main)
