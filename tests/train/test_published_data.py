"""The authors' environments become training environments without loss, and what is missing or odd is said."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput, read_jsonl, write_jsonl
from env_construction.environment.schema import read_environments
from train import published_data
from train.published_data import published_environments

SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/ftrl_test_sample.jsonl"
needs_sample = pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of published environments is not here")
JSON_KEYS = ("tools", "codes", "unsolved_set")


@pytest.fixture
def records(environments: list[Any]) -> list[dict[str, Any]]:
    """Four records in the authors' format: their keys alone, split `train`."""
    keys = ("messages", "tools", "codes", "unsolved_set", "solve_rate", "data_source", "split", "answer")
    return [{key: item.to_record()[key] for key in keys} | {"split": "train"} for item in environments]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def converted(*arguments: object) -> dict[str, Any]:
        out = tmp_path / "out" / "train.jsonl"
        monkeypatch.setattr(sys, "argv", ["published_data", "--out", str(out), *map(str, arguments)])
        assert published_data.main() == 0
        return json.loads(out.with_name("train.summary.json").read_text(encoding="utf-8"))

    return converted


def write_parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


@needs_sample
def test_real_environments_lose_nothing_and_get_ids(run, tmp_path, capsys) -> None:
    summary = run("--data-file", SAMPLE, "--split", "test")
    assert (summary["environments"], summary["published"], summary["without_answer"]) == (40, 200, 0)
    assert set(summary["scenarios"].values()) == {10}
    assert "40 of the 200 published test environments" in (shown := capsys.readouterr().out)
    assert "not comparable with the paper's" in shown
    written = [record for _, record in read_jsonl(tmp_path / "out" / "train.jsonl")]
    assert len({record["id"] for record in written}) == 40
    for (_, record), again in zip(read_jsonl(SAMPLE), written, strict=True):
        for key, value in record.items():
            assert (json.loads(again[key]) == json.loads(value)) if key in JSON_KEYS else again[key] == value


@needs_sample
def test_parquet_and_jsonl_of_the_same_environments_are_the_same(tmp_path: Path) -> None:
    records = [record for _, record in read_jsonl(SAMPLE)]
    copy = write_parquet(tmp_path / "copy.parquet", records)
    from_parquet, _ = published_environments(copy, "test")
    from_jsonl, _ = published_environments(SAMPLE, "test")
    assert from_parquet == from_jsonl


def test_other_splits_and_repeats_are_left_out_and_counted(run, tmp_path, records) -> None:
    path = tmp_path / "mixed.jsonl"
    write_jsonl(path, [*records, records[0], records[1] | {"split": "test"}])
    summary = run("--data-file", path)
    assert (summary["environments"], summary["left_out"]) == (4, {"other split": 1, "repeated": 1})
    assert len(list(read_environments(tmp_path / "out" / "train.jsonl"))) == 4
    with pytest.raises(BadInput, match="no environment of split 'train' among its 1 records"):
        write_jsonl(path, [records[1] | {"split": "test"}])
        run("--data-file", path)


def test_broken_rules_are_counted_and_the_environments_kept(run, tmp_path, records, capsys) -> None:
    codes = json.loads(records[0]["codes"])
    codes["capital_of"] = "def capital_of(country:\n"
    path = tmp_path / "broken.jsonl"
    write_jsonl(path, [records[0] | {"codes": json.dumps(codes)}, *records[1:]])
    summary = run("--data-file", path)
    assert summary["environments"] == 4
    assert summary["rules_broken"]["source_is_pure"] == 1
    assert "kept, but breaks a rule: 1 source_is_pure" in capsys.readouterr().out


def test_a_record_in_the_middle_of_an_episode_is_refused(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    later = records[0] | {"messages": [*records[0]["messages"], {"role": "assistant", "content": "hm"}]}
    for record, complaint in ((later, "last message"), (records[0] | {"solve_rate": 0.5}, "'solve_rate'")):
        write_jsonl(tmp_path / "a.jsonl", [records[1], record])
        with pytest.raises(BadInput, match=rf"a\.jsonl:2: .*{complaint}"):
            published_environments(tmp_path / "a.jsonl", "train")


def test_what_is_missing_is_said_with_what_to_do(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"data/ftrl/train\.jsonl: no such file; .*eval\.download environments"):
        run()
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match=r"torn\.parquet: expected a Parquet file"):
        run("--data-file", tmp_path / "torn.parquet")
