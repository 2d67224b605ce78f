"""Compute a prompt once for all its responses. On a CPU, repeated prompts are most of the work of a training step.

A group has 8 or 16 responses to one prompt, and most tokens belong to the prompt. OpenRLHF's actor computes every
complete sample, padded to the longest of its micro-batch. Here the samples of a micro-batch with the same prompt become
one sequence:

    prompt | response 1 | response 2 | ...

Each response attends to the prompt and to itself, and its positions continue from the prompt. Each token therefore has
the same inputs as in a separate sequence. Log-probabilities, entropy and gradients are the same up to the order of fp32
sums (compared in `tests/train/trainer/test_shared_prompts.py`). Attention is computed part by part: one mask over the
complete sequence would take two to three times as many products, most of them masked.

| module (OpenRLHF 0.11.2) | original | here |
| --- | --- | --- |
| `openrlhf.models.actor` | every sample separate, padded | one sequence per prompt, if all layers have full attention |
| `openrlhf.trainer.ray.ppo_actor` | mini-batches of random samples | mini-batches of complete groups, shuffled |

veRL, the authors' trainer, also splits a batch into complete groups, and so do OpenRLHF's batches by token budget.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from train.trainer.adapt_after_import import Adaptations

ATTENTION = "shared_prompts"


def _prompt_lengths(attention_mask: Any, action_mask: Any) -> list[int]:
    """The number of real tokens before the first action of each row; all real tokens if it has no action."""
    columns = attention_mask.shape[1]
    lengths = []
    for real, actions in zip(attention_mask, action_mask, strict=True):
        found = actions.nonzero()
        # action j is the prediction of column `columns - len(actions) + j`
        end = columns - len(actions) + int(found[0]) if len(found) else columns
        lengths.append(int(real[:end].sum()))
    return lengths


def groups_by_prompt(tokens: Sequence[Sequence[int]], prompt_lengths: Sequence[int]) -> list[list[int]]:
    """Row numbers grouped by equal prompts; groups and rows keep their order of appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (ids, length) in enumerate(zip(tokens, prompt_lengths, strict=True)):
        groups.setdefault(tuple(ids[:length]), []).append(row)
    return list(groups.values())


def _attends_to_everything(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None) or ()
    return all(kind == "full_attention" for kind in kinds) and (
        bool(kinds) or not getattr(config, "sliding_window", None)
    )


@dataclass(frozen=True)
class _Parts:
    """The parts of one sequence: the length of the prompt, and the columns and the mask of each response.

    A mask has the shape (response, prompt + response) and is True where a token of the response attends.
    """

    prompt: int
    responses: list[tuple[slice, Any]]


def _parts(length: int, sizes: Sequence[int], device: Any) -> _Parts:
    import torch

    responses, start = [], length
    for size in filter(None, sizes):
        mask = torch.ones(size, length + size, dtype=torch.bool, device=device).tril(length)
        responses.append((slice(start, start + size), mask[None, None]))
        start += size
    return _Parts(length, responses)


def _attends_in_parts(model: Any) -> bool:
    """Whether the model uses our attention. The first call switches a model of torch's full attention to it.

    Ours is torch's for calls without `parts`.
    """
    config = model.config
    if config._attn_implementation == "sdpa" and _attends_to_everything(config):
        _register_attention()
        model.set_attn_implementation(ATTENTION)
    return bool(config._attn_implementation == ATTENTION)


def _register_attention() -> None:
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, parts: _Parts | None = None, **more: Any
    ) -> tuple[Any, None]:
        if parts is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **more)

        def attended(places: slice, keys: Any, values: Any, mask: Any) -> Any:
            return sdpa_attention_forward(module, query[:, :, places], keys, values, mask, **more)[0]

        prompt = slice(0, parts.prompt)
        keys, values = key[:, :, prompt], value[:, :, prompt]
        found = [attended(prompt, keys, values, None)]  # without a mask it is causal
        for places, mask in parts.responses:
            own = torch.cat([keys, key[:, :, places]], 2), torch.cat([values, value[:, :, places]], 2)
            found.append(attended(places, *own, mask))
        return torch.cat(found, 1), None

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _group_outputs(actor: Any, rows: list[Any], length: int, device: Any) -> tuple[Any, Any]:
    """The response tokens of all rows in order, and the logits that predict them: returns (logits, tokens).

    `rows`: token ids of samples that share their first `length` tokens. Shape of the logits: (tokens, vocabulary).
    """
    import torch

    answers = [row[length:] for row in rows]
    sizes = [len(answer) for answer in answers]
    ids = torch.cat([rows[0][:length], *answers])
    positions = torch.cat([torch.arange(length), *(torch.arange(length, length + size) for size in sizes)]).to(device)
    # The last token of the prompt predicts the first token of every response.
    starts = length + torch.cumsum(torch.tensor([0, *sizes[:-1]]), 0)
    before = [
        torch.cat([torch.tensor([length - 1]), torch.arange(int(start), int(start) + size - 1)])
        for start, size in zip(starts, sizes, strict=True)
        if size
    ]
    output = actor.model(
        ids[None],
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),  # else the model makes a large one
        position_ids=positions[None],
        parts=_parts(length, sizes, device),
        logits_to_keep=torch.cat(before).to(device),
    )
    return output["logits"][0].to(torch.float32) / actor.temperature, torch.cat(answers)


def _share_prompts_in_forward(module: Any) -> None:
    """Replace `Actor.forward` for requests of action log-probabilities. Other calls are unchanged."""
    import torch

    whole = module.Actor.forward

    @functools.wraps(whole)
    def forward(
        self: Any,
        sequences: Any,
        action_mask: Any = None,
        attention_mask: Any = None,
        return_output: bool = False,
        return_entropy: bool = False,
        **more: Any,
    ) -> Any:
        model = getattr(self.model, "module", self.model)
        if action_mask is None or self.packing_samples or not _attends_in_parts(model):
            return whole(
                self, sequences, action_mask, attention_mask=attention_mask, return_output=return_output,
                return_entropy=return_entropy, **more,
            )  # fmt: skip
        columns = [real.nonzero()[:, 0] for real in attention_mask]
        tokens = [row[places] for row, places in zip(sequences, columns, strict=True)]
        lengths = _prompt_lengths(attention_mask, action_mask)
        width = sequences.shape[1] - 1  # log-probability k belongs to the token in column k + 1
        places, log_probs, entropies = [], [], []
        for group in groups_by_prompt([row.tolist() for row in tokens], lengths):
            length = lengths[group[0]]
            if all(len(tokens[row]) == length for row in group):
                continue  # no row of the group has an action
            logits, labels = _group_outputs(self, [tokens[row] for row in group], length, sequences.device)
            places += [columns[row][length:] - 1 + row * width for row in group]
            log_probs.append(module.log_probs_from_logits(logits, labels))
            if return_entropy:
                entropies.append(module.compute_entropy(logits))

        def spread(values: list[Any]) -> Any:
            """Scatter the values into a tensor with one row per sample; zero where nothing was computed."""
            flat = torch.zeros(len(sequences) * width, device=sequences.device)
            if values:
                flat = flat.index_copy(0, torch.cat(places), torch.cat(values))
            return flat.view(len(sequences), width)

        action_log_probs = spread(log_probs)[:, -action_mask.shape[1] :] * action_mask.float()
        if not return_output:
            return action_log_probs
        return action_log_probs, SimpleNamespace(entropy=spread(entropies) if return_entropy else None)

    module.Actor.forward = forward


def group_order(groups: Sequence[Sequence[int]]) -> Iterator[int]:
    """The row numbers of complete groups; torch's generator shuffles the groups."""
    import torch

    for number in torch.randperm(len(groups)).tolist():
        yield from groups[number]


def _train_on_whole_groups(module: Any) -> None:
    """Replace the shuffled `DataLoader` of the policy's training, which would draw single samples at random."""
    loader = module.DataLoader

    @functools.wraps(loader)
    def make(buffer: Any, *arguments: Any, shuffle: bool = False, **named: Any) -> Any:
        if not shuffle:
            return loader(buffer, *arguments, **named)
        rows = [item.sequences.flatten().tolist() for item in buffer.items]
        lengths = [
            _prompt_lengths(item.attention_mask.reshape(1, -1), item.action_mask.reshape(1, -1))[0]
            for item in buffer.items
        ]
        order = list(group_order(groups_by_prompt(rows, lengths)))
        return loader(buffer, *arguments, sampler=order, **named)

    module.DataLoader = make


SHARED_PROMPTS: Adaptations = {
    "openrlhf.models.actor": _share_prompts_in_forward,
    "openrlhf.trainer.ray.ppo_actor": _train_on_whole_groups,
}
