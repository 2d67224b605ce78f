"""Train a start policy without a model download: supervised learning from scratch on CPU cores or on a GPU.

Inputs: train environments (demonstrations), dev environments (early stopping). Output: a Hugging Face checkpoint folder
with tokenizer and chat template, `warm_start.json` (the demonstrator's habits, sizes, seeds, the dev curve), and
`README.md` (train.start_card adds results).

Steps:
1. A demonstrator of mixed quality (`train/teaching/demonstrations.py`) plays every train environment in the sandbox,
   half of them with short plans in thinking mode. Synthetic skill items (`train/teaching/made_skills.py`) are answered
   in both modes.
2. A small BPE tokenizer is trained on those conversations (`train/teaching/tiny_policy.py`).
3. The model first learns to copy: a random token string followed by the same string. Every later skill needs this
   induction. It takes a minute here, and many minutes without this step. Some copy strings stay in the mix.
4. The model learns the conversations with next-token prediction. The assistant's tokens have a higher weight than the
   others. Muon trains the matrices, AdamW the embeddings and norms (`--optimizer`). The learning rate falls linearly
   over `--minutes`.
5. Every `--evaluate-every` seconds the policy plays the dev environments greedily. Training stops when it copies and
   chooses arguments reliably (`--stop-at-argument-rate`) or when the time is over: *before* it is good at the task.

The paper has no such step, because its models are pretrained. `--continue-from DIR` continues the same supervised
learning from a checkpoint for `--minutes`. This control tests whether more supervised learning matches the reward.

Example:
    python -m train.warm_start --model tiny --environments outputs/cpu/environments/train.jsonl \
        --dev outputs/cpu/environments/dev.jsonl --out outputs/cpu/start --seed 0 --minutes 8
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, json_text, keep_configuration, run_main
from env_construction.environment.schema import read_environments
from train.experiments import MODELS
from train.policies.prompts import has_thinking, load_tokenizer
from train.teaching.demonstrations import MIX, ORACLE, RECHECK
from train.teaching.lessons import Lesson, plain_texts, skill_lessons, tool_lessons
from train.teaching.made_skills import SKILLS, made_items
from train.teaching.practice import Watched, practice, save
from train.teaching.sequences import Sequence, entity_names, to_sequence
from train.teaching.tiny_policy import new_model, train_tokenizer
from train.teaching.warm_start_card import card
from train.trainer.devices import DEVICES, choose_device
from train.trainer.openrlhf_on_cpu import multiply_in

OWN_MODELS = sorted(name for name, model in MODELS.items() if not model.start)


def read_lessons(arguments: argparse.Namespace, thinking: bool) -> list[Lesson]:
    """Lessons of tool use without thinking, tool use with thinking (if the model has the mode), and made skills."""
    environments = list(read_environments(arguments.environments))
    if not environments:
        raise BadInput(f"{arguments.environments}: no environments; expected at least one")
    share = arguments.thinking_share if thinking else 0.0
    try:
        skills = skill_lessons(arguments.skill_items, share, arguments.seed)
    except ValueError as error:
        raise BadInput(f"--skill-items {arguments.skill_items}: {error}") from None
    print(f"demonstrating {len(environments)} train environments", flush=True)
    lessons = tool_lessons(environments, ORACLE if arguments.oracle else MIX, share, arguments.seed)
    return lessons + skills


def load_or_make(arguments: argparse.Namespace, lessons: list[Lesson]) -> tuple[Any, Any]:
    """The model and tokenizer of --continue-from, or new ones with the shape of --model's row."""
    if arguments.continue_from:
        model = AutoModelForCausalLM.from_pretrained(arguments.continue_from, dtype=torch.float32)
        return model, load_tokenizer(arguments.continue_from)
    shape = MODELS[arguments.model]
    tokenizer = train_tokenizer(plain_texts(lessons), shape.vocabulary)
    sizes = {name: getattr(shape, name) for name in ("layers", "width", "heads", "kv_heads", "head_width", "mlp_width")}
    return new_model(tokenizer, arguments.seed, **sizes), tokenizer


def sequences_of(lessons: list[Lesson], tokenizer: Any, prompt_weight: float) -> list[Sequence]:
    return [
        to_sequence(
            lesson.messages,
            lesson.tools,
            tokenizer,
            prompt_weight,
            lesson.thinking,
            entity_names(lesson.environment) if lesson.environment else (),
        )
        for lesson in lessons
    ]


def learn(arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Play demonstrations, train with evaluations on dev, save. Return the contents of `warm_start.json`."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    multiply_in(torch, arguments.matmul)
    device = choose_device(arguments.device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    dev = list(read_environments(arguments.dev))[: arguments.dev_cases]
    if not dev:
        raise BadInput(f"{arguments.dev}: no environments; expected at least one")
    thinking = not arguments.continue_from or has_thinking(load_tokenizer(arguments.continue_from))
    started = time.monotonic()
    lessons = read_lessons(arguments, thinking)
    demonstrated_s = time.monotonic() - started
    model, tokenizer = load_or_make(arguments, lessons)
    model.to(device).train()
    sequences = sequences_of(lessons, tokenizer, arguments.prompt_weight)
    total_tokens = sum(len(item.tokens) for item in sequences)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{len(sequences)} conversations, {total_tokens} tokens, {total_tokens / len(sequences):.0f} each; "
        f"{parameters} parameters",
        flush=True,
    )
    modes = (False, True) if any(lesson.thinking for lesson in lessons) else (False,)
    skills = SKILLS if arguments.skill_items else ()
    items = [item for skill in skills for item in made_items(skill, "dev", arguments.dev_items, arguments.seed)]
    progress = practice(model, tokenizer, sequences, arguments, Watched(out, dev, items, modes, device))
    save(model, tokenizer, out)
    kinds = {
        "tools, plain": [lesson.kind == "tools" and not lesson.thinking for lesson in lessons],
        "tools, thinking": [lesson.kind == "tools" and lesson.thinking for lesson in lessons],
        "made skills": [lesson.kind != "tools" for lesson in lessons],
    }
    before = Path(arguments.continue_from) / "warm_start.json"
    return {
        "before": json.loads(before.read_text(encoding="utf-8")) if before.is_file() else None,
        "command": shlex.join(sys.argv[1:]),
        "continued_from": arguments.continue_from,
        "parameters": parameters,
        "layers": model.config.num_hidden_layers,
        "width": model.config.hidden_size,
        "vocabulary": len(tokenizer),
        "dtype": "float32",
        "device": device,
        "seed": arguments.seed,
        "demonstrations": {
            "mix": ORACLE if arguments.oracle else MIX,
            "recheck": 0.0 if arguments.oracle else RECHECK,
            "seconds": round(demonstrated_s, 1),
        },
        "lessons": {
            kind: {
                "conversations": sum(chosen),
                "tokens": sum(len(item.tokens) for item, is_it in zip(sequences, chosen, strict=True) if is_it),
            }
            for kind, chosen in kinds.items()
        },
        "steps": progress.steps,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "seconds_evaluating": round(progress.seconds_evaluating, 1),
        "stopped": progress.stopped,
        "dev_curve": progress.curve,
    }


def parse_arguments() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m train.warm_start")
    parser.add_argument(
        "--model", choices=OWN_MODELS, default="tiny", help="row of train.experiments with the model's shape"
    )
    parser.add_argument("--environments", required=True, help="train environments (JSONL)")
    parser.add_argument("--dev", required=True, help="dev environments (JSONL) for early stopping")
    parser.add_argument("--out", required=True, help="checkpoint folder to write")
    parser.add_argument("--continue-from", default="", help="continue from this checkpoint, without early stopping")
    parser.add_argument("--oracle", action="store_true", help="demonstrate without bad habits (for pretrained models)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="core minutes of training (process time), without evaluations"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="parts of a batch computed at the same time, one core each (tiny models)"
    )
    parser.add_argument("--wall-minutes", type=float, default=0.0, help="limit of wall time; 0: no limit")
    parser.add_argument(
        "--stop-at-argument-rate", type=float, default=0.85, help="stop at this share of calls with right arguments"
    )
    parser.add_argument(
        "--evaluate-every", type=float, default=60.0, help="seconds of training between dev evaluations"
    )
    parser.add_argument("--dev-cases", type=int, default=60, help="environments per dev evaluation")
    parser.add_argument("--dev-items", type=int, default=40, help="items of each made skill per dev evaluation")
    parser.add_argument("--skill-items", type=int, default=16000, help="train items of all made skills together")
    parser.add_argument("--thinking-share", type=float, default=0.5, help="share of lessons in thinking mode")
    parser.add_argument(
        "--optimizer", choices=("muon", "adamw"), default="muon", help="adamw: the optimizer of pretrained models"
    )
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--tokens-a-batch", type=int, default=2048, help="tokens per batch, including padding")
    parser.add_argument(
        "--prompt-weight", type=float, default=0.05, help="loss weight of tokens that the policy does not write"
    )
    parser.add_argument(
        "--matmul", choices=("", "bf16"), default="", help="bf16: faster matrix products for larger models"
    )
    parser.add_argument("--copy-length", type=int, default=64, help="tokens of a random copy string")
    parser.add_argument(
        "--copy-until", type=float, default=0.1, help="copy pretraining ends at this loss (nats per token)"
    )
    parser.add_argument("--rename-share", type=float, default=0.5, help="share of conversations with random names")
    parser.add_argument("--copy-share", type=float, default=0.1, help="share of copy batches after copy pretraining")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    out = Path(arguments.out)
    keep_configuration(out, {key: value for key, value in vars(arguments).items() if key != "device"})
    if (out / "warm_start.json").exists():
        print(f"{out}: already done")
        return 0
    report = learn(arguments, out)
    (out / "README.md").write_text(card(report, out), encoding="utf-8")
    (out / "warm_start.json").write_text(json_text(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out}: {report['parameters']} parameters, {report['seconds']} s; stopped because {report['stopped']}")
    return 0


if __name__ == "__main__":
    run_main(main)
