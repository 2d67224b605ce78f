"""Tables, patches and goals; records without a state keep their bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from env_construction.environment.schema import Environment
from env_construction.environment.state import Tables, difference, overlap, patched, tables_problem
from tests.reward.stateful_bank import TABLES, bank

CELLS = st.one_of(st.booleans(), st.integers(-3, 3), st.text("ab", max_size=2))
ROWS = st.fixed_dictionaries({"a": CELLS, "b": CELLS})
ANY_TABLES = st.fixed_dictionaries(
    {"t": st.dictionaries(st.sampled_from("xyz"), ROWS), "u": st.dictionaries(st.sampled_from("xy"), ROWS)}
)


@given(ANY_TABLES, ANY_TABLES)
def test_a_difference_leads_from_one_set_of_tables_to_the_other(start: Tables, now: Tables) -> None:
    assert json.dumps(patched(start, difference(start, now)), sort_keys=True) == json.dumps(now, sort_keys=True)
    assert difference(start, start) == {}


def test_a_row_that_came_back_with_fewer_columns_is_a_change() -> None:
    assert difference({"t": {"x": {"a": 1, "b": 2}}}, {"t": {"x": {"a": 1}}}) == {"t": {"x": None}}


def test_true_is_not_one_and_one_is_one_point_zero() -> None:
    assert difference({"t": {"x": {"a": 1}}}, {"t": {"x": {"a": True}}}) == {"t": {"x": {"a": True}}}
    assert difference({"t": {"x": {"a": 1}}}, {"t": {"x": {"a": 1.0}}}) == {}


def changed(**rows: dict[str, Any] | None) -> tuple[set[str], set[tuple[str, str]]]:
    """Goals met and rows changed unasked, after these changes to the bank's accounts."""
    state = bank().state
    assert state is not None
    after = state.model_copy(update={"changes": {"account": rows}})
    return after.met(), after.unasked()


def test_goals_are_met_by_values_and_other_changes_are_unasked() -> None:
    assert changed(A1={"balance": 400}, A2={"balance": 330}) == ({"s1"}, set())
    assert changed(A1={"balance": 440}, A2={"balance": 290}) == (set(), set())  # on the way
    assert changed(A1={"balance": 350}, A2={"balance": 380}) == (set(), {("account", "A1"), ("account", "A2")})
    assert changed(A1={"balance": 400}, A2={"balance": 330, "open": False}) == ({"s1"}, {("account", "A2")})
    assert changed(A1={"balance": 400}, A2={"balance": 330}, A4={"owner": "Eve"}) == ({"s1"}, {("account", "A4")})
    assert changed(A2=None) == (set(), {("account", "A2")})


def test_patches_overlap_in_cells_not_in_rows() -> None:
    assert overlap({"t": {"x": {"a": 1}}}, {"t": {"x": {"a": 2}}})
    assert not overlap({"t": {"x": {"a": 1}}}, {"t": {"x": {"b": 1}}})


def test_what_is_no_table_is_seen() -> None:
    assert not tables_problem(TABLES, TABLES) and not tables_problem({}, TABLES) and not tables_problem(TABLES, {})
    wrong: tuple[Any, ...] = (None, [], {"t": []}, {"t": {"x": [1]}}, {"t": {"x": {"a": {"b": 1}}}})
    assert all(tables_problem({}, tables) for tables in wrong)
    less = {"account": {**TABLES["account"], "A1": {"owner": "Ann Moor", "open": True}}}
    assert tables_problem(TABLES, less) == "the tools of this turn removed 'balance' of account 'A1'"


def test_a_record_carries_its_state_as_text_and_one_without_has_no_such_key() -> None:
    record = bank().to_record()
    assert isinstance(record["state"], str)
    assert Environment.from_record(json.loads(json.dumps(record))) == bank()
    plain = bank().model_copy(update={"state": None})
    assert "state" not in plain.to_record()
    assert [*plain.to_record()] == [key for key in record if key != "state"]
