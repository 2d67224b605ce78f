"""Intervals cover the truth near the bounds, have a width, and agree with their p-values."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp

from eval.statistics.estimates import Estimate, estimate_text, interval_text, percent_text
from eval.statistics.intervals import (
    COST,
    DIFFERENCE,
    NO_INTERVAL,
    SHARE,
    UNBOUNDED,
    bootstrap_p,
    group_correlations,
    mean_interval,
    percentiles,
    student_interval,
)
from eval.suites.results import GroupedMean, estimate

RARE = [(n, p) for n in (20, 50) for p in (0.02, 0.05)]


def coverage(draw: Callable[[np.random.Generator], tuple[Any, float]], repeats: int = 600) -> float:
    """The share of samples whose interval contains the truth; `draw` returns an interval and the truth."""
    chance = np.random.default_rng(11)
    held = 0
    for _ in range(repeats):
        found, truth = draw(chance)
        assert found.low is not None and found.high is not None and found.low < found.high
        held += found.low - 1e-12 <= truth <= found.high + 1e-12
    return held / repeats


@pytest.mark.parametrize(("n", "p"), [*RARE, *((n, 1 - p) for n, p in RARE), (20, 0.5), (105, 0.02)])
def test_interval_of_a_proportion_covers_a_rare_event(n: int, p: float) -> None:
    """Exact, over all outcomes: a percentile bootstrap covers 33% at n = 20, p = 0.02."""
    covered = 0.0
    for k in range(n + 1):
        found = estimate([{"id": str(i), "x": i < k} for i in range(n)], "x")
        assert found.low is not None and found.high is not None and found.low < found.high
        covered += binom.pmf(k, n, p) * (found.low <= p <= found.high)
    assert covered >= 0.92


@pytest.mark.parametrize(("n", "p"), RARE)
@pytest.mark.parametrize("failure", ["half", "any", "nothing or any"])
def test_interval_of_graded_shares_covers_rare_failures(n: int, p: float, failure: str) -> None:
    def draw(chance: np.random.Generator) -> tuple[Any, float]:
        failed = chance.random(n) < p
        scores = {"half": 0.5, "any": chance.random(n), "nothing or any": chance.random(n) * (chance.random(n) < 0.5)}
        truth = 1 - p * (0.75 if failure == "nothing or any" else 0.5)
        return mean_interval(np.where(failed, scores[failure], 1.0)), truth

    assert coverage(draw) >= 0.92


@pytest.mark.parametrize(("n", "p"), RARE)
def test_interval_of_repeated_trials_covers_a_rare_event(n: int, p: float) -> None:
    def draw(chance: np.random.Generator) -> tuple[Any, float]:
        of_case = chance.beta(4 * p, 4 * (1 - p), n)
        return mean_interval(chance.binomial(4, of_case) / 4, np.full(n, 4.0)), p

    assert coverage(draw) >= 0.92


@pytest.mark.parametrize(("n", "p"), RARE)
@pytest.mark.parametrize("groups", [2, 5])
@pytest.mark.parametrize("shared", [False, True])
def test_interval_of_a_mean_of_groups_covers_a_rare_event(n: int, p: float, groups: int, shared: bool) -> None:
    """Separate cases per group, or the same questions in every group with correlated answers."""
    metric = GroupedMean("m", "x", "group")

    def draw(chance: np.random.Generator) -> tuple[Any, float]:
        alike, common = chance.random(n) < 0.5 * shared, chance.random(n) < p
        rows = [
            {"id": f"{group}-{i}", "group": str(group), "x": bool(right)} | ({"cluster": str(i)} if shared else {})
            for group in range(groups)
            for i, right in enumerate(np.where(alike, common, chance.random(n) < p))
        ]
        return estimate(rows, metric), p

    assert coverage(draw, 250) >= 0.92


def test_interval_of_few_costs_covers_their_mean() -> None:
    def draw(chance: np.random.Generator) -> tuple[Any, float]:
        return mean_interval(chance.normal(7, 2, 8), None, COST), 7.0

    assert coverage(draw) >= 0.93


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=40),
    st.sampled_from([SHARE, DIFFERENCE]),
)
@settings(deadline=None, max_examples=60)
def test_bounded_means_have_an_interval_with_a_width_around_them_within_the_bounds(cases: Any, bounds: Any) -> None:
    values, weights = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    found = mean_interval(values, weights, bounds)
    assert found.low is not None and found.high is not None and found.high - found.low > 1e-3
    mean = float(np.average(values, weights=weights))
    assert bounds[0] <= found.low <= mean + 1e-9 and mean - 1e-9 <= found.high <= bounds[1]


@pytest.mark.parametrize("values", [[7.0], [7.0, 7.0], [0.0] * 50, []])
def test_costs_without_spread_have_no_interval(values: list[float]) -> None:
    for bounds in (COST, UNBOUNDED):
        assert mean_interval(np.array(values), None, bounds) == NO_INTERVAL


def test_few_costs_get_students_interval_with_lower_bound_0() -> None:
    values = np.array([3.0, 5.0, 4.0, 9.0])
    found = mean_interval(values, None, UNBOUNDED)
    wanted = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert mean_interval(np.array([0.0, 0.0, 0.0, 9.0]), None, COST).low == 0.0
    assert student_interval(np.array([1.0])) == NO_INTERVAL


def test_weights_of_equal_cases_change_nothing_and_copies_add_nothing() -> None:
    values = np.array([1.0] * 17 + [0.4, 0.0, 0.7])
    once = mean_interval(values)
    tripled = mean_interval(values, np.full(20, 3.0))
    assert (once.low, once.high) == pytest.approx((tripled.low, tripled.high))
    assert once.method == "pseudo_cases"


@pytest.mark.parametrize("cases", [10, 25, 400])
@pytest.mark.parametrize("offset", range(-3, 4))
def test_bootstrap_p_is_below_5_percent_exactly_if_its_interval_excludes_0(cases: int, offset: int) -> None:
    """Also exactly at the draw where the result changes."""
    draws = np.sort(np.random.default_rng(0).normal(0, 1, 10_000))
    low, high = percentiles(draws, cases)
    for turning, place in ((low, np.searchsorted(draws, low)), (high, np.searchsorted(draws, high))):
        moved = draws - draws[place + offset]
        ends = percentiles(moved, cases)
        assert (bootstrap_p(moved, cases) < 0.05) == (ends[0] > 0 or ends[1] < 0), turning


def test_rejections_without_a_difference_are_about_5_percent_in_small_samples() -> None:
    chance = np.random.default_rng(4)
    rejected = 0
    for _ in range(300):
        draws = mean_interval(chance.random(15) - chance.random(15), None, DIFFERENCE).draws
        assert draws is not None
        rejected += bootstrap_p(draws, 15) < 0.05
    assert 0.02 <= rejected / 300 <= 0.08


def test_groups_correlate_as_much_as_their_shared_cases() -> None:
    chance = np.random.default_rng(0)
    one, other = chance.random((2, 200))
    sums = np.column_stack([one, one, 1 - one, other, np.zeros(200)])
    found = group_correlations(sums, np.ones_like(sums))
    assert found[0, 1] == pytest.approx(1) and found[0, 2] == 0 and abs(found[0, 3]) < 0.15
    assert found[0, 4] == 1.0  # a group without spread is assumed fully correlated with others on the same cases
    apart = np.kron(np.eye(2), np.ones((30, 1)))
    assert (group_correlations(apart * 0.5, apart) == np.eye(2)).all()


def test_equal_groups_have_the_interval_of_their_pooled_cases() -> None:
    rows = [{"id": f"{g}-{i}", "group": str(g), "x": i < 12} for g, i in itertools.product(range(4), range(30))]
    together, grouped = estimate(rows, "x"), estimate(rows, GroupedMean("m", "x", "group"))
    assert (grouped.low, grouped.high) == pytest.approx((together.low, together.high), abs=1e-6)


def test_estimates_are_printed_alike_with_real_minus_signs() -> None:
    assert estimate_text(Estimate(-0.1234, -0.2, 0.05, 9), signed=True) == "−0.123 [−0.200, +0.050]"
    assert estimate_text(Estimate(None, None, None, 0)) == estimate_text(None) == "n/a"
    assert estimate_text(Estimate(7.0, None, None, 3)) == "7.000 [n/a]"
    assert percent_text(Estimate(0.5, 0.095, 0.905, 2)) == "50.0 [9.5, 90.5]"
    assert interval_text(-0.0001, 0.2) == "[0.000, 0.200]"
