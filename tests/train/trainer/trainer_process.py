"""Adapted DeepSpeed and OpenRLHF on a small network: updates, and states whose saving is interrupted.

It runs in a separate process, because the launcher patches torch permanently. Argument: a folder. Prints one JSON
object after FOUND.
"""

import copy
import json
import os
import random
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

from train.trainer.openrlhf_launcher import install, worker_environment

os.environ.update(worker_environment(["cpu", "no-flash-attn"], 1))
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[2])
install()

import deepspeed  # noqa: E402
import torch  # noqa: E402
from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy  # noqa: E402
from openrlhf.utils.deepspeed.deepspeed_utils import (  # noqa: E402
    get_optimizer_grouped_parameters,
    get_train_ds_config,
)

from train.trainer.saved_state import recover, saved_step  # noqa: E402

folder = Path(sys.argv[1])
deepspeed.init_distributed("gloo")
ADAM = {"lr": 1e-2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))


def engine_of(stage: int, offload: bool) -> deepspeed.DeepSpeedEngine:
    optimizer = {"type": "AdamW", "params": copy.deepcopy(ADAM)}
    config = get_train_ds_config(
        offload=False, adam_offload=offload, stage=stage, max_norm=0.0, zpg=1, optim_config=optimizer
    )
    config |= {"train_micro_batch_size_per_gpu": 4, "train_batch_size": 4}
    model = network()
    groups = get_optimizer_grouped_parameters(model, ADAM["weight_decay"])
    return deepspeed.initialize(
        model=model, model_parameters=groups, config=config, args=SimpleNamespace(local_rank=0)
    )[0]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 16, generator=generator), torch.randn(4, 4, generator=generator)


def update(engine: deepspeed.DeepSpeedEngine, step: int) -> None:
    inputs, targets = batch(step)
    engine.backward(((engine(inputs) - targets) ** 2).mean())
    engine.step()


def weights(engine: deepspeed.DeepSpeedEngine) -> dict[str, torch.Tensor]:
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        return {name: value.detach().clone() for name, value in engine.module.named_parameters()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


found: dict = {}

# -- the optimizer of the launcher against torch's own, on ZeRO-3 with the optimizer on the host, and ZeRO-2
reference = network()
plain = torch.optim.AdamW(get_optimizer_grouped_parameters(reference, ADAM["weight_decay"]), lr=ADAM["lr"])
for step in range(5):
    inputs, targets = batch(step)
    ((reference(inputs) - targets) ** 2).mean().backward()
    plain.step()
    plain.zero_grad()
expected = {name: value.detach() for name, value in reference.named_parameters()}
for stage, offload in ((3, True), (2, False)):
    engine = engine_of(stage, offload)
    for step in range(5):
        update(engine, step)
    found[f"ZeRO-{stage}"] = {
        "optimizer": type(engine.basic_optimizer).__name__,
        "fused": engine.basic_optimizer.defaults["fused"],
        "difference": difference(weights(engine), expected),
    }
    # a saved state goes on as if nothing had happened, the optimizer's moments included
    engine.save_checkpoint(str(folder / f"stage{stage}"), tag="global_step5")
    update(engine, 5)
    again = engine_of(stage, offload)
    again.load_checkpoint(str(folder / f"stage{stage}"))
    update(again, 5)
    found[f"ZeRO-{stage}"]["after loading"] = difference(weights(again), weights(engine))


# -- saving interrupted at every file operation
class Killed(BaseException):
    """Stands for SIGKILL: nothing in between catches it."""


class Interruption:
    """Raises Killed at the N-th file operation while armed; `torn`: the file last opened is left half-written."""

    def __init__(self) -> None:
        self.left = -1
        self.opened = ""
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wax"
        if self.left < 0 or not (writes or event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename")):
            return
        if str(folder) not in str(arguments[0]) and event not in ("os.remove", "os.rmdir"):
            return
        if self.left == 0:
            self.left = -1
            raise Killed
        self.left -= 1
        if writes:
            self.opened = str(arguments[0])


interruption = Interruption()
strategy = object.__new__(DeepspeedStrategy)
engine = engine_of(2, False)
by_step: dict[int, dict[str, torch.Tensor]] = {}


def save(state: Path, step: int, operations: int = -1, torn: bool = False) -> bool:
    """Save `step` as OpenRLHF does; whether it was interrupted."""
    interruption.left = operations
    try:
        client = {"episode": 0, "global_step": step}
        strategy.save_ckpt(engine, str(state / "_actor"), f"global_step{step}", 2, float("inf"), client)
    except Killed:
        if torn and os.path.exists(interruption.opened):
            with open(interruption.opened, "r+b") as handle:
                handle.truncate(os.path.getsize(interruption.opened) // 2)
        return True
    finally:
        interruption.left = -1
    return False


def start(state: Path) -> int:
    """What a new call does before it goes on: recover, then load as OpenRLHF does. Returns the step that was loaded."""
    step = recover(state)
    assert saved_step(state) == step
    if not (state / "_actor").exists():
        return 0
    _, states = strategy.load_ckpt(engine, str(state / "_actor"))
    assert states["global_step"] == step, (states, step)
    assert difference(weights(engine), by_step[step]) == 0.0
    return step


for step in range(1, 60):
    update(engine, step)
    by_step[step] = weights(engine)
    engine.save_checkpoint(str(folder / "track"), tag=f"global_step{step}")


def at(step: int) -> None:
    """Trained to `step`, as without any kill."""
    engine.load_checkpoint(str(folder / "track"), tag=f"global_step{step}")


base = folder / "base"
for step in (1, 2):
    at(step)
    assert not save(base, step)
outcomes = []
for torn in (False, True):
    for operations in range(10_000):
        state = folder / "cut" / "state"
        shutil.rmtree(state.parent, ignore_errors=True)
        shutil.copytree(base, state)
        at(3)
        cut = save(state, 3, operations, torn)
        outcomes.append([operations, start(state)])
        if not cut:
            break
found["operations of a save"] = operations
found["steps after a kill in the third save"] = sorted({step for _, step in outcomes})
found["interrupted saves"] = len(outcomes)

first = []
for operations in range(10_000):
    shutil.rmtree(folder / "first", ignore_errors=True)
    at(1)
    cut = save(folder / "first" / "state", 1, operations, torn=bool(operations % 2))
    first.append(start(folder / "first" / "state"))
    if not cut:
        break
found["steps after a kill in the first save"] = sorted(set(first))

# -- one run that is killed again and again, saving every step
draw, state, step, kills = random.Random(7), folder / "walk" / "state", 0, 0
while step < 59:
    at(step + 1)
    if save(state, step + 1, draw.randrange(40), torn=draw.random() < 0.5):
        kills += 1
        resumed = start(state)
        assert resumed in (step, step + 1), f"resumed from {resumed} after step {step} had been saved"
        step = resumed
    else:
        step += 1
found["kills of one run"] = kills
print("FOUND " + json.dumps(found))
