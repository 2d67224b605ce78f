"""Evaluation on environments: ceiling, floor, hand-counted decomposition, resuming, faults, the published data."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import Environment, write_environments
from env_construction.sandbox.tool_sandbox import ToolCall
from eval import environments as suite
from eval.environments import result_row
from reward.tool_calls import render_call
from train.policies.interface import Generation, PolicyRequest, ReplayPolicy
from train.policies.rollout import play

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "ftrl_test_sample.jsonl"


def call(country: str) -> str:
    return render_call(ToolCall("capital_of", {"country": country}))


@pytest.fixture
def data(environments, tmp_path) -> Path:
    write_environments(tmp_path / "test.jsonl", environments)
    return tmp_path / "test.jsonl"


def measure(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["environments", *map(str, arguments)])
    assert suite.main() == 0
    return json.loads((Path(str(arguments[arguments.index("--out") + 1])) / "summary.json").read_text())


def test_a_call_with_nan_leaves_valid_json_lines(monkeypatch, data: Path, tmp_path: Path) -> None:
    turn = '<tool_call>\n{"name": "capital_of", "arguments": {"country": NaN, "depth": 1e999}}\n</tool_call>'
    ids = [record["id"] for _, record in read_jsonl(data)]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps({"id": i, "turns": [turn, "No."]}) + "\n" for i in ids))
    measure(monkeypatch, "--policy", f"replay:{tmp_path / 'turns.jsonl'}", "--data", data, "--out", tmp_path / "out")
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]
    assert len(rows) == len(ids)
    for row in rows:
        [call] = row["transcript"][-3]["tool_calls"]
        assert call["function"]["arguments"] == {"country": None, "depth": None}
        assert row["turn_scores"][0]["text"] == turn


def row_of(
    environment: Environment, turns: list[str], sandbox: Any, tmp_path: Path, match: str = "published"
) -> dict[str, Any]:
    file = tmp_path / "turns.jsonl"
    file.write_text(json.dumps({"id": environment.id, "turns": turns}) + "\n")
    [episode] = play(ReplayPolicy(file), [environment], sandbox=sandbox, match=match)
    return result_row(episode)


@pytest.mark.parametrize("match", ["published", "strict"])
def test_oracle_is_exactly_one_on_every_metric(monkeypatch, data, tmp_path, match) -> None:
    summary = measure(monkeypatch, "--policy", "oracle", "--data", data, "--out", tmp_path / "out", "--match", match)
    metrics = (
        "solve_p",
        "solve_r",
        "solve_f1",
        "solve_f1_from_averages",
        "answer_correct",
        "format_rate",
        "tool_rate",
        "argument_rate",
    )
    for table in (summary["metrics"], *summary["by_scenario"].values(), *summary["by_hops"].values()):
        assert {name: (table[name]["value"], table[name]["high"]) for name in metrics} == dict.fromkeys(
            metrics, (1.0, 1.0)
        )
        n = table["solve_f1"]["n"]  # n of n correct has Wilson's lower bound, not 1
        assert table["solve_f1"]["low"] == pytest.approx(n / (n + 1.96**2), abs=1e-4)
        assert all(table[name]["low"] < 1 for name in metrics)
    assert set(summary["by_scenario"]) == {"single_hop", "parallel_single_hop", "multi_hop", "parallel_multi_hop"}
    assert list(summary["by_hops"]) == ["1", "2", "5"]
    assert (summary["faults"], summary["metrics"]["solve_f1"]["n"]) == (0, 4)
    assert summary["smallest_resolvable_difference"]["solve_f1"] is None


def test_random_policy_is_far_below_and_its_spread_resolves_something(monkeypatch, data, tmp_path) -> None:
    summary = measure(
        monkeypatch, "--policy", "random", "--data", data, "--out", tmp_path / "out", "--trials", 20, "--seed", 3
    )
    assert summary["metrics"]["solve_f1"]["value"] < 0.4
    assert summary["metrics"]["answer_correct"]["value"] < 0.4
    assert summary["metrics"]["format_rate"]["value"] == 1.0
    assert summary["metrics"]["solve_f1"]["n"] == 4
    assert summary["rows"] == 80


def test_rates_counted_by_hand(environments, sandbox, tmp_path) -> None:
    turns = [
        call("Peru") + "\n" + call("Fiji"),  # needed and solving; needed and not solving
        call("Ghana") + "\n" + call("Ghana"),  # needed and solving; nothing left for the second
        render_call(ToolCall("larger_of", {"a": 1, "b": 2}))
        + "\n<tool_call>\n{broken\n</tool_call>",  # not needed; malformed
        "The capitals are Lima and Accra.",
    ]
    row = row_of(environments[1], turns, sandbox, tmp_path)
    assert (row["parsed_calls"], row["malformed_calls"], row["needed_calls"], row["solved"]) == (5, 1, 3, 2)
    assert row["format_rate"] == 3 / 4
    assert row["tool_rate"] == 3 / 5
    assert row["argument_rate"] == 2 / 3
    assert (row["solve_p"], row["solve_r"], row["solve_f1"]) == pytest.approx((2 / 5, 1.0, 4 / 7))
    assert row["answer_correct"] is True
    strict = row_of(environments[1], turns, sandbox, tmp_path, "strict")
    assert (strict["calls"], strict["solve_p"]) == (6, pytest.approx(2 / 6))


@pytest.mark.parametrize(
    ("turns", "failure"),
    [
        ([call("Fiji"), "It is Suva."], ""),
        ([call("Fiji"), "It is Lima."], "wrong_answer"),
        ([call("Peru"), "It is Suva."], "unsolved"),
        (["It is Suva."], "no_calls"),
        ([""], "empty"),
        (["<tool_call>"], "malformed"),
        ([call("Peru")] * 20, "max_turns"),
    ],
)
def test_kind_of_failure(environments, sandbox, tmp_path, turns, failure) -> None:
    assert row_of(environments[0], turns, sandbox, tmp_path)["failure"] == failure


def test_rate_over_nothing_is_none_and_a_stray_tag_is_an_attempt(environments, sandbox, tmp_path) -> None:
    silent = row_of(environments[0], [""], sandbox, tmp_path)
    assert (silent["format_rate"], silent["tool_rate"], silent["argument_rate"]) == (None, None, None)
    stray = row_of(environments[0], ["</tool_call>"], sandbox, tmp_path)
    assert (stray["format_rate"], stray["malformed_calls"], stray["parsed_calls"]) == (0.0, 1, 0)


def test_row_holds_the_transcript_and_each_turns_score(environments, sandbox, tmp_path) -> None:
    row = row_of(environments[0], [call("Fiji"), "It is Suva."], sandbox, tmp_path)
    assert [message["role"] for message in row["transcript"]] == ["user", "assistant", "tool", "assistant"]
    assert [(score["reward"], score["p"], score["q"], score["kind"]) for score in row["turn_scores"]] == [
        (1.0, 1, 1, "calls"),
        (1.0, 0, 0, "answer"),
    ]
    assert row["turn_scores"][0]["solved"] == ["Suva"]


def test_replay_reproduces_the_results(monkeypatch, data, environments, tmp_path) -> None:
    recorded = tmp_path / "turns.jsonl"
    turns = [[call("Fiji"), "Suva"], [call("Peru"), "Lima"], [call("Peru"), call("Fiji"), "?"], ["<tool_call>"]]
    recorded.write_text(
        "".join(
            json.dumps({"id": case.id, "turns": texts}) + "\n" for case, texts in zip(environments, turns, strict=True)
        )
    )
    first = measure(monkeypatch, "--policy", f"replay:{recorded}", "--data", data, "--out", tmp_path / "first")
    results = tmp_path / "first" / "results.jsonl"
    again = measure(monkeypatch, "--policy", f"replay:{results}", "--data", data, "--out", tmp_path / "again")
    assert again["metrics"] == first["metrics"]
    assert first["metrics"]["solve_r"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 0) / 4)
    assert first["metrics"]["answer_correct"]["value"] == 0.5


def test_a_killed_run_resumes_and_a_finished_one_loads_no_policy(monkeypatch, data, tmp_path, capsys) -> None:
    arguments = ["--policy", "random", "--data", data, "--trials", 4, "--seed", 5, "--out"]
    whole = measure(monkeypatch, *arguments, tmp_path / "whole")
    measure(monkeypatch, *arguments, tmp_path / "cut")
    file = tmp_path / "cut" / "results.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:7]) + lines[7][:30])
    resumed = measure(monkeypatch, *arguments, tmp_path / "cut")
    assert resumed["metrics"] == whole["metrics"]
    assert file.read_bytes().splitlines(keepends=True)[:7] == lines[:7]
    monkeypatch.setattr("eval.suites.suite.load_policy", None)
    measure(monkeypatch, *arguments, tmp_path / "cut")
    assert "all 16 episodes are complete" in capsys.readouterr().out


def test_turns_cut_off_at_the_token_limit_are_counted_and_reported(
    monkeypatch, data, tiny_checkpoint, tmp_path, capsys
) -> None:
    arguments = ["--policy", f"hf:{tiny_checkpoint}", "--data", data, "--max-turns", 2, "--out", tmp_path / "short"]
    summary = measure(monkeypatch, *arguments, "--max-new-tokens", 2)
    cut_off, turns = summary["cut_off_turns"]["cut_off"], summary["cut_off_turns"]["all"]
    assert 0 < cut_off <= turns == sum(row["turns"] for _, row in read_jsonl(tmp_path / "short" / "results.jsonl"))
    assert f"{cut_off} of {turns} turns ({cut_off / turns:.1%}) were cut off at 2 tokens" in capsys.readouterr().out
    whole = measure(monkeypatch, "--policy", "oracle", "--data", data, "--out", tmp_path / "oracle")
    assert whole["cut_off_turns"]["cut_off"] == 0 and "cut off" not in capsys.readouterr().out


def test_other_configuration_is_refused_before_anything_is_written(monkeypatch, data, tmp_path) -> None:
    measure(monkeypatch, "--policy", "random", "--data", data, "--out", tmp_path / "out")
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    with pytest.raises(BadInput, match="policy: 'random' in the folder, 'oracle' requested"):
        measure(monkeypatch, "--policy", "oracle", "--data", data, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_faults_are_left_out_counted_and_played_again(monkeypatch, data, environments, tmp_path, capsys) -> None:
    recorded = tmp_path / "turns.jsonl"
    turns = {environment.id: ["?"] for environment in environments} | {environments[0].id: [call("Fiji"), "Suva"]}
    recorded.write_text("".join(json.dumps({"id": case, "turns": texts}) + "\n" for case, texts in turns.items()))
    arguments = ["--policy", f"replay:{recorded}", "--data", data, "--out", tmp_path / "out"]
    whole = ReplayPolicy.generate

    def broken(policy: ReplayPolicy, requests: Sequence[PolicyRequest]) -> list[Generation]:
        return [
            replace(found, fault=f"server {index} gone") if request.case_id == environments[3].id else found
            for index, (request, found) in enumerate(zip(requests, whole(policy, requests), strict=True))
        ]

    with monkeypatch.context() as patched:
        patched.setattr(ReplayPolicy, "generate", broken)
        summary = measure(patched, *arguments)
    sentence = "1 of 4 episodes was lost to faults and is not scored (1 x server N gone)"
    assert summary["faults_text"] == sentence and sentence in capsys.readouterr().out
    assert (summary["faults"], summary["metrics"]["solve_r"]["n"]) == (1, 3)
    assert summary["metrics"]["solve_r"]["value"] == pytest.approx(1 / 3)
    assert [row["id"] for _, row in read_jsonl(tmp_path / "out" / "faults.jsonl")] == [environments[3].id]
    summary = measure(monkeypatch, *arguments)
    assert (summary["faults"], summary["metrics"]["solve_r"]["value"]) == (0, 0.25)
    assert summary["faults_text"] == ""


def test_batched_model_scores_what_it_scores_one_at_a_time(monkeypatch, data, tiny_checkpoint, tmp_path) -> None:
    arguments = [
        "--policy",
        f"hf:{tiny_checkpoint}",
        "--data",
        data,
        "--max-new-tokens",
        10,
        "--trials",
        2,
        "--temperature",
        1,
        "--out",
    ]
    batched = measure(monkeypatch, *arguments, tmp_path / "batched")
    single = measure(monkeypatch, *arguments, tmp_path / "single", "--batch-size", 1, "--in-flight", 1)
    assert batched["metrics"] == single["metrics"]
    texts = [
        {
            (row["id"], row["trial"]): [score["text"] for score in row["turn_scores"]]
            for _, row in read_jsonl(tmp_path / name / "results.jsonl")
        }
        for name in ("batched", "single")
    ]
    assert texts[0] == texts[1]
    assert batched["metrics"]["completion_tokens"]["value"] > 0


@pytest.mark.skipif(not SAMPLE.exists(), reason="the 40 published environments are not available")
def test_published_environments_are_played_and_scored_by_scenario(monkeypatch, tmp_path) -> None:
    summary = measure(monkeypatch, "--policy", "random", "--data", SAMPLE, "--out", tmp_path / "out", "--max-turns", 4)
    assert summary["metrics"]["solve_f1"]["n"] == 40
    assert {name: table["solve_f1"]["n"] for name, table in summary["by_scenario"].items()} == dict.fromkeys(
        ("single_hop", "parallel_single_hop", "multi_hop", "parallel_multi_hop"), 10
    )
    assert summary["metrics"]["solve_f1"]["value"] < 0.3
    with pytest.raises(BadInput, match="no gold_plan"):
        measure(monkeypatch, "--policy", "oracle", "--data", SAMPLE, "--out", tmp_path / "oracle")
