"""Create a policy from its spec, the value of `--policy` in all scripts.

oracle                  plays the gold plan: the ceiling, 1.0 on every metric
random                  random tools with random arguments of the right shape: the floor
replay:FILE             plays back recorded turns, JSONL of {"id", "trial", "turns": [raw text, ...]} or result rows
hf:DIR                  a checkpoint through transformers, on CPU or GPU (an existing folder alone means this)
vllm:DIR                the same checkpoint through vLLM
openai:MODEL@BASE_URL   any OpenAI-compatible server; the key comes from OPENAI_API_KEY
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput
from train.policies.interface import OraclePolicy, Policy, RandomPolicy, ReplayPolicy

IN_FLIGHT = 1024
"""Episodes in parallel where --in-flight is not given, over all GPUs."""
SERVER_REQUESTS = 32
"""Requests in parallel to one server where --in-flight is not given: a public endpoint may limit its rate."""
WORKERS_VARIABLE = "HF_POLICY_WORKERS"
"""Environment variable with the number of `workers` where it is not given, for commands that run in parallel."""
SPECS = ("oracle", "random", "replay:FILE", "hf:DIR", "vllm:DIR", "openai:MODEL@BASE_URL")


def load_policy(
    spec: str,
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 1024,
    thinking: bool = False,
    seed: int = 0,
    max_prompt_tokens: int | None = None,
    batch_size: int = 64,
    concurrency: int | None = None,
    device: str = "auto",
    dtype: str | None = None,
    workers: int | None = None,
) -> Policy:
    """The policy of a spec (see the module's docstring). Raises BadInput for an unknown spec or unusable checkpoint.

    `max_prompt_tokens`: a longer prompt ends its episode as `too_long`; None: the limit is the model's context.
    `concurrency`: requests in parallel, for `openai`; None: SERVER_REQUESTS. `dtype` (torch's name): for `hf` and
    `vllm`; default: the checkpoint's type on a GPU, otherwise float32. `batch_size`, `device`
    (train/trainer/devices.py), `workers`: for `hf`. `workers` is the number of batches decoded concurrently, each in a
    thread; None: the value of WORKERS_VARIABLE, or as many as the cores allow at torch's number of threads.
    """
    kind, _, rest = spec.partition(":")
    generation: dict[str, Any] = {"temperature": temperature, "max_new_tokens": max_new_tokens, "thinking": thinking}
    if spec == "oracle":
        return OraclePolicy()
    if spec == "random":
        return RandomPolicy(seed=seed)
    if kind == "replay" and rest:
        return ReplayPolicy(rest)
    if (kind in ("hf", "vllm") and rest) or (spec and Path(spec).is_dir()):
        from train.policies.local_policies import HfPolicy, VllmPolicy

        generation |= {"max_prompt_tokens": max_prompt_tokens, "dtype": dtype}
        if kind == "vllm":
            return VllmPolicy(rest, seed=seed, **generation)
        folder = rest if kind == "hf" and rest else spec
        return HfPolicy(folder, batch_size=batch_size, device=device, workers=workers, **generation)
    if kind == "openai" and "@" in rest:
        from train.policies.server_policy import ServerPolicy

        model, _, base_url = rest.partition("@")
        return ServerPolicy(model, base_url, concurrency=concurrency or SERVER_REQUESTS, **generation)
    raise BadInput(f"unknown policy {spec!r}: expected one of {', '.join(SPECS)}, or an existing model folder")
