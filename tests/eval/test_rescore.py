"""Rescoring stored episodes: the same rules give the same scores; other rules report the changed cases."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import write_environments
from env_construction.sandbox.tool_sandbox import ToolCall
from eval import environments as suite
from eval import rescore as script
from eval.rescore import StoredEpisodes, changed_cases, find_data
from eval.suites.results import read_rows
from reward.rewards import REWARDS
from reward.tool_calls import render_call
from tests.reward.stateful_bank import bank, close, owner, transfer
from train.policies.interface import PolicyRequest, ReplayPolicy


def call(country: str) -> str:
    return render_call(ToolCall("capital_of", {"country": country}))


HIDDEN = f"<think>{call('Fiji')}</think>wait"  # executed as published, thinking in strict


@pytest.fixture
def folder(environments, tmp_path, monkeypatch) -> Path:
    """A run's folder with the results of four recorded episodes under the published reading."""
    (tmp_path / "environments").mkdir()
    data = tmp_path / "environments" / "test.jsonl"
    write_environments(data, environments)
    turns = [
        [HIDDEN, "It is Suva."],
        [call("Peru"), "Lima"],
        [call("Peru") + "<tool_call>\n{broken\n</tool_call>", call("Fiji"), "?"],
        ["<tool_call>"],
    ]
    recorded = tmp_path / "turns.jsonl"
    lines = [json.dumps({"id": case.id, "turns": texts}) for case, texts in zip(environments, turns, strict=True)]
    recorded.write_text("\n".join(lines) + "\n")
    out = tmp_path / "eval" / "grpo"
    line = ["--policy", f"replay:{recorded}", "--data", data, "--out", out, "--max-turns", 7, "--seed", 3]
    monkeypatch.setattr(sys, "argv", ["environments", *map(str, line)])
    assert suite.main() == 0
    return out


def rescored(monkeypatch: pytest.MonkeyPatch, *line: object) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["rescore", *map(str, line)])
    assert script.main() == 0
    out = Path(str(line[line.index("--out") + 1])) if "--out" in line else Path(str(line[0])) / "rescored"
    return json.loads((out / "rescore.json").read_text())


def test_the_same_reading_changes_nothing(folder, monkeypatch, capsys) -> None:
    found = rescored(monkeypatch, folder)
    assert (found["changed"], found["protocol_differences"], found["goes_on"], found["ends_earlier"]) == ([], [], 0, 0)
    assert all(item["difference"] == 0 for item in found["comparison"]["metrics"].values())
    assert "0 of 4 episodes are scored differently" in capsys.readouterr().out
    before, after = read_rows(folder), read_rows(folder / "rescored")
    assert [row["turn_scores"] for row in before] == [row["turn_scores"] for row in after]
    settings = json.loads((folder / "rescored" / "configuration.json").read_text())
    assert (settings["max_turns"], settings["seed"], settings["match"]) == (7, 3, "published")


def test_strict_parses_the_same_text_differently(folder, environments, monkeypatch, capsys) -> None:
    found = rescored(monkeypatch, folder, "--match", "strict", "--out", folder / "strict")
    assert found["protocol_differences"] == ["matching: published, strict"]
    changed = {item["id"]: item for item in found["changed"]}
    first, third = changed[environments[0].id], changed[environments[2].id]
    assert first["solve_f1"] == [1.0, 0.0] and first["turns"] == [2, 1], "the call is inside the thinking"
    assert third["calls"] == [2, 3], "the unreadable call counts"
    assert changed[environments[3].id]["calls"] == [0, 1]
    assert environments[1].id not in changed
    assert (found["goes_on"], found["ends_earlier"]) == (0, 1)
    assert found["comparison"]["metrics"]["solve_f1"]["b"] < found["comparison"]["metrics"]["solve_f1"]["a"]
    assert set(found["rewards"]) == set(REWARDS)
    rewards = {item["id"]: item for item in found["changed_rewards"]}
    assert rewards[environments[0].id]["solve_f1"] == [1.0, 0.0], "(1 for the call, 1 for the end) / 2; then no call"
    assert environments[1].id not in rewards
    assert found["rewards"]["solve_f1"]["a"] == pytest.approx(_mean_reward(folder))
    said = capsys.readouterr().out
    assert "3 of 4 episodes are scored differently" in said and "mean reward per episode: solve_f1 " in said
    assert "0 episodes would continue beyond their record under these rules, 1 end before it" in said


def _mean_reward(folder: Path) -> float:
    rows = read_rows(folder)
    return sum(sum(t["reward"] for t in row["turn_scores"]) / (row["sub_questions"] + 1) for row in rows) / len(rows)


def test_fewer_turns_cut_episodes_and_an_episode_beyond_its_record_is_scored_as_it_is(folder, monkeypatch) -> None:
    cut = rescored(monkeypatch, folder, "--max-turns", 1, "--out", folder / "one")
    assert cut["ends_earlier"] == 3 and "turns: 7, 1" in cut["protocol_differences"]
    rows = [row for _, row in read_jsonl(folder / "one" / "results.jsonl")]
    (folder / "one" / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    longer = rescored(
        monkeypatch, folder / "one", "--max-turns", 7, "--data", folder.parents[1] / "environments" / "test.jsonl"
    )
    assert longer["goes_on"] == 3 and longer["comparison"]["faults_b"] == 0


def test_tokens_and_cut_off_turns_are_those_of_the_record(folder, environments, tmp_path) -> None:
    rows = read_rows(folder)
    [row] = [row for row in rows if row["id"] == environments[1].id]
    row["turn_scores"][1] |= {"tokens": 5, "prompt_tokens": 40, "truncated": True}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = StoredEpisodes(path)
    [generation] = policy.generate([PolicyRequest(environments[1], environments[1].id, 0, 1, 0)])
    assert (generation.tokens, generation.prompt_tokens, generation.truncated) == (5, 40, True)
    assert isinstance(policy, ReplayPolicy)


def test_data_are_found_by_their_hash_and_other_data_are_refused(folder, environments, tmp_path, monkeypatch) -> None:
    hashes = json.loads((folder / "summary.json").read_text())["data_sha256"]
    assert find_data(folder, hashes) == (tmp_path / "environments" / "test.jsonl").resolve()
    assert find_data(folder, {"test.jsonl": "0" * 64}) is None
    write_environments(tmp_path / "other.jsonl", environments[:2])
    monkeypatch.setattr(sys, "argv", ["rescore", str(folder), "--data", str(tmp_path / "other.jsonl")])
    with pytest.raises(BadInput, match=r"its SHA-256 is not that of the data behind"):
        script.main()
    (tmp_path / "environments" / "test.jsonl").unlink()
    monkeypatch.setattr(sys, "argv", ["rescore", str(folder)])
    with pytest.raises(BadInput, match=r"cannot find its data .*; pass the file with --data"):
        script.main()


@pytest.mark.parametrize(
    ("line", "said"),
    [(["--out", "."], "this is the folder to rescore"), ([], "expected the summary.json of a finished suite")],
)
def test_results_that_cannot_be_rescored_are_refused(folder, monkeypatch, line, said) -> None:
    if not line:
        (folder / "summary.json").unlink()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rescore", str(folder), *line])
    with pytest.raises(BadInput, match=said):
        script.main()


def test_an_unknown_flag_is_a_usage_error(folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["rescore", str(folder), "--matching", "strict"])
    with pytest.raises(SystemExit):
        script.main()
    assert "--matching" in capsys.readouterr().err


def test_changed_cases_leave_time_out() -> None:
    was = [{"id": "a", "trial": 0, "x": 1.0, "seconds": 3.0, "failure": ""}, {"id": "b", "trial": 0, "x": 1.0}]
    now = [{"id": "a", "trial": 0, "x": 0.5, "seconds": 9.0, "failure": "wrong"}, {"id": "b", "trial": 0, "x": 1.0}]
    assert changed_cases(was, now) == [{"id": "a", "trial": 0, "x": [1.0, 0.5], "failure": ["", "wrong"]}]


def test_a_harmful_turn_keeps_its_reward(tmp_path, monkeypatch) -> None:
    """The reward of a turn that changes what nobody asked for does not follow from its counts."""
    (tmp_path / "environments").mkdir()
    data = tmp_path / "environments" / "test.jsonl"
    write_environments(data, [bank()])
    turns = [transfer(100) + owner(), close("A1"), "The answer is 330, Cleo Hart."]
    (tmp_path / "turns.jsonl").write_text(json.dumps({"id": "bank", "turns": turns}) + "\n")
    line = ["--policy", f"replay:{tmp_path / 'turns.jsonl'}", "--data", data, "--out", tmp_path / "eval" / "x"]
    monkeypatch.setattr(sys, "argv", ["environments", *map(str, line), "--match", "strict"])
    assert suite.main() == 0
    found = rescored(monkeypatch, tmp_path / "eval" / "x")
    assert _mean_reward(tmp_path / "eval" / "x") == pytest.approx((4 / 3 - 0.5) / 3)
    assert [found["rewards"]["solve_f1"][side] for side in "ab"] == pytest.approx([(4 / 3 - 0.5) / 3] * 2)
