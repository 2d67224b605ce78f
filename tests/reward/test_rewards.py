"""The reward table: every row for every kind of turn, and the laws that hold for all rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.rewards import KINDS, REWARDS

# (p, q) -> reward of a turn with calls, per variant
CALLS = {
    "solve_f1": {(1, 1): 1.0, (1, 0): 0.0, (2, 1): 2 / 3, (2, 2): 4 / 3, (3, 2): 1.0, (4, 4): 8 / 5, (5, 0): 0.0},
    "solve_precision": {(1, 1): 1.0, (1, 0): 0.0, (2, 1): 0.5, (2, 2): 1.0, (3, 2): 2 / 3, (4, 4): 1.0, (5, 0): 0.0},
    "solve_recall": {(1, 1): 1.0, (1, 0): 0.0, (2, 1): 1.0, (2, 2): 2.0, (3, 2): 2.0, (4, 4): 4.0, (5, 0): 0.0},
    "solve_pr": {(1, 1): 1.0, (1, 0): 0.0, (2, 1): 0.5, (2, 2): 2.0, (3, 2): 4 / 3, (4, 4): 4.0, (5, 0): 0.0},
}
CALLS["solve_f1_stop_penalty"] = CALLS["solve_f1"]
# kind -> t -> reward, the same in every variant except for STOPPED
OTHERS = {
    "empty": {0: -0.5, 3: -0.5},
    "malformed": {0: -0.3, 3: -0.3},
    "answer": {0: 1.0, 1: 0.5, 3: 0.25},
    "all_solved_no_answer": {0: 0.5},
    "other": {0: 0.0, 3: 0.0},
}


STOPPED = {"solve_f1_stop_penalty": -0.5}  # kind "other", for any t


def test_the_tables_cover_every_row_and_kind():
    assert set(CALLS) == set(REWARDS)
    assert {"calls", *OTHERS} == set(KINDS)


@pytest.mark.parametrize(
    ("variant", "p", "q", "expected"), [(v, p, q, r) for v, row in CALLS.items() for (p, q), r in row.items()]
)
def test_turns_with_calls(variant, p, q, expected):
    assert REWARDS[variant](p, q, 4, "calls") == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("variant", REWARDS)
@pytest.mark.parametrize(("kind", "t", "expected"), [(k, t, r) for k, row in OTHERS.items() for t, r in row.items()])
def test_turns_without_calls(variant, kind, t, expected):
    assert REWARDS[variant](0, 0, t, kind) == (STOPPED.get(variant, expected) if kind == "other" else expected)


COUNTS = st.integers(1, 60).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p), st.integers(p, 80)))


@given(COUNTS, st.sampled_from(sorted(REWARDS)), st.sampled_from(KINDS))
def test_bounds(counts, variant, kind):
    p, q, t = counts
    reward = REWARDS[variant](p, q, t, kind)
    highest = {"solve_precision": 1.0, "solve_recall": float(q), "solve_pr": float(q)}.get(variant, 2.0)
    assert -0.5 <= reward <= max(1.0, highest)
    if kind == "calls":
        assert 0.0 <= reward <= highest
        assert (reward == 0.0) == (q == 0)


@given(COUNTS, st.sampled_from(sorted(REWARDS)))
def test_solving_more_always_pays_more(counts, variant):
    p, q, t = counts
    if q < p:
        assert REWARDS[variant](p, q + 1, t, "calls") > REWARDS[variant](p, q, t, "calls")


@given(COUNTS, st.sampled_from(["solve_f1", "solve_precision", "solve_pr", "solve_f1_stop_penalty"]))
def test_a_useless_call_costs_reward_except_under_recall(counts, variant):
    p, q, t = counts
    if q:
        assert REWARDS[variant](p + 1, q, t, "calls") < REWARDS[variant](p, q, t, "calls")
    assert REWARDS["solve_recall"](p + 1, q, t, "calls") == REWARDS["solve_recall"](p, q, t, "calls")


@given(st.integers(0, 80), st.sampled_from(sorted(REWARDS)))
def test_answering_pays_more_the_less_is_unsolved(t, variant):
    assert REWARDS[variant](0, 0, t, "answer") > REWARDS[variant](0, 0, t + 1, "answer") > 0
