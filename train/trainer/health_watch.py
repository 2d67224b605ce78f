"""Health rules of a training run, applied to the rows of `train_log.jsonl`.

Each rule warns once. Some rules stop the run, because continuing would waste the time:

| rule | warns | stops |
| --- | --- | --- |
| NaN in loss, KL, reward or gradient norm | | immediately |
| KL to the reference (nats per token) | over 0.5 | over 5 |
| reward faults (of the sandbox, never of the model) | over 1% of responses | over half |
| calls that exceed the sandbox's time limit | over 2% of calls | |
| impossible sandbox time: more than the workers had in the step | immediately | |
| entropy | over twice that of the first step, three steps in a row | |
| truncated responses | over half, three steps in a row | |
| standard deviation of rewards within groups: no learning signal | under 0.01, three steps in a row | |

There is no rule for the gap between vLLM's and the trainer's log-probabilities. OpenRLHF logs it only with importance
correction, which changes the loss. `train/logprob_gap.py` measures it between epochs and has its own rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VITAL = ("policy_loss", "kl", "rollout/reward_mean", "actor_grad_norm")
KL_WARNS, KL_STOPS = 0.5, 5.0
FAULTS_WARN, FAULTS_STOP = 0.01, 0.5
TIMEOUTS_WARN = 0.02
ENTROPY_GROWS = 2.0
TRUNCATED_WARNS = 0.5
SPREAD_WARNS = 0.01
IN_A_ROW = 3


@dataclass(frozen=True)
class Finding:
    """What a rule found at a step. `stop`: the run should stop now."""

    step: int
    rule: str
    message: str
    stop: bool = False


@dataclass
class HealthWatch:
    """Applies the rules to the log's rows, given in order.

    `expect_spread`: False for rewards that are constant by design. `sandbox_workers`: how many tools can run at once,
    over all rollout processes; 0: unknown.
    """

    expect_spread: bool = True
    sandbox_workers: int = 0
    findings: list[Finding] = field(default_factory=list)
    _rows: list[Mapping[str, Any]] = field(default_factory=list)
    _first_entropy: float | None = None

    def see(self, row: Mapping[str, Any]) -> list[Finding]:
        """The new findings of this row: each rule warns once, a stop is always reported."""
        self._rows = [*self._rows[1 - IN_A_ROW :], row]
        reported = {finding.rule for finding in self.findings}
        new = [found for found in self._check(row) if found.stop or found.rule not in reported]
        self.findings += new
        return new

    def _check(self, row: Mapping[str, Any]) -> list[Finding]:
        step = int(row.get("step", 0))
        found = [
            Finding(step, "number", f"{key} is not a number", stop=True) for key in VITAL if row.get(key, 0.0) is None
        ]
        kl = row.get("kl") or 0.0
        if kl > KL_WARNS:
            found.append(Finding(step, "kl", f"KL to the reference is {kl:.2f} nats per token", stop=kl > KL_STOPS))
        fault = row.get("fault") or 0.0
        if fault > FAULTS_WARN:
            message = f"{fault:.1%} of the responses could not be scored (reward faults)"
            found.append(Finding(step, "fault", message, stop=fault > FAULTS_STOP))
        found += self._check_sandbox(row, step)
        entropy = row.get("entropy_loss")
        if self._first_entropy is None and entropy:
            self._first_entropy = entropy
        limit = ENTROPY_GROWS * (self._first_entropy or math.inf)
        if self._in_a_row("entropy_loss", lambda value: value > limit):
            message = (
                f"entropy has grown from {self._first_entropy:.2f} to {entropy:.2f} nats per token: the policy is "
                "losing what it learned"
            )
            found.append(Finding(step, "entropy", message))
        if self._in_a_row("rollout/truncated_rate", lambda value: value > TRUNCATED_WARNS):
            found.append(
                Finding(step, "truncated", f"{row['rollout/truncated_rate']:.0%} of the responses are truncated")
            )
        if self.expect_spread and self._in_a_row("group_reward_std", lambda value: value < SPREAD_WARNS):
            found.append(Finding(step, "spread", "rewards within groups no longer differ: nothing to learn from"))
        return found

    def _check_sandbox(self, row: Mapping[str, Any], step: int) -> list[Finding]:
        found = []
        calls, timeouts = row.get("p") or 0.0, row.get("timeouts") or 0.0
        if timeouts > TIMEOUTS_WARN * max(calls, timeouts):
            share = timeouts / max(calls, timeouts)
            found.append(Finding(step, "timeouts", f"{share:.1%} of the calls exceeded the sandbox's time limit"))
        spent, wall = row.get("reward_seconds") or 0.0, row.get("timing/step_total") or 0.0
        if self.sandbox_workers and wall and spent > wall * self.sandbox_workers:
            message = (
                f"{spent:.0f} s of sandbox time in a step of {wall:.0f} s with {self.sandbox_workers} workers is "
                "impossible: the sandbox misread its clock, and calls may have timed out wrongly"
            )
            found.append(Finding(step, "sandbox time", message))
        return found

    def _in_a_row(self, key: str, holds: Any) -> bool:
        values: Sequence[Any] = [row.get(key) for row in self._rows]
        return len(values) == IN_A_ROW and all(value is not None and holds(value) for value in values)
