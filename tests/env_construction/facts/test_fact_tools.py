"""Tools: documents and code agree, arguments are checked, every form of parameter finds the same value."""

from __future__ import annotations

import json
import random

import pytest

from env_construction.facts.fact_code import write_source
from env_construction.facts.fact_questions import convert
from env_construction.facts.fact_tools import Blueprint, Extra, describe, expand_parameters, parameters
from env_construction.facts.fact_world import pool_view
from env_construction.facts.levels import LEVELS
from env_construction.facts.relations import BY_NAME
from env_construction.rules.tool_rules import check_arguments, check_document, source_problem
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolSandbox

ROWS = {"Oslo": "Norway", "Ad Dasmah": "Kuwait"}


def _call(sandbox: ToolSandbox, blueprint: Blueprint, rows: dict, arguments: dict, verbose: bool = True) -> object:
    document = describe(blueprint, verbose)
    check_document(document)
    source = write_source(blueprint, document, rows, verbose)
    assert source_problem(source, blueprint.name) is None
    [[result]] = sandbox.run_batch([SandboxJob({blueprint.name: source}, [ToolCall(blueprint.name, arguments)])])
    assert result.status in ("ok", "error"), result
    return json.loads(result.output) if result.ok and result.output.startswith("{") else result.output


@pytest.mark.parametrize(
    ("form", "arguments", "verbose"),
    [
        ("plain", {"city": "Oslo"}, False),
        ("plain", {"city": "Oslo"}, True),
        ("object", {"city": {"name": "Oslo"}}, True),
    ],
)
def test_every_form_of_parameter_finds_the_value(construction_sandbox, form, arguments: dict, verbose: bool) -> None:
    blueprint = Blueprint(name="city_country", relations=["city_country"], form=form)
    assert blueprint.arguments("city_country", {"city": "Oslo"}) == arguments
    check_arguments(describe(blueprint, verbose), arguments)
    found = _call(construction_sandbox, blueprint, ROWS, arguments, verbose)
    assert found == {"country": "Norway"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"city": "Atlantis"},
        {"city": 7},
        {"city": ""},
        {"city": ["Oslo"]},
        {"town": "Oslo"},
        {},
        {"city": "Oslo", "x": 1},
    ],
)
def test_wrong_calls_get_an_error_and_no_value(construction_sandbox, arguments: dict) -> None:
    blueprint = Blueprint(name="city_country", relations=["city_country"])
    for verbose in (False, True):
        output = json.dumps(_call(construction_sandbox, blueprint, ROWS, arguments, verbose))
        assert "error" in output
        assert "Norway" not in output and "Kuwait" not in output


def test_errors_do_not_echo_the_arguments(construction_sandbox) -> None:
    blueprint = Blueprint(name="city_country", relations=["city_country"])
    assert "Sesame" not in json.dumps(_call(construction_sandbox, blueprint, ROWS, {"city": "Sesame"}))


def test_case_and_spaces_are_ignored_unless_the_match_is_strict(construction_sandbox) -> None:
    blueprint = Blueprint(
        name="city_country", relations=["city_country"], extras=[Extra(name="strict", has_default=True)]
    )
    assert _call(construction_sandbox, blueprint, ROWS, {"city": " ad  DASMAH "}) == {"country": "Kuwait"}
    found = _call(construction_sandbox, blueprint, ROWS, {"city": "ad dasmah", "strict": True})
    assert isinstance(found, dict) and "error" in found
    assert _call(construction_sandbox, blueprint, ROWS, {"city": "Ad Dasmah", "strict": True}) == {"country": "Kuwait"}


def test_a_selector_chooses_among_the_relations(construction_sandbox) -> None:
    blueprint = Blueprint(name="country_code", relations=["country_alpha2", "country_alpha3"], selector="kind")
    rows = {"Norway": {"alpha2": "NO", "alpha3": "NOR"}}
    assert describe(blueprint, False).parameters["properties"]["kind"]["enum"] == ["alpha2", "alpha3"]
    arguments = blueprint.arguments("country_alpha3", {"country": "Norway"})
    assert _call(construction_sandbox, blueprint, rows, arguments) == {"alpha3": "NOR"}
    found = _call(construction_sandbox, blueprint, rows, {"country": "Norway", "kind": "gamma"})
    assert isinstance(found, dict) and "error" in found


def test_a_unit_is_converted(construction_sandbox) -> None:
    relation = BY_NAME["airport_elevation"]
    cells = convert(relation, "1,000")
    assert cells == {"ft": "1,000 ft", "m": "305 m"}
    blueprint = Blueprint(name="airport_elevation", relations=["airport_elevation"], unit_choice=True)
    assert _call(construction_sandbox, blueprint, {"Top": cells}, {"airport": "Top", "unit": "m"}) == {
        "elevation": "305 m"
    }
    blueprint.unit_optional = True
    relation_arguments = blueprint.arguments("airport_elevation", {"airport": "Top"}, unit="m")
    assert relation_arguments == {"airport": "Top", "unit": "m"}
    assert _call(construction_sandbox, blueprint, {"Top": cells}, relation_arguments) == {"elevation": "305 m"}
    assert blueprint.arguments("airport_elevation", {"airport": "Top"}, unit="ft") == {"airport": "Top"}
    assert _call(construction_sandbox, blueprint, {"Top": cells}, {"airport": "Top"}) == {"elevation": "1,000 ft"}


@pytest.mark.parametrize("form", ["plain", "array"])
def test_pairs_are_found_in_either_order(construction_sandbox, form) -> None:
    blueprint = Blueprint(name="city_distance", relations=["city_distance"], form=form)
    for first, second in (("Oslo", "Rome"), ("Rome", "Oslo")):
        arguments = blueprint.arguments("city_distance", {"city_a": first, "city_b": second})
        assert _call(construction_sandbox, blueprint, {"Oslo|Rome": "2,000 km"}, arguments) == {"distance": "2,000 km"}


def test_arithmetic_tools_compute(construction_sandbox) -> None:
    names = [f"number_{name}" for name in ("sum", "difference", "product", "percentage")]
    blueprint = Blueprint(name="number_calculator", relations=names, selector="operation")
    for name, expected in zip(names, ("1,240", "1,160", "48,000", "480"), strict=True):
        arguments = blueprint.arguments(name, {"a": 1200, "b": 40})
        assert _call(construction_sandbox, blueprint, {}, arguments) == {"result": expected}
    single = Blueprint(name="add", relations=["number_sum"], form="array")
    assert _call(construction_sandbox, single, {}, {"numbers": [0.5, 1]}) == {"result": "1.5"}
    assert "error" in _call(construction_sandbox, single, {}, {"numbers": ["1", "2"]})  # type: ignore[operator]
    assert "error" in _call(construction_sandbox, single, {}, {"numbers": [1]})  # type: ignore[operator]


def test_every_catalog_parameter_is_documented_checked_and_harmless(construction_sandbox) -> None:
    """With its default and with a valid value, the result is unchanged. A wrong value gives an error that names it."""
    for parameter in parameters().values():
        blueprint = Blueprint(name="city_country", relations=["city_country"])
        blueprint.extras = [Extra(name=parameter.name, has_default=parameter.default is not None)]
        valid = parameter.options[-1] if parameter.options else True
        for arguments in ({"city": "Oslo"}, {"city": "Oslo", parameter.name: valid}):
            check_arguments(describe(blueprint, True), arguments)
            assert "Norway" in str(_call(construction_sandbox, blueprint, ROWS, arguments)), parameter.name
        wrong = _call(construction_sandbox, blueprint, ROWS, {"city": "Oslo", parameter.name: 7})
        assert parameter.name in str(wrong) and "Norway" not in str(wrong), parameter.name


def test_every_catalog_parameter_has_an_effect(construction_sandbox) -> None:
    """Some call has another result with the parameter than without it."""
    for parameter in parameters().values():
        blueprint = Blueprint(name="city_country", relations=["city_country"])
        blueprint.extras = [Extra(name=parameter.name, has_default=parameter.default is not None)]
        given = parameter.options or [True]
        changed = [
            _call(construction_sandbox, blueprint, ROWS, {"city": name, parameter.name: value})
            != _call(construction_sandbox, blueprint, ROWS, {"city": name})
            for value in given
            for name in ("Oslo", "OSLO", "Atlantis")
        ]
        assert any(changed), parameter.name


def test_expansion_reaches_the_levels_number_and_keeps_required_first() -> None:
    level, view = LEVELS["paper"], pool_view("train", "paper")
    for seed in range(30):
        blueprint = Blueprint(name="city_country", relations=["city_country"])
        expand_parameters(blueprint, level, random.Random(seed), view, answers=["city_state"], near=["city_state"])
        document = describe(blueprint, True)
        check_document(document)
        names = list(document.parameters["properties"])
        assert min(level.parameters) <= len(names) <= max(level.parameters)
        required = document.parameters["required"]
        assert names[: len(required)] == required
        assert all("default" not in document.parameters["properties"][name] for name in required)
        # nothing adds the answer of another sub-question to a result
        assert not any(item.style == "include" and item.relation == "city_state" for item in blueprint.filters)


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def f(x):\n    return open(x).read()\n", "source_does_io"),
        ("def f(x):\n    import os\n    return os.getcwd()\n", "source_does_io"),
        ("def f(x):\n    return x.__class__.__bases__\n", "source_does_io"),
        ("def f(x):\n    return eval(x)\n", "source_does_io"),
        ("def g(x):\n    return x\n", "source_lacks_function"),
        ("def f(x:\n", "source_does_not_parse"),
        ("import re\n\ndef f(input):\n    return re.compile(input).pattern\n", None),
        ("def f(x):\n    from datetime import datetime\n    return str(datetime(2024, 1, 1))\n", None),
    ],
)
def test_sources_that_do_io_or_do_not_parse_are_rejected(source: str, rule: str | None) -> None:
    problem = source_problem(source, "f")
    assert (problem[0] if problem else None) == rule


def test_built_tools_offer_each_choice_once_and_have_distinct_entities(built, level: str) -> None:
    for environment in built(level):
        for tool in environment.tools:
            properties = tool.parameters["properties"]
            for name, schema in properties.items():
                assert len(set(schema.get("enum", ()))) == len(schema.get("enum", ())), (tool.name, name)
            described = [schema["description"] for schema in properties.values() if "description" in schema]
            assert len(set(described)) == len(described), tool.name


def test_a_question_states_what_its_call_gives(built) -> None:
    """Every argument of a gold call is an entity, an earlier answer, a choice, or in the question."""
    stated = 0
    for environment in [*built("medium"), *built("paper")]:
        documents = {tool.name: tool.parameters["properties"] for tool in environment.tools}
        for call in environment.gold_plan:
            for name, value in call.arguments.items():
                if isinstance(value, str) and "enum" not in documents[call.name][name]:
                    answers = [item.answer for item in environment.sub_questions]
                    assert value in environment.question or value in answers, (environment.id, name, value)
                stated += name not in ("unit", "kind") and "(" in environment.question
    assert stated


def test_needed_and_unneeded_tools_require_equally_many_parameters(built) -> None:
    required: dict[bool, list[int]] = {True: [], False: []}
    for environment in built("paper"):
        for tool in environment.tools if environment.scenario == "single_hop" else ():
            required[bool(environment.unsolved_set.get(tool.name))].append(len(tool.parameters["required"]))
    means = {needed: sum(numbers) / len(numbers) for needed, numbers in required.items()}
    assert abs(means[True] - means[False]) < 0.7 and means[True] > 1.5


def test_a_choice_without_a_value_is_refused_without_naming_it(construction_sandbox) -> None:
    blueprint = Blueprint(
        name="country_information", relations=["country_capital", "country_neighbour"], selector="kind"
    )
    rows = {"Norway": {"capital": "Oslo"}}
    for kind in ("neighbour", "Oslo"):
        found = _call(construction_sandbox, blueprint, rows, {"country": "Norway", "kind": kind})
        assert found == {"error": "no such kind for this country"}
