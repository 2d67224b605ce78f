"""The reward of a whole episode, one scalar, as pure functions of its turns' rewards and its score: one table.

For training on whole episodes (train/agent.py), where the trainer takes one number for all turns of a conversation:

| name | reward | what it is |
| --- | --- | --- |
| `turns` | sum of the turns' rewards / (n + 1) | the paper's turn-wise reward carried over to an episode |
| `solve_f1` | 2Q / (P + n) | the episode's Solve-F1: process and outcome in one number, no credit for order |
| `answer` | 1 if the final text holds the answer, else 0 | the outcome alone, as the usual outcome-only baseline has it
|

n sub-questions, P calls, Q solved. An episode that solves one sub-question a turn with one call each and then answers
has the turn rewards 1, ..., 1, 1: n + 1 in all, so `turns` is at most about 1 for every n, and questions with many
steps do not outweigh the others where no group baseline takes the scale away (REINFORCE++). The division is by n and
not by the number of turns, which the policy could raise or lower. An environment without a final answer cannot be
judged by it: there, `answer` is 1 if every sub-question was solved.

Source: paper section 3.2 for the turns' rewards; outcome-only GRPO as run beside it on the same data (paper/README.md).
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
"""By name: f(rewards of the turns in order, score of the episode, whether the environment has a final answer)."""
