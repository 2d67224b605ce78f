"""What a run used of its GPUs stands beside what was predicted; without nvidia-smi nothing is claimed."""

import time
from pathlib import Path

import pytest

from train.experiments import experiment
from train.trainer.memory_plan import memory_plan
from train.trainer.peak_memory import PeakMemory

PLAN = memory_plan(experiment("qwen2.5-1.5b-plain-grpo"), 1, 1, 23.9)


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_peak_of_each_gpu_is_kept_when_memory_is_freed_again(tmp_path, monkeypatch) -> None:
    (tmp_path / "used").write_text("0, 1024\n1, 512\n")
    fake_nvidia_smi(tmp_path, monkeypatch, f"cat {tmp_path}/used")
    with PeakMemory(interval_s=0.01) as peak:
        (tmp_path / "used").write_text("0, 2048\n1, 20480\n")
        deadline = time.monotonic() + 20
        while peak.gib.get(1) != 20.0 and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "used").write_text("0, 1\n1, 1\n")
    assert peak.gib == {0: 2.0, 1: 20.0}
    assert peak.line(PLAN) == (
        f"GPU memory: up to 20.0 GiB used of 23.9 (GPU 1), {PLAN.peak:.1f} predicted for sequences of full length"
    )


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'"])
def test_nothing_is_claimed_where_nvidia_smi_does_not_answer(tmp_path, monkeypatch, script) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, script)
    with PeakMemory(interval_s=0.01) as peak:
        pass
    assert peak.line(PLAN) == "" and not peak.gib
