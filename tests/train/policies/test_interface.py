"""Policies without a model: the oracle scores 1.0, random calls fit their schemas, a replay repeats recorded turns."""

import json
import random

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment
from reward.scoring import advance, score_turn
from reward.tool_calls import parse_turn
from train.policies.interface import (
    OraclePolicy,
    PolicyRequest,
    RandomPolicy,
    ReplayPolicy,
    random_arguments,
    ready_calls,
)


def request(environment: Environment, trial: int = 0, turn: int = 0, seed: int = 5) -> PolicyRequest:
    return PolicyRequest(environment, environment.id, trial, turn, seed)


def test_oracle_makes_all_calls_whose_dependencies_are_solved_in_one_turn(environments, sandbox) -> None:
    state = environments[3]
    made = []
    while ready := ready_calls(state):
        made.append([call.name for call in ready])
        [generation] = OraclePolicy().generate([request(state)])
        state = advance(state, score_turn(state, generation.text, sandbox=sandbox))
    assert made == [["capital_of"] * 2, ["population_of"] * 2, ["larger_of"]]
    assert state.unsolved_count == 0
    [final] = OraclePolicy().generate([request(state)])
    assert final.text == "The answer is 7737002."


def test_gold_call_that_does_not_solve_is_not_repeated(environments, sandbox) -> None:
    broken = environments[2].model_copy(
        update={"codes": {**environments[2].codes, "capital_of": "def capital_of(country): return 0"}}
    )
    [generation] = OraclePolicy().generate([request(broken)])
    state = advance(broken, score_turn(broken, generation.text, sandbox=sandbox))
    assert ready_calls(state) == []


def test_same_answer_twice_needs_two_calls(environments) -> None:
    twice = environments[1].model_copy(
        update={
            "unsolved_set": {"capital_of": ["Lima", "Lima"]},
            "sub_questions": [item.model_copy(update={"answer": "Lima"}) for item in environments[1].sub_questions],
        }
    )
    assert len(ready_calls(twice)) == 2
    assert len(ready_calls(twice.model_copy(update={"unsolved_set": {"capital_of": ["Lima"]}}))) == 1


def test_oracle_refuses_an_environment_without_a_gold_plan(environments) -> None:
    bare = environments[0].model_copy(update={"gold_plan": []})
    with pytest.raises(BadInput, match=r"atlas-single_hop.*no gold_plan"):
        OraclePolicy().generate([request(bare)])


def test_random_policy_depends_on_seeds_alone_not_on_the_batch(environments) -> None:
    requests = [request(environment, seed=index) for index, environment in enumerate(environments)]
    policy = RandomPolicy(seed=3)
    together = [generation.text for generation in policy.generate(requests)]
    alone = [policy.generate([item])[0].text for item in reversed(requests)][::-1]
    assert together == alone
    assert together != [generation.text for generation in RandomPolicy(seed=4).generate(requests)]


def test_random_policy_stops_by_chance_and_calls_first(environments) -> None:
    policy = RandomPolicy()
    first = policy.generate([request(environments[0], seed=seed) for seed in range(50)])
    later = policy.generate([request(environments[0], seed=seed, turn=3) for seed in range(200)])
    assert all(parse_turn(generation.text).calls for generation in first)
    stopped = sum(not parse_turn(generation.text).calls for generation in later)
    assert 30 < stopped < 90


LEAF = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "minimum": 3, "maximum": 9},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "string", "enum": ["a", "b"]},
        {"type": ["string", "integer"]},
        {},
    ]
)
SCHEMAS = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.dictionaries(st.sampled_from("xyz"), inner, min_size=1).map(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)[:1]}
        ),
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from("abcd"), SCHEMAS), st.integers(0, 1000), st.lists(st.text(min_size=1), max_size=4)
)
def test_random_arguments_conform_to_the_schema(properties, seed, words) -> None:
    schema = {"type": "object", "properties": properties, "required": sorted(properties)[:2]}
    jsonschema.validate(random_arguments(schema, words, random.Random(seed)), schema)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["object", "integer", "array", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "properties", "required", "items", "enum", "minimum"]), inner)
    ),
    max_leaves=12,
)
KEYWORDS = ("type", "properties", "required", "items", "enum", "const", "minimum", "maximum", "x")


@given(st.dictionaries(st.sampled_from(KEYWORDS), ANY_JSON), st.integers(0, 99))
@example({"type": "object", "properties": {"x": {}}, "required": True}, 0)
@example({"type": "object", "properties": {"x": {"type": "integer", "minimum": None}}, "required": ["x"]}, 0)
@example({"type": "object", "properties": [{"x": {"type": "string"}}]}, 0)
@example({"type": "object", "properties": {"x": True, "y": {"type": [], "items": True}}, "required": ["x", "y"]}, 0)
def test_random_arguments_of_a_broken_schema_are_an_object_all_the_same(schema, seed) -> None:
    for inner in (schema, {"type": "object", "properties": {"x": schema}, "required": ["x"]}):
        assert isinstance(random_arguments(inner, ["word"], random.Random(seed)), dict)


@pytest.mark.parametrize("odd", [{"trial": "first"}, {"trial": [1]}, {"turns": [None]}, {"turn_scores": [{"text": 5}]}])
def test_a_recorded_row_of_another_shape_is_refused_by_line(tmp_path, odd) -> None:
    file = tmp_path / "recorded.jsonl"
    file.write_text(json.dumps({"id": "a", **odd}) + "\n")
    with pytest.raises(BadInput, match=r"recorded\.jsonl:1: key '(trial|turns)': expected"):
        ReplayPolicy(file)


def test_replay_plays_turns_and_result_rows_and_reports_what_is_missing(environments, tmp_path) -> None:
    file = tmp_path / "recorded.jsonl"
    rows = [
        {"id": "atlas-single_hop", "trial": 1, "turns": ["one", "two"]},
        {"id": "atlas-multi_hop", "turns": 2, "turn_scores": [{"text": "from a result row"}]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = ReplayPolicy(file)
    single, _, multi, _ = environments
    played = policy.generate(
        [
            request(single, trial=1, turn=1),
            request(multi),
            request(single, trial=0),
            request(multi, turn=1),
        ]
    )
    assert [generation.text for generation in played[:2]] == ["two", "from a result row"]
    assert played[2].fault == "no record of id 'atlas-single_hop', trial 0"
    assert played[3].fault == "only 1 turns recorded of id 'atlas-multi_hop', trial 0"


def test_broken_replay_file_is_refused_with_its_line(tmp_path) -> None:
    file = tmp_path / "recorded.jsonl"
    file.write_text('{"id": "a", "turns": ["x"]}\n{"id": "b", "turns": [1]}\n')
    with pytest.raises(BadInput, match=r"recorded.jsonl:2: key 'turns'"):
        ReplayPolicy(file)
