"""Write a checkpoint that is part of one and part of another, tensor by tensor or element by element (never a model in
memory).
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from analysis.checkpoints.tensors import StoredTensor, checkpoint_tensors, tie_embeddings, without_tied_head
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
Pair = tuple[StoredTensor, StoredTensor]


def paired_tensors(base: Path, trained: Path) -> dict[str, Pair]:
    """`{name: (base's tensor, trained's tensor)}`, a tied head counted once. Raises BadInput where the two do not hold
    the same tensors in the same types and shapes: a mixture would then not be a model.
    """
    one, other = tie_embeddings(*(without_tied_head(checkpoint_tensors(folder), folder) for folder in (base, trained)))
    differing = sorted(
        name for name in one.keys() | other.keys() if _signature(one.get(name)) != _signature(other.get(name))
    )
    if differing:
        name = differing[0]
        raise BadInput(
            f"{base} and {trained} cannot be mixed: tensor {name!r} is {_signature(one.get(name))} in one and "
            f"{_signature(other.get(name))} in the other ({len(differing)} differ); save both in the same type"
        )
    return {name: (one[name], other[name]) for name in sorted(one)}


def write_mixed(base: Path, trained: Path, out: Path, from_trained: Callable[[str], bool]) -> int:
    """Write `out/model.safetensors` with the tensors that `from_trained` names from `trained`, all others from `base`.

    Configuration and tokenizer files come from `base`. Returns how many tensors came from `trained`. Raises BadInput.
    """
    pairs = paired_tensors(base, trained)
    chosen = {name: pair[1] if from_trained(name) else pair[0] for name, pair in pairs.items()}
    _write(base, out, chosen, (_stored_bytes(tensor) for tensor in chosen.values()))
    return sum(from_trained(name) for name in chosen)


def write_elementwise(
    base: Path, trained: Path, out: Path, put_back: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """Write the trained model with some elements put back to the base: those where `put_back(name, old, new)` is
    true.
    """
    pairs = paired_tensors(base, trained)

    def mixed() -> Iterator[Iterable[bytes]]:
        for name, (old, new) in pairs.items():
            before, after = load(old), load(new)
            result = torch.where(put_back(name, before, after), before, after).contiguous()
            yield [result.flatten().view(torch.uint8).numpy().tobytes()]

    _write(base, out, {name: new for name, (_, new) in pairs.items()}, mixed())


def load(tensor: StoredTensor) -> torch.Tensor:
    """One tensor, read from its file."""
    with safe_open(str(tensor.path), framework="pt") as file:
        return file.get_tensor(tensor.name)


def _write(base: Path, out: Path, tensors: dict[str, StoredTensor], contents: Iterable[Iterable[bytes]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in base.iterdir():
        if path.name.startswith(MODEL_FILES):
            shutil.copyfile(path, out / path.name)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
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
        for blocks in contents:
            for block in blocks:
                handle.write(block)
    partial.replace(out / "model.safetensors")


def _stored_bytes(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.path.open("rb") as source:
        source.seek(tensor.offset)
        left = tensor.bytes
        while left:
            block = source.read(min(COPY_BYTES, left))
            yield block
            left -= len(block)


def _signature(tensor: StoredTensor | None) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}" if tensor else "absent"
