"""Draw the constraints of an environment. Its gold plan and its gold answer keep them.

A constraint is drawn again if it breaks a rule, for example if its text gives a sub-answer away. The random numbers are
separate, so the question, tools and gold are the same with and without constraints.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from env_construction.building.author import Rejected
from env_construction.environment.constraints import (
    KINDS,
    STYLES,
    AnswerFormat,
    Budget,
    Constraint,
    ForbiddenTool,
    Kind,
    MaxCalls,
    Order,
    listed,
)
from env_construction.environment.matching import strict_match
from env_construction.environment.schema import Environment, ToolDocument
from env_construction.rules.constraint_rules import CONSTRAINT_RULES

MOST = 3
"""Constraints per environment; the least is 1."""
SPARE_CALLS = SPARE_COST = SPARE_WORDS = 2
"""How much more than the gold plan or answer needs is allowed at most."""
COSTS = (1, 5)
TRIES = 8


def constrained(environment: Environment, rng: random.Random) -> Environment:
    """The environment with 1 to MOST constraints of different kinds, listed after its question.

    Raises Rejected if no constraint fits.
    """
    wanted, found = rng.randint(1, MOST), environment
    for kind in rng.sample(KINDS, len(KINDS)):
        for _ in range(TRIES):
            drawn = _DRAWS[kind](environment, rng)
            if drawn is None:
                break
            larger = _with(environment, [*found.constraints, drawn])
            gives_away = any(strict_match(step.answer, drawn.text) for step in environment.sub_questions)
            if not gives_away and not any(rule(larger) for rule in CONSTRAINT_RULES):
                found = larger
                break
        if len(found.constraints) == wanted:
            return found
    if not found.constraints:
        raise Rejected("no_constraint_fits", "every constraint that was drawn breaks a rule")
    return found


def _with(environment: Environment, constraints: list[Constraint]) -> Environment:
    messages = [dict(message) for message in environment.messages]
    asked = next(message for message in messages if message["role"] == "user")
    asked["content"] += listed(constraints)
    return environment.model_copy(update={"messages": messages, "constraints": constraints})


def _max_calls(environment: Environment, rng: random.Random) -> MaxCalls:
    return MaxCalls(most=len(environment.gold_plan) + rng.randint(0, SPARE_CALLS))


def _order(environment: Environment, rng: random.Random) -> Order | None:
    """Two needed tools in the order of the gold plan, whether or not the second one needs the first one's answer."""
    names = list(dict.fromkeys(call.name for call in environment.gold_plan))
    if len(names) < 2:
        return None
    after, tool = sorted(rng.sample(names, 2), key=names.index)
    return Order(tool=tool, after=after)


def _forbidden_tool(environment: Environment, rng: random.Random) -> ForbiddenTool | None:
    """The unneeded tool that is most like a needed one, by the words in its name and parameters."""
    needed = {call.name for call in environment.gold_plan}
    words = {tool.name: _words(tool) for tool in environment.tools}
    shared = {name: max(len(words[name] & words[other]) for other in needed) for name in words if name not in needed}
    best = max(shared.values(), default=0)
    if not best:
        return None
    return ForbiddenTool(tool=rng.choice([name for name, count in shared.items() if count == best]))


def _words(tool: ToolDocument) -> set[str]:
    return {word for name in (tool.name, *tool.parameters.get("properties", {})) for word in name.lower().split("_")}


def _answer_format(environment: Environment, rng: random.Random) -> AnswerFormat | None:
    if not environment.answer:
        return None
    style = rng.choice(
        [item for item in STYLES if item != "capitals" or environment.answer.upper() != environment.answer]
    )
    spare = rng.randint(0, SPARE_WORDS)
    return AnswerFormat(style=style, most_words=len(environment.answer.split()) + spare if style == "words" else None)


def _budget(environment: Environment, rng: random.Random) -> Budget:
    costs = {tool.name: rng.randint(*COSTS) for tool in environment.tools}
    needed = sum(costs[call.name] for call in environment.gold_plan)
    return Budget(costs=costs, total=needed + rng.randint(0, SPARE_COST))


_DRAWS: dict[Kind, Callable[[Environment, random.Random], Constraint | None]] = {
    "max_calls": _max_calls,
    "order": _order,
    "forbidden_tool": _forbidden_tool,
    "answer_format": _answer_format,
    "budget": _budget,
}
