"""Everything that reads environments gets back what a build wrote, whatever table format it went through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from env_construction.building.author import Rejected
from env_construction.building.data_card import write_parquet
from env_construction.building.environment_builder import BuildConfiguration, build_unverified, new_draft
from env_construction.environment.jsonl import BadInput, read_jsonl, write_jsonl
from env_construction.environment.schema import (
    Environment,
    GoldCall,
    ToolDocument,
    read_environments,
    write_environments,
)
from env_construction.facts.fact_author import FactAuthor
from reward.score import read_gold
from train.collect_trajectories import load_environments
from train.published_data import published_environments


@pytest.fixture(scope="module")
def built() -> list[Environment]:
    """Environments of the largest level, whose gold calls have many kinds of arguments and names."""
    environments = []
    for index in range(16):
        try:
            environments.append(
                build_unverified(FactAuthor(), new_draft(BuildConfiguration("facts", "paper", 1), "train", index, 0))
            )
        except Rejected:
            continue
    kinds = {type(value) for item in environments for call in item.gold_plan for value in call.arguments.values()}
    assert len(environments) >= 8 and {str, list, dict} <= kinds
    return environments


def _through_build(folder: Path) -> Path:
    write_parquet(folder, ["train"])
    return folder / "parquet" / "train.parquet"


def _through_datasets(folder: Path, kind: str) -> Path:
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset("json", data_files=str(folder / "train.jsonl"), cache_dir=str(folder / "cache"))
    target = folder / f"again.{kind}"
    getattr(table["train"], {"jsonl": "to_json", "parquet": "to_parquet"}[kind])(target)
    return target


def _filled(values: list[Any]) -> list[Any]:
    """The values with the keys of all of them, null where one lacks a key: what a table of structs does to them."""
    keys = list(dict.fromkeys(key for value in values if isinstance(value, dict) for key in value))
    inner = {
        key: iter(_filled([value[key] for value in values if isinstance(value, dict) and value.get(key) is not None]))
        for key in keys
    }
    return [
        {key: next(inner[key]) if value.get(key) is not None else None for key in keys}
        if isinstance(value, dict)
        else value
        for value in values
    ]


def _through_structs(folder: Path) -> Path:
    records = [record for _, record in read_jsonl(folder / "train.jsonl")]
    calls = iter(_filled([call for record in records for call in record["gold_plan"]]))
    origins = iter(_filled([record["provenance"] for record in records]))
    for record in records:
        record["messages"] = [message | {"name": None, "tool_calls": None} for message in record["messages"]]
        record["gold_plan"] = [next(calls) for _ in record["gold_plan"]]
        record["provenance"] = next(origins) | {"never": None}
    assert any(None in call["arguments"].values() for record in records for call in record["gold_plan"])
    write_jsonl(folder / "filled.jsonl", records)
    return folder / "filled.jsonl"


ROADS = {
    "the Parquet of a build": _through_build,
    "JSONL of datasets": lambda folder: _through_datasets(folder, "jsonl"),
    "Parquet of datasets": lambda folder: _through_datasets(folder, "parquet"),
    "a table of structs": _through_structs,
}


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
def test_environments_come_back_the_same(
    built: list[Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, road: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_environments(tmp_path / "train.jsonl", built)
    path = road(tmp_path)
    assert list(read_environments(path)) == built
    assert load_environments(path) == built
    assert list(read_gold(path, "strict").values()) == built
    assert published_environments(path, "train")[0] == built


def test_a_null_that_a_tool_accepts_or_requires_is_kept(tmp_path: Path) -> None:
    properties = {"unit": {"type": ["string", "null"]}, "city": {"type": "string"}, "year": {"type": "integer"}}
    [environment] = [
        Environment(
            messages=[{"role": "user", "content": "q"}],
            tools=[
                ToolDocument(
                    name="f",
                    description="f",
                    parameters={"type": "object", "properties": properties, "required": ["city"]},
                )
            ],
            codes={"f": "def f(): pass"},
            unsolved_set={"f": ["a"]},
            gold_plan=[
                GoldCall(sub_question="q1", name="f", arguments={"unit": None, "city": None, "year": None, "x": None})
            ],
        )
    ]
    write_environments(tmp_path / "a.jsonl", [environment])
    [read] = read_environments(tmp_path / "a.jsonl")
    assert read.gold_plan[0].arguments == {"unit": None, "city": None}


def test_a_torn_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_bytes(b"PAR1 and no more")  # the content determines the file type, not the name
    with pytest.raises(BadInput, match=r"torn\.jsonl: expected a Parquet file"):
        list(read_environments(tmp_path / "torn.jsonl"))
    pyarrow.parquet.write_table(pyarrow.table({"messages": [json.dumps([])]}), tmp_path / "other.parquet")
    with pytest.raises(BadInput, match=r"other\.parquet, row 1: key 'tools' is missing"):
        list(read_environments(tmp_path / "other.parquet"))
