"""The exact test agrees with brute force and states when no result can be significant."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.checkpoints.permutation_test import exact_test, lower_count, lower_mlp_tests


@given(st.lists(st.integers(0, 6), min_size=3, max_size=8), st.data())
def test_p_value_is_the_share_of_choices_at_least_as_large(values: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.integers(1, len(values) - 1))
    result = exact_test("any", [float(value) for value in values], chosen)
    sums = [sum(values[i] for i in choice) for choice in combinations(range(len(values)), chosen)]
    assert result.p_value == pytest.approx(sum(found >= sum(values[:chosen]) for found in sums) / len(sums))
    assert result.p_value >= result.smallest_p


def test_p_values_are_calibrated_under_the_null_hypothesis() -> None:
    chance = random.Random(0)
    small = sum(exact_test("null", [chance.random() for _ in range(12)], 3).p_value <= 0.05 for _ in range(400))
    assert 5 <= small <= 40  # 20 expected of 400, standard deviation 4.4


@pytest.mark.parametrize(("layers", "lower"), [(2, 1), (4, 1), (6, 2), (7, 3), (8, 3), (9, 3), (28, 3), (48, 3)])
def test_lower_layers_are_three_or_a_third_in_shallow_models(layers: int, lower: int) -> None:
    assert lower_count(layers) == lower


def test_a_model_of_four_layers_has_too_few_for_significance() -> None:
    mlp, attention = {0: 9.0, 1: 1.0, 2: 1.0, 3: 1.0}, dict.fromkeys(range(4), 1.0)
    among_mlps, among_all = lower_mlp_tests(mlp, attention)
    assert (among_mlps.p_value, among_mlps.smallest_p) == (0.25, 0.25)
    assert among_all.p_value == pytest.approx(1 / 8)
    assert not among_mlps.can_be_significant and "too few layers" in among_all.sentence()


def test_a_deep_model_with_large_lower_changes_is_significant() -> None:
    mlp = {layer: 3.0 if layer < 3 else 1.0 + 0.01 * layer for layer in range(36)}
    for test in lower_mlp_tests(mlp, dict.fromkeys(range(36), 1.0)):
        assert test.p_value == pytest.approx(test.smallest_p) and "significant" in test.sentence()


def test_one_layer_allows_no_test() -> None:
    assert lower_mlp_tests({0: 1.0}, {0: 1.0}) == []
