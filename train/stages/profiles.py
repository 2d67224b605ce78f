"""How much of everything a run has (profiles), and the options of run_all.sh.

A profile is data: add a row to PROFILES to make one. What a model's training needs (batches, lengths, epochs) stands in its row of
train/experiments.py alone.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

from env_construction.environment.command_line import ScriptParser
from train.experiments import PAPER_ALGORITHMS, TEMPERATURE, matrix

STAGES = (
    "setup",
    "environments",
    "start",
    "measure_start",
    "train",
    "measure_trained",
    "controls",
    "suites",
    "logprob_gap",
    "analyse",
    "report",
)


@dataclass(frozen=True)
class Profile:
    """How much data a run uses, and where it runs. Numbers of environments, except `max_prompts` (per epoch)."""

    experiments: tuple[str, ...]
    n_train: int
    n_dev: int
    n_test: int
    level: str
    collect: int
    """Environments that the policy plays before each epoch."""
    max_prompts: int
    eval_limit: int
    test_seed: int | None = None
    """Seed of the final test environments: fixed here before the runs that report on them, and never used to choose anything."""
    outside: int = 0
    """Environments of each suite out of domain: unseen relations, the next level up, disturbed names."""
    skills: int = 0
    """Items of each made skill, which stand for the general benchmarks."""
    suites: bool = False
    """Measure the suites of the paper's Table 2 whose data are there."""
    controls: tuple[str, ...] = ()
    backend: str = "hf"
    warm_minutes: float = 20
    parallel: bool = False
    """Trainings side by side, as many as the machine has cores and memory for: on a CPU each keeps one core busy."""
    teach: bool = False
    """Models that know no tools are taught the call format first: without it their rewards are near zero."""
    prune: bool = False
    """Only the last epoch's weights are kept: larger models fill a disk."""


REWARDS = ("solve-precision", "solve-recall", "solve-pr")
TINY = ("tiny-plain-grpo", "tiny-plain-reinforce++", "tiny-thinking-grpo", "tiny-thinking-reinforce++")
OWN = ("own-plain-grpo", "own-plain-reinforce++")
SMALL = ("smollm2-135m-plain-grpo", "smollm2-135m-plain-reinforce++")
# --matrix: both modes with both algorithms and the four rewards of every size that is shipped, three seeds
SIZES = ("tiny",)
MATRIX = tuple(
    f"{model}-{rest}"
    for model in SIZES
    for rest in (*(f"{mode}-{algorithm}" for mode in ("plain", "thinking") for algorithm in PAPER_ALGORITHMS),
                 *(f"plain-grpo-{reward}" for reward in REWARDS))
)  # fmt: skip
MATRIX_SEEDS = (0, 1, 2)
PROFILES = {
    "smoke": Profile(TINY[:1], 200, 12, 16, "compact", 16, 32, 100, outside=4, skills=4,
        controls=("rejection-sampling",), warm_minutes=1.5),
    "cpu": Profile(
        (*TINY, *(f"tiny-plain-grpo-{reward}" for reward in REWARDS)),
        2000, 300, 300, "compact", 240, 384, 300, test_seed=271126, outside=100, skills=100,
        controls=("more-supervised", "oracle-demonstrations", "rejection-sampling"), parallel=True,
    ),
    "small": Profile(
        SMALL, 2000, 200, 200, "medium", 1000, 1024, 200, test_seed=271126, suites=True, backend="vllm", teach=True, prune=True
    ),
    "paper": Profile(
        tuple(row.name for row in matrix() if row.in_paper and row.algorithm in PAPER_ALGORITHMS),
        2215, 200, 200, "paper", 2215, 100_000, 200, test_seed=271126, suites=True, backend="vllm", prune=True,
    ),
}  # fmt: skip
# Models whose one run has a size of its own: an hour on a CPU.
OVERRIDES: dict[str, dict[str, Any]] = {
    "smollm2-135m-cpu": {"collect": 60, "max_prompts": 128, "eval_limit": 200, "teach": True}
}


def whole_number(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def experiment_names(text: str) -> list[str]:
    return text.split()


def parse_options(docstring: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ScriptParser(docstring, "bash run_all.sh", allow_abbrev=False)
    add = parser.add_argument
    add("--profile", choices=sorted(PROFILES), default="cpu")
    add("--run", default="", help="folder below outputs/ (default: the profile's name)")
    add("--only", choices=STAGES, help="run this stage alone, finished or not")
    add("--from", dest="from_stage", choices=STAGES, help="run this stage and all after it, finished or not")
    add("--seed", type=whole_number, default=0, help="of environments, collection and measurement")
    add("--train-seed", type=whole_number, default=0, help="repeat the trainings with another seed")
    add("--experiment", type=experiment_names, help="rows of python -m train.experiments, separated by spaces")
    add("--model", default="", help="start from this model as it is: a checkpoint folder, or a hub name")
    add("--teach", default="", help="teach this model on oracle trajectories first, and start from that")
    add("--data", choices=("built", "published"), default="built")
    add("--data-file", default="", help="the authors' train.jsonl; implies --data published")
    add("--controls", action="store_true", help="all controls, RL with shuffled rewards too")
    add("--matrix", action="store_true", help="every size, mode, algorithm and reward of our own models, three seeds")
    add(
        "--split",
        choices=("dev", "test"),
        help="measure on these (default: dev for ablations, test for the final figures)",
    )
    add(
        "--from-scratch",
        action="store_true",
        help="make the tiny policy from scratch instead of taking the shipped one",
    )
    add("--keep-going", action="store_true", help="if a training fails, go on with the others; exit code 1 at the end")
    add(
        "--keep-checkpoints",
        action="store_true",
        help="keep the weights of every epoch (default on GPUs: the last one's)",
    )
    add("--dry-run", action="store_true", help="print the commands, run nothing")
    trainer = parser.add_argument_group("the trainer (train.run_openrlhf has the details)")
    trainer.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="an option of OpenRLHF: actor.adam.lr=5e-6"
    )
    trainer.add_argument("--preset", choices=sorted(TEMPERATURE), help="paper: temperature 1.0; released: 0.7")
    trainer.add_argument("--reference", choices=("epoch-start", "base"), help="what KL is measured to")
    trainer.add_argument("--gpus", type=whole_number, help="GPUs per node; 0: on the CPU, slowly")
    trainer.add_argument("--nodes", type=whole_number)
    trainer.add_argument("--ray-address", help="submit to this Ray cluster, such as http://127.0.0.1:8265")
    trainer.add_argument("--save-steps", type=whole_number, help="save the trainer's state every N steps; 0: never")
    options = parser.parse_args(arguments)
    if options.data_file:
        options.data = "published"
    if options.model and options.teach:
        parser.error("--model starts from a model as it is, --teach teaches one first: expected one of them")
    if options.matrix and (options.experiment or options.profile != "cpu"):
        parser.error("--matrix is every experiment of the cpu profile: expected no --experiment and no other --profile")
    if options.split == "dev" and options.data == "published":
        parser.error("--split dev: the authors' data have no dev environments")
    return options
