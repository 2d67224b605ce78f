"""Estimate a training run's GPU memory, host memory and disk space before anything is downloaded or started.

The estimate assumes the layout of train/trainer/openrlhf_command.py:
- ZeRO-3 shards policy and reference over all GPUs. The optimizer is on the host.
- One vLLM engine per GPU sleeps while the policy trains.
- Training uses gradient checkpointing and one packed micro-batch of a sequence's full length at a time.
- With adapters, every GPU holds the complete policy, and the adapters' gradients and optimizer. The reference is the
  same weights with the adapters off. If an awake engine needs their room, the weights move to the host meanwhile.

Two phases must each fit for a sequence of full length: generation (engine awake) and training (engine asleep).

    python -m train.trainer.memory_plan --experiment qwen3-8b-thinking-grpo --gpus 8 --gpu-gib 80

All figures are estimates from the model's shape; `train/trainer/peak_memory.py` compares them with the measured use.
The logits dominate for long sequences: OpenRLHF keeps those of a complete sequence in bf16 and fp32, with their
gradient and the probabilities of the entropy. Constants with a safety margin cover what shapes do not determine: CUDA
contexts, NCCL's buffers, CUDA graphs, the allocators' slack.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from train.experiments import Experiment, experiment
from train.trainer.devices import visible_gpu_gib

GIB = 1024**3
GPU_SIZES = {24: 23.9, 48: 47.9, 80: 79.6, 141: 140.4, 192: 179.0}  # nominal GB -> GiB that nvidia-smi shows
ENGINE_SHARE = {"one GPU": 0.4, "several": 0.6}  # --vllm.gpu_memory_utilization, unless the weights need more
ADAPTER_RANK = 32
ADAPTER_BYTES = 2 + 2 + 4 + 4 + 4  # weight and gradient in bf16, fp32 copy, two Adam moments
CONTEXT = 0.6  # GiB: a process's CUDA context and the libraries' workspaces
NCCL = 0.5  # GiB: the buffers of a process that talks to other GPUs
GRAPHS = 1.0  # GiB: the engine's CUDA graphs, which stay while it sleeps
SLACK = 0.04  # share of a GPU that the allocators reserve but cannot use
GATHERED = 1e9  # parameters that ZeRO-3 holds unsharded at a time (stage3_max_live_parameters)
LOGIT_BYTES = 2 + 4 + 4 + 4  # bf16, fp32, gradient, probabilities of the entropy
HOST_BYTES = 4 + 4 + 4 + 4  # a parameter's fp32 copy, two Adam moments and gradient
HOST_RESERVE = 16.0  # GiB: the processes themselves, prompts, Ray's object store
STATE_BYTES = 2 + 4 + 4 + 4  # a parameter in a saved state: bf16, fp32 copy, two Adam moments
STATES = 2  # saved states on disk: the next one is written before the old one is deleted (--ckpt.max_num)


@dataclass(frozen=True)
class MemoryPlan:
    """GiB by purpose: `generation`, `training` per GPU, `host` per node, `disk` per run. `gpu_gib`: a GPU's memory."""

    generation: dict[str, float]
    training: dict[str, float]
    host: dict[str, float]
    disk: dict[str, float]
    gpu_gib: float

    @property
    def peak(self) -> float:
        """GiB per GPU in the phase that needs more."""
        return max(sum(self.generation.values()), sum(self.training.values()))

    @property
    def missing(self) -> dict[str, float]:
        """GiB that a phase lacks on each GPU, by phase; empty if all fits."""
        phases = {"generation": self.generation, "training": self.training}
        lacking = {name: sum(parts.values()) - self.gpu_gib for name, parts in phases.items()}
        return {name: value for name, value in lacking.items() if value > 0}

    def lines(self) -> list[str]:
        """The plan as text, one line per phase."""
        shown = []
        for name, parts in (("generation", self.generation), ("training", self.training)):
            total = sum(parts.values())
            verdict = "fits" if total <= self.gpu_gib else f"lacks {total - self.gpu_gib:.1f}"
            shown.append(f"{name}: {total:.1f} of {self.gpu_gib:.1f} GiB per GPU, {verdict} ({_listed(parts)})")
        shown.append(f"host memory per node: {sum(self.host.values()):.0f} GiB ({_listed(self.host)})")
        return [*shown, f"disk: {sum(self.disk.values()):.1f} GiB ({_listed(self.disk)})"]


def _listed(parts: dict[str, float]) -> str:
    return ", ".join(f"{part} {value:.1f}" for part, value in parts.items())


def engine_need(row: Experiment, tokens: int | None = None) -> float:
    """Minimum GiB of an awake engine: weights, and the cache of one sequence of `tokens` (default: full length)."""
    model = row.model
    tokens = row.scale.max_prompt + row.scale.max_response if tokens is None else tokens
    kept = (model.layers - model.linear_layers) * model.kv_heads * model.head_width
    return 2 * model.parameters * 1e6 / GIB + tokens * 2 * 2 * kept / GIB + CONTEXT + GRAPHS


def engine_share(gpus: int, row: Experiment | None = None, gpu_gib: float | None = None) -> float:
    """The share of a GPU for its awake vLLM engine; more than the default if `row`'s weights need it."""
    usual = ENGINE_SHARE["several" if gpus > 1 else "one GPU"]
    if row is None or not gpu_gib:
        return usual
    return max(usual, min(0.95, round(engine_need(row) / gpu_gib + 0.03, 2)))


def adapter_parameters(row: Experiment) -> float:
    """Parameters of the adapters of all linear layers of `row`."""
    model = row.model
    query, key = model.heads * model.head_width, model.kv_heads * model.head_width
    attention = 2 * (model.width + query) + 2 * (model.width + key)
    return ADAPTER_RANK * model.layers * (attention + 3 * (model.width + model.mlp_width))


def memory_plan(row: Experiment, gpus: int, nodes: int, gpu_gib: float, tokens: int | None = None) -> MemoryPlan:
    """The plan of `row` on `nodes` x `gpus` GPUs, for sequences of `tokens` (default: the longest allowed).

    If a policy with adapters does not fit together with an awake engine, its base moves to the host meanwhile
    (`parks_base`).
    """
    plan = _memory_plan(row, gpus, nodes, gpu_gib, tokens)
    if not row.adapter or "generation" not in plan.missing:
        return plan
    generation = {part: value for part, value in plan.generation.items() if part != "policy"}
    generation["engine"] = engine_need(row, tokens)
    host = {**plan.host, "parked base": gpus * plan.generation["policy"]}
    return replace(plan, generation=generation, host=host)


def parks_base(row: Experiment, gpus: int, nodes: int, gpu_gib: float) -> bool:
    """Whether the base of a policy with adapters must be on the host while the engine is awake (openrlhf_lora.py)."""
    return "parked base" in memory_plan(row, gpus, nodes, gpu_gib).host


def _memory_plan(row: Experiment, gpus: int, nodes: int, gpu_gib: float, tokens: int | None) -> MemoryPlan:
    model, ranks = row.model, gpus * nodes
    parameters = model.parameters * 1e6
    tokens = row.scale.max_prompt + row.scale.max_response if tokens is None else tokens
    critics = 1 if row.algorithm == "ppo" else 0
    held = 2 * parameters / (1 if row.adapter else ranks) / GIB  # bf16, sharded
    full = row.scale.max_prompt + row.scale.max_response
    together = tokens * max(1, row.scale.token_budget // full if row.scale.token_budget else row.scale.micro_batch)
    trainers = 1 + critics + (0 if row.adapter else 1)
    resident = {
        "policy": held * (1 + critics),
        **({} if row.adapter else {"reference": held}),
        "contexts": CONTEXT * trainers + (NCCL * (trainers + 1) if ranks > 1 else 0.0),
        "slack": SLACK * gpu_gib,
    }
    if row.adapter:
        resident["adapters"] = ADAPTER_BYTES * adapter_parameters(row) * (1 + critics) / GIB
    checkpoints = together * model.width * 2 * model.layers / GIB
    layer = together * 2 * (10 * model.width + 4 * model.mlp_width) / GIB
    return MemoryPlan(
        generation={**resident, "engine": max(engine_share(ranks) * gpu_gib, engine_need(row, tokens))},
        training={
            **resident,
            "sleeping engine": CONTEXT + GRAPHS,
            **({} if row.adapter else {"gathered parameters": 2 * min(GATHERED, parameters) / GIB}),
            "activations": checkpoints + layer,
            "logits": together * model.vocabulary * LOGIT_BYTES / GIB,
        },
        host={
            **({} if row.adapter else {"optimizer": HOST_BYTES * parameters * (1 + critics) / nodes / GIB}),
            "sleeping engines' weights": gpus * 2 * parameters / GIB,  # pinned, level-1 sleep
            "processes": HOST_RESERVE,
        },
        disk=_disk(row, critics),
        gpu_gib=gpu_gib,
    )


def _disk(row: Experiment, critics: int) -> dict[str, float]:
    """A training's checkpoints (of the last two epochs, see train/prune_checkpoints.py) and its saved states."""
    parameters = row.model.parameters * 1e6
    saved = adapter_parameters(row) if row.adapter else parameters
    return {
        "checkpoints": min(2, row.scale.epochs) * 2 * parameters / GIB,
        "saved states": STATES * STATE_BYTES * saved * (1 + critics) / GIB,
    }


def longest_sequence(row: Experiment, gpus: int, nodes: int, gpu_gib: float) -> int:
    """The longest sequence in tokens for which both phases fit; 0 if not even one token fits."""
    low, high = 0, row.scale.max_prompt + row.scale.max_response
    while low < high:
        middle = (low + high + 1) // 2
        if memory_plan(row, gpus, nodes, gpu_gib, middle).missing:
            high = middle - 1
        else:
            low = middle
    return low


def token_budget(row: Experiment, gpus: int, nodes: int, gpu_gib: float | None) -> int:
    """The token budget of a micro-batch on GPUs of this size (None: unknown, the row's budget); 0: the row has none.

    If sequences of full length do not fit, the budget shrinks in proportion to the longest sequence that fits.
    """
    if not gpu_gib or not row.scale.token_budget:
        return row.scale.token_budget
    full = row.scale.max_prompt + row.scale.max_response
    return max(1, row.scale.token_budget * longest_sequence(row, gpus, nodes, gpu_gib) // full)


def smallest_gpu(row: Experiment) -> int:
    """The smallest GPU, in nominal GB, on which the row fits at full length with its number of GPUs; 0 if none."""
    allowed = row.scale.max_prompt + row.scale.max_response
    return next((size for size, gib in GPU_SIZES.items() if longest_sequence(row, row.gpus, 1, gib) == allowed), 0)


def check_memory(row: Experiment, gpus: int, nodes: int, gpu_gib: float) -> str:
    """One line on what fits. Raises BadInput if the model does not fit for any length."""
    longest, allowed = longest_sequence(row, gpus, nodes, gpu_gib), row.scale.max_prompt + row.scale.max_response
    if longest == allowed:
        return f"memory: sequences of the full {allowed} tokens fit into {gpu_gib:.0f} GiB per GPU"
    if longest == 0:
        lacking = "; ".join(memory_plan(row, gpus, nodes, gpu_gib, 1).lines())
        raise BadInput(f"{row.name} does not fit on {nodes} x {gpus} GPUs: {lacking}. Use more or larger GPUs")
    return (
        f"memory: by estimate, sequences up to {longest} of the allowed {allowed} tokens fit into {gpu_gib:.0f} GiB "
        "per GPU; longer ones may run out of memory during training"
    )


def check_resources(
    row: Experiment, gpus: int, nodes: int, gpu_gib: float | None, out: Path, host_gib: float | None = None
) -> list[str]:
    """Lines on GPU memory, host memory and disk, before anything starts.

    `gpu_gib`: None if unknown. `host_gib`: free memory of the host (default: that of this machine).

    Raises BadInput if the weights do not fit on the GPUs, the optimizer does not fit in host memory, or the checkpoints
    do not fit on the disk of `out`.
    """
    plan = memory_plan(row, gpus, nodes, gpu_gib or 0.0)
    lines = [check_memory(row, gpus, nodes, gpu_gib) if gpu_gib else "memory: unknown, nvidia-smi does not respond"]
    free = available_gib() if host_gib is None else host_gib
    needed = sum(plan.host.values())
    if free is not None and needed > free:
        raise BadInput(
            f"{row.name}: a node needs {needed:.0f} GiB of host memory ({_listed(plan.host)}), but {free:.0f} GiB are "
            "free; use more nodes, a -lora row or a smaller model"
        )
    lines.append(f"host memory: {needed:.0f} GiB needed ({_listed(plan.host)}), {free or 0:.0f} GiB free")
    place = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    needed, free = sum(plan.disk.values()), shutil.disk_usage(place).free / GIB
    if needed > free:
        raise BadInput(
            f"{place}: the run needs {needed:.1f} GiB of disk ({_listed(plan.disk)}), but {free:.1f} GiB are free; "
            "free some space or choose another --out"
        )
    return [*lines, f"disk: {needed:.1f} GiB needed ({_listed(plan.disk)}), {free:.0f} GiB free"]


def available_gib(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Free host memory in GiB, within the limit of a container; None if /proc does not report it."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        free = int(rows["MemAvailable"].split()[0]) / 1024**2
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used, parts = (
            (cgroup / f"memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current", "stat")
        )
        counted = {name: int(count) for name, count in (line.split() for line in parts.splitlines())}
        # the cache of files counts as used, but the kernel gives it up for whoever needs memory
        cache = counted.get("inactive_file", 0) + counted.get("active_file", 0)
        return min(free, (int(limit) - int(used) + cache) / GIB)
    except (OSError, ValueError):  # no limit
        return free


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.trainer.memory_plan")
    parser.add_argument("--experiment", required=True, help="name from `python -m train.experiments`")
    parser.add_argument("--policy-dir", default="", help="model of an own-... row: folder or hub name")
    parser.add_argument("--gpus", type=int, default=None, help="GPUs per node (default: what the experiment needs)")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument(
        "--gpu-gib",
        type=float,
        default=None,
        help="memory per GPU (default: from nvidia-smi, otherwise the smallest that fits)",
    )
    arguments = parser.parse_args()
    row = experiment(arguments.experiment, arguments.policy_dir)
    gpus = row.gpus if arguments.gpus is None else arguments.gpus
    if gpus < 1:
        raise BadInput(f"{row.name} runs on the CPU, so there is no GPU memory to plan; pass --gpus N to plan for GPUs")
    gpu_gib = arguments.gpu_gib or visible_gpu_gib() or GPU_SIZES[smallest_gpu(row) or max(GPU_SIZES)]
    print("\n".join(memory_plan(row, gpus, arguments.nodes, gpu_gib).lines()))
    print(check_memory(row, gpus, arguments.nodes, gpu_gib))
    return 0


if __name__ == "__main__":
    run_main(main)
