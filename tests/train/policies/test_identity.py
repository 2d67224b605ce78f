"""A policy is its content: what tells two checkpoints, files and servers of one name apart, and what does not."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from env_construction.environment.jsonl import BadInput, keep_configuration
from train.policies import identity as identity_module
from train.policies.identity import checkpoint_identity, policy_identity


@pytest.fixture
def model(tiny_checkpoint, tmp_path) -> Path:
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    return tmp_path / "model"


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda folder: flip(folder / "model.safetensors", -1), {"weights"}),
        (lambda folder: flip(folder / "model.safetensors", -5000), {"weights"}),
        (lambda folder: (folder / "config.json").write_text("{}"), {"config"}),
        (lambda folder: flip(folder / "tokenizer.json", 100), {"tokenizer"}),
        (lambda folder: (folder / "chat_template.jinja").write_text("another"), {"template"}),
        (lambda folder: (folder / "README.md").write_text("a card"), set()),
        (lambda folder: (folder / "trainer_state.json").write_text("{}"), set()),
        (lambda folder: os.utime(folder / "model.safetensors", (1, 1)), set()),
    ],
)
def test_each_part_of_a_checkpoint_counts_and_what_is_no_part_does_not(model, change, parts) -> None:
    before = policy_identity(f"hf:{model}")
    change(model)
    assert differing(before, policy_identity(f"hf:{model}")) == parts


def test_copy_of_a_checkpoint_is_the_same_policy_and_a_bare_folder_means_hf(model, tiny_checkpoint) -> None:
    assert policy_identity(f"hf:{model}") == policy_identity(f"hf:{tiny_checkpoint}") == policy_identity(str(model))
    assert differing(policy_identity(f"hf:{model}"), policy_identity(f"vllm:{model}")) == {"kind"}


def test_files_too_large_to_hash_whole_are_told_apart_by_every_tensor_and_by_blocks(tmp_path, monkeypatch) -> None:
    """Limits scaled down: the same rules on 1 MB as on 30 GB."""
    monkeypatch.setattr(identity_module, "WHOLE_FILE", 1000)
    monkeypatch.setattr(identity_module, "BLOCK", 64)
    monkeypatch.setattr(identity_module, "STRIDE", 8192)
    generator = torch.Generator().manual_seed(0)
    tensors = {"large": torch.randn(500, 500, generator=generator)} | {
        f"norm{number}": torch.randn(16, generator=generator) for number in range(20)
    }
    found = []
    for name in (None, *tensors):
        folder = tmp_path / str(name)
        folder.mkdir()
        moved = {key: value * 1.001 if key == name else value for key, value in tensors.items()}
        save_file(moved, folder / "model.safetensors")
        found.append(checkpoint_identity(folder)["weights"])
    assert len(set(found)) == len(tensors) + 1
    same = tmp_path / "same"
    shutil.copytree(tmp_path / "None", same)
    assert checkpoint_identity(same)["weights"] == found[0]
    (same / "model.safetensors").write_bytes((same / "model.safetensors").read_bytes() + bytes(8))
    assert checkpoint_identity(same)["weights"] != found[0]
    (same / "model.safetensors").write_bytes(b"\xff" * 2000)
    with pytest.raises(BadInput, match="not a safetensors file"):
        checkpoint_identity(same)


def test_replay_file_is_its_bytes_and_an_absent_one_is_named(tmp_path) -> None:
    file = tmp_path / "turns.jsonl"
    file.write_text('{"id": "a", "turns": []}\n')
    first = policy_identity(f"replay:{file}")
    file.write_text('{"id": "a", "turns": ["x"]}\n')
    assert differing(first, policy_identity(f"replay:{file}")) == {"sha256"}
    with pytest.raises(BadInput, match=r"none\.jsonl: no such file"):
        policy_identity(f"replay:{tmp_path / 'none.jsonl'}")
    assert policy_identity("oracle") == {"kind": "oracle"}


def test_hub_name_is_its_commit_where_the_cache_knows_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = "hf:some-lab/model-7b"
    assert policy_identity(spec) == {"kind": "hf", "name": "some-lab/model-7b"}
    refs = tmp_path / "models--some-lab--model-7b" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    assert policy_identity(spec)["commit"] == "a" * 40


class ModelList:
    """A server that lists its models."""

    def __init__(self) -> None:
        self.answer: tuple[int, Any] = (200, {})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps(outer.answer[1]).encode()
                self.send_response(outer.answer[0] if self.path == "/v1/models" else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def models() -> Iterator[ModelList]:
    server = ModelList()
    yield server
    server.server.shutdown()
    server.server.server_close()


def entry(root: str, created: int) -> dict[str, Any]:
    return {"id": "m", "object": "model", "created": created, "root": root, "permission": [{"id": str(created)}]}


def test_server_is_what_it_says_about_the_model_not_when_it_was_started(models) -> None:
    spec = f"openai:m@{models.url}"
    models.answer = (200, {"data": [{"id": "other"}, entry("/models/one", 1)]})
    first = policy_identity(spec)
    assert first == {"kind": "openai", "model": "m", "url": models.url, "server": {"id": "m", "root": "/models/one"}}
    models.answer = (200, {"data": [entry("/models/one", 2)]})
    assert policy_identity(spec) == first
    models.answer = (200, {"data": [entry("/models/two", 2)]})
    assert differing(first, policy_identity(spec)) == {"server"}


@pytest.mark.parametrize(
    "answer",
    [(404, {}), (500, {"error": "x"}), (200, []), (200, {"data": None}), (200, {"data": ["m"]}), (200, "text"), None],
)
def test_server_that_says_nothing_of_use_is_known_by_model_and_url(models, answer) -> None:
    url = models.url if answer else "http://127.0.0.1:9/v1"
    models.answer = answer or (200, {})
    assert policy_identity(f"openai:m@{url}") == {"kind": "openai", "model": "m", "url": url}


def test_what_becomes_known_later_is_written_down_and_then_compared(tmp_path) -> None:
    unknown, one, two = ({"kind": "hf", "name": "x"} | more for more in ({}, {"commit": "1"}, {"commit": "2"}))

    def keep(content: dict[str, Any]) -> None:
        keep_configuration(tmp_path, {"policy_content": content}, partly_known=("policy_content",))

    for content in (unknown, one, unknown, one):
        keep(content)
    with pytest.raises(BadInput, match=r"policy_content\.commit: '1' there, '2' asked"):
        keep(two)


def test_folder_from_before_contents_were_recorded_is_refused(tmp_path) -> None:
    keep_configuration(tmp_path, {"policy": "hf:x"})
    with pytest.raises(BadInput, match=r"policy_content\.kind: '\(absent\)' there, 'hf' asked"):
        content = {"policy": "hf:x", "policy_content": {"kind": "hf"}}
        keep_configuration(tmp_path, content, noted=("policy",), partly_known=("policy_content",))
