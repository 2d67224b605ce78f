"""Requests to desks say what people want in words of their own: no common word or length tells the needed tool."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from env_construction.building.author import Rejected
from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import SCENARIOS, Environment
from env_construction.facts.levels import LEVELS, draw_weighted
from env_construction.measures.shortcuts import chooser_rows, needed_tools, words_of
from env_construction.rules.language_rules import language_findings
from env_construction.worlds.desk_tools import WORDINGS, DeskTool, document, plain_tools, source
from env_construction.worlds.desk_world import DeskWorld, make_world
from env_construction.worlds.desks import Desk, desks, read_desk
from env_construction.worlds.requests import Request, plan_request

WORLDS = 6
PER_SCENARIO = 2
LEVEL = LEVELS["medium"]
Planned = list[tuple[str, DeskWorld, Request]]


def _planned() -> Iterator[tuple[str, DeskWorld, Request]]:
    """(scenario, world, request) for every desk."""
    for domain, desk in desks().items():
        for number in range(WORLDS):
            rng = random.Random(f"{domain}:{number}")
            try:
                world = make_world(desk, "train", LEVEL.rows, rng)
            except Rejected:  # a world without a case of some rule: the author draws another one, too
                continue
            for scenario in SCENARIOS * PER_SCENARIO:
                try:
                    yield scenario, world, plan_request(world, scenario, draw_weighted(rng, LEVEL.hops[scenario]), rng)
                except Rejected:
                    continue


def _environment(number: int, scenario: str, world: DeskWorld, request: Request) -> Environment:
    needed: dict[str, list[str]] = {tool.name: [] for tool in world.tools}
    for call in request.calls:
        needed[call.tool.name].append(call.answer)
    tools = random.Random(number).sample(world.tools, len(world.tools))  # a build shuffles them, too
    return Environment.model_validate(
        {
            "messages": [{"role": "user", "content": f"Question: {request.question}"}],
            "tools": [document(tool).model_dump() for tool in tools],
            "codes": {tool.name: source(tool) for tool in world.tools},
            "unsolved_set": needed,
            "answer": request.answer,
            "id": f"e{number}",
            "scenario": scenario,
        }
    )


@pytest.fixture(scope="module")
def planned() -> Planned:
    return list(_planned())


@pytest.fixture(scope="module")
def environments(planned: Planned) -> list[Environment]:
    return [_environment(number, *item) for number, item in enumerate(planned)]


def test_no_chooser_of_the_audit_finds_the_needed_tool(environments: list[Environment]) -> None:
    rows = list(chooser_rows(environments))
    assert len(environments) >= 200 and all(row.n for row in rows)
    assert not [row for row in rows if row.leaks]
    # the wordings leave room: here even the estimates, not only their intervals, are below what is allowed
    assert not [row.policy for row in rows if "overlap" in row.policy and row.score > row.allowed]


def test_requests_in_the_words_of_the_documents_would_leak(environments: list[Environment]) -> None:
    copied = []
    for item in environments:
        words = " ".join(tool.description for tool in item.tools if tool.name in needed_tools(item))
        copied.append(item.model_copy(update={"messages": [{"role": "user", "content": f"Question: {words}"}]}))
    leaks = {row.policy for row in chooser_rows(copied) if row.leaks}
    assert {"document overlap", "document overlap, single-hop"} <= leaks


def _nouns(desk: Desk, tool: DeskTool) -> set[str]:
    """What a request has to name: the rows and values that the tool takes."""
    tables = {desk.tables[item.table].noun for item in tool.parameters if item.table}
    return words_of(" ".join([*tables, *(item.name for item in tool.parameters)]))


def test_no_request_uses_the_verb_of_its_tool() -> None:
    for desk in desks().values():
        for tool in plain_tools(desk):
            if tool.kind == "act":
                names = words_of(" ".join(tool.action.names)) - _nouns(desk, tool)
                for ask in tool.action.asks:
                    assert not words_of(ask) & names, f"{desk.domain}.{tool.name}: {ask}"


def test_wordings_have_hardly_a_language_finding(planned: Planned) -> None:
    """Codes such as AN-217 look like articles, so some findings are no errors. Documents have no codes."""
    texts = [text for _, _, request in planned for text in (request.question, *(call.text for call in request.calls))]
    assert sum(bool(language_findings(text, True)) for text in texts) <= 0.01 * len(texts)
    for desk in desks().values():
        for tool in plain_tools(desk):
            for wording in range(len(WORDINGS[tool.kind])):
                text = document(replace(tool, wording=wording)).description
                assert not language_findings(text, False), text


def test_a_request_asks_for_a_result_right_after_the_change(planned: Planned) -> None:
    asked = 0
    for _, _, request in planned:
        for call in request.calls:
            if call.changes:
                sentence, _, phrase = call.text.rpartition(" Tell me ")
                assert sentence in request.question and phrase.rstrip(".") in request.question.split(sentence, 1)[1]
                asked += 1
    assert asked >= 200


def test_counted_things_are_written_out(planned: Planned) -> None:
    texts = [call.text for _, _, request in planned for call in request.calls]
    assert any(" one more suitcase " in text for text in texts)
    assert any(" two more suitcases " in text for text in texts)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ("fine {reader} {amount}", "expected a list of 2 sentences"),
        ('["{reader} owes {amount}."]', "expected a list of 2 sentences"),
        ('["{reader} owes {amount}.", "{reader} was late."]', "each of ['reader', 'amount']"),
        ('["{reader} owes {amount}.", "{reader} owes {amount:dollar}"]', "a sentence with a period"),
    ],
)
def test_an_action_without_sentences_is_refused(ask: str, message: str, write_desk: Callable[..., Path]) -> None:
    path = write_desk(ask=ask)
    with pytest.raises(BadInput) as error:
        read_desk(path)
    assert message in str(error.value) and str(path) in str(error.value)
