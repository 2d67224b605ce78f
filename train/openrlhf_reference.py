"""The trainer with a reference policy of its own: KL is measured to $OPENRLHF_REFERENCE, not to the epoch's start.

    OPENRLHF_REFERENCE=outputs/cpu/start python -m train.openrlhf_reference <flags of openrlhf.cli.train_ppo_ray>

OpenRLHF loads the reference from `--actor.model_name_or_path`, so that every outer epoch anchors KL anew (what the authors do
beyond the first epoch is not known). This entry point changes that one argument, in the driver process, on any machine.
"""

from __future__ import annotations

import functools
import os
import runpy
from typing import Any

from env_construction.jsonl import BadInput
from train.openrlhf_command import REFERENCE_VARIABLE


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


def main() -> None:
    folder = os.environ.get(REFERENCE_VARIABLE, "")
    if not folder:
        raise BadInput(f"{REFERENCE_VARIABLE} is not set: expected the folder of the reference policy")
    hold_reference(folder)
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
