"""vLLM's worker extension on a CPU: OpenRLHF's `WorkerWrap` without CUDA tensors and without the trainer's imports.

vLLM starts its workers as new processes, which neither Ray's setup hook nor the launcher reaches. It imports its worker
extension by name before it builds the model. Importing this module therefore adapts the process, and no other process
may import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from train.trainer.openrlhf_launcher import install
from train.trainer.openrlhf_on_cpu import WeightChannel

install()


class CpuWorker:
    """Receives the trainer's weights, one parameter at a time."""

    def init_process_group(
        self, master_address: str, master_port: int, rank_offset: int, world_size: int, *_: Any, **__: Any
    ) -> None:
        rank = torch.distributed.get_rank() + rank_offset
        self._weights = WeightChannel(master_address, master_port, rank, world_size)

    def update_weight(self, name: str, dtype: Any, shape: Sequence[int], empty_cache: bool = False) -> None:
        weight = torch.empty(tuple(shape), dtype=dtype)
        self._weights.broadcast(weight, src=0)
        self.model_runner.model.load_weights(weights=[(name, weight)])  # type: ignore[attr-defined]
