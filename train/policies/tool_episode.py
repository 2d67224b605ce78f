"""One training episode played online: the episode of train/policies/rollout.py, one turn at a time.

It ends with the first turn without a parsed call, after `max_turns`, or when its conversation is too long.
Source: paper/README.md, "Training"; the reward of an episode: reward/episode_rewards.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.controls import RewardSettings
from reward.episode_rewards import EPISODE_REWARDS
from reward.logged_settings import codes
from reward.openrlhf_inputs import environment_of
from reward.rewards import KINDS
from reward.scoring import score_turn
from train.policies.rollout import Episode
from train.trainer.openrlhf_command import EPISODE_REWARD_VARIABLE

OUTCOMES = ("answered", "max_turns", "too_long", "fault")
MAX_TURNS = 20
TURNS_VARIABLE = "FTRL_EPISODE_MAX_TURNS"


@dataclass(frozen=True)
class EpisodeSettings:
    """`turn`: settings of each turn's reward; `reward`: a row of EPISODE_REWARDS; `max_turns`: its limit."""

    turn: RewardSettings
    reward: str = "turns"
    max_turns: int = MAX_TURNS

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EpisodeSettings:
        """Read FTRL_REWARD_* and FTRL_EPISODE_*. Raises BadInput: the variable, its value, what was expected."""
        reward = environ.get(EPISODE_REWARD_VARIABLE, "")
        if not reward:
            raise BadInput(
                f"{EPISODE_REWARD_VARIABLE} not set in this process: training has no default reward; "
                "python -m train.run_openrlhf sets it for every worker"
            )
        if reward not in EPISODE_REWARDS:
            raise BadInput(f"{EPISODE_REWARD_VARIABLE}={reward!r}: expected one of {', '.join(EPISODE_REWARDS)}")
        turns = environ.get(TURNS_VARIABLE, str(MAX_TURNS))
        if not turns.isdigit() or int(turns) < 1:
            raise BadInput(f"{TURNS_VARIABLE}={turns!r}: expected a whole number above 0")
        return cls(RewardSettings.from_environ(environ), reward, int(turns))


class ToolEpisode(Episode):
    """`state` is the environment after the turns so far; `outcome` is empty until the episode ends."""

    def __init__(
        self, start: Environment, settings: EpisodeSettings, thinking: bool = False, sandbox: ToolSandbox | None = None
    ) -> None:
        super().__init__(start, match=settings.turn.match)
        self.settings = settings
        self.thinking = thinking
        self.sandbox = sandbox

    @classmethod
    def from_label(cls, label: str, settings: EpisodeSettings) -> ToolEpisode:
        """The episode of a label that `train.rl_prompts --environments` wrote. Raises BadInput for another label."""
        start = environment_of(label, settings.turn.match)
        thinking = json.loads(label).get("thinking")
        if not isinstance(thinking, bool):
            raise BadInput(
                "label: key 'thinking' is missing: make prompts for episodes by train.rl_prompts --environments"
            )
        return cls(start, settings, thinking)

    def take_turn(self, text: str) -> list[dict[str, Any]]:
        """Score a turn and run its calls; the tools' messages, or none if the episode has ended."""
        score = score_turn(
            self.state, text, variant=self.settings.turn.variant, match=self.settings.turn.match, sandbox=self.sandbox
        )
        known = len(self.state.messages) + 1
        if self.take(score):
            self.outcome = "fault"
        elif self.done:
            self.outcome = "answered"
        elif len(self.turns) >= self.settings.max_turns:
            self.outcome = "max_turns"
        return [] if self.outcome else self.state.messages[known:]

    @property
    def true_reward(self) -> float:
        """The episode's reward before any control; 0 for a fault."""
        if self.outcome == "fault" or not self.turns:
            return 0.0
        of_episode = EPISODE_REWARDS[self.settings.reward]
        return of_episode([turn.reward for turn in self.turns], self.score, self.start.answer is not None)


def episode_logs(episode: ToolEpisode | None, settings: EpisodeSettings) -> dict[str, float]:
    """The logs of an episode, always with the same keys: sums over turns, shares of turns by kind, the settings.

    None is an episode that could not start, which counts as a fault.
    """
    turns = episode.turns if episode else []
    kinds = Counter(turn.kind for turn in turns)
    score = episode.score if episode else None
    outcome = episode.outcome if episode else "fault"
    row = {
        "p": float(sum(turn.p for turn in turns)),
        "q": float(sum(turn.q for turn in turns)),
        "fault": float(outcome == "fault"),
        "sandbox_ms": sum(turn.sandbox_ms for turn in turns),
        "timeouts": float(sum(result.status == "timeout" for turn in turns for result in turn.results)),
        "true_reward": episode.true_reward if episode else 0.0,
        "turns": float(len(turns)),
        "solve_f1": score.solve_f1 if score else 0.0,
        "solve_r": score.solve_r if score else 0.0,
        "answer_correct": float(score.answer_correct) if score else 0.0,
    }
    row.update({f"kind_{kind}": kinds[kind] / len(turns) if turns else 0.0 for kind in KINDS})
    row.update({f"outcome_{name}": float(outcome == name) for name in OUTCOMES})
    return row | codes(settings.turn, settings.reward)
