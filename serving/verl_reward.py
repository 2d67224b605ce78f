"""The reward for verl: `custom_reward_function.path=serving/verl_reward.py`, with data that `serving.export --to verl` wrote.

In: the response as verl decodes it. In a multi-turn rollout it holds the tools' messages too; it is cut where ChatML begins another role's
message, with the special tokens or without them.
Out: {"score", "solve_f1", "calls", "solved", "fault"}; the score is 0 and `fault` 1 where the sandbox broke.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

# verl executes this file by its path, in a process that need not have been started in the repository
if (_ROOT := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, _ROOT)

from serving.exports.labels import score_labels

# everything between two turns of the model: the end of the first, the tools' messages, the head of the second
_BETWEEN = re.compile(
    r"(?:<\|im_end\|>)?\s*\n?(?:<\|im_start\|>)?(?:user|tool)\n<tool_response>\n.*?\n</tool_response>(?:<\|im_end\|>)?\n"
    r"(?:<\|im_start\|>)?assistant\n",
    re.DOTALL,
)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """Score one response. Raises BadInput for a ground truth that `serving.export` did not write."""
    [(reward, outcome)] = score_labels([(ground_truth, turns_of(solution_str))])
    return {
        "score": 0.0 if reward is None else reward,
        "solve_f1": outcome.score.solve_f1,
        "calls": float(outcome.score.calls),
        "solved": float(outcome.score.solved),
        "fault": float(outcome.fault),
    }


def turns_of(solution: str) -> list[str]:
    """The model's own turns in a response."""
    return _BETWEEN.split(solution)
