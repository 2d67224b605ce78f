"""Constraints of an environment: the record, and each kind kept and broken, at the turn that breaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.environment.constraints import (
    KINDS,
    STYLES,
    AnswerFormat,
    Budget,
    Constraint,
    ConstraintChecks,
    ForbiddenTool,
    MaxCalls,
    Order,
    final_text,
    first_broken,
    listed,
)
from env_construction.environment.jsonl import BadInput
from env_construction.environment.limits import missing_before
from env_construction.environment.matching import answer_in_text
from env_construction.environment.schema import Environment
from tests.conftest import small_environments

ALL: list[Constraint] = [
    MaxCalls(most=3),
    Order(tool="b", after="a"),
    ForbiddenTool(tool="c"),
    Budget(costs={"a": 1, "b": 2, "c": 1}, total=4),
    AnswerFormat(style="words", most_words=2),
]
TURNS = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), max_size=6)


def _constrained(constraints: list[Constraint]) -> Environment:
    environment = small_environments()[0]
    message = {"role": "user", "content": environment.question + listed(constraints)}
    return environment.model_copy(update={"messages": [message], "constraints": constraints})


def test_a_record_keeps_constraints_and_a_record_without_them_has_no_such_key() -> None:
    environment = _constrained(ALL)
    record = environment.to_record()
    assert Environment.from_record(json.loads(json.dumps(record))) == environment
    assert Environment.from_record({**record, "constraints": json.loads(record["constraints"])}) == environment
    assert {item["kind"] for item in json.loads(record["constraints"])} == set(KINDS)
    plain = small_environments()[0]
    assert "constraints" not in plain.to_record()
    assert environment.question_alone == plain.question == plain.question_alone


@pytest.mark.parametrize(
    "item",
    [
        {"kind": "max_calls", "most": 0},
        {"kind": "max_calls", "most": 2, "least": 1},
        {"kind": "min_calls", "least": 1},
        {"most": 2},
        {"kind": "order", "tool": "a"},
        {"kind": "budget", "costs": {}, "total": 3},
        {"kind": "budget", "costs": {"a": -1}, "total": 3},
        {"kind": "answer_format", "style": "rhymes"},
        {"kind": "answer_format", "style": "words"},
        {"kind": "answer_format", "style": "json", "most_words": 3},
    ],
)
def test_a_wrong_constraint_is_refused_with_its_place(item: dict[str, Any]) -> None:
    record = {**small_environments()[0].to_record(), "constraints": [item]}
    with pytest.raises(BadInput, match=r"FILE:3: key 'constraints\.0"):
        Environment.from_record(record, "FILE:3")


@pytest.mark.parametrize(
    ("turns", "said", "expected"),
    [
        ([["a"], ["b"]], "Suva", {}),
        ([["a", "b"]], "Suva", {"order": 1}),  # one turn is not one after the other
        ([["b"], ["a"]], "Suva", {"order": 1}),
        ([["a"], ["b", "c"]], "Suva", {"forbidden_tool": 2}),
        ([["a"], ["b"], ["b"]], "Suva", {"budget": 3}),
        ([["a", "a"], ["a", "a"]], "Suva", {"max_calls": 2}),
        ([["a"], ["d"], ["d"]], "Suva", {}),  # an unknown tool counts as a call and has no cost
        ([["a"]], "It is Suva", {"answer_format": 2}),
        ([["a"]], "", {"answer_format": 2}),
        ([], "Suva", {}),
    ],
)
def test_each_kind_is_broken_at_its_turn(turns: list[list[str]], said: str, expected: dict[str, int]) -> None:
    found = first_broken(ALL, [*((turn, "text beside calls") for turn in turns), ([], said)])
    assert {item.kind: item.turn for item in found} == expected
    assert all(item.text and ALL[item.place].kind == item.kind for item in found)


def test_an_episode_without_a_final_answer_breaks_the_answer_format_alone() -> None:
    found = first_broken(ALL, [(["a"], ""), (["b"], "")], answered=False)
    assert [(item.kind, item.turn, item.text) for item in found] == [("answer_format", 2, "there is no final answer")]


@pytest.mark.parametrize(
    ("style", "kept", "broken"),
    [
        ("capitals", ["SUVA", "4,478 M", "ÅL"], ["Suva", "4,478 m", " "]),
        ("json", ['{"answer": "Suva"}', '{"answer": 12.5}\n'], ["Suva", '{"answer": true}', '{"answer": 1, "b": 2}']),
        ("json", [], ['```json\n{"answer": "Suva"}\n```', '["answer"]', "[" * 100_000, '{"answer": ["Suva"]}']),
        ("period", ["It is Suva.", "Suva. "], ["Suva", "Suva.)"]),
    ],
)
def test_each_form_of_the_answer(style: Any, kept: list[str], broken: list[str]) -> None:
    form = AnswerFormat(style=style)
    assert [said for said in kept if first_broken([form], [([], said)])] == []
    assert [said for said in broken if not first_broken([form], [([], said)])] == []


@given(st.text("aB1 -é.", min_size=1, max_size=12).filter(lambda text: text.strip() != ""), st.sampled_from(STYLES))
def test_an_answer_in_the_form_that_is_asked_for_keeps_it_and_counts(answer: str, style: Any) -> None:
    form = AnswerFormat(style=style, most_words=len(answer.split()) if style == "words" else None)
    said = final_text(answer, [MaxCalls(most=1), form])
    assert not first_broken([form], [([], said)])
    assert answer_in_text(answer, said, "published")


@given(TURNS)
def test_checks_agree_with_a_count_over_all_calls(turns: list[list[str]]) -> None:
    """The first broken turn is that of a plain recount, and what holds at the end held at every turn."""
    found = {item.kind: item.turn for item in first_broken(ALL, [(turn, "") for turn in turns])}
    expected: dict[str, int] = {}
    for number in range(1, len(turns) + 1):
        calls = [name for turn in turns[:number] for name in turn]
        cost = sum({"a": 1, "b": 2, "c": 1}.get(name, 0) for name in calls)
        earlier = {name for turn in turns[: number - 1] for name in turn}
        for kind, broken in (
            ("max_calls", len(calls) > 3),
            ("forbidden_tool", "c" in calls),
            ("budget", cost > 4),
            ("order", "b" in turns[number - 1] and "a" not in earlier),
        ):
            if broken:
                expected.setdefault(kind, number)
    assert found == expected


@given(TURNS)
def test_a_policy_that_waits_never_breaks_an_order(turns: list[list[str]]) -> None:
    checks, called = ConstraintChecks([Order(tool="b", after="a"), Order(tool="c", after="b")]), set[str]()
    for turn in turns:
        waited = [name for name in turn if not missing_before(name, [["a", "b"], ["b", "c"]], called)]
        assert checks.check(waited, "") == []
        called.update(waited)


def test_the_list_at_the_end_of_a_question() -> None:
    assert listed([]) == ""
    assert listed(ALL) == (
        "\n\nConstraints:"
        "\n- Make at most 3 tool calls in total."
        "\n- Call b only after you have called a in an earlier turn."
        "\n- Do not call c."
        "\n- Each call has a cost: a 1, b 2, c 1. Spend at most 4 in total."
        "\n- Use at most 2 words for the final answer."
    )
