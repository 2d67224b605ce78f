"""Credit for each turn of an episode, in two tables: the reward of a turn, and the values that it is compared with.

A trainer with one scalar per sample gives every turn of an episode the same advantage. Here each turn has its own
(pure NumPy):

| credit | reward r of turn k | its value | compared with, in its group of samples of one prompt |
| --- | --- | --- | --- |
| `outcome` | episode reward at the last turn, else 0 | sum of all r | the other samples (plain GRPO on episodes) |
| `turn-reward` | FTRL's reward of the turn | r | all turns of all samples |
| `discounted` | FTRL's | sum over turns j >= k of GAMMA^(j-k) r_j | all turns of all samples |
| `turn-index` | FTRL's | the same | turn k of the samples that have one |
| `dual-level` | FTRL's | both the sum and the discounted sum | samples, and turn k: the two advantages added |
| `matchtir-hard`, `-soft` | mean match of its calls with the gold calls; last turn: answer | as `dual-level` | same |
| `turnsight` | as `matchtir-hard` | as `dual-level` | same, then weighted by hindsight |

Each row differs from one above it in one thing, so that a gain has one cause. How a value is compared is the
algorithm's own: GRPO subtracts the mean and divides by the standard deviation, RLOO subtracts the mean of the others,
REINFORCE++ compares over the batch (`compare`, in the words of OpenRLHF's `--algo.advantage.estimator`).

A sample without turns (no token of the model in it, or an episode lost to an infrastructure fault) is compared with
nothing, and no other sample is compared with it.

MatchTIR (arXiv 2601.10712v1): equations 8, 10 and 11, the sum of both advantages, gamma 0.9; "only among the subset of
rollouts that actually reach" a turn, and for a lone one "the mean to 0 and the variance to 1". Not stated there, and
chosen here: the standard deviation is the sample's (n - 1), as OpenRLHF has it. Its outcome reward is a word F1 of the
text inside `<answer>`, which its prompts ask for; ours do not, so the last turn earns the `answer` reward that all rows
share (reward/episode_rewards.py). The last turn of an episode that was cut off keeps the match of its calls, and its
outcome is 0.

TurnSight (arXiv 2608.04007v1): `hindsight_advantages`. Depths 1-3, direction by majority, the strongest view of that
direction, normalized over all policy tokens of the group, weight 1 + 0.5 tanh, mixed by 0.5. Not stated there, and
chosen here: the standard deviation of the tokens is the population's, its epsilon is 1e-6, a tie between directions
(two of four depths) goes to the positive one, a turn without hindsight (the last: it has no tool output) keeps its
advantage, and MatchTIR's hard variant is the base ("we use MatchTIR as the RL backbone"). How the views are made for
training: train/trainer/hindsight.py.

Source: paper section 3.2 for the turns' rewards; https://arxiv.org/abs/2601.10712; https://arxiv.org/abs/2608.04007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reward.call_matching import ASSIGNMENTS, Array, Call, similarities

GAMMA = 0.9
EPSILON = 1e-9  # OpenRLHF's, for group_norm
HINDSIGHT_EPSILON = 1e-6
MIXING, BOUND = 0.5, 0.5
DEPTHS = (1, 2, 3)
ESTIMATORS = ("group_norm", "reinforce", "reinforce_baseline", "rloo", "dr_grpo")
"""Of OpenRLHF's estimators, those that credit works with; `gae` gives credit by its critic."""


@dataclass(frozen=True)
class PlayedTurn:
    """One turn of an episode. `reward`: FTRL's; `calls`: those that it made, None for one that could not be read."""

    reward: float
    calls: Sequence[Call | None] = ()


# (turns, the episode's reward, whether the answer is right as 1 or 0, gold calls) -> a reward for each turn
TurnRewards = Callable[[Sequence[PlayedTurn], float, float, Sequence[Call]], list[float]]


def _at_the_end(turns: Sequence[PlayedTurn], reward: float, answer: float, golds: Sequence[Call]) -> list[float]:
    return [0.0] * (len(turns) - 1) + [reward] * bool(turns)


def _of_each_turn(turns: Sequence[PlayedTurn], reward: float, answer: float, golds: Sequence[Call]) -> list[float]:
    return [turn.reward for turn in turns]


def _matched(
    assignment: str, turns: Sequence[PlayedTurn], reward: float, answer: float, golds: Sequence[Call]
) -> list[float]:
    """The mean reward of each turn's calls, all calls of the episode matched at once; `answer` is added to the last
    turn.
    """
    scores = similarities([call for turn in turns for call in turn.calls], golds)
    of_calls = ASSIGNMENTS[assignment](scores)
    ends = np.cumsum([len(turn.calls) for turn in turns])
    rewards = [
        float(of_calls[end - len(turn.calls) : end].mean()) if turn.calls else 0.0
        for turn, end in zip(turns, ends, strict=True)
    ]
    if rewards:
        rewards[-1] += answer
    return rewards


TURN_REWARDS: dict[str, TurnRewards] = {
    "outcome": _at_the_end,
    "turns": _of_each_turn,
    "hard": partial(_matched, "hard"),
    "soft": partial(_matched, "soft"),
}


def compare(values: Array, estimator: str, lone: bool = False) -> Array:
    """The advantage of each of `values`, shape (n,), among all of them.

    `lone`: a single value is compared with a mean of 0 and a variance of 1 (MatchTIR); else its advantage is 0.
    Raises ValueError for an estimator that has no comparison here.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}: expected one of {', '.join(ESTIMATORS)}")
    if estimator == "reinforce" or (lone and len(values) == 1):
        return values.copy()
    if len(values) < 2:
        return np.zeros_like(values)
    centered = np.asarray(values - values.mean())
    if estimator == "group_norm":
        return np.asarray(centered / (values.std(ddof=1) + EPSILON))
    return np.asarray(centered * len(values) / (len(values) - 1)) if estimator == "rloo" else centered


def discounted_sums(rewards: Array, gamma: float = GAMMA) -> Array:
    """For each turn k, the sum of gamma^(j-k) r_j over j >= k. Shape (turns,), like `rewards`."""
    sums, later = np.zeros_like(rewards), 0.0
    for turn in reversed(range(len(rewards))):
        later = sums[turn] = rewards[turn] + gamma * later
    return sums


Group = Sequence[Array]  # the turns' rewards of every sample of a prompt, each of shape (turns,)
Advantages = Callable[[Group, str], list[Array]]


def _of_samples(group: Group, estimator: str) -> list[Array]:
    played = [index for index, rewards in enumerate(group) if len(rewards)]
    found = compare(np.array([group[index].sum() for index in played]), estimator)
    by_sample = dict(zip(played, found, strict=True))
    return [np.full(len(rewards), by_sample.get(index, 0.0)) for index, rewards in enumerate(group)]


def _among_all_turns(group: Group, estimator: str, gamma: float = 0.0) -> list[Array]:
    worth = [discounted_sums(rewards, gamma) for rewards in group]
    found = compare(np.concatenate([*worth, np.zeros(0)]), estimator)
    return np.split(found, np.cumsum([len(rewards) for rewards in group])[:-1])


def _by_turn_index(group: Group, estimator: str, lone: bool = False) -> list[Array]:
    worth = [discounted_sums(rewards) for rewards in group]
    advantages = [np.zeros_like(rewards) for rewards in group]
    for turn in range(max(map(len, group), default=0)):
        reached = [index for index, rewards in enumerate(group) if len(rewards) > turn]
        found = compare(np.array([worth[index][turn] for index in reached]), estimator, lone)
        for index, value in zip(reached, found, strict=True):
            advantages[index][turn] = value
    return advantages


def _dual_level(group: Group, estimator: str) -> list[Array]:
    both = zip(_of_samples(group, estimator), _by_turn_index(group, estimator, lone=True), strict=True)
    return [of_sample + of_turn for of_sample, of_turn in both]


@dataclass(frozen=True)
class Credit:
    """`rewards`: a row of TURN_REWARDS; `advantages`: of a group; `gold`: it needs gold calls; `hindsight`: it also
    needs the reference's
    log-probabilities of each turn, given what came of it.
    """

    rewards: str
    advantages: Advantages
    gold: bool = False
    hindsight: bool = False


CREDITS: dict[str, Credit] = {
    "outcome": Credit("outcome", _of_samples),
    "turn-reward": Credit("turns", _among_all_turns),
    "discounted": Credit("turns", partial(_among_all_turns, gamma=GAMMA)),
    "turn-index": Credit("turns", _by_turn_index),
    "dual-level": Credit("turns", _dual_level),
    "matchtir-hard": Credit("hard", _dual_level, gold=True),
    "matchtir-soft": Credit("soft", _dual_level, gold=True),
    "turnsight": Credit("hard", _dual_level, gold=True, hindsight=True),
}


def turn_rewards(
    credit: str, turns: Sequence[PlayedTurn], reward: float, answer: float, golds: Sequence[Call]
) -> list[float]:
    """What each turn of an episode earns under `credit`, a row of CREDITS."""
    return TURN_REWARDS[CREDITS[credit].rewards](turns, reward, answer, golds)


def batch_advantages(
    credit: str,
    rewards: Sequence[Array],
    samples_per_prompt: int,
    estimator: str,
    gaps: Sequence[Sequence[Array]] | None = None,
) -> list[Array]:
    """The advantage of each turn of each sample, shapes as in `rewards`; samples of a prompt stand together.

    `gaps`: of each sample's turns, as `hindsight_advantages` takes them. Raises ValueError if the samples are no whole
    number of groups, for an unknown estimator, and for a credit that needs hindsight and gets none.
    """
    if len(rewards) % samples_per_prompt:
        raise ValueError(f"{len(rewards)} samples are no whole number of groups of {samples_per_prompt}")
    row = CREDITS[credit]
    if row.hindsight and gaps is None:
        raise ValueError(f"credit {credit!r} needs the reference's log-probabilities in hindsight")
    found: list[Array] = []
    for start in range(0, len(rewards), samples_per_prompt):
        group = slice(start, start + samples_per_prompt)
        advantages = row.advantages(rewards[group], estimator)
        found += hindsight_advantages(advantages, gaps[group]) if row.hindsight and gaps is not None else advantages
    return found


def whiten(advantages: Array, keep_scale: bool = False) -> Array:
    """Advantages of all credited tokens of a batch, shape (tokens,), with mean 0 and, unless `keep_scale`, variance 1:
    what REINFORCE++ does
    after its returns. Tokens, not turns, are counted, as in OpenRLHF.
    """
    if not len(advantages):
        return advantages.copy()
    centered = np.asarray(advantages - advantages.mean())
    return centered if keep_scale else np.asarray(centered / np.sqrt(max(float(np.mean(centered**2)), 1e-8)))


def selected_view(gaps: Array) -> Array:
    """Of a turn's hindsight views, shape (depths, tokens), the one that TurnSight selects, shape (tokens,)."""
    means = gaps.mean(axis=1)
    signs = np.where(means >= 0, 1, -1)
    direction = 1 if signs.sum() >= 0 else -1
    return np.asarray(gaps[np.argmax(np.where(signs == direction, np.abs(means), -1.0))])


def hindsight_advantages(
    advantages: Sequence[Array], gaps: Sequence[Sequence[Array]], mixing: float = MIXING, bound: float = BOUND
) -> list[Array]:
    """TurnSight's weighting of a group's advantages.

    `gaps[i][k]`: of turn k of sample i, log-probability of each token by the reference that sees what came of the turn,
    minus the policy's own; shape (depths, tokens), without tokens where there is no hindsight. No advantage changes its
    sign.
    """
    selected = [[selected_view(turn) if turn.size else np.zeros(0) for turn in sample] for sample in gaps]
    tokens = np.concatenate([np.zeros(0), *(turn for sample in selected for turn in sample)])
    if not len(tokens):
        return [values.copy() for values in advantages]
    mean, spread = tokens.mean(), tokens.std() + HINDSIGHT_EPSILON
    weighted = []
    for values, views in zip(advantages, selected, strict=True):
        evidence = np.array([(view.mean() - mean) / spread if len(view) else 0.0 for view in views])
        weights = 1 + bound * np.tanh(np.sign(values) * evidence)
        weighted.append(values * ((1 - mixing) + mixing * weights))
    return weighted
