"""Conversations as weighted token sequences, and the batches for training.

Tokens that the assistant writes have weight 1 in the loss, all others `prompt_weight`. The template's text in an
assistant turn (its opening, and the empty thinking block if thinking is off) does not count as written by it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from env_construction.environment.schema import Environment
from train.policies.chat_templates import EMPTY_THINKING
from train.policies.prompts import render_prompt

OPENING = "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Sequence:
    """One conversation as tokens, with a weight for the loss on each (the assistant's own tokens weigh 1, others less).

    `entities` are the places (start, length, which entity) where a name from the gold plan stands.
    """

    tokens: list[int]
    weights: list[float]
    entities: tuple[tuple[int, int, int], ...] = ()

    def renamed(self, pieces: list[int], rng: random.Random) -> Sequence:
        """The same conversation about things that do not exist: each entity becomes a random string of word pieces.

        No name can then be guessed from its beginning, so all that helps is to look where it stands and copy it.
        """
        names: dict[int, list[int]] = {}
        tokens: list[int] = []
        weights: list[float] = []
        position = 0
        for start, length, entity in self.entities:
            name = names.setdefault(entity, rng.choices(pieces, k=rng.randint(2, 6)))
            tokens += self.tokens[position:start] + name
            weights += self.weights[position:start] + [self.weights[start]] * len(name)
            position = start + length
        return Sequence(tokens + self.tokens[position:], weights + self.weights[position:])


def conversation_text(
    messages: Many[Mapping[str, Any]],
    tools: Many[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerFast,
    thinking: bool,
) -> str:
    """The whole conversation, without the opening of a next turn."""
    return render_prompt(tokenizer, messages, tools, thinking).rpartition(OPENING)[0]


def to_sequence(
    messages: Many[Mapping[str, Any]],
    tools: Many[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerFast,
    prompt_weight: float,
    thinking: bool = False,
    names: Many[str] = (),
) -> Sequence:
    """Tokens and loss weights of a finished conversation; the assistant's turns, end-of-turn token included, weigh 1.

    `names`: the entities of the conversation (`entity_names`).
    """
    head, *turns = conversation_text(messages, tools, tokenizer, thinking).split(OPENING)
    parts = [(head, prompt_weight)]
    for turn in turns:
        spoken, end, rest = turn.partition("<|im_end|>")
        block = EMPTY_THINKING if spoken.startswith(EMPTY_THINKING) else ""
        own = spoken.removeprefix(block) + end
        parts += [(OPENING + block, prompt_weight), (own, 1.0), (rest, prompt_weight)]
    tokens: list[int] = []
    weights: list[float] = []
    for part, weight in parts:
        ids = tokenizer(part, add_special_tokens=False).input_ids if part else []
        tokens.extend(ids)
        weights.extend([weight] * len(ids))
    return Sequence(tokens, weights, find_entities(tokens, names, tokenizer))


def entity_names(state: Environment) -> list[str]:
    """The names that the gold plan passes on and finds: string arguments and sub-answers that begin with a letter."""
    values = [value for call in state.gold_plan for value in call.arguments.values() if isinstance(value, str)]
    values += [item.answer for item in state.sub_questions]
    return sorted({value for value in values if value[:1].isalpha()}, key=lambda value: (-len(value), value))


def find_entities(
    tokens: list[int], names: Many[str], tokenizer: PreTrainedTokenizerFast
) -> tuple[tuple[int, int, int], ...]:
    """Where the names stand, longest first and without overlap. A capitalised word has the same tokens everywhere."""
    taken = [False] * len(tokens)
    found = []
    for entity, name in enumerate(names):
        ids = tokenizer(name, add_special_tokens=False).input_ids
        for start in range(len(tokens) - len(ids) + 1):
            if (
                tokens[start] == ids[0]
                and tokens[start : start + len(ids)] == ids
                and not any(taken[start : start + len(ids)])
            ):
                taken[start : start + len(ids)] = [True] * len(ids)
                found.append((start, len(ids), entity))
    return tuple(sorted(found))


def batches(sequences: list[Sequence], tokens_a_batch: int, rng: random.Random) -> Iterator[list[Sequence]]:
    """Endless batches of similar length, about `tokens_a_batch` tokens each with padding; reshuffled every epoch."""
    while True:
        order = list(range(len(sequences)))
        rng.shuffle(order)
        for chunk_start in range(0, len(order), 512):
            chunk = sorted(order[chunk_start : chunk_start + 512], key=lambda i: len(sequences[i].tokens))
            groups: list[list[Sequence]] = [[]]
            for index in chunk:
                if groups[-1] and len(sequences[index].tokens) * (len(groups[-1]) + 1) > tokens_a_batch:
                    groups.append([])
                groups[-1].append(sequences[index])
            rng.shuffle(groups)
            yield from groups


def word_pieces(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that are letters only, but for a space at the end: what names are made of."""
    return sorted(
        index
        for piece, index in tokenizer.get_vocab().items()
        if (letters := piece.removesuffix("\u0120")).isascii() and letters.isalpha()
    )


def copy_batch(pieces: list[int], rng: random.Random, rows: int, length: int) -> list[Sequence]:
    """Random strings of word pieces, each followed by itself; only the second half counts in the loss."""
    drawn = []
    for _ in range(rows):
        half = rng.choices(pieces, k=length)
        drawn.append(Sequence(half + half, [0.0] * length + [1.0] * length))
    return drawn
