"""Rollout: many episodes at once, each turn generated in a batch and its tool calls run in the sandbox.

Training (collection) and evaluation play through this one function, and the scorer is the reward's own, so the two can
never disagree. An episode ends with the first turn without a parsed call, or after `max_turns`.

Seeds depend on the run's seed, the environment's id, the trial and the turn alone: the result does not depend on how many
episodes are in flight, nor on where a run was cut off. (Of a sampled model the seeds are fixed, and the batch's
composition can still change last bits of its logits: see train/local_policies.py.)

Source: paper/README.md, "Training" and "Reward for one model turn".
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from env_construction.schema import Environment
from env_construction.tool_sandbox import ToolSandbox
from reward.scoring import EpisodeScore, TurnScore, advance, score_episode, score_turns
from train.policies import Generation, Policy, PolicyRequest

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
    done: dict[int, Episode] = {}
    running: dict[int, _Running] = {}
    waiting = iter(enumerate(tasks))
    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < in_flight:
            item = next(waiting, None)
            if item is None:
                exhausted = True
                break
            index, (environment, trial) = item
            running[index] = _Running(start=environment, trial=trial, state=environment)
        if not running:
            break
        for index, outcome, fault in _step(policy, running, max_turns, seed, match, variant, sandbox):
            episode = _finish(running.pop(index), outcome, fault, seed, match)
            done[index] = episode
            if on_episode is not None:
                on_episode(episode)
    return [done[index] for index in sorted(done)]


def _step(
    policy: Policy,
    running: dict[int, _Running],
    max_turns: int,
    seed: int,
    match: str,
    variant: str,
    sandbox: ToolSandbox | None,
) -> list[tuple[int, Outcome, str]]:
    """One turn of every running episode; returns those that ended, with outcome and fault."""
    requests = [
        PolicyRequest(
            environment=item.state,
            case_id=item.start.id,
            trial=item.trial,
            turn=len(item.turns),
            seed=turn_seed(seed, item.start.id, item.trial, len(item.turns)),
        )
        for item in running.values()
    ]
    ended: list[tuple[int, Outcome, str]] = []
    playing: list[tuple[int, Generation]] = []
    for index, generation in zip(list(running), policy.generate(requests), strict=True):
        if generation.fault:
            ended.append((index, "fault", generation.fault))
        elif generation.too_long:
            ended.append((index, "too_long", ""))
        else:
            playing.append((index, generation))
    scores = score_turns(
        [(running[index].state, generation.text) for index, generation in playing],
        variant=variant,
        match=match,
        sandbox=sandbox,
    )
    for (index, generation), score in zip(playing, scores, strict=True):
        item = running[index]
        item.prefixes.append(item.state)
        item.generations.append(generation)
        item.turns.append(score)
        if score.fault:
            ended.append((index, "fault", _fault_of(score)))
            continue
        item.state = advance(item.state, score)
        if not score.parsed.calls:
            ended.append((index, "answered", ""))
        elif len(item.turns) >= max_turns:
            ended.append((index, "max_turns", ""))
    return ended


def _fault_of(score: TurnScore) -> str:
    return next((result.output for result in score.results if result.status == "fault"), "the tool sandbox failed")


def _finish(item: _Running, outcome: Outcome, fault: str, seed: int, match: str) -> Episode:
    final_text = item.turns[-1].parsed.text if outcome == "answered" else ""
    return Episode(
        id=item.start.id,
        trial=item.trial,
        seed=seed,
        environment=item.state,
        turns=item.turns,
        generations=item.generations,
        outcome=outcome,
        score=score_episode(item.start.unsolved_count, item.turns, item.start.answer, final_text, match),
        prefixes=item.prefixes,
        seconds=time.monotonic() - item.begun,
        fault=fault,
    )
