"""The batched policy interface, and the policies without a model (oracle, random, replay).

A policy gets the states of many episodes at once and returns one generation for each. `train/policies/specs.py` creates
a policy from its spec.

Source: paper/README.md, "Training" (collection) and "Evaluation".
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from env_construction.environment.argument_filler import fill
from env_construction.environment.constraints import final_text, orders_of
from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.limits import missing_before
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.tool_calls import render_call


@dataclass(frozen=True)
class Generation:
    """One model turn. `truncated`: ended by the token limit. `too_long`: the prompt left no room for a turn.

    `fault` is an infrastructure failure (no server, nothing recorded), empty if there was none. The model never causes
    it.
    """

    text: str
    tokens: int
    prompt_tokens: int
    truncated: bool
    too_long: bool = False
    fault: str = ""


@dataclass
class PolicyRequest:
    """A state for which a turn is requested. `seed` differs for every (run seed, case, trial, turn).

    `gold` returns the correct turn of a case without a gold plan; only the oracle uses it.
    """

    environment: Environment
    case_id: str
    trial: int
    turn: int
    seed: int
    gold: Callable[[], str] | None = None


class Policy(Protocol):
    """Anything that plays. `generate` returns one generation for each request, in order."""

    name: str

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]: ...


# Accepts finished (ticket, generation) pairs and the room for new requests; returns (ticket, request) pairs to start.
Exchange = Callable[[list[tuple[int, Generation]], int], list[tuple[int, PolicyRequest]]]


@runtime_checkable
class StreamingPolicy(Policy, Protocol):
    """A policy that does not wait for the slowest of a batch: it exchanges finished turns for new requests at any time.

    `workers` streams may run at once, each with its own thread and exchange.
    """

    workers: int

    def stream(self, exchange: Exchange) -> None:
        """Generate until `exchange` returns nothing and nothing is left running."""


@runtime_checkable
class TemplatedPolicy(Policy, Protocol):
    """A policy whose prompts a chat template renders here."""

    def check_template(self, system: bool) -> None:
        """Raises BadInput unless the template supports tool conversations; `system`: also with a system message."""


def ready_calls(environment: Environment) -> list[ToolCall]:
    """The gold calls that can be made now: not made yet, still unsolved, and all they depend on is solved.

    A constraint on the order makes a call wait until a turn has called the other tool.
    Of two sub-questions with the same tool and the same answer of which one is solved, the first counts as solved.
    """
    open_answers = {tool: Counter(answers) for tool, answers in environment.unsolved_set.items()}
    unsolved: set[str] = set()
    for item in reversed(environment.sub_questions):
        answers = open_answers.get(item.tool)
        if answers and answers[item.answer] > 0:
            answers[item.answer] -= 1
            unsolved.add(item.id)
    made = [
        (call["function"]["name"], call["function"]["arguments"])
        for message in environment.messages
        for call in message.get("tool_calls") or ()
    ]
    needs = {item.id: item.depends_on for item in environment.sub_questions}
    orders, called = orders_of(environment.constraints), {name for name, _ in made}
    return [
        ToolCall(gold.name, gold.arguments)
        for gold in environment.gold_plan
        if gold.sub_question in unsolved
        and not any(need in unsolved for need in needs.get(gold.sub_question, ()))
        and (gold.name, gold.arguments) not in made
        and not missing_before(gold.name, orders, called)
    ]


class OraclePolicy:
    """Plays the gold plan: in each turn all calls that are ready, finally the answer in the form that is asked for.

    If a case has gold turns instead, it plays those. It makes each gold call once, so a gold call that does not solve
    its sub-question lowers the score but causes no loop.
    """

    name = "oracle"

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        """Raises BadInput for a case without a gold plan or gold turns."""
        return [_written(request.gold() if request.gold else self._turn(request)) for request in requests]

    @staticmethod
    def _turn(request: PolicyRequest) -> str:
        environment = request.environment
        if not environment.gold_plan:
            raise BadInput(f"case {request.case_id!r} has no gold_plan and no gold turns: the oracle cannot play it")
        calls = ready_calls(environment)
        if calls:
            return "\n".join(render_call(call) for call in calls)
        return final_text(environment.answer, environment.constraints) if environment.answer else "All steps are done."


class RandomPolicy:
    """The floor: calls random tools of the environment with random arguments that fit their schemas.

    Strings are runs of one to three words of the conversation, or enum values. After every turn it stops with
    probability `stop` and says some words of the conversation as its answer.
    """

    name = "random"

    def __init__(self, seed: int = 0, stop: float = 0.3) -> None:
        self.seed = seed
        self.stop = stop

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        return [_written(self._turn(request)) for request in requests]

    def _turn(self, request: PolicyRequest) -> str:
        rng = random.Random(f"{self.seed}:{request.seed}:{request.case_id}:{request.trial}:{request.turn}:random")
        environment = request.environment
        words = [word for message in environment.messages for word in re.findall(r"\w+", message.get("content") or "")]
        if not environment.tools or (request.turn > 0 and rng.random() < self.stop):
            return f"The answer is {_phrase(words, rng)}."
        tool = rng.choice(environment.tools)
        return render_call(ToolCall(tool.name, random_arguments(tool.parameters, words, rng)))


def random_arguments(schema: dict[str, Any], words: Sequence[str], rng: random.Random) -> dict[str, Any]:
    """Random arguments for a tool's parameters: every required property, each optional one with probability 0.3."""
    return fill(schema, _RandomChoices(words, rng))


@dataclass(frozen=True)
class _RandomChoices:
    words: Sequence[str]
    rng: random.Random

    def optional(self, name: str) -> bool:
        return self.rng.random() < 0.3

    def option(self, options: Sequence[Any]) -> Any:
        return self.rng.choice(options)

    def text(self, schema: Mapping[str, Any]) -> str:
        return _phrase(self.words, self.rng)

    def number(self, schema: Mapping[str, Any], low: float | None, high: float | None, whole: bool) -> float:
        low = (0 if high is None or high >= 0 else high - 100) if low is None else low
        high = max(low, 100) if high is None else high
        first, last = math.ceil(low), math.floor(high)
        if first <= last or whole:
            number = self.rng.randint(first, max(first, last))
            return number if whole else float(number)
        return self.rng.uniform(low, max(low, high))

    def boolean(self, schema: Mapping[str, Any]) -> bool:
        return self.rng.random() < 0.5

    def length(self, least: int, most: int | None) -> int:
        low = least if most is not None and most < 1 else max(1, least)
        return self.rng.randint(low, max(low, 2 if most is None else min(2, most)))


def _phrase(words: Sequence[str], rng: random.Random) -> str:
    if not words:
        return "unknown"
    start = rng.randrange(len(words))
    return " ".join(words[start : start + rng.randint(1, 3)])


def recorded_trial(record: Mapping[str, Any], where: str) -> int:
    """The trial of a recorded row, 0 if it has none. Raises BadInput naming `where`."""
    trial = record.get("trial") or 0
    if not isinstance(trial, int):
        raise BadInput(f"{where}: key 'trial': expected an integer, got {trial!r}")
    return trial


class ReplayPolicy:
    """Replays recorded turns, so that recorded outputs can be scored again without a model.

    A line has `id`, `trial` (0 if absent) and either `turns` (a list of raw texts) or, in a result row, `turn_scores`
    with the raw `text` of each turn. A turn that is not recorded is a fault, not a wrong answer. Exception: if the
    row's episode ended as `too_long`, the turn after the last recorded one is `too_long` again.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = f"replay:{path}"
        self.turns: dict[tuple[str, int], list[str]] = {}
        self._too_long: set[tuple[str, int]] = set()
        for number, record in read_jsonl(path, required=("id",)):
            turns, scores = record.get("turns"), record.get("turn_scores")
            if not isinstance(turns, list):
                turns = (
                    [item.get("text") for item in scores if isinstance(item, dict)] if isinstance(scores, list) else []
                )
            if not all(isinstance(turn, str) for turn in turns):
                raise BadInput(f"{path}:{number}: key 'turns': expected a list of texts")
            case = str(record["id"]), recorded_trial(record, f"{path}:{number}")
            self.turns[case] = turns
            if record.get("outcome") == "too_long":
                self._too_long.add(case)

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        generations = []
        for request in requests:
            turns = self.turns.get((request.case_id, request.trial))
            if turns is not None and request.turn == len(turns) and (request.case_id, request.trial) in self._too_long:
                generations.append(Generation("", tokens=0, prompt_tokens=0, truncated=False, too_long=True))
                continue
            if turns is None:
                fault = f"no record of id {request.case_id!r}, trial {request.trial}"
            elif request.turn >= len(turns):
                fault = f"only {len(turns)} turns recorded of id {request.case_id!r}, trial {request.trial}"
            else:
                generations.append(_written(turns[request.turn]))
                continue
            generations.append(Generation(text="", tokens=0, prompt_tokens=0, truncated=False, fault=fault))
        return generations


def _written(text: str) -> Generation:
    """A turn of a policy that has no tokenizer: tokens are not counted."""
    return Generation(text=text, tokens=0, prompt_tokens=0, truncated=False)
