"""What a training run needs of each card and of the host, before anything is downloaded or started.

For the layout of train/openrlhf_command.py: policy and reference sharded by ZeRO-3 over all cards, optimizer on the host, one
vLLM engine a card which sleeps while the policy trains, gradient checkpointing, one packed sequence a micro-batch. With
adapters: policy and reference whole on every card, gradients and optimizer of the adapters there too.
Two phases, each must fit: generation (engine awake) and training (engine asleep), for a sequence of full length.

    python -m train.memory_plan --experiment qwen3-8b-thinking-grpo --gpus 8 --gpu-gib 80

Estimates from the model's shape, not measurements; the logits dominate for long sequences, since OpenRLHF keeps those of a whole
sequence in bf16 and fp32, with their gradient and the entropy's probabilities.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from env_construction.jsonl import BadInput, run_main
from train.devices import visible_gpu_gib
from train.experiments import Experiment, experiment

GIB = 1024**3
ENGINE_SHARE = {"one card": 0.4, "several": 0.6}  # --vllm.gpu_memory_utilization: one card holds both models whole
ADAPTER_RANK = 32
ADAPTER_BYTES = 2 + 2 + 4 + 4 + 4  # weight and gradient in bf16, fp32 copy, two Adam moments
CONTEXTS = 2.0  # GiB: CUDA contexts and allocator slack of the three processes on a card
GATHERED = 1e9  # parameters that ZeRO-3 holds unsharded at a time (stage3_max_live_parameters)
LOGIT_BYTES = 2 + 4 + 4 + 4  # bf16, fp32, gradient, probabilities of the entropy
HOST_BYTES = 4 + 4 + 4 + 4  # a parameter's fp32 copy, two Adam moments and gradient


@dataclass(frozen=True)
class MemoryPlan:
    """GiB by what it is for. `generation` and `training` are per card, `host` per node; `gpu_gib` is what a card has."""

    generation: dict[str, float]
    training: dict[str, float]
    host: float
    gpu_gib: float

    @property
    def missing(self) -> dict[str, float]:
        """GiB that a phase lacks on each card, by phase; empty if all fits."""
        phases = {"generation": self.generation, "training": self.training}
        lacking = {name: sum(parts.values()) - self.gpu_gib for name, parts in phases.items()}
        return {name: value for name, value in lacking.items() if value > 0}

    def lines(self) -> list[str]:
        """The plan as text, a line a phase."""
        shown = []
        for name, parts in (("generation", self.generation), ("training", self.training)):
            total = sum(parts.values())
            verdict = "fits" if total <= self.gpu_gib else f"lacks {total - self.gpu_gib:.1f}"
            listed = ", ".join(f"{part} {value:.1f}" for part, value in parts.items())
            shown.append(f"{name}: {total:.1f} of {self.gpu_gib:.1f} GiB a card, {verdict} ({listed})")
        return [*shown, f"host memory of a node: {self.host:.0f} GiB for the optimizer"]


def engine_share(cards: int) -> float:
    """The share of a card that its vLLM engine may take while awake."""
    return ENGINE_SHARE["several" if cards > 1 else "one card"]


def adapter_parameters(row: Experiment) -> float:
    """Parameters of the adapters of all linear layers of `row`."""
    model = row.model
    query, key = model.heads * model.head_width, model.kv_heads * model.head_width
    attention = 2 * (model.width + query) + 2 * (model.width + key)
    return ADAPTER_RANK * model.layers * (attention + 3 * (model.width + model.mlp_width))


def memory_plan(row: Experiment, gpus: int, nodes: int, gpu_gib: float, tokens: int | None = None) -> MemoryPlan:
    """The plan of `row` on `nodes` x `gpus` cards, for sequences of `tokens` (default: the longest that the limits allow)."""
    model, cards = row.model, gpus * nodes
    parameters = model.parameters * 1e6
    tokens = row.scale.max_prompt + row.scale.max_response if tokens is None else tokens
    held = 2 * parameters / (1 if row.adapter else cards) / GIB  # bf16, sharded
    kv_cache = tokens * 2 * 2 * model.layers * model.kv_heads * model.head_width / GIB
    engine = 2 * parameters / GIB + kv_cache  # weights, and one sequence: less than that cannot run
    checkpoints = tokens * model.width * 2 * model.layers / GIB
    layer = tokens * 2 * (10 * model.width + 4 * model.mlp_width) / GIB
    sequences = row.scale.micro_batch
    critics = 1 if row.algorithm == "ppo" else 0
    resident = {"policy": held * (1 + critics), "reference": held, "contexts": CONTEXTS}
    if row.adapter:
        resident["adapters"] = ADAPTER_BYTES * adapter_parameters(row) * (1 + critics) / GIB
    return MemoryPlan(
        generation={**resident, "engine": max(engine_share(cards) * gpu_gib, engine)},
        training={
            **resident,
            **({} if row.adapter else {"gathered parameters": 2 * min(GATHERED, parameters) / GIB}),
            "activations": sequences * (checkpoints + layer),
            "logits": sequences * tokens * model.vocabulary * LOGIT_BYTES / GIB,
        },
        host=0.0 if row.adapter else HOST_BYTES * parameters * (1 + critics) / nodes / GIB,
        gpu_gib=gpu_gib,
    )


def longest_sequence(row: Experiment, gpus: int, nodes: int, gpu_gib: float) -> int:
    """The longest sequence, in tokens, for which both phases fit; 0 if not even one token does."""
    low, high = 0, row.scale.max_prompt + row.scale.max_response
    while low < high:
        middle = (low + high + 1) // 2
        if memory_plan(row, gpus, nodes, gpu_gib, middle).missing:
            high = middle - 1
        else:
            low = middle
    return low


def check_memory(row: Experiment, gpus: int, nodes: int, gpu_gib: float) -> str:
    """One line on what fits. Raises BadInput if the model does not fit at all, whatever the length."""
    longest, allowed = longest_sequence(row, gpus, nodes, gpu_gib), row.scale.max_prompt + row.scale.max_response
    if longest == allowed:
        return f"memory: sequences of the full {allowed} tokens fit into {gpu_gib:.0f} GiB a card"
    if longest == 0:
        lacking = "; ".join(memory_plan(row, gpus, nodes, gpu_gib, 1).lines())
        raise BadInput(f"{row.name} does not fit on {nodes} x {gpus} cards: {lacking}. Use more or larger cards")
    return (
        f"memory: by estimate sequences up to {longest} of the allowed {allowed} tokens fit into {gpu_gib:.0f} GiB a card; "
        f"longer ones may run out of memory while training"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m train.memory_plan"
    )
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--gpus", type=int, default=None, help="cards of a node (default: what the experiment takes)")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument(
        "--gpu-gib", type=float, default=None, help="memory of a card (default: nvidia-smi's, else the listed one)"
    )
    arguments = parser.parse_args()
    row = experiment(arguments.experiment)
    gpus = row.gpus if arguments.gpus is None else arguments.gpus
    if gpus < 1:
        raise BadInput(f"{row.name} runs on the CPU: nothing to plan; --gpus N plans for cards")
    gpu_gib = arguments.gpu_gib or visible_gpu_gib() or float(row.card_gib)
    print("\n".join(memory_plan(row, gpus, arguments.nodes, gpu_gib).lines()))
    print(check_memory(row, gpus, arguments.nodes, gpu_gib))
    return 0


if __name__ == "__main__":
    run_main(main)
