"""The CPU patches: what OpenRLHF, DeepSpeed and vLLM see in an adapted process. The smoke profile trains with them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.trainer.openrlhf_on_cpu import KV_BYTES, KV_SEQUENCES, CpuDevice, kv_cache_bytes, multiply_in

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def found(found_by: Callable[..., dict]) -> dict[str, Any]:
    return found_by("adapted_process.py")


def test_the_current_device_is_the_cpu_and_can_be_written_as_a_number(found: dict[str, Any]) -> None:
    assert found["device of a tensor"] == "cpu"
    assert found["device by number"] == "cuda:0"


def test_no_gpu_is_seen_whatever_the_machine_shows(found: dict[str, Any]) -> None:
    assert found["GPUs seen"] == [False, 0]


def test_emptying_the_cache_gives_freed_memory_back(found: dict[str, Any]) -> None:
    assert found["memory given back, MiB"] > 200


def test_parameters_are_fp32_in_trainer_and_reference(found: dict[str, Any]) -> None:
    assert found["dtype"] == "torch.float32"
    assert found["bf16"] == [False, False]


def test_the_optimizer_needs_no_compiler_and_keeps_its_rate(found: dict[str, Any]) -> None:
    assert found["optimizer"] == {"type": "AdamW", "params": {"lr": 1e-6, "torch_adam": True, "fused": True}}


def test_openrlhf_takes_its_torch_path_for_log_probabilities(found: dict[str, Any]) -> None:
    assert found["log-probabilities agree"]


def test_weights_go_through_openrlhfs_own_call_and_a_wrong_shape_raises(found: dict[str, Any]) -> None:
    assert found["weights arrive"]
    assert found["wrong shape raises"]


def test_weights_that_have_arrived_are_not_kept(found: dict[str, Any]) -> None:
    assert found["memory kept of 320 MiB sent"] < 160


def test_adapters_are_merged_on_the_way_to_vllm(found: dict[str, Any]) -> None:
    assert found["weights are sent through"] == "ActorPPOTrainer.broadcast_to_vllm"


def test_a_held_reference_reaches_the_reference_alone(found: dict[str, Any]) -> None:
    assert found["reference loads"] == ["base"]
    assert found["policy loads"] == ["policy"]


def test_kv_cache_follows_the_model_within_bounds(tiny_checkpoint: Path) -> None:
    # 2 layers, 2 key-value heads of width 8, keys and values in fp32
    tokens = 10_000
    assert kv_cache_bytes(str(tiny_checkpoint), tokens) == 2 * 4 * 2 * 2 * 8 * tokens * KV_SEQUENCES
    assert kv_cache_bytes(str(tiny_checkpoint), 8) == KV_BYTES[0]
    assert kv_cache_bytes(str(tiny_checkpoint), 10_000_000) == KV_BYTES[1]


def test_importing_the_launcher_changes_nothing_and_loads_nothing_large() -> None:
    script = (
        "import sys, train.trainer.openrlhf_launcher; "
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules and 'flash_attn_2_cuda' not in sys.modules; "
        "assert not any(type(finder).__name__ == 'AdaptAfterImport' for finder in sys.meta_path)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_cpu_device_is_cpu_as_text() -> None:
    assert CpuDevice("cpu") == "cpu" and f"{CpuDevice('cpu')}" == "0"


def test_products_are_rounded_to_bf16_only_where_asked() -> None:
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        multiply_in(torch, "")
        assert setting.fp32_precision == before
        multiply_in(torch, "bf16")
        assert setting.fp32_precision == "bf16"
        with pytest.raises(ValueError, match="TRAIN_CPU_MATMUL=fp8"):
            multiply_in(torch, "fp8")
    finally:
        setting.fp32_precision = before
