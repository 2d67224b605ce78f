"""From an experiment's name, a policy and a prompt file to a trained checkpoint: builds OpenRLHF's command and runs it.

Inputs: --experiment (train/experiments.py), --policy-dir (checkpoint, or hub name), --prompts (of train.rl_prompts).
Outputs in --out: `checkpoint/` (Hugging Face format, with tokenizer and template), `train_log.jsonl` (one row a step: all that
OpenRLHF logs), `openrlhf/` (its whole output, the command, TensorBoard files), and `done.json` at the very end.

The command is `python -m openrlhf.cli.train_ppo_ray` on GPUs, and the same entry point behind `train/openrlhf_on_cpu.py` where
there is none. A finished run is not repeated; a killed one starts this epoch again (an epoch is the unit of the paper's
outer loop: optimizer state and KL reference begin anew with each, as in the authors' scripts).

Example:
    python -m train.run_openrlhf --experiment tiny-plain-grpo --policy-dir outputs/cpu/start \
        --prompts outputs/cpu/train/grpo/epoch1/prompts.jsonl --out outputs/cpu/train/grpo/epoch1 --seed 0

Source of the hyperparameters: paper section "Training" (paper/README.md). OpenRLHF's loss_agg_mode covers the policy loss only:
KL and entropy stay averaged over tokens.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.jsonl import BadInput, file_sha256, keep_configuration, read_jsonl, run_main, write_jsonl
from train.experiments import TEMPERATURE, Experiment, experiment
from train.prompts import load_tokenizer, template_sha256

REWARD_FILE = Path(__file__).resolve().parent.parent / "reward" / "openrlhf_reward.py"
STEP = re.compile(r"Global step (\d+): (\{.*\})")


def build_flags(
    row: Experiment,
    policy: str,
    prompts: str,
    out: Path,
    *,
    seed: int,
    preset: str,
    gpus: int,
    reference: str,
    samples: int,
) -> list[str]:
    """Every flag of `train_ppo_ray` for one epoch. `gpus` 0 means CPU; `samples` is the number of prompts in the file."""
    scale = row.scale
    flags = [
        "--actor.model_name_or_path", policy,
        "--reward.remote_url", str(REWARD_FILE),
        "--data.prompt_dataset", prompts, "--data.input_key", "prompt", "--data.label_key", "label",
        "--data.max_len", str(scale.max_prompt + scale.max_response),
        "--data.max_samples", str(samples),
        "--rollout.max_new_tokens", str(scale.max_response),
        "--rollout.batch_size", str(scale.rollout_batch),
        "--rollout.n_samples_per_prompt", str(scale.samples_per_prompt),
        "--rollout.micro_batch_size", str(scale.micro_batch),
        "--rollout.temperature", str(TEMPERATURE[preset]),
        "--train.batch_size", str(scale.train_batch),
        "--train.micro_batch_size", str(scale.micro_batch),
        "--train.num_episodes", "1", "--train.max_epochs", "1",
        "--train.seed", str(seed),
        "--train.colocate_all",
        *row.flags,
        "--algo.kl.use_loss", "--algo.kl.estimator", "k3", "--algo.kl.init_coef", "0.001",
        "--algo.advantage.gamma", "1.0",
        "--actor.adam.lr", str(scale.learning_rate),
        "--actor.adam.betas", "0.9", "0.999", "--actor.adam.weight_decay", "0.01",
        "--actor.lr_scheduler", "constant", "--actor.lr_warmup_ratio", "0", "--actor.max_norm", "1.0",
        "--actor.eps_clip", "0.2", "--actor.eps_clip_low_high", "0.2", "0.2", "--actor.dual_clip", "3.0",
        "--actor.loss_agg_mode", "seq-mean-token-mean", "--actor.entropy_coef", "0.001",
        "--ckpt.output_dir", str(out / "checkpoint"), "--ckpt.path", str(out / "openrlhf" / "state"), "--ckpt.disable_ds",
        "--logger.tensorboard_dir", str(out / "openrlhf" / "tensorboard"),
    ]  # fmt: skip
    if reference != "epoch-start":
        raise BadInput(
            "--reference base: OpenRLHF loads the reference from the actor's start; only epoch-start can be had"
        )
    if row.algorithm == "ppo":
        flags += ["--critic.model_name_or_path", policy, "--critic.adam.lr", "1e-5"]
    cards = max(gpus, 1)
    flags += ["--actor.num_gpus_per_node", str(cards), "--ref.num_gpus_per_node", str(cards)]
    if row.algorithm == "ppo":
        flags += ["--critic.num_gpus_per_node", str(cards)]
    flags += ["--vllm.num_engines", str(cards), "--vllm.tensor_parallel_size", "1", "--vllm.enable_prefix_caching"]
    if gpus:
        flags += [
            "--vllm.sync_backend", "nccl", "--vllm.gpu_memory_utilization", "0.6", "--vllm.enable_sleep",
            "--ds.enable_sleep", "--ds.zero_stage", "3", "--ds.param_dtype", "bf16", "--ds.adam_offload",
            "--ds.attn_implementation", "flash_attention_2", "--ds.packing_samples", "--actor.gradient_checkpointing_enable",
        ]  # fmt: skip
    else:
        flags += [
            "--vllm.sync_backend",
            "gloo",
            "--vllm.enforce_eager",
            "--ds.attn_implementation",
            "eager",
            "--ds.zero_stage",
            "2",
        ]
    return flags


def build_command(flags: list[str], gpus: int) -> list[str]:
    """The entry point on GPUs; the same one through the compatibility module on a CPU."""
    return [sys.executable, "-m", "openrlhf.cli.train_ppo_ray" if gpus else "train.openrlhf_on_cpu", *flags]


def reward_environment(row: Experiment, control: str, seed: int) -> dict[str, str]:
    """The reward's settings, as the Ray workers see them."""
    return {
        "FTRL_REWARD_VARIANT": row.variant,
        "FTRL_REWARD_MATCH": row.match,
        "FTRL_REWARD_CONTROL": control or row.control,
        "FTRL_REWARD_SEED": str(seed),
    }


def read_status(line: str) -> dict[str, Any] | None:
    """One step's metrics from OpenRLHF's log line, None for other lines. `nan` and `inf` survive as floats."""
    match = STEP.search(line)
    if not match:
        return None
    text = re.sub(r"\bnan\b", "'nan'", re.sub(r"(?<![\w'])-?inf\b", "'inf'", match[2]))
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    row = {
        key: float(value) for key, value in values.items() if isinstance(value, (int, float, str)) and _is_number(value)
    }
    return {"step": int(match[1]), **row}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def train(command: list[str], environment: dict[str, str], out: Path, steps: int) -> list[dict[str, Any]]:
    """Run the command, show a line a step, keep its whole output in `openrlhf.log`. Raises BadInput if it fails."""
    log = out / "openrlhf" / "output.log"
    rows: list[dict[str, Any]] = []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={**os.environ, **environment}, start_new_session=False,
    )  # fmt: skip
    assert process.stdout is not None
    with log.open("w", encoding="utf-8") as handle, tqdm(total=steps, unit="step", desc="OpenRLHF (starting)") as bar:
        for line in process.stdout:
            handle.write(line)
            status = read_status(line)
            if status is None:
                continue
            rows.append(status)
            bar.set_description("OpenRLHF")
            bar.update(1)
            bar.set_postfix(
                reward=f"{status.get('rollout/reward_mean', 0):.3f}", kl=f"{status.get('kl', 0):.4f}",
                s=f"{status.get('timing/step_total', 0):.0f}",
            )  # fmt: skip
    code = process.wait()
    if code or not rows:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        print("\n".join(tail), file=sys.stderr)
        raise BadInput(f"OpenRLHF ended with code {code} after {len(rows)} of {steps} steps; the whole log is {log}")
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", required=True, help="a name that python -m train.experiments lists")
    parser.add_argument(
        "--policy-dir", required=True, help="where this epoch starts: a checkpoint folder or a hub name"
    )
    parser.add_argument("--prompts", required=True, help="prompt file of train.rl_prompts")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epoch", type=int, default=1, help="written into train_log.jsonl")
    parser.add_argument("--preset", choices=sorted(TEMPERATURE), default="paper")
    parser.add_argument(
        "--reference", choices=("epoch-start", "base"), default="epoch-start", help="what KL is measured to"
    )
    parser.add_argument("--reward-control", choices=("", "shuffled", "constant"), default="")
    parser.add_argument(
        "--gpus", type=int, default=None, help="cards on this node (default: what the experiment needs)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command, run nothing")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    row = experiment(arguments.experiment)
    out = Path(arguments.out)
    gpus = row.model.gpus if arguments.gpus is None else arguments.gpus
    samples = row.scale.rollout_batch
    if not arguments.dry_run:
        samples = sum(1 for _ in read_jsonl(arguments.prompts, required=("prompt", "label")))
    policy, prompts = arguments.policy_dir, arguments.prompts
    if not arguments.dry_run:  # Ray's workers have working directories of their own
        out, prompts = out.resolve(), str(Path(prompts).resolve())
        policy = str(Path(policy).resolve()) if Path(policy).is_dir() else policy
    flags = build_flags(
        row, policy, prompts, out, seed=arguments.seed, preset=arguments.preset, gpus=gpus,
        reference=arguments.reference, samples=samples,
    )  # fmt: skip
    command = build_command(flags, gpus)
    environment = reward_environment(row, arguments.reward_control, arguments.seed)
    shown = " ".join([*(f"{key}={value}" for key, value in environment.items()), shlex.join(["python", *command[1:]])])
    if arguments.dry_run:
        print(shown)
        return 0
    if gpus and not os.path.exists("/dev/nvidia0"):
        raise BadInput(f"{row.name} needs {gpus} GPU(s), this machine shows none; --gpus 0 runs it on the CPU, slowly")
    _, first = next(iter(read_jsonl(arguments.prompts)))
    template = template_sha256(load_tokenizer(arguments.policy_dir))
    if first.get("template_sha256", template) != template:
        raise BadInput(
            f"{arguments.prompts} was rendered with another model's chat template than {arguments.policy_dir} has"
        )
    kept = {key: value for key, value in vars(arguments).items() if key not in ("dry_run", "out")}
    keep_configuration(out / "openrlhf", {**kept, "prompts_sha256": file_sha256(arguments.prompts)})
    if (out / "done.json").exists():
        print(f"{out}: trained already")
        return 0
    (out / "openrlhf" / "command.txt").write_text(shown + "\n", encoding="utf-8")
    started = time.monotonic()
    rows = train(command, environment, out, samples // row.scale.rollout_batch)
    write_jsonl(out / "train_log.jsonl", [{"epoch": arguments.epoch, **status} for status in rows])
    seconds = time.monotonic() - started
    stepping = sum(status.get("timing/step_total", 0.0) for status in rows)
    (out / "done.json").write_text(
        json.dumps({"seconds": seconds, "steps": len(rows), "seconds_in_steps": stepping}) + "\n", encoding="utf-8"
    )
    print(
        f"wrote {out / 'checkpoint'}: {len(rows)} steps, {seconds:.0f} s ({seconds - stepping:.0f} s of them start-up and saving)"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
