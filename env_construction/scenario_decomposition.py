"""Stage 1, scenario decomposition: a question, its sub-questions as a directed acyclic graph, and all answers.

Paper section 3.1, first stage. The author proposes. The rules in `question_rules.py` apply to every author.

In: a seed (fact author), or questions or domains (LLM author,
`--author llm --base-url URL --model M --questions FILE`). Out: JSONL of drafts with `decomposition`.

Example:
    python -m env_construction.scenario_decomposition --author facts --level compact --split train --n 20 --seed 1 \
        --out outputs/demo/1_decomposition.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from env_construction.building.author import STRATEGIES, Author, Draft, ask_until_valid
from env_construction.building.author_options import add_llm_options, llm_options, read_topics, refuse_llm_options
from env_construction.building.stage_runner import author_maker, run_stage, without_option
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import SCENARIOS, Split
from env_construction.facts.levels import LEVELS
from env_construction.rules.question_rules import check_decomposition


def decompose(author: Author, draft: Draft, problem: str | None = None) -> Draft:
    """Fill `draft.decomposition`. Raises Rejected with the rule that the author could not meet.

    `problem`: what the final validation found wrong with the existing decomposition.
    """
    draft.decomposition = ask_until_valid(
        author,
        draft,
        "scenario_decomposition",
        lambda problem: author.decompose(draft, problem),
        lambda plan: check_decomposition(draft.scenario, plan),
        problem,
    )
    return draft


def main() -> int:
    from env_construction.building.environment_builder import BuildConfiguration, new_draft  # which imports this module

    parser = ScriptParser(__doc__, "python -m env_construction.scenario_decomposition")
    parser.add_argument("--author", default="facts", help="which author writes the questions (default: facts)")
    parser.add_argument("--level", default="compact", choices=list(LEVELS), help="complexity (default: compact)")
    parser.add_argument(
        "--split", default="train", choices=get_args(Split), help="whose entities to use (default: train)"
    )
    parser.add_argument("--n", type=int, default=20, help="number of questions (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="the only source of randomness (default: 1)")
    parser.add_argument("--factual", action="store_true", help="real facts instead of permuted ones")
    parser.add_argument("--out", type=Path, required=True, help="JSONL to append to; existing drafts are kept")
    without_option(parser)
    add_llm_options(parser)
    arguments = parser.parse_args()
    refuse_llm_options(arguments)
    authors = author_maker(arguments)
    author = authors(arguments.author)
    topics = read_topics(llm_options(arguments, arguments.out.parent)) if author.name == "llm" else [None]
    configuration = BuildConfiguration(
        author=arguments.author,
        level=arguments.level,
        seed=arguments.seed,
        strategies=tuple(name for name in STRATEGIES if name not in arguments.without),
        counterfactual="off" if arguments.factual else "on",
    )
    # a domain gets a question of every scenario in turn
    rounds = 1 if arguments.questions else len(SCENARIOS)
    drafts = (
        new_draft(configuration, arguments.split, index, 0, topics[index // rounds % len(topics)])
        for index in range(min(arguments.n, len(topics)) if arguments.questions else arguments.n)
    )
    named = (({"id": draft.id}, draft) for draft in drafts)
    return run_stage("scenario_decomposition", decompose, named, arguments.out, authors)


if __name__ == "__main__":
    run_main(main)
