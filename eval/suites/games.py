"""Cases in play: many at once, their turns generated in batches, each case as simple as `hear` and `row`.

Inputs: a policy, (case id, trial) pairs, and a function that makes a `Game` of one. Outputs: a result row for each, as it ends.
Tools that are slow to answer (a simulated user, a server) are heard in threads. How a suite is built on this: eval/suites/suite.py, which
hands on all public names of this module.

Example:
    play_games(policy, [("q1", 0), ("q1", 1)], make_game, seed=0, in_flight=256, max_turns=9, on_row=print)

Source: paper/README.md, defect 10 (one prompt at a time, no seeds).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment, ToolDocument
from train.policies.interface import Generation, OraclePolicy, Policy, PolicyRequest, StreamingPolicy
from train.policies.rollout import take_turns, turn_seed

Play = tuple[str, int]  # (case id, trial)
OnRow = Callable[[dict[str, Any]], None]


class GameFault(Exception):
    """The suite's own infrastructure failed (a simulated user's server, a sandbox): the case is not scored."""


class Game(Protocol):
    """One case being played. The loop calls from one thread at a time, but not always the same one.

    `state` is what the policy shall see next: `messages` and `tools`. `done` ends the game after the turn that set it.
    """

    id: str
    trial: int
    state: Environment
    done: bool

    def hear(self, generation: Generation) -> None:
        """Take one model turn: parse it, run tools or ask a simulated user, update `state`, perhaps set `done`.

        No text may make it raise: a broken turn is the model's doing and is scored. Raises GameFault for what is not.
        """

    def row(self, outcome: str) -> dict[str, Any]:
        """The suite's columns of the result row: numbers or None for the metrics, `calls`, and `failure` (its kind, or "").

        `outcome`: `ended` (the game set `done`), `max_turns`, or `too_long` (the prompt left no room for another turn).
        Called once, at the end. The loop adds id, trial, seed, outcome, turns, completion_tokens, seconds, transcript, and
        `turn_scores` (the raw text and tokens of each turn, which `replay:` reads). A `turn_scores` of the suite's own,
        one dictionary a turn, is merged into it; `transcript` and `failure` of the suite's own are kept.
        """


@runtime_checkable
class GoldGame(Protocol):
    """A game that knows the right next turn: the oracle plays it and must get full marks."""

    def gold_turn(self) -> str:
        """The raw text of the right turn in the present state."""


@dataclass
class GameRequest(PolicyRequest):
    """The request of a game's next turn. Only the oracle looks at `game`."""

    game: Game


class _GoldPolicy:
    name = "oracle"

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        turns: list[Generation] = []
        for request in requests:
            game = request.game if isinstance(request, GameRequest) else None
            if not isinstance(game, GoldGame):
                raise BadInput(f"case {request.case_id!r} has no gold turns: the oracle cannot play it")
            turns.append(Generation(text=game.gold_turn(), tokens=0, prompt_tokens=0, truncated=False))
        return turns


def conversation(
    case_id: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[ToolDocument | Mapping[str, Any]] = ()
) -> Environment:
    """A state of messages and tools alone. `tools`: documents, or OpenAI functions with or without their wrapper.

    Raises BadInput for a tool without a name.
    """
    documents = []
    for tool in tools:
        if isinstance(tool, ToolDocument):
            documents.append(tool)
            continue
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadInput(f"case {case_id!r}: expected a tool with a name, got {str(tool)[:100]!r}")
        documents.append(
            ToolDocument(
                **{
                    **function,
                    "description": function.get("description") or "",
                    "parameters": function.get("parameters") or {"type": "object", "properties": {}},
                }
            )
        )
    return Environment(id=case_id, messages=[dict(m) for m in messages], tools=documents, codes={}, unsolved_set={})


def with_messages(state: Environment, *messages: Mapping[str, Any]) -> Environment:
    """The state with more messages behind the ones it has; `state` is not changed."""
    return state.model_copy(update={"messages": [*state.messages, *(dict(message) for message in messages)]})


def play_games(
    policy: Policy,
    plays: Sequence[Play],
    make_game: Callable[[str, int], Game],
    *,
    seed: int,
    in_flight: int,
    max_turns: int,
    on_row: OnRow,
    threads: int = 0,
) -> None:
    """Play each (case id, trial) of `plays`; `on_row` gets each game's row as it ends, faults too (outcome `fault`).

    A game is made when there is room for it and dropped when it has ended; at most `in_flight` exist at once. Turns of all
    running games are generated together. `threads` 0: games hear their turns one after the other, and every run makes the
    same batches. More: they hear in that many threads, and a policy that streams is not kept waiting for a slow one (a
    simulated user, a server) while it has other turns to write. Seeds depend on `seed`, case, trial and turn alone.
    An error that a game did not expect is a fault of that game alone, with its text; BadInput ends the run.
    """
    if isinstance(policy, OraclePolicy):
        policy = _GoldPolicy()
    streams = isinstance(policy, StreamingPolicy)
    pool = ThreadPoolExecutor(max_workers=threads) if threads > 0 else None
    settings = _Settings(make_game, seed, max_turns, on_row, threading.Lock(), pool, wait_for_all=not streams)
    try:
        if isinstance(policy, StreamingPolicy):
            workers = max(1, min(policy.workers, len(plays)))
            # which worker plays a case depends on its place alone, so that batches are the same in every run
            tables = [
                _Table(plays[worker::workers], settings, max(1, in_flight // workers)) for worker in range(workers)
            ]
            if workers == 1:
                policy.stream(tables[0].exchange)
            else:
                with ThreadPoolExecutor(max_workers=workers) as streaming:
                    list(streaming.map(policy.stream, [table.exchange for table in tables]))
        else:
            table = _Table(plays, settings, in_flight)
            requests = table.exchange([], in_flight)
            while requests:
                generations = policy.generate([request for _, request in requests])
                tickets = [ticket for ticket, _ in requests]
                requests = table.exchange(list(zip(tickets, generations, strict=True)), in_flight)
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Settings:
    make_game: Callable[[str, int], Game]
    seed: int
    max_turns: int
    on_row: OnRow
    lock: threading.Lock  # one callback at a time
    pool: ThreadPoolExecutor | None
    wait_for_all: bool  # a policy that takes whole batches waits for every game of the last one


@dataclass
class _Seat:
    game: Game
    generations: list[Generation] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)


class _Table:
    """The games of one stream: takes generations as they come, in any order, and says what to generate next."""

    def __init__(self, plays: Sequence[Play], settings: _Settings, in_flight: int) -> None:
        self._settings = settings
        self._in_flight = in_flight
        self._waiting = iter(enumerate(plays))
        self._seats: dict[int, _Seat] = {}
        self._ready: list[int] = []  # games whose next turn has not been asked for, the latest played last
        self._hearing: dict[Future[str], int] = {}
        self._asked = 0  # turns that the policy is writing

    def exchange(self, finished: list[tuple[int, Generation]], room: int) -> list[tuple[int, PolicyRequest]]:
        """Let the games hear what was generated, and return at most `room` turns to generate."""
        self._asked -= len(finished)
        kept = 2 * (self._asked + room)
        for index, generation in finished:
            self._take(index, generation)
        self._gather(ALL_COMPLETED if self._settings.wait_for_all else None)
        while True:
            while len(self._seats) < min(self._in_flight, kept) and (item := next(self._waiting, None)) is not None:
                self._begin(*item)
            requests = [self._request(index) for index in take_turns(self._ready, room, kept - self._asked)]
            if requests or not self._hearing or self._asked:
                self._asked += len(requests)
                return requests
            self._gather(FIRST_COMPLETED)

    def _begin(self, index: int, play: Play) -> None:
        try:
            self._seats[index] = _Seat(self._settings.make_game(*play))
        except BadInput:
            raise
        except Exception as error:
            fault = str(error) if isinstance(error, GameFault) else _unexpected(error)
            self._report(_fault_row(*play, self._settings.seed, fault))
        else:
            self._ready.append(index)

    def _request(self, index: int) -> tuple[int, PolicyRequest]:
        seat = self._seats[index]
        game, turn = seat.game, len(seat.generations)
        seed = turn_seed(self._settings.seed, game.id, game.trial, turn)
        return index, GameRequest(game.state, game.id, game.trial, turn, seed, game)

    def _take(self, index: int, generation: Generation) -> None:
        seat = self._seats[index]
        if generation.fault:
            self._end(index, "fault", generation.fault)
        elif generation.too_long:
            self._end(index, "too_long")
        elif self._settings.pool is None:
            seat.generations.append(generation)
            self._go_on(index, _heard(seat.game, generation))
        else:
            seat.generations.append(generation)
            self._hearing[self._settings.pool.submit(_heard, seat.game, generation)] = index

    def _gather(self, until: str | None) -> None:
        """Go on with the games that have heard their turn; waits for `until` first (None: for nothing)."""
        if not self._hearing:
            return
        heard = wait(self._hearing, return_when=until).done if until else {f for f in self._hearing if f.done()}
        for future, index in sorted(((f, self._hearing[f]) for f in heard), key=lambda pair: pair[1]):
            del self._hearing[future]
            self._go_on(index, future.result())

    def _go_on(self, index: int, fault: str) -> None:
        seat = self._seats[index]
        if fault:
            self._end(index, "fault", fault)
        elif seat.game.done:
            self._end(index, "ended")
        elif len(seat.generations) >= self._settings.max_turns:
            self._end(index, "max_turns")
        else:
            self._ready.append(index)

    def _end(self, index: int, outcome: str, fault: str = "") -> None:
        seat = self._seats.pop(index)
        game = seat.game
        if not fault:
            try:
                own = game.row(outcome)
            except BadInput:
                raise
            except Exception as error:
                fault = _unexpected(error)
        if fault:
            self._report(_fault_row(game.id, game.trial, self._settings.seed, fault))
            return
        turns = [
            {"text": g.text, "tokens": g.tokens, "prompt_tokens": g.prompt_tokens, "truncated": g.truncated}
            for g in seat.generations
        ]
        for turn, more in zip(turns, own.pop("turn_scores", ()), strict=False):
            turn.update(more)
        self._report(
            {
                "id": game.id,
                "trial": game.trial,
                "seed": self._settings.seed,
                "outcome": outcome,
                "failure": "" if outcome == "ended" else outcome,
                "turns": len(turns),
                **own,
                "completion_tokens": sum(g.tokens for g in seat.generations),
                "seconds": round(time.monotonic() - seat.begun, 3),
                "transcript": own.get("transcript", game.state.messages),
                "turn_scores": turns,
            }
        )

    def _report(self, row: dict[str, Any]) -> None:
        with self._settings.lock:
            try:
                self._settings.on_row(row)
            except RecursionError:  # arguments nested to the limit of JSON; the turns' raw texts hold them too
                self._settings.on_row(row | {"transcript": []})


def _heard(game: Game, generation: Generation) -> str:
    """Let the game hear the turn; returns the fault's text, empty if there was none."""
    try:
        game.hear(generation)
    except GameFault as error:
        return str(error) or "the suite's infrastructure failed"
    except BadInput:
        raise
    except Exception as error:
        return _unexpected(error)
    return ""


def _unexpected(error: Exception) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        place, trace = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}", trace.tb_next
    return f"unexpected {type(error).__name__} at {place}: {str(error)[:300]}"


def _fault_row(case_id: str, trial: int, seed: int, fault: str) -> dict[str, Any]:
    return {"id": case_id, "trial": trial, "seed": seed, "outcome": "fault", "fault": fault}
