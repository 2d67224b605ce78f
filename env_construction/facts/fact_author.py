"""The fact author: environments from real facts, without a language model, deterministic and unlimited.

Questions are random graphs of lookups over the relations of `relations.csv`. Tools are lookups over this environment's
world (`fact_world.py`), real or counterfactual. Every choice comes from
`random.Random(f"{seed}:{split}:{index}:{attempt}:{stage}")`.
Paper section 3.1; this author replaces the paper's GPT-4o.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, Field

from env_construction.building.author import Decomposition, Draft, Rejected, Step, Toolset, WrittenDocument, stage_rng
from env_construction.building.hold_out import difficulty
from env_construction.environment.matching import published_match
from env_construction.environment.schema import GoldCall, ToolDocument
from env_construction.facts.fact_code import write_source
from env_construction.facts.fact_questions import convert, grow_graph, value_text
from env_construction.facts.fact_tools import (
    SUFFIXES,
    Blueprint,
    add_filter,
    describe,
    expand_parameters,
)
from env_construction.facts.fact_wording import write_decomposition
from env_construction.facts.fact_world import PoolView, World, pool_view, world_key
from env_construction.facts.filters import STATED_KINDS, Filter, comparable
from env_construction.facts.levels import LEVELS, Level, draw_weighted
from env_construction.facts.relations import BY_NAME, DOMAINS, FUNCTIONS, Relation, domain_of, label_of

_PICKS = 80
_FEWEST_ROWS = 3


_TWINS = 2
"""Other entities of a tool that meet what the question states about one."""
_NEAR_SHARE = 0.9
_SAME_SUBJECT = 0.9
"""How often a close unneeded tool is about an entity type of the question, not about the same key of another type."""
_NAMES = ("{r}", "{r}", "{s}", "{s}_data", "{s}_record", "{s}_details", "{d}_entry", "{d}_{s}", "{s}_fact", "{d}_data")
"""Base names of tools: {r} relation, {s} entity type, {d} domain."""


class Asked(BaseModel):
    """What the question states besides a sub-question's entities: filters, their arguments by name, and the unit."""

    filters: list[Filter] = Field(default_factory=list)
    arguments: dict[str, Any] = Field(default_factory=dict)
    unit: str = ""


class FactNotes(BaseModel):
    """The fact author's memory between stages: its tools, what is asked by step, and the values of this world."""

    asked: dict[str, Asked] = Field(default_factory=dict)
    blueprints: dict[str, Blueprint] = Field(default_factory=dict)
    known: dict[str, dict[str, str]] = Field(default_factory=dict)


class FactAuthor:
    """Implements `Author`. It never retries a stage: if its checks fail, another draft is tried."""

    name = "facts"
    tries = 1

    def labels(self) -> dict[str, set[str]]:
        """The names that `--hold-out` accepts, by kind."""
        return {"domain": set(DOMAINS), "relation": set(BY_NAME), "function": set(FUNCTIONS)}

    def decompose(self, draft: Draft, problem: str | None) -> Decomposition:
        rng = stage_rng(draft, "decomposition")
        level = LEVELS[draft.level]
        world = World(_view(draft), draft.counterfactual)
        graph = grow_graph(draft.scenario, draw_weighted(rng, level.hops[draft.scenario]), world, rng)
        notes = FactNotes()
        for index, node in enumerate(graph.nodes):
            if not node.relation.compute:
                key = world_key(node.relation, node.subjects)
                notes.known.setdefault(node.relation.name, {})[key] = node.value
            for item in node.stated:
                notes.known.setdefault(item.filter.relation, {})[node.subjects[0]] = item.value
            notes.asked[f"q{index + 1}"] = Asked(
                filters=[item.filter for item in node.stated],
                arguments={item.filter.name: item.argument for item in node.stated},
                unit=node.unit,
            )
        draft.notes = notes
        return write_decomposition(graph, level, rng)

    def write_document(self, draft: Draft, step: Step, problem: str | None) -> WrittenDocument:
        asked = _notes(draft).asked[step.id]
        blueprint = _asked_for(_blueprint(draft, step.function, [step.function]), asked)
        document = describe(blueprint, LEVELS[draft.level].verbose)
        arguments = blueprint.arguments(step.function, step.inputs, asked.arguments, asked.unit)
        return WrittenDocument(document=document, arguments=arguments)

    def integrate(self, draft: Draft, problem: str | None) -> Toolset:
        """One tool per relation; relations of one family share a tool with a selector."""
        groups: dict[str, list[str]] = defaultdict(list)
        for step in draft.plan.steps:
            group = groups[BY_NAME[step.function].family or step.function]
            if step.function not in group:
                group.append(step.function)
        notes = _notes(draft)
        blueprints: list[Blueprint] = []
        for family, names in groups.items():
            taken = {other.name for other in blueprints}
            blueprint = _blueprint(draft, family if len(names) > 1 else names[0], names, "kind", taken)
            first = next(step.id for step in draft.plan.steps if step.function in names)
            blueprints.append(_asked_for(blueprint, notes.asked[first]))
        return self._toolset(draft, blueprints)

    def scale(self, draft: Draft, strategy: str, problem: str | None) -> Toolset:
        rng = stage_rng(draft, strategy)
        level = LEVELS[draft.level]
        blueprints = list(_notes(draft).blueprints.values())
        if strategy == "functional_generalization":
            taken = {name for blueprint in blueprints for name in blueprint.relations}
            for position, blueprint in enumerate(blueprints):
                others = {other.name for other in blueprints if other is not blueprint}
                wider = _generalized(draft, blueprint, taken, rng, others)
                if wider.name not in others:
                    blueprints[position] = wider
                    taken.update(wider.relations)
        elif strategy == "parameter_expansion":
            for blueprint in blueprints:
                if level.kinds:
                    expand_parameters(blueprint, level, rng, _view(draft), _functions(draft))
        elif strategy == "parameter_type_generalization":
            for blueprint in blueprints:
                _generalize_types(blueprint, level, rng)
        elif strategy == "toolset_extension":
            blueprints += self._unneeded(draft, blueprints, level, rng)
        return self._toolset(draft, blueprints)

    def deploy(self, draft: Draft, tool: ToolDocument, problem: str | None) -> str:
        notes = _notes(draft)
        blueprint = notes.blueprints[tool.name]
        rows: dict[str, Any] = {}
        about: dict[str, dict[str, Any]] = {}
        if not blueprint.first.compute:
            world = World(_view(draft), draft.counterfactual, notes.known)
            rng = stage_rng(draft, f"deployment:{tool.name}")
            rows = self._rows(draft, blueprint, world, rng)
            about = self._about(draft, blueprint, list(rows), world, rng) if blueprint.filters else {}
        return write_source(blueprint, tool, rows, LEVELS[draft.level].verbose, about)

    def instruction(self, draft: Draft) -> str:
        return stage_rng(draft, "instruction").choice(LEVELS[draft.level].instruction)

    # what the stages share

    def _toolset(self, draft: Draft, blueprints: list[Blueprint]) -> Toolset:
        verbose = LEVELS[draft.level].verbose
        notes = _notes(draft)
        notes.blueprints = {blueprint.name: blueprint for blueprint in blueprints}
        draft.notes = notes
        serving = {
            relation: blueprint for blueprint in blueprints if blueprint.needed for relation in blueprint.relations
        }
        calls = []
        for step in draft.plan.steps:
            blueprint = serving[step.function]
            asked = notes.asked[step.id]
            arguments = blueprint.arguments(step.function, step.inputs, asked.arguments, asked.unit)
            calls.append(GoldCall(sub_question=step.id, name=blueprint.name, arguments=arguments))
        draft.provenance["labels"] = self._labels(draft, blueprints)
        draft.provenance["tools"] = {blueprint.name: _tool_label(blueprint) for blueprint in blueprints}
        return Toolset(tools=[describe(blueprint, verbose) for blueprint in blueprints], calls=calls)

    def _labels(self, draft: Draft, blueprints: list[Blueprint]) -> dict[str, Any]:
        """Domains, relations, functions and difficulty of the question."""
        steps, asked = draft.plan.steps, _notes(draft).asked
        places = {step.id: place for place, step in enumerate(steps)}
        labels = [label_of(BY_NAME[step.function]) for step in steps]
        kinds = {BY_NAME[step.function].subject for step in steps}
        unneeded = [blueprint for blueprint in blueprints if not blueprint.needed]
        return {
            "domains": sorted({label.domain for label in labels}),
            "relations": [label.relation for label in labels],
            "function_classes": [label.function for label in labels],
        } | difficulty(
            [[places[name] for name in step.depends_on] for step in steps],
            tools=len(blueprints),
            needed=len(blueprints) - len(unneeded),
            close=sum(blueprint.first.subject in kinds for blueprint in unneeded),
            described=max(len(asked[step.id].filters) for step in steps),
        )

    def _unneeded(self, draft: Draft, blueprints: list[Blueprint], level: Level, rng: random.Random) -> list[Blueprint]:
        """Plausible tools that the question does not need. The other strategies treat them like the needed ones."""
        view = _view(draft)
        count = draw_weighted(rng, level.tools[draft.scenario]) - len(blueprints)
        taken = {name for blueprint in blueprints for name in blueprint.relations}
        families = {BY_NAME[name].family for name in taken} - {""}
        close = [
            relation for relation in view.relations if _is_close(relation, [BY_NAME[name] for name in sorted(taken)])
        ]
        stated: dict[str, list[str]] = defaultdict(list)
        for asked in _notes(draft).asked.values():
            for item in asked.filters:
                if isinstance(value := asked.arguments[item.name], str):
                    stated[item.relation].append(value)
        mentioned = _functions(draft) | {item.relation for other in blueprints for item in other.filters if item.asked}
        subjects = {BY_NAME[name].subject for name in taken}
        alike = [relation for relation in close if relation.subject in subjects]
        anything = [*view.relations, *(view.operations if level.calculator_share else ())]
        added: list[Blueprint] = []
        for _ in range(_PICKS):
            if len(added) >= count:
                break
            close_one = alike if level.verbose and alike and rng.random() < _SAME_SUBJECT else close
            relation = rng.choice(close_one if close_one and rng.random() < level.closeness else anything)
            if relation.name in taken or (relation.family and relation.family in families) or relation.inverse in taken:
                continue
            names = {other.name for other in (*blueprints, *added)}
            blueprint = _blueprint(draft, relation.name, [relation.name], taken=names)
            blueprint.needed = False
            if "functional_generalization" in draft.strategies:
                blueprint = _generalized(draft, blueprint, taken, rng, names)
            if level.verbose:
                _choose_unit(blueprint, level, rng)
                model = rng.choice([other for other in blueprints if other.needed])
                _filters_like(blueprint, model, view, rng, mentioned, stated)
            if "parameter_type_generalization" in draft.strategies:
                _generalize_types(blueprint, level, rng)
            if "parameter_expansion" in draft.strategies and level.kinds:
                expand_parameters(blueprint, level, rng, view, _functions(draft), mentioned)
            if any(blueprint.name == other.name for other in (*blueprints, *added)):
                continue
            taken.update(blueprint.relations)
            families |= {BY_NAME[name].family for name in blueprint.relations} - {""}
            added.append(blueprint)
        return added

    def _rows(self, draft: Draft, blueprint: Blueprint, world: World, rng: random.Random) -> dict[str, Any]:
        """The tool's data: what the question needs, the question's other entities, and more with other answers."""
        level = LEVELS[draft.level]
        steps = draft.plan.steps
        answers = [step.answer for step in steps]
        wanted = {(step.function, tuple(step.inputs.values())) for step in steps}
        members = world.view.members[blueprint.first.name]
        subjects = world.view.subjects[blueprint.first.name]
        mentioned = list(dict.fromkeys(name for step in steps for name in step.inputs.values() if name in members))
        keys = sorted({key for name, key in wanted if name in blueprint.relations})
        size = len(keys) + rng.randint(*level.rows)
        if not blueprint.first.pair:
            keys += [(name,) for name in mentioned if (name,) not in keys]
        rows: dict[str, Any] = {}
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
            if len(set(key)) < len(key) or "|".join(key) in rows or "|".join(key[::-1]) in rows:
                continue
            row = {
                name: cells
                for name in blueprint.relations
                if (cells := self._cells(BY_NAME[name], key, world, rng, [] if (name, key) in wanted else answers))
            }
            if row and (blueprint.selector or blueprint.relations[0] in row):
                rows["|".join(key)] = _flatten(blueprint, row)
        if len(rows) < len(wanted) * blueprint.needed + _FEWEST_ROWS - len(steps):
            raise Rejected("too_few_rows", f"{blueprint.name}: the values match the question's answers")
        items = list(rows.items())
        rng.shuffle(items)
        return dict(items)

    def _about(
        self, draft: Draft, blueprint: Blueprint, keys: list[str], world: World, rng: random.Random
    ) -> dict[str, dict[str, Any]]:
        """What the filters compare and add, for each entity. Nothing that a filter adds reveals an answer.

        For each entity of the question, two others meet what is stated about it: a tool must not know only one.
        """
        answers = [step.answer for step in draft.plan.steps]
        wanted = [next(iter(step.inputs.values())) for step in draft.plan.steps if step.function in blueprint.relations]
        others = [key for key in keys if key not in wanted]
        twins = {
            key: subject
            for place, subject in enumerate(dict.fromkeys(wanted))
            for key in others[place * _TWINS : (place + 1) * _TWINS]
        }
        about: dict[str, dict[str, Any]] = {}
        for key in keys:
            facts = about.setdefault(key.casefold(), {})
            for item in blueprint.filters:
                source = twins.get(key, key) if item.asked else key
                value = None
                if source in world.view.members[item.relation]:
                    value = world.value(item.sibling, (source,), rng)
                if value is None:
                    continue
                if item.style != "include":
                    facts[item.key] = comparable(item.sibling, value)
                elif not any(published_match(answer, value_text(item.sibling, value)) for answer in answers):
                    facts[f"={item.key}"] = value_text(item.sibling, value)
        return about

    def _cells(
        self, relation: Relation, key: tuple[str, ...], world: World, rng: random.Random, avoid: list[str]
    ) -> dict[str, str]:
        """A value in all its units ({"": text} without units). Empty if it is missing or would reveal an answer."""
        if any(name not in world.view.members[relation.name] for name in key):
            return {}
        value = world.value(relation, key, rng)
        if value is None:
            return {}
        cells = dict(convert(relation, value)) if relation.other_units else {"": value_text(relation, value)}
        texts = [json.dumps({relation.key: text}, ensure_ascii=False) for text in cells.values()]
        return {} if any(published_match(answer, text) for answer in avoid for text in texts) else cells


def _view(draft: Draft) -> PoolView:
    return pool_view(draft.split, draft.level, draft.hold_out)


def _notes(draft: Draft) -> FactNotes:
    return draft.notes if isinstance(draft.notes, FactNotes) else FactNotes.model_validate(draft.notes)


def _blueprint(
    draft: Draft, base: str, relations: list[str], selector: str = "", taken: Collection[str] = ()
) -> Blueprint:
    """A tool with the level's kind of name, if possible not in `taken`. It gets the selector only if it needs one.

    Most long names tell the entity type and not what is looked up, so that a reader has to read the description.
    """
    rng = stage_rng(draft, f"naming:{base}")
    name = base
    if LEVELS[draft.level].verbose:
        subject, suffix = BY_NAME[relations[0]].subject, rng.choice(SUFFIXES)
        told = rng.choice(_NAMES).format(r=base, s=subject, d=domain_of(subject))
        name = f"{base}_{suffix}" if f"{told}_{suffix}" in taken else f"{told}_{suffix}"
    chosen = ("operation" if BY_NAME[relations[0]].compute else selector) if len(relations) > 1 else ""
    return Blueprint(name=name, relations=sorted(relations), selector=chosen, words=rng.randrange(64))


def _functions(draft: Draft) -> set[str]:
    """The relations that the question asks about."""
    return {step.function for step in draft.plan.steps}


def _tool_label(blueprint: Blueprint) -> dict[str, Any]:
    """The labels of a tool: `relations` are those that it serves."""
    label = label_of(blueprint.first)
    return {
        "function_class": label.function,
        "domain": label.domain,
        "relations": blueprint.relations,
        "needed": blueprint.needed,
    }


def _asked_for(blueprint: Blueprint, asked: Asked) -> Blueprint:
    """The tool with the parameters that the question gives a value for."""
    blueprint.filters = [item.model_copy() for item in asked.filters]
    blueprint.unit_choice = bool(asked.unit)
    blueprint.unit_optional = blueprint.words % 2 == 1
    return blueprint


def _choose_unit(blueprint: Blueprint, level: Level, rng: random.Random) -> None:
    """Give an unneeded tool a unit parameter as often as needed ones have it."""
    if blueprint.first.other_units and not blueprint.selector and rng.random() < level.unit_share:
        blueprint.unit_choice, blueprint.unit_optional = True, blueprint.words % 2 == 1


def _filters_like(
    blueprint: Blueprint,
    model: Blueprint,
    view: PoolView,
    rng: random.Random,
    near: Collection[str],
    known: Mapping[str, Collection[str]],
) -> None:
    """Give an unneeded tool as many filters of the stated kind, required and optional, as a needed one has.

    Most are about a relation in `near`, if possible. `known`: {relation: values that the question states}, which must
    not be choices of the needed tool alone.
    """
    kinds, weights = list(STATED_KINDS), list(STATED_KINDS.values())
    for item in [item for item in model.filters if item.asked]:
        for _ in range(_PICKS):
            if found := add_filter(
                blueprint, rng.choices(kinds, weights)[0], view, rng, near=near if rng.random() < _NEAR_SHARE else ()
            ):
                found.required = item.required
                break
    for item in blueprint.filters:
        if item.options and item.relation in known:
            item.options = sorted({*item.options[1:], *known[item.relation]})


def _generalized(
    draft: Draft, blueprint: Blueprint, taken: set[str], rng: random.Random, names: Collection[str]
) -> Blueprint:
    """Functional generalization: the tool serves its relation's family, or more facts about the same entity type."""
    level, view, relation = LEVELS[draft.level], _view(draft), blueprint.first
    if rng.random() >= level.generalize_share or (relation.pair and not relation.compute):
        return blueprint
    if relation.family:
        candidates = view.operations if relation.compute else view.relations
        served = [other.name for other in candidates if other.family == relation.family]
        base, selector = relation.family, "kind"
    elif level.verbose and not blueprint.selector and not relation.other_units:
        served = [relation.name, *_further_facts(view, relation, taken, rng)]
        base, selector = f"{relation.subject}_information", "information_type"
    else:
        return blueprint
    filtered = {item.relation for item in blueprint.filters}
    if not set(blueprint.relations) < set(served) or (set(served) - set(blueprint.relations)) & (taken | filtered):
        return blueprint
    wider = _blueprint(draft, base, served, selector, names)
    wider.needed, wider.filters = blueprint.needed, blueprint.filters
    return wider


def _further_facts(view: PoolView, relation: Relation, taken: set[str], rng: random.Random) -> list[str]:
    others = [
        other.name
        for other in view.by_subject[relation.subject]
        if not (other is relation or other.pair or other.family or other.unit or other.name in taken or other.inverse)
    ]
    return rng.sample(others, min(len(others), rng.randint(2, 4)))


def _generalize_types(blueprint: Blueprint, level: Level, rng: random.Random) -> None:
    """Parameter type generalization: the unit becomes an enum, the entity an array or an object."""
    relation = blueprint.first
    if not level.verbose and relation.other_units and not blueprint.selector and rng.random() < level.unit_share:
        blueprint.unit_choice = True
    draw = rng.random()
    if draw < level.array_share and len(blueprint.inputs) == 2:
        blueprint.form = "array"
    elif level.array_share <= draw < level.array_share + level.object_share and not relation.compute:
        blueprint.form = "object"


def _flatten(blueprint: Blueprint, row: dict[str, dict[str, str]]) -> Any:
    if blueprint.selector:
        return {blueprint.option(name): next(iter(cells.values())) for name, cells in row.items()}
    cells = row[blueprint.relations[0]]
    return cells if blueprint.unit_choice else next(iter(cells.values()))


def _is_close(relation: Relation, needed: list[Relation]) -> bool:
    """Whether it is easy to confuse: about the same type of entity, or the same key of another type."""
    return any(relation.subject == other.subject or relation.key == other.key for other in needed)
