"""The control without policy gradients: supervised learning on the policy's own best responses, by the same reward.

Per prompt the policy samples as many responses as RL does, the reward scores them, and the best one is kept where it beats the group's
mean. The policy then learns these with next-token prediction. If this gains what RL gains, the gain is the reward's and the rollouts',
not the algorithm's.

Inputs: trajectories of the policy (train.collect_trajectories), whose prefixes are the prompts, as in train.rl_prompts. Outputs, in --out:
`checkpoint/`, `best.jsonl` (what was learned, with its reward) and `done.json` (counts, losses, seconds).

Learning stops at --minutes, or earlier where the loss on a tenth of the kept responses stops falling: more passes over so few would
only make the control worse.

Example:
    python -m train.rejection_sampling --policy-dir outputs/cpu/start --out outputs/cpu/rejection-sampling/epoch1/learned \\
        --trajectories outputs/cpu/rejection-sampling/epoch1/trajectories.jsonl --max-prompts 384 --minutes 5
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from pathlib import Path
from typing import Any

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
from train.rl_prompts import PromptCounts, training_states
from train.teaching.learner import Learner
from train.teaching.sequences import Sequence, batches

HELD_OUT = 0.1
PATIENCE = 2
"""Learning stops after so many passes without a lower held-out loss."""
TOKENS_A_BATCH = 4096


def best_responses(
    policy: HfPolicy, states: list[Environment], arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The best response to each prompt with its reward, and counts. Prompts whose responses all score alike teach nothing."""
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


def to_learn(row: dict[str, Any], tokenizer: Any) -> Sequence:
    """Prompt and response as tokens; only the response, with the end of its turn, counts in the loss."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    response = tokenizer(row["response"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return Sequence(prompt + response, [0.0] * len(prompt) + [1.0] * len(response))


def learn(model: Any, pad: int, sequences: list[Sequence], arguments: argparse.Namespace) -> dict[str, Any]:
    """Passes over the sequences until time is over or the held-out loss stops falling; the model is left at its best pass."""
    started, rng = time.monotonic(), random.Random(f"{arguments.seed}:rejection_sampling")
    shuffled = rng.sample(sequences, len(sequences))
    held_out = max(1, round(HELD_OUT * len(shuffled)))
    kept, watched = shuffled[held_out:], shuffled[:held_out]
    if not kept:
        raise BadInput(
            f"{len(sequences)} responses beat their group's mean: too few to learn from; collect more trajectories"
        )
    learner = Learner(model, pad, arguments.learning_rate, "adamw")
    stream = batches(kept, TOKENS_A_BATCH, rng)
    losses = [learner.loss(watched)]
    best = copy.deepcopy(model.state_dict())
    in_a_pass = sum(len(item.tokens) for item in kept)
    while time.monotonic() - started < 60 * arguments.minutes:
        seen = 0
        while seen < in_a_pass and time.monotonic() - started < 60 * arguments.minutes:
            batch = next(stream)
            learner.step(batch, 1.0)
            seen += sum(len(item.tokens) for item in batch)
        losses.append(learner.loss(watched))
        print(f"pass {len(losses) - 1}: held-out loss {losses[-1]:.4f} nats per token", flush=True)
        if losses[-1] <= min(losses):
            best = copy.deepcopy(model.state_dict())
        elif min(losses) < min(losses[-PATIENCE:]):
            break
    model.load_state_dict(best)
    return {"learned": len(kept), "held_out": held_out, "held_out_losses": [round(loss, 5) for loss in losses]}


def parse_arguments() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m train.rejection_sampling")
    parser.add_argument("--policy-dir", required=True, help="checkpoint folder that samples and learns")
    parser.add_argument("--trajectories", required=True, help="trajectories.jsonl of train.collect_trajectories")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="where the policy goes (default: OUT/checkpoint)")
    parser.add_argument("--samples", type=int, default=8, help="responses to each prompt")
    parser.add_argument("--max-prompts", type=int, default=None, help="at most K prompts, drawn at random")
    parser.add_argument("--max-prompt-tokens", type=int, default=16384)
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=10, help="of sampling and learning together")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--variant", choices=sorted(REWARDS), default="solve_f1")
    parser.add_argument("--match", default="published")
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.samples < 2:
        raise BadInput(f"--samples {arguments.samples}: expected at least 2, the best is one that beats others")
    settings = {
        key: value for key, value in vars(arguments).items() if key not in ("out", "checkpoint", "policy_dir", "trajectories")
    }
    keep_configuration(arguments.out, settings | {"trajectories_sha256": file_sha256(arguments.trajectories)})
    if (arguments.out / "done.json").exists():
        print(f"{arguments.out}: done already")
        return 0
    started = time.monotonic()
    states = [state for state, _ in training_states(read_trajectories(arguments.trajectories), PromptCounts())]
    random.Random(f"{arguments.seed}:0:rl_prompts").shuffle(states)
    policy = HfPolicy(
        arguments.policy_dir, temperature=1.0, max_new_tokens=arguments.max_new_tokens, thinking=arguments.thinking,
        max_prompt_tokens=arguments.max_prompt_tokens,
    )  # fmt: skip
    best, counts = best_responses(policy, states[: arguments.max_prompts], arguments)
    write_jsonl(arguments.out / "best.jsonl", best)
    print(f"kept {len(best)} of {counts['prompts']} best responses ({counts['alike']} groups scored alike)", flush=True)
    from transformers import AutoModelForCausalLM

    # the policy's own copy has another attention, made for decoding
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.policy_dir, dtype="auto")
    model.to(policy.device)
    arguments.minutes -= (time.monotonic() - started) / 60
    learned = learn(
        model, policy.tokenizer.pad_token_id or 0, [to_learn(row, policy.tokenizer) for row in best], arguments
    )
    checkpoint = arguments.checkpoint or arguments.out / "checkpoint"
    model.save_pretrained(checkpoint)
    policy.tokenizer.save_pretrained(checkpoint)
    done = {**counts, "kept": len(best), **learned, "seconds": round(time.monotonic() - started, 1)}
    (arguments.out / "done.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {checkpoint}: {learned['learned']} responses learned in {done['seconds']} s")
    return 0


if __name__ == "__main__":
    run_main(main)
