"""Profiles (the amount of data in a run), and the options of run_all.sh.

A profile is data: add a row to PROFILES to define one. The sizes of a model's training (batches, lengths, epochs) are
only in its row of train/experiments.py.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

from env_construction.environment.command_line import ScriptParser
from train.experiments import PAPER_ALGORITHMS, TEMPERATURE, matrix

STAGES = (
    "environments",
    "start",
    "measure_start",
    "train",
    "measure_trained",
    "controls",
    "restoration",
    "suites",
    "logprob_gap",
    "analyse",
    "report",
)


@dataclass(frozen=True)
class Profile:
    """Amount of data of a run, and its back end. Counts are environments, except `max_prompts` (prompts per epoch)."""

    experiments: tuple[str, ...]
    n_train: int
    n_dev: int
    n_test: int
    level: str
    collect: int
    """Environments that the policy plays to collect trajectories before each epoch."""
    max_prompts: int
    eval_limit: int
    author: str = "facts"
    """Author of the environments, or several that take turns."""
    test_seed: int | None = None
    """Seed of the final test environments, fixed before the reported runs. No choice uses these environments."""
    outside: int = 0
    """Environments of each out-of-domain suite: unseen relations, the next level up, disturbed names."""
    skills: int = 0
    """Items per made skill. The skills replace the general benchmarks."""
    restored: int = 0
    """Test environments of the two restoration tests, which measure 20 mixtures of the first training and its start."""
    suites: bool = False
    """Run the suites of the paper's Table 2 that have data."""
    controls: tuple[str, ...] = ()
    backend: str = "hf"
    warm_minutes: float = 20
    parallel: bool = False
    """Run trainings in parallel, as many as fit into cores and memory. A CPU training uses one core."""
    teach: bool = False
    """Teach the call format first to models that do not know tools. Without it their rewards are near zero."""
    prune: bool = False
    """Keep only the last epoch's weights, because larger models fill a disk."""


REWARDS = ("solve-precision", "solve-recall", "solve-pr")
TINY = ("tiny-plain-grpo", "tiny-plain-reinforce++", "tiny-thinking-grpo", "tiny-thinking-reinforce++")
OWN = ("own-plain-grpo", "own-plain-reinforce++")
SMALL = ("smollm2-135m-plain-grpo", "smollm2-135m-plain-reinforce++")
# --matrix: for every shipped size, both modes with both algorithms, and all four rewards; three seeds
SIZES = ("tiny", "mini")
MATRIX = tuple(
    f"{model}-{rest}"
    for model in SIZES
    for rest in (*(f"{mode}-{algorithm}" for mode in ("plain", "thinking") for algorithm in PAPER_ALGORITHMS),
                 *(f"plain-grpo-{reward}" for reward in REWARDS))
)  # fmt: skip
MATRIX_SEEDS = (0, 1, 2)
PROFILES = {
    "smoke": Profile(TINY[:1], 200, 12, 16, "compact", 16, 32, 100, outside=4, skills=4, restored=4,
        author="facts+worlds", controls=("rejection-sampling",), warm_minutes=1.5),
    "cpu": Profile(
        (*TINY, *(f"tiny-plain-grpo-{reward}" for reward in REWARDS)),
        2000, 300, 300, "compact", 160, 192, 300, author="facts+worlds", test_seed=271126, outside=100, skills=100,
        restored=150, controls=("more-supervised", "oracle-demonstrations", "rejection-sampling"), parallel=True,
    ),
    "small": Profile(
        SMALL, 2000, 200, 200, "medium", 1000, 1024, 200, author="facts+worlds", test_seed=271126, suites=True,
        backend="vllm", teach=True, prune=True,
    ),
    "paper": Profile(
        tuple(row.name for row in matrix() if row.in_paper and row.algorithm in PAPER_ALGORITHMS),
        2215, 200, 200, "paper", 2215, 100_000, 200, test_seed=271126, suites=True, backend="vllm", prune=True,
    ),
}  # fmt: skip
# Data sizes of models whose run must fit into an hour on a CPU.
OVERRIDES: dict[str, dict[str, Any]] = {
    "smollm2-135m-cpu": {"collect": 60, "max_prompts": 128, "eval_limit": 200, "teach": True}
}


def whole_number(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def experiment_names(text: str) -> list[str]:
    return text.split()


def parse_options(docstring: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ScriptParser(docstring, "bash run_all.sh", allow_abbrev=False)
    add = parser.add_argument
    add("--profile", choices=sorted(PROFILES), default="cpu")
    add("--run", default="", help="folder below outputs/ (default: the profile's name)")
    add("--only", choices=STAGES, help="run only this stage, even if it is finished")
    add("--from", dest="from_stage", choices=STAGES, help="run this stage and all later ones, even if finished")
    add("--seed", type=whole_number, default=0, help="seed of environments, collection and measurement")
    add("--train-seed", type=whole_number, default=0, help="repeat the trainings with another seed")
    add("--experiment", type=experiment_names, help="rows of python -m train.experiments, separated by spaces")
    add("--max-prompts", type=whole_number, help="prompts per epoch, to match trainings by the tokens they generate")
    add("--model", default="", help="start from this model as it is: a checkpoint folder or a hub name")
    add("--teach", default="", help="first teach this model on oracle trajectories, then start from the result")
    add("--author", default="", help="author of the built environments: facts, worlds, or facts+worlds")
    add("--data", choices=("built", "published"), default="built", help="our own or the authors' environments")
    add("--data-file", default="", help="the authors' train.jsonl; implies --data published")
    add("--controls", action="store_true", help="run all controls, including RL with shuffled rewards")
    add("--matrix", action="store_true", help="every size, mode, algorithm and reward of our own models; three seeds")
    add(
        "--split",
        choices=("dev", "test"),
        help="environments to measure on (default: dev for ablations, otherwise test)",
    )
    add(
        "--from-scratch",
        action="store_true",
        help="train the tiny start policy from scratch instead of using the shipped one",
    )
    add(
        "--keep-going",
        action="store_true",
        help="if a training fails, continue with the others; exit code 1 at the end",
    )
    add(
        "--keep-checkpoints",
        action="store_true",
        help="keep the weights of every epoch (default on GPUs: only the last epoch's)",
    )
    add("--dry-run", action="store_true", help="print the commands and run nothing")
    trainer = parser.add_argument_group("trainer options (details: python -m train.run_openrlhf --help)")
    trainer.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="an option of OpenRLHF: actor.adam.lr=5e-6"
    )
    trainer.add_argument("--preset", choices=sorted(TEMPERATURE), help="paper: temperature 1.0; released: 0.7")
    trainer.add_argument("--reference", choices=("epoch-start", "base"), help="reference policy of the KL term")
    trainer.add_argument("--gpus", type=whole_number, help="GPUs per node; 0: train on the CPU, slowly")
    trainer.add_argument("--nodes", type=whole_number, help="number of nodes")
    trainer.add_argument("--ray-address", help="submit to this Ray cluster, for example http://127.0.0.1:8265")
    trainer.add_argument("--save-steps", type=whole_number, help="save the trainer's state every N steps; 0: never")
    options = parser.parse_args(arguments)
    if options.data_file:
        options.data = "published"
    if options.model and options.teach:
        parser.error("--model starts from a model as it is, --teach teaches a model first: use only one of them")
    if options.matrix and (options.experiment or options.profile != "cpu"):
        parser.error("--matrix runs every experiment of the cpu profile: remove --experiment and --profile")
    if options.split == "dev" and options.data == "published":
        parser.error("--split dev: the authors' data have no dev environments; use --split test")
    return options
