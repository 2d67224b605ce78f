"""Where each tensor of a checkpoint lies on disk, without loading any of them.

Reads the headers of a Hugging Face folder's safetensors files, one file or sharded. Format: 8 bytes little-endian
header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the data (safetensors specification,
"Format").
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
ITEM_BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
KINDS = ("q", "k", "v", "o", "gate", "up", "down", "norms", "embeddings", "head", "other")
BLOCKS = {"q": "attention", "k": "attention", "v": "attention", "o": "attention"} | {
    "gate": "MLP",
    "up": "MLP",
    "down": "MLP",
}
HEAD = "lm_head.weight"
_PROJECTION = re.compile(r"\b(?:(q|k|v|o|gate|up|down)_proj|(o|gate)_?proj)\b")
_LAYER = re.compile(r"\b(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor on disk: `elements` items of `dtype` from byte `offset` of `path`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]


def layer_of(name: str) -> int | None:
    """Number of the transformer layer that a tensor belongs to, None outside the layers."""
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None


def kind_of(name: str) -> str:
    """Kind of module, one of KINDS; q_norm and k_norm count as norms, a projection's bias as the projection."""
    match = _PROJECTION.search(name)
    if match:
        return match.group(1) or match.group(2)
    if "norm" in name or re.search(r"\bln_", name):
        return "norms"
    if "lm_head" in name:
        return "head"
    return "embeddings" if "embed" in name or re.search(r"\bwte\b", name) else "other"


def block_of(name: str) -> str:
    """attention, MLP, norms, embeddings, head or other."""
    kind = kind_of(name)
    return BLOCKS.get(kind, kind)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of one safetensors file by name. Raises BadInput for a file that is cut off or is none."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= size - 8:
            raise BadInput(f"{path}: not a safetensors file (its header would be {length} bytes, the file has {size})")
        try:
            header: dict[str, Any] = json.loads(handle.read(length))
        except ValueError:
            raise BadInput(f"{path}: not a safetensors file (its header is no JSON)") from None
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        if entry["dtype"] not in ITEM_BYTES:
            raise BadInput(f"{path}: tensor {name!r} has the unknown type {entry['dtype']!r}")
        if 8 + length + stop > size:
            raise BadInput(f"{path}: cut off in tensor {name!r} (needs {8 + length + stop} bytes, the file has {size})")
        tensors[name] = StoredTensor(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + start)
        if tensors[name].bytes != stop - start:
            raise BadInput(f"{path}: tensor {name!r} has {stop - start} bytes, its shape {entry['shape']} needs others")
    return tensors


def checkpoint_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint folder by name. Raises BadInput, also for a shard that the index names and is
    absent.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such checkpoint folder")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError):
            raise BadInput(f"{index}: expected a JSON object with 'weight_map'") from None
        paths = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        weight_map = {}
        single = folder / "model.safetensors"
        paths = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not paths:
        raise BadInput(f"{folder}: no *.safetensors file in it")
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        if not path.is_file():
            raise BadInput(f"{path}: no such file, but {index.name} names it")
        tensors |= read_header(path)
    for name in weight_map:
        if name not in tensors:
            raise BadInput(f"{index}: names tensor {name!r}, which is in none of its files")
    return tensors


def _head_and_embeddings(tensors: dict[str, StoredTensor]) -> tuple[StoredTensor | None, StoredTensor | None]:
    name = next((name for name in tensors if name.endswith("embed_tokens.weight")), "")
    return tensors.get(HEAD), tensors.get(name)


def without_tied_head(tensors: dict[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """The tensors but for a head that is only a second copy of the embeddings, so that tied weights count once.

    A head is a copy where the folder's config.json ties it (loading then ignores a stored head), or its bytes are those
    of the embeddings.
    """
    head, embeddings = _head_and_embeddings(tensors)
    if head is None or embeddings is None or (head.shape, head.dtype) != (embeddings.shape, embeddings.dtype):
        return tensors
    if not (_config_ties(folder) or _same_bytes(head, embeddings)):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name != HEAD}


def _config_ties(folder: Path) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return bool({**(config.get("text_config") or {}), **config}.get("tie_word_embeddings"))
    except (ValueError, TypeError, AttributeError):
        raise BadInput(f"{path}: expected a JSON object") from None


def _same_bytes(one: StoredTensor, other: StoredTensor, block: int = 16 << 20) -> bool:
    with one.path.open("rb") as first, other.path.open("rb") as second:
        first.seek(one.offset)
        second.seek(other.offset)
        for start in range(0, one.bytes, block):
            size = min(block, one.bytes - start)
            if first.read(size) != second.read(size):
                return False
    return True


def tie_embeddings(
    base: dict[str, StoredTensor], trained: dict[str, StoredTensor]
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Both checkpoints with a head, if one of them has one: the other's embeddings, tied to its head, stand in for it.

    They do so only where they have the head's shape.
    """
    result = []
    for mine, other in ((base, trained), (trained, base)):
        _, embeddings = _head_and_embeddings(mine)
        if HEAD not in mine and HEAD in other and embeddings and embeddings.shape == other[HEAD].shape:
            mine = {**mine, HEAD: embeddings}
        result.append(mine)
    return result[0], result[1]
