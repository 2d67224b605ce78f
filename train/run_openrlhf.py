"""Train a policy for one epoch with OpenRLHF: from an experiment's name, a policy and a prompt file to a checkpoint.

Inputs: --experiment (train/experiments.py), --policy-dir (checkpoint, or hub name), --prompts (of train.rl_prompts).
Outputs in --out:
- `checkpoint/`: Hugging Face format, with tokenizer and template. `-lora` experiments also write `adapter/`.
- `train_log.jsonl`: one row per step with all that OpenRLHF logs, `reward_seconds` spent running calls, and
  `reward_share`, their share of the step's time.
- `openrlhf/`: OpenRLHF's complete output, the command, TensorBoard files.
- `done.json`: written last.

`train/trainer/openrlhf_launcher.py` runs OpenRLHF's own entry point on --gpus N GPUs. With --gpus 0, and for the CPU
experiments, it uses the CPU even on a machine with GPUs (train/trainer/devices.py). A finished run is not repeated. A
killed run resumes from its last saved state (--save-steps), or starts the epoch again. Optimizer state and KL reference
are reset at each epoch; --reference base keeps the first epoch's reference.

Example:
    python -m train.run_openrlhf --experiment tiny-plain-grpo --policy-dir outputs/cpu/start \\
        --prompts outputs/cpu/train/grpo/epoch1/prompts.jsonl --out outputs/cpu/train/grpo/epoch1 --seed 0

Source: paper section "Training"; hyperparameters: train/trainer/openrlhf_command.py.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import (
    BadInput,
    JsonlWriter,
    file_sha256,
    keep_configuration,
    read_jsonl,
    run_main,
)
from reward.logged_settings import NO_CREDIT, asked, differences
from train.experiments import TEMPERATURE, Experiment, experiment
from train.merge_adapter import merge_adapter
from train.trainer.health_watch import HealthWatch
from train.trainer.memory_plan import check_resources, memory_plan
from train.trainer.openrlhf_command import build_command, build_flags, overrides, reward_environment
from train.trainer.peak_memory import PeakMemory
from train.trainer.ray_job import RayJob
from train.trainer.saved_state import ASIDE, recover
from train.trainer.training_launch import (
    SAVE_STEPS,
    SAVE_STEPS_ON_CPU,
    check,
    make_launch,
    route_notes,
    training_environment,
)
from train.trainer.training_log import drop_steps_after, error_lines, read_status

LOG_LINES = 25
# The settings that decide the result. The machine and the interval of saved states do not.
CONFIGURATION = (
    "experiment", "policy_dir", "prompts", "seed", "epoch", "preset", "reference", "base_policy", "reward_control",
    "set",
)  # fmt: skip


def train(
    command: list[str],
    environment: dict[str, str],
    out: Path,
    epoch: int,
    steps: int,
    watch: HealthWatch | None = None,
    wanted: Mapping[str, Any] | None = None,
    states: Sequence[str] = ("_actor",),
    job: RayJob | None = None,
) -> list[dict[str, Any]]:
    """Run the command, show a progress bar, append one row per step to `train_log.jsonl`, write all output to
    `openrlhf/output.log`.

    `states`: the states that the trainer saves and resumes from; empty: it starts from the beginning. `job`: the
    cluster job that `command` submits; it is stopped unless it ends successfully.

    Returns the rows of the complete epoch, including those of an earlier, killed run. Raises BadInput if the trainer
    fails or ends early (its last error lines go to stderr), if `watch` finds a reason to stop it, or if a step was
    rewarded with settings other than `wanted` (reward/logged_settings.py).
    """
    watch = watch or HealthWatch()
    log, rows_file = out / "openrlhf" / "output.log", out / "train_log.jsonl"
    done = recover(out / "openrlhf" / "state", states) if states else 0
    drop_steps_after(rows_file, done)
    for _, row in read_jsonl(rows_file) if done else ():
        watch.see(row)
    if job:
        job.begin(command)
    ended = False
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={**os.environ, **environment}, preexec_fn=_end_with_parent,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        with (
            log.open("a" if done else "w", encoding="utf-8") as handle,
            JsonlWriter(rows_file, key="step") as rows,
            tqdm(total=steps, initial=done, unit="step", desc="OpenRLHF (starting)", disable=None) as bar,
        ):
            for line in process.stdout:
                handle.write(line)
                status = read_status(line)
                if status is None:
                    continue
                rows.write({"epoch": epoch, **status})
                _show(bar, status)
                if wrong := differences(status, wanted or {}):
                    raise BadInput(
                        f"stopped at step {status['step']}: it was trained with another reward: {'; '.join(wrong)}; "
                        f"complete log: {log}"
                    )
                for finding in watch.see(status):
                    tqdm.write(f"health: step {finding.step}: {finding.message}", file=sys.stderr)
                    if finding.stop:
                        raise BadInput(f"stopped at step {finding.step}: {finding.message}; complete log: {log}")
        code = process.wait()
        ended = code == 0
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if job and not ended:
            job.stop()
    found = [row for _, row in read_jsonl(rows_file)]
    if code or len(found) < steps:
        lines = error_lines(log.read_text(encoding="utf-8", errors="replace"))[-LOG_LINES:]
        print("\n".join(lines), file=sys.stderr)
        raise BadInput(f"OpenRLHF ended with code {code} after {len(found)} of {steps} steps; complete log: {log}")
    return found


def _show(bar: Any, status: dict[str, Any]) -> None:
    seconds = status.get("timing/step_total") or 0.0
    reward, kl = (float("nan") if status.get(key) is None else status[key] for key in ("rollout/reward_mean", "kl"))
    shown = f"reward {reward:.3f}, kl {kl:.4f}, {seconds:.0f} s"
    bar.set_description("OpenRLHF")
    bar.set_postfix_str(shown, refresh=False)
    bar.update(1)
    if bar.disable:  # not a terminal: one line per step instead of a bar
        left = max(0, bar.total - status["step"]) * seconds
        print(f"step {status['step']}/{bar.total}: {shown}, about {left:.0f} s left", flush=True)


def _end_with_parent() -> None:
    """Linux: end the trainer when this process ends for any reason. Ray's processes end with the trainer."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def stop_on_sigterm() -> None:
    """On a scheduler's SIGTERM, end the trainer and its cluster job before this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def parse_arguments() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m train.run_openrlhf")
    parser.add_argument("--experiment", required=True, help="name from `python -m train.experiments`")
    parser.add_argument(
        "--policy-dir", required=True, help="policy at the start of this epoch: checkpoint folder or hub name"
    )
    parser.add_argument("--prompts", required=True, help="prompt file of train.rl_prompts")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epoch", type=int, default=1, help="written into train_log.jsonl")
    parser.add_argument(
        "--preset", choices=sorted(TEMPERATURE), default="paper", help="temperature: paper 1.0, released 0.7"
    )
    parser.add_argument(
        "--reference", choices=("epoch-start", "base"), default="epoch-start", help="reference policy of the KL term"
    )
    parser.add_argument(
        "--base-policy", default="", help="with --reference base: the policy at the start of the first epoch"
    )
    parser.add_argument("--reward-control", choices=("", "shuffled", "constant"), default="")
    parser.add_argument("--gpus", type=int, default=None, help="GPUs per node (default: what the experiment needs)")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument(
        "--ray-address",
        default="",
        help="train on this Ray cluster: HOST:6379 from one of its nodes, or http://HOST:8265 as a job "
        "(default: start a local Ray)",
    )
    parser.add_argument(
        "--save-steps",
        type=int,
        default=None,
        help=f"save the trainer's state every N steps; 0: never (default: {SAVE_STEPS} on GPUs, {SAVE_STEPS_ON_CPU} on "
        "a CPU, 0 for the tiny model)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override an OpenRLHF option, for example actor.adam.lr=5e-6; repeatable",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command without running it")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    stop_on_sigterm()
    row = experiment(arguments.experiment, arguments.policy_dir)
    out = Path(arguments.out).resolve()
    wanted = asked(reward_environment(row, arguments.reward_control, arguments.seed), row.episode, row.credit)
    if (out / "done.json").exists() and not arguments.dry_run:
        check_finished(out, configuration(row, arguments), wanted)
        print(f"{out}: already trained")
        return 0
    launch = make_launch(row, arguments)
    environment = training_environment(row, launch, arguments)
    command = build_command([*build_flags(row, launch), *overrides(arguments.set)], launch, environment)
    variables = [] if launch.job else [f"{key}={value}" for key, value in environment.items()]
    shown = " ".join([*variables, shlex.join(command if launch.job else ["python", *command[1:]])])
    for note in route_notes(launch):
        print(note)
    if arguments.dry_run:
        print(shown)
        return 0
    check(row, launch)
    if launch.gpus:
        # The GPUs of a cluster cannot be queried from here.
        print("\n".join(check_resources(row, launch.gpus, launch.nodes, launch.gpu_gib or None, out)))
    keep_configuration(out / "openrlhf", configuration(row, arguments))
    (out / "openrlhf" / "command.txt").write_text(shown + "\n", encoding="utf-8")
    started = time.monotonic()
    cores = len(os.sched_getaffinity(0))
    workers = int(os.environ.get("TOOL_SANDBOX_WORKERS") or cores) * max(1, launch.gpus) * launch.nodes
    watch = HealthWatch(expect_spread=environment["FTRL_REWARD_CONTROL"] != "constant", sandbox_workers=workers)
    steps = launch.samples // row.scale.rollout_batch
    states = ("_actor", "_critic") if row.algorithm == "ppo" else ("_actor",)
    with PeakMemory() as peak:
        rows = train(
            command,
            environment,
            out,
            arguments.epoch,
            steps,
            watch,
            wanted,
            states if launch.save_steps else (),
            launch.job,
        )
    if launch.gpus:
        print(peak.line(memory_plan(row, launch.gpus, launch.nodes, launch.gpu_gib)))
    if row.adapter:
        merge_adapter(launch.policy, out / "adapter", out / "checkpoint")
    finish(out, rows, time.monotonic() - started, watch, wanted)
    return 0


def configuration(row: Experiment, arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that decide the result, kept because an experiment's settings may change between versions."""
    kept = {key: value for key, value in vars(arguments).items() if key in CONFIGURATION and value not in ("", [])}
    prompts = file_sha256(arguments.prompts) if Path(arguments.prompts).exists() else ""
    return kept | {"scale": asdict(row.scale), "flags": row.flags, "prompts_sha256": prompts}


def check_finished(out: Path, kept: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises BadInput if a finished epoch was trained with another configuration or reward.

    Prompts that have changed since then only cause a note. They change when a collection replays episodes that had
    faults, which is no reason to train again.
    """
    folder = out / "openrlhf"
    found = json.loads((folder / "configuration.json").read_text(encoding="utf-8"))
    there = found.get("prompts_sha256", kept["prompts_sha256"])
    keep_configuration(folder, {**kept, "prompts_sha256": there})
    if there != kept["prompts_sha256"]:
        print(f"note: {kept['prompts']} has changed since {out} was trained on it")
    trained = json.loads((out / "done.json").read_text(encoding="utf-8")).get("reward")
    if trained is None:
        print(f"note: {out} was trained before the reward was logged per step; only its configuration names it")
    elif wrong := differences({"reward_credit": NO_CREDIT, **trained}, wanted):  # older runs did not log the credit
        raise BadInput(f"{out} was trained with another reward: {'; '.join(wrong)}. Choose another output folder")


def finish(
    out: Path, rows: list[dict[str, Any]], seconds: float, watch: HealthWatch, wanted: Mapping[str, Any]
) -> None:
    """Write `done.json`. Raises BadInput if a step of this or an earlier run had another reward than `wanted`."""
    for row in rows:
        if wrong := differences(row, wanted):
            raise BadInput(f"{out / 'train_log.jsonl'}: step {row['step']} had another reward: {'; '.join(wrong)}")
    stepping = sum(found.get("timing/step_total") or 0.0 for found in rows)
    rewarding = sum(found.get("reward_seconds") or 0.0 for found in rows)
    lengths = [(found.get("rollout/response_length_mean"), found.get("rollout/num_samples")) for found in rows]
    summary = {
        "seconds": seconds,
        "steps": len(rows),
        # Tokens that the model wrote, over all samples. Comparisons match trainings by this number.
        "model_tokens": round(sum(mean * samples for mean, samples in lengths if mean and samples)),
        "seconds_in_steps": stepping,
        "reward_seconds": rewarding,
        "reward": dict(wanted),
        "health": [finding.message for finding in watch.findings],
    }
    for name in ("state", ASIDE):
        shutil.rmtree(out / "openrlhf" / name, ignore_errors=True)
    partial = out / "done.json.partial"
    partial.write_text(json.dumps(summary) + "\n", encoding="utf-8")
    partial.replace(out / "done.json")
    share = rewarding / stepping if stepping else 0.0
    print(
        f"wrote {out / 'checkpoint'}: {len(rows)} steps, {seconds:.0f} s, of which "
        f"{max(0.0, seconds - stepping):.0f} s start-up and saving; running the calls took {share:.2%} of the steps' "
        "time"
    )


if __name__ == "__main__":
    run_main(main)
