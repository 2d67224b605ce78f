"""The matrix: every experiment has a name, and the name says all of it. Data, and the few functions that read it.

    <model>-<plain|thinking>-<algorithm>[-<ablation>...]        for example qwen3-8b-thinking-grpo, tiny-plain-reinforce++-strict

`python -m train.experiments` lists them with an estimate of their cost, `--json` for programs. The paper's twelve runs are
{qwen2.5-7b, qwen2.5-14b}-plain and {qwen3-8b, qwen3-14b}-{plain, thinking}, each with grpo and reinforce++.
Hyperparameters: paper section "Training" (paper/README.md); the flags that carry them are in `train/openrlhf_command.py`.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
from dataclasses import asdict, dataclass

from env_construction.jsonl import BadInput, run_main


@dataclass(frozen=True)
class Model:
    """A starting point. `parameters` in millions; `start` is a hub name, or empty where the run makes its own start."""

    name: str
    start: str
    parameters: float
    thinking: bool
    gpus: int


@dataclass(frozen=True)
class Scale:
    """How much of everything; lengths in tokens, batches in prompts (`rollout_batch`) and samples (`train_batch`)."""

    rollout_batch: int
    samples_per_prompt: int
    train_batch: int
    micro_batch: int
    learning_rate: float
    max_prompt: int
    max_response: int
    epochs: int


MODELS = {
    model.name: model
    for model in (
        Model("tiny", "", 1.0, False, 0),
        Model("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", 135, False, 1),
        Model("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", 7616, False, 8),
        Model("qwen2.5-14b", "Qwen/Qwen2.5-14B-Instruct", 14770, False, 8),
        Model("qwen3-4b", "Qwen/Qwen3-4B", 4022, True, 8),
        Model("qwen3-8b", "Qwen/Qwen3-8B", 8191, True, 8),
        Model("qwen3-14b", "Qwen/Qwen3-14B", 14768, True, 8),
    )
}

# OpenRLHF's flags for each algorithm, after and over those that all share (train/openrlhf_command.py). Dr. GRPO (arXiv 2503.20783)
# drops the division by each response's length; OpenRLHF's token mean is the nearest. GSPO (arXiv 2507.18071) clips the ratio of
# whole sequences, whose spread is a thousand times smaller.
ALGORITHMS: dict[str, list[str]] = {
    "grpo": ["--algo.advantage.estimator", "group_norm"],
    "reinforce++": ["--algo.advantage.estimator", "reinforce"],
    "reinforce++-baseline": ["--algo.advantage.estimator", "reinforce_baseline"],
    "rloo": ["--algo.advantage.estimator", "rloo"],
    "dr-grpo": ["--algo.advantage.estimator", "dr_grpo", "--actor.loss_agg_mode", "token-mean"],
    "gspo": [
        "--algo.advantage.estimator", "group_norm",
        "--actor.policy_loss_type", "gspo", "--actor.eps_clip_low_high", "3e-4", "4e-4",
    ],
    "ppo": ["--algo.advantage.estimator", "gae"],
}  # fmt: skip

# What an ablation changes: the reward's variant or matching, the control, or the construction strategy left out.
ABLATIONS: dict[str, dict[str, str]] = {
    "solve-precision": {"variant": "solve_precision"},
    "solve-recall": {"variant": "solve_recall"},
    "solve-pr": {"variant": "solve_pr"},
    "strict": {"match": "strict"},
    "shuffled": {"control": "shuffled"},
    "constant": {"control": "constant"},
    "no-functional-generalization": {"without": "functional_generalization"},
    "no-parameter-expansion": {"without": "parameter_expansion"},
    "no-parameter-type-generalization": {"without": "parameter_type_generalization"},
    "no-toolset-extension": {"without": "toolset_extension"},
}

PAPER = Scale(512, 16, 512, 1, 1e-6, 16384, 1024, 3)
PAPER_THINKING = Scale(512, 16, 512, 1, 1e-6, 16384, 8192, 3)
SMALL = Scale(64, 8, 128, 8, 5e-6, 2048, 256, 2)
TINY = Scale(16, 8, 64, 16, 3e-4, 640, 96, 2)
TEMPERATURE = {
    "paper": 1.0,
    "released": 0.7,
}  # presets: the paper's text, and the trainer's default in the authors' scripts


@dataclass(frozen=True)
class Experiment:
    """One row of the matrix. `variant`, `match`, `control`: the reward's settings; `without`: a strategy left out."""

    name: str
    model: Model
    thinking: bool
    algorithm: str
    scale: Scale
    variant: str = "solve_f1"
    match: str = "published"
    control: str = ""
    without: str = ""

    @property
    def flags(self) -> list[str]:
        """The algorithm's own flags."""
        return ALGORITHMS[self.algorithm]

    def gpu_hours(self, prompts: int = 5000) -> float:
        """A rough estimate for one run over `prompts` prompts an epoch on 80 GB cards at 40% use: forward and backward of
        the policy, forward of the reference, and generation at a fifth of that efficiency. 0 for the CPU model.
        """
        if self.model.gpus == 0:
            return 0.0
        tokens = (
            self.scale.epochs
            * prompts
            * self.scale.samples_per_prompt
            * (0.2 * self.scale.max_prompt + 0.4 * self.scale.max_response)
        )
        flops = 2e6 * self.model.parameters * tokens * (3 + 2)
        generated = (
            2e6
            * self.model.parameters
            * self.scale.epochs
            * prompts
            * self.scale.samples_per_prompt
            * 0.4
            * self.scale.max_response
        )
        return (flops / (0.4 * 989e12) + generated / (0.08 * 989e12)) / 3600


def _scale(model: Model, thinking: bool) -> Scale:
    if model.name == "tiny":
        return TINY
    if model.name == "smollm2-135m":
        return SMALL
    return PAPER_THINKING if thinking else PAPER


def experiment(name: str) -> Experiment:
    """The experiment of that name; ablations combine in any order. Raises BadInput with the closest names."""
    for model in sorted(MODELS.values(), key=lambda item: -len(item.name)):
        for mode in ("plain", "thinking"):
            head = f"{model.name}-{mode}-"
            if not name.startswith(head):
                continue
            if mode == "thinking" and not model.thinking:
                raise BadInput(f"{name}: {model.name} has no thinking mode; use {model.name}-plain-...")
            parsed = _algorithm_and_ablations(name[len(head) :])
            if parsed is not None:
                algorithm, settings = parsed
                thinking = mode == "thinking"
                return Experiment(name, model, thinking, algorithm, _scale(model, thinking), **settings)
    close = difflib.get_close_matches(name, [item.name for item in matrix()], n=3, cutoff=0.3)
    raise BadInput(
        f"unknown experiment {name!r}; closest: {', '.join(close) or 'none'} (python -m train.experiments lists all)"
    )


def _algorithm_and_ablations(text: str) -> tuple[str, dict[str, str]] | None:
    for algorithm in sorted(ALGORITHMS, key=len, reverse=True):
        if text != algorithm and not text.startswith(algorithm + "-"):
            continue
        rest = text[len(algorithm) :]
        settings: dict[str, str] = {}
        while rest:
            found = next((key for key in ABLATIONS if rest == f"-{key}" or rest.startswith(f"-{key}-")), None)
            if found is None or ABLATIONS[found].keys() & settings.keys():
                break
            settings.update(ABLATIONS[found])
            rest = rest[len(found) + 1 :]
        if not rest:
            return algorithm, settings
    return None


def matrix() -> list[Experiment]:
    """Every model and mode with every algorithm, and every single ablation of grpo and reinforce++."""
    rows = []
    for model, mode in itertools.product(MODELS.values(), ("plain", "thinking")):
        if mode == "thinking" and not model.thinking:
            continue
        for algorithm in ALGORITHMS:
            rows.append(experiment(f"{model.name}-{mode}-{algorithm}"))
            if algorithm in ("grpo", "reinforce++"):
                rows += [experiment(f"{model.name}-{mode}-{algorithm}-{ablation}") for ablation in ABLATIONS]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object an experiment")
    arguments = parser.parse_args()
    for row in matrix():
        if arguments.json:
            print(json.dumps({**asdict(row), "gpu_hours": round(row.gpu_hours(), 1)}))
        else:
            cost = f"about {row.gpu_hours():7.0f} GPU hours" if row.model.gpus else "     CPU, about 10 min"
            print(
                f"{row.name:58} {cost}  {row.scale.rollout_batch} x {row.scale.samples_per_prompt}, {row.scale.epochs} epochs"
            )
    return 0


if __name__ == "__main__":
    run_main(main)
