"""One advantage per turn of an episode, and groups without silent samples. OpenRLHF accepts one scalar per sample.

The agent (train/agent.py) returns the reward of each turn. The rewards are stored with the sample, spread over the
turn's tokens. After OpenRLHF has computed its advantages, they are replaced by those of `reward/credit.py`, the same
NumPy functions that the tests check by hand. CPU and GPU share this code, because the trainer's process computes
advantages on the host.

| `openrlhf.trainer.ppo_utils` (OpenRLHF 0.11.2) | original | here |
| --- | --- | --- |
| `samples_generator` | response length: first to last written token, with tool output | the written tokens |
| `samples_generator` | one reward per sample | with FTRL_EPISODE_CREDIT, also the reward of each turn |
| `experience_maker` | one advantage per sample, at every token | with FTRL_EPISODE_CREDIT, one per turn |
| `experience_maker` | a sample without a written token counts in its group's mean | it does not (open PR 1239) |
| `experience_maker` | the reference scores each sample as played | for `turnsight`, also its views (`hindsight.py`) |

An episode lost to an infrastructure fault has no turn rewards. With credit per turn it is excluded from its group, and
its tokens have advantage 0. Tool output has advantage 0 too, because OpenRLHF's action mask excludes it.

KL must be a loss term (`--algo.kl.use_loss`, which our commands always set). A KL inside the reward would be lost here,
so it raises an error.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from train.trainer.adapt_after_import import Adaptations
from train.trainer.hindsight import GAPS, TURN, add_hindsight

CREDIT_VARIABLE = "FTRL_EPISODE_CREDIT"
EARNED = "turn_rewards"  # the agent's key
# Key of a sample's `info`, like TURN: the reward of each token's turn, shape (samples, actions).
WORTH = "credit_worth"
WHITENED = ("reinforce", "reinforce_baseline")


def credit_of(environ: Mapping[str, str]) -> str:
    """The row of CREDITS that this process trains with, empty for none. Raises ValueError for an unknown name."""
    from reward.credit import CREDITS  # not at the top: every Ray process imports this module, and few need SciPy

    name = environ.get(CREDIT_VARIABLE, "")
    if name and name not in CREDITS:
        raise ValueError(f"{CREDIT_VARIABLE}={name!r}: expected one of {', '.join(CREDITS)}")
    return name


def spread_over_tokens(ranges: Sequence[Sequence[int]], earned: Sequence[float], actions: int) -> tuple[Any, Any]:
    """`(turn number, turn reward)` of each action of a sample, shape (1, actions) each; token t is action t - 1.

    `ranges`: the token ranges of the turns. `earned`: the turns' rewards, empty for an episode lost to a fault. Raises
    ValueError if it has another number of turns.
    """
    import torch

    if earned and len(earned) != len(ranges):
        raise ValueError(f"{len(earned)} turn rewards for {len(ranges)} turns")
    turn, worth = torch.zeros(1, actions), torch.zeros(1, actions)
    for number, ((start, end), reward) in enumerate(zip(ranges, earned, strict=False), start=1):
        turn[0, max(0, start - 1) : max(0, end - 1)] = number
        worth[0, max(0, start - 1) : max(0, end - 1)] = reward
    return turn, worth


def _keep_turns(module: Any) -> None:
    """Patch SamplesGenerator: store the turns' rewards with the sample, and count only tokens that the model wrote."""
    whole = module.SamplesGenerator._process_response_into_experience

    @functools.wraps(whole)
    def process(self: Any, response: Any, **named: Any) -> Any:
        sample = whole(self, response, **named)
        sample.response_length = sample.action_mask.sum(-1)
        if credit_of(os.environ):
            if EARNED not in response:
                raise ValueError(f"{CREDIT_VARIABLE} is set, but the agent returned no {EARNED}: use train/agent.py")
            turn, worth = spread_over_tokens(response["action_ranges"], response[EARNED], sample.action_mask.shape[-1])
            sample.info |= {TURN: turn, WORTH: worth}
        return sample

    module.SamplesGenerator._process_response_into_experience = process


def _credit_turns(module: Any) -> None:
    """Patch RemoteExperienceMaker: advantages per turn, and groups without samples in which the model wrote nothing."""
    from reward.credit import CREDITS, ESTIMATORS

    made = module.RemoteExperienceMaker.make_experience

    @functools.wraps(made)
    def make(self: Any, samples: list[Any]) -> list[Any]:
        experiences = made(self, samples)
        credit = credit_of(os.environ)
        if credit and CREDITS[credit].hindsight:
            add_hindsight(self, experiences)
        return list(experiences)

    module.RemoteExperienceMaker.make_experience = make
    whole = module.RemoteExperienceMaker.compute_advantages_and_returns

    @functools.wraps(whole)
    def compute(self: Any, experiences: list[Any]) -> list[Any]:
        credit = credit_of(os.environ)
        planes = [(experience.info.pop(TURN, None), experience.info.pop(WORTH, None)) for experience in experiences]
        gaps = [experience.info.pop(GAPS, None) for experience in experiences]
        advantage = self.args.algo.advantage
        if credit and not self.args.algo.kl.use_loss:
            raise ValueError(f"{CREDIT_VARIABLE}={credit} needs --algo.kl.use_loss: KL inside the reward would be lost")
        if credit and advantage.estimator not in ESTIMATORS:
            raise ValueError(
                f"{CREDIT_VARIABLE}={credit}: expected an estimator among {', '.join(ESTIMATORS)}, got "
                f"{advantage.estimator}"
            )
        silent = any(not bool(experience.action_mask.any(-1).all()) for experience in experiences)
        experiences = whole(self, experiences)
        if not credit and (not silent or advantage.estimator not in ESTIMATORS):
            return experiences
        if not credit:
            # One turn with the sample's reward: OpenRLHF's own advantages, without the silent samples.
            planes = [
                (experience.action_mask.float(), experience.rewards[:, None] * experience.action_mask)
                for experience in experiences
            ]
        turns = [turn * experience.action_mask for (turn, _), experience in zip(planes, experiences, strict=True)]
        replace_advantages(
            experiences,
            turns,
            [worth for _, worth in planes],
            credit or "outcome",
            self.args.rollout.n_samples_per_prompt,
            advantage.estimator,
            advantage.no_std_norm,
            gaps if credit and CREDITS[credit].hindsight else None,
        )
        return experiences

    module.RemoteExperienceMaker.compute_advantages_and_returns = compute


def replace_advantages(
    experiences: Sequence[Any],
    turns: Sequence[Any],
    worths: Sequence[Any],
    credit: str,
    samples_per_prompt: int,
    estimator: str,
    keep_scale: bool,
    gaps: Sequence[Any] | None = None,
) -> None:
    """Write the advantages of `credit` into OpenRLHF's experiences, at the tokens of each turn; all other tokens get 0.

    `turns`, `worths`: turn numbers and rewards per experience, shape (samples, actions). `keep_scale`: REINFORCE++
    without division by the standard deviation. `gaps`: per experience, shape (samples, depths, actions), NaN if a turn
    has no hindsight.
    """
    import numpy as np
    import torch

    from reward.credit import batch_advantages, whiten

    order = [index for experience in experiences for index in experience.index]
    rows = [row for turn in turns for row in turn.cpu().numpy().astype(int)]
    values = [row for worth in worths for row in worth.cpu().numpy().astype(np.float64)]
    views = [row for gap in gaps for row in gap.cpu().numpy().astype(np.float64)] if gaps is not None else []
    earned: list[Any] = [np.zeros(0)] * len(order)
    seen: list[Any] = [[]] * len(order)
    for place, (index, row, value) in enumerate(zip(order, rows, values, strict=True)):
        numbers, first = np.unique(row, return_index=True)
        earned[index] = value[first[numbers > 0]]
        if views:
            turns_of = [views[place][:, row == number] for number in numbers[numbers > 0]]
            seen[index] = [view if np.isfinite(view).all() else view[:, :0] for view in turns_of]
    advantages = batch_advantages(credit, earned, samples_per_prompt, estimator, seen if views else None)
    spread = []
    for index, row in zip(order, rows, strict=True):
        numbers = np.unique(row)
        by_number = np.zeros(row.max(initial=0) + 1)
        by_number[numbers[numbers > 0]] = advantages[index]
        spread.append(by_number[row])
    if estimator in WHITENED:
        credited = [row > 0 for row in rows]
        flat = whiten(np.concatenate([row[at] for row, at in zip(spread, credited, strict=True)]), keep_scale)
        parts = np.split(flat, np.cumsum([at.sum() for at in credited])[:-1])
        for row, at, part in zip(spread, credited, parts, strict=True):
            row[at] = part
    rest = iter(spread)
    for experience in experiences:
        found = np.stack([next(rest) for _ in experience.index])
        experience.returns = torch.from_numpy(found).to(experience.advantages)
        experience.advantages = experience.returns.clone()


TURN_CREDIT: Adaptations = {
    "openrlhf.trainer.ppo_utils.samples_generator": _keep_turns,
    "openrlhf.trainer.ppo_utils.experience_maker": _credit_turns,
}
