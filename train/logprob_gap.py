"""How far the rollout engine's log-probabilities are from the trainer's, on the same tokens: a probe between epochs.

A policy is sampled by vLLM and trained by transformers under DeepSpeed. If the two disagree, training is off-policy and no line of
OpenRLHF's log shows it: it records the gap only with importance correction switched on, which changes the loss. So this asks both
about the same tokens: vLLM samples a response to each of some prompts and says how likely each token was, then the model itself
is run over prompt and response. Weights that did not reach the engine, another precision, or a bug of a kernel show here.

Inputs: --policy (checkpoint folder or hub name), --prompts (file of train.rl_prompts).
Outputs: a summary on the screen, and with --out a JSON file: mean and largest |gap| in nats a token, the mean of (vLLM - trainer), which
estimates KL(sampler || trainer), and the share of tokens beyond the clip range of the policy loss.

Health rule: warns if the mean |gap| is over 0.02 nats, or if over 1% of the tokens differ by more than ln 1.2 = 0.18 nats, which is all
that the policy loss lets a whole update change. In float32 on a CPU the mean is below 0.0001; bf16 on GPUs is expected below 0.02.

Example:
    python -m train.logprob_gap --policy outputs/cpu/train/grpo/epoch1/checkpoint \\
        --prompts outputs/cpu/train/grpo/epoch1/prompts.jsonl --out outputs/cpu/train/grpo/epoch1/logprob_gap.json

Source: the ratio of the policy loss and its clip range: paper/README.md, "Training".
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, json_text, read_jsonl, run_main
from train.policies.local_policies import import_vllm_engine
from train.policies.prompts import load_tokenizer, template_sha256
from train.trainer.devices import choose_device

MEAN_WARNS = 0.02
CLIP = math.log(1.2)
BEYOND_CLIP_WARNS = 0.01
ENGINE_SHARE = 0.45  # of a GPU: the model itself is loaded beside the engine


@dataclass(frozen=True)
class Sampled:
    """One response: token ids, and the sampler's log-probability of each token of the response."""

    prompt: list[int]
    response: list[int]
    log_probs: list[float]


@dataclass(frozen=True)
class Gap:
    """|sampler - trainer| in nats a token, over all tokens of all responses. `beyond_clip`: share of tokens over ln 1.2."""

    responses: int
    tokens: int
    mean_abs: float
    max_abs: float
    mean: float
    beyond_clip: float

    @property
    def warning(self) -> str:
        """What the health rule says, empty if all is well."""
        if not math.isfinite(self.mean_abs):
            return "the gap is not a number"
        if self.mean_abs > MEAN_WARNS:
            return f"the mean gap of {self.mean_abs:.4f} nats a token is over {MEAN_WARNS}"
        if self.beyond_clip > BEYOND_CLIP_WARNS:
            return f"{self.beyond_clip:.1%} of the tokens differ by more than the clip range of the policy loss"
        return ""


def sample_with_vllm(
    policy: str, prompts: Sequence[list[int]], *, max_new_tokens: int, temperature: float, seed: int
) -> list[Sampled]:
    """A response of the rollout engine to each prompt, with the log-probabilities that it sampled from."""
    on_gpu = choose_device() == "cuda"
    engine_class = import_vllm_engine("install it with setup.sh")
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    engine = engine_class(
        model=policy,
        dtype="bfloat16" if on_gpu else "float32",
        max_model_len=max(map(len, prompts)) + max_new_tokens,
        enforce_eager=not on_gpu,
        gpu_memory_utilization=ENGINE_SHARE,
        logprobs_mode="processed_logprobs",
        seed=seed,
    )
    params = [
        SamplingParams(
            temperature=temperature, max_tokens=max_new_tokens, logprobs=0, seed=seed + place, detokenize=False
        )
        for place in range(len(prompts))
    ]
    results = engine.generate([TokensPrompt(prompt_token_ids=prompt) for prompt in prompts], params)
    sampled = []
    for prompt, result in zip(prompts, results, strict=True):
        output = result.outputs[0]
        rows: Any = output.logprobs or []
        found = [entry[token].logprob for token, entry in zip(output.token_ids, rows, strict=True)]
        sampled.append(Sampled(prompt, list(output.token_ids), found))
    return sampled


def trainer_log_probs(model: Any, sampled: Sequence[Sampled], temperature: float) -> list[list[float]]:
    """The same tokens' log-probabilities as the trainer computes them: logits in float32, over the temperature."""
    found: list[list[float]] = []
    for item in tqdm(sampled, desc="trainer's model", unit="response", disable=None):
        ids = torch.tensor([[*item.prompt, *item.response]], device=model.device)
        with torch.no_grad():
            # the logits before each token of the response, and one after the last that nothing asks for
            logits = model(ids, logits_to_keep=len(item.response) + 1).logits[0, :-1].float() / temperature
        targets = ids[0, len(item.prompt) :].unsqueeze(-1)
        found.append(torch.log_softmax(logits, -1).gather(-1, targets).squeeze(-1).tolist())
    return found


def load_trainers_model(policy: str) -> Any:
    """The model in the trainer's precision: bf16 on a GPU, float32 on a CPU (train/trainer/openrlhf_on_cpu.py)."""
    from transformers import AutoModelForCausalLM

    on_gpu = choose_device() == "cuda"
    model: Any = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.bfloat16 if on_gpu else torch.float32)
    return model.to("cuda" if on_gpu else "cpu").eval()


def compare(sampled: Sequence[Sampled], trainer: Sequence[Sequence[float]]) -> Gap:
    """The gap over all tokens. Raises BadInput if nothing was sampled."""
    gaps = [
        here - there
        for item, row in zip(sampled, trainer, strict=True)
        for here, there in zip(item.log_probs, row, strict=True)
    ]
    if not gaps:
        raise BadInput("no token was sampled: nothing to compare")
    absolute = [abs(gap) for gap in gaps]
    return Gap(
        responses=len(sampled),
        tokens=len(gaps),
        mean_abs=sum(absolute) / len(gaps),
        max_abs=max(absolute),
        mean=sum(gaps) / len(gaps),
        beyond_clip=sum(gap > CLIP for gap in absolute) / len(gaps),
    )


def read_prompts(path: Path, tokenizer: Any, limit: int, longest: int) -> list[list[int]]:
    """The first `limit` prompts of at most `longest` tokens, as ids. Raises BadInput for another model's prompts, or if none fits."""
    template = template_sha256(tokenizer)
    prompts: list[list[int]] = []
    for number, row in read_jsonl(path, required=("prompt",)):
        if row.get("template_sha256", template) != template:
            raise BadInput(f"{path}:{number}: rendered with another chat template than the policy has")
        ids = list(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"])
        if len(ids) <= longest:
            prompts.append(ids)
        if len(prompts) == limit:
            break
    if not prompts:
        raise BadInput(f"{path}: no prompt of at most {longest} tokens")
    return prompts


def main() -> int:
    parser = ScriptParser(__doc__, "python -m train.logprob_gap")
    parser.add_argument("--policy", required=True, help="checkpoint folder or hub name")
    parser.add_argument("--prompts", required=True, type=Path, help="prompt file of train.rl_prompts")
    parser.add_argument("--limit", type=int, default=32, help="how many prompts are answered")
    parser.add_argument("--max-prompt-tokens", type=int, default=8192, help="longer prompts are passed over")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0, help="the trainer's, as in the preset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.temperature <= 0 or arguments.limit < 1:
        raise BadInput("--temperature and --limit: expected more than 0")
    tokenizer = load_tokenizer(arguments.policy)
    prompts = read_prompts(arguments.prompts, tokenizer, arguments.limit, arguments.max_prompt_tokens)
    sampled = sample_with_vllm(
        arguments.policy,
        prompts,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    gap = compare(sampled, trainer_log_probs(load_trainers_model(arguments.policy), sampled, arguments.temperature))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        summary = {
            **asdict(gap),
            "warning": gap.warning,
            "policy": arguments.policy,
            "temperature": arguments.temperature,
        }
        arguments.out.write_text(json_text(summary, indent=2) + "\n", encoding="utf-8")
    print(
        f"log-probability gap over {gap.tokens} tokens of {gap.responses} responses: mean {gap.mean_abs:.2e}, largest "
        f"{gap.max_abs:.2e} nats; sampler - trainer {gap.mean:+.2e}; {gap.beyond_clip:.2%} of the tokens beyond the clip range"
        + (f"; wrote {arguments.out}" if arguments.out else "")
    )
    if gap.warning:
        print(f"health: {gap.warning}: the sampler is not the policy that is trained", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_main(main)
