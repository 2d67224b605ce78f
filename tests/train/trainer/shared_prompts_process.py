"""Compares shared prompts with OpenRLHF's own forward on the tiny policy; prints one JSON object.

A fork of `adapted_server.py`, since the adaptation changes OpenRLHF for good.
"""

import json
import os
import random
from types import SimpleNamespace

from train.trainer.openrlhf_launcher import install, worker_environment

os.environ.update(worker_environment(["cpu", "no-flash-attn"], 1))
import torch

install()
from openrlhf.models.actor import Actor  # noqa: E402
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer  # noqa: E402
from openrlhf.trainer.ray import ppo_actor  # noqa: E402

from train.trainer.shared_prompts import _attends_to_everything  # noqa: E402

shared = Actor.forward
whole = shared.__wrapped__
actor = Actor("assets/tiny_policy", attn_implementation="sdpa", param_dtype="fp32", temperature=0.9)
actor.eval()
draw = random.Random(0)


def batch(prompts, samples, turns=1):
    """Right-padded samples as OpenRLHF makes them: token ids, attention mask, and an action mask of one column less."""
    rows = []
    for _ in range(prompts):
        prompt = [draw.randrange(1500) for _ in range(draw.randint(20, 60))]
        for _ in range(samples):
            ids, actions = list(prompt), [0] * (len(prompt) - 1)
            for turn in range(turns):
                size = draw.randint(1, 15)
                ids += [draw.randrange(1500) for _ in range(size)]
                actions += [1] * size
                if turn < turns - 1:  # what a tool answers is no action
                    ids += [7] * 4
                    actions += [0] * 4
            rows.append((ids, actions))
    width = max(len(ids) for ids, _ in rows)
    sequences = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    attention = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
    mask = torch.tensor([actions + [0] * (width - 1 - len(actions)) for _, actions in rows]).bool()
    return sequences, mask, attention


def outputs(forward, sequences, mask, attention):
    """Masked log-probabilities and entropies, and every parameter's gradient of their sum, relative to the largest."""
    actor.zero_grad()
    log_probs, output = forward(
        actor, sequences, mask, attention_mask=attention, return_output=True, return_entropy=True
    )
    entropy = output.entropy[:, -mask.shape[1] :] * mask
    weights = torch.linspace(-1, 1, len(log_probs))[:, None]
    loss = (weights * log_probs).sum() - 0.1 * entropy.sum()
    loss.backward()
    return log_probs.detach(), entropy.detach(), [p.grad.clone() for p in actor.parameters()]


def difference(left, right):
    """The largest difference, as a share of the largest value."""
    return float(((left - right).abs().max() / right.abs().max()).detach())


found = {}
counted = []
model_forward = actor.model.forward


def counting(ids, **named):
    counted.append(ids.numel())
    return model_forward(ids, **named)


actor.model.forward = counting
made = batch(prompts=3, samples=8)
expected = outputs(whole, *made)
found["tokens whole"] = sum(counted)
counted.clear()
seen = outputs(shared, *made)
found["tokens shared"] = sum(counted)
first = made[1].float().argmax(1) + 1  # tokens of each row's prompt
answers = int(made[2].sum() - first.sum())
found["tokens that are not the same prompt again"] = int(first[::8].sum()) + answers
found["compared"] = int(made[1].sum())
found["log-probabilities"] = difference(seen[0], expected[0])
found["entropy"] = difference(seen[1], expected[1])
largest = max(float(g.abs().max()) for g in expected[2])
found["gradient of the loss"] = largest
found["gradients"] = max(float((a - b).abs().max()) for a, b in zip(seen[2], expected[2], strict=True)) / largest

turns = batch(prompts=2, samples=4, turns=3)
found["several turns"] = difference(shared(actor, *turns[:2], turns[2]), whole(actor, *turns[:2], turns[2]))
turns[1][3] = False
silent = shared(actor, *turns[:2], turns[2])
found["rows without action are zero"] = bool((silent[3] == 0).all() and (silent[2] != 0).any())
window = SimpleNamespace(layer_types=["full_attention", "sliding_attention"], sliding_window=64)
found["window"] = [_attends_to_everything(actor.model.config), _attends_to_everything(window)]

sequences, mask, attention = batch(prompts=4, samples=4)
mixed = torch.randperm(16)
items = [
    SimpleNamespace(sequences=sequences[i], action_mask=mask[i], attention_mask=attention[i], number=n)
    for n, i in enumerate(mixed)
]
buffer = NaiveReplayBuffer(8)
buffer.items = items
prompt_of = {n: int(i) // 4 for n, i in enumerate(mixed)}


def order(seed, shuffle=True):
    torch.manual_seed(seed)
    loader = ppo_actor.DataLoader(
        buffer, batch_size=8, shuffle=shuffle, drop_last=True, pin_memory=False, collate_fn=lambda rows: rows
    )
    return [[item.number for item in rows] for rows in loader]


def numbers(batches):
    return [number for rows in batches for number in rows]


batches = order(1)
found["groups per mini-batch"] = [len({prompt_of[n] for n in rows}) for rows in batches]
found["order"] = numbers(batches)
found["order with the same seed"] = numbers(order(1))
found["order with another seed"] = numbers(order(2))
found["in order where nothing is shuffled"] = numbers(order(1, shuffle=False))
print("FOUND " + json.dumps(found))
