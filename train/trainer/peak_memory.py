"""Measure a run's peak memory per GPU with nvidia-smi, to compare it with train/trainer/memory_plan.py's prediction."""

from __future__ import annotations

import subprocess
import threading
from types import TracebackType

from train.trainer.memory_plan import MemoryPlan

QUERY = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]


class PeakMemory:
    """`with PeakMemory() as peak:` samples every `interval_s` seconds; `peak.gib` has the highest GiB by GPU index.

    It counts all programs on the GPU. Without nvidia-smi it stays empty and costs nothing.
    """

    def __init__(self, interval_s: float = 2.0) -> None:
        self.gib: dict[int, float] = {}
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._read():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._read()

    def _read(self) -> bool:
        try:
            answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=True).stdout
            rows = [line.split(",") for line in answer.splitlines() if line.strip()]
            for index, used in ((int(row[0]), float(row[1]) / 1024) for row in rows):
                self.gib[index] = max(self.gib.get(index, 0.0), used)
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return False
        return True

    def line(self, plan: MemoryPlan) -> str:
        """One line that compares used and predicted memory; empty if nothing was measured."""
        if not self.gib:
            return ""
        used = max(self.gib.values())
        return (
            f"GPU memory: up to {used:.1f} GiB used of {plan.gpu_gib:.1f} "
            f"(GPU {max(self.gib, key=self.gib.__getitem__)}), {plan.peak:.1f} predicted for sequences of full length"
        )
