"""The change that a LoRA adapter (PEFT folder) makes to a base checkpoint, without merging the two on disk or in
memory.

An adapter's update of a weight W of shape (out, in) is s B A, with B (out, rank), A (rank, in), and s = lora_alpha /
rank (or / sqrt(rank) with `use_rslora`). It is formed a few rows at a time, added to the base rows and rounded to the
base's precision, as merging would; then the same sums are taken as for a full checkpoint.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.checkpoints.tensor_change import PIECE, Sums, TensorReader, piece_sums, total
from analysis.checkpoints.tensors import ITEM_BYTES, StoredTensor, checkpoint_tensors
from env_construction.environment.jsonl import BadInput

_NAME = re.compile(
    r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>A|B|embedding_A|embedding_B)(?:\.[^.]+)?(?:\.weight)?$"
)
_TORCH_TYPE = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_BITS_TYPE = {"BF16": (torch.int16, np.uint16), "F16": (torch.int16, np.int16), "F32": (torch.float32, np.float32)}


@dataclass(frozen=True)
class LoraUpdate:
    """`scale * up @ down` is added to the base tensor `target`; both factors are float32."""

    target: str
    up: torch.Tensor
    down: torch.Tensor
    scale: float


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _factor(tensor: StoredTensor, reader: TensorReader) -> torch.Tensor:
    bits = reader.read(tensor, 0, tensor.elements).copy()
    raw = torch.from_numpy(bits.view(np.int16) if tensor.dtype in ("BF16", "F16") else bits)
    return (raw.view(_TORCH_TYPE[tensor.dtype]) if tensor.dtype in _TORCH_TYPE else raw).float().reshape(tensor.shape)


def _pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    """PEFT's rank_pattern and alpha_pattern: the first key that the module's name ends with, as a regular
    expression.
    """
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", module) or fnmatch.fnmatch(module, f"*.{key}"):
            return float(value)
    return default


def lora_updates(folder: Path, base: dict[str, StoredTensor]) -> tuple[list[LoraUpdate], list[str]]:
    """The updates of an adapter folder, and names of its tensors that fit nothing in `base`. Raises BadInput."""
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise BadInput(f"{path}: expected JSON") from None
    if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora"):
        raise BadInput(f"{path}: only plain LoRA adapters can be compared; merge this one into a checkpoint first")
    tensors = checkpoint_tensors(folder)
    reader = TensorReader()
    sides: dict[tuple[str, bool], dict[str, torch.Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        match = _NAME.match(name)
        target = f"{match['module']}.weight" if match else None
        if match is None or target not in base:
            unknown.append(name)
            continue
        embedding = match["side"].startswith("embedding")
        sides.setdefault((match["module"], embedding), {})[match["side"][-1]] = _factor(tensor, reader)
    reader.close()
    updates = []
    for (module, embedding), found in sides.items():
        if set(found) != {"A", "B"}:
            raise BadInput(f"{folder}: module {module!r} has only lora_{next(iter(found))}, expected lora_A and lora_B")
        up, down = found["B"], found["A"]
        rank = down.shape[0]
        alpha = _pattern(config.get("alpha_pattern") or {}, module, float(config.get("lora_alpha", rank)))
        scale = alpha / (sqrt(rank) if config.get("use_rslora") else rank)
        if embedding or config.get("fan_in_fan_out"):
            up, down = down.T.contiguous(), up.T.contiguous()
        expected, given = base[f"{module}.weight"].shape, (up.shape[0], down.shape[1])
        if expected != given:
            raise BadInput(f"{folder}: the update of {module!r} has shape {given}, the base weight {expected}")
        updates.append(LoraUpdate(f"{module}.weight", up, down, scale))
    return updates, unknown


def compare_update(tensor: StoredTensor, update: LoraUpdate, on_bytes: Callable[[int], Any] | None = None) -> Sums:
    """Sums of a base tensor against itself with the update merged, a few rows at a time."""
    reader, parts = TensorReader(), []
    rows, columns = tensor.shape
    step = max(1, PIECE // columns)
    torch_bits, array_type = _BITS_TYPE[tensor.dtype]
    for first in range(0, rows, step):
        last = min(first + step, rows)
        before = reader.read(tensor, first * columns, (last - first) * columns)
        signed = before.view(np.int16) if tensor.dtype != "F32" else before
        weights = torch.from_numpy(signed).view(_TORCH_TYPE[tensor.dtype]).float().reshape(last - first, columns)
        merged = (weights + update.scale * (update.up[first:last] @ update.down)).to(_TORCH_TYPE[tensor.dtype])
        after = merged.reshape(-1).view(torch_bits).numpy().view(array_type)
        parts.append(piece_sums(before, after, tensor.dtype))
        if on_bytes:
            on_bytes((last - first) * columns * ITEM_BYTES[tensor.dtype])
    reader.close()
    return total(parts)
