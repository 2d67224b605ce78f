"""Other projects' result formats: they keep every reward, call and message, and the other projects read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import write_environments
from env_construction.sandbox.tool_sandbox import ToolCall
from eval import bfcl, tau_bench
from eval import environments as environments_suite
from eval.bfcl_support.process import BfclProcess
from eval.leaderboards import bfcl_step, main, user_turns
from eval.suites.results import read_rows
from eval.tau_bench_trajectories import differences, read_trajectories
from reward.tool_calls import render_call

# reads an exported folder with the package's own functions and decodes the calls as its function-calling handlers do
READ_BFCL = """
import json, sys
from pathlib import Path
from bfcl_eval import utils
from bfcl_eval.constants.eval_config import RESULT_FILE_PATTERN

def decoded(step):
    if not isinstance(step, list):
        return []
    return [{"name": name, "arguments": json.loads(text)} for call in step for name, text in call.items()]

found = {}
for path in sorted(Path(sys.argv[1]).rglob(RESULT_FILE_PATTERN)):
    category = utils.extract_test_category(path)
    assert path.parent.name == Path(utils.get_directory_structure_by_category(category)).name, path
    assert path.name == utils.get_file_name_by_category(category, is_result_file=True), path
    for entry in utils.load_file(path, sort_by_id=True):
        result = entry["result"]
        if utils.is_multi_turn(category):
            found[entry["id"]] = [[decoded(step) for step in turn if decoded(step)] for turn in result]
        else:
            found[entry["id"]] = decoded(result)
print(json.dumps(found))
"""
READ_INSPECT = """
import json, sys
from inspect_ai.log import read_eval_log
log = read_eval_log(sys.argv[1])
print(json.dumps({
    "status": log.status, "task": log.eval.task, "epochs": log.eval.config.epochs,
    "scores": {score.name: score.metrics["mean"].value for score in log.results.scores if "mean" in score.metrics},
    "samples": [[s.id, s.epoch, {k: v.value for k, v in s.scores.items()}, [m.role for m in s.messages],
                 [[c.function, c.arguments] for m in s.messages for c in getattr(m, "tool_calls", None) or []],
                 s.output.completion] for s in log.samples],
}))
"""


def export(monkeypatch: pytest.MonkeyPatch, *line: object) -> int:
    monkeypatch.setattr(sys, "argv", ["leaderboards", *map(str, line)])
    return main()


def by_case(folder: Path) -> list[dict[str, Any]]:
    return sorted(read_rows(folder), key=lambda row: (row["id"], row["trial"]))


@pytest.fixture
def played(environments, tmp_path) -> Path:
    """Two trials of two environments, one with thinking and two calls."""
    data, turns = tmp_path / "data.jsonl", tmp_path / "turns.jsonl"
    write_environments(data, environments[:2])
    fiji = render_call(ToolCall("capital_of", {"country": "Fiji"}))
    peru = render_call(ToolCall("capital_of", {"country": "Peru"}))
    ghana = render_call(ToolCall("capital_of", {"country": "Ghana"}))
    recorded = [
        (environments[0].id, 0, [f"<think>\nAsk.\n</think>\n{fiji}", "It is Suva."]),
        (environments[0].id, 1, ["No idea."]),
        (environments[1].id, 0, [f"Both.\n{peru}\n{ghana}", "Lima"]),
        (environments[1].id, 1, [peru, "Lima"]),
    ]
    turns.write_text(
        "".join(json.dumps({"id": case, "trial": trial, "turns": texts}) + "\n" for case, trial, texts in recorded)
    )
    out = tmp_path / "eval"
    flags = ["--policy", f"replay:{turns}", "--data", data, "--out", out, "--trials", 2]
    environments_suite.run(environments_suite.parser().parse_args(list(map(str, flags))))
    return out


def test_tau_bench_reads_its_own_format_back_with_the_same_rewards(tau_folder, tmp_path, monkeypatch, capsys) -> None:
    flags = ["--policy", "oracle", "--user-model", "scripted", "--data", tau_folder, "--out", tmp_path / "played"]
    tau_bench.run(tau_bench.parser().parse_args(list(map(str, flags))))
    assert export(monkeypatch, tmp_path / "played", "--to", "tau-bench", "--out", tmp_path / "files") == 0
    assert "wrote 2 files" in capsys.readouterr().out
    rows = read_rows(tmp_path / "played")
    for domain, count in (("airline", 4), ("retail", 2)):
        episodes = json.loads((tmp_path / "files" / f"{domain}.json").read_text())
        assert len(episodes) == count
        assert all(episode.keys() == {"task_id", "reward", "info", "traj", "trial"} for episode in episodes)
        for episode in episodes:
            made = [call["id"] for message in episode["traj"] for call in message.get("tool_calls", ())]
            answered = [message for message in episode["traj"] if message["role"] == "tool"]
            assert [message["tool_call_id"] for message in answered] == made and all(m["name"] for m in answered)
        lines, left_out = read_trajectories(tmp_path / "files" / f"{domain}.json", domain)
        assert (differences(lines, rows), left_out) == ((count, []), [])


def test_bfcl_reads_the_folder_and_its_checkers_accept_what_was_accepted(tmp_path, monkeypatch) -> None:
    categories = ["simple_python", "live_multiple", "irrelevance", "multi_turn_base"]
    flags = ["--policy", "oracle", "--out", tmp_path / "played", "--limit", 2, "--categories", ",".join(categories)]
    bfcl.run(bfcl.parser().parse_args(list(map(str, flags))))
    assert export(monkeypatch, tmp_path / "played", "--to", "bfcl", "--out", tmp_path / "result") == 0
    variables = {"PATH": os.environ["PATH"], "BFCL_PROJECT_ROOT": str(tmp_path / "project")}
    done = subprocess.run(
        [sys.executable, "-c", READ_BFCL, str(tmp_path / "result")], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    rows = {row["id"]: row for row in read_rows(tmp_path / "played")}
    assert found.keys() == rows.keys() and len(found) == 8
    with BfclProcess() as process:
        for category in categories:
            process.ask("cases", category=category)
        for case, said in found.items():
            category = rows[case]["category"]
            if category == "multi_turn_base":
                verdict = process.ask("check_multi", id=case, key=process.new_key(), turns=said)
            else:
                verdict = process.ask("check_single", id=case, category=category, calls=said)
            assert verdict["valid"] is True is rows[case]["correct"], case


def test_bfcl_steps_end_a_user_turn_with_text() -> None:
    call = render_call(ToolCall("f", {"x": "é"}))
    assert bfcl_step(f"<think>why</think>Now.\n{call}\n{call}") == [{"f": '{"x": "\\u00e9"}'}] * 2
    assert bfcl_step("<think>why</think>Done.") == "Done."
    step = [{"f": "{}"}]
    assert user_turns([step, "a", "b", step, "c"]) == [[step, "a"], ["b"], [step, "c"]]
    assert user_turns([step, "a", step]) == [[step, "a"], [step]]


def test_inspect_log_has_every_score_message_and_call(played, tmp_path, monkeypatch) -> None:
    assert export(monkeypatch, played, "--to", "inspect", "--out", tmp_path / "log") == 0
    log = json.loads((tmp_path / "log" / "environments.json").read_text())
    assert (log["version"], log["status"], log["eval"]["task"]) == (2, "success", "environments")
    assert log["eval"]["metadata"]["protocol"]["suite"] == "environments"
    assert [(sample["id"], sample["epoch"]) for sample in log["samples"]] == [
        (row["id"], row["trial"] + 1) for row in by_case(played)
    ]
    first = next(sample for sample in log["samples"] if sample["id"].endswith("-single_hop") and sample["epoch"] == 1)
    assert [message["role"] for message in first["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert first["messages"][1]["content"][0] == {"type": "reasoning", "reasoning": "Ask."}
    [call] = first["messages"][1]["tool_calls"]
    assert (call["function"], call["arguments"]) == ("capital_of", {"country": "Fiji"})
    assert first["messages"][2]["tool_call_id"] == call["id"]
    assert first["scores"]["solve_f1"] == {"value": 1.0}
    [metric] = [score for score in log["results"]["scores"] if score["name"] == "solve_f1"]
    assert (
        metric["metrics"]["mean"]["value"]
        == json.loads((played / "summary.json").read_text())["metrics"]["solve_f1"]["value"]
    )


def test_inspect_ai_reads_the_log(played, tmp_path, monkeypatch) -> None:
    """Needs inspect-ai, which is not among the requirements: INSPECT_PYTHON names an interpreter that has it."""
    python = os.environ.get("INSPECT_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import inspect_ai"], capture_output=True).returncode:
        pytest.skip("inspect-ai is not installed; set INSPECT_PYTHON to an interpreter that has it")
    export(monkeypatch, played, "--to", "inspect", "--out", tmp_path / "log")
    command = [python, "-c", READ_INSPECT, str(tmp_path / "log" / "environments.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    summary, rows = json.loads((played / "summary.json").read_text()), by_case(played)
    assert (found["status"], found["task"], found["epochs"]) == ("success", "environments", 2)
    assert {name: value for name, value in found["scores"].items() if name != "solve_f1_from_averages"} == {
        name: metric["value"]
        for name, metric in summary["metrics"].items()
        if metric["value"] is not None and name != "solve_f1_from_averages"
    }
    for row, (case, epoch, scores, roles, made, completion) in zip(rows, found["samples"], strict=True):
        assert (case, epoch, scores["solve_f1"]) == (row["id"], row["trial"] + 1, row["solve_f1"])
        assert roles == [message["role"] for message in row["transcript"]]
        assert made == [
            [call["function"]["name"], call["function"]["arguments"]]
            for message in row["transcript"]
            for call in message.get("tool_calls", ())
        ]
        assert completion == row["transcript"][-1]["content"]


def test_another_suite_or_an_unfinished_folder_is_refused(played, tmp_path, monkeypatch) -> None:
    with pytest.raises(BadInput, match=r"needs a result of eval\.tau_bench, this is one of environments"):
        export(monkeypatch, played, "--to", "tau-bench", "--out", tmp_path / "no")
    (played / "summary.json").unlink()
    with pytest.raises(BadInput, match="run the suite first"):
        export(monkeypatch, played, "--to", "inspect", "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()
