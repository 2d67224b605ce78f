"""Rules of constraints: they name tools, agree with each other, are stated, and the gold plan and answer keep them."""

from __future__ import annotations

from collections import Counter

from env_construction.environment.constraints import AnswerFormat, Budget, ForbiddenTool, Kind, Order, first_broken
from env_construction.environment.matching import answer_in_text, only_answer_in_text
from env_construction.environment.schema import Environment
from env_construction.rules.finding import Finding

ONLY_ONCE: tuple[Kind, ...] = ("max_calls", "answer_format", "budget")


def constraints_name_tools(environment: Environment) -> Finding | None:
    """Constraints name tools of the environment, and a budget has the cost of each."""
    names = {tool.name for tool in environment.tools}
    for item in environment.constraints:
        named: set[str] = set()
        if isinstance(item, Budget):
            named = set(item.costs)
            if missing := sorted(names - named):
                return Finding("constraints_name_tools", f"the budget has no cost of {', '.join(missing)}")
        elif isinstance(item, Order):
            named = {item.tool, item.after}
        elif isinstance(item, ForbiddenTool):
            named = {item.tool}
        if unknown := sorted(named - names):
            return Finding("constraints_name_tools", f"{item.kind} names {', '.join(unknown)}, which is no tool")
    return None


def constraints_agree(environment: Environment) -> Finding | None:
    """Constraints do not contradict each other: no circular order, no tool after a forbidden one, no two limits."""
    kinds = Counter(item.kind for item in environment.constraints)
    if twice := [kind for kind in ONLY_ONCE if kinds[kind] > 1]:
        return Finding("constraints_agree", f"{twice[0]} occurs {kinds[twice[0]]} times, expected once at most")
    forbidden = {item.tool for item in environment.constraints if isinstance(item, ForbiddenTool)}
    waits_for: dict[str, set[str]] = {}
    for item in environment.constraints:
        if isinstance(item, Order):
            if item.after in forbidden:
                return Finding("constraints_agree", f"{item.tool} must come after {item.after}, which is forbidden")
            waits_for.setdefault(item.tool, set()).add(item.after)
    while free := [tool for tool, others in waits_for.items() if not others & waits_for.keys()]:
        for tool in free:
            del waits_for[tool]
    circle = ", ".join(sorted(waits_for))
    return Finding("constraints_agree", f"the order is circular: {circle}") if circle else None


def constraints_are_stated(environment: Environment) -> Finding | None:
    """The question states every constraint, word for word."""
    for item in environment.constraints:
        if item.text not in environment.question:
            return Finding("constraints_are_stated", f"the question lacks {item.text!r}")
    return None


def gold_answer_keeps_format(environment: Environment) -> Finding | None:
    """The final answer can be given in the form that is asked for, and is then right under both matchings."""
    rule, answer = "gold_answer_keeps_format", environment.answer
    for item in environment.constraints:
        if not isinstance(item, AnswerFormat):
            continue
        if answer is None:
            return Finding(rule, "an answer format, but no final answer")
        said = item.write(answer)
        if broken := first_broken([item], [((), said)]):
            return Finding(rule, f"{said!r}: {broken[0].text}")
        others = [step.answer for step in environment.sub_questions]
        if not answer_in_text(answer, said, "published") or not only_answer_in_text(answer, said, others):
            return Finding(rule, f"{said!r} does not count as the answer {answer!r}")
    return None


def gold_plan_keeps_constraints(environment: Environment) -> Finding | None:
    """The gold plan as written, one call per turn, breaks no constraint.

    Then no other order with the same dependencies breaks one either, if each call waits as the constraints ask.
    """
    limits = [item for item in environment.constraints if not isinstance(item, AnswerFormat)]
    if broken := first_broken(limits, [((call.name,), "") for call in environment.gold_plan]):
        message = f"{broken[0].kind}, call {broken[0].turn}: {broken[0].text}"
        return Finding("gold_plan_keeps_constraints", message)
    return None


CONSTRAINT_RULES = (
    constraints_name_tools,
    constraints_agree,
    constraints_are_stated,
    gold_answer_keeps_format,
    gold_plan_keeps_constraints,
)
