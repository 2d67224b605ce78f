"""Play environments: the reward's scorer scores each turn, and the sandbox runs its tool calls.

Collection and evaluation both call `play`, so they cannot disagree. An episode ends with the first turn without a
parsed call, or after `max_turns`. The engine and its seeds are in train/policies/games.py.

Source: paper/README.md, "Training" and "Reward for one model turn".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.scoring import EpisodeScore, TurnScore, advance, score_episode, score_turns, sub_answers
from train.policies.games import Game, play_games
from train.policies.interface import Policy


class Episode(Game):
    """An environment in play. `state` is the environment after the turns so far.

    `prefixes[i]` is the state before turn i, `turns[i]` its score. The outcome is `answered` if it ends by itself.
    """

    def __init__(self, start: Environment, trial: int = 0, seed: int = 0, match: str = "published") -> None:
        super().__init__(start.id, trial, start)
        self.start = start
        self.seed = seed
        self.match = match
        self.turns: list[TurnScore] = []
        self.prefixes: list[Environment] = []

    def take(self, score: TurnScore) -> str:
        """Advance by a turn. Return the sandbox's fault, empty if there was none."""
        self.prefixes.append(self.state)
        self.turns.append(score)
        if score.fault:
            return next((found.output for found in score.results if found.status == "fault"), "the tool sandbox failed")
        self.state = advance(self.state, score)
        self.done = not score.parsed.calls
        return ""

    @property
    def score(self) -> EpisodeScore:
        """The metrics of the turns so far."""
        final, start = self.turns[-1].parsed.text if self.done else "", self.start
        return score_episode(start.unsolved_count, self.turns, start.answer, final, self.match, sub_answers(start))


def cut_off_text(cut: int, turns: int, limit: int) -> str:
    """A line on the turns that ended at the limit of `limit` tokens; empty if none did.

    A truncated call is malformed and scores lower than a turn without calls. If the limit is too short for a tokenizer,
    the reward teaches the policy to make fewer calls.
    """
    if not cut:
        return ""
    share = f"{cut} of {turns} turns ({cut / turns:.1%})"
    return f"{share} were cut off at {limit} tokens (--max-new-tokens); a call that is cut off scores as malformed\n"


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

    `in_flight` limits the concurrent episodes; a finished one makes room for the next. `on_episode` is called when each
    ends. `skip(id, trial)` excludes the episodes of an earlier run. A fault of a tool or server ends its episode with
    outcome `fault`; the others continue.
    """
    tasks = [
        (environment, trial)
        for environment in environments
        for trial in range(trials)
        if skip is None or not skip(environment.id, trial)
    ]
    lock = threading.Lock()  # one callback at a time
    episodes: dict[int, Episode] = {}

    def hear(heard: Sequence[Episode]) -> Iterator[str]:
        """All calls of these turns in one batch of the sandbox."""
        turns = [(episode.state, episode.generations[-1].text) for episode in heard]
        scores = score_turns(turns, variant=variant, match=match, sandbox=sandbox)
        return map(Episode.take, heard, scores)

    def keep(place: int, episode: Episode) -> None:
        episode.outcome = "answered" if episode.outcome == "ended" else episode.outcome
        episodes[place] = episode
        if on_episode is not None:
            with lock:
                on_episode(episode)

    play_games(
        policy,
        len(tasks),
        lambda place: Episode(*tasks[place], seed, match),
        hear=hear,
        on_end=keep,
        seed=seed,
        in_flight=in_flight,
        max_turns=max_turns,
    )
    return [episodes[place] for place in range(len(tasks))]
