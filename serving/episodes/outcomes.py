"""The outcome of an episode: its turns scored by `reward/scoring.py`, under `published` and `strict`.

The server keeps turns as texts with the results of their calls, and scores them when the episode ends. The result of a
call depends only on its source, its arguments and the state before it, so the scores equal those of scoring each turn
at once. The turns of a stateful environment run again, from the first tables. No information about the gold leaves the
server before the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult, ToolSandbox
from reward.episode_rewards import EPISODE_REWARDS
from reward.scoring import EpisodeScore, TurnScore, advance, score_episode, score_results, score_turn, sub_answers
from reward.tool_calls import parse_turn, render_call


@dataclass
class Turn:
    """One model turn. `number` is the client's turn number, or None.

    A turn of single calls has `calls` and `results` at the same positions. A result is None while the call is running,
    or if the server was killed during the call. A turn of text has `text`.
    """

    number: int | None = None
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult | None] = field(default_factory=list)
    text: str | None = None

    def written(self) -> tuple[str, list[ToolCall], list[ToolResult]]:
        """The turn as the model would have written it, the completed calls, and their results."""
        done = [(call, result) for call, result in zip(self.calls, self.results, strict=True) if result is not None]
        text = self.text if self.text is not None else "\n".join(render_call(call) for call, _ in done)
        return text, [call for call, _ in done], [result for _, result in done]


@dataclass(frozen=True)
class TurnReward:
    """One turn's reward and its parts, as in `reward.scoring.TurnScore`."""

    reward: float
    kind: str
    p: int
    q: int
    t: int
    fault: bool


@dataclass(frozen=True)
class MatchOutcome:
    """An episode scored under one match mode.

    `rewards`: one value for each row of EPISODE_REWARDS; all are 0 after a sandbox fault. `answered`: the last turn is
    a text without a call.
    """

    answered: bool
    turns: list[TurnReward]
    rewards: dict[str, float]
    score: EpisodeScore
    fault: bool


@dataclass(frozen=True)
class Outcome:
    """The end of an episode. `environment` is its id, `variant` the row of the reward table."""

    environment: str
    variant: str
    published: MatchOutcome
    strict: MatchOutcome

    def of(self, match: str) -> MatchOutcome:
        return self.published if match == "published" else self.strict


def outcome_of(environment: Environment, turns: Sequence[Turn], *, variant: str, sandbox: ToolSandbox) -> Outcome:
    """Score the turns of an episode, in order. A turn of calls without any result does not count."""
    turns = [turn for turn in turns if turn.text is not None or any(turn.results)]
    found = {
        match: match_outcome(environment, _scores(environment, turns, variant, match, sandbox), match)
        for match in MATCHES
    }
    return Outcome(environment.id, variant, **found)


def _scores(
    start: Environment, turns: Sequence[Turn], variant: str, match: str, sandbox: ToolSandbox
) -> list[TurnScore]:
    state, scores = start, []
    for turn in turns:
        text, calls, results = turn.written()
        if start.state is not None:
            scores.append(score_turn(state, text, variant=variant, match=match, sandbox=sandbox))
        else:
            parsed = parse_turn(text, match)
            if list(parsed.calls) != calls:  # the two match modes can parse different calls from one text
                results = sandbox.run_batch([SandboxJob(start.codes, parsed.calls)])[0] if parsed.calls else []
            scores.append(score_results(state, parsed, results, variant, match))
        if scores[-1].fault:
            break
        state = advance(state, scores[-1])
    return scores


def match_outcome(start: Environment, scores: Sequence[TurnScore], match: str) -> MatchOutcome:
    """The outcome of an episode from the scores of its turns, in order."""
    fault = bool(scores) and scores[-1].fault
    answered = bool(scores) and not fault and not scores[-1].parsed.calls
    final = scores[-1].parsed.text if answered else ""
    total = score_episode(start.unsolved_count, scores, start.answer, final, match, sub_answers(start))
    rewards = [score.reward for score in scores]
    return MatchOutcome(
        answered=answered,
        turns=[TurnReward(s.reward, s.kind, s.p, s.q, s.t, s.fault) for s in scores],
        rewards={
            name: 0.0 if fault or not scores else of_episode(rewards, total, start.answer is not None)
            for name, of_episode in EPISODE_REWARDS.items()
        },
        score=total,
        fault=fault,
    )
