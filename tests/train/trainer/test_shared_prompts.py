"""Log-probabilities, entropy, loss and gradients with shared prompts are those of OpenRLHF's own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from train.trainer.shared_prompts import groups_by_prompt


@pytest.fixture(scope="module")
def found(found_by: Callable[..., dict]) -> dict[str, Any]:
    return found_by("shared_prompts_process.py")


def test_log_probabilities_and_entropy_are_the_same_at_every_action(found: dict[str, Any]) -> None:
    assert found["compared"] > 100
    assert found["log-probabilities"] < 1e-5
    assert found["entropy"] < 1e-5


def test_gradients_of_a_loss_are_the_same(found: dict[str, Any]) -> None:
    assert found["gradient of the loss"] > 0.1
    assert found["gradients"] < 1e-5


def test_a_shared_prompt_reaches_the_model_once(found: dict[str, Any]) -> None:
    whole, shared = found["tokens whole"], found["tokens shared"]
    assert shared == found["tokens that are not the same prompt again"] < whole / 2


def test_a_row_without_an_action_and_episodes_of_several_turns_are_read(found: dict[str, Any]) -> None:
    assert found["rows without action are zero"]
    assert found["several turns"] < 1e-5


def test_models_with_a_window_keep_their_own_forward(found: dict[str, Any]) -> None:
    assert found["window"] == [True, False]


def test_mini_batches_hold_whole_groups_in_an_order_that_the_seed_decides(found: dict[str, Any]) -> None:
    assert found["groups per mini-batch"] == [2, 2]
    assert sorted(found["order"]) == list(range(16))
    assert found["order"] == found["order with the same seed"] != found["order with another seed"]
    assert found["in order where nothing is shuffled"] == list(range(16))


def test_groups_are_rows_with_the_same_prompt_wherever_they_stand() -> None:
    rows = [[1, 2, 5], [1, 3, 5], [1, 2, 6], [1, 2], [1, 2, 5, 7]]
    assert groups_by_prompt(rows, [2, 2, 2, 2, 3]) == [[0, 2, 3], [1], [4]]
