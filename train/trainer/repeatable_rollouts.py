"""The same seed gives the same samples: seeds for prompts and requests, and groups in the order of their prompts.

OpenRLHF shuffles the prompts with an unseeded random state. vLLM draws the tokens of all requests from one random
state, in the order of its batches, and OpenRLHF trains on groups of samples in the order in which they finish. So two
trainings with the same seed differ. Here the order of the prompts depends on the seed, and each request has its own
seed, made of the engine's seed, the prompt's tokens, and how often they were requested before.

What is left is rounding: a batch of another size can change the last bit of a logit, and in rare cases a token.

| module (OpenRLHF 0.11.2, vLLM 0.29) | there | here |
| --- | --- | --- |
| `openrlhf.trainer.ppo_trainer` | prompts shuffled by an unseeded state | shuffled by the training's seed |
| `vllm.v1.engine.async_llm` | one random state per engine | a seed per request that has none |
| `openrlhf.trainer.ppo_utils.samples_generator` | groups in the order of their end | in the order of their prompts |

The last two only on a CPU. On a GPU, vLLM samples requests that have seeds one by one, which is slow.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from train.trainer.adapt_after_import import Adaptations


class RequestSeeds:
    """Seeds of an engine's requests."""

    def __init__(self, engine_seed: int) -> None:
        self.engine_seed = engine_seed
        self._requested: Counter[bytes] = Counter()

    def next(self, prompt: Sequence[int]) -> int:
        """The seed, 0 to 2**63 - 1, of the next request with these prompt tokens."""
        text = hashlib.sha256(array("q", prompt).tobytes()).digest()
        number = self._requested[text]
        self._requested[text] += 1
        return int.from_bytes(hashlib.sha256(b"%d:%s:%d" % (self.engine_seed, text, number)).digest()[:8], "big") >> 1


def _seed_requests(module: Any) -> None:
    generate = module.AsyncLLM.generate

    @functools.wraps(generate)
    def seeded(self: Any, prompt: Any, sampling_params: Any, request_id: str, **others: Any) -> Any:
        if sampling_params.seed is None and "prompt_token_ids" in prompt:
            if not hasattr(self, "request_seeds"):
                self.request_seeds = RequestSeeds(self.vllm_config.model_config.seed)
            sampling_params = sampling_params.clone()
            sampling_params.seed = self.request_seeds.next(prompt["prompt_token_ids"])
        return generate(self, prompt, sampling_params, request_id, **others)

    module.AsyncLLM.generate = seeded


def _order_groups(module: Any) -> None:
    generator = module.SamplesGenerator
    dispatch, generate = generator._dispatch_prompts_to_vllm, generator._generate_vllm

    @functools.wraps(dispatch)
    def noting(self: Any, prompts: list[str], *others: Any, **named: Any) -> Any:
        self.dispatched.extend(prompts)
        return dispatch(self, prompts, *others, **named)

    @functools.wraps(generate)
    def ordered(self: Any, *others: Any, **named: Any) -> Any:
        self.dispatched = []
        experiences, consumed, exhausted = generate(self, *others, **named)
        place = {prompt: number for number, prompt in reversed([*enumerate(self.dispatched)])}
        experiences.sort(key=lambda experience: place[experience.prompts[0]])
        return experiences, consumed, exhausted

    generator._dispatch_prompts_to_vllm, generator._generate_vllm = noting, ordered


def _seed_prompt_order(module: Any) -> None:
    prepare = module.prepare_datasets

    @functools.wraps(prepare)
    def seeded(strategy: Any, *others: Any, **named: Any) -> Any:
        import torch

        torch.manual_seed(strategy.args.train.seed)  # the sampler draws its own seed from torch's state
        return prepare(strategy, *others, **named)

    module.prepare_datasets = seeded


SEEDED_PROMPTS: Adaptations = {"openrlhf.trainer.ppo_trainer": _seed_prompt_order}
REPEATABLE_ROLLOUTS: Adaptations = {
    "vllm.v1.engine.async_llm": _seed_requests,
    "openrlhf.trainer.ppo_utils.samples_generator": _order_groups,
}
