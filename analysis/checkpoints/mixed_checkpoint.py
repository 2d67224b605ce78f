"""Write a checkpoint that takes each tensor from one of two others, copied byte by byte (never a model in memory)."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from analysis.checkpoints.tensors import StoredTensor, checkpoint_tensors, tie_embeddings
from env_construction.environment.jsonl import BadInput

COPY_BYTES = 16 << 20
# What a checkpoint folder holds beside the weights: configuration, tokenizer, chat template.
MODEL_FILES = (
    "config.json",
    "generation_config",
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
)


def write_mixed(base: Path, trained: Path, out: Path, from_trained: Callable[[str], bool]) -> int:
    """Write `out/model.safetensors` with the tensors that `from_trained` names from `trained`, all others from `base`.

    Configuration and tokenizer files come from `base`. Returns how many tensors came from `trained`. Raises BadInput where the
    two do not hold the same tensors in the same types and shapes: a mixture would then not be a model.
    """
    one, other = tie_embeddings(checkpoint_tensors(base), checkpoint_tensors(trained))
    differing = sorted(
        name for name in one.keys() | other.keys() if _signature(one.get(name)) != _signature(other.get(name))
    )
    if differing:
        name = differing[0]
        raise BadInput(
            f"{base} and {trained} cannot be mixed: tensor {name!r} is {_signature(one.get(name))} in one and "
            f"{_signature(other.get(name))} in the other ({len(differing)} differ); save both in the same type"
        )
    chosen = {name: other[name] if from_trained(name) else one[name] for name in sorted(one)}
    out.mkdir(parents=True, exist_ok=True)
    for path in base.iterdir():
        if path.name.startswith(MODEL_FILES):
            shutil.copyfile(path, out / path.name)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in chosen.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.bytes],
        }
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    partial = out / "model.safetensors.partial"
    with partial.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for tensor in chosen.values():
            with tensor.path.open("rb") as source:
                source.seek(tensor.offset)
                left = tensor.bytes
                while left:
                    block = source.read(min(COPY_BYTES, left))
                    handle.write(block)
                    left -= len(block)
    partial.replace(out / "model.safetensors")
    return sum(from_trained(name) for name in chosen)


def _signature(tensor: StoredTensor | None) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}" if tensor else "absent"
