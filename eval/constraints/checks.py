"""Check one model turn after another against the constraints of a CCTU case.

| dimension | kind | checked | broken if |
| --- | --- | --- | --- |
| resource | rounds | final answer | it comes before the least number of turns |
| resource | calls, calls_of_tool | each call (the least number: final answer) | there are too many, or too few |
| behavior | parallel | each call (the least number: final answer) | a turn has too many calls (or kinds of tools) |
| behavior | order | each call | a tool that must come before was not called in an earlier turn |
| behavior | together | each call | the turn lacks the calls that must accompany it |
| toolset | tool, arguments, unreadable | each call | no such tool; arguments are not the documented ones; not a call |
| response | length, format, punctuation, identifiers | final answer | the limit or the case's own validator says so |

A turn without a readable call is the final answer. A call that breaks a constraint counts toward the limits like any
other. The authors' checker knows the kinds `tool` and `unreadable`, but loses both on the way to its results (an error
on the way is reported as a failed tool): `seen_as_published` leaves them out.

Source: CCTU (arXiv 2603.15309), "Constraint taxonomy"; the repository Junjie-Ye/CCTU, `utils/constraint_checker/`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from env_construction.environment.limits import CallCounts, length_problems, order_problems
from env_construction.environment.schema import ToolDocument
from env_construction.sandbox.tool_sandbox import ToolCall, ToolSandbox
from eval.constraints.cases import Rules
from eval.suites.games import GameFault
from reward.tool_calls import ParsedTurn

DIMENSIONS = {
    "resource": ("rounds", "calls", "calls_of_tool"),
    "behavior": ("parallel", "order", "together"),
    "toolset": ("tool", "arguments", "unreadable"),
    "response": ("length", "format", "punctuation", "identifiers"),
}
LOST_AS_PUBLISHED = ("tool", "unreadable")
_JSON_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}
# the validator's own answer as one JSON text, whatever it returns
_WRAPPER = """

def answer_is_valid(response):
    found = {function}(response)
    valid, text = found if isinstance(found, tuple) else (found, "")
    return {{"valid": bool(valid), "text": str(text)}}
"""


@dataclass(frozen=True)
class Violation:
    """A broken constraint. `call`: the place of the call in its turn; None: the whole turn."""

    kind: str
    text: str
    call: int | None = None


def seen_as_published(violations: Iterable[Violation]) -> list[Violation]:
    """The violations that reach the results of the authors' checker."""
    return [violation for violation in violations if violation.kind not in LOST_AS_PUBLISHED]


class TurnChecks:
    """The constraints of one case in play; `check` is called once per turn, in order."""

    def __init__(self, rules: Rules, tools: Sequence[ToolDocument], sandbox: ToolSandbox) -> None:
        self._rules, self._sandbox = rules, sandbox
        self._tools = {tool.name: tool.parameters for tool in tools}
        self._counts = CallCounts(rules)
        self._first_tool = ""
        self._most_parallel = 0
        self.round = 0

    @property
    def last_round(self) -> bool:
        """Whether the turn that was checked last is the last that the case allows."""
        return self.round >= self._rules.rounds[1]

    def check(self, turn: ParsedTurn) -> list[Violation]:
        """What this turn breaks, in the order of its calls."""
        self.round += 1
        found = [Violation("unreadable", "a block is not a readable call") for _ in turn.malformed]
        parallel = len({call.name for call in turn.calls}) if self._rules.parallel_by_type else len(turn.calls)
        self._most_parallel = max(self._most_parallel, parallel)
        if not turn.calls:
            return [*found, *self._of_answer(turn.content)]
        self._first_tool = self._first_tool or turn.calls[0].name
        for place in range(len(turn.calls)):
            found += [Violation(kind, text, place) for kind, text in self._of_call(turn.calls, place)]
        self._counts.end_turn()
        return found

    def _of_call(self, calls: Sequence[ToolCall], place: int) -> list[tuple[str, str]]:
        rules, name = self._rules, calls[place].name
        found = self._counts.add(name)
        so_far = [call.name for call in calls[: place + 1]]
        parallel = len(set(so_far)) if rules.parallel_by_type else len(so_far)
        if parallel > rules.parallel[1]:
            unit = "different tools" if rules.parallel_by_type else "calls"
            found.append(("parallel", f"{parallel} {unit} in one turn, at most {rules.parallel[1]:g} are allowed"))
        found += order_problems(name, self._orders(), self._counts.called)
        groups = [group for group in rules.together if name in group]
        made = Counter(call.name for call in calls)
        if groups and not any(Counter(group) <= made for group in groups):
            wanted = " or ".join(" + ".join(group) for group in groups)
            found.append(("together", f"{name} must be called in one turn with its companions: {wanted}"))
        if not found:
            found += self._of_arguments(calls[place])
        return found

    def _orders(self) -> Sequence[Sequence[str]]:
        conditional = self._rules.conditional_order
        if conditional:
            return [conditional] if self._first_tool == conditional[0] else []
        return self._rules.orders

    def _of_arguments(self, call: ToolCall) -> list[tuple[str, str]]:
        if call.name not in self._tools:
            return [("tool", f"there is no tool {call.name!r}")]
        problems = argument_problems(call.arguments, self._tools[call.name], "")
        return [("arguments", f"{call.name}: {'; '.join(problems)}")] if problems else []

    def _of_answer(self, answer: str) -> list[Violation]:
        rules = self._rules
        found = []
        for kind, unit, seen, least in (
            ("rounds", "turns", self.round, rules.rounds[0]),
            ("calls", "calls", self._counts.of_tool.total(), rules.calls[0]),
            ("parallel", "parallel calls in some turn", self._most_parallel, rules.parallel[0]),
        ):
            if seen < least:
                found.append(Violation(kind, f"the answer comes after {seen} {unit}, at least {least:g} are required"))
        found += [Violation(kind, text) for kind, text in length_problems(answer, rules)]
        for function, source in rules.validators.items():
            if text := self._broken(function, source, answer):
                found.append(Violation(function.removeprefix("validate_"), text))
        return found

    def _broken(self, function: str, source: str, answer: str) -> str:
        """Why the case's own validator rejects the answer; empty if it accepts it. Raises GameFault if it breaks."""
        code = source + _WRAPPER.format(function=function)
        [result] = self._sandbox.run({"answer_is_valid": code}, [ToolCall("answer_is_valid", {"response": answer})])
        if not result.ok:
            raise GameFault(f"the validator {function} failed: {result.output[:300]}")
        found = json.loads(result.output)
        return "" if found["valid"] else found["text"] or f"{function} rejects the answer"


def argument_problems(value: Any, schema: Any, place: str) -> list[str]:
    """How a value differs from its JSON Schema (types, required and unknown keys, enums), by place; [] if it fits."""
    if not isinstance(schema, dict):
        return []
    expected = schema.get("type")
    kinds = [expected] if isinstance(expected, str) else list(expected or ())
    if kinds and not any(_JSON_TYPES.get(kind, lambda _: True)(value) for kind in kinds):
        return [f"{place or 'the arguments'}: expected {' or '.join(map(str, kinds))}, got {type(value).__name__}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value!r} is not one of {schema['enum']!r}")
    if isinstance(value, dict) and (not kinds or "object" in kinds):
        known = schema.get("properties") or {}
        at = f"{place}." if place else ""
        found += [f"{at}{key} is missing" for key in schema.get("required") or () if key not in value]
        found += [f"{at}{key} is unknown" for key in sorted(set(value) - set(known))]
        for key in sorted(set(value) & set(known)):
            found += argument_problems(value[key], known[key], f"{at}{key}")
    if isinstance(value, list) and (not kinds or "array" in kinds):
        for index, item in enumerate(value):
            found += argument_problems(item, schema.get("items"), f"{place}[{index}]")
    return found
