"""Training with LoRA adapters: send vLLM merged weights under the base model's parameter names.

OpenRLHF 0.11.2 accepts `--ds.lora.rank` for RL, but sends vLLM the adapter's own tensors
(`base_model.model...lora_A...`), which vLLM's models do not have. This adaptation gives OpenRLHF's weight sync another
view of the model: one tensor per weight of the base model, W + s B A for a layer with an adapter, computed when it is
sent. The rest is unchanged OpenRLHF: it trains and saves the adapters, and `train/merge_adapter.py` merges them into a
full checkpoint.

It requires complete layers on each GPU, that is ZeRO stage 2 or lower. `train/trainer/openrlhf_launcher.py --adapt
lora` installs it, on CPUs and GPUs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from train.trainer.adapt_after_import import Adaptations

PREFIX = "base_model.model."
PARK_VARIABLE = "TRAIN_PARK_BASE"


class MergedWeight:
    """One layer's weight with its adapter added, recomputed at each use. Has the attributes that weight sync reads."""

    requires_grad = True

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.shape, self.dtype = layer.base_layer.weight.shape, layer.base_layer.weight.dtype

    @property
    def data(self) -> Any:
        weight = _on_gpu(self._layer.base_layer.weight)
        merged = weight.float()
        for adapter in self._layer.active_adapters:
            merged = merged + self._layer.get_delta_weight(adapter).float()
        return merged.to(weight.dtype).contiguous()


class PlainWeight:
    """A parameter without an adapter, moved to the GPU when it is sent."""

    requires_grad = True

    def __init__(self, parameter: Any) -> None:
        self._parameter = parameter
        self.shape, self.dtype = parameter.shape, parameter.dtype

    @property
    def data(self) -> Any:
        return _on_gpu(self._parameter)


def _on_gpu(parameter: Any) -> Any:
    """The parameter's tensor on the GPU, even while the base is parked on the host."""
    home = getattr(parameter, "home", None)
    return parameter.data if home is None else parameter.data.to(home)


class ParkedBase:
    """The frozen weights of a policy with adapters. They are on the GPU only inside `with`, otherwise on the host.

    They never change, so one pinned host copy suffices, and parking transfers nothing.
    """

    def __init__(self, model: Any) -> None:
        self._copies: list[tuple[Any, Any]] = []
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.home = parameter.data.device
                copy = parameter.data.cpu()
                self._copies.append((parameter, copy.pin_memory() if parameter.home.type == "cuda" else copy))
        self._depth = 0
        self._park()

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            for parameter, copy in self._copies:
                parameter.data = copy.to(parameter.home, non_blocking=True)

    def __exit__(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._park()

    def _park(self) -> None:
        import torch

        for parameter, copy in self._copies:
            parameter.data = copy
        torch.cuda.empty_cache()


class MergedModel:
    """A view of a PEFT model with the names and weights of a merged checkpoint. The model itself does not change."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """`(name in the base model, parameter or MergedWeight)`, without the adapters' own tensors."""
        from peft.tuners.lora import LoraLayer

        layers = {f"{name}.": layer for name, layer in self.model.named_modules() if isinstance(layer, LoraLayer)}
        for name, parameter in self.model.named_parameters():
            owner = next((prefix for prefix in layers if name.startswith(prefix)), None)
            if owner is None:
                yield name.removeprefix(PREFIX), PlainWeight(parameter)
            elif name.startswith(f"{owner}base_layer."):
                place = name.removeprefix(f"{owner}base_layer.")
                merged = MergedWeight(layers[owner]) if place == "weight" else PlainWeight(parameter)
                yield (owner + place).removeprefix(PREFIX), merged


def send_merged_weights(module: Any) -> None:
    """Patch `openrlhf.trainer.ray.ppo_actor`: send a policy with adapters as a MergedModel, others as before.

    Policy actors also compute the reference's log-probabilities.
    """
    sent = module.ActorPPOTrainer.broadcast_to_vllm

    @functools.wraps(sent)
    def broadcast_to_vllm(self: Any) -> Any:
        from peft import PeftModel

        actor = self.actor
        if not isinstance(actor.model.module, PeftModel):
            return sent(self)
        if self.strategy.args.ds.zero_stage > 2:
            raise ValueError("adapters require --ds.zero_stage 2 or lower: vLLM receives complete layers")
        self.actor = SimpleNamespace(model=SimpleNamespace(module=MergedModel(actor.model.module)), is_vlm=False)
        try:
            return sent(self)
        finally:
            self.actor = actor

    module.ActorPPOTrainer.broadcast_to_vllm = broadcast_to_vllm
    actor_class = module.PolicyModelActor.__ray_metadata__.modified_class
    actor_class.reference_forward = reference_forward
    if os.environ.get(PARK_VARIABLE) == "1":
        park_base(actor_class)


def park_base(actor_class: Any) -> None:
    """Keep a policy actor's base on the GPU only while the actor computes.

    The GPU then holds either the base or an awake engine, so that 7B parameters fit into 24 GB. The base moves once per
    phase, not once per micro-batch.
    """
    load = actor_class.init_model_from_pretrained

    @functools.wraps(load)
    def init_model_from_pretrained(self: Any, *arguments: Any, **named: Any) -> Any:
        result = load(self, *arguments, **named)
        self.base = ParkedBase(self.actor.model.module)
        return result

    actor_class.init_model_from_pretrained = init_model_from_pretrained
    for name in ("execute_batch", "fit"):
        setattr(actor_class, name, _with_base(getattr(actor_class, name)))


def _with_base(method: Any) -> Any:
    @functools.wraps(method)
    def computed(self: Any, *arguments: Any, **named: Any) -> Any:
        with self.base:
            return method(self, *arguments, **named)

    return computed


def reference_forward(self: Any, *arguments: Any, **named: Any) -> Any:
    """PolicyModelActor.forward with the adapters off: the reference's log-probabilities (adapter_reference.py)."""
    with self.actor.model.module.disable_adapter():
        return self.forward(*arguments, **named)


ADAPTATIONS: Adaptations = {"openrlhf.trainer.ray.ppo_actor": send_merged_weights}
