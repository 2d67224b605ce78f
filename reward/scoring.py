"""Score model turns and episodes by running their calls in the sandbox.

One scorer for training and evaluation: OpenRLHF's reward, the rollout and the audit all come here. Gold (sub-answers,
the final answer) stays in this process; the sandbox gets source and arguments only.
Source: paper/README.md, "Reward for one model turn" and the metrics over an episode.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from env_construction.environment.jsonl import BadInput
from env_construction.environment.matching import MATCHES, answer_in_text, assign, call_key, only_answer_in_text
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolResult, ToolSandbox, shared_sandbox
from reward.rewards import REWARDS
from reward.tool_calls import CALL_MARKS, ParsedTurn, assistant_message, parse_turn, tool_messages

PAUSE_ITEMS = 256
PAUSE_SECONDS = 2.0


@dataclass
class TurnScore:
    """One turn's reward and its parts. Not frozen, since that makes it four times as slow to make; nothing changes it.

    p calls, q solved by this turn, t unsolved before it. In strict, a call that solves k > 1 sub-answers counts as k
    calls, so that q <= p always: a batched call is worth as much as the k calls it replaces. `results` and `solved`
    (the sub-answers that the call solved, at most one as published) have one entry for each parsed call.
    `unsolved_set`, `solved_set` and `solve_rate` are the state after the turn. `fault` says that the sandbox itself
    broke: the reward is then 0 and the state is as before. `sandbox_ms` is the time of this turn's calls in the
    sandbox, in milliseconds.
    """

    reward: float
    kind: str
    p: int
    q: int
    t: int
    fault: bool
    sandbox_ms: float
    results: tuple[ToolResult, ...]
    solved: tuple[tuple[str, ...], ...]
    unsolved_set: dict[str, list[str]]
    solve_rate: float
    solved_set: dict[str, list[str]]
    parsed: ParsedTurn


@dataclass(frozen=True)
class EpisodeScore:
    """Solve-P = solved / calls (1 without calls), Solve-R = solved / sub_questions, Solve-F1 = 2 solved / (calls +
    sub_questions).

    `calls` is the sum of the turns' p, so a batched call that solves k counts k times in strict: all three stay in [0,
    1].
    """

    solve_p: float
    solve_r: float
    solve_f1: float
    calls: int
    solved: int
    sub_questions: int
    answer_correct: bool


def check_gold(environment: Environment, where: str) -> None:
    """Refuse an environment that `strict` cannot score: a sub-answer or final answer without a letter or digit.

    Under `published` such a sub-answer is solved by every call (defect 4). Raises BadInput naming `where` and the key.
    """
    golds = [(f"unsolved_set.{tool}", gold) for tool, answers in environment.unsolved_set.items() for gold in answers]
    if environment.answer is not None:
        golds.append(("answer", environment.answer))
    for key, gold in golds:
        if not re.search(r"\w", gold):
            raise BadInput(f"{where}: key {key!r}: expected an answer with a letter or digit, got {gold!r}")


class _CollectorPause:
    """Scoring makes many objects and no reference cycles, and the cycle collector would walk through all of them again
    and again (a fifth of the time of a large batch): inside, it rests, but for PAUSE_SECONDS at most, and not for small
    batches.

    The collector is the whole process's. Where it was off already it stays off; where several threads score, it comes
    back with the first that is done.
    """

    def __init__(self, items: int) -> None:
        self._worth_it = items >= PAUSE_ITEMS
        self._until = 0.0

    def __enter__(self) -> _CollectorPause:
        if self._worth_it and gc.isenabled():
            gc.disable()
            self._until = time.monotonic() + PAUSE_SECONDS
        return self

    def check(self) -> None:
        """End the pause if its time is over."""
        if self._until and time.monotonic() > self._until:
            self.__exit__()

    def __exit__(self, *_: object) -> None:
        if self._until:
            self._until = 0.0
            gc.enable()


def score_turn(
    environment: Environment,
    text: str,
    *,
    variant: str = "solve_f1",
    match: str = "published",
    sandbox: ToolSandbox | None = None,
) -> TurnScore:
    """Score one turn. `environment` is the state before it; it is not changed. See score_turns."""
    return score_turns([(environment, text)], variant=variant, match=match, sandbox=sandbox)[0]


def score_turns(
    items: Sequence[tuple[Environment, str]],
    *,
    variant: str = "solve_f1",
    match: str = "published",
    sandbox: ToolSandbox | None = None,
) -> list[TurnScore]:
    """Score many turns, their calls in one batch of the sandbox (the process's shared one if none is given).

    Raises ValueError for an unknown variant or match, and nothing else for any text.
    """
    if variant not in REWARDS:
        raise ValueError(f"unknown variant {variant!r}: expected one of {', '.join(REWARDS)}")
    if match not in MATCHES:
        raise ValueError(f"unknown match {match!r}: expected one of {', '.join(MATCHES)}")
    turns: list[ParsedTurn] = []

    def jobs() -> Iterator[SandboxJob]:
        for environment, text in items:
            turn = parse_turn(text, match)
            turns.append(turn)
            if turn.calls:
                yield SandboxJob(environment.codes, turn.calls)

    scores: list[TurnScore] = []

    def score_next(results: Sequence[ToolResult]) -> None:
        place = len(scores)
        scores.append(score_results(items[place][0], turns[place], results, variant, match))

    with _CollectorPause(len(items)) as pause:
        rest = jobs()
        first = next(rest, None)  # without any call, no sandbox is needed
        if first is not None:
            for results in (sandbox or shared_sandbox()).stream(chain((first,), rest), len(items)):
                while not turns[len(scores)].calls:
                    score_next(())
                score_next(results)
                pause.check()
    while len(scores) < len(items):
        score_next(())
    return scores


def advance(environment: Environment, score: TurnScore) -> Environment:
    """The state after a turn: a copy with the assistant's and the tools' messages, what is unsolved, and the solve
    rate.
    """
    return environment.model_copy(
        update={
            "messages": [
                *environment.messages,
                assistant_message(score.parsed),
                *tool_messages(score.parsed, score.results),
            ],
            "unsolved_set": score.unsolved_set,
            "solve_rate": score.solve_rate,
            "solved_set": score.solved_set,
        }
    )


def score_episode(
    n_sub_questions: int,
    turns: Sequence[TurnScore],
    answer: str | None,
    final_text: str,
    match: str,
    others: Sequence[str] = (),
) -> EpisodeScore:
    """Metrics over a whole episode of `n_sub_questions`; `final_text` is the last turn as generated.

    `others` are the sub-answers that the final text may not list in strict (`sub_answers` of the environment).
    """
    said = _answer_text(parse_turn(final_text, match), match)
    calls = sum(turn.p for turn in turns)
    solved = sum(turn.q for turn in turns)
    return EpisodeScore(
        solve_p=solved / calls if calls else 1.0,
        solve_r=solved / n_sub_questions if n_sub_questions else 0.0,
        solve_f1=2 * solved / (calls + n_sub_questions) if calls + n_sub_questions else 0.0,
        calls=calls,
        solved=solved,
        sub_questions=n_sub_questions,
        answer_correct=answer is not None
        and (
            answer_in_text(answer, said, match) if match == "published" else only_answer_in_text(answer, said, others)
        ),
    )


def _answer_text(turn: ParsedTurn, match: str) -> str:
    """Where the final answer may stand: the whole text as published, thinking left out in strict (defect 6b)."""
    return turn.text if match == "published" else turn.content


def score_results(
    environment: Environment, turn: ParsedTurn, results: Sequence[ToolResult], variant: str, match: str
) -> TurnScore:
    """The score of a turn whose calls were run already: one result for each of its calls, in order."""
    unsolved = {tool: answers.copy() for tool, answers in environment.unsolved_set.items()}
    t = sum(map(len, unsolved.values()))
    calls = turn.calls
    solved: list[tuple[str, ...]] = [()] * len(calls)
    newly: dict[str, list[str]] = {}
    seconds, fault = 0.0, False
    for result in results:
        seconds += result.seconds
        fault = fault or result.status == "fault"
    places_of: dict[str, list[int]] = {}
    for place, call in enumerate(() if fault else calls):
        if unsolved.get(call.name):
            places_of.setdefault(call.name, []).append(place)
    for tool, places in places_of.items():
        answers = unsolved[tool]
        arguments = [calls[place].arguments for place in places] if match == "strict" else None
        earlier = earlier_calls(environment.messages, tool) if match == "strict" else ()
        chosen = assign(answers, [results[place] for place in places], match, arguments, earlier)
        taken = {index for indices in chosen for index in indices}
        if not taken:
            continue
        for place, indices in zip(places, chosen, strict=True):
            solved[place] = tuple(answers[index] for index in indices)
        unsolved[tool] = [answer for index, answer in enumerate(answers) if index not in taken]
        newly[tool] = [answer for index, answer in enumerate(answers) if index in taken]
    q = sum(map(len, solved))
    p = len(calls)
    if match == "strict":
        p += len(turn.malformed) + sum(len(answers) - 1 for answers in solved if len(answers) > 1)
    kind = _kind(environment, turn, match)
    before = environment.solved_set
    return TurnScore(
        reward=0.0 if fault else REWARDS[variant](p, q, t, kind),
        kind=kind,
        p=p,
        q=q,
        t=t,
        fault=fault,
        sandbox_ms=1000 * seconds,
        results=tuple(results),
        solved=tuple(solved),
        unsolved_set=unsolved,
        solve_rate=_solve_rate(environment, t, t - q),
        solved_set={tool: now for tool in unsolved if (now := [*before.get(tool, ()), *newly.get(tool, ())])}
        if before or newly
        else {},
        parsed=turn,
    )


def earlier_calls(messages: Sequence[Mapping[str, Any]], tool: str) -> set[tuple[str, str]]:
    """The calls to a tool in earlier turns of a conversation, each as its `call_key` and what came back.

    Each assistant message's calls are answered, in order, by the tool messages behind it.
    """
    calls: set[tuple[str, str]] = set()
    open_calls: deque[Mapping[str, Any]] = deque()
    for message in messages:
        if message.get("role") != "tool":
            open_calls = deque(call["function"] for call in message.get("tool_calls") or ())
        elif open_calls and (function := open_calls.popleft())["name"] == tool:
            arguments = function["arguments"]
            if isinstance(arguments, str):  # as OpenAI's servers write them
                with contextlib.suppress(ValueError):
                    arguments = json.loads(arguments)
            calls.add((call_key(arguments), str(message.get("content", ""))))
    return calls


def _states_answer(environment: Environment, text: str, match: str) -> bool:
    assert environment.answer is not None
    if match == "published":
        return answer_in_text(environment.answer, text, match)
    return only_answer_in_text(environment.answer, text, sub_answers(environment))


def sub_answers(environment: Environment) -> list[str]:
    """All sub-answers that are known of an environment, solved and unsolved."""
    listed = [*environment.unsolved_set.values(), *environment.solved_set.values()]
    return [*chain.from_iterable(listed), *(item.answer for item in environment.sub_questions)]


def _kind(environment: Environment, turn: ParsedTurn, match: str) -> str:
    """The row of the reward table that a turn falls into; the order of the tests is the published one."""
    if turn.calls:
        return "calls"
    text = _answer_text(turn, match)
    if not text:
        return "empty"
    if any(mark in text for mark in CALL_MARKS):
        return "malformed"
    if environment.answer is not None and _states_answer(environment, text, match):
        return "answer"
    return "all_solved_no_answer" if environment.solve_rate == 1.0 else "other"


def _solve_rate(environment: Environment, before: int, unsolved_after: int) -> float:
    """The share solved after a turn. The number of sub-questions follows from what was unsolved, and the rate,
    before.
    """
    if unsolved_after == before:
        return environment.solve_rate
    total = round(before / (1.0 - environment.solve_rate)) if environment.solve_rate < 1.0 else before
    return 1.0 - unsolved_after / max(total, before)
