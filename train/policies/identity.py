"""The content-based identity of a policy, recorded in result folders so that results of two policies never mix.

| spec | what identifies it |
| --- | --- |
| `hf:DIR`, `vllm:DIR` | hashes of the weights, the configuration, the tokenizer and the chat template |
| `hf:HUB/NAME` | the commit of the name on the hub, or in the local cache without a network |
| `replay:FILE` | the file's SHA-256 |
| `openai:MODEL@URL` | model, URL, and the model's entry in the server's list of models |
| `oracle`, `random` | the name (seeds are recorded separately) |

Weight files of up to WHOLE_FILE bytes are hashed completely, which takes about a second per GB. The hash of a larger
file covers its size, its safetensors header, the first BLOCK bytes of each tensor, and one block in every STRIDE bytes.
Training changes weights everywhere in a tensor, so a sample of one percent distinguishes two checkpoints. It can miss
an edit of a few bytes in a large file. Modification times do not count: a copy of a checkpoint is the same policy.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, file_sha256

WHOLE_FILE = 1 << 30
BLOCK = 1 << 16
STRIDE = 8 << 20
WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")
# The other parts of a checkpoint folder, by the prefixes of their file names.
PARTS = {
    "config": ("config.json", "generation_config", "adapter_config.json"),
    "tokenizer": ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "spiece", "sentencepiece"),
    "template": ("chat_template",),
}
SERVER_KEYS = (
    "id",
    "owned_by",
    "root",
    "parent",
    "max_model_len",
    "digest",
    "meta",
)  # what does not change by restarts
SERVER_SECONDS = 10


def policy_identity(spec: str) -> dict[str, Any]:
    """The identity of a spec's policy, without keys that cannot be determined. Raises BadInput for a missing file."""
    kind, _, rest = spec.partition(":")
    if kind == "replay" and rest:
        return {"kind": "replay", "sha256": file_sha256(rest)}
    if kind == "openai" and "@" in rest:
        model, _, base_url = rest.partition("@")
        return {"kind": "openai", "model": model, "url": base_url.rstrip("/")} | _server_says(model, base_url)
    if kind in ("hf", "vllm") and rest:
        return {"kind": kind} | (checkpoint_identity(rest) if Path(rest).is_dir() else _hub_identity(rest))
    if Path(spec).is_dir():
        return {"kind": "hf"} | checkpoint_identity(spec)
    return {"kind": spec}


def checkpoint_identity(folder: Path | str) -> dict[str, str]:
    """Hashes of a checkpoint folder's weights, configuration, tokenizer and template."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    parts = {"weights": [path for path in files if path.name.endswith(WEIGHTS)]}
    for part, heads in PARTS.items():
        parts[part] = [path for path in files if path.name.startswith(heads) and path not in parts["weights"]]
    templates = Path(folder) / "additional_chat_templates"
    parts["template"] += sorted(templates.glob("*.jinja"))
    return {part: _files_hash(paths) for part, paths in parts.items()}


def _files_hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{_file_hash(path)}\0".encode())
    return digest.hexdigest()[:32]


def _file_hash(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE_FILE:
        return file_sha256(path)
    digest = hashlib.sha256(f"{size}\0".encode())
    with path.open("rb") as handle:
        starts = set(range(0, size, STRIDE)) | {max(0, size - BLOCK)}
        if path.name.endswith(".safetensors"):
            length = int.from_bytes(handle.read(8), "little")
            header = handle.read(min(length, size - 8))
            digest.update(header)
            starts |= _tensor_starts(path, header, 8 + length)
        for start in sorted(starts):
            handle.seek(start)
            digest.update(handle.read(BLOCK))
    return digest.hexdigest()


def _tensor_starts(path: Path, header: bytes, data: int) -> set[int]:
    try:
        entries = json.loads(header)
        return {data + entry["data_offsets"][0] for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise BadInput(f"{path}: not a safetensors file (its header cannot be read)") from None


def _hub_identity(name: str) -> dict[str, str]:
    """The hub's commit for a name, or the cached one if the hub is unreachable; no `commit` if both are unknown."""
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        commit = huggingface_hub.HfApi().model_info(name, timeout=SERVER_SECONDS).sha
    except Exception:  # no network, offline mode, a name that the hub does not know: the loader says what is wrong
        kept = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "main"
        commit = kept.read_text(encoding="utf-8").strip() if kept.is_file() else None
    return {"name": name} | ({"commit": commit} if commit else {})


def _server_says(model: str, base_url: str) -> dict[str, Any]:
    """The server's entry for the model; empty if the server has no list of models or does not respond."""
    import openai

    key = os.environ.get("OPENAI_API_KEY") or "none"
    try:
        with openai.OpenAI(base_url=base_url, api_key=key, timeout=SERVER_SECONDS, max_retries=0) as client:
            entries = client.get("models", cast_to=object)
    except (openai.OpenAIError, ValueError):
        return {}
    listed = entries.get("data") if isinstance(entries, dict) else None
    found = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    chosen = [item for item in found if item.get("id") == model] or (found if len(found) == 1 else [])
    return {"server": {key: chosen[0][key] for key in SERVER_KEYS if key in chosen[0]}} if chosen else {}
