"""Train with a separate reference policy: KL is measured to $OPENRLHF_REFERENCE instead of the epoch's start.

OpenRLHF loads the reference from `--actor.model_name_or_path`, so every outer epoch resets the KL reference. It is not
known what the authors do after the first epoch. This module changes that one argument in the driver process, on any
machine. `train/trainer/openrlhf_launcher.py` calls it.
"""

from __future__ import annotations

import functools
from typing import Any


def hold_reference(folder: str) -> None:
    """Make OpenRLHF's reference actors load `folder`. All other actors are unchanged."""
    from openrlhf.trainer.ray.launcher import RayActorGroup, ReferenceModelActor

    made = RayActorGroup.async_init_model_from_pretrained

    @functools.wraps(made)
    def async_init_model_from_pretrained(self: Any, strategy: Any, pretrain: str, *rest: Any, **named: Any) -> Any:
        if self.ray_actor_type is ReferenceModelActor:
            pretrain = folder
        return made(self, strategy, pretrain, *rest, **named)

    RayActorGroup.async_init_model_from_pretrained = async_init_model_from_pretrained
