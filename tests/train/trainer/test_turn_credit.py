"""The advantages per turn in OpenRLHF's experiences after the adaptation equal those of the NumPy functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reward.credit import CREDITS, ESTIMATORS
from train.trainer.hindsight import turn_ranges, views_of
from train.trainer.turn_credit import spread_over_tokens


@pytest.fixture(scope="module")
def found(found_by: Callable[..., dict]) -> dict[str, Any]:
    return found_by("turn_credit_process.py")


@pytest.mark.parametrize("credit", [name for name, row in CREDITS.items() if not row.hindsight])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_token_has_its_turns_advantage(found: dict[str, Any], credit: str, estimator: str) -> None:
    assert found["gaps"][f"{credit} {estimator}"] < 1e-6
    assert found["largest"][f"{credit} {estimator}"] > 0.1


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_outcome_only_is_what_openrlhf_does_itself(found: dict[str, Any], estimator: str) -> None:
    assert found["as OpenRLHF"][estimator] < 1e-6
    assert found["without credit nothing is changed"]


def test_turns_are_weighted_by_what_the_reference_thinks_in_hindsight(found: dict[str, Any]) -> None:
    assert found["hindsight"] < 1e-6
    assert found["hindsight changes"] > 0.05
    assert found["sequences asked"] == [True, True]
    assert "needs a reference" in found["no reference"]


def test_a_view_is_the_conversation_up_to_its_depth_and_then_the_turn_again() -> None:
    """Prompt 0-1, turns 2-3, 5 and 7-8, feedback 4 and 6: an action is one place before its token."""
    turns = [0, 1, 1, 0, 2, 0, 3, 3]
    assert turn_ranges(turns) == [(2, 4), (5, 6), (7, 9)]
    found = [(tokens.tolist(), *rest) for tokens, *rest in views_of(torch.arange(9), turns, (1, 2, 3), 99)]
    assert found == [
        ([0, 1, 2, 3, 4, 2, 3], 2, (1,), 1),
        ([0, 1, 2, 3, 4, 5, 6, 2, 3], 2, (2, 3), 1),
        ([0, 1, 2, 3, 4, 5, 6, 5], 1, (1, 2, 3), 4),
    ]
    assert len(list(views_of(torch.arange(9), turns, (1, 2, 3), 8))) == 1, (
        "what is longer than a sample may be is left out"
    )
    assert list(views_of(torch.arange(9), [0] * 8, (1, 2, 3), 99)) == []


def test_a_sample_without_a_token_of_the_model_enters_no_mean(found: dict[str, Any]) -> None:
    assert found["silent"] < 1e-6
    assert found["silent itself"] == 0


def test_response_length_counts_written_tokens(found: dict[str, Any]) -> None:
    assert found["written tokens"]


def test_what_cannot_be_credited_is_refused(found: dict[str, Any]) -> None:
    assert "needs --algo.kl.use_loss" in found["KL in the reward"]
    assert "use train/agent.py" in found["another agent"]
    assert "9 turn rewards for" in found["wrong number"]
    assert found["unknown credit"].startswith("FTRL_EPISODE_CREDIT='matchtir': expected one of outcome, ")
    assert found["critic"].endswith(
        "expected an estimator among group_norm, reinforce, reinforce_baseline, rloo, dr_grpo, got gae"
    )


def test_tokens_and_actions_are_one_apart() -> None:
    """Action t - 1 predicts token t: a turn of tokens 2 and 3 is actions 1 and 2."""
    turn, worth = spread_over_tokens([(2, 4), (6, 7)], [0.5, -1.0], 6)
    assert turn.tolist() == [[0, 1, 1, 0, 0, 2]] and torch.equal(worth, torch.tensor([[0, 0.5, 0.5, 0, 0, -1.0]]))
    assert not spread_over_tokens([(2, 4)], [], 6)[0].any()
