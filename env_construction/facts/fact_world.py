"""The facts that one environment sees: only its split's entities, real or permuted.

`PoolView` is the part of the fact base that a split and a level may use. `World` is one environment's truth. With
`counterfactual`, the values are permuted within each relation (for an entity-valued relation, over all of the pool's
entities of that type). They are drawn on demand and remembered, so the environment is consistent and no value can be
known from memory. Values that become arguments are always in the split's own pool.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import lru_cache

from env_construction.building.hold_out import HoldOut
from env_construction.facts.calculator import calculate, number_of
from env_construction.facts.facts import fact_base, pool_of
from env_construction.facts.levels import LEVELS, Level
from env_construction.facts.relations import OPERATIONS, RELATIONS, Relation, label_of

_DRAWS = 30


class PoolView:
    """Entities, tables and relation weights for one split at one level. Built once per process.

    With `hold_out`, it has only the relations and operations that the split may use.
    """

    def __init__(self, pool: str, level: Level, hold_out: HoldOut = HoldOut()) -> None:  # noqa: B008
        base = fact_base()
        self.pool = pool
        self.level = level
        accepted = {
            name
            for names in base.entities.values()
            for name in names
            if pool_of(name) == pool and level.accepts_name(name)
        }
        self.tables: dict[str, dict[str, str]] = {}
        self.subjects: dict[str, list[str]] = {}
        self.values: dict[str, list[str]] = {}
        self.entities = {kind: [name for name in names if name in accepted] for kind, names in base.entities.items()}
        for relation in RELATIONS:
            if relation.pair:
                places = base.places[relation.subject]
                self.subjects[relation.name] = [name for name in self.entities[relation.subject] if name in places]
                self.tables[relation.name] = {}
                self.values[relation.name] = self.entities[relation.value] if relation.is_entity else []
                continue
            table = {
                subject: value
                for subject, value in base.tables[relation.name].items()
                if subject in accepted and (relation.is_entity or level.accepts_value(value))
            }
            self.tables[relation.name] = table
            self.subjects[relation.name] = sorted(table)
            self.values[relation.name] = (
                self.entities[relation.value]
                if relation.is_entity
                else [table[name] for name in self.subjects[relation.name]]
            )
        self.relations = [
            r for r in RELATIONS if len(self.subjects[r.name]) >= 4 and (r.pair or len(set(self.values[r.name])) >= 3)
        ]
        self.relations = [r for r in self.relations if hold_out.allows(pool, label_of(r))]
        self.operations = [r for r in OPERATIONS if hold_out.allows(pool, label_of(r))]
        self.by_subject: dict[str, list[Relation]] = {}
        for relation in self.relations:
            self.by_subject.setdefault(relation.subject, []).append(relation)
        # The first relation of a question is drawn in proportion to the square root of its number of entities.
        self.roots = {r.name: len(self.subjects[r.name]) ** 0.5 for r in self.relations}
        self.members = {name: frozenset(subjects) for name, subjects in self.subjects.items()}


@lru_cache(maxsize=12)
def pool_view(pool: str, level: str, hold_out: HoldOut = HoldOut()) -> PoolView:  # noqa: B008
    """The view of a split and a level, built once per process (about half a second)."""
    return PoolView(pool, LEVELS[level], hold_out)


class World:
    """One environment's values. `known` = {relation: {key: value}}; `world_key` builds the keys."""

    def __init__(
        self, view: PoolView, counterfactual: bool, known: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.view = view
        self.counterfactual = counterfactual
        self.known: dict[str, dict[str, str]] = {name: dict(rows) for name, rows in (known or {}).items()}

    def value(
        self,
        relation: Relation,
        subjects: tuple[str, ...],
        rng: random.Random,
        accept: Callable[[str], bool] | None = None,
    ) -> str | None:
        """The value of `relation` for one entity (two, for a pair), or None if there is none that `accept` allows."""
        key = world_key(relation, subjects)
        rows = self.known.setdefault(relation.name, {})
        if key in rows:
            return rows[key] if accept is None or accept(rows[key]) else None
        if relation.compute:
            value = _computed(relation, subjects)
        elif self.counterfactual:
            value = self._permuted(relation, subjects, rows, rng, accept)
        else:
            value = self._real(relation, subjects)
        if value is None or (accept is not None and not accept(value)):
            return None
        rows[key] = value
        return value

    def numbers_allowed(self, value: str) -> bool:
        """Whether a number may be an argument of a gold call: like every argument, it belongs to this split's pool."""
        number = number_of(value)
        return number is not None and abs(number) > 20 and pool_of(str(number)) == self.view.pool

    def _real(self, relation: Relation, subjects: tuple[str, ...]) -> str | None:
        if relation.pair:
            value = fact_base().pair_value(relation, *subjects)
        else:
            value = self.view.tables[relation.name].get(subjects[0])
        if value is not None and relation.is_entity and not self._in_pool(value):
            return None
        return value

    def _in_pool(self, value: str) -> bool:
        return pool_of(value) == self.view.pool and self.view.level.accepts_name(value)

    def _permuted(
        self,
        relation: Relation,
        subjects: tuple[str, ...],
        rows: Mapping[str, str],
        rng: random.Random,
        accept: Callable[[str], bool] | None,
    ) -> str | None:
        """A value of the same relation that no other entity of this environment has (repeats only if there are few)."""
        taken = set(rows.values())
        candidate: str | None = None
        for draw in range(_DRAWS):
            if relation.pair and not relation.is_entity:
                places = self.view.subjects[relation.name]
                candidate = fact_base().pair_value(relation, rng.choice(places), rng.choice(places))
            elif self.view.values[relation.name]:
                candidate = rng.choice(self.view.values[relation.name])
            if candidate is None or candidate in subjects or (accept is not None and not accept(candidate)):
                continue
            if candidate not in taken or draw > _DRAWS // 2:
                return candidate
        return None


def world_key(relation: Relation, subjects: tuple[str, ...]) -> str:
    """The key for a remembered value. Pairs are unordered: both orders have the same value."""
    return "|".join(sorted(subjects) if relation.pair else subjects)


def _computed(relation: Relation, subjects: tuple[str, ...]) -> str | None:
    a, b = (number_of(subject) for subject in subjects)
    return None if a is None or b is None else calculate(relation.compute, a, b)
