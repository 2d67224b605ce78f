"""How vLLM's engines are started: decided before vLLM is imported."""

import os
import sys
from types import ModuleType

import pytest

from train.policies import local_policies


@pytest.mark.parametrize(("device", "method"), [("cuda", "spawn"), ("cpu", None)])
def test_engines_on_a_gpu_are_not_forked(monkeypatch, device, method) -> None:
    """Seen on an H200: a forked engine cannot use CUDA after any import has counted the GPUs in its parent."""
    vllm = ModuleType("vllm")
    vllm.LLM = object
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(local_policies, "choose_device", lambda: device)
    monkeypatch.setattr(os, "environ", {})
    assert local_policies.import_vllm_engine("") is object
    assert os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") == method


def test_the_method_that_a_user_sets_is_kept(monkeypatch) -> None:
    vllm = ModuleType("vllm")
    vllm.LLM = object
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(local_policies, "choose_device", lambda: "cuda")
    monkeypatch.setattr(os, "environ", {"VLLM_WORKER_MULTIPROC_METHOD": "fork"})
    local_policies.import_vllm_engine("")
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
