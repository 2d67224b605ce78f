"""The data that the five stages pass on, and the interface of an author. Each stage is written once, against `Author`.

An author only proposes. The stage checks the proposal. If it breaks a rule, the stage shows the author the message and
asks again, at most `author.tries` times. Then it rejects the draft under the rule's name. Paper section 3.1, five
stages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field

from env_construction.building.hold_out import HoldOut
from env_construction.environment.schema import GoldCall, Scenario, Split, ToolDocument
from env_construction.environment.state import EnvironmentState

STRATEGIES = ("functional_generalization", "parameter_expansion", "parameter_type_generalization", "toolset_extension")
ANSWER_RULES = ("list", "last", "pick", "compare", "count", "sum")

Proposal = TypeVar("Proposal")


class Step(BaseModel):
    """A sub-question with its answer. `inputs`: the named values that determine it; `function`: what is asked."""

    id: str
    question: str
    answer: str
    depends_on: list[str] = Field(default_factory=list)
    function: str
    inputs: dict[str, Any]


class Decomposition(BaseModel):
    """Stage 1. `answer_rule` says how the final answer follows from the sub-answers (one of ANSWER_RULES)."""

    question: str
    steps: list[Step]
    answer: str
    answer_rule: str


class WrittenDocument(BaseModel):
    """Stage 2: the tool document for one sub-question, and the arguments of the call that answers it."""

    document: ToolDocument
    arguments: dict[str, Any]


class Toolset(BaseModel):
    """Stages 3 and 4: the tools after merging or scaling, and every sub-question's call rewritten for them."""

    tools: list[ToolDocument]
    calls: list[GoldCall]


class Topic(BaseModel):
    """The subject of an environment: a user's question (its scenario may be unknown), or a domain to write one for."""

    question: str = ""
    scenario: Scenario | None = None
    domain: str = ""


class Draft(BaseModel):
    """An unfinished environment. Each stage fills its own part. `notes` is the author's memory between stages.

    `topic` is None if the author chooses the subject. `state` is the database of a stateful environment.
    """

    id: str
    seed: int
    split: Split
    index: int
    attempt: int = 0
    level: str
    scenario: Scenario
    author: str
    strategies: list[str] = Field(default_factory=lambda: list(STRATEGIES))
    counterfactual: bool = True
    hold_out: HoldOut = HoldOut()
    constraints: bool = False
    topic: Topic | None = None
    decomposition: Decomposition | None = None
    documents: dict[str, WrittenDocument] = Field(default_factory=dict)
    tools: list[ToolDocument] = Field(default_factory=list)
    calls: list[GoldCall] = Field(default_factory=list)
    codes: dict[str, str] = Field(default_factory=dict)
    state: EnvironmentState | None = None
    notes: Any = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def plan(self) -> Decomposition:
        """The decomposition. Raises ValueError if stage 1 has not run."""
        if self.decomposition is None:
            raise ValueError(f"{self.id}: scenario decomposition has not run")
        return self.decomposition


class Rejected(Exception):
    """A draft that broke `rule` and could not be repaired."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(rule, message)  # both, so that the exception survives the way between processes
        self.rule = rule
        self.message = message

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


class AuthorFault(Exception):
    """The author did not answer for a reason outside the draft, such as an endpoint that is down. A retry may work."""


class BudgetSpent(Exception):
    """The next request might exceed the budget. No data is damaged: raise the budget and run again."""


class Author(Protocol):
    """Writes environments. `problem` is None at first, then the message of the rule that the last proposal broke."""

    name: str
    tries: int

    def decompose(self, draft: Draft, problem: str | None) -> Decomposition: ...

    def write_document(self, draft: Draft, step: Step, problem: str | None) -> WrittenDocument: ...

    def integrate(self, draft: Draft, problem: str | None) -> Toolset: ...

    def scale(self, draft: Draft, strategy: str, problem: str | None) -> Toolset: ...

    def deploy(self, draft: Draft, tool: ToolDocument, problem: str | None) -> str: ...

    def instruction(self, draft: Draft) -> str: ...


def stage_rng(draft: Draft, stage: str) -> random.Random:
    """The only source of randomness of a stage."""
    return random.Random(f"{draft.seed}:{draft.split}:{draft.index}:{draft.attempt}:{stage}")


def ask_until_valid(
    author: Author,
    draft: Draft,
    stage: str,
    propose: Callable[[str | None], Proposal],
    check: Callable[[Proposal], None],
    problem: str | None = None,
) -> Proposal:
    """Call `propose` until `check` accepts. Raises the last Rejected. Counts repairs in the draft's provenance.

    `problem`: what a later check found wrong with the stage's previous result.
    """
    for attempt in range(author.tries):
        try:
            proposal = propose(problem)
            check(proposal)
        except Rejected as rejected:
            if attempt == author.tries - 1:
                raise
            problem = rejected.message
            repairs = draft.provenance.setdefault("repairs", {})
            repairs[stage] = repairs.get(stage, 0) + 1
            continue
        return proposal
    raise Rejected("no_tries", f"{stage}: the author {author.name!r} allows no tries")
