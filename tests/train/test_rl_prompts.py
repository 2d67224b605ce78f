"""RL prompts: each question once, every prefix with feedback, nothing dropped without being counted."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import write_environments
from reward.openrlhf_reward import reward_func
from train import rl_prompts
from train.collect_trajectories import read_trajectories, trajectory_row
from train.policies.chat_templates import CHATML_TEMPLATE
from train.policies.interface import OraclePolicy, RandomPolicy
from train.policies.prompts import load_tokenizer, render_prompt, template_sha256
from train.policies.rollout import play
from train.rl_prompts import PromptCounts, training_states


@pytest.fixture
def trajectories(environments, sandbox, tmp_path) -> Path:
    """Two oracle episodes of each environment: 4 questions, and 1 + 1 + 2 + 3 prefixes with feedback, all twice."""
    path = tmp_path / "trajectories.jsonl"
    with path.open("w") as out:
        for episode in play(OraclePolicy(), environments, trials=2, sandbox=sandbox):
            out.write(json.dumps(trajectory_row(episode)) + "\n")
    return path


def make(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["rl_prompts", "--out", str(out), *map(str, arguments)])
    assert rl_prompts.main() == 0
    return [row for _, row in read_jsonl(out)], json.loads(out.with_name(out.stem + ".summary.json").read_text())


def test_each_question_once_and_every_prefix_with_feedback(
    monkeypatch, trajectories, tiny_checkpoint, tmp_path
) -> None:
    rows, summary = make(
        monkeypatch,
        tmp_path / "p.jsonl",
        "--trajectories",
        trajectories,
        "--tokenizer",
        tiny_checkpoint,
        "--rollout-batch",
        6,
    )
    assert (summary["trajectories"], summary["prefixes"]) == (8, 2 * (4 + 7))
    assert (summary["repeated_questions"], summary["over_long"], summary["trimmed"], summary["kept"]) == (4, 0, 0, 18)
    assert (summary["rollout_batches"], summary["kept_questions"]) == (3, 4)
    tokenizer = load_tokenizer(tiny_checkpoint)
    expected = [
        render_prompt(tokenizer, state.messages, state.openai_tools(), False)
        for state, _ in training_states(read_trajectories(trajectories), PromptCounts())
    ]
    assert sorted(row["prompt"] for row in rows) == sorted(expected)
    assert {row["template_sha256"] for row in rows} == {template_sha256(tokenizer), summary["template_sha256"]}


def test_prompts_do_not_depend_on_which_episode_ended_first(
    monkeypatch, trajectories, tiny_checkpoint, tmp_path
) -> None:
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(trajectories.read_text().splitlines(keepends=True))))
    options = ("--tokenizer", tiny_checkpoint, "--rollout-batch", 6, "--max-prompts", 12)
    made = [
        make(monkeypatch, tmp_path / f"{path.stem}.prompts.jsonl", "--trajectories", path, *options)[0]
        for path in (trajectories, turned)
    ]
    assert made[0] == made[1]


def test_label_is_what_the_reward_reads(monkeypatch, trajectories, environments, tiny_checkpoint, tmp_path) -> None:
    rows, _ = make(
        monkeypatch,
        tmp_path / "p.jsonl",
        "--trajectories",
        trajectories,
        "--tokenizer",
        tiny_checkpoint,
        "--rollout-batch",
        6,
    )
    labels = [json.loads(row["label"]) for row in rows]
    assert all(set(label) == {"id", "codes", "unsolved_set", "solved_set", "solve_rate", "answer"} for label in labels)
    states = {environment.id: environment for environment in environments}
    texts = []
    for row, label in zip(rows, labels, strict=True):
        gold = states[label["id"]]
        texts.append(row["prompt"] + f"The answer is {gold.answer}.")
    rewards = reward_func(texts, [row["prompt"] for row in rows], [row["label"] for row in rows])["rewards"]
    unsolved = [sum(map(len, label["unsolved_set"].values())) for label in labels]
    assert rewards.tolist() == pytest.approx([1 / (t + 1) for t in unsolved], abs=2**-15)
    assert {label["solve_rate"] for label in labels} >= {0.0, 0.5, 1.0}


def test_over_long_trimmed_and_surplus_prompts_are_counted(
    monkeypatch, trajectories, tiny_checkpoint, tmp_path
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    base = ["--trajectories", trajectories, "--tokenizer", tiny_checkpoint]
    rows, _ = make(monkeypatch, tmp_path / "all.jsonl", *base, "--rollout-batch", 1)
    lengths = sorted(len(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]) for row in rows)
    limit = lengths[14]
    fitting = sum(length <= limit for length in lengths)
    kept, summary = make(
        monkeypatch,
        tmp_path / "some.jsonl",
        *base,
        "--max-prompt-tokens",
        limit,
        "--max-prompts",
        11,
        "--rollout-batch",
        4,
    )
    assert summary["over_long"] == 18 - fitting
    assert (summary["over_max_prompts"], summary["trimmed"], summary["kept"]) == (fitting - 11, 3, 8)
    parts = ("repeated_questions", "over_long", "over_max_prompts", "trimmed", "kept")
    assert sum(summary[part] for part in parts) == summary["prefixes"]
    assert len(kept) == 8
    assert all(len(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]) <= limit for row in kept)


def test_order_follows_the_seed(monkeypatch, trajectories, tiny_checkpoint, tmp_path) -> None:
    base = ["--trajectories", trajectories, "--tokenizer", tiny_checkpoint, "--rollout-batch", 2, "--seed"]
    first, _ = make(monkeypatch, tmp_path / "a.jsonl", *base, 1)
    again, _ = make(monkeypatch, tmp_path / "b.jsonl", *base, 1)
    other, _ = make(monkeypatch, tmp_path / "c.jsonl", *base, 2)
    assert first == again
    assert first != other
    assert sorted(row["prompt"] for row in first) == sorted(row["prompt"] for row in other)


def test_less_than_one_batch_is_refused_and_nothing_written(
    monkeypatch, trajectories, tiny_checkpoint, tmp_path
) -> None:
    with pytest.raises(BadInput, match="18 prompts do not fill one rollout batch of 32"):
        make(
            monkeypatch,
            tmp_path / "p.jsonl",
            "--trajectories",
            trajectories,
            "--tokenizer",
            tiny_checkpoint,
            "--rollout-batch",
            32,
        )
    assert not (tmp_path / "p.jsonl").exists()


def test_thinking_prompts_need_a_model_that_thinks(monkeypatch, trajectories, tiny_checkpoint, tmp_path) -> None:
    folder = tmp_path / "without"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "chat_template.jinja").write_text(CHATML_TEMPLATE)
    with pytest.raises(BadInput, match="has no thinking mode"):
        make(
            monkeypatch,
            tmp_path / "p.jsonl",
            "--trajectories",
            trajectories,
            "--tokenizer",
            folder,
            "--thinking",
        )


def test_unsolved_calls_leave_their_prefixes_with_all_unsolved(environments, sandbox) -> None:
    [episode] = play(RandomPolicy(stop=0.0), environments[3:], max_turns=4, seed=1, sandbox=sandbox)
    row = trajectory_row(episode)
    counts = PromptCounts()
    states = training_states([("row", row)], counts)
    assert counts.prefixes == len(states) == 5
    assert [bare for _, bare in states] == [True, False, False, False, False]
    assert [state.unsolved_count for state, _ in states] == [
        *(prefix.unsolved_count for prefix in episode.prefixes),
        episode.state.unsolved_count,
    ]


def test_bare_questions_of_environments_for_whole_episodes(
    monkeypatch, environments, tiny_checkpoint, tmp_path
) -> None:
    write_environments(tmp_path / "train.jsonl", environments)
    line = ("--environments", tmp_path / "train.jsonl", "--tokenizer", tiny_checkpoint, "--rollout-batch", 2)
    rows, summary = make(monkeypatch, tmp_path / "p.jsonl", *line)
    tokenizer = load_tokenizer(tiny_checkpoint)
    expected = {
        render_prompt(tokenizer, environment.messages, environment.openai_tools(), False): environment
        for environment in environments
    }
    assert {row["prompt"] for row in rows} == expected.keys() and len(rows) == 4
    for row in rows:
        label, environment = json.loads(row["label"]), expected[row["prompt"]]
        assert (label["thinking"], label["id"]) == (False, environment.id)
        assert label["unsolved_set"] == environment.unsolved_set
        assert label["gold_plan"] == [call.model_dump() for call in environment.gold_plan] != []
    assert (summary["prefixes"], summary["kept"], summary["kept_questions"]) == (4, 4, 4)
    assert summary["dropped_when_rendered_again"] == "", "this template only appends"


def test_prompts_come_from_trajectories_or_from_environments(monkeypatch, tmp_path, capsys) -> None:
    for more in ([], ["--trajectories", "a", "--environments", "b"]):
        monkeypatch.setattr(sys, "argv", ["rl_prompts", "--out", "p", "--tokenizer", "t", *more])
        with pytest.raises(SystemExit):
            rl_prompts.main()
        assert "--environments" in capsys.readouterr().err
