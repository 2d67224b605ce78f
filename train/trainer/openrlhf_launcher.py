"""Start OpenRLHF's entry point in the same way on CPU and GPUs, with adapters or a separate reference.

    python -m train.trainer.openrlhf_launcher --gpus 1 --threads 4 --adapt lora -- <flags of openrlhf.cli.train_ppo_ray>
    python -m train.trainer.openrlhf_launcher --gpus 0 --adapt cpu,no-flash-attn -- <flags>

It starts a local Ray and never uses one that already runs here (`ray start`, RAY_ADDRESS). It passes the settings of
the reward, the sandbox and the trainer to every worker and installs the adaptations in every process. Then it runs
`openrlhf.cli.train_ppo_ray` as `__main__`, which does not start Ray if Ray is initialized.

On a CPU, the processes of a local Ray are forks of one that has imported the trainer (`preloaded_python.py`).

`--join HOST:PORT` uses a running cluster that includes this machine. Its workers get the same settings and run this
interpreter, by its path. `--join auto` is for a job of such a cluster; the job's environment has the settings.

| --adapt | what it does |
| --- | --- |
| always | torch's AdamW replaces DeepSpeed's, which would be compiled (`without_compilers.py`) |
| always | one advantage per turn if requested, and no silent samples in a group (`turn_credit.py`) |
| cpu | uses no GPU, even on a machine with GPUs (`openrlhf_on_cpu.py`) |
| no-flash-attn | imports without flash-attn's compiled part (`without_compilers.py`) |
| lora | sends merged weights to vLLM (`openrlhf_lora.py`) |
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from train.trainer import openrlhf_lora, openrlhf_on_cpu, preloaded_python, without_compilers
from train.trainer.adapt_after_import import AdaptAfterImport, Surroundings
from train.trainer.repeatable_rollouts import REPEATABLE_ROLLOUTS, SEEDED_PROMPTS
from train.trainer.shared_prompts import SHARED_PROMPTS
from train.trainer.turn_credit import TURN_CREDIT

REPOSITORY = Path(__file__).resolve().parents[2]
ADAPT_VARIABLE = "TRAIN_ADAPT"
REFERENCE_VARIABLE = "OPENRLHF_REFERENCE"
TABLES = {
    "cpu": {**openrlhf_on_cpu.ADAPTATIONS, **SHARED_PROMPTS, **REPEATABLE_ROLLOUTS},
    "lora": openrlhf_lora.ADAPTATIONS,
    "no-flash-attn": {},
}
# Prefixes of the environment variables that workers read: settings of the reward, the sandbox and the trainer.
PASSED_ON = ("FTRL_", "TOOL_SANDBOX_", "TRAIN_", "OPENRLHF_", "TORCHDYNAMO_DISABLE")
EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",  # otherwise Ray may drop status lines
    "RAY_worker_niceness": "0",  # Ray would run the trainer at the lowest priority
}
# The variables that OpenRLHF sets when it starts Ray (cli/train_ppo_ray.py).
ON_GPUS = {"TOKENIZERS_PARALLELISM": "true", "NCCL_DEBUG": "WARN", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
PRETENDED_GPUS = 4  # for OpenRLHF's placement groups on a CPU
FIRST_JOB = "01000000"
MORE_CPUS = 8  # logical CPUs for Ray in addition to one per GPU, so that no actor waits forever on a small machine


def install() -> None:
    """Install the adaptations of TRAIN_ADAPT in this process, once. Ray calls this first in every worker."""
    names = [name for name in os.environ.get(ADAPT_VARIABLE, "").split(",") if name]
    if "cpu" in names:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if any(isinstance(finder, AdaptAfterImport) for finder in sys.meta_path):
        return
    around: Surroundings = {}
    if "no-flash-attn" in names:
        without_compilers.hide_flash_attention()
        around = without_compilers.WITHOUT_FLASH_ATTENTION
    always = (without_compilers.TORCH_ADAMW, TURN_CREDIT, SEEDED_PROMPTS)
    AdaptAfterImport([*(TABLES[name] for name in names), *always], around).install()


def worker_environment(adapt: Sequence[str], threads: int) -> dict[str, str]:
    """The environment variables of every worker: those passed on from this process, and those of the device."""
    route = openrlhf_on_cpu.ENVIRONMENT if "cpu" in adapt else {k: os.environ.get(k, v) for k, v in ON_GPUS.items()}
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {ADAPT_VARIABLE: ",".join(adapt), "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
    return {**EVERYWHERE, **passed, **route, **own}


def preload() -> str:
    """Start a Python for Ray that has imported the trainer, with its adaptations. Returns its path.

    Ray reads some variables when it is imported, which is too early here: the GPUs that its workers may see, their
    job's id, and the raylet's process id. The first job of a new Ray always has the same id. A worker ends when the
    process with that id has ended: ours will do.
    """
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray would compare it with the number of pretended GPUs
    of_workers = {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(os.getpid())}
    os.environ.update(of_workers)
    importlib.import_module("ray")
    for name in of_workers:
        del os.environ[name]
    install()
    python = preloaded_python.start(openrlhf_on_cpu.PRELOADED)
    del os.environ["CUDA_VISIBLE_DEVICES"]
    return python


def start_ray(adapt: Sequence[str], gpus: int, threads: int, python: str = "") -> None:
    """Start a Ray for this process only, without dashboard. Try twice: the start can time out on a busy machine.

    `python`: the interpreter of Ray's processes (default: this one).
    """
    import ray

    on_cpu = "cpu" in adapt
    cores = len(os.sched_getaffinity(0))
    settings: dict[str, Any] = {
        "address": "local",
        "num_gpus": PRETENDED_GPUS if on_cpu else gpus,
        "num_cpus": max(cores, gpus + MORE_CPUS),
        "include_dashboard": False,
        "log_to_driver": True,
        "runtime_env": {
            "env_vars": worker_environment(adapt, threads),
            "worker_process_setup_hook": "train.trainer.openrlhf_launcher.install",
        },
    }
    if on_cpu:
        settings["object_store_memory"] = 256 * 1024**2
    if python:
        settings["runtime_env"]["py_executable"] = python
    for attempt in (1, 2):
        try:
            with _interpreter(python or sys.executable):
                ray.init(**settings)
            return
        except Exception as error:
            if attempt == 2:
                raise
            print(f"Ray did not start ({type(error).__name__}: {error}); retrying", file=sys.stderr, flush=True)
            ray.shutdown()
            time.sleep(5)


@contextlib.contextmanager
def _interpreter(path: str) -> Iterator[None]:
    """Ray starts its own Python processes with `sys.executable`."""
    own, sys.executable = sys.executable, path
    try:
        yield
    finally:
        sys.executable = own


def join_ray(address: str, adapt: Sequence[str], threads: int) -> None:
    """Join a running cluster. The actors end with this process."""
    import ray

    settings: dict[str, Any] = {"worker_process_setup_hook": "train.trainer.openrlhf_launcher.install"}
    if address != "auto":
        settings |= {"env_vars": worker_environment(adapt, threads), "py_executable": sys.executable}
    ray.init(address=address, runtime_env=settings)


def run_trainer(flags: Sequence[str]) -> None:
    """Run OpenRLHF's entry point as the main module."""
    sys.argv = ["train_ppo_ray", *flags]
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)


def parse_arguments(line: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This module's options, and the trainer's flags after `--`."""
    parser = ScriptParser(__doc__, "python -m train.trainer.openrlhf_launcher")
    parser.add_argument(
        "--gpus", type=int, required=True, help="GPUs of this machine that Ray assigns; 0 with --adapt cpu"
    )
    parser.add_argument("--threads", type=int, default=1, help="OMP threads per worker")
    parser.add_argument("--adapt", default="", help=f"comma-separated adaptations: {', '.join(sorted(TABLES))}")
    parser.add_argument(
        "--join", default="", metavar="HOST:PORT", help="use this Ray cluster; auto: the cluster of this job"
    )
    place = list(line).index("--") if "--" in line else len(line)
    arguments = parser.parse_args(list(line[:place]))
    arguments.adapt = [name for name in arguments.adapt.split(",") if name]
    if unknown := set(arguments.adapt) - TABLES.keys():
        parser.error(f"--adapt {','.join(sorted(unknown))}: expected some of {', '.join(sorted(TABLES))}")
    return arguments, list(line[place + 1 :])


def launch(line: Sequence[str]) -> None:
    """Start or join Ray, install the adaptations, and run the trainer in this process."""
    arguments, flags = parse_arguments(line)
    if arguments.join != "auto":
        os.environ.pop("RAY_ADDRESS", None)  # it names another cluster
    if "cpu" in arguments.adapt:
        os.environ.update(openrlhf_on_cpu.ENVIRONMENT)
    os.environ.update({**EVERYWHERE, ADAPT_VARIABLE: ",".join(arguments.adapt)})
    if arguments.join:
        join_ray(arguments.join, arguments.adapt, arguments.threads)
        install()
    elif "cpu" in arguments.adapt:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when torch is imported
        start_ray(arguments.adapt, arguments.gpus, arguments.threads, preload())
        install()
    else:
        start_ray(arguments.adapt, arguments.gpus, arguments.threads)
        install()
    if os.environ.get(REFERENCE_VARIABLE):
        from train.trainer.openrlhf_reference import hold_reference

        hold_reference(os.environ[REFERENCE_VARIABLE])
    elif "lora" in arguments.adapt:
        from train.trainer.adapter_reference import share_policy

        share_policy()
    run_trainer(flags)


if __name__ == "__main__":
    # Import it under its module name, because classes of the adaptations are pickled between processes.
    from train.trainer.openrlhf_launcher import launch as main

    main(sys.argv[1:])
