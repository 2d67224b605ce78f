"""The matrix: every experiment has a name, and the name says all of it. Data, and the few functions that read it.

    <model>-<plain|thinking>-<algorithm>[-<ablation>...]        for example qwen3-8b-thinking-grpo, tiny-plain-reinforce++-strict

`python -m train.experiments` lists them with an estimate of their cost, `--json` for programs. The paper's twelve runs are
{qwen2.5-7b, qwen2.5-14b}-plain and {qwen3-8b, qwen3-14b}-{plain, thinking}, each with grpo and reinforce++. Beyond it:

| ablation | what is trained |
| --- | --- |
| `-episode` | whole episodes, played online; reward: the turns' rewards summed, over n + 1 (reward/episode_rewards.py) |
| `-outcome` | whole episodes; reward 1 for a right final answer: the "outcome GRPO" that later papers run on this data (Qwen3-8B) |
| `-outcome-f1` | whole episodes; reward: the episode's Solve-F1 |
| `-lora` | adapters instead of all weights, on one card; merged into a whole checkpoint after each epoch |

Of the rows in paper/README.md, "Who uses it now": FTRL-GRPO is qwen3-8b-plain-grpo, outcome GRPO is qwen3-8b-plain-grpo-outcome.
MatchTIR, TurnSight and DART-SD give every turn of an episode an advantage of its own, which OpenRLHF's one scalar cannot carry.
Hyperparameters: paper section "Training" (paper/README.md); the flags that carry them are in `train/openrlhf_command.py`.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
from dataclasses import asdict, dataclass, replace

from env_construction.jsonl import BadInput, run_main


@dataclass(frozen=True)
class Model:
    """A starting point: its hub name (empty where the run makes its own start), whether it has a thinking mode, the cards that
    a run takes, and its shape, from its published configuration.
    """

    name: str
    start: str
    thinking: bool
    gpus: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    tied: bool = False

    @property
    def parameters(self) -> float:
        """Millions, norms and biases left out."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return (embeddings + self.layers * (attention + 3 * self.width * self.mlp_width)) / 1e6


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


SMOLLM2 = Model(
    "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", False, 1, 30, 576, 9, 3, 64, 1536, 49152, tied=True
)
MODELS = {
    model.name: model
    for model in (
        Model("tiny", "", False, 0, 4, 128, 4, 2, 32, 384, 1536, tied=True),
        SMOLLM2,
        replace(SMOLLM2, name="smollm2-135m-cpu", gpus=0),
        Model("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", False, 8, 28, 3584, 28, 4, 128, 18944, 152064),
        Model("qwen2.5-14b", "Qwen/Qwen2.5-14B-Instruct", False, 8, 48, 5120, 40, 8, 128, 13824, 152064),
        Model("qwen3-4b", "Qwen/Qwen3-4B", True, 8, 36, 2560, 32, 8, 128, 9728, 151936, tied=True),
        Model("qwen3-8b", "Qwen/Qwen3-8B", True, 8, 36, 4096, 32, 8, 128, 12288, 151936),
        Model("qwen3-14b", "Qwen/Qwen3-14B", True, 8, 40, 5120, 40, 8, 128, 17408, 151936),
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

# What an ablation changes: the reward's variant or matching, the control, what is played, which weights are trained, or the
# construction strategy left out.
ABLATIONS: dict[str, dict[str, str]] = {
    "solve-precision": {"variant": "solve_precision"},
    "solve-recall": {"variant": "solve_recall"},
    "solve-pr": {"variant": "solve_pr"},
    "strict": {"match": "strict"},
    "shuffled": {"control": "shuffled"},
    "constant": {"control": "constant"},
    "episode": {"episode": "turns"},
    "outcome": {"episode": "answer"},
    "outcome-f1": {"episode": "solve_f1"},
    "lora": {"adapter": "lora"},
    "no-functional-generalization": {"without": "functional_generalization"},
    "no-parameter-expansion": {"without": "parameter_expansion"},
    "no-parameter-type-generalization": {"without": "parameter_type_generalization"},
    "no-toolset-extension": {"without": "toolset_extension"},
}

PAPER_MODELS = ("qwen2.5-7b", "qwen2.5-14b", "qwen3-8b", "qwen3-14b")
PAPER_ALGORITHMS = ("grpo", "reinforce++")
PAPER = Scale(512, 16, 512, 1, 1e-6, 16384, 1024, 3)
PAPER_THINKING = Scale(512, 16, 512, 1, 1e-6, 16384, 8192, 3)
SMALL = Scale(64, 8, 128, 8, 5e-6, 2048, 256, 2)
SMALL_ON_CPU = Scale(8, 4, 16, 1, 2e-5, 1024, 192, 1)
TINY = Scale(16, 8, 32, 16, 1e-4, 640, 96, 2)
# REINFORCE++ compares a response with all others of the batch, not with those to its own prompt. Its gradient is noisier for that,
# and at GRPO's rate the tiny model loses what it could: this rate was chosen on dev environments.
RATES = {("tiny", "reinforce++"): 2.5e-5}
SCALES = {"tiny": TINY, "smollm2-135m": SMALL, "smollm2-135m-cpu": SMALL_ON_CPU}  # all others: the paper's
ADAPTER_RATE = 10  # adapters take about ten times the learning rate of full training
EPISODE_TURNS = 4  # of an average episode, for estimates of cost
TEMPERATURE = {
    "paper": 1.0,
    "released": 0.7,
}  # presets: the paper's text, and the trainer's default in the authors' scripts


@dataclass(frozen=True)
class Experiment:
    """One row of the matrix. `variant`, `match`, `control`: the reward's settings; `episode`: the reward of whole episodes, empty
    where every prefix is a prompt of its own; `adapter`: "lora" or empty; `without`: a construction strategy left out.
    """

    name: str
    model: Model
    thinking: bool
    algorithm: str
    scale: Scale
    variant: str = "solve_f1"
    match: str = "published"
    control: str = ""
    episode: str = ""
    adapter: str = ""
    without: str = ""

    @property
    def flags(self) -> list[str]:
        """The algorithm's own flags."""
        return ALGORITHMS[self.algorithm]

    @property
    def plain_reward(self) -> bool:
        """Whether the row trains all weights with the paper's own reward, in the paper's mode: no ablation, no control."""
        return self.name == f"{self.model.name}-{'thinking' if self.thinking else 'plain'}-{self.algorithm}"

    @property
    def in_paper(self) -> bool:
        """Whether the row is one of the paper's twelve runs (its Table 2)."""
        return self.plain_reward and self.model.name in PAPER_MODELS and self.algorithm in PAPER_ALGORITHMS

    @property
    def gpus(self) -> int:
        """The cards that a run takes unless told otherwise: adapters are trained on one."""
        return min(self.model.gpus, 1) if self.adapter else self.model.gpus

    @property
    def card_gib(self) -> int:
        """Memory of a card that holds the run at full length by train/memory_plan.py; 0 on a CPU."""
        large = 5_000 if self.thinking else 10_000  # millions: policy and reference are whole on an adapter's one card
        return 0 if not self.gpus else 141 if self.adapter and self.model.parameters > large else 80

    def cpu_minutes(self, steps: int = 24) -> int:
        """Training alone, `steps` rollout batches an epoch: 60 s of start-up an epoch, and 14 s a step for 128 responses, 300
        tokens each with their prompt (two such trainings side by side on two cores took 25 minutes). A step of whole episodes has
        2.2 times the tokens. A larger model is taken to need as much longer as its matrices do at twice the speed: 234 s a step of
        SmolLM2-135M, which took 204 to 243 s on one core that multiplies in bfloat16, 239 to 375 s on two that do not. 0 for models
        that need a GPU.
        """
        samples = self.scale.rollout_batch * self.scale.samples_per_prompt
        step = 14 * (2.2 if self.episode else 1) * samples / 128 * max(1.0, self.model.parameters / 2)
        return round(self.scale.epochs * (60 + step * steps) / 60) if self.model.gpus == 0 else 0

    def gpu_hours(self, prompts: int | None = None) -> float:
        """A rough estimate for one run over `prompts` prompts an epoch (default: 5000 prefixes, or the 2215 questions for
        episodes) on 80 GB cards at 40% use: forward and backward of the policy, forward of policy and reference, and
        generation at a fifth of that efficiency. Adapters save the weights' half of the backward pass. 0 for the CPU model.
        """
        if self.model.gpus == 0:
            return 0.0
        prompts = prompts or (2215 if self.episode else 5000)
        written = 0.4 * self.scale.max_response * (EPISODE_TURNS if self.episode else 1)
        samples = self.scale.epochs * prompts * self.scale.samples_per_prompt
        per_token = 2e6 * self.model.parameters
        training = per_token * samples * (0.2 * self.scale.max_prompt + written) * (4 if self.adapter else 5)
        return (training / (0.4 * 989e12) + per_token * samples * written / (0.08 * 989e12)) / 3600


def _scale(model: Model, thinking: bool, adapter: bool, algorithm: str) -> Scale:
    scale = SCALES.get(model.name, PAPER_THINKING if thinking else PAPER)
    rate = RATES.get((model.name, algorithm), scale.learning_rate)
    return replace(scale, learning_rate=ADAPTER_RATE * rate if adapter else rate)


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
                scale = _scale(model, thinking, "adapter" in settings, algorithm)
                return Experiment(name, model, thinking, algorithm, scale, **settings)
    close = difflib.get_close_matches(name, [item.name for item in matrix()], n=3, cutoff=0.3)
    raise BadInput(
        f"unknown experiment {name!r}; closest: {', '.join(close) or 'none'} (python -m train.experiments lists all)"
    )


def _algorithm_and_ablations(text: str) -> tuple[str, dict[str, str]] | None:
    keys = sorted(ABLATIONS, key=len, reverse=True)
    for algorithm in sorted(ALGORITHMS, key=len, reverse=True):
        if text != algorithm and not text.startswith(algorithm + "-"):
            continue
        rest = text[len(algorithm) :]
        settings: dict[str, str] = {}
        while rest:
            found = next((key for key in keys if rest == f"-{key}" or rest.startswith(f"-{key}-")), None)
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
            more = {"in_paper": row.in_paper, "gpus": row.gpus, "card_gib": row.card_gib, "flags": row.flags}
            cost = {"gpu_hours": round(row.gpu_hours(), 3), "cpu_minutes": row.cpu_minutes()}
            print(json.dumps({**asdict(row), **more, **cost}))
            continue
        where = f"{row.gpus} x {row.card_gib:3} GB" if row.gpus else "CPU       "
        cost_text = f"{row.gpu_hours():6.0f} GPU hours" if row.gpus else f"{row.cpu_minutes():5} CPU minutes"
        batch = f"{row.scale.rollout_batch} x {row.scale.samples_per_prompt}, {row.scale.epochs} epochs"
        print(f"{row.name:66} {where}  about {cost_text}  {batch}{'  (paper)' if row.in_paper else ''}")
    return 0


if __name__ == "__main__":
    run_main(main)
