"""Which reward a training run hands out (its settings), and controls: rewards that say nothing about the response, to
show what learning owes to the reward.

- `shuffled`: each response gets the true reward of some *other, earlier* response, drawn uniformly from the last
  RESERVOIR true rewards of this process. The response's own reward enters the reservoir only after its draw, and the
  draw depends on the seed and the number of draws so far, never on the response: given the past, it is independent of
  the response, and its distribution is that of the policy's recent true rewards. Until there is one earlier reward, the
  draw is 0. OpenRLHF scores one response a call, so a permutation within the group is not to be had; a reservoir wider
  than a group also keeps "same prompt" out of the draw. Each process (each rollout engine) has its own reservoir, and
  the order in which concurrent responses arrive decides which draw is whose: runs are alike in law, not bit for bit.
- `constant`: every response gets CONSTANT. All advantages are 0; what remains is KL, entropy and weight decay.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from env_construction.environment.jsonl import BadInput
from env_construction.environment.matching import MATCHES
from reward.rewards import REWARDS

CONTROLS = ("", "shuffled", "constant")
RESERVOIR = 4096
CONSTANT = 0.5


class RewardControl:
    """Turns true rewards into the rewards that a control run hands to the trainer. Thread-safe.

    `kind` is one of CONTROLS ("" hands the true reward on); ValueError otherwise.
    """

    def __init__(self, kind: str, seed: int = 0, reservoir: int = RESERVOIR) -> None:
        if kind not in CONTROLS:
            raise ValueError(f"unknown control {kind!r}: expected one of {', '.join(map(repr, CONTROLS))}")
        self.kind = kind
        self._past: deque[float] = deque(maxlen=reservoir)
        self._random = random.Random(f"{seed}:reward-control")
        self._lock = threading.Lock()

    def apply(self, reward: float) -> float:
        """The reward to hand over for a response whose true reward is `reward`."""
        if self.kind == "constant":
            return CONSTANT
        if self.kind == "":
            return reward
        with self._lock:
            drawn = self._past[self._random.randrange(len(self._past))] if self._past else 0.0
            self._past.append(reward)
        return drawn


@dataclass(frozen=True)
class RewardSettings:
    """Which reward this process hands out; the variables are listed in reward/openrlhf_reward.py."""

    variant: str
    match: str
    control: RewardControl
    seed: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RewardSettings:
        """Read FTRL_REWARD_*, all of which must be set. Raises BadInput naming the variable, its value and what was
        expected.
        """
        names = ("FTRL_REWARD_VARIANT", "FTRL_REWARD_MATCH", "FTRL_REWARD_CONTROL", "FTRL_REWARD_SEED")
        if missing := [name for name in names if name not in environ]:
            raise BadInput(
                f"{', '.join(missing)} not set in this process: training has no default reward; "
                "python -m train.run_openrlhf sets them for every worker"
            )
        variant, match, control, seed = (environ[name] for name in names)
        if variant not in REWARDS:
            raise BadInput(f"FTRL_REWARD_VARIANT={variant!r}: expected one of {', '.join(REWARDS)}")
        if match not in MATCHES:
            raise BadInput(f"FTRL_REWARD_MATCH={match!r}: expected one of {', '.join(MATCHES)}")
        try:
            number = int(seed)
        except ValueError:
            raise BadInput(f"FTRL_REWARD_SEED={seed!r}: expected a whole number") from None
        try:
            return cls(variant, match, RewardControl(control, number), number)
        except ValueError as error:
            raise BadInput(f"FTRL_REWARD_CONTROL: {error}") from None
