"""Questions: graphs have the scenario's shape, dependencies are real, facts stay real or permuted consistently."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from env_construction.building.author import Decomposition, Rejected, Step
from env_construction.building.environment_builder import BuildConfiguration, new_draft
from env_construction.environment.schema import SCENARIOS
from env_construction.facts.calculator import CONSTANTS, EXPRESSIONS, calculate, number_of, written
from env_construction.facts.fact_author import FactAuthor
from env_construction.facts.fact_questions import Graph, Node, grow_graph
from env_construction.facts.fact_wording import _Wording, write_decomposition
from env_construction.facts.fact_world import World, pool_view
from env_construction.facts.facts import fact_base, pool_of
from env_construction.facts.levels import LEVELS
from env_construction.facts.relations import BY_NAME, OPERATIONS
from env_construction.rules.question_rules import HOPS, answer_in_arguments, check_decomposition, check_shape
from env_construction.scenario_decomposition import decompose


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scenario=st.sampled_from(SCENARIOS), level=st.sampled_from(list(LEVELS)))
def test_any_seed_gives_the_scenarios_shape(seed: int, scenario, level: str) -> None:
    rng = random.Random(seed)
    hops = rng.choice(list(LEVELS[level].hops[scenario]))
    graph = grow_graph(scenario, hops, World(pool_view("train", level), True), rng)
    plan = write_decomposition(graph, LEVELS[level], rng)
    assert len(plan.steps) == hops
    check_shape(scenario, {step.id: step.depends_on for step in plan.steps})
    for step in plan.steps:
        answers = {other.id: other.answer for other in plan.steps}
        assert all(answer_in_arguments(answers[name], step.inputs) for name in step.depends_on)
        assert "{" not in step.question
    assert "{" not in plan.question and plan.answer


def _lookups(plan: Decomposition) -> list[tuple[str, tuple[str, ...], str]]:
    return [(step.function, tuple(map(str, step.inputs.values())), step.answer) for step in plan.steps]


def _decomposed(configuration: BuildConfiguration, split, indices: range) -> list[Decomposition]:
    plans = []
    for index in indices:
        draft = new_draft(configuration, split, index, 0)
        try:
            plans.append(decompose(FactAuthor(), draft).plan)
        except Rejected:
            continue
    return plans


def test_real_facts_equal_the_fact_base() -> None:
    plans = _decomposed(BuildConfiguration("facts", "compact", 3, counterfactual="off"), "train", range(40))
    assert len(plans) > 20
    for function, subjects, answer in [lookup for plan in plans for lookup in _lookups(plan)]:
        relation = BY_NAME[function]
        if relation.pair:
            value = fact_base().pair_value(relation, *subjects)
        else:
            value = fact_base().tables[function][subjects[0]]
        assert answer == f"{value} {relation.unit}".strip()


def test_most_permuted_facts_differ_from_the_real_ones() -> None:
    same = total = 0
    for plan in _decomposed(BuildConfiguration("facts", "compact", 5), "train", range(40)):
        for function, subjects, answer in _lookups(plan):
            if not BY_NAME[function].pair:
                total += 1
                same += fact_base().tables[function][subjects[0]] == answer.removesuffix(BY_NAME[function].unit).strip()
    assert total > 60
    assert same / total < 0.1


def test_a_world_is_consistent_and_one_to_one() -> None:
    view = pool_view("train", "compact")
    relation = BY_NAME["city_country"]
    world, rng = World(view, True), random.Random(1)
    cities = view.subjects["city_country"][:60]
    first = [world.value(relation, (city,), rng) for city in cities]
    assert first == [world.value(relation, (city,), rng) for city in cities]
    assert len(set(first)) == len(first)
    distance = BY_NAME["city_distance"]
    assert world.value(distance, (cities[0], cities[1]), rng) == world.value(distance, (cities[1], cities[0]), rng)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_arguments_come_from_the_splits_own_pool(split) -> None:
    for level in ("compact", "paper"):
        plans = _decomposed(BuildConfiguration("facts", level, 2), split, range(40))
        assert len(plans) > 20
        for plan in plans:
            for step in plan.steps:
                if BY_NAME[step.function].compute:
                    earlier = [other.answer for other in plan.steps if other.id in step.depends_on]
                    assert earlier
                    assert all(pool_of(str(number_of(answer.split(" ")[0]))) == split for answer in earlier)
                else:
                    assert all(pool_of(value) == split for value in step.inputs.values())


def _plan(*steps: tuple[str, str, list[str]], question: str = "What?", rule: str = "list") -> Decomposition:
    made = [
        Step(id=name, question="?", answer=answer, depends_on=needs, function="f", inputs={"x": " ".join(needs)})
        for name, answer, needs in steps
    ]
    by_id = {step.id: step for step in made}
    for step in made:
        step.inputs = {"x": ", ".join(by_id[name].answer for name in step.depends_on if name in by_id) or "start"}
    return Decomposition(question=question, steps=made, answer=made[-1].answer, answer_rule=rule)


@pytest.mark.parametrize(
    ("scenario", "plan", "rule"),
    [
        ("single_hop", _plan(("q1", "Oslo", []), ("q2", "Paris", [])), "wrong_hops"),
        ("multi_hop", _plan(("q1", "Oslo", []), ("q2", "Paris", [])), "wrong_shape"),
        ("multi_hop", _plan(("q1", "Oslo", ["q2"]), ("q2", "Paris", [])), "dependency_not_earlier"),
        ("parallel_single_hop", _plan(("q1", "Oslo", []), ("q2", "Paris", ["q1"])), "wrong_shape"),
        (
            "parallel_multi_hop",
            _plan(("q1", "Oslo", []), ("q2", "Paris", ["q1"]), ("q3", "Rome", ["q2"])),
            "wrong_shape",
        ),
        ("single_hop", _plan(("q1", " ", [])), "sub_answer_empty"),
        ("single_hop", _plan(("q1", "er", [])), "sub_answer_trivial"),
        ("single_hop", _plan(("q1", "Oslo", []), question="Is it Oslo?"), "sub_answer_in_question"),
        ("parallel_single_hop", _plan(("q1", "1,200", []), ("q2", "21,200", [])), "sub_answers_overlap"),
        ("single_hop", _plan(("q1", "Oslo", []), rule="guess"), "answer_rule_unknown"),
    ],
)
def test_decompositions_that_break_a_rule_are_rejected_under_its_name(scenario, plan: Decomposition, rule: str) -> None:
    with pytest.raises(Rejected) as caught:
        check_decomposition(scenario, plan)
    assert caught.value.rule == rule


def test_a_pretended_dependency_is_rejected() -> None:
    plan = _plan(("q1", "Oslo", []), ("q2", "Paris", ["q1"]))
    plan.steps[1].inputs = {"x": "Rome"}
    with pytest.raises(Rejected, match="dependency_not_used"):
        check_decomposition("multi_hop", plan)


def test_scenarios_have_the_papers_hops() -> None:
    assert HOPS == {
        "single_hop": (1, 1),
        "parallel_single_hop": (2, 6),
        "multi_hop": (2, 10),
        "parallel_multi_hop": (3, 11),
    }
    for level in LEVELS.values():
        for scenario, (low, high) in HOPS.items():
            assert low <= min(level.hops[scenario]) and max(level.hops[scenario]) <= high


@given(st.integers(-(10**9), 10**9), st.integers(1, 99))
def test_written_numbers_parse_to_the_same_numbers(a: int, b: int) -> None:
    assert number_of(written(a)) == a
    assert number_of(calculate("sum", a, b)) == a + b
    assert number_of(calculate("difference", a, b)) == abs(a - b)
    assert number_of(calculate("product", a, b)) == a * b


def test_operations_have_an_expression_and_constants() -> None:
    assert {operation.compute for operation in OPERATIONS} == set(EXPRESSIONS) == set(CONSTANTS)
    with pytest.raises(KeyError):
        calculate("root", 1, 2)
    assert number_of("12 km") is None
    assert number_of("1,115.15") == 1115.15


@pytest.mark.parametrize(
    ("rule", "answer", "follows"),
    [
        ("pick", "Lima", True),
        ("pick", "1,200 km", True),
        ("pick", "Rome", False),
        ("compare", "Oslo", True),
        ("compare", "300 km", True),
        ("compare", "1,400 km", False),
        ("compare", "yes", False),
        ("sum", "2,700 km", True),
        ("sum", "2700", True),
        ("sum", "2,701 km", False),
        ("sum", "many", False),
        ("count", "1", True),
        ("count", "3", False),
        ("count", "1.5", False),
        ("count", "none", False),
    ],
)
def test_a_derived_answer_follows_from_the_sub_answers(rule: str, answer: str, follows: bool) -> None:
    plan = Decomposition(
        question="Which is longer: the coast near A or the one near B?",
        steps=[
            Step(id="q1", question="?", answer="1,200 km", function="coast", inputs={"city": "Oslo"}),
            Step(id="q2", question="?", answer="1,500 km", function="coast", inputs={"city": "Lima"}),
        ],
        answer=answer,
        answer_rule=rule,
    )
    if follows:
        check_decomposition("parallel_single_hop", plan)
    else:
        with pytest.raises(Rejected, match="answer_does_not_follow"):
            check_decomposition("parallel_single_hop", plan)


def test_no_verb_follows_itself() -> None:
    """ "the country where the airport lies lies farthest south" is written in another way, whatever the seed."""
    country = Node(BY_NAME["airport_country"], ["Fludir Airport"], ("Fludir Airport",), "Iceland")
    city = Node(BY_NAME["country_southernmost_city"], [0], ("Iceland",), "Selfoss")
    graph = Graph(World(pool_view("train", "medium"), True), random.Random(0))
    graph.nodes += [country, city]
    questions = {_Wording(graph, random.Random(seed)).question([1]) for seed in range(60)}
    assert any("lies farthest" in question for question in questions)
    assert any("lies?" in question or "lies." in question for question in questions)
    assert not any("lies lies" in question for question in questions)
