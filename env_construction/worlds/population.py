"""The records in an environment's tools: the question's entities, near misses, and random others.

All tools for one type have the same entities with the same values. A near miss differs from a searched entity in one
condition, or has the same name as a qualified one, so every condition is necessary. A record never reveals an answer in
a tool that is not asked for it.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import Any

from env_construction.worlds.domains import Attribute, EntityType
from env_construction.worlds.graphs import Condition, Graph, Node
from env_construction.worlds.tools import NAME, Tool
from env_construction.worlds.units import UNITS
from env_construction.worlds.world import Entity, Value, answer_text, number_text

_REDRAWS = 8


class Population:
    """The entities of an environment by type, and their rows for each tool."""

    def __init__(self, graph: Graph, rows: tuple[int, int]) -> None:
        self.graph = graph
        self.world = graph.world
        self.size = rows
        self.answers = [[part.strip() for part in node.answer.lower().split(", ")] for node in graph.nodes]
        self.answers = [[part.replace(",", "") for part in parts] for parts in self.answers]
        self.members: dict[str, list[Entity]] = {}
        self.asked: dict[tuple[int, str], bool] = {}
        self.gold: dict[str, list[Entity]] = defaultdict(list)
        for node in graph.nodes:
            for entity in (node.subject, node.entity):
                if entity is not None and entity not in self.gold[entity.kind.name]:
                    self.gold[entity.kind.name].append(entity)
            entity = node.subject or node.entity
            if entity is not None:
                self.asked[id(entity), node.attribute.name if node.attribute else NAME] = True

    def _of(self, kind: EntityType) -> list[Entity]:
        """All entities of a type, in a shuffled order."""
        if kind.name in self.members:
            return self.members[kind.name]
        rng = self.world.rng
        gold = self.gold.get(kind.name, [])
        members = list(gold)
        for node in self.graph.nodes:
            entity = node.subject or node.entity
            if entity is not None and entity.kind is kind:
                members += [
                    other
                    for condition in node.conditions
                    if (other := self._near_miss(entity, node.conditions, condition, node.subject is not None))
                ]
                if (
                    node.subject is not None and node.conditions
                ):  # an entity with another name that also meets the qualifiers
                    twin = self.world.new(kind)
                    twin.values.update({item.attribute.name: item.value for item in node.conditions})
                    members.append(twin)
        members += [self.world.new(kind) for _ in range(rng.randint(*self.size))]
        for node in self.graph.nodes:
            if node.kind is kind and any(condition.style != "equal" for condition in node.conditions):
                members = [other for other in members if other in gold or not self._fits(other, node)]
        rng.shuffle(members)
        self.members[kind.name] = members
        return members

    def _fits(self, other: Entity, node: Node) -> bool:
        """Whether an entity meets all arguments of a node's call."""
        if node.subject is not None and other.name != node.subject.name:
            return False
        return all(meets(self.world.value(other, item.attribute), item) for item in node.conditions)

    def _near_miss(
        self, entity: Entity, conditions: list[Condition], missed: Condition, same_name: bool
    ) -> Entity | None:
        """Another entity that meets all conditions except one. `same_name`: it has the entity's name."""
        other = self.world.new(entity.kind, entity.name if same_name else "")
        for condition in conditions:
            if condition is not missed:
                other.values[condition.attribute.name] = condition.value
        for _ in range(_REDRAWS):
            other.values.pop(missed.attribute.name, None)
            if not meets(self.world.value(other, missed.attribute), missed):
                return other
        return None

    def rows(self, tool: Tool) -> list[dict[str, Any]]:
        """Rows for `write_source`, without rows and included details that would reveal an answer."""
        kind = tool.type
        filters = [
            tool.attribute(p.attribute)
            for p in tool.params
            if p.attribute != NAME and p.style not in ("include", "case", "format", "label")
        ]
        included = [tool.attribute(param.attribute) for param in tool.params if param.style == "include"]
        as_text = tool.words % 3 == 0 and not tool.unit_choice
        by_name = any(param.attribute == NAME and param.style == "equal" for param in tool.params)
        seen: set[tuple[Any, ...]] = set()
        rows: list[tuple[int, dict[str, Any]]] = []
        members = self._of(kind)
        gold = self.gold.get(kind.name, [])
        places = {id(entity): place for place, entity in enumerate(members)}
        # if several entities have the same keys, keep the question's entity
        for entity in [*gold, *(other for other in members if other not in gold)]:
            row: dict[str, Any] = {NAME: entity.name} if by_name else {}
            for attribute in filters:
                row[attribute.name] = comparable_cell(self.world.value(entity, attribute))
            kept = 0
            for name in tool.outputs:
                value: Value = entity if name == NAME else self.world.value(entity, tool.attribute(name))
                served = tool.needed and (id(entity), name) in self.asked
                cell = self._cell(None if name == NAME else tool.attribute(name), value, as_text)
                if served or not self._leaks(cell, None if name == NAME else tool.attribute(name), tool.unit_choice):
                    row[f"={name}"] = cell
                    kept += 1
            key = tuple(row.get(param.attribute) for param in tool.params if param.required or param.asked)
            if not kept or key in seen:
                continue
            seen.add(key)
            for attribute in included:
                cell = self._cell(attribute, self.world.value(entity, attribute), as_text)
                if not self._leaks(cell, attribute, False):
                    row[f"={attribute.name}"] = cell
            rows.append((places[id(entity)], row))
        return [row for _, row in sorted(rows, key=lambda item: item[0])]

    def _cell(self, attribute: Attribute | None, value: Value, as_text: bool) -> Any:
        if isinstance(value, int | float) and not as_text:
            return value
        return answer_text(attribute.kind if attribute else "entity", value)

    def _leaks(self, cell: Any, attribute: Attribute | None, converted: bool) -> bool:
        texts = [str(cell).lower().replace(",", "")]
        if converted and attribute and isinstance(cell, int | float):
            texts += [
                number_text(round(cell * factor, 2)).replace(",", "")
                for _, factor in UNITS[attribute.generator.unit].others
            ]
        return any(all(part in text for part in parts) for parts in self.answers for text in texts)


def comparable_cell(value: Value) -> Any:
    """A value in the form of a call's arguments."""
    if isinstance(value, Entity):
        return value.name
    return value.isoformat() if isinstance(value, date) else value


def meets(value: Value, condition: Condition) -> bool:
    """Whether a value meets a condition, compared as in the tools."""
    stated: Any = condition.stated
    if condition.style == "range":
        return stated[0] <= value <= stated[1]
    if condition.style == "at_least":
        return value >= stated
    if condition.style == "at_most":
        return value <= stated
    if condition.style == "any_of":
        return value in stated
    return value == condition.value or (
        isinstance(value, str) and isinstance(condition.value, str) and value.casefold() == condition.value.casefold()
    )
