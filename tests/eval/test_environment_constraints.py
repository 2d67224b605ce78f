"""Environments with constraints from the build to the summary: the oracle keeps all, a broken one is recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction import build
from env_construction.environment.constraints import KINDS, ForbiddenTool, Order
from env_construction.environment.jsonl import read_jsonl
from env_construction.environment.schema import Environment, read_environments, write_environments
from env_construction.sandbox.tool_sandbox import ToolCall
from eval import environments as suite
from reward.tool_calls import render_call
from tests.conftest import small_environments
from train.policies.interface import OraclePolicy, PolicyRequest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 environments of the fact author, as JSONL and as Parquet."""
    folder = tmp_path_factory.mktemp("built")
    counts = ["--n-train", "24", "--n-dev", "0", "--n-test", "0", "--seed", "2"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["build", "--constraints", *counts, "--out", str(folder)])
        assert build.main() == 0
    return folder / "train.jsonl"


def _measure(policy: str, data: Path, out: Path, *more: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    flags = ["--policy", policy, "--data", str(data), "--out", str(out), *more]
    summary = suite.run(suite.parser().parse_args(flags))
    return summary["metrics"], {row["id"]: row for _, row in read_jsonl(out / "results.jsonl")}


def test_the_data_say_what_they_hold(data: Path) -> None:
    environments = list(read_environments(data))
    assert environments == list(read_environments(data.parent / "parquet" / "train.parquet"))
    assert all(item.constraints and item.question.count("\n- ") == len(item.constraints) for item in environments)
    assert "ends with one to three constraints" in (data.parent / "README.md").read_text()
    statistics = json.loads((data.parent / "statistics.json").read_text())
    assert set(statistics["train"]["histograms"]["constraint"]) == set(KINDS)


@pytest.mark.parametrize("match", ["published", "strict"])
def test_the_oracle_keeps_all_constraints(data: Path, tmp_path: Path, match: str) -> None:
    metrics, rows = _measure("oracle", data, tmp_path / "oracle", "--match", match)
    for name in (*suite.CONSTRAINT_METRICS, *suite.HEADLINES):
        n = metrics[name]["n"]
        assert metrics[name]["value"] == 1.0
        assert metrics[name]["low"] == pytest.approx(n / (n + 1.96**2), abs=1e-4), "Wilson's interval"
    assert metrics["constraints_kept"]["n"] == 24 > metrics["kept_order"]["n"] > 0
    assert all(row["constraints_broken"] == [] for row in rows.values())


def test_the_random_policy_does_not(data: Path, tmp_path: Path) -> None:
    metrics, rows = _measure("random", data, tmp_path / "random")
    assert metrics["constraints_kept"]["value"] < 0.7
    assert metrics["solved_and_kept"]["value"] == 0
    assert metrics["constraints_kept"]["value"] == sum(row["constraints_broken"] == [] for row in rows.values()) / 24


def _gold_turns(environment: Environment) -> list[str]:
    """The gold plan in two turns: all calls, and the answer."""
    calls = "\n".join(render_call(ToolCall(call.name, call.arguments)) for call in environment.gold_plan)
    return [calls, f"The answer is {environment.answer}."]


def test_a_broken_constraint_is_recorded_and_the_other_metrics_do_not_change(tmp_path: Path) -> None:
    plain = small_environments()[0]
    environments = [
        plain.model_copy(update={"id": "forbidden", "constraints": [ForbiddenTool(tool="capital_of")]}),
        plain.model_copy(update={"id": "free"}),
    ]
    write_environments(tmp_path / "data.jsonl", environments)
    turns = [{"id": item.id, "turns": _gold_turns(item)} for item in environments]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    metrics, rows = _measure(f"replay:{tmp_path / 'turns.jsonl'}", tmp_path / "data.jsonl", tmp_path / "out")
    [broken] = rows["forbidden"]["constraints_broken"]
    assert (broken["kind"], broken["turn"]) == ("forbidden_tool", 1)
    assert "constraints_broken" not in rows["free"]
    assert rows["forbidden"]["turn_scores"] == rows["free"]["turn_scores"]
    assert metrics["solve_f1"] == metrics["answer_correct"] and metrics["solve_f1"]["value"] == 1.0
    counted = {name: (metrics[name]["value"], metrics[name]["n"]) for name in suite.CONSTRAINT_METRICS}
    assert counted["constraints_kept"] == counted["solved_and_kept"] == counted["kept_forbidden_tool"] == (0.0, 1)
    assert counted["kept_budget"] == (None, 0)


def test_an_episode_that_never_answers_breaks_the_answer_format(data: Path, tmp_path: Path) -> None:
    _, rows = _measure("oracle", data, tmp_path / "short", "--max-turns", "1")
    for environment in read_environments(data):
        broken = [item["kind"] for item in rows[environment.id]["constraints_broken"]]
        assert broken == [item.kind for item in environment.constraints if item.kind == "answer_format"]


def test_the_oracle_waits_for_an_order_that_no_answer_forces() -> None:
    """Of two independent calls, the one that the constraint puts second comes a turn later."""
    environment = small_environments()[3].model_copy(deep=True)
    last = environment.gold_plan[-1].name
    environment.sub_questions[-1].depends_on = []
    environment.constraints = [Order(tool="capital_of", after=last)]
    [first] = OraclePolicy().generate([PolicyRequest(environment, environment.id, 0, 0, 0)])
    assert last in first.text and "capital_of" not in first.text


def test_without_constraints_rows_and_summary_are_as_before(tmp_path: Path) -> None:
    write_environments(tmp_path / "data.jsonl", small_environments())
    metrics, rows = _measure("oracle", tmp_path / "data.jsonl", tmp_path / "out")
    assert not set(metrics) & set(suite.CONSTRAINT_METRICS)
    assert not any("constraints" in key for row in rows.values() for key in row)
