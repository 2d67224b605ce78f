"""The reward settings of a training run, and control rewards that say nothing about the response.

A control shows how much of the learning is due to the reward.

- `shuffled`: each response gets the true reward of another, earlier response, drawn uniformly from the last RESERVOIR
  true rewards of this process. The response's own reward enters the reservoir only after its draw. The draw depends on
  the seed and the number of earlier draws, never on the response. So, given the past, it is independent of the
  response, and its distribution is that of the policy's recent true rewards. The first draw is 0.
  OpenRLHF scores one response per call, so a permutation within the group is not possible. A reservoir larger than a
  group also avoids draws that are always from the same prompt. Each process (each rollout engine) has its own
  reservoir. The arrival order of concurrent responses decides which response gets which draw, so two runs agree in
  distribution but not bit for bit.
- `constant`: every response gets CONSTANT. All advantages are 0; only KL, entropy and weight decay remain.
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
    """Turns true rewards into the rewards that a control run passes to the trainer. Thread-safe.

    `kind` is one of CONTROLS ("" passes the true reward through); ValueError otherwise.
    """

    def __init__(self, kind: str, seed: int = 0, reservoir: int = RESERVOIR) -> None:
        if kind not in CONTROLS:
            raise ValueError(f"unknown control {kind!r}: expected one of {', '.join(map(repr, CONTROLS))}")
        self.kind = kind
        self._past: deque[float] = deque(maxlen=reservoir)
        self._random = random.Random(f"{seed}:reward-control")
        self._lock = threading.Lock()

    def apply(self, reward: float) -> float:
        """The reward to pass on for a response whose true reward is `reward`."""
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
    """The reward that this process computes. reward/openrlhf_reward.py lists the variables."""

    variant: str
    match: str
    control: RewardControl
    seed: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RewardSettings:
        """Read FTRL_REWARD_*; all must be set. Raises BadInput with the variable, its value and what was expected."""
        names = ("FTRL_REWARD_VARIANT", "FTRL_REWARD_MATCH", "FTRL_REWARD_CONTROL", "FTRL_REWARD_SEED")
        if missing := [name for name in names if name not in environ]:
            raise BadInput(
                f"{', '.join(missing)} not set in this process: training has no default reward; "
                "start training with python -m train.run_openrlhf, which sets them for every worker"
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
