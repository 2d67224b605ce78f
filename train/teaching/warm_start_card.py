"""The model card (README.md) of a start policy: how it was trained, how to reproduce it, what it can and cannot do.

Inputs: the report of `train.warm_start` (`warm_start.json`), the folder with the weights, and the summaries of dev
results (`eval.environments`, `eval.general`), if any. Output: Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import file_sha256

HASHED = ("model.safetensors", "tokenizer.json", "chat_template.jinja")
SHOWN = {"solve_f1": "Solve-F1", "solve_p": "Solve-P", "solve_r": "Solve-R", "answer_correct": "answer accuracy"}


def interval(metric: Mapping[str, Any]) -> str:
    """A metric of a summary as a table's cell: the mean and its 95% interval."""
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def measured_tables(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Dev figures, a column for each mode. `measured`: summaries under `tools plain`, `skills thinking` and so on."""
    modes = [mode for mode in ("plain", "thinking") if f"tools {mode}" in measured or f"skills {mode}" in measured]
    rows: dict[str, dict[str, str]] = {}
    for mode in modes:
        tools = measured.get(f"tools {mode}", {"metrics": {}})["metrics"]
        found = {label: tools[key] for key, label in SHOWN.items() if key in tools}
        by_skill = measured.get(f"skills {mode}", {}).get("by_task", {})
        found |= {skill: table["correct"] for skill, table in by_skill.items()}
        for label, metric in found.items():
            rows.setdefault(f"{label} (n = {metric['n']})", {})[mode] = interval(metric)
    lines = ["| on dev, greedy | " + " | ".join(modes) + " |", "| --- |" + " ---: |" * len(modes)]
    lines += [f"| {label} | {' | '.join(cells.get(mode, '') for mode in modes)} |" for label, cells in rows.items()]
    return "\n".join(lines)


def stages_of(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The reports of all runs that led to a policy, oldest first (`--continue-from`)."""
    before = report.get("before")
    return [*(stages_of(before) if before else ()), report]


def time_text(seconds: float, device: str) -> str:
    """Process time on a CPU, where a training may use several cores; wall time on a GPU."""
    return f"{seconds / 60:.0f} {'core' if device == 'cpu' else 'GPU'} minutes"


def stage_text(report: Mapping[str, Any]) -> str:
    """How one run of `train.warm_start` went, as Markdown."""
    lessons = "\n".join(
        f"| {kind} | {item['conversations']:,} | {item['tokens']:,} |" for kind, item in report["lessons"].items()
    )
    return f"""    python -m train.warm_start {report["command"]}

Seed {report["seed"]}, {report["steps"]:,} updates on {report["tokens"]:,} tokens, \
{time_text(report["seconds"], report["device"])} without evaluations. It stopped because {report["stopped"]}.
{report.get("note", "")}

| lessons | conversations | tokens |
| --- | ---: | ---: |
{lessons}"""


def card(report: Mapping[str, Any], folder: Path, measured: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The text of README.md."""
    mix = "\n".join(f"| {name} | {share:.0%} |" for name, share in report["demonstrations"]["mix"].items())
    hashes = "\n".join(f"- `{name}`: {file_sha256(folder / name)}" for name in HASHED if (folder / name).exists())
    stages = stages_of(report)
    made = "\n\n".join(map(stage_text, stages))
    total = time_text(sum(stage["seconds"] for stage in stages), report["device"])
    figures = measured_tables(measured) if measured else "Not measured yet: `python -m train.start_card --help`."
    return f"""# A small policy to start from

A model with the Qwen3 architecture and {report["parameters"]:,} parameters \
({report["layers"]} layers of width {report["width"]}, {report["vocabulary"]} tokens, {report["dtype"]}, tied
embeddings), trained from scratch on a {"CPU" if report["device"] == "cpu" else "GPU"}. \
One checkpoint supports both modes: the chat template's
`enable_thinking` is Qwen3's switch. The model plays compact environments of this repository and answers the six
made skills (`train/teaching/made_skills.py`). It can do nothing else. It exists so that the complete experiment
runs where no model can be downloaded. Its scores say nothing about real models or benchmarks.

It is mediocre on purpose. It learned from demonstrations of mixed quality on *train* environments. The table shows the
share of turns per habit while a sub-question is unsolved. Once all are solved, \
{report["demonstrations"]["recheck"]:.0%} of turns repeat an earlier call.

| habit | share |
| --- | ---: |
{mix}

`train/teaching/demonstrations.py` defines the habits. Reinforcement learning can then select among the good and bad
behavior that the policy already samples.

## How it was trained

{made}

{total} of training in total. Repeating the commands gives a similar model, not the same one, because
training stops at a time limit.

## Results

{figures}

SHA-256:

{hashes}
"""
