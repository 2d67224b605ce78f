"""Rollout: many episodes at once, each turn generated in a batch and its tool calls run in the sandbox.

Training (collection) and evaluation play through this one function, and the scorer is the reward's own, so the two can
never disagree. An episode ends with the first turn without a parsed call, or after `max_turns`.

Seeds depend on the run's seed, the environment's id, the trial and the turn alone: the result does not depend on how many
episodes are in flight, nor on where a run was cut off. (Of a sampled model the seeds are fixed, and the batch's
composition can still change last bits of its logits: see train/policies/local_policies.py.)

Source: paper/README.md, "Training" and "Reward for one model turn".
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.scoring import EpisodeScore, TurnScore, advance, score_episode, score_turns, sub_answers
from train.policies.interface import Generation, Policy, PolicyRequest, StreamingPolicy

Outcome = Literal["answered", "max_turns", "too_long", "fault"]


@dataclass
class Episode:
    """One played environment. `prefixes[i]` is the state before turn i, `environment` the state after the last one.

    `seconds` is the wall time that this episode was in flight, its share of the batches' time not separated.
    """

    id: str
    trial: int
    seed: int
    environment: Environment
    turns: list[TurnScore]
    generations: list[Generation]
    outcome: Outcome
    score: EpisodeScore
    prefixes: list[Environment]
    seconds: float = 0.0
    fault: str = ""


@dataclass
class _Running:
    start: Environment
    trial: int
    state: Environment
    turns: list[TurnScore] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    prefixes: list[Environment] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)


def turn_seed(seed: int, case_id: str, trial: int, turn: int) -> int:
    """The seed (31 bits) of one turn."""
    return random.Random(f"{seed}:{case_id}:{trial}:{turn}").getrandbits(31)


def cut_off_text(cut: int, turns: int, limit: int) -> str:
    """A line on the turns that ended at the limit of `limit` tokens, empty where none did.

    A call that is cut off is malformed and scores below a turn without any: where the limit is too short for a tokenizer, the
    reward teaches to call less.
    """
    if not cut:
        return ""
    share = f"{cut} of {turns} turns ({cut / turns:.1%})"
    return f"{share} were cut off at {limit} tokens (--max-new-tokens); a call that is cut off scores as malformed\n"


def require_played(faults: Counter[str], episodes: int, held: int, out: Path | str) -> None:
    """Raises BadInput if each of a call's `episodes` ended in a fault (`faults` counts them by their text).

    The few that a former call left over may fail again: no error, as long as more of them are `held` by the folder.
    """
    if faults and faults.total() == episodes > held:
        words, count = faults.most_common(1)[0]
        raise BadInput(
            f"{out}: no episode of {episodes} could be played; {count} times: {' '.join(words.split())} "
            "(see faults.jsonl; the same command plays them again)"
        )


def take_turns(ready: list[int], room: int, kept: int) -> list[int]:
    """Take at most `room` out of `ready` (the latest played last), first those that have waited longest among the last `kept`.

    A policy keeps what it computed for about twice as many episodes as it has room for, and no more are begun. Prompts grow,
    and then its room shrinks below what was begun: those played longest ago wait, and the others find their former turns.
    """
    first = max(0, len(ready) - kept)
    taken = ready[first : first + room]
    del ready[first : first + room]
    return taken


def play(
    policy: Policy,
    environments: Sequence[Environment],
    *,
    max_turns: int = 20,
    trials: int = 1,
    seed: int = 0,
    match: str = "published",
    variant: str = "solve_f1",
    sandbox: ToolSandbox | None = None,
    on_episode: Callable[[Episode], None] | None = None,
    in_flight: int = 256,
    skip: Callable[[str, int], bool] | None = None,
) -> list[Episode]:
    """Play every environment `trials` times; episodes come back in order (environment, then trial).

    `in_flight` bounds how many episodes run at once; a finished one makes room for the next. `on_episode` is called as
    each ends. `skip(id, trial)` leaves out what a former run has done. A tool's or a server's fault ends its episode
    with outcome `fault`; the others go on.
    """
    tasks = [
        (environment, trial)
        for environment in environments
        for trial in range(trials)
        if skip is None or not skip(environment.id, trial)
    ]
    settings = _Settings(max_turns, seed, match, variant, sandbox, on_episode, threading.Lock())
    if isinstance(policy, StreamingPolicy):
        workers = max(1, min(policy.workers, len(tasks)))
        rollouts = [
            # which worker plays an episode depends on its place alone, so that batches are the same in every run
            _Rollout(tasks[worker::workers], settings, max(1, in_flight // workers))
            for worker in range(workers)
        ]
        if workers == 1:
            policy.stream(rollouts[0].exchange)
        else:
            with ThreadPoolExecutor(max_workers=workers) as pool:
                list(pool.map(policy.stream, [rollout.exchange for rollout in rollouts]))
    else:
        rollouts = [_Rollout(tasks, settings, in_flight)]
        requests = rollouts[0].exchange([], in_flight)
        while requests:
            generations = policy.generate([request for _, request in requests])
            tickets = [ticket for ticket, _ in requests]
            requests = rollouts[0].exchange(list(zip(tickets, generations, strict=True)), in_flight)
    return [rollouts[index % len(rollouts)].done[index // len(rollouts)] for index in range(len(tasks))]


@dataclass(frozen=True)
class _Settings:
    max_turns: int
    seed: int
    match: str
    variant: str
    sandbox: ToolSandbox | None
    on_episode: Callable[[Episode], None] | None
    lock: threading.Lock  # one callback at a time


class _Rollout:
    """The episodes of one `play`: takes generations as they come, in any order, and says what to generate next."""

    def __init__(self, tasks: Sequence[tuple[Environment, int]], settings: _Settings, in_flight: int) -> None:
        self.done: dict[int, Episode] = {}
        self._running: dict[int, _Running] = {}
        self._ready: list[int] = []  # running episodes whose next turn has not been asked for, the latest played last
        self._waiting = iter(enumerate(tasks))
        self._settings = settings
        self._in_flight = in_flight

    def exchange(self, finished: list[tuple[int, Generation]], room: int) -> list[tuple[int, PolicyRequest]]:
        """Score what was generated (one batch of the sandbox), and return at most `room` turns to generate."""
        self._settle(finished)
        with_policy = len(self._running) - len(self._ready)
        kept = 2 * (with_policy + room)
        while len(self._running) < min(self._in_flight, kept) and (item := next(self._waiting, None)) is not None:
            index, (environment, trial) = item
            self._running[index] = _Running(start=environment, trial=trial, state=environment)
            self._ready.append(index)
        return [self._request(index) for index in take_turns(self._ready, room, kept - with_policy)]

    def _request(self, index: int) -> tuple[int, PolicyRequest]:
        item = self._running[index]
        turn = len(item.turns)
        return index, PolicyRequest(
            environment=item.state,
            case_id=item.start.id,
            trial=item.trial,
            turn=turn,
            seed=turn_seed(self._settings.seed, item.start.id, item.trial, turn),
        )

    def _settle(self, finished: list[tuple[int, Generation]]) -> None:
        playing: list[tuple[int, Generation]] = []
        for index, generation in finished:
            if generation.fault:
                self._end(index, "fault", generation.fault)
            elif generation.too_long:
                self._end(index, "too_long")
            else:
                playing.append((index, generation))
        scores = score_turns(
            [(self._running[index].state, generation.text) for index, generation in playing],
            variant=self._settings.variant,
            match=self._settings.match,
            sandbox=self._settings.sandbox,
        )
        for (index, generation), score in zip(playing, scores, strict=True):
            item = self._running[index]
            item.prefixes.append(item.state)
            item.generations.append(generation)
            item.turns.append(score)
            if score.fault:
                self._end(index, "fault", _fault_of(score))
                continue
            item.state = advance(item.state, score)
            if not score.parsed.calls:
                self._end(index, "answered")
            elif len(item.turns) >= self._settings.max_turns:
                self._end(index, "max_turns")
            else:
                self._ready.append(index)

    def _end(self, index: int, outcome: Outcome, fault: str = "") -> None:
        item = self._running.pop(index)
        final_text = item.turns[-1].parsed.text if outcome == "answered" else ""
        episode = Episode(
            id=item.start.id,
            trial=item.trial,
            seed=self._settings.seed,
            environment=item.state,
            turns=item.turns,
            generations=item.generations,
            outcome=outcome,
            score=score_episode(
                item.start.unsolved_count,
                item.turns,
                item.start.answer,
                final_text,
                self._settings.match,
                sub_answers(item.start),
            ),
            prefixes=item.prefixes,
            seconds=time.monotonic() - item.begun,
            fault=fault,
        )
        self.done[index] = episode
        if self._settings.on_episode is not None:
            with self._settings.lock:
                self._settings.on_episode(episode)


def _fault_of(score: TurnScore) -> str:
    return next((result.output for result in score.results if result.status == "fault"), "the tool sandbox failed")
