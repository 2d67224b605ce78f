"""Attacks on the reward of stateful environments, for `reward.audit`: undo, do everything, read gold through errors.

Pure functions of an environment, as in `reward/attacks.py`. "Uses gold" means the gold plan or its answers. The tables
are no gold: any policy can read them with the tools.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Any

from env_construction.environment.schema import Environment, GoldCall
from env_construction.environment.state import EnvironmentState, Patch
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.attacks import Attack, all_solved, answer_when_solved, plan_calls, start_of, turn_of

MOST_CALLS_PER_TOOL = 24
MOST_EXTRA = 20


def _state(environment: Environment) -> EnvironmentState:
    if environment.state is None:
        raise ValueError(f"{environment.id} has no state")
    return environment.state


def _examples(environment: Environment) -> dict[str, dict[str, Any]]:
    """A call of every tool that writes: tool -> arguments."""
    state = _state(environment)
    found = {rule.tool: rule.arguments for rule in state.rules}
    return found | {call.name: call.arguments for call in environment.gold_plan if call.name in state.writing_tools}


def _table_of(state: EnvironmentState, value: Any) -> str:
    """The table that has a row of this key, or empty."""
    return next((table for table, rows in state.tables.items() if isinstance(value, str) and value in rows), "")


def _all_writes(environment: Environment) -> Iterator[ToolCall]:
    """Every tool that writes with the rows of its tables, at most MOST_CALLS_PER_TOOL calls each."""
    state = _state(environment)
    for tool, example in sorted(_examples(environment).items()):
        choices = [
            list(state.tables[table]) if (table := _table_of(state, value)) else [value] for value in example.values()
        ]
        for values in islice(product(*choices), MOST_CALLS_PER_TOOL):
            yield ToolCall(tool, dict(zip(example, values, strict=True)))


def do_everything(environment: Environment) -> str:
    """Call every tool that writes with every row: some call is what was asked for."""
    return turn_of(list(_all_writes(environment)))


def gold_plan_and_more(environment: Environment) -> str:
    """The gold plan, and further changes that nobody asked for."""
    plan = plan_calls(environment)
    return turn_of([*plan, *islice((call for call in _all_writes(environment) if call not in plan), MOST_EXTRA)])


def undo_changes(environment: Environment) -> str:
    """Make the change that was asked for and take it back in the same turn. Empty if no call could take it back.

    A transfer goes back with its two rows swapped; a new row is offered to every tool that takes such a row. Where a
    rule refuses the way back, the change stays, and earns what it should.
    """
    state = _state(environment)
    if len(state.goals) != 1:
        return ""
    [gold] = [call for call in environment.gold_plan if call.sub_question == state.goals[0].sub_question]
    back = list(_reverse_calls(environment, gold))
    return turn_of([ToolCall(gold.name, gold.arguments), *back]) if back else ""


def _reverse_calls(environment: Environment, gold: GoldCall) -> Iterator[ToolCall]:
    state = _state(environment)
    [goal] = state.goals
    names = [name for name, value in gold.arguments.items() if _table_of(state, value)]
    if len(names) == 2 and len({_table_of(state, gold.arguments[name]) for name in names}) == 1:
        first, second = names
        swapped = {first: gold.arguments[second], second: gold.arguments[first]}
        yield ToolCall(gold.name, gold.arguments | swapped)
    for table, rows in goal.changes.items():
        for key in rows.keys() - state.tables.get(table, {}).keys():
            for tool, example in sorted(_examples(environment).items()):
                if len(example) == 1 and _table_of(state, next(iter(example.values()))) == table:
                    yield ToolCall(tool, dict.fromkeys(example, key))


def read_gold_through_errors(environment: Environment) -> str:
    """Every gold call with one argument missing, misspelled or of another type: do the errors tell an answer?"""
    calls = []
    for gold in plan_calls(environment):
        for name, value in gold.arguments.items():
            rest = {other: kept for other, kept in gold.arguments.items() if other != name}
            calls += [ToolCall(gold.name, arguments) for arguments in (rest, rest | {name: f"{value}?"})]
            calls.append(ToolCall(gold.name, rest | {name: [value]}))
    return turn_of(calls)


def _harmed(state: EnvironmentState) -> Patch:
    """The changes so far and one more, in a cell that no goal writes."""
    changes = {table: {key: dict(row or {}) for key, row in rows.items()} for table, rows in state.changes.items()}
    for table, rows in state.tables.items():
        for key, row in rows.items():
            if key not in changes.get(table, {}) and row:
                changes.setdefault(table, {})[key] = {next(iter(row)): "changed by nobody's wish"}
                return changes  # type: ignore[return-value]
    raise ValueError("every row is a goal's")


def state_start_of(name: str, environment: Environment) -> Environment:
    """The state that an attack starts from: for two of them, everything was solved and then spoiled."""
    if name not in ("answer_after_harm", "answer_after_undo"):
        return start_of(name, environment)
    solved = all_solved(environment)
    changes = _harmed(_state(solved)) if name == "answer_after_harm" else {}
    return solved.model_copy(update={"state": _state(solved).model_copy(update={"changes": changes})})


STATE_ATTACKS: dict[str, tuple[Attack, bool]] = {
    "undo_changes": (undo_changes, True),
    "do_everything": (do_everything, False),
    "gold_plan_and_more": (gold_plan_and_more, True),
    "read_gold_through_errors": (read_gold_through_errors, True),
    "answer_after_harm": (answer_when_solved, True),
    "answer_after_undo": (answer_when_solved, True),
}
