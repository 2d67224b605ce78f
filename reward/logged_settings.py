"""The reward's settings in the training log: OpenRLHF logs means of floats, so a setting travels as its place in a
sorted table.

Every response carries them, and a step logs their means: a worker that trained another reward than the rest makes a
mean that is no place in the table. `readable` turns a step's numbers back into names, `differences` compares them with
what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from env_construction.environment.matching import MATCHES
from reward.controls import CONTROLS, RewardSettings
from reward.episode_rewards import EPISODE_REWARDS
from reward.rewards import REWARDS

NO_EPISODE = "none"  # every prefix of an episode is a prompt of its own
TABLES = {
    "reward_variant": sorted(REWARDS),
    "reward_match": sorted(MATCHES),
    "reward_control": sorted(CONTROLS),
    "reward_episode": sorted([NO_EPISODE, *EPISODE_REWARDS]),
}
SEEDS = 2**16  # seeds are logged modulo this: float32 holds such numbers exactly, and sums of them well enough
CLOSE = 1e-5  # means of a table's small places are exact but for the last bits
CLOSE_SEED = 0.05


def codes(settings: RewardSettings, episode: str = NO_EPISODE) -> dict[str, float]:
    """Log key -> number, for the settings of a process."""
    names = (settings.variant, settings.match, settings.control.kind, episode)
    found = {key: float(table.index(name)) for (key, table), name in zip(TABLES.items(), names, strict=True)}
    return {**found, "reward_seed": float(settings.seed % SEEDS)}


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a logged step by name; a mean over different settings stays a number. Empty where none are
    logged.
    """
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


def asked(environ: Mapping[str, str], episode: str = "") -> dict[str, Any]:
    """What `readable` must find in every step of a training with these variables."""
    return readable(codes(RewardSettings.from_environ(environ), episode or NO_EPISODE))


def differences(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings in which a step's row of names differs from what was asked for."""
    return [
        f"{key} is {row.get(key, 'not logged')!r}, asked {value!r}"
        for key, value in wanted.items()
        if row.get(key) != value
    ]
