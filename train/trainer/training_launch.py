"""Turn the command line of train.run_openrlhf into a Launch, and check it before anything starts."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl
from reward.credit import CREDITS
from train.experiments import Experiment
from train.policies.prompts import load_tokenizer, require_thinking, template_sha256
from train.trainer import devices
from train.trainer.memory_plan import parks_base
from train.trainer.openrlhf_command import REWARD_FILE, Launch, check_batches, reward_environment
from train.trainer.openrlhf_launcher import REFERENCE_VARIABLE
from train.trainer.openrlhf_lora import PARK_VARIABLE
from train.trainer.openrlhf_on_cpu import MATMUL_VARIABLE

SAVE_STEPS = 10
SAVE_STEPS_ON_CPU = 4  # a step on a CPU takes minutes
# Millions of parameters. For smaller models a complete epoch takes minutes, and saving takes as long as half a step.
SAVED_ON_CPU = 10


def make_launch(row: Experiment, arguments: argparse.Namespace) -> Launch:
    """The Launch of a command line. Paths are absolute, because Ray's workers have other working directories."""
    gpus = row.gpus if arguments.gpus is None else arguments.gpus
    reference = ""
    if arguments.reference == "base":
        reference = _absolute(arguments.base_policy or row.model.start)
        if not reference:
            raise BadInput("--reference base needs --base-policy: the folder that the first epoch started from")
    exists = Path(arguments.prompts).exists()
    save_steps = SAVE_STEPS if gpus else SAVE_STEPS_ON_CPU if row.model.parameters > SAVED_ON_CPU else 0
    cores = len(os.sched_getaffinity(0))
    threads = cores if _is_large_for_a_cpu(row) else int(os.environ.get("OMP_NUM_THREADS", "1"))
    return Launch(
        policy=_absolute(arguments.policy_dir),
        prompts=str(Path(arguments.prompts).resolve()),
        out=Path(arguments.out).resolve(),
        samples=_count(arguments.prompts) if exists or not arguments.dry_run else row.scale.rollout_batch,
        seed=arguments.seed,
        preset=arguments.preset,
        gpus=gpus,
        nodes=arguments.nodes,
        save_steps=save_steps if arguments.save_steps is None else arguments.save_steps,
        reference=reference,
        ray_address=arguments.ray_address,
        threads=max(1, cores // gpus) if gpus else threads,  # the optimizer's step runs on the host
        flash_attention=bool(gpus) and devices.has_flash_attention(),
        compiler=devices.has_compiler(),
        # The GPUs of a cluster cannot be queried from here.
        gpu_gib=devices.visible_gpu_gib() or 0.0,
    )


def _is_large_for_a_cpu(row: Experiment) -> bool:
    """Whether matrix products dominate the CPU time, and two concurrent trainings do not fit into memory."""
    return row.model.name not in ("tiny", "mini")


def _absolute(policy: str) -> str:
    return str(Path(policy).resolve()) if policy and Path(policy).is_dir() else policy


def _count(prompts: str) -> int:
    return sum(1 for _ in read_jsonl(prompts, required=("prompt", "label")))


def check(row: Experiment, launch: Launch) -> None:
    """Check the launch before anything is downloaded or started. Raises BadInput with the reason if it cannot work."""
    if not launch.ray_address:
        if launch.gpus:
            devices.require_gpus(row.name, launch.gpus)
        devices.require_engine(launch.gpus)
    check_batches(row, launch)
    check_paths(launch)
    if launch.samples < row.scale.rollout_batch:
        raise BadInput(
            f"{launch.prompts}: {launch.samples} prompts do not fill a rollout batch of {row.scale.rollout_batch}; "
            "collect more trajectories"
        )
    tokenizer = load_tokenizer(launch.policy)
    require_thinking(tokenizer, launch.policy, row.thinking)
    template = template_sha256(tokenizer)
    for number, prompt in read_jsonl(launch.prompts):
        if prompt.get("template_sha256", template) != template:
            raise BadInput(
                f"{launch.prompts}:{number}: rendered with another chat template than that of {launch.policy}; run "
                "train.rl_prompts with the tokenizer of this policy"
            )
        if row.episode and _thinking_of(prompt["label"]) is not row.thinking:
            raise BadInput(
                f"{launch.prompts}:{number}: {row.name} plays complete episodes: expected prompts of train.rl_prompts "
                f"--environments{' --thinking' if row.thinking else ', without --thinking'}"
            )
        if row.credit and CREDITS[row.credit].gold and not json.loads(prompt["label"]).get("gold_plan"):
            raise BadInput(
                f"{launch.prompts}:{number}: {row.name} compares calls with gold calls, but this environment has none. "
                "Build environments with env_construction.build and rebuild the prompts from them, or choose a credit "
                "that needs no gold calls, such as discounted"
            )


def check_paths(launch: Launch) -> None:
    """Raises BadInput for paths that OpenRLHF would parse as a list (",") or as a dataset with its share ("@")."""
    for path in (launch.prompts, str(launch.out), str(REWARD_FILE)):
        if found := [sign for sign in ",@" if sign in path]:
            raise BadInput(f"{path}: OpenRLHF splits paths at {found[0]!r}; use a folder without it")


def route_notes(launch: Launch) -> list[str]:
    """Notes for the user on missing parts of the installation, and what is used instead."""
    notes = []
    if launch.gpus and not launch.flash_attention:
        notes.append(
            "attention: flash-attn cannot be imported, so torch's sdpa computes padded batches instead of packed ones"
        )
    if launch.gpus and not launch.compiler:
        notes.append(
            "compiler: no C compiler with Python.h was found, so torch.compile and CUDA graphs are off; if Triton's "
            "kernels fail, install gcc and Python's headers"
        )
    return notes


def _thinking_of(label: str) -> Any:
    """The thinking mode in a label for episodes; None for other labels."""
    try:
        return json.loads(label).get("thinking")
    except (ValueError, TypeError, AttributeError):
        return None


def training_environment(row: Experiment, launch: Launch, arguments: argparse.Namespace) -> dict[str, str]:
    """The variables that the launcher passes to every worker: the reward's settings, and those of the device."""
    environment = reward_environment(row, arguments.reward_control, arguments.seed)
    if not launch.gpus and _is_large_for_a_cpu(row):
        environment[MATMUL_VARIABLE] = "bf16"
    if launch.gpus and not launch.compiler:
        environment["TORCHDYNAMO_DISABLE"] = "1"
    if launch.gpus and launch.gpu_gib and parks_base(row, launch.gpus, launch.nodes, launch.gpu_gib):
        environment[PARK_VARIABLE] = "1"
    if launch.reference:
        environment[REFERENCE_VARIABLE] = launch.reference
    return environment
