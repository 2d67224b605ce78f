"""OpenRLHF's reference group of a policy with adapters, inspected in an adapted process; prints one JSON object."""

import json
import os
import pickle

from train.trainer.openrlhf_launcher import ADAPT_VARIABLE, install
from train.trainer.openrlhf_on_cpu import ENVIRONMENT

os.environ.update(ENVIRONMENT)
os.environ[ADAPT_VARIABLE] = "cpu,no-flash-attn,lora"
install()

import ray  # noqa: E402
from openrlhf.trainer.ray.launcher import RayActorGroup, ReferenceModelActor  # noqa: E402
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor  # noqa: E402

from train.trainer.adapter_reference import share_policy  # noqa: E402

made: list[str] = []
asked: list[list[object]] = []


class Actor:
    """Stands for a Ray actor's handle: keeps what it is asked to do."""

    class execute_batch:
        remote = staticmethod(lambda name, data, start, end: asked.append([name, start, end]))


def initiate_actors(self: RayActorGroup, *_: object) -> None:
    made.append(self.ray_actor_type.__ray_metadata__.class_name)
    self._actor_handlers = [Actor]


RayActorGroup._initiate_actors = initiate_actors
ray.put = lambda data: data
share_policy()
policy = RayActorGroup(1, 1, PolicyModelActor, pg=None, num_gpus_per_actor=0.2)
reference = RayActorGroup(1, 1, ReferenceModelActor, pg=None, num_gpus_per_actor=0.2)
loaded = reference.async_init_model_from_pretrained(None, "model")
reference.async_run_method_batch("forward", sequences=[1, 2])
policy.async_run_method_batch("forward", sequences=[1, 2])
reference._actor_handlers = reference.ray_actor_type = None  # handles of this test cannot travel
found = {
    "actors made": made,
    "loaded by the reference": loaded,
    "asked for the reference": asked[0],
    "asked for the policy": asked[1],
    "travels": type(pickle.loads(pickle.dumps(reference))).__name__,
}
print("FOUND " + json.dumps(found))
