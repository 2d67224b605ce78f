"""Collection as a command: rows that give every prefix back, resumed where it was cut, refused where it would mix."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import write_environments
from reward.tool_calls import render_call
from train import collect_trajectories
from train.collect_trajectories import load_environments, prefix_environments, read_trajectories
from train.policies.interface import Generation, OraclePolicy, PolicyRequest, ReplayPolicy, ready_calls
from train.policies.rollout import play


@pytest.fixture
def data(environments, tmp_path) -> Path:
    write_environments(tmp_path / "train.jsonl", environments)
    return tmp_path / "train.jsonl"


def collect(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["collect_trajectories", *map(str, arguments)])
    assert collect_trajectories.main() == 0


def replay_file(path: Path, turns: dict[str, list[str]]) -> str:
    path.write_text("".join(json.dumps({"id": case, "turns": texts}) + "\n" for case, texts in turns.items()))
    return f"replay:{path}"


def test_rows_give_back_the_states_that_the_rollout_saw(monkeypatch, data, environments, sandbox, tmp_path) -> None:
    collect(monkeypatch, "--environments", data, "--policy", "oracle", "--out", tmp_path / "out")
    rows = {row["id"]: row for _, row in read_trajectories(tmp_path / "out" / "trajectories.jsonl")}
    for episode in play(OraclePolicy(), environments, sandbox=sandbox):
        row = rows[episode.id]
        found = [state.model_dump() for state in prefix_environments(row)]
        assert found == [state.model_dump() for state in episode.prefixes]
        assert row["messages"] == episode.state.messages
        assert (row["solve_f1"], row["answer_correct"], row["outcome"]) == (1.0, True, "answered")
        assert len(row["turns"]) == len(row["rewards"]) == len(row["kinds"]) == len(row["prefixes"])


def test_killed_run_goes_on_and_ends_with_the_same_file_content(monkeypatch, data, tmp_path) -> None:
    arguments = ["--environments", data, "--policy", "random", "--trials", 3, "--seed", 4, "--out"]
    collect(monkeypatch, *arguments, tmp_path / "whole")
    whole = (tmp_path / "whole" / "trajectories.jsonl").read_bytes()
    collect(monkeypatch, *arguments, tmp_path / "cut")
    file = tmp_path / "cut" / "trajectories.jsonl"
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    collect(monkeypatch, *arguments, tmp_path / "cut")
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert file.read_bytes().splitlines(keepends=True)[:5] == lines[:5]


def test_finished_run_plays_nothing_again(monkeypatch, data, tmp_path, capsys) -> None:
    arguments = ["--environments", data, "--policy", "random", "--out", tmp_path / "out"]
    collect(monkeypatch, *arguments)
    monkeypatch.setattr(collect_trajectories, "play", None)
    collect(monkeypatch, *arguments)
    assert "4 episodes (4 from earlier runs; nothing new to play)" in capsys.readouterr().out


def test_folder_of_another_configuration_is_refused(monkeypatch, data, tmp_path) -> None:
    collect(monkeypatch, "--environments", data, "--policy", "random", "--out", tmp_path / "out")
    with pytest.raises(BadInput, match="seed: 0 in the folder, 1 requested"):
        collect(monkeypatch, "--environments", data, "--policy", "random", "--out", tmp_path / "out", "--seed", 1)


def test_limit_of_turns_and_of_tokens_keep_their_last_state(monkeypatch, data, tmp_path) -> None:
    call = render_call(ready_calls(load_environments(data, 1)[0])[0])
    spec = replay_file(tmp_path / "recorded.jsonl", {"atlas-single_hop": [call] * 3})
    collect(
        monkeypatch, "--environments", data, "--limit", 1, "--policy", spec, "--max-turns", 3, "--out", tmp_path / "out"
    )
    [(where, row)] = read_trajectories(tmp_path / "out" / "trajectories.jsonl")
    states = prefix_environments(row, where)
    assert row["outcome"] == "max_turns"
    assert [len(state.messages) for state in states] == [1, 3, 5, 7]
    assert [state.unsolved_count for state in states] == [1, 0, 0, 0]


def test_turns_cut_off_at_the_limit_of_tokens_are_said(monkeypatch, data, tiny_checkpoint, tmp_path, capsys) -> None:
    arguments = ["--environments", data, "--policy", f"hf:{tiny_checkpoint}", "--max-turns", 2]
    collect(monkeypatch, *arguments, "--max-new-tokens", 2, "--out", tmp_path / "short")
    rows = [row for _, row in read_trajectories(tmp_path / "short" / "trajectories.jsonl")]
    written = [tokens for row in rows for tokens in row["completion_tokens"]]
    assert f"of {len(written)} turns" in (said := capsys.readouterr().out) and "were cut off at 2 tokens" in said
    collect(monkeypatch, "--environments", data, "--policy", "oracle", "--out", tmp_path / "oracle")
    assert "cut off" not in capsys.readouterr().out


def test_fault_is_recorded_apart_and_played_again(monkeypatch, data, tmp_path) -> None:
    names = [environment.id for environment in load_environments(data)]
    spec = replay_file(tmp_path / "recorded.jsonl", {name: ["done"] for name in names})
    arguments = ["--environments", data, "--policy", spec, "--out", tmp_path / "out"]
    whole = ReplayPolicy.generate

    def broken(policy: ReplayPolicy, requests: Sequence[PolicyRequest]) -> list[Generation]:
        return [
            Generation("", 0, 0, False, fault="server gone") if request.case_id == names[3] else found
            for request, found in zip(requests, whole(policy, requests), strict=True)
        ]

    with monkeypatch.context() as patched:
        patched.setattr(ReplayPolicy, "generate", broken)
        collect(patched, *arguments)
    rows, faults = tmp_path / "out" / "trajectories.jsonl", tmp_path / "out" / "faults.jsonl"
    assert [row["id"] for _, row in read_jsonl(rows)] == names[:3]
    assert [(row["id"], row["fault"]) for _, row in read_jsonl(faults)] == [(names[3], "server gone")]
    collect(monkeypatch, *arguments)
    assert [row["id"] for _, row in read_jsonl(rows)] == names
    assert faults.read_bytes() == b""


def test_changed_replay_file_or_checkpoint_under_one_path_is_refused(
    monkeypatch, data, tiny_checkpoint, tmp_path
) -> None:
    spec = replay_file(tmp_path / "recorded.jsonl", {"atlas-single_hop": ["done"]})
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    for name, policy in (("replay", spec), ("model", f"hf:{model}")):
        arguments = ["--environments", data, "--limit", 1, "--max-turns", 1, "--max-new-tokens", 4]
        collect(monkeypatch, *arguments, "--policy", policy, "--out", tmp_path / name)
        kept = (tmp_path / name / "trajectories.jsonl").read_bytes()
        if name == "replay":
            replay_file(tmp_path / "recorded.jsonl", {"atlas-single_hop": ["another"]})
        else:
            weights = bytearray((model / "model.safetensors").read_bytes())
            weights[-1] ^= 1
            (model / "model.safetensors").write_bytes(weights)
        with pytest.raises(BadInput, match=r"policy_content\.(sha256|weights): '\w+' in the folder, '\w+' requested"):
            collect(monkeypatch, *arguments, "--policy", policy, "--out", tmp_path / name)
        assert (tmp_path / name / "trajectories.jsonl").read_bytes() == kept


def test_limit_and_trials_that_are_raised_extend_the_collection(monkeypatch, data, tmp_path) -> None:
    arguments = ["--environments", data, "--policy", "random", "--seed", 4]
    out = ["--out", tmp_path / "out"]
    file = tmp_path / "out" / "trajectories.jsonl"
    collect(monkeypatch, *arguments, "--limit", 2, *out)
    first = file.read_bytes()
    collect(monkeypatch, *arguments, "--trials", 2, *out)
    collect(monkeypatch, *arguments, "--trials", 2, "--out", tmp_path / "at_once")
    assert file.read_bytes().startswith(first)
    at_once = (tmp_path / "at_once" / "trajectories.jsonl").read_bytes()
    assert sorted(file.read_bytes().splitlines()) == sorted(at_once.splitlines())
    with pytest.raises(BadInput, match="trials: 2 in the folder, 1 requested"):
        collect(monkeypatch, *arguments, *out)


def test_same_id_twice_is_refused(environments, tmp_path) -> None:
    write_environments(tmp_path / "twice.jsonl", [environments[0], environments[0]])
    with pytest.raises(BadInput, match=r"twice.jsonl: id 'atlas-single_hop' occurs twice"):
        load_environments(tmp_path / "twice.jsonl")


def test_row_of_another_shape_is_refused_with_its_place() -> None:
    with pytest.raises(BadInput, match=r"rows.jsonl:3: expected a row of train.collect_trajectories"):
        prefix_environments({"prefixes": [], "messages": []}, "rows.jsonl:3")
