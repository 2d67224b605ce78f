"""One verified environment from (configuration, split, index): the five stages, validation, and further attempts.

The result depends on nothing else, so environments can be built in any order and on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from env_construction.building.author import STRATEGIES, Author, Draft, Rejected, Topic
from env_construction.building.hold_out import HoldOut
from env_construction.building.mixed_author import author_at
from env_construction.complexity_scaling import scale_complexity
from env_construction.document_generation import generate_documents
from env_construction.environment.schema import SCENARIOS, Environment, Scenario, Split
from env_construction.function_integration import integrate_functions
from env_construction.localized_deployment import complete_environment, deploy_tools
from env_construction.rules.validation import validate_environments
from env_construction.sandbox.tool_sandbox import ToolSandbox
from env_construction.scenario_decomposition import decompose

ATTEMPTS = 60
FACTUAL_ATTEMPTS = 20
"""After this many attempts with real facts, an `auto` environment becomes counterfactual."""


@dataclass(frozen=True)
class BuildConfiguration:
    """What an environment depends on, besides its split and index."""

    author: str
    level: str
    seed: int
    strategies: tuple[str, ...] = STRATEGIES
    counterfactual: str = "auto"
    hold_out: tuple[str, ...] = ()
    in_domain_test: bool = False
    """With `hold_out`: the test split uses nothing that is held out either."""
    constraints: bool = False


@dataclass
class Built:
    """One accepted environment, with its rejected attempts and its flags, both counted by "scenario/rule"."""

    index: int
    environment: Environment
    rejections: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)


def scenario_of(index: int) -> Scenario:
    """The scenarios alternate, so any multiple of four environments has equal shares."""
    return SCENARIOS[index % len(SCENARIOS)]


def is_counterfactual(configuration: BuildConfiguration, split: Split, index: int, attempt: int) -> bool:
    """`auto`: permuted facts in train and dev; in test, every other round of four scenarios tries real facts first."""
    if configuration.counterfactual == "auto":
        return split != "test" or (index // len(SCENARIOS)) % 2 == 0 or attempt >= FACTUAL_ATTEMPTS
    return configuration.counterfactual == "on"


def new_draft(
    configuration: BuildConfiguration, split: Split, index: int, attempt: int, topic: Topic | None = None
) -> Draft:
    """An empty draft; its id is permanent. The topic's scenario overrides the index's."""
    author = author_at(configuration.author, index)
    return Draft(
        id=f"{author}-{configuration.level}-{configuration.seed}-{split}-{index:07d}",
        seed=configuration.seed,
        split=split,
        index=index,
        attempt=attempt,
        level=configuration.level,
        scenario=(topic.scenario if topic else None) or scenario_of(index),
        author=author,
        strategies=list(configuration.strategies),
        counterfactual=is_counterfactual(configuration, split, index, attempt),
        hold_out=HoldOut(configuration.hold_out, configuration.in_domain_test),
        constraints=configuration.constraints,
        topic=topic,
    )


def run_stages(author: Author, draft: Draft, problem: str | None = None) -> None:
    """Run all five stages. `problem` is what the validation of the previous result found. Raises Rejected."""
    draft.documents, draft.codes = {}, {}
    decompose(author, draft, problem)
    generate_documents(author, draft)
    integrate_functions(author, draft)
    scale_complexity(author, draft)
    deploy_tools(author, draft)


def build_unverified(author: Author, draft: Draft) -> Environment:
    """The environment that the five stages build. Raises Rejected."""
    run_stages(author, draft)
    return complete_environment(author, draft)


def build_chunk(
    author: Author,
    configuration: BuildConfiguration,
    split: Split,
    indices: list[int],
    sandbox: ToolSandbox,
    first_attempts: Mapping[int, int] | None = None,
) -> list[Built]:
    """Build and validate the environments of `indices`, each with as many attempts as it needs.

    Raises Rejected("attempts_exhausted") with the rules that the attempts broke.
    """
    attempts = {index: (first_attempts or {}).get(index, 0) for index in indices}
    last = {index: attempt + ATTEMPTS for index, attempt in attempts.items()}
    rejections: dict[int, Counter[str]] = {index: Counter() for index in indices}
    done: dict[int, Built] = {}
    while len(done) < len(indices):
        drafted: list[tuple[int, Environment]] = []
        for index in indices:
            while index not in done:
                if attempts[index] == last[index]:
                    raise Rejected("attempts_exhausted", f"{split} environment {index}: {dict(rejections[index])}")
                attempts[index] += 1
                try:
                    draft = new_draft(configuration, split, index, attempts[index] - 1)
                    drafted.append((index, build_unverified(author, draft)))
                    break
                except Rejected as rejected:
                    rejections[index][f"{scenario_of(index)}/{rejected.rule}"] += 1
        findings = validate_environments([environment for _, environment in drafted], sandbox)
        for (index, environment), found in zip(drafted, findings, strict=True):
            fatal = next((item.rule for item in found if item.fatal), None)
            if fatal:
                rejections[index][f"{scenario_of(index)}/{fatal}"] += 1
                continue
            flags = Counter(f"{scenario_of(index)}/{item.rule}" for item in found)
            if found:
                environment.provenance["flags"] = sorted({item.rule for item in found})
            done[index] = Built(index, environment, rejections[index], flags)
    return [done[index] for index in indices]
