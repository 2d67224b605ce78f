"""Filters: what the question states selects the entry, anything else is refused, and documents fit the code."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from env_construction.facts.fact_code import write_source
from env_construction.facts.fact_tools import Blueprint, describe
from env_construction.facts.fact_world import pool_view
from env_construction.facts.filters import STATED_KINDS, Filter, comparable, draw_filter
from env_construction.facts.relations import BY_NAME
from env_construction.rules.tool_rules import check_arguments, check_document, source_problem
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolSandbox

ROWS = {"Oslo": "Norway", "Lima": "Peru"}
ABOUT = {
    "oslo": {"population": 700_000, "timezone": "oslo time", "=timezone": "Oslo Time"},
    "lima": {"population": 9_000_000, "timezone": "lima time"},
}


def _result(sandbox: ToolSandbox, item: Filter, value: Any) -> str:
    blueprint = Blueprint(name="city_country", relations=["city_country"], filters=[item])
    document = describe(blueprint, True)
    check_document(document)
    source = write_source(blueprint, document, ROWS, True, ABOUT)
    assert source_problem(source, blueprint.name) is None
    call = ToolCall(blueprint.name, {"city": "Oslo", **({} if value is None else {item.name: value})})
    [[result]] = sandbox.run_batch([SandboxJob({blueprint.name: source}, [call])])
    return result.output


@pytest.mark.parametrize(
    ("style", "relation", "right", "wrong", "of_wrong_type"),
    [
        ("equal", "city_timezone", "oslo TIME ", "Lima Time", 7),
        ("any_of", "city_timezone", ["Lima Time", "Oslo Time"], ["Lima Time"], "Oslo Time"),
        ("at_least", "city_population", 700_000, 700_001, "many"),
        ("at_most", "city_population", 700_000, 699_999, True),
        ("range", "city_population", {"from": 1, "to": 700_000}, {"from": 700_001, "to": 800_000}, {"from": 1}),
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_a_filter_accepts_its_own_entry_only(
    construction_sandbox, style, relation, right, wrong, of_wrong_type, required: bool
) -> None:
    item = Filter(name="given", relation=relation, style=style, required=required)
    assert "Norway" in _result(construction_sandbox, item, right)
    for value in (wrong, of_wrong_type):
        output = _result(construction_sandbox, item, value)
        assert "error" in output and "Norway" not in output and "Oslo Time" not in output
    assert ("Norway" in _result(construction_sandbox, item, None)) is not required


def test_a_choice_accepts_its_options_only(construction_sandbox) -> None:
    item = Filter(name="given", relation="city_timezone", style="equal", options=["Lima Time", "Oslo Time"])
    assert "Norway" in _result(construction_sandbox, item, "Oslo Time")
    assert "error" in _result(construction_sandbox, item, "Lima Time")
    assert "must be one of" in _result(construction_sandbox, item, "Rome Time")


def test_a_detail_is_added_when_asked_for(construction_sandbox) -> None:
    item = Filter(name="with_timezone", relation="city_timezone", style="include", has_default=True)
    assert json.loads(_result(construction_sandbox, item, True)) == {"country": "Norway", "timezone": "Oslo Time"}
    assert json.loads(_result(construction_sandbox, item, None)) == {"country": "Norway"}


def test_what_is_stated_is_met_by_the_entry_it_is_stated_about() -> None:
    """Whatever is drawn: the argument fits the document, and the entry's own value meets it."""
    view = pool_view("train", "paper")
    drawn = 0
    for seed in range(300):
        rng = random.Random(seed)
        kind = rng.choice([*STATED_KINDS, "number"])
        item = draw_filter(view, rng.choice(["city", "country", "element"]), ["city_country"], kind, ["city"], rng)
        if item is None:
            continue
        values = [value for value in view.tables[item.relation].values() if value]
        value, other = rng.choice(values), rng.choice(values)
        if item.options:
            item.options = sorted({*item.options, value})
        known = comparable(item.sibling, value)
        if known is None or item.style == "include" or (item.style == "any_of" and value == other):
            continue
        argument, words = item.stated(value, other, rng)
        blueprint = Blueprint(name="t", relations=[_other_relation(item)], filters=[item.model_copy()])
        arguments = {item.sibling.subject: "X", item.name: argument}
        check_arguments(describe(blueprint, True), arguments)
        assert _met(item, known, value, argument) and words, (item, value, argument)
        drawn += 1
    assert drawn > 100


def _met(item: Filter, known: Any, value: str, argument: Any) -> bool:
    if item.style in ("equal", "any_of"):
        return value == argument if item.style == "equal" else value in argument
    if item.style == "range":
        return argument["from"] <= known <= argument["to"]
    return known >= argument if item.style == "at_least" else known <= argument


def _other_relation(item: Filter) -> str:
    return next(
        name
        for name, relation in BY_NAME.items()
        if relation.subject == item.sibling.subject and name != item.relation and not relation.pair
    )
