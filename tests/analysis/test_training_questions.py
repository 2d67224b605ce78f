"""Matching over training, the four rewards, thinking modes, general capability, and runs side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import compare_runs, general_retention, reward_ablation, reward_hacking, thinking_modes
from analysis.run_data.run_folder import Missing, NotPlanned, Run
from env_construction.environment.jsonl import BadInput, read_jsonl, write_jsonl
from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolCall
from reward.tool_calls import render_call
from train.collect_trajectories import trajectory_row
from train.policies.interface import Generation, OraclePolicy, PolicyRequest
from train.policies.rollout import play
from train.stages.policy_roles import Role, read_roles, write_roles


@pytest.fixture(scope="module")
def run(made_run: Path) -> Run:
    return Run.open(made_run)


def test_a_loose_match_scores_under_published_and_not_under_strict(made_run: Path, tmp_path: Path) -> None:
    """The sub-answer "7" stands inside the output "1975": defect 4 of the published matching."""
    environment = Environment(
        messages=[{"role": "user", "content": "Question: how many?"}],
        tools=[{"name": "count", "description": "", "parameters": {"type": "object", "properties": {}}}],  # type: ignore[list-item]
        codes={"count": "def count():\n    return 1975"},
        unsolved_set={"count": ["7"]},
        id="loose",
    )
    write_jsonl(
        tmp_path / "turns.jsonl",
        [{"id": "loose", "trial": 0, "turns": [render_call(ToolCall("count", {})), "It is 7."]}],
    )
    scores = {
        match: reward_hacking.rescored([environment], tmp_path / "turns.jsonl", match)[0]
        for match in ("published", "strict")
    }
    assert scores["published"][0]["solve_f1"] == 1.0 and scores["strict"][0]["solve_f1"] == 0.0
    assert scores["published"][0]["reward"] > scores["strict"][0]["reward"]


def test_replayed_episodes_score_as_they_did_when_played(run: Run) -> None:
    (artifact,) = reward_hacking.build(run)
    rows = {(row["policy"], row["point"]): row for row in artifact.rows}
    assert set(rows) == {(name, point) for name in ("grpo", "reinforce++") for point in ("epoch 1", "epoch 2", "test")}
    assert rows["grpo", "test"]["solve_f1_published"] == pytest.approx(
        run.summary("grpo")["metrics"]["solve_f1"]["value"]
    )
    path = run.path / "train/grpo/epoch2/trajectories.jsonl"
    recorded = [row for _, row in read_jsonl(path)]
    environments = [Environment.from_record(row["environment"], str(path)) for row in recorded]
    replayed = {row["id"]: row["solve_f1"] for row in reward_hacking.rescored(environments, path, "published")[0]}
    assert replayed == {row["id"]: row["solve_f1"] for row in recorded}, [row["outcome"] for row in recorded]
    assert rows["grpo", "epoch 2"]["solve_f1_published"] == pytest.approx(sum(replayed.values()) / len(replayed))


def test_an_episode_that_a_fault_ended_is_replayed_once_more(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.path / "train/grpo/epoch1/trajectories.jsonl"
    environments = [Environment.from_record(row["environment"], str(path)) for _, row in read_jsonl(path)][:4]
    expected, _ = reward_hacking.rescored(environments, path, "published")
    ended = {environments[1].id: 1, environments[2].id: 2}  # how often the sandbox fails in each

    def failing(policy: Any, environments: list[Environment], **settings: Any) -> list[Any]:
        episodes = play(policy, environments, **settings)
        for episode in episodes:
            if ended.get(episode.id, 0) > 0:
                ended[episode.id] -= 1
                episode.outcome, episode.fault = "fault", "sandbox died"
        return episodes

    monkeypatch.setattr(reward_hacking, "play", failing)
    rows, faults = reward_hacking.rescored(environments, path, "published")
    assert {row["id"]: row for row in rows} == {row["id"]: row for row in expected if row["id"] != environments[2].id}
    assert len(rows) == 3 and faults == ["sandbox died"]


@pytest.mark.parametrize("outcome", ["too_long", "max_turns"])
def test_episodes_cut_off_by_a_limit_keep_their_score_and_are_no_faults(run: Run, tmp_path: Path, outcome: str) -> None:
    """Recorded as a run records them: two environments answer, two are stopped after their first call."""
    environments = list(run.environments("test").values())[:4]

    class Cut(OraclePolicy):
        def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
            return [
                replace(found, text="", too_long=True)
                if outcome == "too_long" and request.turn == 1 and request.case_id in names
                else found
                for request, found in zip(requests, super().generate(requests), strict=True)
            ]

    names = {environment.id for environment in environments[:2]}
    episodes = play(Cut(), environments, max_turns=1 if outcome == "max_turns" else 20)
    starts = {environment.id: environment for environment in environments}
    recorded = tmp_path / "trajectories.jsonl"
    write_jsonl(recorded, [trajectory_row(starts[episode.id], episode) for episode in episodes])
    rows, faults = reward_hacking.rescored(environments, recorded, "published")
    assert not faults
    assert sum(row["outcome"] == outcome for row in rows) >= 2
    found = {row["id"]: (row["outcome"], row["solve_f1"]) for row in rows}
    assert found == {episode.id: (episode.outcome, episode.score.solve_f1) for episode in episodes}


def test_matching_over_training_needs_trajectories(made_run: Path, tmp_path: Path) -> None:
    shutil.copytree(made_run / "eval" / "start", tmp_path / "eval" / "start")
    shutil.copy(made_run / "policies.json", tmp_path)
    with pytest.raises(Missing, match=r"trajectories\.jsonl"):
        reward_hacking.build(Run.open(tmp_path))


def test_ablations_are_paired_with_the_full_reward(run: Run) -> None:
    (artifact,) = reward_ablation.build(run)
    full, other = artifact.rows
    assert (full["policy"], other["policy"], other["reward"]) == ("grpo", "grpo-solve-pr", "Solve-PR")
    assert "answer_correct_minus_full" in other and "calls_minus_full" in other
    assert other["solve_f1_minus_full"] == pytest.approx(other["solve_f1"] - full["solve_f1"])


def test_ablation_without_a_second_reward_names_what_is_missing(made_run: Path, tmp_path: Path) -> None:
    for policy in ("start", "grpo"):
        shutil.copytree(made_run / "eval" / policy, tmp_path / "eval" / policy)
    write_roles(tmp_path, {name: read_roles(made_run)[name] for name in ("start", "grpo")})
    with pytest.raises(NotPlanned, match="-solve-precision"):
        reward_ablation.build(Run.open(tmp_path))


def test_thinking_is_compared_on_the_same_cases(made_run: Path, tmp_path: Path) -> None:
    shutil.copytree(made_run / "eval" / "start", tmp_path / "eval" / "grpo")
    shutil.copytree(made_run / "eval" / "grpo", tmp_path / "eval" / "grpo-thinking")
    modes = {"grpo": "plain", "grpo-thinking": "thinking"}
    write_roles(tmp_path, {name: Role("start", "mini", mode) for name, mode in modes.items()})
    (artifact,) = thinking_modes.build(Run.open(tmp_path))
    assert artifact.rows[0]["scope"] == "all" and len(artifact.rows) == 5
    row = artifact.rows[0]
    assert row["solve_f1_thinking_minus_plain"] == pytest.approx(row["solve_f1_thinking"] - row["solve_f1_plain"])
    rows = Run.open(tmp_path).rows("grpo")
    spent = sum(item["completion_tokens"] for item in rows) / sum(item["solved"] for item in rows)
    assert row["tokens_per_solved_plain"] == pytest.approx(spent)


def test_tokens_per_solved_of_a_policy_that_solves_nothing_is_no_number() -> None:
    found = thinking_modes.tokens_per_solved([{"id": "a", "completion_tokens": 9, "solved": 0}])
    assert found.value is None and found.n == 0


def write_general(run: Path, policy: str, correct: dict[str, list[int]]) -> None:
    folder = run / "eval" / policy / "general"
    rows: list[dict[str, Any]] = []
    for task, answers in correct.items():
        rows += [{"id": f"{task}-{number}", "task": task, "correct": answer} for number, answer in enumerate(answers)]
    write_jsonl(folder / "results.jsonl", rows)
    (folder / "summary.json").write_text(json.dumps({"suite": "general"}))


def test_non_inferiority_needs_more_than_no_significant_loss(made_run: Path, tmp_path: Path) -> None:
    for policy in ("start", "grpo"):
        shutil.copytree(made_run / "eval" / policy, tmp_path / "eval" / policy)
    write_roles(tmp_path, {name: read_roles(made_run)[name] for name in ("start", "grpo")})
    same = [1, 0] * 400
    write_general(tmp_path, "start", {"gsm8k": same, "mmlu": same, "bbh": [1, 0, 1, 0]})
    # gsm8k: unchanged; mmlu: 5 points lost for sure; bbh: four problems, one lost and one won, which proves nothing
    write_general(tmp_path, "grpo", {"gsm8k": same, "mmlu": [0] * 80 + same[80:], "bbh": [0, 1, 1, 0]})
    (artifact,) = general_retention.build(Run.open(tmp_path))
    kept = {row["task"]: row["non_inferior"] for row in artifact.rows}
    assert kept == {"gsm8k": True, "mmlu": False, "bbh": False, "all": False}
    found = {row["task"]: row for row in artifact.rows}
    assert found["all"]["difference"] == pytest.approx(
        (0 - 5 + 0) / 3
    )  # the mean of the benchmarks, whatever their sizes
    assert found["mmlu"]["difference_p_holm"] < 0.001 and found["bbh"]["difference_p_holm"] == 1.0
    assert [row["task"] for row in artifact.rows] == ["mmlu", "bbh", "gsm8k", "all"]
    loss = next(row for row in artifact.rows if row["task"] == "mmlu")
    assert loss["difference"] == pytest.approx(-5.0) and loss["difference_n"] == 800
    assert found["all"]["margin"] == -3.0  # four problems of one benchmark support no smaller one


def test_pooled_retention_can_be_won_without_a_change_and_is_lost_by_a_loss(made_run: Path) -> None:
    """Six benchmarks of 300 problems, 6% of the answers change: by chance alone, or with a loss of 4 points on top."""
    generator = np.random.default_rng(3)

    def kept(loss: float) -> int:
        count = 0
        for _ in range(25):
            before, after = [], []
            for number in range(1800):
                drawn, either = generator.random(), int(generator.random() < 0.6)
                right, other = (1, 0) if drawn < 0.03 + loss else (0, 1) if drawn > 0.97 else (either, either)
                for rows, correct in ((before, right), (after, other)):
                    rows.append({"id": str(number), "trial": 0, "task": str(number % 6), "correct": correct})
            found = general_retention.retention(after, before, pooled=True)
            assert found is not None
            margin = general_retention.supported_margin(found["standard_error"])
            assert 1.0 <= margin <= 3.0
            count += 100 * found["one_sided_low"] > -margin
        return count

    assert kept(0.0) >= 16  # 20 of 25 expected
    assert kept(0.04) <= 1


def test_general_retention_is_missing_without_its_suites(run: Run) -> None:
    with pytest.raises(Missing, match="general suites"):
        general_retention.build(run)


def test_runs_are_paired_where_they_share_cases(made_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(made_run / "eval" / "start", other / "eval" / "grpo")
    shutil.copy(made_run / "policies.json", other)
    artifact = compare_runs.compare([Run.open(made_run), Run.open(other)])
    row = next(row for row in artifact.rows if (row["policy"], row["run"]) == ("grpo", "other"))
    first = next(row for row in artifact.rows if (row["policy"], row["run"]) == ("grpo", "made"))
    assert row["solve_f1_minus_first"] == pytest.approx(row["solve_f1"] - first["solve_f1"])
    assert "paired over the cases" in artifact.caption


def test_one_run_cannot_be_compared(made_run: Path) -> None:
    with pytest.raises(BadInput, match="two runs or more"):
        compare_runs.compare([Run.open(made_run)])
    with pytest.raises(BadInput, match="same name"):
        compare_runs.compare([Run.open(made_run), Run.open(made_run)])
