"""From a row of the matrix to the complete command of OpenRLHF's trainer: every hyperparameter of the paper, one flag each.

OpenRLHF's own defaults are others (cosine schedule, warm-up, betas 0.9/0.95, no weight decay, no dual clip, KL 0.01, token mean,
KL inside the reward), so everything that the paper states is written out. Source: paper section "Training" (paper/README.md).
OpenRLHF's loss_agg_mode covers the policy loss only: KL and entropy stay averaged over tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.experiments import TEMPERATURE, Experiment
from train.memory_plan import ADAPTER_RANK, engine_share, token_budget

REPOSITORY = Path(__file__).resolve().parent.parent
REWARD_FILE = REPOSITORY / "reward" / "openrlhf_reward.py"
AGENT_FILE = REPOSITORY / "train" / "agent.py"
ADAPTER_FLAGS = ["--ds.lora.rank", str(ADAPTER_RANK), "--ds.lora.alpha", str(ADAPTER_RANK)]  # of all linear layers
REFERENCE_VARIABLE = "OPENRLHF_REFERENCE"
EPISODE_REWARD_VARIABLE = "FTRL_EPISODE_REWARD"


@dataclass(frozen=True)
class Launch:
    """Where and how one epoch is trained. `gpus` are the cards of one node, 0 means CPU; `samples` the prompts in the file.

    `save_steps`: the trainer's state is saved every so many steps, and a killed run goes on there; 0: never.
    `reference`: a model folder that KL is measured to instead of `policy`. `ray_address`: a running Ray cluster's job
    server; `policy`, `prompts` and `out` must then be paths that all its nodes share. `gpu_gib`: memory of a GPU, 0 if unknown.
    """

    policy: str
    prompts: str
    out: Path
    samples: int
    seed: int = 0
    preset: str = "paper"
    gpus: int = 0
    nodes: int = 1
    save_steps: int = 0
    reference: str = ""
    ray_address: str = ""
    gpu_gib: float = 0.0


def build_flags(row: Experiment, launch: Launch) -> list[str]:
    """Every flag of `openrlhf.cli.train_ppo_ray` for one epoch of `row`."""
    scale = row.scale
    flags = [
        "--actor.model_name_or_path", launch.policy,
        *_reward_flags(row, launch),
        "--data.prompt_dataset", launch.prompts, "--data.input_key", "prompt", "--data.label_key", "label",
        "--data.max_len", str(scale.max_prompt + scale.max_response),
        "--data.max_samples", str(launch.samples),
        "--rollout.max_new_tokens", str(scale.max_response),
        "--rollout.batch_size", str(scale.rollout_batch),
        "--rollout.n_samples_per_prompt", str(scale.samples_per_prompt),
        "--rollout.micro_batch_size", str(scale.micro_batch),
        "--rollout.temperature", str(TEMPERATURE[launch.preset]), "--rollout.top_p", "1.0",
        "--train.batch_size", str(scale.train_batch),
        "--train.micro_batch_size", str(scale.micro_batch),
        "--train.num_episodes", "1", "--train.max_epochs", "1",
        "--train.seed", str(launch.seed),
        "--train.colocate_all",
        "--algo.kl.use_loss", "--algo.kl.estimator", "k3", "--algo.kl.init_coef", "0.001",
        "--algo.advantage.gamma", "1.0",
        *_optimizer("actor", scale.learning_rate),
        "--actor.eps_clip", "0.2", "--actor.eps_clip_low_high", "0.2", "0.2", "--actor.dual_clip", "3.0",
        "--actor.loss_agg_mode", "seq-mean-token-mean", "--actor.entropy_coef", "0.001",
        "--ckpt.output_dir", str(launch.out / ("adapter" if row.adapter else "checkpoint")),
        "--logger.tensorboard_dir", str(launch.out / "openrlhf" / "tensorboard"),
        "--logger.wandb.run_name", "steps",
    ]  # fmt: skip
    if row.algorithm == "ppo":
        flags += ["--critic.model_name_or_path", launch.policy, *_optimizer("critic", 10 * scale.learning_rate)]
    if row.adapter:
        flags += ADAPTER_FLAGS
    flags += [*row.flags, *_state_flags(launch), *_machine_flags(row, launch)]
    return flags


def _reward_flags(row: Experiment, launch: Launch) -> list[str]:
    """The file that plays and scores. On a cluster the repository is unpacked where each node likes, and is its working folder."""
    flag, file = ("--train.agent_func_path", AGENT_FILE) if row.episode else ("--reward.remote_url", REWARD_FILE)
    return [flag, str(file.relative_to(REPOSITORY)) if launch.ray_address else str(file)]


def _optimizer(entity: str, learning_rate: float) -> list[str]:
    return [
        f"--{entity}.adam.lr", str(learning_rate),
        f"--{entity}.adam.betas", "0.9", "0.999", f"--{entity}.adam.weight_decay", "0.01",
        f"--{entity}.lr_scheduler", "constant", f"--{entity}.lr_warmup_ratio", "0", f"--{entity}.max_norm", "1.0",
    ]  # fmt: skip


def _state_flags(launch: Launch) -> list[str]:
    flags = ["--ckpt.path", str(launch.out / "openrlhf" / "state")]
    if not launch.save_steps:
        return [*flags, "--ckpt.disable_ds"]
    return [*flags, "--ckpt.save_steps", str(launch.save_steps), "--ckpt.load_enable", "--ckpt.max_num", "1"]


def _machine_flags(row: Experiment, launch: Launch) -> list[str]:
    cards = max(launch.gpus, 1)
    entities = ("actor", "ref", "critic") if row.algorithm == "ppo" else ("actor", "ref")
    flags: list[str] = []
    for entity in entities:
        flags += [f"--{entity}.num_nodes", str(launch.nodes), f"--{entity}.num_gpus_per_node", str(cards)]
    flags += [
        "--vllm.num_engines", str(cards * launch.nodes), "--vllm.tensor_parallel_size", "1", "--vllm.enable_prefix_caching",
    ]  # fmt: skip
    if launch.gpus:
        # an adapter's weights are sent merged, which needs whole layers on a card (train/openrlhf_lora.py); its optimizer is small
        sharding = ["--ds.zero_stage", "3", "--ds.adam_offload", "--ds.enable_sleep"]
        if row.adapter:
            sharding = ["--ds.zero_stage", "2"]
        return [
            *flags, "--vllm.sync_backend", "nccl", "--vllm.enable_sleep",
            "--vllm.gpu_memory_utilization", str(engine_share(cards * launch.nodes, row, launch.gpu_gib)),
            *sharding, "--ds.param_dtype", "bf16",
            "--ds.attn_implementation", "flash_attention_2", "--ds.packing_samples", *_budget_flags(row, launch), "--actor.gradient_checkpointing_enable",
        ]  # fmt: skip
    return [
        *flags, "--vllm.sync_backend", "gloo", "--vllm.enforce_eager", "--ds.attn_implementation", "sdpa", "--ds.zero_stage", "2",
    ]  # fmt: skip


def _budget_flags(row: Experiment, launch: Launch) -> list[str]:
    """Micro-batches by tokens, beside packed sequences alone: OpenRLHF normalizes the loss over the whole train batch either way."""
    budget = token_budget(row, launch.gpus, launch.nodes, launch.gpu_gib)
    return ["--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", str(budget)] if budget else []


def reward_environment(row: Experiment, control: str, seed: int) -> dict[str, str]:
    """The reward's settings, as the rollout processes read them (reward/openrlhf_reward.py, and train/agent.py for
    episodes). `control` overrides the row's.
    """
    settings = {
        "FTRL_REWARD_VARIANT": row.variant,
        "FTRL_REWARD_MATCH": row.match,
        "FTRL_REWARD_CONTROL": control or row.control,
        "FTRL_REWARD_SEED": str(seed),
    }
    return settings | ({EPISODE_REWARD_VARIABLE: row.episode} if row.episode else {})


def build_command(flags: Sequence[str], launch: Launch, environment: Mapping[str, str]) -> list[str]:
    """The entry point on GPUs, behind what adapters or a held reference need; the same one through the compatibility module on
    a CPU, or submitted to a Ray cluster.
    """
    module = "train.openrlhf_on_cpu"
    if launch.gpus:
        module = "train.openrlhf_reference" if launch.reference else "openrlhf.cli.train_ppo_ray"
        if ADAPTER_FLAGS[0] in flags:
            module = "train.openrlhf_lora"
    if not launch.ray_address:
        return [sys.executable, "-m", module, *flags]
    runtime = json.dumps(
        {"working_dir": str(REPOSITORY), "env_vars": dict(environment), "excludes": [".venv", "outputs"]}
    )
    submit = ["ray", "job", "submit", "--address", launch.ray_address, "--runtime-env-json", runtime, "--"]
    return [*submit, "python", "-m", module, *flags]
