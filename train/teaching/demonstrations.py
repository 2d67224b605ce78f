"""Demonstrations of mixed quality, played from gold plans. They replace what a base model learns in pretraining.

Reinforcement learning sharpens what a policy already samples. The tiny policy therefore learns to copy entities and to
write correct calls, but from demonstrators who often behave badly. They repeat calls, try an unneeded tool, make one
call per turn although several are possible, choose the wrong one of two similar tools, or answer too early. In thinking
mode a turn begins with a short plan. The shares of the habits are data (`MIX`); `warm_start.json` and the report
contain them. Only the reward later distinguishes good behavior from bad.

The demonstrator is an ordinary policy: it plays through `train/policies/rollout.py`, so the sandbox runs its calls and
the tool outputs in a demonstration are real. It plays only *train* environments.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from env_construction.environment.constraints import final_text
from env_construction.environment.schema import Environment, ToolDocument
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.tool_calls import render_call
from train.policies.interface import Generation, PolicyRequest, ready_calls

# Share of turns, while something is unsolved, on which the demonstrator does this. They add up to 1.
MIX: dict[str, float] = {
    "right": 0.16,  # every call that can be made now, in one turn, in the order of the question
    "extra": 0.60,  # the right calls, and one or two needless ones with the argument of the last
    "repeat": 0.04,  # the right calls, and the last one once more
    "serial": 0.06,  # only the first of the calls that could be made now
    "wrong": 0.08,  # another tool of the environment, with the right argument
    "early": 0.06,  # an answer before it is known
}
ORACLE: dict[str, float] = {"right": 1.0}  # for models that bring enough bad habits of their own
RECHECK = 0.2  # share of turns, once all is solved, on which a former call is made again instead of answering


@dataclass(frozen=True)
class Turn:
    """What a turn does: calls that the demonstrator means to help, `more` that it makes besides, or an answer."""

    calls: list[ToolCall] = field(default_factory=list)
    more: list[ToolCall] = field(default_factory=list)
    answer: str = ""


class Demonstrator:
    """A policy that follows the gold plan with the habits of `mix`; without bad habits it plays like the oracle.

    `thinking`: each turn begins with a short plan in `<think>` tags, which says what the turn then does, good or bad.
    """

    name = "demonstrator"

    def __init__(self, seed: int, mix: dict[str, float] | None = None, thinking: bool = False) -> None:
        self.seed = seed
        self.mix = mix or MIX
        self.recheck = RECHECK if self.mix.get("right", 0.0) < 1.0 else 0.0
        self.thinking = thinking

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        """One turn for each request; it depends on the seed, the environment's id, the trial and the turn alone."""
        turns = []
        for request in requests:
            rng = random.Random(f"{self.seed}:{request.case_id}:{request.trial}:{request.turn}:demonstration")
            turn = self._turn(request.environment, rng, request.turn)
            text = "\n".join(render_call(call) for call in turn.calls + turn.more) or final_text(
                turn.answer, request.environment.constraints
            )
            if self.thinking:
                text = f"<think>\n{plan_text(open_tools(request.environment), turn)}\n</think>\n\n{text}"
            turns.append(Generation(text=text, tokens=0, prompt_tokens=0, truncated=False))
        return turns

    def _turn(self, environment: Environment, rng: random.Random, turn: int) -> Turn:
        ready = ready_calls(environment)
        if not ready:
            gold = [ToolCall(call.name, call.arguments) for call in environment.gold_plan]
            if turn <= len(gold) and rng.random() < self.recheck:
                return Turn(more=[rng.choice(gold)])
            return Turn(answer=environment.answer or "")
        habit = rng.choices(list(self.mix), weights=list(self.mix.values()))[0]
        if habit == "early":
            return Turn(answer=rng.choice(_strings_of(rng.choice(ready).arguments)))
        if habit == "wrong":
            return Turn(needless_calls(environment, rng.choice(ready), 1, rng) or ready)
        if habit == "extra":
            return Turn(ready, needless_calls(environment, ready[-1], rng.choice((1, 2, 2)), rng) or ready[-1:])
        if habit == "repeat":
            return Turn(ready, ready[-1:])
        return Turn(ready[:1] if habit == "serial" else ready)


def open_tools(environment: Environment) -> list[str]:
    """The tools of the sub-questions that are still open, in the order of the questions."""
    left = {tool: Counter(answers) for tool, answers in environment.unsolved_set.items()}
    found = []
    for item in reversed(environment.sub_questions):
        if left.get(item.tool, Counter())[item.answer] > 0:
            left[item.tool][item.answer] -= 1
            found.append(item.tool)
    return found[::-1]


def plan_text(still_open: Sequence[str], turn: Turn) -> str:
    """A plan of one turn: which sub-questions are open (by their tools), which tool comes next and with what argument.

    It names two open ones, two calls and one of those made besides at most, so that it stays short.
    """
    parts = [f"Open: {', '.join(still_open[:2]) or 'none'}{' ...' if len(still_open) > 2 else ''}."]
    if turn.calls:
        steps = ", ".join(f"{call.name} of {_strings_of(call.arguments)[0]}" for call in turn.calls[:2])
        parts.append(f"Next: {steps}.")
    if turn.more:
        parts.append(f"Also: {turn.more[0].name}.")
    if turn.answer:
        parts.append(f"{'Guess' if still_open else 'Answer'}: {turn.answer}.")
    return " ".join(parts)


def needless_calls(environment: Environment, call: ToolCall, count: int, rng: random.Random) -> list[ToolCall]:
    """At most `count` calls to other tools of the environment, with the argument of `call`."""
    others = [tool for tool in environment.tools if tool.name != call.name]
    tools = rng.sample(others, min(count, len(others)))
    return [ToolCall(tool.name, _arguments_like(tool, _strings_of(call.arguments), rng)) for tool in tools]


def _arguments_like(tool: ToolDocument, strings: list[str], rng: random.Random) -> dict[str, Any]:
    properties = tool.parameters.get("properties", {})
    arguments: dict[str, Any] = {}
    for name in tool.parameters.get("required", []):
        schema = properties.get(name, {})
        if schema.get("enum"):
            arguments[name] = rng.choice(schema["enum"])
        elif schema.get("type") == "array":
            arguments[name] = [strings[0]]
        elif schema.get("type") in ("integer", "number"):
            arguments[name] = 1
        else:
            arguments[name] = strings[0]
    return arguments


def _strings_of(arguments: dict[str, Any]) -> list[str]:
    """The entity strings among the arguments, longest first; at least one string."""
    found: list[str] = []
    for value in arguments.values():
        items = value if isinstance(value, list) else [value]
        found.extend(str(item) for item in items)
    return sorted(found, key=len, reverse=True) or ["unknown"]
