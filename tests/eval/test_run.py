"""All suites in one run: one model, skipped suites with reasons, failed suites, the table."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import write_environments
from eval import run as suites
from eval.suites import suite
from eval.suites.results import COSTS


def call(monkeypatch: pytest.MonkeyPatch, out: Path, *flags: object) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["run", "--out", str(out), *map(str, flags)])
    code = suites.main()
    return code, json.loads((out / "suites.json").read_text())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, environments, tmp_path) -> list[str]:
    """Flags that measure four environments and two BFCL cases; run from a folder without data."""
    monkeypatch.chdir(tmp_path)
    write_environments(tmp_path / "test.jsonl", environments)
    return [
        "--with",
        f"environments: --data {tmp_path / 'test.jsonl'} --max-turns 4",
        "--with",
        "bfcl: --categories irrelevance,simple_python --limit 1",
    ]


def test_suites_without_data_are_skipped_and_the_missing_files_named(monkeypatch, small, tmp_path, capsys) -> None:
    names = "environments,toolhop,tau_bench,rotbench,bfcl"
    code, found = call(monkeypatch, tmp_path / "out", "--model", "oracle", "--suites", names, *small)
    assert code == 0
    assert set(found["skipped"]) == {"toolhop", "tau_bench", "rotbench"}
    assert "clean.json" in found["skipped"]["rotbench"] and "eval.download rotbench" in found["skipped"]["rotbench"]
    rows = {(row["suite"], row["metric"]): row["value"] for row in found["table"]}
    assert rows == {
        ("environments", "solve_f1"): 1.0,
        ("environments", "answer_correct"): 1.0,
        ("bfcl", "non_live_ast"): 1.0,
        ("bfcl", "irrelevance"): 1.0,
    }
    out = capsys.readouterr()
    assert "[5/5] bfcl" in out.out and "skipped toolhop:" in out.out
    assert "solve_f1                       4  100.0 [" in out.out
    assert "[1/5] environments oracle" in out.err
    assert (tmp_path / "out" / "bfcl" / "results.jsonl").read_text().count("\n") == 2


def test_partial_aggregates_are_marked_in_the_table(monkeypatch, small, tmp_path, capsys) -> None:
    flags = ["--model", "oracle", "--suites", "bfcl", "--with"]
    chosen = "bfcl: --categories simple_python,multi_turn_base,live_relevance --limit 2"
    _, found = call(monkeypatch, tmp_path / "out", *flags, chosen)
    rows = {row["metric"]: row for row in found["table"]}
    assert set(rows) == {"non_live_ast", "multi_turn", "relevance", "multi_turn_base"}
    assert (
        rows["multi_turn"]["partial"]["groups"] == ["multi_turn_base"] and len(rows["multi_turn"]["partial"]["of"]) == 4
    )
    assert "partial" not in rows["relevance"] and "partial" not in rows["multi_turn_base"]
    assert all(row["low"] < row["value"] == row["high"] == 1.0 for row in found["table"])
    out = capsys.readouterr().out
    assert "multi_turn *" in out and "multi_turn is over 1 of 4: multi_turn_base; multi_turn_miss_func" in out


def test_one_model_is_loaded_for_all_suites_and_none_for_finished_ones(
    monkeypatch, small, tiny_checkpoint, tmp_path
) -> None:
    loaded: list[str] = []
    real = suite.load_policy

    def load(spec: str, **settings: Any) -> Any:
        loaded.append(spec)
        return real(spec, **settings)

    monkeypatch.setattr(suite, "load_policy", load)
    flags = ["--model", f"hf:{tiny_checkpoint}", "--suites", "environments,bfcl", "--max-new-tokens", 8, *small]
    code, found = call(monkeypatch, tmp_path / "out", *flags)
    assert (code, loaded) == (0, [f"hf:{tiny_checkpoint}"])
    assert call(monkeypatch, tmp_path / "out", *flags) == (0, found)
    assert len(loaded) == 1


def test_a_failing_suite_does_not_stop_the_others(monkeypatch, small, tmp_path, environments) -> None:
    bare = [environment.model_copy(update={"gold_plan": []}) for environment in environments]
    write_environments(tmp_path / "test.jsonl", bare)
    code, found = call(monkeypatch, tmp_path / "out", "--model", "oracle", "--suites", "environments,bfcl", *small)
    assert code == 2
    assert "no gold_plan" in found["failed"]["environments"]
    assert (tmp_path / "out" / "bfcl" / "summary.json").exists()


def test_bad_flags_are_refused_before_any_suite_runs(monkeypatch, small, tmp_path) -> None:
    with pytest.raises(BadInput, match="unknown 'toolhopp'; expected all, or some of environments, toolhop"):
        suites.chosen_suites("bfcl,toolhopp")
    with pytest.raises(BadInput, match="expected 'SUITE: FLAGS' with one of bfcl"):
        suites.extra_flags(["rotbench: --data x"], ["bfcl"])
    with pytest.raises(BadInput, match="No closing quotation"):
        suites.extra_flags(["bfcl: --data 'x"], ["bfcl"])
    assert suites.extra_flags(["tau_bench: --user-model m@http://x/v1 --data ~"], ["tau_bench"]) == {
        "tau_bench": ["--user-model", "m@http://x/v1", "--data", str(Path.home())]
    }
    with pytest.raises(SystemExit):
        call(monkeypatch, tmp_path / "out", "--model", "oracle", "--suites", "bfcl", "--with", "bfcl: --no-such-flag")
    assert not (tmp_path / "out").exists()


def test_every_suite_of_the_table_keeps_the_contract() -> None:
    for name, listed in suites.SUITES.items():
        module = __import__(listed.module, fromlist=["SUITE"])
        assert name == module.SUITE
        flags = {action.dest for action in module.parser()._actions}
        assert {"policy", "data", "out", *suites.SHARED, "thinking"} <= flags
        metrics = {metric if isinstance(metric, str) else metric.name for metric in module.METRICS}
        assert {*module.HEADLINES, *listed.parts} <= metrics
        assert not COSTS & set(module.HEADLINES)
