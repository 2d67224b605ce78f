"""From an experiment's name, a policy and a prompt file to a trained checkpoint: runs OpenRLHF's trainer for one epoch.

Inputs: --experiment (train/experiments.py), --policy-dir (checkpoint, or hub name), --prompts (of train.rl_prompts).
Outputs in --out: `checkpoint/` (Hugging Face format, with tokenizer and template; `adapter/` beside it for `-lora`), `train_log.jsonl` (one row a step: all that
OpenRLHF logs, `reward_seconds` spent running calls and their `reward_share` of the step), `openrlhf/` (its whole output, the
command, TensorBoard files), and `done.json` at the very end.

The command is `python -m openrlhf.cli.train_ppo_ray` on GPUs, and the same entry point behind `train/openrlhf_on_cpu.py` where
there is none. A finished run is not repeated. A killed one goes on at its last saved state (--save-steps), or starts the epoch
again. Optimizer state and KL reference begin anew with each epoch; --reference base keeps the reference of the first one.

Example:
    python -m train.run_openrlhf --experiment tiny-plain-grpo --policy-dir outputs/cpu/start \\
        --prompts outputs/cpu/train/grpo/epoch1/prompts.jsonl --out outputs/cpu/train/grpo/epoch1 --seed 0

Source: paper section "Training"; hyperparameters: train/openrlhf_command.py.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.jsonl import BadInput, JsonlWriter, file_sha256, keep_configuration, read_jsonl, run_main
from train.experiments import TEMPERATURE, Experiment, experiment
from train.health_watch import HealthWatch
from train.memory_plan import check_memory, installed_gpu_gib
from train.merge_adapter import merge_adapter
from train.openrlhf_command import REFERENCE_VARIABLE, Launch, build_command, build_flags, reward_environment
from train.openrlhf_on_cpu import MATMUL_VARIABLE
from train.prompts import load_tokenizer, require_thinking, template_sha256
from train.training_log import drop_steps_after, read_status, saved_step, telling_lines

LOG_LINES = 25
SAVE_STEPS = 10
SAVE_STEPS_ON_CPU = 4  # there a step takes minutes
SAVED_ON_CPU = 10  # millions of parameters: of a smaller model a whole epoch takes minutes, and saving half a step
# what decides the result; the machine it was made on and how often its state was saved do not
CONFIGURATION = (
    "experiment", "policy_dir", "prompts", "seed", "epoch", "preset", "reference", "base_policy", "reward_control",
)  # fmt: skip


def train(
    command: list[str], environment: dict[str, str], out: Path, epoch: int, steps: int, watch: HealthWatch | None = None
) -> list[dict[str, Any]]:
    """Run the command; show a bar, append a row a step to `train_log.jsonl`, keep all its output in `openrlhf/output.log`.

    Returns the rows of the whole epoch, those of an earlier, killed run included. Raises BadInput if the trainer fails or
    ends early (its last telling lines go to stderr), or if `watch` finds a reason to stop it.
    """
    watch = watch or HealthWatch()
    log, rows_file = out / "openrlhf" / "output.log", out / "train_log.jsonl"
    done = saved_step(out / "openrlhf" / "state")
    drop_steps_after(rows_file, done)
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
                for finding in watch.see(status):
                    tqdm.write(f"health: step {finding.step}: {finding.message}", file=sys.stderr)
                    if finding.stop:
                        raise BadInput(f"stopped at step {finding.step}: {finding.message}; the whole log is {log}")
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    found = [row for _, row in read_jsonl(rows_file)]
    if code or len(found) < steps:
        lines = telling_lines(log.read_text(encoding="utf-8", errors="replace"))[-LOG_LINES:]
        print("\n".join(lines), file=sys.stderr)
        raise BadInput(f"OpenRLHF ended with code {code} after {len(found)} of {steps} steps; the whole log is {log}")
    return found


def _show(bar: Any, status: dict[str, Any]) -> None:
    seconds = status.get("timing/step_total") or 0.0
    reward, kl = (float("nan") if status.get(key) is None else status[key] for key in ("rollout/reward_mean", "kl"))
    shown = f"reward {reward:.3f}, kl {kl:.4f}, {seconds:.0f} s"
    bar.set_description("OpenRLHF")
    bar.set_postfix_str(shown, refresh=False)
    bar.update(1)
    if bar.disable:  # not a terminal: a line a step instead of a bar
        left = max(0, bar.total - status["step"]) * seconds
        print(f"step {status['step']}/{bar.total}: {shown}, about {left:.0f} s left", flush=True)


def _end_with_parent() -> None:
    """Linux: the trainer ends when this process does, however that happens; Ray's processes end with the trainer."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m train.run_openrlhf"
    )
    parser.add_argument("--experiment", required=True, help="a name that python -m train.experiments lists")
    parser.add_argument("--policy-dir", required=True, help="where this epoch starts: checkpoint folder or hub name")
    parser.add_argument("--prompts", required=True, help="prompt file of train.rl_prompts")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epoch", type=int, default=1, help="written into train_log.jsonl")
    parser.add_argument("--preset", choices=sorted(TEMPERATURE), default="paper", help="temperature 1.0, or 0.7")
    parser.add_argument(
        "--reference", choices=("epoch-start", "base"), default="epoch-start", help="what KL is measured to"
    )
    parser.add_argument(
        "--base-policy", default="", help="--reference base: the policy that the first epoch started from"
    )
    parser.add_argument("--reward-control", choices=("", "shuffled", "constant"), default="")
    parser.add_argument("--gpus", type=int, default=None, help="cards of one node (default: what the experiment needs)")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--ray-address", default="", help="submit to this Ray cluster, such as http://127.0.0.1:8265")
    parser.add_argument(
        "--save-steps",
        type=int,
        default=None,
        help=f"save the trainer's state every N steps; 0: never (default: {SAVE_STEPS}; on a CPU {SAVE_STEPS_ON_CPU}, of the tiny model 0)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command, run nothing")
    return parser.parse_args()


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
    )


def _absolute(policy: str) -> str:
    return str(Path(policy).resolve()) if policy and Path(policy).is_dir() else policy


def _count(prompts: str) -> int:
    return sum(1 for _ in read_jsonl(prompts, required=("prompt", "label")))


def check(row: Experiment, launch: Launch) -> None:
    """Refuse what cannot work before anything is downloaded or started. Raises BadInput with the reason."""
    if launch.gpus and not launch.ray_address and not os.path.exists("/dev/nvidia0"):
        raise BadInput(
            f"{row.name} needs {launch.gpus} GPU(s), this machine shows none; --gpus 0 runs it on the CPU, slowly"
        )
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


def _thinking_of(label: str) -> Any:
    """The mode in a label for episodes; None in a label of another kind."""
    try:
        return json.loads(label).get("thinking")
    except (ValueError, TypeError, AttributeError):
        return None


def main() -> int:
    arguments = parse_arguments()
    row = experiment(arguments.experiment, arguments.policy_dir)
    launch = make_launch(row, arguments)
    environment = reward_environment(row, arguments.reward_control, arguments.seed)
    if not launch.gpus and row.model.name != "tiny":
        # a model of this size does little else than multiply, and no second one fits beside it
        environment.update({MATMUL_VARIABLE: "bf16", "OMP_NUM_THREADS": str(os.cpu_count() or 1)})
    if launch.reference:
        environment[REFERENCE_VARIABLE] = launch.reference
    command = build_command(build_flags(row, launch), launch, environment)
    shown = " ".join([*(f"{key}={value}" for key, value in environment.items()), shlex.join(["python", *command[1:]])])
    if launch.ray_address:
        shown = shlex.join(command)
    if arguments.dry_run:
        print(shown)
        return 0
    check(row, launch)
    if launch.gpus and not launch.ray_address:
        gpu_gib = installed_gpu_gib()
        print(
            check_memory(row, launch.gpus, launch.nodes, gpu_gib) if gpu_gib else "memory: nvidia-smi does not answer"
        )
    out = launch.out
    kept = {key: value for key, value in vars(arguments).items() if key in CONFIGURATION and value != ""}
    # a name's settings may change from one version to the next
    kept |= {"scale": asdict(row.scale), "flags": row.flags, "prompts_sha256": file_sha256(arguments.prompts)}
    keep_configuration(out / "openrlhf", kept)
    if (out / "done.json").exists():
        print(f"{out}: trained already")
        return 0
    (out / "openrlhf" / "command.txt").write_text(shown + "\n", encoding="utf-8")
    started = time.monotonic()
    watch = HealthWatch(expect_spread=environment["FTRL_REWARD_CONTROL"] != "constant")
    rows = train(command, environment, out, arguments.epoch, launch.samples // row.scale.rollout_batch, watch)
    if row.adapter:
        merge_adapter(launch.policy, out / "adapter", out / "checkpoint")
    seconds = time.monotonic() - started
    stepping = sum(found.get("timing/step_total") or 0.0 for found in rows)
    rewarding = sum(found.get("reward_seconds") or 0.0 for found in rows)
    summary = {
        "seconds": seconds,
        "steps": len(rows),
        "seconds_in_steps": stepping,
        "reward_seconds": rewarding,
        "health": [finding.message for finding in watch.findings],
    }
    shutil.rmtree(out / "openrlhf" / "state", ignore_errors=True)
    partial = out / "done.json.partial"
    partial.write_text(json.dumps(summary) + "\n", encoding="utf-8")
    partial.replace(out / "done.json")
    share = rewarding / stepping if stepping else 0.0
    print(
        f"wrote {out / 'checkpoint'}: {len(rows)} steps, {seconds:.0f} s ({max(0.0, seconds - stepping):.0f} s of them start-up "
        f"and saving); running the calls took {share:.2%} of the steps' time"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
