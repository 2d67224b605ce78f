"""Decode many prompts at once through any transformers model, without padding and without computing a prefix twice.

`model.generate` pads prompts to the longest, copies the whole KV cache at every step, keeps finished sequences, and starts
every turn of an episode from nothing. On the tiny CPU policy it is slower in a batch than one prompt at a time
(tests/benchmarks/rollout_throughput.py). Here instead:
- tokens of all sequences stand in one row, (1, tokens): the matrix products see no padding
- each sequence has a row of a preallocated cache, written in place; finished ones leave the batch
- what a sequence leaves in the cache is kept (`PrefixStore`): the next turn's prompt computes only what is new

It works by an attention function registered with transformers, so the model's own code runs unchanged. Models whose layers
are not all plain causal attention (sliding windows, linear attention) are refused: vLLM serves those.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from env_construction.jsonl import BadInput

ATTENTION = "packed_cache"
PREFILL_TOKENS = 1024  # tokens of one prefill pass: enough for full speed, small enough for the caches of the processor
Layers = list[
    tuple[torch.Tensor, torch.Tensor]
]  # a sequence's keys and values of each layer, (kv heads, tokens, head size)


class Buffers:
    """Memory for the caches of one batch after another: cleared once, then reused.

    Cleared, because a place that is masked is still multiplied by 0, and NaN times 0 is NaN; reused, since clearing and giving
    back hundreds of megabytes for every batch takes longer than attention does.
    """

    def __init__(self) -> None:
        self._flat: dict[tuple[int, int], torch.Tensor] = {}

    def take(self, layer: int, place: int, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """A tensor of `shape`, of finite content, that stays valid until the same (layer, place) is taken again."""
        size = math.prod(shape)
        flat = self._flat.get((layer, place))
        if flat is None or flat.numel() < size:
            flat = self._flat[layer, place] = like.new_zeros(size)
        return flat[:size].view(shape)


class PackedCache:
    """Keys and values of the sequences of a batch: per layer (rows, kv heads, capacity, head size), from position 0 on.

    `lengths[row]` tokens of a row are valid. A pass through the model is either a prefill (`spans`: which tokens of the pass
    belong to which row) or one decoding step (one token for each row, in order).
    """

    def __init__(self, rows: int, capacity: int, buffers: Buffers) -> None:
        self.capacity = capacity
        self.buffers = buffers
        self.lengths = [0] * rows
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.spans: list[tuple[int, int, int]] | None = None  # (row, first token of the pass, tokens)
        self._places: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None

    def load(self, row: int, layers: Layers, count: int) -> None:
        """Start `row` with the first `count` tokens of a stored sequence."""
        for layer, (key, value) in enumerate(layers):
            self._allocate(layer, key)
            self.keys[layer][row, :, :count] = key[:, :count]
            self.values[layer][row, :, :count] = value[:, :count]
        self.lengths[row] = count

    def copy_of(self, row: int) -> Layers:
        """The keys and values that `row` holds, as tensors of their own."""
        length = self.lengths[row]
        return [
            (key[row, :, :length].clone(), value[row, :, :length].clone())
            for key, value in zip(self.keys, self.values, strict=True)
        ]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows; the kept ones move up in order."""
        longest = max(self.lengths[row] for row in rows)
        index = torch.tensor(rows, device=self.keys[0].device)
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                tensor[: len(rows), :, :longest] = tensor[:, :, :longest][index]
                tensors[layer] = tensor[: len(rows)]
        self.lengths = [self.lengths[row] for row in rows]

    def _allocate(self, layer: int, like: torch.Tensor) -> None:
        if layer == len(self.keys):
            heads, _, size = like.shape
            shape = (len(self.lengths), heads, self.capacity, size)
            self.keys.append(self.buffers.take(layer, 0, shape, like))
            self.values.append(self.buffers.take(layer, 1, shape, like))

    def begin_step(self) -> torch.Tensor:
        """Prepare one decoding step; returns the position of each row's new token, (rows,)."""
        device = self.keys[0].device
        self.spans = None
        self._places = torch.tensor(self.lengths, device=device)
        longest = max(self.lengths) + 1
        self._hidden = (torch.arange(longest, device=device) > self._places[:, None])[:, None, None, :]
        return self._places

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Causal attention of one pass. `query`: (heads, tokens, size), `key`, `value`: (kv heads, tokens, size).

        Returns (1, tokens, heads, size); the new keys and values are in the cache afterwards.
        """
        self._allocate(layer, key)
        keys, values = self.keys[layer], self.values[layer]
        if self.spans is None:
            return self._attend_step(keys, values, query, key, value, scaling)
        out = torch.empty_like(query.transpose(0, 1))
        for row, first, count in self.spans:
            start = self.lengths[row]
            part = slice(first, first + count)
            keys[row, :, start : start + count] = key[:, part]
            values[row, :, start : start + count] = value[:, part]
            mask = None
            if start:
                mask = torch.ones(count, start + count, dtype=torch.bool, device=key.device).tril(start)
            found = scaled_dot_product_attention(
                query[None, :, part],
                keys[None, row, :, : start + count],
                values[None, row, :, : start + count],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=True,
            )
            out[part] = found[0].transpose(0, 1)
        return out[None]

    def _attend_step(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        assert self._hidden is not None and self._places is not None
        rows = torch.arange(len(self.lengths), device=key.device)
        keys[rows, :, self._places] = key.transpose(0, 1)
        values[rows, :, self._places] = value.transpose(0, 1)
        longest = self._hidden.shape[-1]
        heads, tokens, size = query.shape
        # the query heads that share a key head take the place of query positions: no key is copied. Two plain products
        # are 1.7 times faster than torch's fused attention for a single position on a CPU
        grouped = query.transpose(0, 1).reshape(tokens, keys.shape[1], -1, size)
        grouped = grouped * (scaling if scaling is not None else size**-0.5)
        scores = grouped @ keys[:, :, :longest].transpose(-1, -2)
        weights = scores.masked_fill_(self._hidden, float("-inf")).softmax(-1)
        return (weights @ values[:, :, :longest]).reshape(1, tokens, heads, size)


def _packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: PackedCache | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls in place of its own attention."""
    if packed is None:
        raise ValueError(f"attention {ATTENTION!r} needs the keyword packed=PackedCache(...)")
    return packed.attend(int(module.layer_idx), query[0], key[0], value[0], scaling), None  # type: ignore[arg-type]


@dataclass
class _Stored:
    tokens: list[int]
    layers: Layers

    @property
    def size(self) -> int:
        return sum(key.nbytes + value.nbytes for key, value in self.layers)


class PrefixStore:
    """What former sequences left in the cache, by key (the episode), least recently used out first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, _Stored] = OrderedDict()
        self._size = 0

    def put(self, key: Hashable, tokens: list[int], layers: Layers) -> None:
        entry = _Stored(tokens, layers)
        if entry.size > self.max_bytes:
            return
        self.discard(key)
        self._entries[key] = entry
        self._size += entry.size
        while self._size > self.max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._size -= oldest.size

    def discard(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size

    def longest_prefix(self, key: Hashable, tokens: list[int]) -> tuple[int, Layers]:
        """How many leading tokens of `tokens` are stored under `key`, and their keys and values."""
        entry = self._entries.get(key)
        if entry is None:
            return 0, []
        self._entries.move_to_end(key)
        shared = 0
        for ours, theirs in zip(tokens, entry.tokens, strict=False):
            if ours != theirs:
                break
            shared += 1
        return shared, entry.layers


def use_packed_attention(model: Any, name: str) -> None:
    """Switch a transformers model to packed attention. Raises BadInput where that would change what it computes."""
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or not getattr(model, "_supports_attention_backend", False):
        raise BadInput(f"{name}: layers of kind {', '.join(sorted(kinds))} cannot be decoded here; use vllm:{name}")
    AttentionInterface.register(ATTENTION, _packed_attention)
    model.set_attn_implementation(ATTENTION)


@torch.inference_mode()
def complete_batch(
    model: Any,
    prompts: Sequence[list[int]],
    rooms: Sequence[int],
    choose: Callable[[torch.Tensor, list[int]], list[int]],
    stop_ids: frozenset[int],
    buffers: Buffers,
    store: PrefixStore | None = None,
    keys: Sequence[Hashable] = (),
) -> list[list[int]]:
    """Continue each prompt by at most `rooms[i]` >= 1 tokens, up to and with a stop token.

    `choose(logits, indices)` picks the next token of the prompts `indices` from (rows, vocabulary) logits. With a `store`,
    `keys[i]` names the episode of prompt i, whose stored prefix is used and whose sequence is stored.
    """
    capacity = max(len(prompt) + room for prompt, room in zip(prompts, rooms, strict=True))
    cache = PackedCache(len(prompts), capacity, buffers)
    if store is not None:
        for row, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
            shared, layers = store.longest_prefix(key, prompt)
            shared = min(shared, len(prompt) - 1)  # the last token is always computed: its logits are needed
            if shared:
                cache.load(row, layers, shared)
    logits = _prefill(model, cache, prompts)
    outputs: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    finished: set[int] = set()
    while True:
        tokens = choose(logits, rows)
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if row in finished:
                continue
            output = outputs[row]
            output.append(token)
            if token in stop_ids or len(output) >= rooms[row]:
                finished.add(row)
                if store is not None:
                    store.put(keys[row], (prompts[row] + output)[: cache.lengths[place]], cache.copy_of(place))
        if len(finished) == len(prompts):
            return outputs
        alive = [place for place, row in enumerate(rows) if row not in finished]
        # leaving costs a copy of the cache, so wait until a quarter of the batch has finished
        if len(alive) <= 0.75 * len(rows):
            cache.keep(alive)
            rows = [rows[place] for place in alive]
            tokens = [tokens[place] for place in alive]
        # a finished row that has not left yet repeats its last place, so that it never runs over the capacity
        for place, row in enumerate(rows):
            if row in finished:
                cache.lengths[place] = min(cache.lengths[place], cache.capacity - 1)
        positions = cache.begin_step()
        step = model(
            input_ids=torch.tensor([tokens], device=positions.device),
            position_ids=positions[None],
            use_cache=False,
            packed=cache,
        )
        for place, row in enumerate(rows):
            if row not in finished:
                cache.lengths[place] += 1
        logits = step.logits[0]


def _prefill(model: Any, cache: PackedCache, prompts: Sequence[list[int]]) -> torch.Tensor:
    """Compute what the cache lacks of every prompt; returns the logits after each, (rows, vocabulary)."""
    device = model.get_input_embeddings().weight.device
    logits: list[torch.Tensor] = []
    waiting = list(range(len(prompts)))
    while waiting:
        ids: list[int] = []
        positions: list[int] = []
        cache.spans = []
        while waiting and (
            not ids or len(ids) + len(prompts[waiting[0]]) - cache.lengths[waiting[0]] <= PREFILL_TOKENS
        ):
            row = waiting.pop(0)
            start = cache.lengths[row]
            cache.spans.append((row, len(ids), len(prompts[row]) - start))
            ids.extend(prompts[row][start:])
            positions.extend(range(start, len(prompts[row])))
        last = torch.tensor([first + count - 1 for _, first, count in cache.spans], device=device)
        out = model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=last,
            packed=cache,
        )
        for row, _, count in cache.spans:
            cache.lengths[row] += count
        logits.append(out.logits[0])
    return torch.cat(logits)
