"""The trainer with LoRA adapters: vLLM gets every weight as it is with its adapter added, under the name that it knows.

OpenRLHF 0.11.2 takes `--ds.lora.rank` for RL too, but sends vLLM the adapter's own tensors (`base_model.model...lora_A...`), which
vLLM's models do not have. Here the policy's processes hand its weight sync another view of the model: one tensor for each weight
of the base model, W + s B A for a layer with an adapter, made when it is sent. Everything else is OpenRLHF's: the adapters
are what is trained and saved (`train/merge_adapter.py` makes a whole checkpoint of them).

Needs whole layers on a GPU, that is ZeRO stage 2 at most. `train/openrlhf_launcher.py --adapt lora` installs it, on CPUs and GPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from train.adapt_after_import import Adaptations

PREFIX = "base_model.model."


class MergedWeight:
    """One layer's weight with its adapter added; has of a parameter what the weight sync asks for. Made anew at each use."""

    requires_grad = True

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.shape, self.dtype = layer.base_layer.weight.shape, layer.base_layer.weight.dtype

    @property
    def data(self) -> Any:
        weight = self._layer.base_layer.weight.data
        merged = weight.float()
        for adapter in self._layer.active_adapters:
            merged = merged + self._layer.get_delta_weight(adapter).float()
        return merged.to(weight.dtype).contiguous()


class MergedModel:
    """A PEFT model seen as its base model: the names and weights that a merged checkpoint would have, nothing changed."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """`(name in the base model, parameter or MergedWeight)`; the adapters' own tensors are left out."""
        from peft.tuners.lora import LoraLayer

        layers = {f"{name}.": layer for name, layer in self.model.named_modules() if isinstance(layer, LoraLayer)}
        for name, parameter in self.model.named_parameters():
            owner = next((prefix for prefix in layers if name.startswith(prefix)), None)
            if owner is None:
                yield name.removeprefix(PREFIX), parameter
            elif name.startswith(f"{owner}base_layer."):
                place = name.removeprefix(f"{owner}base_layer.")
                merged = MergedWeight(layers[owner]) if place == "weight" else parameter
                yield (owner + place).removeprefix(PREFIX), merged


def send_merged_weights(module: Any) -> None:
    """Change `openrlhf.trainer.ray.ppo_actor`: a policy with adapters is sent as a MergedModel. Others are sent as before."""
    sent = module.ActorPPOTrainer.broadcast_to_vllm

    @functools.wraps(sent)
    def broadcast_to_vllm(self: Any) -> Any:
        from peft import PeftModel

        actor = self.actor
        if not isinstance(actor.model.module, PeftModel):
            return sent(self)
        if self.strategy.args.ds.zero_stage > 2:
            raise ValueError("adapters need --ds.zero_stage 2 at most: whole layers are sent to vLLM")
        self.actor = SimpleNamespace(model=SimpleNamespace(module=MergedModel(actor.model.module)), is_vlm=False)
        try:
            return sent(self)
        finally:
            self.actor = actor

    module.ActorPPOTrainer.broadcast_to_vllm = broadcast_to_vllm


ADAPTATIONS: Adaptations = {"openrlhf.trainer.ray.ppo_actor": send_merged_weights}
