"""Stage 5, localized deployment: implement every tool as a Python function that runs in the sandbox.

Paper section 3.1, fifth stage. `tool_rules.py` holds the static rules for source code. `validation.py` holds the rules
that only a run can check.

In: JSONL from stage 4. Out: the same drafts with `codes`. With --environments, also the complete records, verified in
the sandbox (those that break a rule are counted and left out).

Example:
    python -m env_construction.localized_deployment --in outputs/demo/4_scaling.jsonl \\
        --out outputs/demo/5_deployment.jsonl --environments outputs/demo/environments.jsonl
"""

from __future__ import annotations

import random
from pathlib import Path

from env_construction.building.author import Author, Draft, Rejected, ask_until_valid
from env_construction.building.constraint_draw import constrained
from env_construction.building.stage_runner import author_maker, read_drafts, run_stage, stage_parser
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import Environment, SubQuestion, ToolDocument, write_environments
from env_construction.rules.tool_rules import source_problem
from env_construction.validate import keep_valid


def deploy_tools(author: Author, draft: Draft) -> Draft:
    """Fill `draft.codes`. Raises Rejected."""
    for tool in draft.tools:
        draft.codes[tool.name] = _source_of(author, draft, tool)
    return draft


def redeploy_tool(author: Author, draft: Draft, tool: ToolDocument, problem: str) -> None:
    """Repair a tool's source after the final validation found `problem` in it. Raises Rejected."""
    draft.codes[tool.name] = _source_of(author, draft, tool, problem)


def _source_of(author: Author, draft: Draft, tool: ToolDocument, problem: str | None = None) -> str:
    def check(source: str) -> None:
        problem = source_problem(source, tool.name)
        if problem:
            raise Rejected(*problem)

    return ask_until_valid(
        author, draft, "localized_deployment", lambda shown: author.deploy(draft, tool, shown), check, problem
    )


def complete_environment(author: Author, draft: Draft) -> Environment:
    """The environment record of a draft that passed all five stages. Shuffled tools give no hint by their order.

    Raises Rejected if the draft asks for constraints and none fits.
    """
    tools = list(draft.tools)
    random.Random(f"{draft.seed}:{draft.split}:{draft.index}:order").shuffle(tools)
    calls = {call.sub_question: call for call in draft.calls}
    unsolved: dict[str, list[str]] = {}
    for step in draft.plan.steps:
        unsolved.setdefault(calls[step.id].name, []).append(step.answer)
    question = f"{author.instruction(draft)}\nQuestion: {draft.plan.question}"
    environment = Environment(
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
        state=draft.state,
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
    if draft.constraints:
        rng = random.Random(f"{draft.seed}:{draft.split}:{draft.index}:constraints")
        return constrained(environment, rng)
    return environment


def main() -> int:
    parser = stage_parser(__doc__, "python -m env_construction.localized_deployment")
    parser.add_argument("--environments", type=Path, help="also write complete, verified environments to this JSONL")
    arguments = parser.parse_args()
    authors = author_maker(arguments)
    code = run_stage("localized_deployment", deploy_tools, read_drafts(arguments.source), arguments.out, authors)
    if arguments.environments is not None:
        drafts = [draft for _, draft in read_drafts(arguments.out) if draft is not None]
        complete = [complete_environment(authors(draft.author), draft) for draft in drafts]
        kept = keep_valid(complete)
        write_environments(arguments.environments, kept)
        print(f"wrote {len(kept)} of {len(complete)} environments to {arguments.environments}")
    return code


if __name__ == "__main__":
    run_main(main)
