"""The reward for verl: `custom_reward_function.path=serving/verl_reward.py`, for data from `serving.export --to verl`.

In: the response as verl decodes it. In a multi-turn rollout it also contains the tool messages. The response is split
at the ChatML headers of other roles, with or without special tokens.
Out: {"score", "solve_f1", "calls", "solved", "fault"}. After a sandbox failure, the score is 0 and `fault` is 1.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

# verl loads this file by its path; the process may run in another folder than the repository
if (_ROOT := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, _ROOT)

from serving.exports.labels import score_labels

# everything between two model turns: the end of the first, the tool messages, and the header of the second
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
    """The model's turns in a response."""
    return _BETWEEN.split(solution)
