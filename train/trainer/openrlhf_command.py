"""Build the complete command of OpenRLHF's trainer from a row of the matrix, with one flag per hyperparameter.

Every hyperparameter that the paper states has a flag, because OpenRLHF's defaults differ: cosine schedule, warm-up,
betas 0.9/0.95, no weight decay, no dual clip, KL 0.01, token mean, KL inside the reward. OpenRLHF's loss_agg_mode
covers only the policy loss; KL and entropy remain means over tokens.

Source: paper section "Training" (paper/README.md).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from env_construction.environment.jsonl import BadInput
from train.experiments import TEMPERATURE, Experiment
from train.trainer.memory_plan import ADAPTER_RANK, engine_share, token_budget
from train.trainer.openrlhf_launcher import REPOSITORY, worker_environment
from train.trainer.ray_job import RayJob
from train.trainer.turn_credit import CREDIT_VARIABLE

REWARD_FILE = REPOSITORY / "reward" / "openrlhf_reward.py"
AGENT_FILE = REPOSITORY / "train" / "agent.py"
ADAPTER_FLAGS = ["--ds.lora.rank", str(ADAPTER_RANK), "--ds.lora.alpha", str(ADAPTER_RANK)]  # for all linear layers
EPISODE_REWARD_VARIABLE = "FTRL_EPISODE_REWARD"


@dataclass(frozen=True)
class Launch:
    """Where and how one epoch is trained.

    `samples`: number of prompts in the file. `gpus`: per node, 0 means CPU. `gpu_gib`: memory of a GPU, 0 if unknown.
    `save_steps`: interval of saved states, from which a killed run resumes; 0: never.
    `reference`: model folder of the KL reference if it is not `policy`.
    `ray_address`: a running Ray cluster, HOST:PORT to join it or http://HOST:PORT to submit a job. The repository with
    its .venv, `policy`, `prompts` and `out` must then be on paths that all nodes share.
    `threads`: OMP threads per worker. `flash_attention`, `compiler`: what train/trainer/devices.py found for GPUs.
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
    threads: int = 1
    flash_attention: bool = True
    compiler: bool = True
    gpu_gib: float = 0.0

    @property
    def job(self) -> RayJob | None:
        """The cluster job of the training if `ray_address` is a job server, else None."""
        if not self.ray_address.startswith(("http://", "https://")):
            return None
        return RayJob(self.ray_address, self.out / "openrlhf" / "job.txt")


def build_flags(row: Experiment, launch: Launch) -> list[str]:
    """All flags of `openrlhf.cli.train_ppo_ray` for one epoch of `row`."""
    scale = row.scale
    flags = [
        "--actor.model_name_or_path", launch.policy,
        *_reward_flags(row),
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


def overrides(settings: Sequence[str]) -> list[str]:
    """Flags of `NAME=VALUE` settings, which override earlier flags. Raises BadInput for a setting not allowed."""
    flags: list[str] = []
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", name) or not value.strip():
            raise BadInput(f"--set {setting}: expected NAME=VALUE with OpenRLHF's name, such as actor.adam.lr=5e-6")
        if name == "rollout.batch_size" or name.startswith(("data.", "ckpt.", "reward.")):
            raise BadInput(
                f"--set {setting}: {name} is derived from the prompts and the folders and cannot be overridden"
            )
        flags += [f"--{name}", *value.split()]
    return flags


def _reward_flags(row: Experiment) -> list[str]:
    """The file that scores responses, or plays and scores complete episodes."""
    return ["--train.agent_func_path", str(AGENT_FILE)] if row.episode else ["--reward.remote_url", str(REWARD_FILE)]


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
    return [*flags, "--ckpt.save_steps", str(launch.save_steps), "--ckpt.load_enable", "--ckpt.max_num", "2"]


def _machine_flags(row: Experiment, launch: Launch) -> list[str]:
    cards = max(launch.gpus, 1)
    entities = ("actor", "ref", "critic") if row.algorithm == "ppo" else ("actor", "ref")
    flags: list[str] = []
    for entity in entities:
        flags += [f"--{entity}.num_nodes", str(launch.nodes), f"--{entity}.num_gpus_per_node", str(cards)]
    flags += [
        "--vllm.num_engines", str(cards * launch.nodes), "--vllm.tensor_parallel_size", "1",
        "--vllm.enable_prefix_caching",
    ]  # fmt: skip
    if not launch.gpus:
        return [
            *flags, "--vllm.sync_backend", "gloo", "--vllm.enforce_eager", "--ds.attn_implementation", "sdpa",
            "--ds.zero_stage", "2",
        ]  # fmt: skip
    # Adapters are sent to vLLM merged, which requires complete layers on each GPU (train/trainer/openrlhf_lora.py).
    # Their optimizer is small. No --ds.enable_sleep: with the optimizer on the host it has no effect, and DeepSpeed
    # supports it only for its own Adam.
    sharding = ["--ds.zero_stage", "2"] if row.adapter else ["--ds.zero_stage", "3", "--ds.adam_offload"]
    attention = ["--ds.attn_implementation", "sdpa"]  # padded batches, because packing needs flash-attn
    if launch.flash_attention:
        attention = [
            "--ds.attn_implementation",
            "flash_attention_2",
            "--ds.packing_samples",
            *_budget_flags(row, launch),
        ]
    return [
        *flags, "--vllm.sync_backend", "nccl", "--vllm.enable_sleep",
        "--vllm.gpu_memory_utilization", str(engine_share(cards * launch.nodes, row, launch.gpu_gib)),
        *([] if launch.compiler else ["--vllm.enforce_eager"]),
        *sharding, "--ds.param_dtype", "bf16", *attention, "--actor.gradient_checkpointing_enable",
    ]  # fmt: skip


def check_batches(row: Experiment, launch: Launch) -> None:
    """Raises BadInput for batch sizes that DeepSpeed or OpenRLHF would reject only after loading all models."""
    ranks, scale = max(launch.gpus, 1) * launch.nodes, row.scale
    if scale.train_batch % (scale.micro_batch * ranks):
        raise BadInput(
            f"{row.name}: a train batch of {scale.train_batch} samples does not divide into micro-batches of "
            f"{scale.micro_batch} on {ranks} GPUs; use a number of GPUs that divides "
            f"{scale.train_batch // scale.micro_batch}"
        )
    samples = scale.rollout_batch * scale.samples_per_prompt
    if samples % scale.train_batch:
        raise BadInput(
            f"{row.name}: {samples} samples per rollout batch are not a multiple of the train batch of "
            f"{scale.train_batch}"
        )
    if samples // scale.micro_batch < ranks:
        raise BadInput(
            f"{row.name}: {samples} samples in micro-batches of {scale.micro_batch} do not suffice for {ranks} GPUs; "
            "use fewer GPUs"
        )


def _budget_flags(row: Experiment, launch: Launch) -> list[str]:
    """Micro-batches by tokens, only for packed sequences. OpenRLHF still normalizes the loss over the train batch."""
    budget = token_budget(row, launch.gpus, launch.nodes, launch.gpu_gib)
    return ["--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", str(budget)] if budget else []


def reward_environment(row: Experiment, control: str, seed: int) -> dict[str, str]:
    """The environment variables of the reward (reward/openrlhf_reward.py; train/agent.py for episodes).

    `control` overrides the row's control. Raises BadInput for a control of a row with credit per turn.
    """
    if row.credit and (control or row.control):
        raise BadInput(
            f"{row.name}: a control replaces the one reward per sample, but this row has one per turn; use the control "
            f"with {row.name.removesuffix(f'-credit-{row.credit}')}"
        )
    settings = {
        "FTRL_REWARD_VARIANT": row.variant,
        "FTRL_REWARD_MATCH": row.match,
        "FTRL_REWARD_CONTROL": control or row.control,
        "FTRL_REWARD_SEED": str(seed),
    }
    if row.episode:
        settings[EPISODE_REWARD_VARIABLE] = row.episode
    if row.credit:
        settings[CREDIT_VARIABLE] = row.credit
    return settings


def build_command(flags: Sequence[str], launch: Launch, environment: Mapping[str, str]) -> list[str]:
    """The launcher's command with the required adaptations: with a local Ray, on a joined cluster, or as a job."""
    adapt = [] if launch.gpus else ["cpu"]
    if not launch.gpus or not launch.flash_attention:
        adapt.append("no-flash-attn")
    if ADAPTER_FLAGS[0] in flags:
        adapt.append("lora")
    own = ["--gpus", str(launch.gpus), "--threads", str(launch.threads)]
    own += ["--adapt", ",".join(adapt)] if adapt else []
    if launch.ray_address:
        own += ["--join", "auto" if launch.job else launch.ray_address]
    launcher = [sys.executable, "-m", "train.trainer.openrlhf_launcher", *own, "--", *flags]
    if launch.job:
        return launch.job.submit_command(launcher, {**worker_environment(adapt, launch.threads), **environment})
    return launcher
