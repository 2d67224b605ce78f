"""What a question and its sub-questions must fulfil, whoever wrote them: shape, real dependencies, an answer that
follows.

Stage 1 checks an author's proposal with these rules, and the validator the record of any origin with those that a
record allows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from math import isclose
from typing import Any

from env_construction.building.author import ANSWER_RULES, Decomposition, Rejected, Step
from env_construction.environment.answer_tokens import tokens_of
from env_construction.environment.matching import answer_in_text, published_match, strict_match
from env_construction.environment.schema import Scenario
from env_construction.facts.calculator import number_of

HOPS: dict[Scenario, tuple[int, int]] = {
    "single_hop": (1, 1),
    "parallel_single_hop": (2, 6),
    "multi_hop": (2, 10),
    "parallel_multi_hop": (3, 11),
}
# Texts that tools return whatever they are asked, errors included: a sub-answer that they match is solved by chance.
COMMON_OUTPUTS = (
    'an error occured when call : unexpected keyword argument, missing 1 required positional argument: {"error": "unknown"}',
    '{"error": "must be a non-empty string", "result": null, "name": true, "code": false, "value": "no data for these two"}',
)


def check_decomposition(scenario: Scenario, plan: Decomposition) -> None:
    """Number and shape of the sub-questions, real dependencies, and a final answer that follows. Raises Rejected."""
    depends_on = {step.id: step.depends_on for step in plan.steps}
    if len(depends_on) < len(plan.steps):
        raise Rejected("sub_question_id_twice", "two sub-questions have one id")
    check_shape(scenario, depends_on)
    for step in plan.steps:
        if not step.answer.strip():
            raise Rejected("sub_answer_empty", f"sub-question {step.id} has no answer")
        if any(published_match(step.answer, text) for text in COMMON_OUTPUTS):
            raise Rejected("sub_answer_trivial", f"nearly any output matches {step.answer!r}, the answer of {step.id}")
        if answer_in_text(step.answer, plan.question, "published"):
            raise Rejected("sub_answer_in_question", f"the question gives away the answer of {step.id}")
        for other in plan.steps:
            if other.id != step.id and published_match(step.answer, other.answer):
                raise Rejected("sub_answers_overlap", f"the answer of {other.id} also matches {step.id}")
        _check_inputs(step, {other.id: other.answer for other in plan.steps})
    if plan.answer_rule not in ANSWER_RULES:
        raise Rejected(
            "answer_rule_unknown", f"answer rule {plan.answer_rule!r}; expected one of {', '.join(ANSWER_RULES)}"
        )
    if plan.answer_rule in ("list", "last"):
        needed = {name for step in plan.steps for name in step.depends_on}
        sinks = [step for step in plan.steps if step.id not in needed]
        missing = [step.id for step in sinks if step.answer not in plan.answer]
        if missing:
            raise Rejected("answer_does_not_follow", f"the final answer lacks the answer of {', '.join(missing)}")
    elif not _derived_answer_follows(plan):
        raise Rejected("answer_does_not_follow", f"{plan.answer!r} is no result of the rule {plan.answer_rule!r}")


def is_trivial(answer: str) -> bool:
    """`yes`, one digit, one letter: published matching finds such answers in nearly any output."""
    return len(answer.strip()) < 2 or answer.strip().lower() in ("yes", "no", "true", "false", "none", "null")


def _derived_answer_follows(plan: Decomposition) -> bool:
    """pick: an entity or a sub-answer; compare: one of these, or the difference of two sub-answers; count: at most as
    many as there are sub-questions; sum: of all sub-answers, or of those that no other sub-question needs."""
    needed = {name for step in plan.steps for name in step.depends_on}
    named = {step.answer for step in plan.steps} | {str(value) for step in plan.steps for value in step.inputs.values()}
    result = _first_number(plan.answer)
    if plan.answer_rule in ("pick", "compare") and plan.answer in named:
        return True
    if plan.answer_rule == "pick" or result is None:
        return False
    numbers = [_first_number(step.answer) for step in plan.steps]
    last = [number for step, number in zip(plan.steps, numbers, strict=True) if step.id not in needed]
    if plan.answer_rule == "count":
        return result == int(result) and 0 <= result <= len(plan.steps)
    if plan.answer_rule == "compare":
        known = [number for number in numbers if number is not None]
        return any(isclose(abs(a - b), abs(result), abs_tol=0.006) for a, b in combinations(known, 2))
    return any(
        isclose(sum(number for number in group if number is not None), result, abs_tol=0.006)
        for group in (numbers, last)
        if group and None not in group
    )


def _first_number(text: str) -> float | None:
    number = next((token.number for token in tokens_of(text) if token.number is not None), None)
    return None if number is None else float(number)


def check_shape(scenario: Scenario, depends_on: dict[str, list[str]]) -> None:
    """The dependencies have the scenario's shape. Raises Rejected.

    `depends_on` lists sub-questions in order: an id may depend on earlier ids only, which excludes cycles.
    """
    low, high = HOPS[scenario]
    if not low <= len(depends_on) <= high:
        raise Rejected("wrong_hops", f"{scenario} has {low} to {high} sub-questions, not {len(depends_on)}")
    seen: list[str] = []
    uses = dict.fromkeys(depends_on, 0)
    for name, earlier in depends_on.items():
        for other in earlier:
            if other not in seen:
                raise Rejected(
                    "dependency_not_earlier", f"{name} depends on {other!r}, which is no earlier sub-question"
                )
            uses[other] += 1
        seen.append(name)
    counts = [len(set(earlier)) for earlier in depends_on.values()]
    if scenario in ("single_hop", "parallel_single_hop"):
        if any(counts):
            raise Rejected("wrong_shape", f"sub-questions of a {scenario} do not depend on each other")
        return
    if scenario == "multi_hop":
        if counts[0] or any(count != 1 for count in counts[1:]) or any(count > 1 for count in uses.values()):
            raise Rejected("wrong_shape", "a multi_hop is one chain: every sub-question needs exactly the one before")
        return
    if max(counts) < 2 and max(uses.values()) < 2:
        raise Rejected("wrong_shape", "a parallel_multi_hop needs at least one fork or join")


def _check_inputs(step: Step, answers: dict[str, str]) -> None:
    """A dependency is real: the earlier answer is an input of the later lookup."""
    for name in step.depends_on:
        if not answer_in_arguments(answers[name], step.inputs):
            raise Rejected(
                "dependency_not_used", f"{step.id} depends on {name}, but no input holds its answer {answers[name]!r}"
            )


def answer_in_arguments(answer: str, arguments: Mapping[str, Any]) -> bool:
    """An earlier answer stands in the arguments of a call: as text, or its number by value ("12,564 km" in 12564)."""
    text = json.dumps(arguments, ensure_ascii=False)
    number = number_of(answer.split(" ")[0])
    return (
        json.dumps(answer, ensure_ascii=False)[1:-1] in text
        or strict_match(answer, text)
        or (number is not None and strict_match(str(number), text))
    )
