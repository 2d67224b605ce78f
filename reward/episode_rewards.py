"""The reward of a complete episode, one scalar, as pure functions of its turns' rewards and its score: one table.

For training on complete episodes (train/agent.py), where the trainer expects one number per conversation:

| name | reward | what it is |
| --- | --- | --- |
| `turns` | sum of the turns' rewards / (n + 1) | the paper's turn-wise reward carried over to an episode |
| `solve_f1` | 2Q / (P + n) | the episode's Solve-F1: process and outcome in one number, no credit for order |
| `answer` | 1 if the final text holds the answer, else 0 | the outcome alone, as in the usual outcome-only baseline
|

n sub-questions, P calls, Q solved. An episode that solves one sub-question per turn with one call each and then answers
has the turn rewards 1, ..., 1, 1, which sum to n + 1. So `turns` is at most about 1 for every n. Questions with many
steps then do not outweigh the others if no group baseline removes the scale (REINFORCE++). The divisor is not the
number of turns, because the policy could raise or lower that. For an environment without a final answer, `answer` is 1
if every sub-question was solved.

Source: paper section 3.2 for the turns' rewards; outcome-only GRPO on the same data as the baseline (paper/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reward.scoring import EpisodeScore

EpisodeReward = Callable[[Sequence[float], EpisodeScore, bool], float]


def _turns(rewards: Sequence[float], score: EpisodeScore, has_answer: bool) -> float:
    return sum(rewards) / (score.sub_questions + 1)


def _solve_f1(rewards: Sequence[float], score: EpisodeScore, has_answer: bool) -> float:
    return score.solve_f1


def _answer(rewards: Sequence[float], score: EpisodeScore, has_answer: bool) -> float:
    right = score.answer_correct if has_answer else score.solved == score.sub_questions
    return float(right)


EPISODE_REWARDS: dict[str, EpisodeReward] = {"turns": _turns, "solve_f1": _solve_f1, "answer": _answer}
"""By name: f(the turns' rewards in order, the episode's score, whether the environment has a final answer)."""
