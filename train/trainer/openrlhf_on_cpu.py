"""Run the real OpenRLHF trainer without a GPU: the installed code, with a few functions patched in memory.

`train/trainer/openrlhf_launcher.py --adapt cpu` installs these patches in every process and starts a local Ray with
pretended GPUs. It does so whenever the CPU is requested; on a machine with GPUs these processes then see none. Each
patch waits until its module is imported, so that processes that never need torch do not import it.

| module (OpenRLHF 0.11.2, vLLM 0.29) | on a GPU | here |
| --- | --- | --- |
| `torch.cuda` | device bookkeeping | harmless stand-ins, no GPU; the current device is the CPU |
| `torch.cuda.empty_cache` | empties a cache of freed memory | returns freed memory to the operating system |
| `torch.distributed.device_mesh` | mesh over "cuda" | the same mesh over "cpu" |
| `deepspeed.comm.torch` | - | no shared-memory all-reduce, which each first start would compile |
| `openrlhf.utils.utils` | bf16 or fp16 parameters | fp32: CPUs without native bf16 emulate it, three times slower |
| `openrlhf.utils.deepspeed.deepspeed_utils` | bf16 section | fp32 |
| `openrlhf.utils.distributed_util` | NCCL broadcast of weights to vLLM | vLLM's `StatelessProcessGroup`, as bytes |
| `vllm.engine.arg_utils` | bfloat16 | float32, so that rollout and trainer agree |
| `vllm.engine.arg_utils` | OpenRLHF's worker extension | `vllm_cpu_worker.py` |
| `vllm.engine.arg_utils` | long prompts are read in parts | at once, so that requests can have seeds |
| `vllm._custom_ops` | - | no packed weights in linear layers, so that synchronized weights take effect |

This is not a way to train large models. It is the real trainer with real weight sync for models of a few million
parameters. It exercises the code that runs on GPUs on every machine.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

from train.trainer.adapt_after_import import Adaptations

ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker runs in the engine's process, which saves the imports of one
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
PRELOADED = (
    "openrlhf.trainer.ray.ppo_critic",
    "openrlhf.trainer.ppo_trainer",
    "torch.utils.tensorboard",
    "transformers.models.qwen3.modeling_qwen3",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen3",
)
"""Modules that the processes of a training would import one by one (preloaded_python.py)."""
# KV cache of the rollout engine: room for this many sequences of full length, within these bounds in bytes.
KV_SEQUENCES = 128
KV_BYTES = (64 * 1024**2, 2 * 1024**3)
MATMUL_VARIABLE = "TRAIN_CPU_MATMUL"


class CpuDevice(str):
    """The device "cpu". It also formats as an index for OpenRLHF's `torch.device(f"cuda:{device}")`."""

    def __format__(self, specification: str) -> str:
        return "0"


class WeightChannel:
    """Replaces NCCL: sends tensors one by one from the trainer (rank 0) to the vLLM worker.

    A tensor is kept until the next one is sent. The sender must wait between tensors until all ranks have received
    them, as OpenRLHF does.
    """

    def __init__(self, address: str, port: int, rank: int, world_size: int) -> None:
        from vllm.distributed.utils import StatelessProcessGroup

        self.group = StatelessProcessGroup.create(
            host=address,
            port=port,
            rank=rank,
            world_size=world_size,
            data_expiration_seconds=0,  # vLLM's default of an hour would keep one copy of the model per step
        )

    def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
        """Fill `tensor` in place on every rank except `src`. Raises RuntimeError if the shapes differ."""
        import torch

        if self.group.rank == src:
            self.group.broadcast_obj(tensor.detach().cpu().numpy(), src)
            return
        received = torch.from_numpy(self.group.broadcast_obj(None, src))
        tensor.copy_(received)


def open_weight_channel(
    master_address: str, master_port: int, rank: int, world_size: int, device: Any
) -> WeightChannel:
    """Replaces `openrlhf.utils.distributed_util.stateless_init_process_group`."""
    return WeightChannel(master_address, master_port, rank, world_size)


def _adapt_torch(torch: Any) -> None:
    device = CpuDevice("cpu")
    # Ray shows its pretended GPUs to the workers, and real GPUs may have the same indexes.
    torch.cuda.is_available = lambda: False
    torch.cuda.device_count = lambda: 0
    torch.cuda.current_device = lambda: device
    torch.cuda.current_stream = lambda *_: None
    for name in ("set_device", "synchronize"):
        setattr(torch.cuda, name, lambda *_, **__: None)
    torch.cuda.empty_cache = give_memory_back
    multiply_in(torch, os.environ.get(MATMUL_VARIABLE, ""))


def give_memory_back() -> None:
    """Replaces `torch.cuda.empty_cache`: return freed memory, which the C library keeps in fragments, to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def multiply_in(torch: Any, precision: str) -> None:
    """Set the precision in which CPUs multiply fp32 matrices.

    "bf16" rounds the factors; weights, gradients and sums stay fp32, as in mixed precision on GPUs. This is three times
    faster if the CPU has AMX. "" keeps torch's default. Raises ValueError for other values.
    """
    if precision not in ("", "bf16"):
        raise ValueError(f"{MATMUL_VARIABLE}={precision}: expected bf16 or an empty value")
    if precision:
        torch.backends.mkldnn.matmul.fp32_precision = precision


def _adapt_device_mesh(module: Any) -> None:
    made = module.init_device_mesh

    @functools.wraps(made)
    def init_device_mesh(device_type: str, *arguments: Any, **named: Any) -> Any:
        return made("cpu" if device_type == "cuda" else device_type, *arguments, **named)

    module.init_device_mesh = init_device_mesh


def _adapt_deepspeed_communication(module: Any) -> None:
    # DeepSpeed compiles it at process start (20 s and 1.5 GB each) to speed up all-reduce between processes. Here there
    # is only one process.
    module.build_shm_op = lambda: None


def _adapt_dtype(module: Any) -> None:
    import torch

    module.convert_to_torch_dtype = lambda param_dtype: torch.float32


def _adapt_deepspeed_configuration(module: Any) -> None:
    for name in ("get_train_ds_config", "get_eval_ds_config"):
        setattr(module, name, _in_fp32(getattr(module, name)))


def _in_fp32(made: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(made)
    def configuration(*arguments: Any, **named: Any) -> dict[str, Any]:
        config = made(*arguments, **named)
        config["bf16"] = {"enabled": False}
        config["fp16"] = {"enabled": False}
        return config

    return configuration


def _adapt_weight_sync(module: Any) -> None:
    module.stateless_init_process_group = open_weight_channel


def _adapt_engine_arguments(module: Any) -> None:
    made = module.AsyncEngineArgs.__init__

    @functools.wraps(made)
    def __init__(self: Any, *arguments: Any, **named: Any) -> None:
        named.update(dtype="float32", worker_extension_cls="train.trainer.vllm_cpu_worker.CpuWorker")
        # A prompt that is read in parts draws tokens that are discarded. vLLM then rewinds the request's random state,
        # which torch cannot do on a CPU.
        named["enable_chunked_prefill"] = False
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            named["kv_cache_memory_bytes"] = kv_cache_bytes(named["model"], named["max_model_len"])
        made(self, *arguments, **named)

    module.AsyncEngineArgs.__init__ = __init__


def kv_cache_bytes(model: str, max_model_len: int) -> int:
    """Bytes of fp32 keys and values of KV_SEQUENCES sequences, clipped to KV_BYTES. vLLM touches all of them."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wanted = 2 * 4 * config.num_hidden_layers * heads * width * max_model_len * KV_SEQUENCES
    return min(max(wanted, KV_BYTES[0]), KV_BYTES[1])


def _adapt_linear_layers(module: Any) -> None:
    # oneDNN layers keep only a packed copy of their weight, so that new weights could not reach them.
    module._supports_onednn = False


ADAPTATIONS: Adaptations = {
    "torch": _adapt_torch,
    "torch.distributed.device_mesh": _adapt_device_mesh,
    "deepspeed.comm.torch": _adapt_deepspeed_communication,
    "openrlhf.utils.utils": _adapt_dtype,
    "openrlhf.utils.deepspeed.deepspeed_utils": _adapt_deepspeed_configuration,
    "openrlhf.utils.distributed_util": _adapt_weight_sync,
    "vllm.engine.arg_utils": _adapt_engine_arguments,
    "vllm._custom_ops": _adapt_linear_layers,
}
