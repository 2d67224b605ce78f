"""Stage 5, localized deployment: every tool becomes a Python function that runs in the sandbox; the environment is complete.

Paper section 3.1, fifth stage. The static checks of the source stand here; what only a run can show is in `validation.py`.

In: JSONL of the stage before. Out: the same drafts with `codes`, and with --environments the complete records, verified in
the sandbox (those that break a rule are counted and left out).

Example:
    python -m env_construction.localized_deployment --in outputs/demo/4_scaling.jsonl --out outputs/demo/5_deployment.jsonl \
        --environments outputs/demo/environments.jsonl
"""

from __future__ import annotations

import ast
import random
from functools import lru_cache
from pathlib import Path
from types import CodeType

from env_construction.author import Author, Draft, Rejected, ask_until_valid
from env_construction.jsonl import run_main
from env_construction.schema import Environment, SubQuestion, ToolDocument, write_environments
from env_construction.stage_runner import author_maker, read_drafts, run_stage, stage_parser

ALLOWED_IMPORTS = frozenset(
    [
        "bisect",
        "calendar",
        "collections",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
        "enum",
        "fractions",
        "functools",
        "itertools",
        "json",
        "math",
        "operator",
        "random",
        "re",
        "statistics",
        "string",
        "textwrap",
        "time",
        "typing",
        "unicodedata",
        "zoneinfo",
    ]
)
FORBIDDEN_NAMES = frozenset(
    [
        "open",
        "exec",
        "eval",
        "compile",
        "input",
        "print",
        "breakpoint",
        "__import__",
        "globals",
        "locals",
        "vars",
        "exit",
        "quit",
        "help",
        "getattr",
        "setattr",
        "delattr",
        "memoryview",
        "__builtins__",
        "__loader__",
        "__spec__",
    ]
)


def deploy_tools(author: Author, draft: Draft) -> Draft:
    """Fill `draft.codes`. Raises Rejected."""
    for tool in draft.tools:
        draft.codes[tool.name] = _source_of(author, draft, tool)
    return draft


def redeploy_tool(author: Author, draft: Draft, tool: ToolDocument, problem: str) -> None:
    """Have a tool's source mended, after the final validation found `problem` with it. Raises Rejected."""
    draft.codes[tool.name] = _source_of(author, draft, tool, problem)


def _source_of(author: Author, draft: Draft, tool: ToolDocument, problem: str | None = None) -> str:
    def check(source: str) -> None:
        problem = source_problem(source, tool.name)
        if problem:
            raise Rejected(*problem)

    return ask_until_valid(
        author, draft, "localized_deployment", lambda shown: author.deploy(draft, tool, shown), check, problem
    )


@lru_cache(maxsize=4096)
def source_problem(source: str, name: str) -> tuple[str, str] | None:
    """(rule, message) of what is wrong with a tool's source, None if nothing: it parses, defines `name`, does no I/O."""
    try:
        module = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "source_does_not_parse", f"{name}: {error}"
    if not any(isinstance(inner, CodeType) and inner.co_name == name for inner in module.co_consts):
        return "source_lacks_function", f"{name}: no function of that name at top level"
    names = _names_in(module)
    if "import" in source or not names.isdisjoint(FORBIDDEN_NAMES) or any(other.startswith("__") for other in names):
        return _forbidden_use(source, name)
    return None


def _names_in(code: CodeType) -> set[str]:
    """Global names and attributes that compiled code and the functions in it refer to."""
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _names_in(inner)
    return names


def _forbidden_use(source: str, name: str) -> tuple[str, str] | None:
    """The careful look, which tells `open(...)` from a method or a local variable of that name."""
    tree = ast.parse(source)
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "."]
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES - bound:
            return "source_does_io", f"{name}: uses {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr.startswith("__") and node.attr.endswith("__"):
            return "source_does_io", f"{name}: reaches for {node.attr}"
        for module in modules:
            if module.split(".")[0] not in ALLOWED_IMPORTS:
                return "source_does_io", f"{name}: imports {module}"
    return None


def complete_environment(author: Author, draft: Draft) -> Environment:
    """The environment record of a draft that has been through all five stages. Tools are shuffled: order tells nothing."""
    tools = list(draft.tools)
    random.Random(f"{draft.seed}:{draft.split}:{draft.index}:order").shuffle(tools)
    calls = {call.sub_question: call for call in draft.calls}
    unsolved: dict[str, list[str]] = {}
    for step in draft.plan.steps:
        unsolved.setdefault(calls[step.id].name, []).append(step.answer)
    question = f"{author.instruction(draft)}\nQuestion: {draft.plan.question}"
    return Environment(
        messages=[{"role": "user", "content": question}],
        tools=tools,
        codes={tool.name: draft.codes[tool.name] for tool in tools},
        unsolved_set=unsolved,
        answer=draft.plan.answer,
        data_source=f"{draft.author}/{draft.scenario}",
        split=draft.split,
        id=draft.id,
        scenario=draft.scenario,
        sub_questions=[
            SubQuestion(
                id=step.id,
                question=step.question,
                answer=step.answer,
                tool=calls[step.id].name,
                depends_on=step.depends_on,
            )
            for step in draft.plan.steps
        ],
        gold_plan=draft.calls,
        provenance={
            "author": draft.author,
            "level": draft.level,
            "seed": draft.seed,
            "index": draft.index,
            "attempt": draft.attempt,
            "counterfactual": draft.counterfactual,
            "answer_rule": draft.plan.answer_rule,
            "functions": [step.function for step in draft.plan.steps],
            **draft.provenance,
        },
    )


def main() -> int:
    parser = stage_parser(__doc__)
    parser.add_argument("--environments", type=Path, help="JSONL for the complete, verified environments")
    arguments = parser.parse_args()
    authors = author_maker(arguments)
    code = run_stage("localized_deployment", deploy_tools, read_drafts(arguments.source), arguments.out, authors)
    if arguments.environments is not None:
        # Validation replays environments of any origin, and so stands above this stage: it is needed here alone.
        from env_construction.validate import keep_valid

        drafts = [draft for _, draft in read_drafts(arguments.out) if draft is not None]
        complete = [complete_environment(authors(draft.author), draft) for draft in drafts]
        kept = keep_valid(complete)
        write_environments(arguments.environments, kept)
        print(f"wrote {len(kept)} of {len(complete)} environments to {arguments.environments}")
    return code


if __name__ == "__main__":
    run_main(main)
