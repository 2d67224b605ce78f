"""From a spec to a policy: what `--policy` takes everywhere.

oracle                  plays the gold plan: the ceiling, 1.0 on every metric
random                  random tools with random arguments of the right shape: the floor
replay:FILE             plays back recorded turns, JSONL of {"id", "trial", "turns": [raw text, ...]} or result rows
hf:DIR                  a checkpoint through transformers, on CPU or GPU (an existing folder alone means this)
vllm:DIR                the same checkpoint through vLLM
openai:MODEL@BASE_URL   any OpenAI-compatible server; the key comes from OPENAI_API_KEY
"""

from __future__ import annotations

from pathlib import Path

from env_construction.jsonl import BadInput
from train.policies import OraclePolicy, Policy, RandomPolicy, ReplayPolicy

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
    concurrency: int = 32,
    device: str | None = None,
    dtype: str | None = None,
    workers: int | None = None,
) -> Policy:
    """The policy of a spec (see the module's head). Raises BadInput for an unknown spec or an unusable checkpoint.

    `max_prompt_tokens`: a longer prompt ends its episode as `too_long`; None means all that the model's context leaves.
    `batch_size` is for `hf`, `concurrency` for `openai`; `device` and `dtype` (torch names) are for `hf` and `vllm`,
    by default CUDA and the checkpoint's type where there is a GPU, else CPU and float32. `workers` is for `hf`: how many
    batches are decoded at once, each in a thread; None means as many as the cores allow at torch's number of threads.
    """
    kind, _, rest = spec.partition(":")
    if spec == "oracle":
        return OraclePolicy()
    if spec == "random":
        return RandomPolicy(seed=seed)
    if kind == "replay" and rest:
        return ReplayPolicy(rest)
    if (kind in ("hf", "vllm") and rest) or (spec and Path(spec).is_dir()):
        from train.local_policies import HfPolicy, VllmPolicy

        folder = rest if kind in ("hf", "vllm") and rest else spec
        if kind == "vllm":
            return VllmPolicy(
                folder,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                thinking=thinking,
                max_prompt_tokens=max_prompt_tokens,
                dtype=dtype,
                seed=seed,
            )
        return HfPolicy(
            folder,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            thinking=thinking,
            max_prompt_tokens=max_prompt_tokens,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            workers=workers,
        )
    if kind == "openai" and "@" in rest:
        from train.server_policy import ServerPolicy

        model, _, base_url = rest.partition("@")
        return ServerPolicy(
            model,
            base_url,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            thinking=thinking,
            concurrency=concurrency,
        )
    raise BadInput(f"unknown policy {spec!r}: expected one of {', '.join(SPECS)}, or an existing model folder")
