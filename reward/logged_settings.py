"""The reward's settings in the training log.

OpenRLHF logs means of floats, so each setting is logged as its index in a sorted table. Every response carries the
settings, and a step logs their means. If one worker trained with another reward, the mean is not an index of the table.
`readable` turns a step's numbers back into names. `differences` compares them with the requested settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from env_construction.environment.matching import MATCHES
from reward.controls import CONTROLS, RewardSettings
from reward.credit import CREDITS
from reward.episode_rewards import EPISODE_REWARDS
from reward.rewards import REWARDS

NO_EPISODE = "none"  # every prefix of an episode is a separate prompt
NO_CREDIT = "none"  # one advantage per sample
TABLES = {
    "reward_variant": sorted(REWARDS),
    "reward_match": sorted(MATCHES),
    "reward_control": sorted(CONTROLS),
    "reward_episode": sorted([NO_EPISODE, *EPISODE_REWARDS]),
    "reward_credit": sorted([NO_CREDIT, *CREDITS]),
}
SEEDS = 2**16  # seeds are logged modulo this: exact in float32, and their sums are accurate enough
CLOSE = 1e-5  # means of small indices are exact except for the last bits
CLOSE_SEED = 0.05


def codes(settings: RewardSettings, episode: str = NO_EPISODE, credit: str = NO_CREDIT) -> dict[str, float]:
    """Log key -> number for the settings of a process."""
    names = (settings.variant, settings.match, settings.control.kind, episode, credit)
    found = {key: float(table.index(name)) for (key, table), name in zip(TABLES.items(), names, strict=True)}
    return {**found, "reward_seed": float(settings.seed % SEEDS)}


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a logged step by name. A mean over different settings stays a number. Empty if none is logged."""
    found: dict[str, Any] = {}
    for key in (*TABLES, "reward_seed"):
        value = row.get(key)
        if not isinstance(value, int | float):
            continue
        place = round(value)
        whole = abs(value - place) < (CLOSE_SEED if key == "reward_seed" else CLOSE)
        if key == "reward_seed":
            found[key] = place if whole else value
        else:
            found[key] = TABLES[key][place] if whole and 0 <= place < len(TABLES[key]) else value
    return found


def asked(environ: Mapping[str, str], episode: str = "", credit: str = "") -> dict[str, Any]:
    """What `readable` must return for every step of a training run with these variables."""
    return readable(codes(RewardSettings.from_environ(environ), episode or NO_EPISODE, credit or NO_CREDIT))


def differences(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings of a step (by name) that differ from the requested ones."""
    return [
        f"{key} is {row.get(key, 'not logged')!r}, expected {value!r}"
        for key, value in wanted.items()
        if row.get(key) != value
    ]
