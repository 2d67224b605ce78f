"""Make a tiny policy to start from, where no model can be downloaded: supervised learning from scratch on one CPU.

Inputs: train environments (demonstrated), dev environments (they decide when to stop). Output: a Hugging Face checkpoint
folder with tokenizer and chat template, `warm_start.json` (demonstrators' mix, sizes, seeds, the dev curve), and `README.md`.

What it does:
1. A demonstrator of mixed quality (`train/teaching/demonstrations.py`) plays every train environment through the sandbox.
2. A small BPE tokenizer is learned from those conversations (`train/teaching/tiny_policy.py`).
3. The model first learns to copy (a random token string, then the same string again): induction is what every later skill
   stands on, and it takes a minute here, where it takes many without. A share of such strings stays in the mix.
4. Then next-token prediction on the conversations; the assistant's tokens weigh more than the rest. Matrices are trained
   with Muon, embeddings and norms with AdamW (`--optimizer`); the learning rate falls linearly over `--minutes`.
5. Every `--evaluate-every` seconds the policy plays the dev environments greedily. Training stops when it copies and chooses
   arguments reliably (`--stop-at-argument-rate`) or when the time is over: *before* it is good at the task.

The paper has no such step: its models come pretrained. `--continue-from DIR` runs the same supervised learning onward from a
checkpoint for `--minutes`: the control that asks whether more of the same teaching would have done what the reward did.

Example:
    python -m train.warm_start --environments outputs/cpu/environments/train.jsonl \
        --dev outputs/cpu/environments/dev.jsonl --out outputs/cpu/start --seed 0 --minutes 8
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, json_text, keep_configuration, run_main
from env_construction.environment.schema import Environment, read_environments
from train.policies.prompts import load_tokenizer, render_prompt
from train.policies.rollout import play
from train.policies.specs import load_policy
from train.teaching.demonstrations import MIX, ORACLE, Demonstrator
from train.teaching.tiny_policy import new_model, train_tokenizer
from train.teaching.warm_start_card import card
from train.trainer.devices import DEVICES, choose_device
from train.trainer.openrlhf_on_cpu import multiply_in

IGNORED = -100


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


def demonstrate(environments: list[Environment], demonstrator: Demonstrator, seed: int) -> list[Environment]:
    """The final states of all environments after the demonstrator has played them."""
    episodes = play(demonstrator, environments, max_turns=12, seed=seed)
    return [episode.environment for episode in episodes if episode.outcome != "fault"]


def to_sequence(state: Environment, tokenizer: PreTrainedTokenizerFast, prompt_weight: float) -> Sequence:
    """Tokens and loss weights of a finished conversation; the assistant's turns, end-of-turn token included, weigh 1."""
    text = conversation_text(state, tokenizer)
    head, *turns = text.split("<|im_start|>assistant\n")
    tokens = tokenizer(head).input_ids
    weights = [prompt_weight] * len(tokens)
    for turn in turns:
        spoken, end, rest = turn.partition("<|im_end|>")
        for part, weight in (
            ("<|im_start|>assistant\n", prompt_weight),
            (spoken + end, 1.0),
            (rest, prompt_weight),
        ):
            ids = tokenizer(part).input_ids if part else []
            tokens.extend(ids)
            weights.extend([weight] * len(ids))
    return Sequence(tokens, weights, find_entities(tokens, entity_names(state), tokenizer))


def entity_names(state: Environment) -> list[str]:
    """The names that the gold plan passes on and finds: string arguments and sub-answers that begin with a letter."""
    values = [value for call in state.gold_plan for value in call.arguments.values() if isinstance(value, str)]
    values += [item.answer for item in state.sub_questions]
    return sorted({value for value in values if value[:1].isalpha()}, key=lambda value: (-len(value), value))


def find_entities(
    tokens: list[int], names: list[str], tokenizer: PreTrainedTokenizerFast
) -> tuple[tuple[int, int, int], ...]:
    """Where the names stand, longest first and without overlap. A capitalised word has the same tokens everywhere."""
    taken = [False] * len(tokens)
    found = []
    for entity, name in enumerate(names):
        ids = tokenizer(name).input_ids
        for start in range(len(tokens) - len(ids) + 1):
            if (
                tokens[start] == ids[0]
                and tokens[start : start + len(ids)] == ids
                and not any(taken[start : start + len(ids)])
            ):
                taken[start : start + len(ids)] = [True] * len(ids)
                found.append((start, len(ids), entity))
    return tuple(sorted(found))


def conversation_text(state: Environment, tokenizer: PreTrainedTokenizerFast) -> str:
    """The whole conversation, without the opening of a next turn."""
    opening = "<|im_start|>assistant\n"
    return render_prompt(tokenizer, state.messages, state.openai_tools(), thinking=False).removesuffix(opening)


def batches(sequences: list[Sequence], tokens_a_batch: int, rng: random.Random) -> Iterator[list[Sequence]]:
    """Endless batches of similar length, about `tokens_a_batch` tokens each with padding; every epoch is shuffled anew."""
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


def orthogonalize(grad: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """The Newton-Schulz iteration of Muon (https://github.com/KellerJordan/Muon) in the precision of `grad`, a matrix.

    torch's own works in bfloat16, which a CPU without it emulates: an update then takes longer than its gradients.
    """
    a, b, c = coefficients
    wide = grad.T if grad.size(0) > grad.size(1) else grad
    wide = wide / wide.norm().clamp(min=eps)  # singular values of at most 1
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if grad.size(0) > grad.size(1) else wide


class Learner:
    """Next-token learning with weights. `optimizer`: "muon" for the matrices inside the layers and AdamW for embeddings and
    norms, or "adamw" for all.
    """

    def __init__(self, model: torch.nn.Module, pad: int, learning_rate: float, optimizer: str = "muon") -> None:
        self.model = model
        self.pad = pad
        self.learning_rate = learning_rate
        inner = {
            name: p
            for name, p in model.named_parameters()
            if optimizer == "muon" and p.ndim == 2 and "embed" not in name and "lm_head" not in name
        }
        outer = [p for name, p in model.named_parameters() if name not in inner]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(outer, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
        ]
        if inner:
            torch.optim._muon._zeropower_via_newtonschulz = orthogonalize  # type: ignore[assignment]
            self.optimizers.append(
                torch.optim.Muon(inner.values(), lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, batch: list[Sequence], scale: float) -> float:
        """One update at `scale` times the learning rate; returns the weighted mean loss in nats a token."""
        longest = max(len(item.tokens) for item in batch)
        tokens = torch.full((len(batch), longest), self.pad)
        weights = torch.zeros((len(batch), longest))
        for row, item in enumerate(batch):
            tokens[row, : len(item.tokens)] = torch.tensor(item.tokens)
            weights[row, : len(item.weights)] = torch.tensor(item.weights)
        # Right padding and causal attention: no mask is needed, padded positions carry weight 0.
        device = next(self.model.parameters()).device
        tokens, weights = tokens.to(device), weights.to(device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        target_weights = weights[:, 1:].flatten()
        loss = (losses * target_weights).sum() / target_weights.sum().clamp(min=1.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * scale
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A checkpoint folder as every other policy has it, in fp32: start and trained models are compared in one precision."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def evaluate(folder: Path, dev: list[Environment], seed: int, device: str = "auto") -> dict[str, float]:
    """Greedy episodes on the dev environments: mean Solve-P/R/F1, calls that parse, and calls whose arguments are right."""
    policy = load_policy(f"hf:{folder}", temperature=0.0, max_new_tokens=160, device=device)
    episodes = play(policy, dev, max_turns=8, seed=seed)
    turns = [turn for episode in episodes for turn in episode.turns]
    gold = {
        item.id: {(call.name, json.dumps(call.arguments, sort_keys=True)) for call in item.gold_plan} for item in dev
    }
    gold_names = {item.id: {call.name for call in item.gold_plan} for item in dev}
    right_tool = right_call = calls = 0
    for episode in episodes:
        for turn in episode.turns:
            for call in turn.parsed.calls:
                calls += 1
                right_tool += call.name in gold_names[episode.id]
                right_call += (call.name, json.dumps(call.arguments, sort_keys=True, default=str)) in gold[episode.id]
    return {
        "solve_p": _mean([episode.score.solve_p for episode in episodes]),
        "solve_r": _mean([episode.score.solve_r for episode in episodes]),
        "solve_f1": _mean([episode.score.solve_f1 for episode in episodes]),
        "malformed_turns": _mean([float(bool(turn.parsed.malformed)) for turn in turns]),
        "tool_rate": right_tool / max(calls, 1),
        "argument_rate": right_call / max(right_tool, 1),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def learn(arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Demonstrate, train, watch dev, save. Returns what `warm_start.json` says."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    multiply_in(torch, arguments.matmul)
    device = choose_device(arguments.device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    environments = list(read_environments(arguments.environments))
    dev = list(read_environments(arguments.dev))[: arguments.dev_cases]
    if not environments or not dev:
        raise BadInput(f"{arguments.environments} and {arguments.dev}: at least one environment each is needed")
    print(f"demonstrating {len(environments)} train environments", flush=True)
    started = time.monotonic()
    demonstrator = Demonstrator(arguments.seed, ORACLE if arguments.oracle else MIX)
    states = demonstrate(environments, demonstrator, arguments.seed)
    demonstrated_s = time.monotonic() - started

    if arguments.continue_from:
        tokenizer: Any = load_tokenizer(arguments.continue_from)
        model: Any = AutoModelForCausalLM.from_pretrained(arguments.continue_from, dtype=torch.float32)
    else:
        tokenizer = train_tokenizer(_plain_texts(states), arguments.vocabulary)
        model = new_model(tokenizer, arguments.seed, layers=arguments.layers, width=arguments.width)
    model.to(device).train()
    sequences = [to_sequence(state, tokenizer, arguments.prompt_weight) for state in states]
    total_tokens = sum(len(item.tokens) for item in sequences)
    print(
        f"{len(sequences)} conversations, {total_tokens} tokens, {total_tokens / len(sequences):.0f} each; "
        f"{sum(p.numel() for p in model.parameters())} parameters",
        flush=True,
    )

    rng = random.Random(f"{arguments.seed}:warm_start")
    learner = Learner(model, tokenizer.pad_token_id, arguments.learning_rate, arguments.optimizer)
    stream = batches(sequences, arguments.tokens_a_batch, rng)
    pieces = word_pieces(tokenizer)
    curve: list[dict[str, float]] = []
    seconds = 60.0 * arguments.minutes
    began = time.process_time()  # seconds of work, not of waiting: a busy machine must not make a worse start
    spent_evaluating = 0.0
    next_evaluation = arguments.evaluate_every
    copying = not arguments.continue_from
    steps = tokens_seen = 0
    smooth = {"copy": 9.0, "text": 9.0}
    stopped = "time is over"
    bar = tqdm(total=round(seconds), unit="s", desc="warm start", mininterval=5)
    while (elapsed := time.process_time() - began - spent_evaluating) < seconds:
        bar.update(round(elapsed) - bar.n)
        use_copy = copying or rng.random() < arguments.copy_share
        rows = arguments.tokens_a_batch // (2 * arguments.copy_length)
        if use_copy:
            batch = copy_batch(pieces, rng, rows, arguments.copy_length)
        else:
            batch = [
                item.renamed(pieces, rng) if rng.random() < arguments.rename_share else item for item in next(stream)
            ]
        scale = min(1.0, (steps + 1) / 20) * max(0.05, 1.0 - elapsed / seconds if not copying else 1.0)
        loss = learner.step(batch, scale)
        kind = "copy" if use_copy else "text"
        smooth[kind] = 0.9 * smooth[kind] + 0.1 * loss
        copying = copying and smooth["copy"] > arguments.copy_until
        steps += 1
        tokens_seen += sum(len(item.tokens) for item in batch)
        if elapsed >= next_evaluation and not copying:
            next_evaluation = elapsed + arguments.evaluate_every
            pause = time.process_time()
            save(model, tokenizer, out)
            figures = evaluate(out, dev, arguments.seed, device)
            model.train()
            spent_evaluating += time.process_time() - pause
            curve.append({"seconds": round(elapsed, 1), "steps": steps, "tokens": tokens_seen, **smooth, **figures})
            tqdm.write(
                f"{elapsed:5.0f} s  step {steps}  copy {smooth['copy']:.2f}  text {smooth['text']:.3f}  dev: "
                + "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
            )
            if not arguments.continue_from and figures["argument_rate"] >= arguments.stop_at_argument_rate:
                stopped = f"dev argument rate reached {arguments.stop_at_argument_rate}"
                break
    bar.close()
    save(model, tokenizer, out)
    return {
        "continued_from": arguments.continue_from,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": model.config.num_hidden_layers,
        "width": model.config.hidden_size,
        "vocabulary": len(tokenizer),
        "device": device,
        "seed": arguments.seed,
        "demonstrations": {
            "environments": len(states),
            "mix": demonstrator.mix,
            "recheck": demonstrator.recheck,
            "seconds": round(demonstrated_s, 1),
        },
        "tokens_a_conversation": round(total_tokens / len(sequences), 1),
        "steps": steps,
        "tokens": tokens_seen,
        "seconds": round(time.process_time() - began - spent_evaluating, 1),
        "seconds_evaluating": round(spent_evaluating, 1),
        "stopped": stopped,
        "dev_curve": curve,
    }


def _plain_texts(states: list[Environment]) -> Iterator[str]:
    for state in states:
        for tool in state.tools:
            yield json.dumps(tool.as_openai(), ensure_ascii=False)
        for message in state.messages:
            yield str(message.get("content") or "")
            for call in message.get("tool_calls") or ():
                yield json.dumps(call["function"], ensure_ascii=False)


def parse_arguments() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m train.warm_start")
    parser.add_argument("--environments", required=True, help="train environments (JSONL)")
    parser.add_argument("--dev", required=True, help="dev environments (JSONL): they decide when to stop")
    parser.add_argument("--out", required=True, help="checkpoint folder to write")
    parser.add_argument("--continue-from", default="", help="go on from this checkpoint for the whole of --minutes")
    parser.add_argument(
        "--oracle", action="store_true", help="demonstrate without bad habits (for models that bring their own)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU where there is one")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="training time on one core (process time), evaluations not counted"
    )
    parser.add_argument("--stop-at-argument-rate", type=float, default=0.85)
    parser.add_argument(
        "--evaluate-every", type=float, default=60.0, help="seconds of training between dev evaluations"
    )
    parser.add_argument("--dev-cases", type=int, default=60)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=1536)
    parser.add_argument(
        "--optimizer", choices=("muon", "adamw"), default="muon", help="adamw: what pretrained models were made with"
    )
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--tokens-a-batch", type=int, default=2048)
    parser.add_argument(
        "--prompt-weight", type=float, default=0.05, help="loss weight of tokens the policy does not write"
    )
    parser.add_argument("--matmul", choices=("", "bf16"), default="", help="bf16: faster products for larger models")
    parser.add_argument("--copy-length", type=int, default=64, help="tokens of a random string")
    parser.add_argument(
        "--copy-until", type=float, default=0.1, help="copy pre-training ends at this loss (nats a token)"
    )
    parser.add_argument("--rename-share", type=float, default=0.5, help="share of conversations with made-up names")
    parser.add_argument("--copy-share", type=float, default=0.1, help="share of copy batches after that")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    out = Path(arguments.out)
    keep_configuration(out, {key: value for key, value in vars(arguments).items() if key != "device"})
    if (out / "warm_start.json").exists():
        print(f"{out}: done already")
        return 0
    report = learn(arguments, out)
    (out / "README.md").write_text(card(report, sys.argv[1:], out), encoding="utf-8")
    (out / "warm_start.json").write_text(json_text(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out}: {report['parameters']} parameters, {report['seconds']} s, stopped since {report['stopped']}")
    return 0


if __name__ == "__main__":
    run_main(main)
