"""The file that OpenRLHF loads for `--reward.remote_url reward/openrlhf_reward.py`. Runs and scores a response's calls.

In: `queries` (prompt + response as decoded), `prompts` and `labels` of one or more responses. A label is a JSON string:
an environment record with `codes`, `unsolved_set`, `solve_rate`, `answer` and `id` (`messages` and `tools` are
optional).
Out: `rewards`, `scores` and `extra_logs`, float32 tensors of shape (responses,).

The settings are read once, when the file is loaded. A missing or invalid setting stops the run, because training has no
default reward. Every response logs them (reward/logged_settings.py), so the log proves which reward was used.
    FTRL_REWARD_VARIANT   a row of reward/rewards.py
    FTRL_REWARD_MATCH     published | strict
    FTRL_REWARD_CONTROL   "" | shuffled | constant (reward/controls.py)
    FTRL_REWARD_SEED      seed of the control

`reward_func` never raises, because OpenRLHF would only log the exception and train on without a reward. An
infrastructure failure (the sandbox, an unreadable label, a prompt that is not in the query) gives reward 0 and `fault`
1 in the logs. It never counts as a model fault.

Example:
    python -m openrlhf.cli.train_ppo_ray --reward.remote_url reward/openrlhf_reward.py --data.label_key label ...
Source: paper section 3.2; paper/README.md, "Reward for one model turn" and the traps under "Training".
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

# OpenRLHF executes this file by its path, in a process that may have started outside the repository
if (_ROOT := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, _ROOT)

from env_construction.environment.schema import Environment
from reward.controls import RewardSettings
from reward.logged_settings import codes
from reward.openrlhf_inputs import environment_of, on_grid, response_of
from reward.rewards import KINDS
from reward.scoring import TurnScore, score_turns

logger = logging.getLogger(__name__)

# no dataclass in this file: OpenRLHF executes it without an entry in sys.modules, which dataclasses require
SETTINGS = RewardSettings.from_environ(os.environ)


def reward_func(queries: list[str], prompts: list[str], labels: list[str], **kwargs: Any) -> dict[str, Any]:
    """Score responses in OpenRLHF's reward interface. Never raises. `kwargs` are OpenRLHF's other arguments."""
    scores: list[TurnScore | None] = [None] * len(queries)
    items: list[tuple[int, Environment, str]] = []
    for index, query in enumerate(queries):
        try:
            items.append((index, environment_of(labels[index], SETTINGS.match), response_of(query, prompts[index])))
        except Exception as error:
            logger.warning("reward fault, response %d: %s: %s", index, type(error).__name__, error)
    try:
        turns = [(environment, response) for _, environment, response in items]
        found = score_turns(turns, variant=SETTINGS.variant, match=SETTINGS.match) if turns else []
        for (index, _, _), score in zip(items, found, strict=True):
            scores[index] = score
    except Exception as error:
        logger.warning("reward fault, %d responses: %s: %s", len(items), type(error).__name__, error)
    # a response without a true reward is no sample of the reward's distribution: a fault stays 0 under every control
    true = [0.0 if score is None else on_grid(score.reward) for score in scores]
    rewards = [
        0.0 if score is None or score.fault else on_grid(SETTINGS.control.apply(reward))
        for score, reward in zip(scores, true, strict=True)
    ]
    logs = [_logs(score, reward) for score, reward in zip(scores, true, strict=True)]
    return {
        "rewards": torch.tensor(rewards, dtype=torch.float32),
        "scores": torch.tensor([min(1.0, max(0.0, reward)) for reward in rewards], dtype=torch.float32),
        "extra_logs": {key: torch.tensor([row[key] for row in logs], dtype=torch.float32) for key in _logs(None, 0.0)},
    }


def _logs(score: TurnScore | None, true_reward: float) -> dict[str, float]:
    """What is logged for one response: always the same keys, floats only. None: it could not be scored."""
    row = {
        "p": float(score.p) if score else 0.0,
        "q": float(score.q) if score else 0.0,
        "fault": float(score is None or score.fault),
        "sandbox_ms": score.sandbox_ms if score else 0.0,
        "timeouts": float(sum(result.status == "timeout" for result in score.results)) if score else 0.0,
        "true_reward": true_reward,
    }
    row.update({f"kind_{kind}": float(score is not None and score.kind == kind) for kind in KINDS})
    return row | codes(SETTINGS)
