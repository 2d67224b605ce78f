"""Decode many prompts at once with a transformers model, without padding and without computing a prefix twice.

`model.generate` pads prompts to the longest, copies the complete KV cache at every step, keeps finished sequences, and
recomputes every turn of an episode from the start. For the tiny CPU policy a batch of it is slower than one prompt at a
time (tests/benchmarks/rollout_throughput.py). This module differs:
- The tokens of all sequences form one row, (1, tokens), so the matrix products have no padding.
- Each sequence has a row of a preallocated cache, written in place. Sequences leave the batch when they end, and others
  join while the remaining ones continue, so a few long sequences do not delay a batch.
- The cache of a finished sequence is kept (`PrefixStore`), so the next turn computes only its new tokens.

It registers an attention function with transformers, so the model's code runs unchanged. It rejects models with layers
other than full causal attention (sliding windows, linear attention); use vLLM for those.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from env_construction.environment.jsonl import BadInput

ATTENTION = "packed_cache"
PREFILL_TOKENS = 1024  # tokens per prefill pass: enough for full speed, small enough for the processor's caches
Layers = list[
    tuple[torch.Tensor, torch.Tensor]
]  # a sequence's keys and values of each layer, (kv heads, tokens, head size)


class PackedCache:
    """Keys and values of the sequences of a batch: per layer (rows, kv heads, capacity, head size), from position 0 on.

    `lengths[row]` tokens of a row are valid. A pass through the model is either a prefill (`spans`: which tokens of the
    pass belong to which row) or one decoding step (one token per row, in order).
    The values' memory is cleared once and then reused, because masked positions are multiplied by 0 and NaN times 0 is
    NaN. The keys' memory need not be cleared, because the scores of masked positions are overwritten.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.capacity = 0
        self.lengths: list[int] = []
        self.spans: list[tuple[int, int, int]] | None = None  # (row, first token of the pass, tokens)
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._places = torch.empty(0)
        self._order = torch.empty(0)
        self._blocks: list[tuple[int, int, torch.Tensor]] = []

    def resize(self, rows: int, capacity: int) -> None:
        """Make room for `rows` sequences of `capacity` tokens; the rows in use (all must fit) stay."""
        self.rows, self.capacity = rows, capacity
        used, longest = len(self.lengths), max(self.lengths, default=0)
        for tensors, new_memory in ((self._keys, self._new_keys), (self._values, self._new_values)):
            for layer, old in enumerate(tensors):
                tensors[layer] = new_memory(old)
                tensors[layer][:used, :, :longest] = old[:used, :, :longest]

    def _new_keys(self, like: torch.Tensor) -> torch.Tensor:
        # A step multiplies by the transposed keys, so the positions of one feature are adjacent in memory.
        return like.new_empty((self.rows, like.shape[-3], like.shape[-1], self.capacity)).transpose(-1, -2)

    def _new_values(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((self.rows, like.shape[-3], self.capacity, like.shape[-1]))

    def _layer(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, made on first use in the shape of `like`, (kv heads, tokens, head size)."""
        if layer == len(self._keys):
            self._keys.append(self._new_keys(like))
            self._values.append(self._new_values(like))
        return self._keys[layer], self._values[layer]

    def add_row(self, stored: Layers, count: int) -> None:
        """A new row at the end that starts with the first `count` tokens of a stored sequence."""
        row = len(self.lengths)
        self.lengths.append(count)
        for layer, (key, value) in enumerate(stored if count else ()):
            keys, values = self._layer(layer, key)
            keys[row, :, :count] = key[:, :count]
            values[row, :, :count] = value[:, :count]

    def remove_row(self, row: int) -> None:
        """Take a row out; the last row moves to its place."""
        length = self.lengths.pop()
        last = len(self.lengths)
        if row != last:
            for tensor in (*self._keys, *self._values):
                tensor[row, :, :length] = tensor[last, :, :length]
            self.lengths[row] = length

    def copy_of(self, row: int) -> Layers:
        """The keys and values that `row` holds, as tensors of their own."""
        length = self.lengths[row]
        return [
            (key[row, :, :length].clone(), value[row, :, :length].clone())
            for key, value in zip(self._keys, self._values, strict=True)
        ]

    def begin_step(self) -> torch.Tensor:
        """Prepare one decoding step; returns the position of each row's new token, (rows,)."""
        device = self._keys[0].device
        self.spans = None
        self._places = torch.tensor(self.lengths, device=device)
        self._order = torch.arange(len(self.lengths), device=device)
        self._blocks = []
        for begin, end, longest in length_blocks(self.lengths):
            hidden = torch.arange(longest + 1, device=device) > self._places[begin:end, None]
            self._blocks.append((begin, end, hidden[:, None, None, :]))
        return self._places

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Causal attention of one pass. `query`: (heads, tokens, size), `key`, `value`: (kv heads, tokens, size).

        Returns (1, tokens, heads, size); the new keys and values are in the cache afterwards.
        """
        keys, values = self._layer(layer, key)
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
                keys[None, row, :, : start + count].contiguous(),  # or torch's fast attention would not take them
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
        keys[self._order, :, self._places] = key.transpose(0, 1)
        values[self._order, :, self._places] = value.transpose(0, 1)
        heads, tokens, size = query.shape
        # the query heads that share a key head take the place of query positions: no key is copied. Two plain products
        # are 1.7 times faster than torch's fused attention for a single position on a CPU
        grouped = query.transpose(0, 1).reshape(tokens, keys.shape[1], -1, size)
        grouped = grouped * (scaling if scaling is not None else size**-0.5)
        out = []
        for begin, end, hidden in self._blocks:
            longest = hidden.shape[-1]
            scores = grouped[begin:end] @ keys[begin:end, :, :longest].transpose(-1, -2)
            weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
            out.append(weights @ values[begin:end, :, :longest])
        return torch.cat(out).reshape(1, tokens, heads, size)


def length_blocks(lengths: Sequence[int], rows: int = 16, slack: float = 1.12) -> list[tuple[int, int, int]]:
    """Runs of rows with similar lengths, `(begin, end, longest)`. Attention reads each run only up to its longest row.

    A run has at least `rows` rows; the last may have fewer. It grows while its length and that of the next rows differ
    by at most the factor `slack`, because another product costs about as much.
    """
    blocks: list[tuple[int, int, int]] = []
    for begin in range(0, len(lengths), rows):
        end = min(begin + rows, len(lengths))
        longest = max(lengths[begin:end])
        if blocks:
            first, _, before = blocks[-1]
            if max(before, longest) <= slack * min(before, longest):
                blocks[-1] = (first, end, max(before, longest))
                continue
        blocks.append((begin, end, longest))
    return blocks


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
    """The cached keys and values of earlier sequences by key (the episode); an LRU cache."""

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

    def clear(self) -> None:
        self._entries.clear()
        self._size = 0

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
    """Switch a transformers model to packed attention. Raises BadInput if that would change what it computes."""
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or not getattr(model, "_supports_attention_backend", False):
        raise BadInput(f"{name}: layers of kind {', '.join(sorted(kinds))} cannot be decoded here; use vllm:{name}")
    AttentionInterface.register(ATTENTION, _packed_attention)
    model.set_attn_implementation(ATTENTION)


@dataclass
class Continuation:
    """A prompt to be continued by at most `room` >= 1 tokens, up to and with a stop token; `output` grows.

    `ticket` is the caller's. `key` names the episode, under which the cache is kept for its next turn (None: not kept).
    `draws` is the sequence's own random stream, for sampling.
    """

    ticket: int
    prompt: list[int]
    room: int
    draws: random.Random
    key: Hashable = None
    output: list[int] = field(default_factory=list)


class PackedDecoder:
    """Continues prompts, up to `rows` at once, within `max_bytes` of cache (`token_bytes`: the cache of one token).

    New sequences are requested when at most the share `refill_below` of the started ones is still running, because few
    large prefills and sandbox batches are cheaper than many small ones.
    """

    def __init__(
        self,
        model: Any,
        store: PrefixStore,
        *,
        rows: int,
        token_bytes: int,
        max_bytes: int,
        temperature: float = 0.0,
        stop_ids: frozenset[int] = frozenset(),
        refill_below: float = 0.5,
    ) -> None:
        self.model = model
        self.store = store
        self.rows = rows
        self.token_bytes = token_bytes
        self.max_bytes = max_bytes
        self.temperature = temperature
        self.stop_ids = stop_ids
        self.refill_below = refill_below
        self.cache = PackedCache()
        self._running: list[Continuation] = []  # row i of the cache is the sequence of _running[i]

    @torch.inference_mode()
    def run(self, exchange: Callable[[list[Continuation], int], list[Continuation]]) -> None:
        """Decode until nothing is left. `exchange(finished, room)` returns at most `room` new sequences."""
        running = self._running
        running.clear()  # an interrupted run may have left some
        self.cache.lengths.clear()
        first = exchange([], 1)  # how many more there is room for depends on their length
        if not first:
            return
        waiting = deque(_longest_first(first + exchange([], self._fitting(first) - 1)))
        finished: list[Continuation] = []
        started = 0
        while waiting or running:
            if waiting and (joined := self._admit(waiting)):
                started = len(running)
                self._take(len(running) - joined, self._prefill(len(running) - joined), finished)
            elif running:
                self._take(0, self._step(), finished)
            if not waiting and (not running or (finished and len(running) <= self.refill_below * started)):
                room = max(0, self._fitting(running or finished) - len(running))
                waiting.extend(_longest_first(exchange(finished, room)))
                finished = []
                started = len(running)

    def _capacity(self, items: Iterable[Continuation]) -> int:
        """How many tokens a row of the cache must hold for these sequences and those that run."""
        need = max(len(item.prompt) + item.room for item in items)
        return max(self.cache.capacity if self._running else 0, -(-need // 64) * 64)

    def _fitting(self, items: Iterable[Continuation]) -> int:
        """How many sequences as long as these there is memory for, at least one."""
        return max(1, min(self.rows, self.max_bytes // (self._capacity(items) * self.token_bytes)))

    def _admit(self, waiting: deque[Continuation]) -> int:
        """Give cache rows to the sequences that wait, as far as they fit (one always does); returns how many."""
        cache, joined = self.cache, 0
        while waiting and len(self._running) < self.rows:
            considered = [waiting[0]] if self._running else waiting
            capacity, fitting = self._capacity(considered), self._fitting(considered)
            if len(self._running) >= fitting:
                break
            if (
                capacity > cache.capacity
                or len(self._running) >= cache.rows
                or (not self._running and fitting > cache.rows)
            ):
                cache.resize(fitting, capacity)
            item = waiting.popleft()
            shared, stored = self.store.longest_prefix(item.key, item.prompt)
            # the last token is always computed: its logits are needed
            cache.add_row(stored, min(shared, len(item.prompt) - 1))
            self._running.append(item)
            joined += 1
        return joined

    def _prefill(self, first: int) -> torch.Tensor:
        """Compute the uncached part of the prompts from row `first` on; return the last logits, (rows, vocabulary)."""
        cache = self.cache
        logits: list[torch.Tensor] = []
        row = first
        while row < len(self._running):
            ids: list[int] = []
            positions: list[int] = []
            cache.spans = []
            while row < len(self._running):
                prompt, start = self._running[row].prompt, cache.lengths[row]
                if ids and len(ids) + len(prompt) - start > PREFILL_TOKENS:
                    break
                cache.spans.append((row, len(ids), len(prompt) - start))
                ids.extend(prompt[start:])
                positions.extend(range(start, len(prompt)))
                row += 1
            last = torch.tensor([begin + count - 1 for _, begin, count in cache.spans], device=self._device)
            logits.append(self._pass(ids, torch.tensor(positions, device=self._device), logits_to_keep=last))
            for place, _, count in cache.spans:
                cache.lengths[place] += count
        return torch.cat(logits)

    def _step(self) -> torch.Tensor:
        """Feed every row its newest token; returns the logits after it, (rows, vocabulary)."""
        positions = self.cache.begin_step()
        logits = self._pass([item.output[-1] for item in self._running], positions)
        self.cache.lengths = [length + 1 for length in self.cache.lengths]
        return logits

    def _pass(self, ids: list[int], positions: torch.Tensor, **options: Any) -> torch.Tensor:
        tokens = torch.tensor([ids], device=self._device)
        out = self.model(input_ids=tokens, position_ids=positions[None], use_cache=False, packed=self.cache, **options)
        return out.logits[0]

    @property
    def _device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def _take(self, first: int, logits: torch.Tensor, finished: list[Continuation]) -> None:
        """Append a token to each row from `first` on; rows that end by it leave the batch and go to `finished`."""
        running = self._running
        tokens = choose_tokens(logits, self.temperature, [item.draws for item in running[first:]])
        # backwards: a row that leaves is replaced by the last one, which is done by then
        for row in range(len(running) - 1, first - 1, -1):
            item = running[row]
            item.output.append(tokens[row - first])
            if item.output[-1] in self.stop_ids or len(item.output) >= item.room:
                if item.key is not None:
                    held = (item.prompt + item.output)[: self.cache.lengths[row]]
                    self.store.put(item.key, held, self.cache.copy_of(row))
                self.cache.remove_row(row)
                running[row] = running[-1]
                running.pop()
                finished.append(item)


def _longest_first(items: list[Continuation]) -> list[Continuation]:
    """Neighbours of similar length: attention works on runs of rows (see length_blocks)."""
    return sorted(items, key=lambda item: -len(item.prompt))


def choose_tokens(logits: torch.Tensor, temperature: float, draws: Sequence[random.Random]) -> list[int]:
    """The next token of each row of (rows, vocabulary) logits: the most probable, or sampled with the row's stream."""
    if temperature == 0:
        return logits.argmax(-1).tolist()
    cumulative = torch.softmax(logits.float() / temperature, dim=-1).double().cumsum(-1)
    drawn = torch.tensor([[stream.random()] for stream in draws], dtype=torch.float64, device=logits.device)
    picked = torch.searchsorted(cumulative, drawn * cumulative[:, -1:], right=True)
    return picked.clamp(max=logits.shape[-1] - 1).squeeze(-1).tolist()
