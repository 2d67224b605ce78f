"""The world author: any number of environments from fictional worlds, deterministic and without a language model.

Domains are data (`domains/*.yaml`, see `domains.py`). Each environment has a separate world (`world.py`), a question
about it (`graphs.py`, `wording.py`), and tools that search its records (`tools.py`, `toolsmith.py`, `tool_code.py`).
All random choices come from `random.Random(f"{seed}:{split}:{index}:{attempt}:{stage}")`. Enable it with `--author
worlds`. Source: paper section 3.1.
"""

from __future__ import annotations

import random
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr

from env_construction.building.author import Decomposition, Draft, Step, Toolset, WrittenDocument, stage_rng
from env_construction.building.hold_out import difficulty
from env_construction.environment.schema import GoldCall, ToolDocument
from env_construction.facts.levels import LEVELS, draw_weighted
from env_construction.worlds.domains import catalog
from env_construction.worlds.graphs import Allowed, Graph, Node, grow_graph
from env_construction.worlds.population import Population
from env_construction.worlds.tool_code import write_source
from env_construction.worlds.tools import FUNCTIONS, Tool, describe
from env_construction.worlds.toolsmith import (
    ARITHMETIC,
    Unneeded,
    arguments_of,
    change_types,
    expand_tool,
    generalize,
    serves,
    tool_for,
)
from env_construction.worlds.wording import write_decomposition
from env_construction.worlds.world import World

_PICKS = 80


class WorldNotes(BaseModel):
    """The author's state between stages: its tools. A stage that reads a file rebuilds the world from the seed."""

    tools: dict[str, Tool] = Field(default_factory=dict)
    _graph: Graph | None = PrivateAttr(None)
    _population: Population | None = PrivateAttr(None)


class WorldAuthor:
    """Implements `Author`. A draft that fails a check is rebuilt with the random choices of the next attempt."""

    name = "worlds"
    tries = 1

    def labels(self) -> dict[str, set[str]]:
        """The names that `--hold-out` accepts, by kind."""
        types = catalog().types.values()
        relations = {attribute.id for kind in types for attribute in kind.attributes.values()}
        return {
            "domain": {*catalog().domains, "arithmetic"},
            "relation": relations | {f"calculate.{operation}" for operation in (*ARITHMETIC, "days_between")},
            "function": set(FUNCTIONS),
        }

    def decompose(self, draft: Draft, problem: str | None) -> Decomposition:
        notes = WorldNotes()
        notes._graph, plan = _imagine(draft)
        draft.notes = notes
        return plan

    def write_document(self, draft: Draft, step: Step, problem: str | None) -> WrittenDocument:
        notes = _notes(draft)
        node = _node(draft, notes, step.id)
        rng = stage_rng(draft, f"document:{step.id}")
        tool = tool_for(node, LEVELS[draft.level], rng, set(notes.tools))
        notes.tools[tool.name] = tool
        draft.notes = notes
        return WrittenDocument(document=describe(tool, LEVELS[draft.level].verbose), arguments=arguments_of(tool, node))

    def integrate(self, draft: Draft, problem: str | None) -> Toolset:
        """One tool per relation. Lookups for one type with the same keys may share a tool with a selector."""
        notes = _notes(draft)
        rng = stage_rng(draft, "integration")
        kept: list[Tool] = []
        for node, tool in zip(_graph(draft, notes).nodes, notes.tools.values(), strict=True):
            if any(serves(other, node) for other in kept):
                continue
            partner = next((other for other in kept if _mergeable(other, tool)), None)
            if partner is not None and rng.random() < 0.5:
                _merge(partner, tool, rng)
            else:
                kept.append(tool)
        return self._toolset(draft, kept)

    def scale(self, draft: Draft, strategy: str, problem: str | None) -> Toolset:
        rng = stage_rng(draft, strategy)
        level = LEVELS[draft.level]
        notes = _notes(draft)
        tools = list(notes.tools.values())
        if strategy == "functional_generalization":
            needed = {f"{tool.kind}.{output}" for tool in tools for output in tool.outputs}
            for tool in tools:
                if rng.random() < level.generalize_share:
                    generalize(tool, needed, rng, {other.name for other in tools}, _allowed(draft))
        elif strategy == "parameter_expansion":
            for tool in tools:
                expand_tool(tool, draw_weighted(rng, level.parameters), level, rng)
        elif strategy == "parameter_type_generalization":
            for tool in tools:
                change_types(tool, level, rng)
        elif strategy == "toolset_extension":
            tools += self._unneeded(draft, notes, tools, rng)
        return self._toolset(draft, tools)

    def deploy(self, draft: Draft, tool: ToolDocument, problem: str | None) -> str:
        notes = _notes(draft)
        level = LEVELS[draft.level]
        mine = notes.tools[tool.name]
        if mine.function == "calculate":
            return write_source(mine, tool, [], level.verbose)
        if notes._population is None:
            graph = _graph(draft, notes)
            graph.world.rng = stage_rng(draft, "population")
            notes._population = Population(graph, level.rows)
            draft.notes = notes
        return write_source(mine, tool, notes._population.rows(mine), level.verbose)

    def instruction(self, draft: Draft) -> str:
        return stage_rng(draft, "instruction").choice(LEVELS[draft.level].instruction)

    # helpers shared by the stages

    def _toolset(self, draft: Draft, tools: list[Tool]) -> Toolset:
        notes = _notes(draft)
        notes.tools = {tool.name: tool for tool in tools}
        draft.notes = notes
        verbose = LEVELS[draft.level].verbose
        calls = []
        for step, node in zip(draft.plan.steps, _graph(draft, notes).nodes, strict=True):
            tool = next(tool for tool in tools if tool.needed and serves(tool, node))
            calls.append(GoldCall(sub_question=step.id, name=tool.name, arguments=arguments_of(tool, node)))
        draft.provenance["labels"] = _labels(_graph(draft, notes), tools)
        draft.provenance["tools"] = {tool.name: _tool_labels(tool) for tool in tools}
        return Toolset(tools=[describe(tool, verbose) for tool in tools], calls=calls)

    def _unneeded(self, draft: Draft, notes: WorldNotes, tools: list[Tool], rng: random.Random) -> list[Tool]:
        """Plausible tools that the question does not need. The other strategies also apply to them."""
        level = LEVELS[draft.level]
        count = draw_weighted(rng, level.tools[draft.scenario]) - len(tools)
        draws = Unneeded(_graph(draft, notes).nodes, tools, level, _allowed(draft), rng)
        needed = {f"{kind}.{output}" for kind, output in draws.served}
        added: list[Tool] = []
        for _ in range(_PICKS):
            if len(added) >= count:
                break
            tool = draws.draw()
            if tool is None:
                continue
            if "functional_generalization" in draft.strategies and rng.random() < level.generalize_share:
                generalize(tool, needed, rng, draws.taken, _allowed(draft))
                draws.taken.add(tool.name)
            if "parameter_type_generalization" in draft.strategies:
                change_types(tool, level, rng)
            if "parameter_expansion" in draft.strategies:
                draws.expand(tool, draw_weighted(rng, level.parameters))
            added.append(tool)
        return added


def _imagine(draft: Draft) -> tuple[Graph, Decomposition]:
    """The question graph (with its world) and its wording, from the draft's seed, split, index and attempt."""
    rng = stage_rng(draft, "decomposition")
    level = LEVELS[draft.level]
    world = World(catalog(), draft.split, rng)
    graph = grow_graph(
        draft.scenario, draw_weighted(rng, level.hops[draft.scenario]), world, level, rng, _allowed(draft)
    )
    return graph, write_decomposition(graph, level, rng)


def _allowed(draft: Draft) -> Allowed:
    return Allowed(catalog(), draft.split, draft.hold_out)


def _notes(draft: Draft) -> WorldNotes:
    return draft.notes if isinstance(draft.notes, WorldNotes) else WorldNotes.model_validate(draft.notes)


def _graph(draft: Draft, notes: WorldNotes) -> Graph:
    if notes._graph is None:
        notes._graph, _ = _imagine(draft)
        draft.notes = notes
    return notes._graph


def _node(draft: Draft, notes: WorldNotes, step_id: str) -> Node:
    return _graph(draft, notes).nodes[int(step_id[1:]) - 1]


def _mergeable(first: Tool, second: Tool) -> bool:
    keys = [{(param.attribute, param.style) for param in tool.params} for tool in (first, second)]
    return (
        first.function == second.function == "lookup"
        and first.kind == second.kind
        and keys[0] == keys[1]
        and not (first.unit_choice or second.unit_choice)
        and not {param.attribute for param in first.params} & set(second.outputs)
    )


def _merge(into: Tool, tool: Tool, rng: random.Random) -> None:
    into.outputs = sorted({*into.outputs, *tool.outputs})
    into.selector = into.selector or rng.choice(("detail", "field", "information_type"))


def _labels(graph: Graph, tools: list[Tool]) -> dict[str, Any]:
    """Domains, relations, functions and difficulty of the question, for splits and analyses."""
    kinds = [node.kind for node in graph.nodes if node.kind]
    names = {kind.name for kind in kinds}
    arithmetic = {"arithmetic"} if len(kinds) < len(graph.nodes) else set()
    unneeded = [tool for tool in tools if not tool.needed]
    return {
        "domains": sorted({kind.domain for kind in kinds} | arithmetic),
        "relations": [node.relation for node in graph.nodes],
        "function_classes": [node.function for node in graph.nodes],
    } | difficulty(
        [node.sources for node in graph.nodes],
        tools=len(tools),
        needed=len(tools) - len(unneeded),
        close=sum(tool.kind in names for tool in unneeded),
        described=max((len(node.conditions) for node in graph.nodes), default=0),
    )


def _tool_labels(tool: Tool) -> dict[str, Any]:
    domain = tool.type.domain if tool.kind else "arithmetic"
    return {"function_class": tool.function, "domain": domain, "relations": tool.relations, "needed": tool.needed}
