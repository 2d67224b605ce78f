"""Paired tests: published values of Tango's interval, agreement of p and interval, coverage of rare changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from eval.statistics.intervals import COST, SHARE
from eval.statistics.paired import mcnemar, paired_test, resolvable, tango

Z2 = norm.ppf(0.975) ** 2


@pytest.mark.parametrize(
    ("gained", "lost", "n", "interval"),
    [
        (1, 7, 21, (-0.517, -0.026)),  # airway hyper-responsiveness, Fagerland, Lydersen and Laake 2014, table 6
        (0, 0, 20, (-Z2 / (20 + Z2), Z2 / (20 + Z2))),  # Tango's closed form without a change
        (20, 0, 20, (1 - 2 * Z2 / (20 + Z2), 1.0)),
    ],
)
def test_tangos_interval_has_the_published_values(gained, lost, n, interval) -> None:
    assert tango(gained, lost, n) == pytest.approx(interval, abs=6e-4)


@given(st.integers(1, 60), st.data())
@settings(deadline=None)
def test_tangos_interval_is_the_inverted_mcnemar_test(n: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    low, high = tango(gained, lost, n)
    assert -1 <= low < high <= 1 and low - 1e-9 <= (gained - lost) / n <= high + 1e-9
    assert (mcnemar(gained, lost) < 0.05) == (low > 0 or high < 0)
    assert tango(lost, gained, n) == pytest.approx((-high, -low))


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.02), (0.05, 0.0), (0.05, 0.05), (0.02, 0.0)])
@pytest.mark.parametrize("graded", [False, True])
def test_interval_of_a_rare_change_covers_it(n: int, gain: float, loss: float, graded: bool) -> None:
    chance = np.random.default_rng(3)
    held = 0
    for _ in range(500):
        drawn, size = chance.random(n), chance.random(n) if graded else np.ones(n)
        before = np.where(drawn > 1 - loss, size, np.where(drawn < gain, 0.0, (chance.random(n) < 0.5).astype(float)))
        after = np.where(drawn > 1 - loss, 0.0, np.where(drawn < gain, size, before))
        found = paired_test(before, after).interval
        assert found.low is not None and found.high is not None and found.low < found.high
        held += found.low <= (gain - loss) * (0.5 if graded else 1.0) <= found.high
    assert held / 500 >= 0.92


def test_costs_with_equal_changes_have_no_interval_and_no_p() -> None:
    found = paired_test(np.full(20, 3.0), np.full(20, 2.0), None, COST)
    assert (found.interval.low, found.p) == (None, None)
    assert paired_test(np.full(20, 3.0), np.full(20, 3.0), None, COST).p == 1.0


def test_one_case_is_no_evidence() -> None:
    for before, after in ((0.0, 1.0), (0.2, 0.9)):
        found = paired_test(np.array([before]), np.array([after]))
        assert found.p is not None and found.p > 0.05
        assert found.interval.low is not None and found.interval.low < 0 < after


def test_few_graded_changes_have_a_p_that_agrees_with_their_interval() -> None:
    before = np.full(40, 0.5)
    for changed in range(1, 10):
        after = before + 0.4 * (np.arange(40) < changed)
        found = paired_test(before, after, None, SHARE)
        assert found.p is not None and found.interval.low is not None
        assert (found.p < 0.05) == (found.interval.low > 0)


def test_resolvable_difference_grows_with_the_spread() -> None:
    assert resolvable(0.4, 100) == pytest.approx(2 * resolvable(0.2, 100)) == pytest.approx(0.112, abs=1e-3)
