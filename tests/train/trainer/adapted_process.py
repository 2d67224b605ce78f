"""What the compatibility module changes, seen from inside a process that it adapted; prints one JSON object.

A process of its own (`adapted_server.py` forks it), since the module changes torch for good.
"""

import json
import os
import threading

from train.trainer.openrlhf_launcher import install, worker_environment

os.environ.update(worker_environment(["cpu", "no-flash-attn", "lora"], 1))
install()
install()

import torch  # noqa: E402
from openrlhf.models.utils import log_probs_from_logits  # noqa: E402
from openrlhf.trainer.ray.launcher import RayActorGroup, ReferenceModelActor  # noqa: E402
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer, PolicyModelActor, stateless_init_process_group  # noqa: E402
from openrlhf.utils.deepspeed.deepspeed_utils import get_eval_ds_config, get_train_ds_config  # noqa: E402
from openrlhf.utils.utils import convert_to_torch_dtype  # noqa: E402

from train.trainer.openrlhf_reference import hold_reference  # noqa: E402

found = {}
found["GPUs seen"] = [torch.cuda.is_available(), torch.cuda.device_count()]
device = torch.cuda.current_device()
torch.cuda.set_device(0)
torch.cuda.synchronize()
found["device of a tensor"] = torch.ones(2).to(device).device.type
found["device by number"] = str(torch.device(f"cuda:{device}"))
found["dtype"] = str(convert_to_torch_dtype("bf16"))
training = get_train_ds_config(offload=False, optim_config={"type": "AdamW", "params": {"lr": 1e-6}})
found["bf16"] = [training["bf16"]["enabled"], get_eval_ds_config(offload=False)["bf16"]["enabled"]]
found["optimizer"] = training["optimizer"]


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


pieces = [torch.ones(16384) for _ in range(4000)]  # 64 KiB each, 250 MiB in all
kept = pieces[::40]
held = resident()
del pieces
torch.cuda.empty_cache()
found["memory given back, MiB"] = (held - resident()) / 2**20
assert sum(piece.sum() for piece in kept) == 100 * 16384

found["weights are sent through"] = ActorPPOTrainer.broadcast_to_vllm.__wrapped__.__qualname__

logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
expected = torch.log_softmax(logits, -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
found["log-probabilities agree"] = torch.allclose(log_probs_from_logits(logits, labels), expected, atol=1e-6)


class Recorder:
    """Stands for a Ray actor's handle: keeps what it is asked to load."""

    def __init__(self) -> None:
        self.loaded: list = []
        self.init_model_from_pretrained = self
        self.remote = lambda strategy, pretrain, *rest: self.loaded.append(pretrain)


hold_reference("base")
for name, kind in (("reference loads", ReferenceModelActor), ("policy loads", PolicyModelActor)):
    group = object.__new__(RayActorGroup)
    group.ray_actor_type, group._actor_handlers = kind, [Recorder()]
    group.async_init_model_from_pretrained("strategy", "policy")
    found[name] = group._actor_handlers[0].loaded

import socket  # noqa: E402

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
sent, received = torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3)
wrong = torch.zeros(5)
large, copy = torch.ones(2**23), torch.zeros(2**23)  # 32 MiB
arrived = threading.Semaphore(0)  # the sender waits for it, as OpenRLHF waits for its engines


def receive() -> None:
    channel = stateless_init_process_group("127.0.0.1", port, 1, 2, "cpu")
    channel.broadcast(received, src=0)
    arrived.release()
    for _ in range(10):
        channel.broadcast(copy, src=0)
        arrived.release()
    try:
        channel.broadcast(wrong, src=0)
    except RuntimeError:
        found["wrong shape raises"] = True


receiver = threading.Thread(target=receive)
receiver.start()
channel = stateless_init_process_group("127.0.0.1", port, 0, 2, "cpu")
channel.broadcast(sent, src=0, stream=torch.cuda.current_stream())
assert arrived.acquire(timeout=30)
held = resident()
for _ in range(10):
    channel.broadcast(large, src=0)
    assert arrived.acquire(timeout=30)
torch.cuda.empty_cache()
found["memory kept of 320 MiB sent"] = (resident() - held) / 2**20
channel.broadcast(sent, src=0)
receiver.join(30)
found["weights arrive"] = torch.equal(sent, received)
print("FOUND " + json.dumps(found))
