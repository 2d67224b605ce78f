"""Credit per turn: every row of the table by numbers worked out by hand, and the laws that hold for all rows."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.sandbox.tool_sandbox import ToolCall
from reward.credit import (
    CREDITS,
    ESTIMATORS,
    GAMMA,
    PlayedTurn,
    batch_advantages,
    compare,
    discounted_sums,
    hindsight_advantages,
    selected_view,
    turn_rewards,
    whiten,
)

RIGHT, OTHER = ToolCall("capital_of", {"country": "Fiji"}), ToolCall("river_of", {"country": "Fiji"})
EPISODE = [PlayedTurn(1.0, [RIGHT, OTHER]), PlayedTurn(0.0, [RIGHT]), PlayedTurn(0.5)]
# rows of the table -> what the turns of EPISODE earn, whose reward is 0.75 and whose answer is right
EARNED = {
    "outcome": [0.0, 0.0, 0.75],
    "turn-reward": [1.0, 0.0, 0.5],
    "discounted": [1.0, 0.0, 0.5],
    "turn-index": [1.0, 0.0, 0.5],
    "dual-level": [1.0, 0.0, 0.5],
    "matchtir-hard": [0.5, 0.0, 1.0],
    "turnsight": [0.5, 0.0, 1.0],
}


@pytest.mark.parametrize(("credit", "expected"), EARNED.items())
def test_what_turns_earn(credit, expected):
    assert turn_rewards(credit, EPISODE, 0.75, 1.0, [RIGHT]) == pytest.approx(expected)


def test_softly_the_repeated_call_shares_the_gold_call():
    first, second, last = turn_rewards("matchtir-soft", EPISODE, 0.75, 1.0, [RIGHT])
    assert first == pytest.approx(1 / 6) and second == pytest.approx(1 / 3) and last == 1.0


@pytest.mark.parametrize("credit", CREDITS)
def test_edges_of_an_episode(credit):
    assert turn_rewards(credit, [], 0.5, 1.0, [RIGHT]) == []
    assert len(turn_rewards(credit, [PlayedTurn(-0.5)], -0.5, 0.0, [])) == 1
    cut = turn_rewards(credit, [PlayedTurn(1.0, [RIGHT])], 0.5, 0.0, [RIGHT])
    assert cut == [0.5] if credit == "outcome" else cut == [1.0]


TWO = [np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0])]
ROOT = 1 / sqrt(2)  # of two values, group_norm makes +- this
SUM = [1 + 0.81, 0.9, 1.0]  # discounted sums of the first sample; of the second: 0.9, 1
# row -> advantages of TWO under group_norm
ADVANTAGES = {
    "outcome": [[ROOT] * 3, [-ROOT] * 2],
    "turn-reward": [[0.4 / sqrt(0.3), -0.6 / sqrt(0.3), 0.4 / sqrt(0.3)], [-0.6 / sqrt(0.3), 0.4 / sqrt(0.3)]],
    "turn-index": [[ROOT, -ROOT, 0.0], [-ROOT, ROOT]],
    "dual-level": [[2 * ROOT, 0.0, ROOT + 1.0], [-2 * ROOT, 0.0]],
}


@pytest.mark.parametrize(("credit", "expected"), ADVANTAGES.items())
def test_advantages_of_two_samples(credit, expected):
    found = batch_advantages(credit, TWO, 2, "group_norm")
    for row, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(row, values, atol=1e-7)


def test_discounted_returns_are_compared_with_all_turns_of_the_group():
    values = np.array([*SUM, 0.9, 1.0])
    expected = (values - values.mean()) / values.std(ddof=1)
    np.testing.assert_allclose(
        np.concatenate(batch_advantages("discounted", TWO, 2, "group_norm")), expected, atol=1e-7
    )


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("group_norm", [-1.0, 0.0, 1.0]),
        ("reinforce", [1.0, 2.0, 3.0]),
        ("reinforce_baseline", [-1.0, 0.0, 1.0]),
        ("dr_grpo", [-1.0, 0.0, 1.0]),
        ("rloo", [-1.5, 0.0, 1.5]),
    ],
)
def test_comparison_of_each_estimator(estimator, expected):
    np.testing.assert_allclose(compare(np.array([1.0, 2.0, 3.0]), estimator), expected, atol=1e-8)
    alone = compare(np.array([2.0]), estimator).tolist()
    assert alone == ([2.0] if estimator == "reinforce" else [0.0])
    assert compare(np.array([2.0]), estimator, lone=True).tolist() == [2.0]


def test_other_estimators_are_refused():
    with pytest.raises(ValueError, match="unknown estimator 'gae': expected one of group_norm"):
        batch_advantages("outcome", TWO, 2, "gae")
    with pytest.raises(ValueError, match="3 samples are no whole number of groups of 2"):
        batch_advantages("outcome", [*TWO, TWO[0]], 2, "rloo")


def test_discounted_sums():
    np.testing.assert_allclose(discounted_sums(np.array([1.0, 2.0, 4.0]), 0.5), [3.0, 4.0, 4.0])
    assert discounted_sums(np.zeros(0)).shape == (0,) and GAMMA == 0.9


GROUPS = st.lists(
    st.lists(st.integers(-32, 64).map(lambda n: n / 32), max_size=4).map(np.array), min_size=2, max_size=6
)


@given(GROUPS, st.sampled_from(sorted(CREDITS)), st.sampled_from(ESTIMATORS))
def test_a_sample_without_turns_changes_nobodys_advantage(group, credit, estimator):
    played = [row for row in group if len(row)]
    seen = [[np.zeros((3, 0))] * len(row) for row in played]
    with_silent = batch_advantages(credit, [*played, np.zeros(0)], len(played) + 1, estimator, [*seen, []])
    without = batch_advantages(credit, played, max(1, len(played)), estimator, seen)
    assert with_silent[-1].shape == (0,)
    for mine, theirs in zip(with_silent[:-1], without, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)


@given(GROUPS, st.sampled_from(sorted(CREDITS)), st.sampled_from(ESTIMATORS))
def test_groups_do_not_meet_and_shapes_are_kept(group, credit, estimator):
    seen = [[np.zeros((3, 0))] * len(row) for row in group]
    alone = batch_advantages(credit, group, len(group), estimator, seen)
    beside = batch_advantages(credit, [*(row + 1 for row in group), *group], len(group), estimator, [*seen, *seen])
    assert [row.shape for row in alone] == [row.shape for row in group]
    for mine, theirs in zip(alone, beside[len(group) :], strict=True):
        np.testing.assert_array_equal(mine, theirs)


@given(st.lists(st.integers(1, 9).map(lambda n: n / 3), min_size=1, max_size=3), st.integers(2, 16))
def test_equal_episodes_teach_nothing(rewards, samples):
    """Under every estimator with a baseline, also where their sums are off by an ulp."""
    for credit in ("outcome", "turn-index", "dual-level"):
        for row in batch_advantages(credit, [np.array(rewards)] * samples, samples, "group_norm"):
            np.testing.assert_allclose(row, 0.0, atol=1e-5)


def test_whitening_counts_tokens():
    np.testing.assert_allclose(whiten(np.array([1.0, 3.0])), [-1.0, 1.0])
    np.testing.assert_allclose(whiten(np.array([1.0, 3.0, 5.0]), keep_scale=True), [-2.0, 0.0, 2.0])
    assert whiten(np.zeros(0)).shape == (0,)
    np.testing.assert_allclose(whiten(np.ones(3)), 0.0)


@pytest.mark.parametrize(
    ("means", "chosen"), [((0.1, 0.3, -0.9), 1), ((-0.1, 0.5, -0.2), 2), ((0.0, -0.5, 0.2), 2), ((-1.0, 1.0), 1)]
)
def test_the_strongest_view_of_the_majoritys_direction_is_selected(means, chosen):
    gaps = np.array([[mean - 0.05, mean + 0.05] for mean in means])
    np.testing.assert_array_equal(selected_view(gaps), gaps[chosen])


def test_hindsight_raises_what_it_agrees_with_and_turns_nothing_round():
    """Two samples of one turn each; tokens' gaps 1, 1 and -1, -1: mean 0, standard deviation 1."""
    gaps = [[np.ones((3, 2))], [-np.ones((3, 2))]]
    raised, lowered = 0.5 + 0.5 * (1 + 0.5 * np.tanh(1)), 0.5 + 0.5 * (1 - 0.5 * np.tanh(1))
    for signs, weights in (((1, 1), (raised, lowered)), ((-1, -1), (lowered, raised)), ((1, -1), (raised, raised))):
        found = hindsight_advantages([np.array([2.0 * signs[0]]), np.array([2.0 * signs[1]])], gaps)
        expected = [2.0 * sign * weight for sign, weight in zip(signs, weights, strict=True)]
        np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5)


def test_hindsight_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="credit 'turnsight' needs the reference's log-probabilities in hindsight"):
        batch_advantages("turnsight", TWO, 2, "group_norm")


def test_a_turn_without_hindsight_keeps_its_advantage():
    none = np.zeros((3, 0))
    found = hindsight_advantages([np.array([1.0, -1.0])], [[np.array([[1.0, 2.0]]), none]])
    assert found[0][1] == -1.0
    np.testing.assert_array_equal(hindsight_advantages([np.array([1.0])], [[none]])[0], [1.0])


@given(st.lists(st.lists(st.floats(-5, 5), min_size=2, max_size=2), min_size=3, max_size=3), st.floats(-3, 3))
def test_hindsight_is_bounded(gaps, advantage):
    [found] = hindsight_advantages([np.array([advantage])], [[np.array(gaps)]])
    assert 0.75 * abs(advantage) - 1e-12 <= abs(found[0]) <= 1.25 * abs(advantage) + 1e-12
    assert found[0] * advantage >= 0
