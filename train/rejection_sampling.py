"""Rejection sampling, the control without policy gradients: learn the policy's own best responses by the same reward.

The policy samples as many responses per prompt as in RL, and the reward scores them. The best response is kept if it
beats the mean of its group. The policy then learns the kept responses with next-token prediction. If this control
gains as much as RL, the gain comes from the reward and the rollouts, not from the algorithm.

Input: trajectories of the policy (train.collect_trajectories). The prompts are the prefixes that
train.rl_prompts draws with the same limits and seed.
Outputs, in --out: `checkpoint/`, `best.jsonl` (the kept responses with their rewards) and `done.json` (counts, losses,
seconds).

Training makes --passes over the kept responses and stops early after --minutes. There is no held-out loss: the
responses are the policy's own samples, so at its start the policy already predicts unseen ones as well as it can, and
early stopping on such a loss would stop at once.

Example:
    python -m train.rejection_sampling --policy-dir outputs/cpu/start --max-prompts 192 --minutes 5 \\
        --trajectories outputs/cpu/rejection-sampling/epoch1/trajectories.jsonl \\
        --out outputs/cpu/rejection-sampling/epoch1/learned
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, file_sha256, keep_configuration, run_main, write_jsonl
from env_construction.environment.schema import Environment
from reward.rewards import REWARDS
from reward.scoring import score_turns
from train.collect_trajectories import read_trajectories
from train.policies.interface import Generation, PolicyRequest
from train.policies.local_policies import HfPolicy
from train.policies.prompts import render_prompt
from train.rl_prompts import PromptCounts, draw_prompts, training_states
from train.teaching.learner import Learner
from train.teaching.sequences import Sequence, batches

PASSES = 3
TOKENS_A_BATCH = 4096


def best_responses(
    policy: HfPolicy, states: list[Environment], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The best response per prompt with its reward, and counts. Prompts whose responses score alike are skipped."""
    requests = [
        PolicyRequest(state, state.id, trial, place, random.Random(f"{arguments.seed}:{place}:{trial}").getrandbits(48))
        for place, state in enumerate(states)
        for trial in range(arguments.samples)
    ]
    generations = policy.generate(requests)
    counts = {"prompts": len(states), "over_long": 0, "alike": 0, "faults": 0}
    best = []
    groups = zip(*[iter(zip(requests, generations, strict=True))] * arguments.samples, strict=True)
    for group in tqdm(groups, desc="score", total=len(states), unit="prompt", disable=None):
        state = group[0][0].environment
        if group[0][1].too_long:
            counts["over_long"] += 1
            continue
        scores = score_turns(
            [(state, generation.text) for _, generation in group], variant=arguments.variant, match=arguments.match
        )
        valid: list[tuple[float, int, Generation]] = [
            (score.reward, -place, generation)
            for place, (score, (_, generation)) in enumerate(zip(scores, group, strict=True))
            if not (score.fault or generation.truncated)
        ]
        counts["faults"] += sum(score.fault for score in scores)
        if not valid or max(valid)[0] <= sum(score.reward for score in scores) / len(scores):
            counts["alike"] += 1
            continue
        reward, _, generation = max(valid, key=lambda item: item[:2])
        prompt = render_prompt(policy.tokenizer, state.messages, state.openai_tools(), arguments.thinking)
        best.append({"id": state.id, "prompt": prompt, "response": generation.text, "reward": reward})
    return best, counts


def weighted_sequence(row: dict[str, Any], tokenizer: Any) -> Sequence:
    """Tokens of prompt and response. Only the response and its end-of-turn token have weight in the loss."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    response = tokenizer(row["response"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return Sequence(prompt + response, [0.0] * len(prompt) + [1.0] * len(response))


def learn(model: Any, pad: int, sequences: list[Sequence], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train for --passes over the sequences or until the time is over. Raises BadInput without a sequence."""
    if not sequences:
        raise BadInput("no response beat its group's mean, so there is nothing to learn; collect more trajectories")
    started, rng = time.monotonic(), random.Random(f"{arguments.seed}:rejection_sampling")
    learner = Learner(model, pad, arguments.learning_rate, "adamw")
    stream = batches(sequences, TOKENS_A_BATCH, rng)
    in_a_pass = sum(len(item.tokens) for item in sequences)
    losses: list[float] = []
    updates = 0
    for _ in range(arguments.passes):
        seen, total = 0, 0.0
        while seen < in_a_pass and time.monotonic() - started < 60 * arguments.minutes:
            batch = next(stream)
            tokens = sum(len(item.tokens) for item in batch)
            total += tokens * learner.step(batch, 1.0)
            seen += tokens
            updates += 1
        if not seen:
            break
        losses.append(round(total / seen, 5))
        print(f"pass {len(losses)}: loss {losses[-1]:.4f} nats per token", flush=True)
    if not updates:
        raise BadInput(f"--minutes {arguments.minutes:g}: no time was left to learn after sampling; allow more")
    return {"learned": len(sequences), "updates": updates, "losses": losses}


def parse_arguments() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m train.rejection_sampling")
    parser.add_argument("--policy-dir", required=True, help="checkpoint folder of the policy to train")
    parser.add_argument("--trajectories", required=True, help="trajectories.jsonl of train.collect_trajectories")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--checkpoint", type=Path, help="folder of the trained policy (default: OUT/checkpoint)")
    parser.add_argument("--samples", type=int, default=8, help="responses per prompt")
    parser.add_argument("--rollout-batch", type=int, default=1, help="use a multiple of this many prompts, as RL does")
    parser.add_argument("--max-prompts", type=int, default=None, help="use at most K prompts, drawn at random")
    parser.add_argument("--max-prompt-tokens", type=int, default=16384, help="skip longer prompts")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="token limit of a response")
    parser.add_argument("--minutes", type=float, default=10, help="time limit of sampling and training together")
    parser.add_argument("--passes", type=int, default=PASSES, help="over the kept responses (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--variant", choices=sorted(REWARDS), default="solve_f1", help="reward")
    parser.add_argument("--match", default="published", help="how sub-answers are matched")
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.samples < 2:
        raise BadInput(f"--samples {arguments.samples}: expected at least 2, so that the best can beat the mean")
    settings = {
        key: value
        for key, value in vars(arguments).items()
        if key not in ("out", "checkpoint", "policy_dir", "trajectories")
    }
    keep_configuration(arguments.out, settings | {"trajectories_sha256": file_sha256(arguments.trajectories)})
    if (arguments.out / "done.json").exists():
        print(f"{arguments.out}: already done")
        return 0
    started = time.monotonic()
    policy = HfPolicy(
        arguments.policy_dir, temperature=1.0, max_new_tokens=arguments.max_new_tokens, thinking=arguments.thinking,
        max_prompt_tokens=arguments.max_prompt_tokens,
    )  # fmt: skip
    found = PromptCounts()
    drawn = draw_prompts(
        training_states(read_trajectories(arguments.trajectories), found), policy.tokenizer, found,
        thinking=arguments.thinking, max_prompt_tokens=arguments.max_prompt_tokens,
        rollout_batch=arguments.rollout_batch, max_prompts=arguments.max_prompts, seed=arguments.seed,
    )  # fmt: skip
    best, counts = best_responses(policy, [state for state, _ in drawn], arguments)
    write_jsonl(arguments.out / "best.jsonl", best)
    print(
        f"kept {len(best)} responses of {counts['prompts']} prompts ({counts['alike']} without a best one)", flush=True
    )
    from transformers import AutoConfig, AutoModelForCausalLM

    # The copy in `policy` has an attention implementation for decoding only. In bf16, most updates of a small learning
    # rate would round to nothing, so the master weights are fp32.
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.policy_dir, dtype=torch.float32)
    stored = AutoConfig.from_pretrained(arguments.policy_dir).dtype or torch.float32
    model.to(policy.device)
    arguments.minutes -= (time.monotonic() - started) / 60
    learned = learn(
        model, policy.tokenizer.pad_token_id or 0, [weighted_sequence(row, policy.tokenizer) for row in best], arguments
    )
    checkpoint = arguments.checkpoint or arguments.out / "checkpoint"
    model.to(stored).save_pretrained(checkpoint)
    policy.tokenizer.save_pretrained(checkpoint)
    done = {**counts, "kept": len(best), **learned, "seconds": round(time.monotonic() - started, 1)}
    (arguments.out / "done.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {checkpoint}: {learned['learned']} responses learned in {done['seconds']} s")
    return 0


if __name__ == "__main__":
    run_main(main)
