"""Score model turns and episodes by running their calls in the sandbox.

Training and evaluation share one scorer: OpenRLHF's reward, the rollout and the audit all use it. Gold (sub-answers,
the final answer) stays in this process; the sandbox gets only source code and arguments.
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
from env_construction.environment.state import EnvironmentState
from env_construction.sandbox.stateful_turn import read_run, stateful_job
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolResult, ToolSandbox, shared_sandbox
from reward.rewards import REWARDS
from reward.state_scoring import HARM_REWARD, StateChange, lost_goals, state_change, was_harmed
from reward.tool_calls import CALL_MARKS, ParsedTurn, assistant_message, parse_turn, tool_messages

PAUSE_ITEMS = 256
PAUSE_SECONDS = 2.0


@dataclass
class TurnScore:
    """One turn's reward and its parts. Treat it as immutable; it is not frozen because freezing makes it 4x slower.

    p: calls, q: sub-questions solved by this turn, t: sub-questions unsolved before it. In strict, a call that solves
    k > 1 sub-answers counts as k calls, so q <= p always holds: a batched call is worth as much as the k calls that it
    replaces. `results` and `solved` (the sub-answers that the call solved, at most one in published) have one entry per
    parsed call. `unsolved_set`, `solved_set` and `solve_rate` are the state after the turn. `fault`: the sandbox itself
    failed; the reward is then 0 and the state is unchanged. `sandbox_ms` is the time of this turn's calls in the
    sandbox, in milliseconds. Stateful environments only: `state` is the database after the turn, `harm` the number of
    rows and goals that the turn harmed (strict).
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
    state: EnvironmentState | None = None
    harm: int = 0


@dataclass(frozen=True)
class EpisodeScore:
    """Metrics of an episode.

    Solve-P = solved / calls (1 without calls), Solve-R = solved / sub_questions,
    Solve-F1 = 2 solved / (calls + sub_questions). `calls` is the sum of the turns' p. In strict, a batched call that
    solves k counts k times, so all three metrics stay in [0, 1].
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

    Under `published`, every call solves such a sub-answer (defect 4). Raises BadInput with `where` and the key.
    """
    golds = [(f"unsolved_set.{tool}", gold) for tool, answers in environment.unsolved_set.items() for gold in answers]
    if environment.answer is not None:
        golds.append(("answer", environment.answer))
    for key, gold in golds:
        if not re.search(r"\w", gold):
            raise BadInput(f"{where}: key {key!r}: expected an answer with a letter or digit, got {gold!r}")


class _CollectorPause:
    """Pause Python's cycle collector during a large batch, for at most PAUSE_SECONDS.

    Scoring creates many objects and no reference cycles. The collector would scan all of them repeatedly (a fifth of
    the time of a large batch).

    The collector belongs to the whole process. If it was already off, it stays off. If several threads score, it comes
    back on when the first one finishes.
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
        """End the pause if its time limit has passed."""
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
    """Score one turn. `environment` is the state before the turn and is not changed. See score_turns."""
    return score_turns([(environment, text)], variant=variant, match=match, sandbox=sandbox)[0]


def score_turns(
    items: Sequence[tuple[Environment, str]],
    *,
    variant: str = "solve_f1",
    match: str = "published",
    sandbox: ToolSandbox | None = None,
) -> list[TurnScore]:
    """Score many turns, with all calls in one sandbox batch (default: the process's shared sandbox).

    Raises ValueError for an unknown variant or match. No turn text makes it raise.
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
                yield job_of(environment, turn)

    scores: list[TurnScore] = []

    def score_next(results: Sequence[ToolResult]) -> None:
        place = len(scores)
        environment, turn = items[place][0], turns[place]
        results, state = results_of(environment, turn, results)
        scores.append(score_results(environment, turn, results, variant, match, state))

    with _CollectorPause(len(items)) as pause:
        rest = jobs()
        first = next(rest, None)  # start no sandbox if there are no calls
        if first is not None:
            for results in (sandbox or shared_sandbox()).stream(chain((first,), rest), len(items)):
                while not turns[len(scores)].calls:
                    score_next(())
                score_next(results)
                pause.check()
    while len(scores) < len(items):
        score_next(())
    return scores


def job_of(environment: Environment, turn: ParsedTurn) -> SandboxJob:
    """The sandbox job of a turn's calls, on the environment's current tables if it is stateful."""
    if environment.state is None:
        return SandboxJob(environment.codes, turn.calls)
    return stateful_job(environment.codes, turn.calls, environment.state.now)


def results_of(
    environment: Environment, turn: ParsedTurn, found: Sequence[ToolResult]
) -> tuple[Sequence[ToolResult], EnvironmentState | None]:
    """One result per call from the results of `job_of`, and the state after the calls."""
    state = environment.state
    if state is None or not turn.calls:
        return found, state
    run = read_run(environment.codes, turn.calls, state.now, found)
    return run.results, state.after(run.state)


def advance(environment: Environment, score: TurnScore) -> Environment:
    """The state after a turn: a copy with the turn's messages, the sub-answers still unsolved, and the solve rate."""
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
            "state": score.state,
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
    """Metrics of a complete episode with `n_sub_questions`; `final_text` is the last turn as generated.

    `others` are the sub-answers that the final text must not list in strict (`sub_answers` of the environment).
    In strict, the goals of a stateful environment count as the last turn leaves them, and the answer is correct only if
    the tables are right.
    """
    said = _answer_text(parse_turn(final_text, match), match)
    calls = sum(turn.p for turn in turns)
    solved = sum(turn.q for turn in turns)
    state = turns[-1].state if turns and match == "strict" else None
    if state is not None:
        solved = max(0, solved - lost_goals(state))
    return EpisodeScore(
        solve_p=solved / calls if calls else 1.0,
        solve_r=solved / n_sub_questions if n_sub_questions else 0.0,
        solve_f1=2 * solved / (calls + n_sub_questions) if calls + n_sub_questions else 0.0,
        calls=calls,
        solved=solved,
        sub_questions=n_sub_questions,
        answer_correct=answer is not None
        and (state is None or state.is_right())
        and (
            answer_in_text(answer, said, match) if match == "published" else only_answer_in_text(answer, said, others)
        ),
    )


def _answer_text(turn: ParsedTurn, match: str) -> str:
    """The text that may state the final answer: all of it in published, without thinking in strict (defect 6b)."""
    return turn.text if match == "published" else turn.content


def score_results(
    environment: Environment,
    turn: ParsedTurn,
    results: Sequence[ToolResult],
    variant: str,
    match: str,
    state: EnvironmentState | None = None,
) -> TurnScore:
    """The score of a turn whose calls were already run: one result per call, in order.

    `state`: of a stateful environment, after the calls.
    """
    unsolved = {tool: answers.copy() for tool, answers in environment.unsolved_set.items()}
    t = sum(map(len, unsolved.values()))
    calls = turn.calls
    solved: list[tuple[str, ...]] = [()] * len(calls)
    newly: dict[str, list[str]] = {}
    seconds, fault = 0.0, False
    for result in results:
        seconds += result.seconds
        fault = fault or result.status == "fault"
    change: StateChange | None = None
    if environment.state is not None and state is not None and match == "strict" and not fault:
        change = state_change(environment.state, state, unsolved, calls, results)
        state, solved = change.state, change.solved
        for goal in change.newly:
            unsolved[goal.tool].remove(goal.answer)
            newly.setdefault(goal.tool, []).append(goal.answer)
    by_state = {goal.tool for goal in environment.state.goals} if environment.state and match == "strict" else ()
    places_of: dict[str, list[int]] = {}
    for place, call in enumerate(() if fault else calls):
        if unsolved.get(call.name) and call.name not in by_state:
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
            solved[place] += tuple(answers[index] for index in indices)
        unsolved[tool] = [answer for index, answer in enumerate(answers) if index not in taken]
        newly[tool] = [answer for index, answer in enumerate(answers) if index in taken]
    q = sum(map(len, solved))
    p = len(calls)
    if match == "strict":
        p += len(turn.malformed) + sum(len(answers) - 1 for answers in solved if len(answers) > 1)
    kind = _kind(environment, turn, match)
    before = environment.solved_set
    harm = change.harm if change else 0
    return TurnScore(
        reward=0.0 if fault else HARM_REWARD if harm else REWARDS[variant](p, q, t, kind),
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
        state=environment.state if fault else state,
        harm=harm,
    )


def earlier_calls(messages: Sequence[Mapping[str, Any]], tool: str) -> set[tuple[str, str]]:
    """The calls to a tool in earlier turns of a conversation, each as its `call_key` and its output.

    The tool messages after an assistant message answer its calls in order.
    """
    calls: set[tuple[str, str]] = set()
    open_calls: deque[Mapping[str, Any]] = deque()
    for message in messages:
        if message.get("role") != "tool":
            open_calls = deque(call["function"] for call in message.get("tool_calls") or ())
        elif open_calls and (function := open_calls.popleft())["name"] == tool:
            arguments = function["arguments"]
            if isinstance(arguments, str):  # the format of OpenAI's servers
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
    """All known sub-answers of an environment, solved and unsolved."""
    listed = [*environment.unsolved_set.values(), *environment.solved_set.values()]
    return [*chain.from_iterable(listed), *(item.answer for item in environment.sub_questions)]


def _kind(environment: Environment, turn: ParsedTurn, match: str) -> str:
    """The turn's row of the reward table. The tests run in the published order."""
    if turn.calls:
        return "calls"
    text = _answer_text(turn, match)
    if not text:
        return "empty"
    if any(mark in text for mark in CALL_MARKS):
        return "malformed"
    if match == "strict" and environment.state is not None and was_harmed(environment.state):
        return "other"
    if environment.answer is not None and _states_answer(environment, text, match):
        return "answer"
    return "all_solved_no_answer" if environment.solve_rate == 1.0 else "other"


def _solve_rate(environment: Environment, before: int, unsolved_after: int) -> float:
    """The share solved after a turn. The total number of sub-questions follows from the state before the turn."""
    if unsolved_after == before:
        return environment.solve_rate
    total = round(before / (1.0 - environment.solve_rate)) if environment.solve_rate < 1.0 else before
    return 1.0 - unsolved_after / max(total, before)
