"""The loop of supervised learning: first copying, then conversations, with a look at dev from time to time.

What is asked for comes as the options of `train.warm_start` (--minutes, --copy-until and so on), which explains them.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from env_construction.environment.schema import Environment
from train.teaching.dev_figures import dev_figures
from train.teaching.learner import Learner
from train.teaching.made_skills import Item
from train.teaching.sequences import Sequence, batches, copy_batch, word_pieces


@dataclass
class Progress:
    """State of the training. `smooth`: running mean losses (nats per token) on copied strings and on conversations."""

    copying: bool
    steps: int = 0
    tokens: int = 0
    smooth: dict[str, float] = field(default_factory=lambda: {"copy": 9.0, "text": 9.0})
    seconds: float = 0.0
    seconds_evaluating: float = 0.0
    stopped: str = "time is over"
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Watched:
    """The data for dev evaluations during training, and the checkpoint's folder."""

    folder: Path
    dev: list[Environment]
    items: list[Item]
    modes: tuple[bool, ...]
    device: str


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a checkpoint folder in the precision that the trainer saves: bf16 from a GPU, fp32 from a CPU.

    Otherwise the rounding of the start would count as a change of every weight.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = copy.deepcopy(model).to(torch.bfloat16) if model.device.type == "cuda" else model
    saved.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def practice(
    model: Any, tokenizer: Any, sequences: list[Sequence], arguments: argparse.Namespace, watched: Watched
) -> Progress:
    """Train for --minutes of process time, without evaluations, or until --wall-minutes.

    Process time makes the result independent of the machine's load. The learning rate follows the time limit that is
    closer to its end.
    """
    rng = random.Random(f"{arguments.seed}:warm_start")
    learner = Learner(model, tokenizer.pad_token_id, arguments.learning_rate, arguments.optimizer, arguments.threads)
    stream, pieces = batches(sequences, arguments.tokens_a_batch, rng), word_pieces(tokenizer)
    progress = Progress(copying=not arguments.continue_from)
    limit, next_evaluation = 60.0 * arguments.minutes, arguments.evaluate_every
    clock = time.process_time if watched.device == "cpu" else time.monotonic
    began, began_wall = clock(), time.monotonic()
    wall_limit = 60.0 * arguments.wall_minutes or float("inf")
    bar = tqdm(total=round(limit), unit="s", desc="warm start", mininterval=5)
    while True:
        elapsed = clock() - began - progress.seconds_evaluating
        done = max(elapsed / limit, (time.monotonic() - began_wall) / wall_limit)
        if done >= 1.0:
            break
        bar.set_postfix({name: f"{value:.2f}" for name, value in progress.smooth.items()}, refresh=False)
        bar.update(round(elapsed) - bar.n)
        copied = progress.copying or rng.random() < arguments.copy_share
        if copied:
            rows = arguments.tokens_a_batch // (2 * arguments.copy_length)
            batch = copy_batch(pieces, rng, rows, arguments.copy_length)
        else:
            batch = [
                item.renamed(pieces, rng) if rng.random() < arguments.rename_share else item for item in next(stream)
            ]
        decay = 1.0 if progress.copying else max(0.05, 1.0 - done)
        loss = learner.step(batch, min(1.0, (progress.steps + 1) / 20) * decay)
        kind = "copy" if copied else "text"
        progress.smooth[kind] = 0.9 * progress.smooth[kind] + 0.1 * loss
        progress.copying = progress.copying and progress.smooth["copy"] > arguments.copy_until
        progress.steps += 1
        progress.tokens += sum(len(item.tokens) for item in batch)
        if elapsed >= next_evaluation and not progress.copying:
            next_evaluation = elapsed + arguments.evaluate_every
            paused = clock()
            look(model, tokenizer, watched, progress, elapsed, arguments.seed)
            progress.seconds_evaluating += clock() - paused
            if not arguments.continue_from and (progress.curve[-1]["argument_rate"] >= arguments.stop_at_argument_rate):
                progress.stopped = f"dev argument rate reached {arguments.stop_at_argument_rate}"
                break
    bar.close()
    progress.seconds = clock() - began - progress.seconds_evaluating
    return progress


def look(model: Any, tokenizer: Any, watched: Watched, progress: Progress, elapsed: float, seed: int) -> None:
    """Save the checkpoint, measure it on dev, and add a point to the curve."""
    save(model, tokenizer, watched.folder)
    figures = dev_figures(watched.folder, watched.dev, watched.items, watched.modes, seed, watched.device)
    model.train()
    point = {"seconds": round(elapsed, 1), "steps": progress.steps, "tokens": progress.tokens, **progress.smooth}
    progress.curve.append(point | figures)
    shown = "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
    tqdm.write(
        f"{elapsed:5.0f} s  step {progress.steps}  copy {progress.smooth['copy']:.2f}  "
        f"text {progress.smooth['text']:.3f}  dev: {shown}"
    )
