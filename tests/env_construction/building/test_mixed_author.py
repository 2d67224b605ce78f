"""Authors that take turns: each environment is what its author writes alone, and says who wrote it."""

from __future__ import annotations

import itertools

import pytest

from env_construction.building.author_options import make_author
from env_construction.building.environment_builder import BuildConfiguration, build_unverified, new_draft, scenario_of
from env_construction.building.generator import license_of, package_versions
from env_construction.building.mixed_author import TURN, author_at
from env_construction.environment.jsonl import BadInput

MIXED = "facts+worlds"


@pytest.mark.parametrize("index", [0, TURN - 1, TURN, 2 * TURN])
def test_an_environment_is_that_of_its_author(index: int) -> None:
    name = author_at(MIXED, index)
    alone, mixed = (
        build_unverified(make_author(author), new_draft(BuildConfiguration(author, "compact", 3), "test", index, 0))
        for author in (name, MIXED)
    )
    assert mixed == alone
    assert mixed.provenance["author"] == name
    assert mixed.id.startswith(f"{name}-compact-3-test-")


def test_both_authors_write_half_of_each_scenario() -> None:
    cases = [(author_at(MIXED, index), scenario_of(index)) for index in range(4 * TURN)]
    scenarios = {scenario for _, scenario in cases}
    assert {cases.count(case) for case in itertools.product(("facts", "worlds"), scenarios)} == {TURN // 2}


@pytest.mark.parametrize("name", ["facts+llm", "facts+facts", "facts+", "facts+nobody"])
def test_what_cannot_take_turns_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="author"):
        make_author(name)


def test_packages_and_licenses_are_those_of_both() -> None:
    assert set(package_versions(MIXED)) == {*package_versions("facts"), *package_versions("worlds")}
    license_name, lines = license_of(MIXED)
    assert license_name == "other"
    assert any("GeoNames" in line for line in lines)
    assert any("no outside data set" in line for line in lines)
