"""The health watch: warns once, stops where going on is a waste, leaves healthy runs alone."""

from typing import Any

import pytest

from train.trainer.health_watch import HealthWatch


def row(step: int, **changes: Any) -> dict[str, Any]:
    healthy = {
        "step": step, "policy_loss": -0.01, "kl": 0.02, "rollout/reward_mean": 0.5, "actor_grad_norm": 0.4,
        "fault": 0.0, "rollout/truncated_rate": 0.02, "group_reward_std": 0.3,
    }  # fmt: skip
    return {**healthy, **changes}


def messages(watch: HealthWatch, rows: list[dict[str, Any]]) -> list[list[str]]:
    return [[finding.message for finding in watch.see(each)] for each in rows]


def test_a_healthy_run_finds_nothing() -> None:
    watch = HealthWatch()
    assert messages(watch, [row(step) for step in range(1, 6)]) == [[]] * 5
    assert watch.findings == []


@pytest.mark.parametrize("key", ["policy_loss", "kl", "rollout/reward_mean", "actor_grad_norm"])
def test_a_value_that_is_no_number_stops_the_run(key: str) -> None:
    (found,) = HealthWatch().see(row(4, **{key: None}))
    assert found.stop and found.step == 4 and key in found.message


def test_kl_warns_once_and_stops_when_it_blows_up() -> None:
    watch = HealthWatch()
    assert [len(found) for found in messages(watch, [row(1, kl=0.6), row(2, kl=0.7), row(3, kl=0.4)])] == [1, 0, 0]
    (found,) = watch.see(row(4, kl=6.0))
    assert found.stop


def test_reward_faults_warn_and_stop() -> None:
    watch = HealthWatch()
    (warned,) = watch.see(row(1, fault=0.05))
    (stopped,) = watch.see(row(2, fault=0.6))
    assert not warned.stop and "5.0%" in warned.message
    assert stopped.stop


def test_truncation_and_lost_spread_take_three_steps_in_a_row() -> None:
    watch = HealthWatch()
    cut = {"rollout/truncated_rate": 0.8, "group_reward_std": 0.0}
    steps = [row(1, **cut), row(2, **cut), row(3), row(4, **cut), row(5, **cut), row(6, **cut), row(7, **cut)]
    assert [len(found) for found in messages(watch, steps)] == [0, 0, 0, 0, 0, 2, 0]
    assert {finding.rule for finding in watch.findings} == {"truncated", "spread"}


def test_timeouts_are_told_as_a_share_of_the_calls() -> None:
    assert HealthWatch().see(row(1, p=2.0, timeouts=0.03)) == []
    (found,) = HealthWatch().see(row(1, p=2.0, timeouts=0.1))
    assert found.rule == "timeouts" and "5.0% of the calls" in found.message and not found.stop
    assert HealthWatch().see(row(1, p=0.0, timeouts=0.0)) == []


def test_sandbox_time_beyond_what_its_workers_had_is_told() -> None:
    """A step of 30 s once logged 1956 s for its calls: one start time had been read as 0."""
    impossible = row(14, reward_seconds=1956.3, **{"timing/step_total": 30.0})
    (found,) = HealthWatch(sandbox_workers=8).see(impossible)
    assert found.rule == "sandbox time" and "1956 s of sandbox time in a step of 30 s with 8 workers" in found.message
    assert HealthWatch(sandbox_workers=66).see(impossible) == []
    assert HealthWatch().see(impossible) == []  # unknown


def test_entropy_beyond_twice_its_start_is_told_after_three_steps() -> None:
    watch = HealthWatch()
    rows = [row(step, entropy_loss=value) for step, value in enumerate((0.2, 0.5, 0.3, 0.41, 0.45, 0.5, 0.6), start=1)]
    assert [len(found) for found in messages(watch, rows)] == [0, 0, 0, 0, 0, 1, 0]
    assert "from 0.20 to 0.50" in watch.findings[0].message


def test_a_constant_reward_is_expected_to_have_no_spread() -> None:
    watch = HealthWatch(expect_spread=False)
    assert messages(watch, [row(step, group_reward_std=0.0) for step in range(1, 5)]) == [[]] * 4


def test_metrics_that_are_not_logged_are_not_judged() -> None:
    assert HealthWatch().see({"step": 1}) == []
