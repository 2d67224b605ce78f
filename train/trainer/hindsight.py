"""TurnSight's hindsight views for credit per turn: the reference scores a turn again after it has seen the outcome.

The reference scores a turn's tokens a second time, in a context that first shows the consequences of the turn and then
repeats it:

    prompt ... turn k | tools' feedback ... turn k + d - 1 | tools' feedback | turn k again      (depth d = 1, 2, 3)

The view reuses the tokens of the sample, so nothing is tokenized twice. Between the turn and its repetition is the
conversation as it was played, up to the point where the policy would write its next turn. The gap of a token is the
reference's log-probability in the repetition minus the policy's log-probability at the original place.
`hindsight_advantages` in `reward/credit.py` uses the gaps.

A view ends at the last tool output. The last turn has no tool output after it and therefore no hindsight. A view that
would be longer than `--data.max_len` is skipped, and its turn has no hindsight either.

Source: TurnSight (arXiv 2608.04007v1), "Execution-Conditioned Hindsight Construction". The paper does not state the
place and the form of the hindsight block in the context; they are choices of this repository. The paper's block has
calls and tool responses; here it also has the text around a turn's calls. The paper's reference is the initial policy;
here it is the trainer's (the epoch's start, or `--reference base`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Key of a sample's `info`: the turn number of each action, from 1, shape (samples, actions); 0: not part of a turn.
TURN = "credit_turn"
# Key of a sample's `info`: the gaps, shape (samples, depths, actions); NaN where there is no hindsight.
GAPS = "credit_gaps"


@dataclass(frozen=True)
class View:
    """One view to score. The last `length` of its `tokens` are the repeated turn.

    `depths`: the depths that share this view. `experience`, `row`, `first_action`: where its gaps are stored.
    """

    tokens: Any
    length: int
    depths: tuple[int, ...]
    experience: int
    row: int
    first_action: int


def turn_ranges(turns: Sequence[int]) -> list[tuple[int, int]]:
    """The tokens of each turn, `(start, end)`; `turns` has one entry per action, and action t is token t + 1."""
    ranges: dict[int, tuple[int, int]] = {}
    for action, number in enumerate(turns):
        if number:
            start = ranges[number][0] if number in ranges else action + 1
            ranges[number] = (start, action + 2)
    return [ranges[number] for number in sorted(ranges)]


def views_of(
    tokens: Any, turns: Sequence[int], depths: Sequence[int], longest: int
) -> Iterator[tuple[Any, int, tuple[int, ...], int]]:
    """`(tokens, length of the turn, depths, its first action)` for each different view of each turn of one sample."""
    import torch

    ranges = turn_ranges(turns)
    for place, (start, end) in enumerate(ranges[:-1]):
        by_stop: dict[int, list[int]] = {}
        for depth in depths:
            by_stop.setdefault(ranges[min(place + depth, len(ranges) - 1)][0], []).append(depth)
        if max(by_stop) + end - start > longest:
            continue
        for stop, same in by_stop.items():
            yield torch.cat([tokens[:stop], tokens[start:end]]), end - start, tuple(same), start - 1


def add_hindsight(maker: Any, experiences: Sequence[Any]) -> None:
    """Add GAPS to each experience's `info`. `maker`: OpenRLHF's RemoteExperienceMaker, which has the reference.

    Raises ValueError if no reference was loaded.
    """
    import torch

    from reward.credit import DEPTHS

    if maker.initial_model_group is None:
        raise ValueError("hindsight needs a reference: set --algo.kl.init_coef above 0")
    args = maker.strategy.args
    views: list[View] = []
    for number, experience in enumerate(experiences):
        shape = experience.action_mask.shape
        experience.info[GAPS] = torch.full((shape[0], len(DEPTHS), shape[1]), float("nan"))
        for row in range(shape[0]):
            tokens = experience.sequences[row][experience.attention_mask[row].bool()]
            turns = (experience.info[TURN][row] * experience.action_mask[row]).int().tolist()
            views += [
                View(*found[:3], number, row, found[3]) for found in views_of(tokens, turns, DEPTHS, args.data.max_len)
            ]
    for view, log_probs in zip(views, _reference_log_probs(maker, views), strict=True):
        experience = experiences[view.experience]
        there = slice(view.first_action, view.first_action + view.length)
        gap = log_probs - experience.action_log_probs[view.row, there].float().cpu()
        for depth in view.depths:
            experience.info[GAPS][view.row, DEPTHS.index(depth), there] = gap


def _reference_log_probs(maker: Any, views: Sequence[View]) -> Iterator[Any]:
    """The reference's log-probabilities of each view's turn, in order; shape (length,) each."""
    import torch

    if not views:
        return
    args = maker.strategy.args
    size = max(1, args.rollout.micro_batch_size)
    pad = maker.tokenizer.pad_token_id or 0
    batches: list[tuple[Any, Any, Any]] = []
    for start in range(0, len(views), size):
        chosen = views[start : start + size]
        width = max(len(view.tokens) for view in chosen)
        sequences = torch.full((len(chosen), width), pad, dtype=torch.long)
        attention, actions = torch.zeros_like(sequences), torch.zeros(len(chosen), width - 1, dtype=torch.long)
        for row, view in enumerate(chosen):
            end = len(view.tokens)
            sequences[row, :end] = view.tokens
            attention[row, :end] = 1
            actions[row, end - 1 - view.length : end - 1] = 1
        batches.append((sequences, actions, attention))
    copies = args.ds.ring_attn_size * args.ds.tensor_parallel_size
    ranks = max(1, args.actor.num_nodes * args.actor.num_gpus_per_node // copies)
    # Every rank must get the same number of batches. The results of the added ones are dropped below.
    filled = batches + [batches[-1]] * (-len(batches) % ranks)
    refs = maker._dispatch_forward(
        maker.initial_model_group,
        args.train.colocate_all or args.train.colocate_actor_ref,
        sequences=[batch[0] for batch in filled],
        action_mask=[batch[1] for batch in filled],
        attention_mask=[batch[2] for batch in filled],
    )
    results = maker._flatten_results(refs, copies)
    for (_, actions, _), found in zip(batches, results, strict=False):
        for row, mask in enumerate(actions):
            yield found[row].float().cpu()[mask.bool()]
