"""An environment is shown in full: gold calls with real outputs, and what they change in the database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.schema import Environment, read_environments, write_environments
from env_construction.sandbox.tool_sandbox import ToolSandbox
from env_construction.show import describe


@pytest.mark.parametrize("options", [("--level", "medium"), ("--stateful",)], ids=["worlds", "stateful"])
def test_gold_calls_and_changes_are_those_of_the_record(
    tmp_path: Path, sandbox: ToolSandbox, run_script: Any, options: tuple[str, ...]
) -> None:
    sizes = ["--n-train", 4, "--n-dev", 0, "--n-test", 0, "--seed", 5, "--no-parquet", "--out", tmp_path]
    assert run_script("env_construction.build", "--author", "worlds", *options, *sizes).returncode == 0
    for environment in read_environments(tmp_path / "train.jsonl"):
        shown = describe(environment, sandbox)
        outputs = [line for line in shown.splitlines() if line.startswith("-> ")]
        assert len(outputs) == len(environment.gold_plan) > 0
        for gold, output in zip(environment.gold_plan, outputs, strict=True):
            assert f"{gold.name}({json.dumps(gold.arguments, ensure_ascii=False)})\n{output}\n" in shown
            assert "rror" not in output
        assert all(environment.codes[tool.name].strip() in shown for tool in environment.tools)
        if environment.state is not None:
            changed = shown.split("What the gold calls change:")[1].split("###")[0]
            for goal in environment.state.goals:
                for table, rows in goal.changes.items():
                    assert all(f"{table} {key}: " in changed for key in rows)


def test_an_environment_without_a_gold_plan_is_shown_without_calls(
    environments: list[Environment], run_script: Any, tmp_path: Path
) -> None:
    bare = environments[0].model_copy(update={"gold_plan": [], "sub_questions": []})
    path = tmp_path / "bare.jsonl"
    write_environments(path, [bare])
    shown = run_script("env_construction.show", path).stdout
    assert bare.question.splitlines()[-1] in shown and "-> " not in shown
    assert run_script("env_construction.show", path, "--id", "nowhere").returncode == 2
