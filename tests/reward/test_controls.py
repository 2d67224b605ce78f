"""Control rewards say nothing about the response, and `shuffled` keeps the distribution of rewards."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward.controls import CONSTANT, RewardControl


def test_without_control_the_reward_is_unchanged():
    control = RewardControl("")
    assert [control.apply(reward) for reward in (0.0, 1.0, -0.3)] == [0.0, 1.0, -0.3]


def test_constant_is_constant():
    control = RewardControl("constant")
    assert {control.apply(reward) for reward in (0.0, 1.0, -0.3)} == {CONSTANT}


def test_shuffled_never_draws_the_responses_own_reward():
    """Every true reward is new here, so a draw that equals it or a later one would be information about it."""
    control = RewardControl("shuffled", reservoir=8)
    for reward in range(1, 200):
        drawn = control.apply(float(reward))
        assert drawn < reward
        assert drawn == 0.0 or drawn >= reward - 8


def test_a_draw_does_not_depend_on_the_response():
    """The same past with another response gives the same draw."""
    for last in (-0.5, 0.0, 1.0):
        control = RewardControl("shuffled", seed=3)
        past = random.Random(0)
        for _ in range(50):
            control.apply(past.choice([0.0, 0.5, 1.0]))
        if last == -0.5:
            expected = control.apply(last)
        else:
            assert control.apply(last) == expected


def test_shuffled_keeps_the_distribution_and_breaks_the_link():
    true_rewards = random.Random("marginal")
    control = RewardControl("shuffled", seed=1)
    pairs = []
    for _ in range(20_000):
        reward = true_rewards.choices([0.0, 1.0, -0.5], weights=[5, 3, 2])[0]
        pairs.append((reward, control.apply(reward)))
    pairs = pairs[200:]
    drawn = Counter(pair[1] for pair in pairs)
    for value, share in ((0.0, 0.5), (1.0, 0.3), (-0.5, 0.2)):
        assert drawn[value] / len(pairs) == pytest.approx(share, abs=0.02)
        given = [pair[1] for pair in pairs if pair[0] == value]
        assert given.count(1.0) / len(given) == pytest.approx(0.3, abs=0.03)


def test_seeds_reproduce():
    rewards = [random.Random(index).random() for index in range(300)]

    def draws(seed: int) -> list[float]:
        control = RewardControl("shuffled", seed)
        return [control.apply(reward) for reward in rewards]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_many_threads_share_one_reservoir():
    control = RewardControl("shuffled")
    with ThreadPoolExecutor(64) as pool:
        drawn = list(pool.map(control.apply, [1.0] * 2000))
    assert drawn.count(0.0) == 1
    assert drawn.count(1.0) == 1999


def test_unknown_control_is_refused():
    with pytest.raises(ValueError, match="shuffled"):
        RewardControl("shuffle")
