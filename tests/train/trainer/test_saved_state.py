"""A run killed while it saves the trainer's state can always restart, and the optimizer needs no compiler."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.trainer.saved_state import recover, saved_step


@pytest.fixture(scope="module")
def found(found_by: Callable[..., dict], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """OpenRLHF's and DeepSpeed's own saving and loading, in a process that the launcher adapted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return found_by("trainer_process.py", tmp_path_factory.mktemp("s"), port)


@pytest.mark.parametrize("stage", ["ZeRO-3", "ZeRO-2"])
def test_the_optimizer_is_torchs_adamw_without_a_compiler(found: dict[str, Any], stage: str) -> None:
    made = found[stage]
    assert (made["optimizer"], made["fused"]) == ("AdamW", True)
    assert made["difference"] < 1e-6
    assert made["after loading"] == 0.0


def test_a_kill_at_any_file_operation_of_a_save_leaves_a_run_that_starts(found: dict[str, Any]) -> None:
    assert found["operations of a save"] >= 10
    assert found["steps after a kill in the third save"] == [2, 3]
    assert found["steps after a kill in the first save"] == [0, 1]
    assert found["interrupted saves"] >= 20 and found["kills of one run"] >= 20


def make_state(state: Path, entity: str, step: int, whole: bool = True) -> Path:
    folder = state / entity / f"global_step{step}"
    folder.mkdir(parents=True)
    (folder / "mp_rank_00_model_states.pt").write_bytes(b"weights")
    if whole:
        (folder / "metric.json").write_text("{}", encoding="utf-8")
    return folder


def test_without_a_state_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert (recover(tmp_path / "state"), saved_step(tmp_path / "state")) == (0, 0)
    (tmp_path / "state" / "_actor").mkdir(parents=True)
    assert recover(tmp_path / "state") == 0
    assert not (tmp_path / "state").exists(), "OpenRLHF fails on a folder without a state"


def test_latest_may_name_what_is_gone_or_not_whole(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, "_actor", 8)
    make_state(state, "_actor", 12, whole=False)
    for named in ("global_step12", "global_step16", "global_st", ""):
        (state / "_actor" / "latest").write_text(named, encoding="utf-8")
        assert (recover(state), saved_step(state)) == (8, 8)
    assert [folder.name for folder in (state / "_actor").iterdir() if folder.is_dir()] == ["global_step8"]
    assert (tmp_path / "incomplete_state" / "_actor" / "global_step12").is_dir()


def test_steps_are_numbers_not_text(tmp_path: Path) -> None:
    for step in (8, 12):
        make_state(tmp_path / "state", "_actor", step)
    assert recover(tmp_path / "state") == 12


def test_actor_and_critic_resume_from_one_step(tmp_path: Path) -> None:
    """They save side by side: one may have finished a step that the other has not."""
    state = tmp_path / "state"
    for entity in ("_actor", "_critic"):
        make_state(state, entity, 4)
    make_state(state, "_actor", 8)
    make_state(state, "_critic", 8, whole=False)
    assert recover(state, ("_actor", "_critic")) == 4
    assert [(state / entity / "latest").read_text() for entity in ("_actor", "_critic")] == ["global_step4"] * 2
    assert recover(state, ("_actor", "_critic")) == 4
