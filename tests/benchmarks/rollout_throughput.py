"""Tokens/s of batched rollout and of one prompt at a time, in the same process on the same episodes. Run by hand.

Inputs: a checkpoint folder, environments (JSONL). Output: a table and, with --out, a JSON file.

All runs use the same environments, greedy (evaluation) or with --temperature 1 (collection):
- `serial`: one episode at a time, `model.generate` on one prompt (what the published collection code does)
- `serial-own-loop`: one episode at a time, with the loop of train/policies/packed_decoding.py
- `batched-generate`: all episodes in flight, `model.generate` on left-padded batches
- `batched`: all episodes in flight, the loop of train/policies/packed_decoding.py, in one thread
- `batched-workers`: the same in one thread per core (what every script here does)

Tokens are counted as generated. The time is the process's CPU time of the complete rollout, with prefill, scoring and
rendering. On one thread, that is the wall time without the share of other processes. Wall time is shown as well. Greedy
scores are also compared, because batching must not change them. Sampled scores differ, because the engines draw
differently.

Example:
    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/benchmarks/rollout_throughput.py --model outputs/cpu/start --data
    outputs/cpu/environments/test.jsonl
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import Environment
from train.collect_trajectories import load_environments
from train.policies.interface import Generation, Policy, PolicyRequest
from train.policies.local_policies import HfPolicy
from train.policies.rollout import play


class GeneratePolicy:
    """The same policy with `model.generate`, one left-padded batch after another: the baseline."""

    name = "generate"

    def __init__(self, policy: HfPolicy, batch_size: int) -> None:
        self.policy = policy
        self.batch_size = batch_size

    @torch.inference_mode()
    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        policy = self.policy
        found: dict[int, Generation] = {}
        prompts = [policy.prompt_ids(request) for request in requests]
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        pad = int(policy.tokenizer.pad_token_id)
        for start in range(0, len(by_length), self.batch_size):
            batch = by_length[start : start + self.batch_size]
            longest = max(len(prompts[i]) for i in batch)
            outputs = policy.model.generate(
                input_ids=torch.tensor([[pad] * (longest - len(prompts[i])) + prompts[i] for i in batch]),
                attention_mask=torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]),
                do_sample=policy.temperature > 0,
                **({"temperature": policy.temperature, "top_k": 0} if policy.temperature > 0 else {}),
                max_new_tokens=policy.max_new_tokens,
                eos_token_id=sorted(policy.stop_ids),
                pad_token_id=pad,
            )[:, longest:].tolist()
            for index, tokens in zip(batch, outputs, strict=True):
                end = next((place + 1 for place, token in enumerate(tokens) if token in policy.stop_ids), len(tokens))
                found[index] = policy.generation(len(prompts[index]), tokens[:end])
        return [found[index] for index in range(len(requests))]


def measure(policy: Policy, environments: list[Environment], in_flight: int, max_turns: int) -> dict[str, Any]:
    """Play once: tokens, seconds, tokens/s, and every case's Solve-F1."""
    wall, cpu = time.perf_counter(), time.process_time()
    episodes = play(policy, environments, max_turns=max_turns, in_flight=in_flight)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = sum(generation.tokens for episode in episodes for generation in episode.generations)
    return {
        "tokens": tokens,
        "turns": sum(len(episode.turns) for episode in episodes),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "tokens_per_cpu_second": tokens / cpu,
        "tokens_per_wall_second": tokens / wall,
        "solve_f1": [episode.score.solve_f1 for episode in episodes],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data", required=True, help="environments, JSONL")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--max-turns", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--only", nargs="+", default=None, help="names of the runs; serial always runs")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default=None, help="JSON file to write")
    arguments = parser.parse_args()
    environments = load_environments(arguments.data, arguments.limit)
    options: dict[str, Any] = {
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "device": "cpu",
    }
    batched = HfPolicy(arguments.model, batch_size=arguments.batch_size, workers=1, **options)
    single = HfPolicy(arguments.model, batch_size=1, workers=1, **options)
    plain = HfPolicy(arguments.model, **options)
    plain.model.set_attn_implementation("sdpa")
    runs: dict[str, tuple[Policy, int]] = {
        "batched-workers": (HfPolicy(arguments.model, batch_size=arguments.batch_size, **options), 256),
        "batched": (batched, 256),
        "batched-generate": (GeneratePolicy(plain, arguments.batch_size), 256),
        "serial-own-loop": (single, 1),
        "serial": (GeneratePolicy(plain, 1), 1),
    }
    if arguments.only:
        runs = {name: run for name, run in runs.items() if name in (*arguments.only, "serial")}
    play(batched, environments[:2], max_turns=1)  # warms up the sandbox and the thread pools
    results = {
        name: measure(policy, environments, flight, arguments.max_turns) for name, (policy, flight) in runs.items()
    }
    baseline = results["serial"]
    print(
        f"{'':<18}{'tokens':>8}{'CPU s':>8}{'tokens/s':>10}{'ratio':>7}"
        f"{'wall s':>8}{'tokens/s':>10}{'ratio':>7}{'same F1':>9}"
    )
    for name, result in results.items():
        same = sum(a == b for a, b in zip(result["solve_f1"], baseline["solve_f1"], strict=True))
        result["cpu_ratio"] = result["tokens_per_cpu_second"] / baseline["tokens_per_cpu_second"]
        result["wall_ratio"] = result["tokens_per_wall_second"] / baseline["tokens_per_wall_second"]
        result["same_f1"] = same
        print(
            f"{name:<18}{result['tokens']:>8}{result['cpu_seconds']:>8.1f}{result['tokens_per_cpu_second']:>10.0f}"
            f"{result['cpu_ratio']:>7.2f}{result['wall_seconds']:>8.1f}{result['tokens_per_wall_second']:>10.0f}"
            f"{result['wall_ratio']:>7.2f}{same:>6}/{len(environments)}"
        )
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
