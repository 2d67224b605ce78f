"""Limits on an episode's calls and on the length of its final answer, checked turn by turn without a model.

The constraints of environments (`constraints.py`) and of CCTU (`eval/constraints/`) are such limits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

Problem = tuple[str, str]
"""(kind, text) of a limit that is broken."""


@dataclass(frozen=True)
class Limits:
    """By default there is no limit. Pairs are the least and the most, both allowed.

    `orders`: a tool in a list may be called only after earlier turns called all tools before it. `costs`: of one call,
    by tool; all calls together may cost `budget`. `length` counts characters or words of the final answer.
    """

    calls: tuple[float, float] = (0, math.inf)
    calls_of_tool: Mapping[str, float] = field(default_factory=dict)
    orders: Sequence[Sequence[str]] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    budget: float = math.inf
    length: tuple[float, float] = (0, math.inf)
    length_in_words: bool = False


class CallCounts:
    """The calls of an episode so far, and which limits the next one breaks. Every call counts, allowed or not."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.of_tool: Counter[str] = Counter()
        self.called: set[str] = set()
        """The tools that finished turns called."""

    def add(self, name: str) -> list[Problem]:
        """Count a call; the limits on numbers and cost that it breaks."""
        limits = self._limits
        self.of_tool[name] += 1
        found: list[Problem] = []
        total, most = self.of_tool.total(), limits.calls[1]
        if total > most:
            found.append(("calls", f"this is call {total}, at most {most:g} are allowed; give the final answer"))
        count, most = self.of_tool[name], limits.calls_of_tool.get(name, math.inf)
        if count > most:
            found.append(("calls_of_tool", f"this is call {count} of {name}, at most {most:g} are allowed"))
        cost = sum(limits.costs.get(tool, 0) * number for tool, number in self.of_tool.items())
        if cost > limits.budget:
            found.append(("budget", f"the calls so far cost {cost:g}, at most {limits.budget:g} may be spent"))
        return found

    def end_turn(self) -> None:
        """From now on, the calls so far count as made in an earlier turn."""
        self.called.update(self.of_tool)


def missing_before(name: str, orders: Sequence[Sequence[str]], called: Collection[str]) -> list[str]:
    """The tools that must still be called, in an earlier turn, before `name` may be called."""
    before = [tool for order in orders if name in order for tool in order[: order.index(name)]]
    return [tool for tool in dict.fromkeys(before) if tool not in called]


def order_problems(name: str, orders: Sequence[Sequence[str]], called: Collection[str]) -> list[Problem]:
    """The order that a call of `name` breaks, if it breaks one."""
    missing = missing_before(name, orders, called)
    return [("order", f"{name} may be called only after {', '.join(missing)}")] if missing else []


def length_problems(answer: str, limits: Limits) -> list[Problem]:
    """The limit on its length that a final answer breaks, if it breaks it."""
    unit, size = ("words", len(answer.split())) if limits.length_in_words else ("characters", len(answer))
    low, high = limits.length
    if low <= size <= high:
        return []
    return [("length", f"the answer has {size} {unit}, allowed are {low:g} to {high:g}")]
