"""pass^k against its definition, and means in which both domains have equal weight."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.suites.pass_hat_k import pass_hat_k, pass_hat_k_tables, resolvable_difference, task_rows


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
@settings(max_examples=60, deadline=None)
def test_pass_hat_k_is_the_share_of_subsets_without_a_failure(trials: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(trials)))
    subsets = list(itertools.combinations(trials, k))
    assert pass_hat_k(sum(trials), len(trials), k) == pytest.approx(sum(all(s) for s in subsets) / len(subsets))


@pytest.mark.parametrize(("successes", "trials", "k"), [(1, 2, 0), (1, 2, 3), (3, 2, 1), (-1, 2, 1)])
def test_invalid_counts_are_refused(successes: int, trials: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= k"):
        pass_hat_k(successes, trials, k)


def rows(**tasks: tuple[str, list[int]]) -> list[dict[str, Any]]:
    """`name=(domain, rewards)`"""
    return [
        {"id": name, "trial": trial, "domain": domain, "reward": float(reward)}
        for name, (domain, rewards) in tasks.items()
        for trial, reward in enumerate(rewards)
    ]


def test_domains_have_equal_weight_whatever_their_sizes() -> None:
    found = rows(
        a0=("airline", [1, 1, 0, 0]), r0=("retail", [1] * 4), r1=("retail", [1, 1, 1, 0]), r2=("retail", [0] * 4)
    )
    tables = pass_hat_k_tables(found, ("airline", "retail"), 4)
    assert tables["airline"]["pass^1"]["value"] == 0.5
    assert tables["airline"]["pass^2"]["value"] == pytest.approx(1 / 6)
    assert tables["retail"]["pass^2"]["value"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert tables["retail"]["pass^4"]["value"] == pytest.approx(1 / 3)
    for k in range(1, 5):
        own = [tables[domain][f"pass^{k}"]["value"] for domain in ("airline", "retail")]
        assert tables["mean"][f"pass^{k}"]["value"] == pytest.approx(sum(own) / 2)
    assert tables["mean"]["pass^1"]["n"] == 4


def test_trials_that_a_fault_broke_are_missing_from_n() -> None:
    """Three of four trials remain: C(2, 2) / C(3, 2). A task with one remaining trial has a pass^1 but no pass^2."""
    found = rows(a=("airline", [1, 1, 0]), b=("airline", [1]))
    assert [row["pass_hat_k"] for row in task_rows(found, 2)] == [pytest.approx(1 / 3)]
    assert [row["pass_hat_k"] for row in task_rows(found, 1)] == [pytest.approx(2 / 3), 1.0]
    tables = pass_hat_k_tables(found, ("airline",), 4)
    assert (tables["mean"]["pass^2"]["n"], tables["mean"]["pass^4"]["value"]) == (1, None)


def test_no_mean_where_a_domain_has_no_task() -> None:
    tables = pass_hat_k_tables(rows(a=("airline", [1])), ("airline", "retail"), 1)
    assert tables["airline"]["pass^1"]["value"] == 1.0
    assert tables["mean"]["pass^1"]["value"] is None


def test_small_domains_cost_resolution() -> None:
    """The same tasks resolve less if most of them are in one of the two domains."""
    rewards = [index % 2 for index in range(40)]

    def split(first: int) -> float:
        found = [
            {"id": str(i), "trial": 0, "domain": "airline" if i < first else "retail", "reward": float(reward)}
            for i, reward in enumerate(rewards)
        ]
        resolved = resolvable_difference(found, ("airline", "retail"))
        assert resolved is not None
        return resolved

    assert split(4) > 1.2 * split(20)
    assert resolvable_difference(rows(a=("airline", [1])), ("airline",)) is None
