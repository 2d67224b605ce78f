"""Right answers that training loses: each lost case gets one reason, and the shares add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis import lost_answers
from analysis.lost_answers import ALL, LOSSES, loss
from analysis.run_data.run_folder import Run
from tests.analysis.test_failure_modes import DONE, NEEDED, row


@pytest.mark.parametrize(
    ("episode", "expected"),
    [
        (row([("capital", "a", True)], "The answer is Lima."), "never called"),
        (row([("capital", "a", True), ("clock", "x", False)], "The answer is Lima."), "never called"),
        # both capitals were asked for, one in vain, and the population too
        (
            row([("capital", "a", True), ("capital", "z", False), ("population", "c", True)], "The answer is Lima."),
            "called without success",
        ),
        (row(DONE, "The answer is Quito."), "wrong answer"),
        (row(DONE, "<tool_call>", "malformed"), "no answer"),
        (row([("capital", "a", True)], outcome="max_turns"), "no answer"),
        (row([], outcome="answered"), "never called"),
    ],
)
def test_a_lost_answer_gets_its_reason(episode: dict[str, Any], expected: str) -> None:
    assert loss(episode, NEEDED) == expected


def test_won_minus_lost_is_the_change_and_the_reasons_add_up(synthetic_run: Path) -> None:
    (artifact,) = lost_answers.build(Run.open(synthetic_run))
    assert {item["policy"] for item in artifact.rows} >= {"grpo", "reinforce++"}
    for item in artifact.rows:
        assert item["won"] - item["lost"] == pytest.approx(item["after"] - item["before"])
        assert sum(item[name] for name in LOSSES) == pytest.approx(item["lost"])
    whole = [item for item in artifact.rows if item["scenario"] == ALL]
    for item in whole:
        parts = [part for part in artifact.rows if part["policy"] == item["policy"] and part["scenario"] != ALL]
        assert sum(part["lost"] * part["lost_n"] for part in parts) == pytest.approx(item["lost"] * item["lost_n"])
