"""Where and how an epoch is trained, from the command line of train.run_openrlhf, and what is refused before anything starts."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl
from train.experiments import Experiment
from train.policies.prompts import load_tokenizer, require_thinking, template_sha256
from train.trainer import devices
from train.trainer.memory_plan import parks_base
from train.trainer.openrlhf_command import REWARD_FILE, Launch, check_batches, reward_environment
from train.trainer.openrlhf_launcher import REFERENCE_VARIABLE
from train.trainer.openrlhf_lora import PARK_VARIABLE
from train.trainer.openrlhf_on_cpu import MATMUL_VARIABLE

SAVE_STEPS = 10
SAVE_STEPS_ON_CPU = 4  # there a step takes minutes
SAVED_ON_CPU = 10  # millions of parameters: of a smaller model a whole epoch takes minutes, and saving half a step


def make_launch(row: Experiment, arguments: argparse.Namespace) -> Launch:
    """Where and how, from the command line. Paths are absolute: Ray's workers have working directories of their own."""
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
        # a cluster's GPUs cannot be asked from here
        gpu_gib=devices.visible_gpu_gib() or 0.0,
    )


def _is_large_for_a_cpu(row: Experiment) -> bool:
    """Whether most of a CPU's time goes into matrix products, and two trainings side by side do not fit into memory."""
    return row.model.name not in ("tiny", "mini")


def _absolute(policy: str) -> str:
    return str(Path(policy).resolve()) if policy and Path(policy).is_dir() else policy


def _count(prompts: str) -> int:
    return sum(1 for _ in read_jsonl(prompts, required=("prompt", "label")))


def check(row: Experiment, launch: Launch) -> None:
    """Refuse what cannot work before anything is downloaded or started. Raises BadInput with the reason."""
    if not launch.ray_address:
        if launch.gpus:
            devices.require_gpus(row.name, launch.gpus)
        devices.require_engine(launch.gpus)
    check_batches(row, launch)
    check_paths(launch)
    if launch.samples < row.scale.rollout_batch:
        raise BadInput(
            f"{launch.prompts}: {launch.samples} prompts do not fill a rollout batch of {row.scale.rollout_batch}"
        )
    tokenizer = load_tokenizer(launch.policy)
    require_thinking(tokenizer, launch.policy, row.thinking)
    template = template_sha256(tokenizer)
    for number, prompt in read_jsonl(launch.prompts):
        if prompt.get("template_sha256", template) != template:
            raise BadInput(f"{launch.prompts}:{number}: rendered with another chat template than {launch.policy} has")
        if row.episode and _thinking_of(prompt["label"]) is not row.thinking:
            raise BadInput(
                f"{launch.prompts}:{number}: {row.name} plays whole episodes: expected prompts of train.rl_prompts --environments"
                f"{' --thinking' if row.thinking else ', without --thinking'}"
            )


def check_paths(launch: Launch) -> None:
    """Raises BadInput for paths that OpenRLHF takes for lists (",") or for a dataset with its share ("@")."""
    for path in (launch.prompts, str(launch.out), str(REWARD_FILE)):
        if found := [sign for sign in ",@" if sign in path]:
            raise BadInput(f"{path}: OpenRLHF splits paths at {found[0]!r}; use a folder without it")


def route_notes(launch: Launch) -> list[str]:
    """What the user should know about the route: parts that are missing here, and what happens instead."""
    notes = []
    if launch.gpus and not launch.flash_attention:
        notes.append(
            "attention: flash-attn cannot be imported here: torch's sdpa on padded batches instead of packed ones"
        )
    if launch.gpus and not launch.compiler:
        notes.append(
            "compiler: no C compiler with Python.h here: torch.compile and CUDA graphs are off; should Triton's kernels fail, "
            "install gcc and Python's headers"
        )
    return notes


def _thinking_of(label: str) -> Any:
    """The mode in a label for episodes; None in a label of another kind."""
    try:
        return json.loads(label).get("thinking")
    except (ValueError, TypeError, AttributeError):
        return None


def training_environment(row: Experiment, launch: Launch, arguments: argparse.Namespace) -> dict[str, str]:
    """The variables that the launcher hands to every worker: the reward's settings, and what the route needs."""
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
