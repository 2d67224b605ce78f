"""The reward's settings in the log: read back by name, and a mean over different settings is never taken for one of
them.
"""

import itertools

import pytest
import torch

from reward.controls import CONTROLS, RewardControl, RewardSettings
from reward.logged_settings import NO_EPISODE, TABLES, asked, codes, differences, readable
from reward.rewards import REWARDS

SETTINGS = {
    "FTRL_REWARD_VARIANT": "solve_f1", "FTRL_REWARD_MATCH": "published", "FTRL_REWARD_CONTROL": "", "FTRL_REWARD_SEED": "0",
}  # fmt: skip


@pytest.mark.parametrize("samples", [1, 128, 8192])
def test_settings_survive_the_mean_that_openrlhf_logs(samples: int) -> None:
    for variant, match, control, episode in itertools.product(*TABLES.values()):
        settings = RewardSettings(variant, match, RewardControl(control), 12345)
        logged = {key: torch.full((samples,), value).mean().item() for key, value in codes(settings, episode).items()}
        expected = {
            "reward_variant": variant,
            "reward_match": match,
            "reward_control": control,
            "reward_episode": episode,
        }
        assert readable(logged) == {**expected, "reward_seed": 12345}


def test_a_mean_over_two_settings_differs_from_what_was_asked_for() -> None:
    """Also where the mean falls on a third setting's place."""
    wanted = asked(SETTINGS)
    for other in [name for name in REWARDS if name != "solve_f1"]:
        mine = codes(RewardSettings.from_environ(SETTINGS))
        theirs = codes(RewardSettings.from_environ({**SETTINGS, "FTRL_REWARD_VARIANT": other}))
        for share in (1 / 8192, 0.5, 1.0):
            mixed = {key: (1 - share) * mine[key] + share * theirs[key] for key in mine}
            [found] = differences(readable(mixed), wanted)
            assert found.startswith("reward_variant is ") and found.endswith("asked 'solve_f1'")


def test_every_setting_is_compared_and_a_missing_one_is_a_difference() -> None:
    wanted = asked(SETTINGS, "answer")
    assert wanted["reward_episode"] == "answer" and asked(SETTINGS)["reward_episode"] == NO_EPISODE
    assert differences(wanted, wanted) == []
    for key in wanted:
        [found] = differences({name: value for name, value in wanted.items() if name != key}, wanted)
        assert found.startswith(f"{key} is 'not logged'")


def test_other_rows_have_no_settings() -> None:
    assert readable({"step": 1, "kl": 0.1, "reward_seconds": 2.0, "reward_variant": None}) == {}


def test_no_row_of_a_table_is_missing() -> None:
    assert set(TABLES["reward_variant"]) == set(REWARDS) and set(TABLES["reward_control"]) == set(CONTROLS)
