"""Stage 4, complexity scaling: four strategies make the tools harder to use; the gold calls are rewritten along.

Functional generalization, parameter expansion, parameter type generalization, toolset extension: each can be switched
off, and each leaves in the provenance what it changed. Paper section 3.1, fourth stage.

In: JSONL of the stage before. Out: the same drafts with `tools` and `calls` made harder.

Example:
    python -m env_construction.complexity_scaling --in outputs/demo/3_integration.jsonl \\
        --out outputs/demo/4_scaling.jsonl
"""

from __future__ import annotations

from env_construction.building.author import STRATEGIES, Author, Draft, Toolset, ask_until_valid
from env_construction.building.stage_runner import author_maker, read_drafts, run_stage, stage_parser
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import ToolDocument
from env_construction.function_integration import check_toolset


def scale_complexity(author: Author, draft: Draft) -> Draft:
    """Apply the strategies that `draft.strategies` names, in the paper's order. Raises Rejected."""
    changes: dict[str, int] = {}
    for strategy in STRATEGIES:
        if strategy not in draft.strategies:
            continue
        toolset = _scaled(author, draft, strategy)
        changes[strategy] = changed_tools(draft.tools, toolset.tools)
        draft.tools, draft.calls = toolset.tools, toolset.calls
    draft.provenance["scaling"] = changes
    return draft


def _scaled(author: Author, draft: Draft, strategy: str) -> Toolset:
    return ask_until_valid(
        author,
        draft,
        f"complexity_scaling:{strategy}",
        lambda problem: author.scale(draft, strategy, problem),
        lambda toolset: check_toolset(draft, toolset),
    )


def changed_tools(before: list[ToolDocument], after: list[ToolDocument]) -> int:
    """How many tools are new or have another document."""
    old = {tool.name: tool for tool in before}
    return sum(old.get(tool.name) != tool for tool in after)


def main() -> int:
    arguments = stage_parser(__doc__, "python -m env_construction.complexity_scaling").parse_args()
    authors = author_maker(arguments)
    return run_stage("complexity_scaling", scale_complexity, read_drafts(arguments.source), arguments.out, authors)


if __name__ == "__main__":
    run_main(main)
