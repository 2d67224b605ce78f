"""Fixtures for the construction tests: one sandbox, and a few environments of every level, built once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from env_construction.building.environment_builder import BuildConfiguration, build_chunk
from env_construction.environment.schema import Environment, Split
from env_construction.facts.fact_author import FactAuthor
from env_construction.facts.levels import LEVELS
from env_construction.sandbox.tool_sandbox import ToolSandbox

sys.path.append(str(Path(__file__).parent))
"""For `scripted_author_server`: test files are imported by path, but shared modules are not."""


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures in the builds of a test: drawing takes longer than a small build. Fixtures of a module draw them."""
    monkeypatch.setattr("env_construction.build.draw_figures", lambda statistics, folder: None)


@pytest.fixture(scope="session")
def construction_sandbox() -> Iterator[ToolSandbox]:
    with ToolSandbox(workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def built(construction_sandbox: ToolSandbox):
    """`built(level, split, seed)`: 24 verified environments, six of each scenario."""

    @cache
    def build(level: str, split: Split = "train", seed: int = 1) -> list[Environment]:
        configuration = BuildConfiguration("facts", level, seed)
        chunk = build_chunk(FactAuthor(), configuration, split, list(range(24)), construction_sandbox)
        return [item.environment for item in chunk]

    return build


@pytest.fixture(scope="session", params=list(LEVELS))
def level(request: pytest.FixtureRequest) -> str:
    return request.param
