"""The author of stateful environments: requests to desks (`desks.py`), whose tools change a database.

TASKS consecutive environments play in one world: they share tables and tools, and each has a request of its own, two of
every scenario. The world depends on the seed, the split and its number, the request also on the index and the attempt.
Enable it with `--author worlds --stateful`.

`--hold-out` takes domains: a desk's requests need all of its tools, so a relation or a function cannot be held out.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from env_construction.building.author import Decomposition, Draft, Rejected, Step, Toolset, WrittenDocument, stage_rng
from env_construction.building.hold_out import HoldOut, Label, difficulty
from env_construction.environment.schema import GoldCall, Scenario, ToolDocument
from env_construction.environment.state import EnvironmentState, StateGoal
from env_construction.facts.levels import LEVELS, draw_weighted
from env_construction.worlds.desk_tools import DeskTool, document, source
from env_construction.worlds.desk_world import DeskWorld, make_world
from env_construction.worlds.desks import desks
from env_construction.worlds.requests import PlannedCall, Request, plan_request

TASKS = 8
ATTEMPTS_PER_WORLD = 20
"""After this many attempts at a request, the environment gets another world."""
_WORLDS = 20


class StatefulAuthor:
    """Implements `Author`. A draft that fails a check is rebuilt with the random choices of the next attempt."""

    name = "worlds-stateful"
    tries = 1

    def labels(self) -> dict[str, set[str]]:
        """The names that `--hold-out` accepts, by kind: domains alone."""
        return {"domain": set(desks())}

    def decompose(self, draft: Draft, problem: str | None) -> Decomposition:
        world, request = _imagine(draft)
        goals = [
            StateGoal(sub_question=_id(place), tool=call.tool.name, answer=call.answer, changes=call.changes)
            for place, call in enumerate(request.calls)
            if call.changes
        ]
        draft.state = EnvironmentState(tables=world.tables, goals=goals, rules=list(world.rules))
        steps = [
            Step(
                id=_id(place),
                question=call.text,
                answer=call.answer,
                depends_on=[_id(need) for need in call.needs],
                function=f"{world.desk.domain}.{call.tool.kind}.{call.tool.subject}",
                inputs=call.arguments,
            )
            for place, call in enumerate(request.calls)
        ]
        return Decomposition(question=request.question, steps=steps, answer=request.answer, answer_rule="list")

    def write_document(self, draft: Draft, step: Step, problem: str | None) -> WrittenDocument:
        call = _imagine(draft)[1].calls[int(step.id[1:]) - 1]
        return WrittenDocument(document=document(call.tool), arguments=call.arguments)

    def integrate(self, draft: Draft, problem: str | None) -> Toolset:
        """The tools of the request, each once."""
        calls = _imagine(draft)[1].calls
        tools = {call.tool.name: call.tool for call in calls}
        return _toolset(draft, [document(tool) for tool in tools.values()], calls)

    def scale(self, draft: Draft, strategy: str, problem: str | None) -> Toolset:
        """All tools of the world. The other strategies would contradict the rules that the documents state."""
        world, request = _imagine(draft)
        if strategy == "toolset_extension":
            return _toolset(draft, [document(tool) for tool in world.tools], request.calls)
        return Toolset(tools=draft.tools, calls=draft.calls)

    def deploy(self, draft: Draft, tool: ToolDocument, problem: str | None) -> str:
        return source(next(mine for mine in _imagine(draft)[0].tools if mine.name == tool.name))

    def instruction(self, draft: Draft) -> str:
        return stage_rng(draft, "instruction").choice(LEVELS[draft.level].instruction)


def _id(place: int) -> str:
    return f"s{place + 1}"


def _toolset(draft: Draft, tools: list[ToolDocument], calls: list[PlannedCall]) -> Toolset:
    offered = {tool.name for tool in tools}
    of_world = [tool for tool in _imagine(draft)[0].tools if tool.name in offered]
    needed = {call.tool.name for call in calls}
    draft.provenance["labels"] = _labels(draft, calls, of_world)
    draft.provenance["tools"] = {
        tool.name: {
            "function_class": tool.kind,
            "domain": tool.domain,
            "relations": [_relation(tool)],
            "needed": tool.name in needed,
        }
        for tool in of_world
    }
    gold = [
        GoldCall(sub_question=_id(place), name=call.tool.name, arguments=call.arguments)
        for place, call in enumerate(calls)
    ]
    return Toolset(tools=tools, calls=gold)


def _relation(tool: DeskTool) -> str:
    """What a tool reads or changes: "clubs.member" for a table, "clubs.buy_ticket" for an action."""
    return f"{tool.domain}.{tool.subject}"


def _labels(draft: Draft, calls: list[PlannedCall], tools: list[DeskTool]) -> dict[str, Any]:
    """Domain, relations, functions, difficulty and world of the request. A tool is close if a call shares its table."""
    needed = {call.tool.name for call in calls}
    tables = {table for call in calls for table in _tables(call.tool)}
    return {
        "domains": sorted({call.tool.domain for call in calls}),
        "relations": [_relation(call.tool) for call in calls],
        "function_classes": [call.tool.kind for call in calls],
        "world": f"{draft.split}-{draft.index // TASKS}",
    } | difficulty(
        [call.needs for call in calls],
        tools=len(tools),
        needed=len(needed),
        close=sum(tool.name not in needed and bool(_tables(tool) & tables) for tool in tools),
        described=max(len(call.tool.table.by) if call.tool.kind == "find" else 0 for call in calls),
    )


def _tables(tool: DeskTool) -> set[str]:
    """The tables whose rows a tool finds, tells or changes."""
    named = {item.table for item in tool.parameters if item.table}
    return named if tool.kind == "act" else named | {tool.subject}


def _imagine(draft: Draft) -> tuple[DeskWorld, Request]:
    """The world and the request of a draft."""
    world = (draft.seed, draft.split, draft.index, draft.attempt, draft.level, draft.hold_out)
    return _request(*world, draft.scenario)


@lru_cache(maxsize=4)
def _request(
    seed: int, split: str, index: int, attempt: int, level: str, hold_out: HoldOut, scenario: Scenario
) -> tuple[DeskWorld, Request]:
    world = _world(seed, split, index // TASKS, attempt // ATTEMPTS_PER_WORLD, level, hold_out)
    rng = random.Random(f"{seed}:{split}:{index}:{attempt}:request")
    return world, plan_request(world, scenario, draw_weighted(rng, LEVELS[level].hops[scenario]), rng)


@lru_cache(maxsize=4)
def _world(seed: int, split: str, number: int, again: int, level: str, hold_out: HoldOut) -> DeskWorld:
    """World `number` of a split. Some tables have no case of a rule; then the next ones are drawn."""
    rng = random.Random(f"{seed}:{split}:{number}:{again}:world")
    domains = [name for name in desks() if hold_out.allows(split, Label(name, "", ""))]
    if not domains:
        raise Rejected("no_domain", f"no domain is left for {split}")
    desk = desks()[rng.choice(domains)]
    for _ in range(_WORLDS):
        try:
            return make_world(desk, split, LEVELS[level].rows, rng)
        except Rejected as rejected:
            last = rejected
    raise last
