"""Hash sets and distinct counts, against Python's own sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.rules.duplicates import DistinctCounter, HashSet, distinct_keys, hash64, question_key

_KEYS = st.integers(1, 2**64 - 1)


@given(st.lists(_KEYS | st.integers(1, 40)))
def test_a_hash_set_behaves_like_a_set(keys: list[int]) -> None:
    mine, theirs = HashSet(), set[int]()
    for key in keys:
        assert (key in mine) == (key in theirs)
        assert mine.add(key) == (key not in theirs)
        theirs.add(key)
    assert len(mine) == len(theirs)


def test_a_hash_set_grows_past_its_expected_size_and_stays_small() -> None:
    keys = HashSet(10)
    for number in range(20_000):
        assert keys.add(hash64(str(number)))
    assert len(keys) == 20_000 and not keys.add(hash64("7"))
    assert keys._slots.nbytes / len(keys) < 30


@pytest.mark.parametrize("number", [0, 10, 1000, 50_000])
def test_distinct_counts_are_close_and_merge(number: int) -> None:
    first, second = DistinctCounter(), DistinctCounter()
    first.add(hash64(str(item)) for item in range(number))
    second.add(hash64(str(item)) for item in range(number // 2, number))
    estimate = first.estimate()
    assert estimate == pytest.approx(number, rel=0.03)
    first.merge(second)
    assert first.estimate() == estimate


def test_keys_distinguish_questions_and_ignore_entities(built) -> None:
    environments = built("compact")
    assert len({question_key(environment) for environment in environments}) == len(environments)
    first = environments[0]
    other = first.model_copy(deep=True)
    name = next(value for value in first.gold_plan[0].arguments.values())
    other.messages[0]["content"] = other.messages[0]["content"].replace(name, "Elsewhere")
    other.gold_plan[0].arguments = {
        key: "Elsewhere" if value == name else value for key, value in other.gold_plan[0].arguments.items()
    }
    assert question_key(other) != question_key(first)
    assert distinct_keys(other)["question templates"] == distinct_keys(first)["question templates"]
    assert distinct_keys(other)["entity chains"] != distinct_keys(first)["entity chains"]
    assert distinct_keys(other)["tool sets"] == distinct_keys(first)["tool sets"]
