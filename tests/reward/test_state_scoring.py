"""Stateful turns: the final tables decide, harm costs, and nothing can be earned twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from env_construction.environment.schema import Environment
from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.attacks import ATTACKS
from reward.audit import audit
from reward.scoring import EpisodeScore, TurnScore, advance, score_episode, score_turn, score_turns, sub_answers
from reward.state_attacks import STATE_ATTACKS
from tests.reward.stateful_bank import TABLES, bank, close, owner, transfer

ANSWER = "The answer is 330, Cleo Hart."


def play(sandbox: ToolSandbox, texts: Sequence[str], match: str = "strict") -> tuple[list[TurnScore], EpisodeScore]:
    """The turns' scores and the episode's, turn after turn as in a rollout."""
    start = state = bank()
    scores = []
    for text in texts:
        scores.append(score_turn(state, text, match=match, sandbox=sandbox))
        state = advance(state, scores[-1])
    total = score_episode(start.unsolved_count, scores, start.answer, texts[-1], match, sub_answers(start))
    return scores, total


# turns -> (rewards, solved at the end, answer correct)
EPISODES: dict[str, tuple[list[str], list[float], int, bool]] = {
    "gold plan": ([transfer(100) + owner(), ANSWER], [4 / 3, 1.0], 2, True),
    "gold plan, one call per turn": ([transfer(100), owner(), ANSWER], [1.0, 1.0, 1.0], 2, True),
    "another plan to the same tables": ([transfer(60), transfer(40) + owner(), ANSWER], [0.0, 4 / 3, 1.0], 2, True),
    "only reads": ([owner(), ANSWER], [1.0, 1 / 2], 1, False),
    "another amount": ([transfer(150) + owner(), ANSWER], [-0.5, 0.0], 1, False),
    "undo in the same turn": ([transfer(100) + transfer(100, "A2", "A1"), ANSWER], [0.0, 1 / 3], 0, False),
    "undo in a later turn": ([transfer(100), transfer(100, "A2", "A1"), ANSWER], [1.0, -0.5, 0.0], 0, False),
    "done, undone, done": (
        [transfer(100), transfer(100, "A2", "A1"), transfer(100), owner(), ANSWER],
        [1.0, -0.5, 0.0, 1.0, 1.0],
        2,
        True,
    ),
    "an unasked change beside": ([transfer(100) + close("A1") + owner(), ANSWER], [-0.5, 0.0], 1, False),
    "an unasked change later": ([transfer(100) + owner(), close("A2"), ANSWER], [4 / 3, -0.5, 0.0], 1, False),
    "a refused call": ([transfer(100) + close("A3") + owner(), ANSWER], [1.0, 1.0], 2, True),
}


@pytest.mark.parametrize("name", EPISODES)
def test_rewards_follow_the_tables(name: str, sandbox: ToolSandbox) -> None:
    texts, rewards, solved, correct = EPISODES[name]
    turns, total = play(sandbox, texts)
    assert [turn.reward for turn in turns] == pytest.approx(rewards)
    assert (total.solved, total.answer_correct) == (solved, correct)


def test_published_knows_outputs_only(sandbox: ToolSandbox) -> None:
    turns, total = play(sandbox, [transfer(100) + transfer(100, "A2", "A1") + owner(), ANSWER], "published")
    assert turns[0].q == 2 and total.answer_correct


def test_each_episode_has_its_own_tables_and_the_record_keeps_the_first(sandbox: ToolSandbox) -> None:
    one = bank()
    scores = score_turns(
        [(one, transfer(100)), (one, transfer(100)), (one, owner("A2"))], match="strict", sandbox=sandbox
    )
    assert [score.results[0].output for score in scores[:2]] == ['{"balance of the receiver": 330}'] * 2
    assert one.state is not None and one.state.tables == TABLES and not one.state.changes
    after = advance(one, scores[0])
    assert after.state is not None and after.state.now["account"]["A2"]["balance"] == 330


def test_calls_of_a_turn_run_in_order_on_one_state(sandbox: ToolSandbox) -> None:
    score = score_turn(bank(), transfer(400) + transfer(400), match="strict", sandbox=sandbox)
    assert "630" in score.results[0].output
    assert score.results[1].output == '{"error": "An amount above the balance cannot be transferred."}'


def test_a_turn_that_hangs_leaves_the_tables_as_they_were() -> None:
    slow = bank().model_copy(
        update={"codes": {**bank().codes, "close": "def close(state, account):\n    while 1: pass\n"}}
    )
    with ToolSandbox(workers=1, timeout_s=1.0, cpu_s=1.0) as sandbox:
        score = score_turn(slow, transfer(100) + close("A1"), match="strict", sandbox=sandbox)
    assert [result.status for result in score.results] == ["timeout", "timeout"]
    assert score.state is not None and not score.state.changes and score.q == 0


def test_tools_get_tables_and_no_gold(sandbox: ToolSandbox) -> None:
    spy = "def close(state, account):\n    return [sorted(state), sorted(globals())]\n"
    peek = bank().model_copy(update={"codes": {**bank().codes, "close": spy}})
    output = score_turn(peek, close("A1"), match="strict", sandbox=sandbox).results[0].output
    assert output.startswith('[["account"]') and "goals" not in output and "330" not in output


def test_strict_gives_attacks_on_the_state_nothing(sandbox: ToolSandbox) -> None:
    rows = {row["attack"]: row for row in audit([bank()], "solve_f1", sandbox)}
    assert set(rows) == set(ATTACKS) | set(STATE_ATTACKS)
    for name in STATE_ATTACKS:
        assert rows[name]["strict"]["reward"] <= 0, name
    earned = {name for name in STATE_ATTACKS if rows[name]["published"]["reward"] > 0}
    assert {"undo_changes", "gold_plan_and_more", "answer_after_harm", "answer_after_undo"} <= earned


def test_an_environment_without_state_gets_no_state_attacks(sandbox: ToolSandbox) -> None:
    plain = Environment(messages=bank().messages, tools=[], codes={}, unsolved_set={"owner_of": ["Cleo Hart"]})
    assert not {row["attack"] for row in audit([plain], "solve_f1", sandbox)} & set(STATE_ATTACKS)
