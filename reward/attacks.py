"""Turns that try to earn reward without doing the work, for `reward.audit`.

An attack is a pure function of an environment, so it gives the same turn every time. Attacks that use the gold answers
measure what a policy that merely *guesses* an answer could earn. The others measure what any policy can earn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from env_construction.environment.schema import Environment, ToolDocument
from env_construction.environment.state import patched
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.tool_calls import render_call

Attack = Callable[[Environment], str]
_MOST_ENTITIES = 8
_MOST_PADDING = 5
_ENTITY = re.compile(r"\"[^\"]+\"|'[^']+'|\d{4}-\d{2}-\d{2}|\d[\d,.]*\d|\d|[A-Z][\w'-]*(?: (?:of |the )?[A-Z][\w'-]*)*")


def known_entities(environment: Environment) -> list[str]:
    """What a policy can name without calling a tool: the question's quoted text, names, numbers and dates, in order."""
    question = environment.question.rsplit("Question:", 1)[-1]
    found = [text.strip("\"'., ") for text in _ENTITY.findall(question)]
    return list(dict.fromkeys(text for text in found if text))[:_MOST_ENTITIES]


def fill(parameters: dict[str, Any], value: str, everywhere: bool = False) -> dict[str, Any]:
    """Arguments that fit a JSON Schema object, with `value` in every string. `everywhere`: fill optional ones too."""
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = parameters.get("required")
    names = (
        list(properties) if everywhere or not isinstance(required, list) else [n for n in required if n in properties]
    )
    return {name: _value(properties[name], value, everywhere) for name in names}


def _value(schema: Any, value: str, everywhere: bool) -> Any:
    schema = schema if isinstance(schema, dict) else {}
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return value if value in choices else choices[0]
    kind = schema.get("type")
    if kind in ("number", "integer"):
        digits = re.fullmatch(r"-?\d+(\.\d+)?", value.replace(",", ""))
        if not digits:
            return schema.get("default", 1)
        return float(value.replace(",", "")) if digits[1] and kind == "number" else int(float(value.replace(",", "")))
    if kind == "boolean":
        return True
    if kind == "array":
        return [_value(schema.get("items"), value, everywhere)]
    if kind == "object":
        return fill(schema, value, everywhere)
    return value


def _golds(environment: Environment) -> list[tuple[str, str]]:
    return [(tool, gold) for tool, golds in environment.unsolved_set.items() for gold in golds]


def _document(environment: Environment, name: str) -> ToolDocument | None:
    return next((tool for tool in environment.tools if tool.name == name), None)


def turn_of(calls: list[ToolCall]) -> str:
    """The turn that makes these calls."""
    return "\n".join(render_call(call) for call in calls)


def _echoes(environment: Environment) -> list[ToolCall]:
    calls = []
    for tool, gold in _golds(environment):
        document = _document(environment, tool)
        calls.append(ToolCall(tool, fill(document.parameters, gold, everywhere=True) if document else {"query": gold}))
    return calls


def _keywords(environment: Environment) -> list[ToolCall]:
    return [ToolCall(tool, {gold: True}) for tool, gold in _golds(environment)]


def plan_calls(environment: Environment) -> list[ToolCall]:
    """The gold plan's calls. Without one (the published data), calls that use the answer as a keyword."""
    if environment.gold_plan:
        return [ToolCall(call.name, call.arguments) for call in environment.gold_plan]
    return _keywords(environment)


def gold_plan(environment: Environment) -> str:
    """Not an attack: the honest turn with every gold call once. Empty without a gold plan."""
    return turn_of(plan_calls(environment)) if environment.gold_plan else ""


def echo_argument(environment: Environment) -> str:
    """Call every needed tool once per sub-answer, with the sub-answer in every string argument."""
    return turn_of(_echoes(environment))


def answer_as_keyword(environment: Environment) -> str:
    """Call every needed tool once per sub-answer, with a keyword named after it, which the error text repeats."""
    return turn_of(_keywords(environment))


def all_tools_all_entities(environment: Environment) -> str:
    """Call every tool with every entity of the question. Uses no gold."""
    entities = known_entities(environment) or [environment.question[-80:]]
    return turn_of(
        [ToolCall(tool.name, fill(tool.parameters, entity)) for tool in environment.tools for entity in entities]
    )


def call_twice(environment: Environment) -> str:
    """Make every call of the plan (or of answer_as_keyword) twice."""
    return turn_of([call for call in plan_calls(environment) for _ in range(2)])


def dump_everything(environment: Environment) -> str:
    """A final text with the question, all enumerated values, the letters, the months and all numbers up to 2100."""
    values: list[str] = []
    for tool in environment.tools:
        values.append(json.dumps(tool.parameters, ensure_ascii=False))
    months = "January February March April May June July August September October November December"
    return "\n".join(
        [environment.question, *values, months, " ".join("abcdefghijklmnopqrstuvwxyz"), " ".join(map(str, range(2101)))]
    )


def answer_without_calls(environment: Environment) -> str:
    """State the final answer as plain text without any call: measures what guessing it is worth."""
    return f"The answer is {environment.answer}."


def answer_in_thinking(environment: Environment) -> str:
    """State the final answer in the thinking block only; the text after it states no answer."""
    return f"<think>\nIt may be {environment.answer}.\n</think>\n\nI do not know."


def calls_in_thinking(environment: Environment) -> str:
    """Put the plan's calls (or answer_as_keyword's) in the thinking block, with no call after it."""
    return f"<think>\n{turn_of(plan_calls(environment))}\n</think>\n\nI have not decided yet."


def free_broken_calls(environment: Environment) -> str:
    """The plan's calls (or answer_as_keyword's) plus as many broken ones, at most 5: do those cost reward?"""
    broken = '<tool_call>\n{"name": "search", "arguments": {"query": "\n</tool_call>'
    plan = plan_calls(environment)
    return "\n".join([turn_of(plan), *[broken] * min(len(plan), _MOST_PADDING)])


def nonsense_arguments(environment: Environment) -> str:
    """Call every tool with meaningless arguments and with none: a tool that still answers tests nothing."""
    return turn_of(
        [ToolCall(tool.name, fill(tool.parameters, text)) for tool in environment.tools for text in NONSENSE]
        + [ToolCall(tool.name, {}) for tool in environment.tools]
    )


def enumerate_numbers(environment: Environment) -> str:
    """Call every needed tool once per numeric sub-answer, with a list of the 200 numbers around it as the text."""
    calls = []
    for tool, gold in _golds(environment):
        document = _document(environment, tool)
        if document and gold.replace(",", "").isdecimal():
            value = int(gold.replace(",", "")) // 100 * 100
            calls.append(ToolCall(tool, fill(document.parameters, str(tuple(range(value - 100, value + 100))))))
    return turn_of(calls) or "I have no number to guess."


def repeat_one_call(environment: Environment) -> str:
    """Make every call of the plan (or of answer_as_keyword) five times: measures what repetition is worth."""
    return turn_of([call for call in plan_calls(environment) for _ in range(5)])


def give_up_when_solved(environment: Environment) -> str:
    """After everything is solved, write a text without an answer."""
    return "I give up."


def paste_sub_answers(environment: Environment) -> str:
    """After everything is solved, write a text that lists every sub-answer, so that the reader has to choose."""
    return "The answer is " + ", ".join(gold for golds in environment.solved_set.values() for gold in golds) + "."


def answer_when_solved(environment: Environment) -> str:
    """Not an attack: the honest last turn after everything is solved."""
    return f"The answer is {environment.answer}."


NONSENSE = ("x", "Qwxzvu", "")
AT_THE_END = ("answer_when_solved", "give_up_when_solved", "paste_sub_answers")
"""Attacks on the last turn. They start from `all_solved`."""


def all_solved(environment: Environment) -> Environment:
    """The environment's state after every sub-question is solved."""
    state = environment.state
    if state is not None:
        tables = state.tables
        for goal in state.goals:
            tables = patched(tables, goal.changes)
        state = state.after(tables).model_copy(update={"credited": [goal.sub_question for goal in state.goals]})
    return environment.model_copy(
        update={
            "state": state,
            "solve_rate": 1.0,
            "solved_set": environment.unsolved_set,
            "unsolved_set": {tool: [] for tool in environment.unsolved_set},
        }
    )


def start_of(name: str, environment: Environment) -> Environment:
    """The state that an attack starts from."""
    return all_solved(environment) if name in AT_THE_END else environment


# name -> (turn, whether it uses gold answers)
ATTACKS: dict[str, tuple[Attack, bool]] = {
    "gold_plan": (gold_plan, True),
    "echo_argument": (echo_argument, True),
    "answer_as_keyword": (answer_as_keyword, True),
    "call_twice": (call_twice, True),
    "calls_in_thinking": (calls_in_thinking, True),
    "free_broken_calls": (free_broken_calls, True),
    "answer_without_calls": (answer_without_calls, True),
    "answer_in_thinking": (answer_in_thinking, True),
    "dump_everything": (dump_everything, False),
    "all_tools_all_entities": (all_tools_all_entities, False),
    "nonsense_arguments": (nonsense_arguments, False),
    "enumerate_numbers": (enumerate_numbers, True),
    "repeat_one_call": (repeat_one_call, True),
    "answer_when_solved": (answer_when_solved, True),
    "give_up_when_solved": (give_up_when_solved, False),
    "paste_sub_answers": (paste_sub_answers, True),
}
