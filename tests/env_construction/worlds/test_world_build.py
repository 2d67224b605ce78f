"""Worlds build verified environments on every level, from the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from env_construction.build import main as build
from env_construction.environment.schema import read_environments
from env_construction.worlds.domains import catalog


@pytest.mark.parametrize("level", ["compact", "medium", "paper"])
def test_build_writes_the_same_verified_environments_twice(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        counts = ["--n-train", "3", "--n-dev", "0", "--n-test", "0"]
        options = ["--author", "worlds", "--level", level, *counts, "--no-parquet", "--out", str(tmp_path / name)]
        monkeypatch.setattr("sys.argv", ["build", *options])
        build()
    assert len(list(read_environments(tmp_path / "a" / "train.jsonl"))) == 3
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (tmp_path / "b" / "train.jsonl").read_bytes()


def test_words_that_yaml_parses_as_booleans_stay_text() -> None:
    for kind in catalog().types.values():
        assert kind.attributes and all(isinstance(attribute.ask, str) for attribute in kind.attributes.values())
