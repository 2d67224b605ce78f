"""The rollout engine of collection and evaluation: plays many games concurrently and generates turns in batches.

A game is one case in play: an environment (train/policies/rollout.py), a question or a conversation
(eval/suites/games.py). This module handles batches, seeds, threads and workers; games do not.

Seeds depend only on the run's seed, the case's id, the trial and the turn. The result does not depend on the number of
concurrent games or on where a run was interrupted. Exception: the composition of a batch can change the last bits of a
model's logits (train/policies/local_policies.py).

Source: paper/README.md, "Training", and defect 10 (one prompt at a time, no seeds).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from env_construction.environment.schema import Environment
from train.policies.interface import Exchange, Generation, Policy, PolicyRequest, StreamingPolicy


class Game:
    """One case in play. `state` is what the policy sees next; a turn that ends the game sets `done`.

    The engine fills in `generations` (the turns so far) and, at the end, `seconds` (in flight) and `outcome`: `ended`,
    `max_turns`, `too_long` (the prompt left no room for another turn), or `fault` with its text in `fault`. A game that
    is created with a fault ends immediately. `gold_turn`, if a case has one, returns the raw text of the correct turn
    in the current state. The oracle plays it and must get the full score.
    """

    gold_turn: Callable[[], str] | None = None

    def __init__(self, case_id: str, trial: int, state: Environment, fault: str = "") -> None:
        self.id = case_id
        self.trial = trial
        self.state = state
        self.done = False
        self.generations: list[Generation] = []
        self.outcome = ""
        self.fault = fault
        self.begun = time.monotonic()
        self.seconds = 0.0


G = TypeVar("G", bound=Game)
Hear = Callable[[Sequence[G]], Iterable[str]]


def turn_seed(seed: int, case_id: str, trial: int, turn: int) -> int:
    """The seed (31 bits) of one turn."""
    return random.Random(f"{seed}:{case_id}:{trial}:{turn}").getrandbits(31)


def take_turns(ready: list[int], room: int, kept: int) -> list[int]:
    """Take at most `room` of `ready`, which is ordered by last play: of its last `kept`, those that waited longest.

    A policy caches about twice as many games as it has room for, and no more are started. When prompts grow, its room
    can shrink below the number of started games. The least recently played games then wait, and the others find their
    earlier turns in the cache.
    """
    first = max(0, len(ready) - kept)
    taken = ready[first : first + room]
    del ready[first : first + room]
    return taken


def play_games(
    policy: Policy,
    count: int,
    make_game: Callable[[int], G],
    *,
    hear: Hear[G],
    on_end: Callable[[int, G], None],
    seed: int,
    in_flight: int,
    max_turns: int,
    threads: int = 0,
) -> None:
    """Play the games of the places 0 to `count` - 1; `on_end(place, game)` is called as each ends.

    It is called from the thread of the game's stream, so a policy with several workers calls it from several threads.
    A game is created when there is room for it and dropped when it has ended; at most `in_flight` exist at once. Turns
    of all running games are generated together.

    `hear(games)` processes the newest generation of each game in order: parse it, run tools, update `state`, set `done`
    if the game ends. It yields the infrastructure fault of each game, empty if there was none.

    `threads` 0: one `hear` call processes all turns that finished together, and every run forms the same batches. With
    more, that many threads process turns one by one. A streaming policy then generates other turns while it waits for a
    slow game (a simulated user, a server).
    """
    stream: Callable[[Exchange], None]
    if isinstance(policy, StreamingPolicy):
        stream, workers, wait_for_all = policy.stream, max(1, min(policy.workers, count)), False
    else:
        stream, workers, wait_for_all = partial(_whole_batches, policy, in_flight), 1, True
    pool = ThreadPoolExecutor(max_workers=threads) if threads > 0 else None
    settings = _Settings(make_game, hear, on_end, seed, max(1, in_flight // workers), max_turns, pool, wait_for_all)
    # which worker plays a game depends on its place alone, so that batches are the same in every run
    tables = [_Table(settings, iter(range(worker, count, workers))) for worker in range(workers)]
    try:
        if workers == 1:
            stream(tables[0].exchange)
        else:
            with ThreadPoolExecutor(max_workers=workers) as streaming:
                list(streaming.map(stream, [table.exchange for table in tables]))
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _whole_batches(policy: Policy, room: int, exchange: Exchange) -> None:
    """Stream with a policy that takes whole batches."""
    requests = exchange([], room)
    while requests:
        generations = policy.generate([request for _, request in requests])
        requests = exchange(list(zip([ticket for ticket, _ in requests], generations, strict=True)), room)


@dataclass(frozen=True)
class _Settings(Generic[G]):
    make_game: Callable[[int], G]
    hear: Hear[G]
    on_end: Callable[[int, G], None]
    seed: int
    in_flight: int
    max_turns: int
    pool: ThreadPoolExecutor | None
    wait_for_all: bool  # a policy that takes whole batches waits for every game of the last one


class _Table(Generic[G]):
    """The games of one stream: takes generations in any order, and says what to generate next."""

    def __init__(self, settings: _Settings[G], places: Iterator[int]) -> None:
        self._settings = settings
        self._places = places
        self._games: dict[int, G] = {}
        self._ready: list[int] = []  # games whose next turn has not been asked for, the latest played last
        self._hearing: dict[Future[list[str]], int] = {}
        self._asked = 0  # turns that the policy is writing

    def exchange(self, finished: list[tuple[int, Generation]], room: int) -> list[tuple[int, PolicyRequest]]:
        """Let the games hear what was generated, and return at most `room` turns to generate."""
        self._asked -= len(finished)
        kept = 2 * (self._asked + room)
        most = min(self._settings.in_flight, kept)
        self._take(finished)
        self._gather(ALL_COMPLETED if self._settings.wait_for_all else None)
        while True:
            while len(self._games) < most and (place := next(self._places, None)) is not None:
                game = self._games[place] = self._settings.make_game(place)
                self._go_on(place, game.fault)
            requests = [self._request(place) for place in take_turns(self._ready, room, kept - self._asked)]
            if requests or not self._hearing or self._asked:
                self._asked += len(requests)
                return requests
            self._gather(FIRST_COMPLETED)

    def _request(self, place: int) -> tuple[int, PolicyRequest]:
        game = self._games[place]
        turn = len(game.generations)
        seed = turn_seed(self._settings.seed, game.id, game.trial, turn)
        return place, PolicyRequest(game.state, game.id, game.trial, turn, seed, game.gold_turn)

    def _take(self, finished: list[tuple[int, Generation]]) -> None:
        hear, pool = self._settings.hear, self._settings.pool
        written: dict[int, G] = {}
        for place, generation in finished:
            if generation.fault:
                self._end(place, "fault", generation.fault)
            elif generation.too_long:
                self._end(place, "too_long")
            else:
                written[place] = self._games[place]
                written[place].generations.append(generation)
        if pool is None:
            for place, fault in zip(written, hear(list(written.values())), strict=True):
                self._go_on(place, fault)
        else:
            self._hearing |= {pool.submit(lambda game: list(hear([game])), game): p for p, game in written.items()}

    def _gather(self, until: str | None) -> None:
        """Continue the games whose turn has been processed; wait for `until` first (None: do not wait)."""
        if not self._hearing:
            return
        heard = wait(self._hearing, return_when=until).done if until else {f for f in self._hearing if f.done()}
        for future, place in sorted(((f, self._hearing[f]) for f in heard), key=lambda pair: pair[1]):
            del self._hearing[future]
            self._go_on(place, *future.result())

    def _go_on(self, place: int, fault: str) -> None:
        game = self._games[place]
        if fault:
            self._end(place, "fault", fault)
        elif game.done:
            self._end(place, "ended")
        elif len(game.generations) >= self._settings.max_turns:
            self._end(place, "max_turns")
        else:
            self._ready.append(place)

    def _end(self, place: int, outcome: str, fault: str = "") -> None:
        game = self._games.pop(place)
        game.outcome, game.fault, game.seconds = outcome, fault, time.monotonic() - game.begun
        self._settings.on_end(place, game)
