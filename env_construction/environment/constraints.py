"""The constraints of an environment: how the question may be solved. Each is checked after every turn without a model.

The key `constraints` of a record is a list of objects, and the question ends with the list of their texts:

| kind | keys | broken if |
| --- | --- | --- |
| max_calls | most | a call is one too many |
| order | tool, after | `tool` is called, and no earlier turn called `after` |
| forbidden_tool | tool | the tool is called |
| answer_format | style, most_words (style words only) | the final answer has another form, or there is none |
| budget | costs (by tool), total | the calls so far cost more |

Calls count whether they succeed or not, as in CCTU (arXiv 2603.15309). The reward does not depend on constraints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from env_construction.environment.limits import CallCounts, Limits, length_problems, order_problems

Kind = Literal["max_calls", "order", "forbidden_tool", "answer_format", "budget"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Style = Literal["capitals", "json", "period", "words"]
STYLES: tuple[Style, ...] = get_args(Style)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MaxCalls(_Record):
    """At most `most` calls in the episode."""

    kind: Literal["max_calls"] = "max_calls"
    most: int = Field(ge=1)

    @property
    def text(self) -> str:
        return f"Make at most {self.most} tool call{'s' if self.most > 1 else ''} in total."

    @property
    def limits(self) -> Limits:
        return Limits(calls=(0, self.most))


class Order(_Record):
    """`tool` only after a turn that called `after`."""

    kind: Literal["order"] = "order"
    tool: str
    after: str

    @property
    def text(self) -> str:
        return f"Call {self.tool} only after you have called {self.after} in an earlier turn."

    @property
    def limits(self) -> Limits:
        return Limits(orders=((self.after, self.tool),))


class ForbiddenTool(_Record):
    """No call of `tool`."""

    kind: Literal["forbidden_tool"] = "forbidden_tool"
    tool: str

    @property
    def text(self) -> str:
        return f"Do not call {self.tool}."

    @property
    def limits(self) -> Limits:
        return Limits(calls_of_tool={self.tool: 0})


class Budget(_Record):
    """All calls together cost at most `total`. `costs` has the price of one call for every tool."""

    kind: Literal["budget"] = "budget"
    costs: dict[str, Annotated[int, Field(ge=0)]] = Field(min_length=1)
    total: int = Field(ge=1)

    @property
    def text(self) -> str:
        prices = ", ".join(f"{tool} {cost}" for tool, cost in self.costs.items())
        return f"Each call has a cost: {prices}. Spend at most {self.total} in total."

    @property
    def limits(self) -> Limits:
        return Limits(costs=self.costs, budget=self.total)


class AnswerFormat(_Record):
    """The form of the final answer: the last turn's text without its thinking."""

    kind: Literal["answer_format"] = "answer_format"
    style: Style
    most_words: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _words_have_a_limit(self) -> AnswerFormat:
        if (self.style == "words") != (self.most_words is not None):
            raise ValueError("expected most_words with the style words, and with no other")
        return self

    @property
    def text(self) -> str:
        texts: dict[Style, str] = {
            "capitals": "Write the final answer in capital letters.",
            "json": 'Give the final answer as JSON and nothing else: {"answer": "..."}.',
            "period": "End the final answer with a period.",
            "words": f"Use at most {self.most_words} word{'s' if self.most_words != 1 else ''} for the final answer.",
        }
        return texts[self.style]

    @property
    def limits(self) -> Limits:
        return Limits(length=(1, self.most_words or float("inf")), length_in_words=True)

    def problem(self, said: str) -> str:
        """Why a final text has another form; empty if it has this one."""
        if self.style == "capitals" and said != said.upper():
            return "the answer has small letters"
        if self.style == "period" and not said.rstrip().endswith("."):
            return "the answer does not end with a period"
        if self.style == "json" and not _is_answer_object(said):
            return 'the answer is not a JSON object with the one key "answer" and a text or number'
        return ""

    def write(self, answer: str) -> str:
        """The answer in this form."""
        texts: dict[Style, str] = {
            "capitals": answer.upper(),
            "json": json.dumps({"answer": answer}, ensure_ascii=False),
            "period": f"The answer is {answer}.",
            "words": answer,
        }
        return texts[self.style]


Constraint = Annotated[
    MaxCalls | Order | ForbiddenTool | AnswerFormat | Budget,
    Field(discriminator="kind"),
]


def _is_answer_object(said: str) -> bool:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or list(found) != ["answer"]:
        return False
    return isinstance(found["answer"], str | int | float) and not isinstance(found["answer"], bool)


def listed(constraints: Sequence[Constraint]) -> str:
    """The end of a question with these constraints; empty if there are none."""
    return "\n\nConstraints:" + "".join(f"\n- {item.text}" for item in constraints) if constraints else ""


def orders_of(constraints: Sequence[Constraint]) -> list[Sequence[str]]:
    """The lists of tools that must be called one after another."""
    return [order for item in constraints for order in item.limits.orders]


def final_text(answer: str, constraints: Sequence[Constraint]) -> str:
    """A final turn that gives the answer in the form that is asked for."""
    form = next((item for item in constraints if isinstance(item, AnswerFormat)), None)
    return form.write(answer) if form else f"The answer is {answer}."


@dataclass(frozen=True)
class Broken:
    """A broken constraint. `place`: its place in the list; `turn`: the turn that broke it, from 1."""

    place: int
    kind: Kind
    turn: int
    text: str


class ConstraintChecks:
    """The constraints of one episode in play; `check` is called once per turn, in order."""

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self._items = [(item, item.limits, CallCounts(item.limits)) for item in constraints]
        self._turn = 0

    def check(self, calls: Sequence[str], said: str) -> list[Broken]:
        """What this turn breaks. `calls`: the tools that it calls; `said`: its text, final if there are no calls."""
        self._turn += 1
        found = []
        for place, (item, limits, counts) in enumerate(self._items):
            problems = [
                text
                for name in calls
                for _, text in (*counts.add(name), *order_problems(name, limits.orders, counts.called))
            ]
            counts.end_turn()
            if not calls and isinstance(item, AnswerFormat):
                problems += [text for _, text in length_problems(said, limits)]
                problems += [text for text in [item.problem(said)] if text]
            if problems:
                found.append(Broken(place, item.kind, self._turn, problems[0]))
        return found

    def unanswered(self) -> list[Broken]:
        """What an episode breaks that ends now, without a final answer."""
        return [
            Broken(place, item.kind, self._turn, "there is no final answer")
            for place, (item, _, _) in enumerate(self._items)
            if isinstance(item, AnswerFormat)
        ]


def first_broken(
    constraints: Sequence[Constraint], turns: Sequence[tuple[Sequence[str], str]], answered: bool = True
) -> list[Broken]:
    """For each constraint that an episode breaks, where it breaks it first. `turns`: the arguments of `check`."""
    checks = ConstraintChecks(constraints)
    found = [broken for calls, said in turns for broken in checks.check(calls, said)]
    if not answered:
        found += checks.unanswered()
    return list({broken.place: broken for broken in reversed(found)}.values())[::-1]
