"""The trainer with a reference policy of its own: KL is measured to $OPENRLHF_REFERENCE, not to the epoch's start.

OpenRLHF loads the reference from `--actor.model_name_or_path`, so that every outer epoch anchors KL anew (what the authors do
beyond the first epoch is not known). This changes that one argument, in the driver process, on any machine
(`train/trainer/openrlhf_launcher.py` calls it).
"""

from __future__ import annotations

import functools
from typing import Any


def hold_reference(folder: str) -> None:
    """Let OpenRLHF's reference actors load `folder`; everything else loads what it did before."""
    from openrlhf.trainer.ray.launcher import RayActorGroup, ReferenceModelActor

    made = RayActorGroup.async_init_model_from_pretrained

    @functools.wraps(made)
    def async_init_model_from_pretrained(self: Any, strategy: Any, pretrain: str, *rest: Any, **named: Any) -> Any:
        if self.ray_actor_type is ReferenceModelActor:
            pretrain = folder
        return made(self, strategy, pretrain, *rest, **named)

    RayActorGroup.async_init_model_from_pretrained = async_init_model_from_pretrained
