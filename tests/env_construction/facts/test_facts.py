"""The fact base: known facts are right, every relation has three wordings, entities belong to one split."""

from __future__ import annotations

from collections import Counter

import pytest

from env_construction.facts.calculator import number_of
from env_construction.facts.fact_tables import degrees, great_circle_km, thousands, usable
from env_construction.facts.facts import fact_base, pool_of
from env_construction.facts.relations import BY_NAME, LITERALS, OPERATIONS, RELATIONS, TYPE_NAMES


@pytest.mark.parametrize(
    ("relation", "subject", "value"),
    [
        ("country_capital", "Norway", "Oslo"),
        ("country_currency", "Japan", "Yen"),
        ("country_language", "Brazil", "Portuguese"),
        ("country_alpha3", "Kenya", "KEN"),
        ("country_calling_code", "France", "+33"),
        ("city_country", "Lagos", "Nigeria"),
        ("city_timezone", "Hamburg", "Berlin Time"),
        ("airport_iata", "Oslo Gardermoen Airport", "OSL"),
        ("airport_elevation", "Oslo Gardermoen Airport", "681"),
        ("element_symbol", "Iron", "Fe"),
        ("element_discoverer", "Hydrogen", "Henry Cavendish"),
        ("element_number", "Gallium", "31"),
        ("isotope_element", "Boron-11", "Boron"),
        ("element_stable_isotope", "Carbon", "Carbon-12"),
        ("language_code", "Ukrainian", "ukr"),
        ("subdivision_country", "Huesca", "Spain"),
        ("state_code", "Texas", "TX"),
        ("county_state", "Autauga County", "Alabama"),
        ("timezone_offset", "Tokyo Time", "UTC+09:00"),
        ("city_summer_end", "Paris", "27 October 2024"),
        ("timezone_summer_start", "Sydney Time", "2024-10-06"),
        ("territory_withdrawal", "Burma", "1989-12-05"),
    ],
)
def test_known_facts(relation: str, subject: str, value: str) -> None:
    assert fact_base().tables[relation][subject] == value


def test_enough_types_relations_and_wordings() -> None:
    assert len({relation.subject for relation in RELATIONS}) >= 8
    assert len(RELATIONS) >= 60
    for relation in (*RELATIONS, *OPERATIONS):
        assert len(set(relation.asks)) >= 3, relation.name
        assert relation.phrases, relation.name
        for wording in (*relation.asks, *relation.phrases):
            assert "{x}" in wording, relation.name
            assert ("{y}" in wording) == relation.pair, relation.name
            assert ("{u}" in wording) == bool(relation.unit), relation.name


def test_relations_are_consistent() -> None:
    assert len(BY_NAME) == len(RELATIONS) + len(OPERATIONS)
    subjects = {relation.subject for relation in RELATIONS}
    for relation in RELATIONS:
        assert relation.value in LITERALS or relation.value in subjects, relation.name
        assert relation.subject in TYPE_NAMES
        assert not relation.inverse or BY_NAME[relation.inverse].inverse == relation.name
    families = Counter(relation.family for relation in RELATIONS if relation.family)
    for family, number in families.items():
        assert number >= 2, family
        assert len({relation.subject for relation in RELATIONS if relation.family == family}) == 1


def test_every_relation_has_facts_and_every_entity_is_usable() -> None:
    base = fact_base()
    for relation in RELATIONS:
        if not relation.pair:
            assert len(base.tables[relation.name]) >= 10, relation.name
    assert all(usable(name) for names in base.entities.values() for name in names)
    assert sum(len(names) for names in base.entities.values()) > 50_000


def test_numbers_are_numbers() -> None:
    for relation in RELATIONS:
        if relation.value in ("integer", "quantity", "year") and not relation.pair:
            values = fact_base().tables[relation.name].values()
            assert all(number_of(value) is not None for value in values), relation.name


def test_pairs_are_symmetric_and_right() -> None:
    base = fact_base()
    distance = BY_NAME["city_distance"]
    there = base.pair_value(distance, "Oslo", "Paris")
    assert there == base.pair_value(distance, "Paris", "Oslo")
    kilometres = number_of(there or "")
    assert kilometres is not None and 1300 < kilometres < 1400
    assert base.pair_value(distance, "Oslo", "Oslo") is None
    assert base.pair_value(distance, "Oslo", "Nowhere") is None
    middle = base.pair_value(BY_NAME["city_midpoint"], "Oslo", "Paris")
    assert middle == base.pair_value(BY_NAME["city_midpoint"], "Paris", "Oslo")
    together = number_of(base.pair_value(BY_NAME["city_joint_population"], "Oslo", "Paris") or "")
    assert together == base.people["Oslo"] + base.people["Paris"]


def test_great_circle_against_known_distances() -> None:
    assert great_circle_km((0, 0), (0, 180)) == pytest.approx(20015, abs=1)
    assert great_circle_km((90, 0), (0, 0)) == pytest.approx(10007.5, abs=1)


def test_values_as_people_write_them() -> None:
    assert thousands(1234567) == "1,234,567"
    assert thousands(1.5) == "1.5"
    assert thousands(123.7) == "124"
    assert degrees(-12.5, "N", "S") == "12.50° S"


def test_pools_divide_entities_70_10_20_by_name_alone() -> None:
    names = [name for kind in ("city", "airport", "language") for name in fact_base().entities[kind]]
    shares = Counter(pool_of(name) for name in names)
    for pool, share in (("train", 0.7), ("dev", 0.1), ("test", 0.2)):
        assert shares[pool] / len(names) == pytest.approx(share, abs=0.01)
    assert pool_of("São Paulo") == pool_of("SAO PAULO")
