"""Stateful episodes: tables pass from call to call, never to another episode, and survive a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from env_construction.sandbox.tool_sandbox import ToolSandbox
from reward.openrlhf_inputs import environment_of
from reward.scoring import score_turn
from serving.episodes.errors import EpisodeError
from serving.episodes.log import EpisodeLog
from serving.episodes.server import EpisodeServer
from serving.exports.labels import LabelSettings, label_of, score_labels
from tests.reward.stateful_bank import bank, close, owner, transfer
from train.collect_trajectories import prefix_environments, trajectory_row
from train.policies.interface import OraclePolicy
from train.policies.rollout import play
from train.rl_prompts import prompt_label

ANSWER = "The answer is 330, Cleo Hart."
MOVE = {"sender": "A1", "receiver": "A2", "amount": 100}


def test_calls_of_an_episode_share_tables_and_episodes_do_not(sandbox: ToolSandbox) -> None:
    server = EpisodeServer({"bank": bank()}, sandbox=sandbox)
    first, second = (server.reset(id="bank").episode for _ in range(2))
    outputs = [server.call(first, "transfer", {**MOVE, "amount": 50}, turn=turn).output for turn in (0, 1)]
    assert outputs == ['{"balance of the receiver": 280}', '{"balance of the receiver": 330}']
    both = server.call_many([(second, "transfer", MOVE, None), (second, "transfer", MOVE, None)])
    assert both[0].output == '{"balance of the receiver": 330}'  # type: ignore[union-attr]
    assert isinstance(both[1], EpisodeError) and both[1].code == "busy"
    server.call(first, "owner_of", {"account": "A3"})
    outcome = server.finish(first, ANSWER)
    assert outcome.strict.score.answer_correct and outcome.strict.score.solved == 2


def test_harm_costs_in_a_served_episode(sandbox: ToolSandbox) -> None:
    server = EpisodeServer({"bank": bank()}, sandbox=sandbox)
    key = server.reset(id="bank").episode
    server.turn(key, transfer(100) + owner())
    server.turn(key, close("A1"))
    outcome = server.finish(key, ANSWER)
    assert [turn.reward for turn in outcome.strict.turns] == pytest.approx([4 / 3, -0.5, 0.0])
    assert not outcome.strict.score.answer_correct and outcome.published.score.answer_correct


def test_an_episode_continues_on_its_tables_after_a_restart(tmp_path: Path, sandbox: ToolSandbox) -> None:
    environments = {"bank": bank()}
    with EpisodeServer(environments, sandbox=sandbox, log=EpisodeLog(tmp_path, "data")) as server:
        key = server.reset(id="bank").episode
        server.call(key, "transfer", {**MOVE, "amount": 50})
    with EpisodeServer(environments, sandbox=sandbox, log=EpisodeLog(tmp_path, "data")) as server:
        result = server.call(key, "transfer", {**MOVE, "amount": 50})
        assert result.output == '{"balance of the receiver": 330}'


def test_a_prefix_and_both_kinds_of_label_carry_the_tables(sandbox: ToolSandbox) -> None:
    [episode] = play(OraclePolicy(), [bank()], match="strict", sandbox=sandbox)
    start, after = prefix_environments(trajectory_row(episode))
    assert start.state is not None and not start.state.changes
    assert after.state is not None and after.state.is_right() and after.state.credited == ["s1"]
    labels = [prompt_label(after), label_of(after, LabelSettings("solve_f1", "strict", "turn"))]
    assert score_labels([(labels[1], [close("A2")])], sandbox)[0][0] == -0.5
    assert score_turn(environment_of(labels[0], "strict"), close("A2"), match="strict", sandbox=sandbox).reward == -0.5
