"""The fact author: environments from real facts, without a language model, deterministic and unlimited.

Questions are random graphs of lookups over the relations of `relations.py`; tools are lookups over this environment's world
(`fact_world.py`), real or counterfactual. Every choice comes from `random.Random(f"{seed}:{split}:{index}:{attempt}:{stage}")`.
Paper section 3.1; stands in for the paper's GPT-4o.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from typing import Any

from env_construction.author import Decomposition, Draft, Step, Toolset, WrittenDocument
from env_construction.fact_code import Blueprint, FactNotes, convert, describe, write_source
from env_construction.fact_questions import grow_graph, value_text, write_decomposition
from env_construction.fact_world import World, pool_view
from env_construction.levels import LEVELS, Level
from env_construction.matching import published_match
from env_construction.relations import BY_NAME, Relation
from env_construction.schema import GoldCall, ToolDocument

_PICKS = 60


def stage_rng(draft: Draft, stage: str) -> random.Random:
    """The one source of randomness of a stage."""
    return random.Random(f"{draft.seed}:{draft.split}:{draft.index}:{draft.attempt}:{stage}")


def draw_weighted(rng: random.Random, weights: dict[int, float]) -> int:
    return rng.choices(list(weights), weights=list(weights.values()))[0]


class FactAuthor:
    """Implements `Author`. It never needs a second try at a stage: what fails its checks is another draft's luck."""

    name = "facts"
    tries = 1

    def decompose(self, draft: Draft, problem: str | None) -> Decomposition:
        rng = stage_rng(draft, "decomposition")
        level = LEVELS[draft.level]
        world = World(pool_view(draft.split, draft.level), draft.counterfactual)
        graph = grow_graph(draft.scenario, draw_weighted(rng, level.hops[draft.scenario]), world, rng)
        known: dict[str, dict[str, str]] = {}
        for node in graph.nodes:
            known.setdefault(node.relation.name, {})["|".join(node.subjects)] = node.value
        self._keep(draft, FactNotes(known=known))
        return write_decomposition(graph, level, rng)

    def write_document(self, draft: Draft, step: Step, problem: str | None) -> WrittenDocument:
        blueprint = Blueprint(name=step.function, relations=[step.function])
        return WrittenDocument(
            document=describe(blueprint, LEVELS[draft.level].verbose),
            arguments=blueprint.arguments(step.function, step.inputs),
        )

    def integrate(self, draft: Draft, problem: str | None) -> Toolset:
        """One tool a relation; relations of one family share a tool with a selector."""
        groups: dict[str, list[str]] = defaultdict(list)
        for step in draft.plan.steps:
            group = groups[BY_NAME[step.function].family or step.function]
            if step.function not in group:
                group.append(step.function)
        blueprints = [
            _family_tool(BY_NAME[names[0]].family, names)
            if len(names) > 1
            else Blueprint(name=names[0], relations=names)
            for names in groups.values()
        ]
        return self._toolset(draft, blueprints)

    def scale(self, draft: Draft, strategy: str, problem: str | None) -> Toolset:
        rng = stage_rng(draft, strategy)
        level = LEVELS[draft.level]
        blueprints = list(self._notes(draft).blueprints.values())
        if strategy == "functional_generalization":
            blueprints = [self._generalize(draft, blueprint, level, rng) for blueprint in blueprints]
        elif strategy == "parameter_type_generalization":
            for blueprint in blueprints:
                relation = blueprint.first
                if relation.other_units and not blueprint.selector and rng.random() < level.unit_share:
                    blueprint.unit_choice = True
        elif strategy == "toolset_extension":
            blueprints += self._unneeded(draft, blueprints, level, rng)
        return self._toolset(draft, blueprints)

    def deploy(self, draft: Draft, tool: ToolDocument, problem: str | None) -> str:
        notes = self._notes(draft)
        blueprint = notes.blueprints[tool.name]
        rng = stage_rng(draft, f"deployment:{tool.name}")
        rows = self._rows(
            draft, blueprint, World(pool_view(draft.split, draft.level), draft.counterfactual, notes.known), rng
        )
        return write_source(blueprint, rows)

    def instruction(self, draft: Draft) -> str:
        return stage_rng(draft, "instruction").choice(LEVELS[draft.level].instruction)

    # what the stages share

    def _notes(self, draft: Draft) -> FactNotes:
        return FactNotes.model_validate(draft.notes)

    def _keep(self, draft: Draft, notes: FactNotes) -> None:
        draft.notes = notes.model_dump()

    def _toolset(self, draft: Draft, blueprints: list[Blueprint]) -> Toolset:
        notes = self._notes(draft)
        notes.blueprints = {blueprint.name: blueprint for blueprint in blueprints}
        self._keep(draft, notes)
        serving = {
            relation: blueprint for blueprint in blueprints if blueprint.needed for relation in blueprint.relations
        }
        calls = []
        for step in draft.plan.steps:
            blueprint = serving[step.function]
            arguments = blueprint.arguments(step.function, step.inputs)
            calls.append(GoldCall(sub_question=step.id, name=blueprint.name, arguments=arguments))
        return Toolset(
            tools=[describe(blueprint, LEVELS[draft.level].verbose) for blueprint in blueprints], calls=calls
        )

    def _generalize(self, draft: Draft, blueprint: Blueprint, level: Level, rng: random.Random) -> Blueprint:
        relation = blueprint.first
        if not relation.family or rng.random() >= level.generalize_share:
            return blueprint
        view = pool_view(draft.split, draft.level)
        family = [other.name for other in view.relations if other.family == relation.family]
        return _family_tool(relation.family, family) if set(blueprint.relations) < set(family) else blueprint

    def _unneeded(self, draft: Draft, blueprints: list[Blueprint], level: Level, rng: random.Random) -> list[Blueprint]:
        view = pool_view(draft.split, draft.level)
        count = draw_weighted(rng, level.tools[draft.scenario]) - len(blueprints)
        taken = {name for blueprint in blueprints for name in blueprint.relations}
        families = {BY_NAME[name].family for name in taken} - {""}
        close = [
            relation for relation in view.relations if _is_close(relation, [BY_NAME[name] for name in sorted(taken)])
        ]
        added: list[Blueprint] = []
        for _ in range(_PICKS):
            if len(added) >= count:
                break
            relation = rng.choice(close if close and rng.random() < level.closeness else view.relations)
            if relation.name in taken or (relation.family and relation.family in families) or relation.inverse in taken:
                continue
            taken.add(relation.name)
            families |= {relation.family} - {""}
            unit_choice = bool(relation.other_units) and rng.random() < level.unit_share
            added.append(
                Blueprint(name=relation.name, relations=[relation.name], unit_choice=unit_choice, needed=False)
            )
        return added

    def _rows(self, draft: Draft, blueprint: Blueprint, world: World, rng: random.Random) -> dict[str, Any]:
        """The tool's data: what the question needs, the question's other entities, and more that give other answers."""
        level = LEVELS[draft.level]
        steps = draft.plan.steps
        answers = [step.answer for step in steps]
        needed = {tuple(step.inputs.values()) for step in steps if step.function in blueprint.relations}
        subjects = world.view.subjects[blueprint.first.name]
        mentioned = [
            name for step in steps for name in step.inputs.values() if name in world.view.members[blueprint.first.name]
        ]
        keys: list[tuple[str, ...]] = sorted(needed)
        size = len(keys) + rng.randint(*level.rows)
        if not blueprint.first.pair:
            keys += [(name,) for name in dict.fromkeys(mentioned) if (name,) not in needed]
        rows: dict[str, Any] = {}
        wanted = {(step.function, tuple(step.inputs.values())) for step in steps}
        for position in range(len(keys) + 4 * size):
            if position < len(keys):
                key = keys[position]
            elif len(rows) >= size:
                break
            elif blueprint.first.pair:
                first = rng.choice(mentioned) if mentioned and rng.random() < 0.4 else rng.choice(subjects)
                key = (first, rng.choice(subjects))
            else:
                key = (rng.choice(subjects),)
            if len(set(key)) < len(key) or "|".join(key) in rows:
                continue
            row = {
                name: cells
                for name in blueprint.relations
                if (cells := self._cells(BY_NAME[name], key, world, rng, [] if (name, key) in wanted else answers))
            }
            if row:
                rows["|".join(key)] = _flatten(blueprint, row)
        items = list(rows.items())
        rng.shuffle(items)
        return dict(items)

    def _cells(
        self, relation: Relation, key: tuple[str, ...], world: World, rng: random.Random, avoid: list[str]
    ) -> dict[str, str]:
        """A value in all its units ({"": text} without units); empty where it is missing or would give away an answer."""
        if any(name not in world.view.members[relation.name] for name in key):
            return {}
        value = world.value(relation, key, rng)
        if value is None:
            return {}
        cells = convert(relation, value) if relation.other_units else {"": value_text(relation, value)}
        texts = [json.dumps({relation.key: text}, ensure_ascii=False) for text in cells.values()]
        return {} if any(published_match(answer, text) for answer in avoid for text in texts) else cells


def _flatten(blueprint: Blueprint, row: dict[str, dict[str, str]]) -> Any:
    if blueprint.selector:
        return {blueprint.option(name): next(iter(cells.values())) for name, cells in row.items()}
    cells = row[blueprint.relations[0]]
    return cells if blueprint.unit_choice else next(iter(cells.values()))


def _family_tool(family: str, relations: list[str]) -> Blueprint:
    return Blueprint(name=family, relations=sorted(relations), selector="kind")


def _is_close(relation: Relation, needed: list[Relation]) -> bool:
    """Easily mistaken: about the same type of entity, or the same key of another type."""
    return any(relation.subject == other.subject or relation.key == other.key for other in needed)
