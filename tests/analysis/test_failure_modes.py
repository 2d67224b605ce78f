"""Each way in which an episode can end has a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis import failure_modes
from analysis.failure_modes import ENDINGS, ending
from analysis.run_data.run_folder import Run

NEEDED = {"capital": 2, "population": 1}
Step = tuple[str, str, bool]


def row(calls: list[Step], final: str = "", kind: str = "other", **fields: Any) -> dict[str, Any]:
    """An episode with one call per turn (`tool, argument, whether it solved`) and a final text."""
    transcript: list[dict[str, Any]] = [{"role": "user", "content": "Question: the capital of Peru?"}]
    scores: list[dict[str, Any]] = []
    for name, argument, solved in calls:
        call = {"function": {"name": name, "arguments": {"x": argument}}}
        transcript.append({"role": "assistant", "content": "", "tool_calls": [call]})
        transcript.append({"role": "tool", "content": "Lima" if solved else "nothing"})
        scores.append({"kind": "calls", "solved": ["Lima" if solved else None]})
    if final or kind != "other":
        transcript.append({"role": "assistant", "content": final})
        scores.append({"kind": kind, "solved": []})
    solved_count = sum(solved for _, _, solved in calls)
    usual = {"solved": solved_count, "sub_questions": 3, "answer_correct": False, "outcome": "answered"}
    return usual | {"transcript": transcript, "turn_scores": scores} | fields


DONE = [("capital", "a", True), ("capital", "b", True), ("population", "c", True)]


@pytest.mark.parametrize(
    ("episode", "expected"),
    [
        (row(DONE, "It is Lima.", "answer", answer_correct=True), "success"),
        (row(DONE, "done", "all_solved_no_answer", answer_correct=None), "success"),
        (row(DONE, "The answer is Quito."), "hallucinated answer"),
        (row(DONE, "The answer is Lima."), "wrong answer"),
        (row([("clock", "a", False)], "i stop"), "wrong tool"),
        (row([("capital", "a", True), ("capital", "b", True), ("capital", "c", False)], "i stop"), "wrong tool"),
        (row([("capital", "z", False)], "i stop"), "wrong argument"),
        (row([("capital", "z", False)], outcome="max_turns"), "wrong argument"),
        (row([("capital", "z", False), ("capital", "z", False)], outcome="max_turns"), "repeated call"),
        (row([("capital", "a", True)], "<tool_call>", "malformed"), "malformed"),
        (row([("capital", "a", True)], "", "empty"), "empty or cut off"),
        (row([("capital", "a", True)], outcome="too_long"), "empty or cut off"),
        (row([], outcome="too_long"), "empty or cut off"),
        (row([("capital", "a", True)], "The answer is 4711."), "hallucinated answer"),
        (row([("capital", "a", True)], "The answer is Lima."), "gave up"),
        (row([], "i do not know."), "gave up"),
    ],
)
def test_episode_gets_the_class_of_its_ending(episode: dict[str, Any], expected: str) -> None:
    assert ending(episode, NEEDED) == expected


def test_the_cases_cover_every_class() -> None:
    marks = [mark for mark in test_episode_gets_the_class_of_its_ending.pytestmark if mark.name == "parametrize"]
    assert {case[1] for case in marks[0].args[1]} == set(ENDINGS)


def test_shares_of_each_policy_add_up_to_one(synthetic_run: Path) -> None:
    (artifact,) = failure_modes.build(Run.open(synthetic_run))
    policies = {item["policy"] for item in artifact.rows}
    assert policies == {"start", "grpo", "reinforce++", "grpo-solve-pr", "grpo-shuffled", "more-supervised"}
    for policy in policies:
        assert sum(item["share"] for item in artifact.rows if item["policy"] == policy) == pytest.approx(1)


def test_success_grows_with_skill(synthetic_run: Path) -> None:
    (artifact,) = failure_modes.build(Run.open(synthetic_run))
    share = {(item["policy"], item["ending"]): item["share"] for item in artifact.rows}
    assert share["grpo", "success"] > share["start", "success"] > 0
    assert share["start", "malformed"] > share["grpo", "malformed"]
