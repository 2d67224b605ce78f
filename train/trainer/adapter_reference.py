"""The KL reference of a policy with adapters: the same weights with the adapters off, instead of a second model.

OpenRLHF 0.11.2 loads the reference from `--actor.model_name_or_path` into separate actors, also for adapter training.
A policy's adapters start at zero, so the base with adapters off is the reference model. Sharing it avoids a second copy
on the GPU (15 GiB for 8B parameters). The reference's actors are not started. Requests to the reference group for
log-probabilities go to the policy's actors, which compute them with the adapters off.

`openrlhf_launcher.py` calls `share_policy()` in the driver before OpenRLHF's entry point runs, unless a separate
reference is set (train/trainer/openrlhf_reference.py). The policy's actors get `reference_forward` from
train/trainer/openrlhf_lora.py.
"""

from __future__ import annotations

import functools
from typing import Any

from openrlhf.trainer.ray.launcher import RayActorGroup, ReferenceModelActor


class PolicyAsReference(RayActorGroup):
    """The policy's actors in the role of OpenRLHF's reference group."""

    def async_init_model_from_pretrained(self, *_: Any, **__: Any) -> list[Any]:
        """Load nothing: the policy's actors have the weights."""
        return []

    def async_run_method_batch(self, method_name: str, **data: Any) -> list[Any]:
        own = "reference_forward" if method_name == "forward" else method_name
        return super().async_run_method_batch(own, **data)


def share_policy() -> None:
    """Replace OpenRLHF's reference group with the policy's group, which OpenRLHF always creates first."""
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor

    made = RayActorGroup.__init__
    policies: list[RayActorGroup] = []

    @functools.wraps(made)
    def __init__(self: Any, num_nodes: int, num_gpus: int, kind: Any, *rest: Any, **named: Any) -> None:
        if kind is ReferenceModelActor:
            self.__class__ = PolicyAsReference
            self.__dict__.update(policies[-1].__dict__)
            return
        made(self, num_nodes, num_gpus, kind, *rest, **named)
        if kind is PolicyModelActor:
            policies.append(self)

    RayActorGroup.__init__ = __init__  # type: ignore[method-assign]
