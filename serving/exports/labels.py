"""The label of an exported prompt: everything that its reward needs, as one JSON text.

The label names its reward, so reward functions need no default. `reward` is `turn` (the reward of the single generated
turn, as in the paper) or a row of `reward/episode_rewards.py` for complete episodes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from env_construction.environment.jsonl import BadInput, json_text
from env_construction.environment.matching import MATCHES
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.episode_rewards import EPISODE_REWARDS
from reward.openrlhf_inputs import environment_of
from reward.rewards import REWARDS
from serving.episodes.outcomes import MatchOutcome
from serving.episodes.recorded import score_recorded

TURN = "turn"
LABEL_REWARDS = (TURN, *EPISODE_REWARDS)


@dataclass(frozen=True)
class LabelSettings:
    """The reward of a label: `variant` of the turn reward, `match`, and `reward`, one of LABEL_REWARDS."""

    variant: str
    match: str
    reward: str


def label_of(state: Environment, settings: LabelSettings) -> str:
    """The label of a state. It contains the messages, because under `strict` a repeated call solves nothing."""
    record = state.to_record()
    names = ("id", "messages", "codes", "unsolved_set", "solve_rate", "answer", "sub_questions", "state")
    kept = {key: record[key] for key in names if key in record}
    return json_text({**kept, "solved_set": state.solved_set, "settings": vars(settings)})


def score_labels(
    items: Sequence[tuple[str, Sequence[str]]], sandbox: ToolSandbox | None = None
) -> list[tuple[float | None, MatchOutcome]]:
    """Reward and outcome for each (label, model turns). The reward is None after a sandbox fault.

    Raises BadInput for a label that `label_of` did not write.
    """
    groups: dict[LabelSettings, list[int]] = defaultdict(list)
    for place, (label, _) in enumerate(items):
        groups[_settings(label)].append(place)
    found: dict[int, tuple[float | None, MatchOutcome]] = {}
    for settings, places in groups.items():
        episodes = [
            (environment_of(items[p][0], settings.match), _one(items[p][1]) if settings.reward == TURN else items[p][1])
            for p in places
        ]
        outcomes = score_recorded(episodes, variant=settings.variant, match=settings.match, sandbox=sandbox)
        for place, outcome in zip(places, outcomes, strict=True):
            found[place] = _reward(outcome, settings.reward), outcome
    return [found[place] for place in range(len(items))]


def _one(turns: Sequence[str]) -> Sequence[str]:
    """The generated turn; an empty one if there is none."""
    return turns[:1] or [""]


def _reward(outcome: MatchOutcome, reward: str) -> float | None:
    if outcome.fault:
        return None
    return outcome.turns[0].reward if reward == TURN else outcome.rewards[reward]


def _settings(label: str) -> LabelSettings:
    try:
        settings = LabelSettings(**json.loads(label)["settings"])
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"label: expected a label from serving.export ({error!r}); export the data again") from None
    if settings.variant not in REWARDS or settings.match not in MATCHES or settings.reward not in LABEL_REWARDS:
        raise BadInput(f"label: unknown reward {settings}; export the data again with this version")
    return settings
