"""The README.md that a warm-started policy's folder carries: how it was made, how to remake it, what it can and cannot do.

In: the report of `train.warm_start` (its `warm_start.json`), the folder with the weights. Out: Markdown.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import file_sha256

HASHED = ("model.safetensors", "tokenizer.json", "chat_template.jinja")
SHOWN = {
    "solve_f1": "Solve-F1",
    "solve_p": "Solve-P",
    "solve_r": "Solve-R",
    "malformed_turns": "turns with a call that does not parse",
    "tool_rate": "calls to a tool of the gold plan",
    "argument_rate": "of those, calls with exactly the gold arguments",
}


def card(report: Mapping[str, Any], command: Sequence[str], folder: Path) -> str:
    """The text of README.md. `command`: the arguments of `python -m train.warm_start`."""
    last = report["dev_curve"][-1] if report["dev_curve"] else {}
    mix = "\n".join(f"| {name} | {share:.0%} |" for name, share in report["demonstrations"]["mix"].items())
    figures = "\n".join(f"| {label} | {last[key]:.3f} |" for key, label in SHOWN.items() if key in last)
    hashes = "\n".join(f"- `{name}`: {file_sha256(folder / name)}" for name in HASHED if (folder / name).exists())
    return f"""# A tiny policy to start from

A Qwen3-architecture model of {report["parameters"]:,} parameters ({report["layers"]} layers of width {report["width"]}, {report["vocabulary"]} tokens, fp32, tied
embeddings, no thinking mode), trained from scratch on one CPU core. It plays compact environments of this repository and nothing
else: it is there so that the whole experiment runs where no model can be downloaded, and its scores say nothing about real models.

It is mediocre on purpose. It learned from a demonstrator of mixed quality, who plays *train* environments with these habits
(share of turns while something is unsolved; once all is solved, a former call is made again in {report["demonstrations"]["recheck"]:.0%} of turns):

| habit | share |
| --- | ---: |
{mix}

`train/teaching/demonstrations.py` says what each habit is. What reinforcement learning can then improve is behaviour that the policy
already samples, good and bad.

## How it was made

    python -m train.warm_start {shlex.join(command)}

Seed {report["seed"]}, {report["demonstrations"]["environments"]:,} demonstrated train environments, {report["steps"]:,} updates on {report["tokens"]:,} tokens, {report["seconds"] / 60:.0f} minutes of one
core (evaluations apart); it stopped since {report["stopped"]}. The same command remakes it, not bit for bit: the time decides when it ends.
The last look at the dev environments, greedy:

| on dev | |
| --- | ---: |
{figures}

SHA-256:

{hashes}
"""
