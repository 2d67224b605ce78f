"""MatchTIR's reward of calls: the similarity by its equations, one call per gold call, and shares that add up."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from env_construction.sandbox.tool_sandbox import ToolCall
from reward.call_matching import hard_rewards, same_value, similarities, similarity, soft_rewards, transport_plan

GOLD = ToolCall("capital_of", {"country": "Fiji", "year": 2020})
# call -> similarity with GOLD: (1 + Jaccard + equal values) / 4
SIMILARITY = [
    (ToolCall("capital_of", {"country": "Fiji", "year": 2020}), 1.0),
    (ToolCall("capital_of", {"country": "Fiji", "year": 2021}), 3 / 4),
    (ToolCall("capital_of", {"country": "Peru", "year": 2021}), 2 / 4),
    (ToolCall("capital_of", {"country": "Fiji"}), (1 + 1 / 2 + 1) / 4),
    (ToolCall("capital_of", {"country": "Fiji", "year": 2020, "more": 1}), (1 + 2 / 3 + 2) / 4),
    (ToolCall("capital_of", {}), 1 / 4),
    (ToolCall("capital_of", [1]), 1 / 4),  # type: ignore[arg-type]
    (ToolCall("capital_of", {"year": True, "country": "Fiji"}), 3 / 4),
    (ToolCall("capital", {"country": "Fiji", "year": 2020}), 0.0),
]


@pytest.mark.parametrize(("call", "expected"), SIMILARITY)
def test_similarity(call, expected):
    assert similarity(call, GOLD) == pytest.approx(expected, abs=1e-15)


def test_calls_without_parameters_agree_and_an_unreadable_call_agrees_with_nothing():
    assert similarity(ToolCall("now", {}), ToolCall("now", {})) == 1.0
    assert similarities([None, GOLD], [GOLD]).tolist() == [[0.0], [1.0]]
    assert similarities([], [GOLD]).shape == (0, 1) and similarities([GOLD], []).shape == (1, 0)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True), (1, True, False), ([1, {"a": 0}], [1, {"a": 0}], True), ([0], [False], False),
        ({"a": 1}, {"a": 1, "b": None}, False), ("1", 1, False), ([1, 2], [2, 1], False), (None, None, True),
    ],
)  # fmt: skip
def test_values_are_compared_as_json(left, right, same):
    assert same_value(left, right) is same


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[1.0]], [1.0]),
        ([[1.0], [1.0], [0.5]], [1.0, 0.0, 0.0]),  # the same call again earns nothing, and the first one earns it
        ([[0.9, 0.8], [0.8, 0.0]], [0.8, 0.8]),  # the largest total, not the best pair first
        ([[0.0, 0.0]], [0.0]),
        ([[0.5, 0.7, 0.6]], [0.7]),
    ],
)
def test_hard_assignment(scores, expected):
    assert hard_rewards(np.array(scores)).tolist() == expected


def test_a_penalty_falls_on_calls_without_a_match_alone():
    assert hard_rewards(np.array([[0.5, 0.0], [0.0, 0.0], [0.4, 0.0]]), penalty=1.0).tolist() == [0.5, -1.0, -1.0]
    assert hard_rewards(np.zeros((2, 0)), penalty=0.5).tolist() == [-0.5, -0.5]


SCORES = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 8).map(lambda n: n / 8))
)


@given(SCORES)
def test_no_other_matching_has_a_larger_total(scores):
    m, n = scores.shape
    short, long = (scores, n) if m <= n else (scores.T, m)
    best = max(sum(short[i, j] for i, j in enumerate(order)) for order in permutations(range(long), len(short)))
    assert hard_rewards(scores).sum() == pytest.approx(best)


@given(SCORES)
def test_the_plan_transports_everything_once(scores):
    plan = transport_plan(scores)
    m, n = scores.shape
    np.testing.assert_allclose(plan.sum(axis=1), 1 / m, atol=1e-5)  # as far as the slowest get in all sweeps
    np.testing.assert_allclose(plan.sum(axis=0), 1 / n, atol=1e-6)
    assert (plan >= 0).all()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([[1.0]], [1.0]), ([[1.0], [1.0]], [0.5, 0.5]), ([[1.0, 1.0]], [1.0]), ([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5])],
)
def test_soft_shares(scores, expected):
    np.testing.assert_allclose(soft_rewards(np.array(scores)), expected, atol=1e-4)


def test_softly_a_better_call_gets_the_larger_share_and_a_near_miss_some():
    exact, near, other = soft_rewards(np.array([[1.0, 0.0], [0.7, 0.0], [0.0, 0.5]]))
    assert exact > near > 0 and other > 0
    assert soft_rewards(np.zeros((2, 0))).tolist() == [0.0, 0.0]
