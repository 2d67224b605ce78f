"""An advantage for each turn of an episode, and groups without silent samples: OpenRLHF takes one scalar per sample.

The agent (train/agent.py) hands over what each turn earned. It travels with the sample, spread over the turn's tokens,
and where OpenRLHF has made its advantages they are replaced by those of `reward/credit.py`: the same NumPy functions
that the tests work out by hand. CPU and GPU take the same path, since advantages are made in the trainer's own process,
on the host.

| module (OpenRLHF 0.11.2) | as it comes | here |
| --- | --- | --- |
| `openrlhf.trainer.ppo_utils.samples_generator` | response length: from the first to the last written token, tool output included | the written tokens |
| | one reward per sample | with FTRL_EPISODE_CREDIT, each turn's reward beside it |
| `openrlhf.trainer.ppo_utils.experience_maker` | one advantage per sample, at every token | with FTRL_EPISODE_CREDIT, one per turn |
| | a sample without a written token enters its group's mean | it does not (OpenRLHF's open pull request 1239) |
| | the reference sees each sample as it was played | for `turnsight`, each turn once more, after what came of it (`hindsight.py`) |

An episode that was lost to a fault of ours earns nothing at any turn: with credit per turn it is left out of its group,
and its tokens have advantage 0. Tool output has none either: OpenRLHF's mask of actions decides, as always.

KL must be a loss (`--algo.kl.use_loss`, as every command of ours has it): a KL inside the reward would be lost here,
and is refused.
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
# of a sample's `info`, as TURN, shape (samples, actions) as the mask: what a token's turn earned
WORTH = "credit_worth"
WHITENED = ("reinforce", "reinforce_baseline")


def credit_of(environ: Mapping[str, str]) -> str:
    """The row of CREDITS that this process trains with, empty for none. Raises ValueError for a name that is no row."""
    from reward.credit import CREDITS  # not above: every process of Ray imports this module, and few need SciPy

    name = environ.get(CREDIT_VARIABLE, "")
    if name and name not in CREDITS:
        raise ValueError(f"{CREDIT_VARIABLE}={name!r}: expected one of {', '.join(CREDITS)}")
    return name


def spread_over_tokens(ranges: Sequence[Sequence[int]], earned: Sequence[float], actions: int) -> tuple[Any, Any]:
    """`(turn, worth)` of each of a sample's `actions`, shape (1, actions); token t is action t - 1. `ranges`: of the
    turns' tokens.

    `earned` is empty for an episode that was lost. Raises ValueError if it is of another number of turns.
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
    """Change SamplesGenerator: what turns earned stays with the sample, and lengths count what the model wrote."""
    whole = module.SamplesGenerator._process_response_into_experience

    @functools.wraps(whole)
    def process(self: Any, response: Any, **named: Any) -> Any:
        sample = whole(self, response, **named)
        sample.response_length = sample.action_mask.sum(-1)
        if credit_of(os.environ):
            if EARNED not in response:
                raise ValueError(
                    f"{CREDIT_VARIABLE} is set and the agent handed over no {EARNED}: train with train/agent.py"
                )
            turn, worth = spread_over_tokens(response["action_ranges"], response[EARNED], sample.action_mask.shape[-1])
            sample.info |= {TURN: turn, WORTH: worth}
        return sample

    module.SamplesGenerator._process_response_into_experience = process


def _credit_turns(module: Any) -> None:
    """Change RemoteExperienceMaker: advantages per turn, and groups of those samples alone that the model wrote in."""
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
                f"{CREDIT_VARIABLE}={credit} needs an estimator of {', '.join(ESTIMATORS)}, got {advantage.estimator}"
            )
        silent = any(not bool(experience.action_mask.any(-1).all()) for experience in experiences)
        experiences = whole(self, experiences)
        if not credit and (not silent or advantage.estimator not in ESTIMATORS):
            return experiences
        if (
            not credit
        ):  # one turn, which earns the sample's reward: OpenRLHF's own comparison without the silent samples
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

    `turns`, `worths`: of every experience, shape (samples, actions). `keep_scale`: REINFORCE++ without its division by
    the deviation. `gaps`: of every experience, shape (samples, depths, actions), NaN where a turn has no hindsight.
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
