"""Patches that let OpenRLHF train without a compiler and without flash-attn.

| module (OpenRLHF 0.11.2) | original | here |
| --- | --- | --- |
| `openrlhf.utils.deepspeed.deepspeed_utils` | DeepSpeed's Adam optimizers | torch's fused AdamW |
| `openrlhf.models.ring_attn_utils` | imports flash-attn, needed only for packing | stand-ins; no packed samples |
| `openrlhf.models.utils` | flash-attn's cross-entropy | hidden, so that OpenRLHF uses torch's |

The first patch always applies: DeepSpeed compiles its optimizers at the first step and needs nvcc of torch's exact
version. torch's AdamW computes the same update at the same speed, on CPU and GPU. The others apply if flash-attn's
compiled part is missing (`hide_flash_attention`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from train.trainer.adapt_after_import import Adaptations, Surroundings

# The imports of openrlhf.models.ring_attn_utils: module -> names.
FLASH_ATTENTION = {
    "flash_attn_2_cuda": (),
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}


def _use_torch_adamw(module: Any) -> None:
    made: Callable[..., dict[str, Any]] = module.get_train_ds_config

    @functools.wraps(made)
    def configuration(*arguments: Any, **named: Any) -> dict[str, Any]:
        config = made(*arguments, **named)
        if "optimizer" in config:
            config["optimizer"].setdefault("params", {}).update(torch_adam=True, fused=True)
        return config

    module.get_train_ds_config = configuration


TORCH_ADAMW: Adaptations = {"openrlhf.utils.deepspeed.deepspeed_utils": _use_torch_adamw}


def _needs_flash_attention(*_: Any, **__: Any) -> Any:
    raise ImportError("packed samples need flash-attn, which is not installed; train without --ds.packing_samples")


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Stand-ins for missing flash-attn modules while OpenRLHF imports its packing. Other libraries never see them."""
    whole = importlib.util.find_spec("flash_attn") is None
    missing = [name for name in FLASH_ATTENTION if name not in sys.modules and (whole or name == "flash_attn_2_cuda")]
    for name in missing:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        for value in FLASH_ATTENTION[name]:
            setattr(module, value, _needs_flash_attention)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


WITHOUT_FLASH_ATTENTION: Surroundings = {"openrlhf.models.ring_attn_utils": _stand_ins}


def hide_flash_attention() -> None:
    """Make `from flash_attn.ops.triton.cross_entropy import ...` fail in this process."""
    sys.modules["flash_attn.ops.triton.cross_entropy"] = None  # type: ignore[assignment]
