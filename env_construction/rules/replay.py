"""Replay an environment's gold plan in the sandbox: the calls that the validator makes, and their results.

The calls are: the gold plan three times, each in another order that respects the dependencies; each gold call with a
wrong entity and with another enum choice; every other tool with the entities of each gold call. Gold answers stay here:
the sandbox gets only source and arguments.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from env_construction.environment.argument_filler import Fixed, fill
from env_construction.environment.schema import Environment, GoldCall, ToolDocument
from env_construction.environment.tool_schema import CannotApply, fits, plain_schema
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult

RUNS = 3
SLOW_S = 1.0
UNKNOWN = "Qwxzvu"
"""A name that is in no table."""


@dataclass
class Replay:
    """The results from the sandbox.

    `runs` holds the gold plan's results by sub-question id, in the order of the calls, one entry per order. `wrong`
    holds the results of each sub-question's call with a wrong entity or choice. `elsewhere` holds the results of other
    tools that got the call's arguments.
    """

    runs: list[dict[str, ToolResult]] = field(default_factory=list)
    wrong: dict[str, list[ToolResult]] = field(default_factory=dict)
    elsewhere: list[ToolResult] = field(default_factory=list)


class ReplayPlan:
    """The jobs of one environment, and how to read their results."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.documents = {tool.name: tool for tool in environment.tools}
        self.orders = gold_orders(environment)
        self.wrong = {call.sub_question: list(self._wrong_calls(call)) for call in environment.gold_plan}
        self.elsewhere = list(self._calls_elsewhere())
        needed = {call.name: environment.codes[call.name] for call in environment.gold_plan}
        self.jobs = [
            SandboxJob(needed, [ToolCall(call.name, call.arguments) for call in order]) for order in self.orders
        ]
        self.jobs.append(SandboxJob(needed, [call for calls in self.wrong.values() for call in calls]))
        self.jobs.append(SandboxJob(environment.codes, self.elsewhere))

    def read(self, results: Sequence[list[ToolResult]]) -> Replay:
        """`results` are in the order of `jobs`."""
        replay = Replay(elsewhere=results[-1])
        for order, outcome in zip(self.orders, results[:RUNS], strict=True):
            replay.runs.append({call.sub_question: result for call, result in zip(order, outcome, strict=True)})
        remaining = iter(results[RUNS])
        replay.wrong = {name: [next(remaining) for _ in calls] for name, calls in self.wrong.items()}
        return replay

    def machine_may_be_at_fault(self, replay: Replay) -> bool:
        """Whether a slow call may be due to this machine's load."""
        results = [result for run in replay.runs for result in run.values()]
        return any(result.seconds > SLOW_S for result in results)

    def _schema(self, call: GoldCall, name: str) -> dict[str, Any]:
        parameters = self.documents[call.name].parameters
        return plain_schema(parameters.get("properties", {}).get(name, True), parameters)

    def _wrong_calls(self, call: GoldCall) -> Iterator[ToolCall]:
        """An unknown entity, an entity of another gold call, and the next choice of each enum."""
        entities = [name for name in call.arguments if "enum" not in self._schema(call, name)]
        names = [name for other in self.environment.gold_plan for name in names_in(other.arguments, self._enums(other))]
        own = set(names_in(call.arguments, self._enums(call)))
        # Exclude the call's own answer: an error text that quotes it would look like an answer.
        answer = next(item.answer for item in self.environment.sub_questions if item.id == call.sub_question)
        strangers = [UNKNOWN, *[name for name in dict.fromkeys(names) if name not in own and name not in answer][:1]]
        for stranger in strangers if own else []:
            swapped = {
                name: swap(value, stranger) if name in entities[:1] else value for name, value in call.arguments.items()
            }
            if swapped != call.arguments and not self._is_gold(call.name, swapped):
                yield ToolCall(call.name, swapped)
        for name, value in call.arguments.items():
            options = self._schema(call, name).get("enum", [])
            if value in options and len(options) > 1:
                swapped = {**call.arguments, name: options[(options.index(value) + 1) % len(options)]}
                if not self._is_gold(call.name, swapped):
                    yield ToolCall(call.name, swapped)

    def _calls_elsewhere(self) -> Iterator[ToolCall]:
        """Every other tool, called with the entities of each gold call as its own document allows."""
        seen: set[str] = set()
        for call in self.environment.gold_plan:
            names = names_in(call.arguments, self._enums(call))
            for tool in self.environment.tools:
                if tool.name == call.name or not names:
                    continue
                arguments = _fill(tool, call.arguments, names)
                key = json.dumps([tool.name, arguments], ensure_ascii=False, sort_keys=True)
                if key not in seen and not self._is_gold(tool.name, arguments):
                    seen.add(key)
                    yield ToolCall(tool.name, arguments)

    def _enums(self, call: GoldCall) -> set[str]:
        return {name for name in call.arguments if "enum" in self._schema(call, name)}

    def _is_gold(self, name: str, arguments: dict[str, Any]) -> bool:
        """Whether it is a gold call, or one with its values in another order (most pair relations are symmetric)."""
        leaves = sorted(map(repr, _leaves(arguments)))
        return any(
            call.name == name and sorted(map(repr, _leaves(call.arguments))) == leaves
            for call in self.environment.gold_plan
        )


def gold_orders(environment: Environment) -> list[list[GoldCall]]:
    """The gold plan in RUNS orders that respect the dependencies: as written, last ready call first, and shuffled."""
    depends = {item.id: set(item.depends_on) for item in environment.sub_questions}
    orders = [list(environment.gold_plan)]
    rng = random.Random(f"{environment.id}:orders")
    for number in range(1, RUNS):
        waiting, done, order = list(environment.gold_plan), set[str](), list[GoldCall]()
        while waiting:
            ready = [call for call in waiting if depends.get(call.sub_question, set()) <= done] or waiting
            call = ready[-1] if number == 1 else rng.choice(ready)
            waiting.remove(call)
            done.add(call.sub_question)
            order.append(call)
        orders.append(order)
    return orders


def names_in(value: Any, skip: set[str]) -> list[str]:
    """The strings in a call's arguments, except those of the parameters in `skip`."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [name for key, inner in value.items() if key not in skip for name in names_in(inner, set())]
    if isinstance(value, list):
        return [name for inner in value for name in names_in(inner, set())]
    return []


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


def swap(value: Any, stranger: str) -> Any:
    """The same shape with its first name replaced."""
    if isinstance(value, str):
        return stranger
    if isinstance(value, list) and value:
        return [swap(value[0], stranger), *value[1:]]
    if isinstance(value, dict) and value:
        first = next(iter(value))
        return {**value, first: swap(value[first], stranger)}
    return value


def _fill(tool: ToolDocument, arguments: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Arguments for the tool's required parameters: those of the same name if they fit, else built from `names`."""
    properties = plain_schema(tool.parameters, tool.parameters).get("properties", {})
    return {
        name: arguments[name]
        if name in arguments and _fits(arguments[name], properties.get(name, True), tool.parameters)
        else made
        for name, made in fill(tool.parameters, Fixed(names[0])).items()
    }


def _fits(value: Any, schema: Any, parameters: Mapping[str, Any]) -> bool:
    try:
        return fits(value, schema, parameters)
    except CannotApply:
        return False
