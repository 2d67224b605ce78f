"""The steps of a run: building, measuring and training, each as one or a few commands.

`Steps` knows how a command is called. Which steps a run takes, and in which order, is in `train/pipeline.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.experiments import Experiment
from train.stages.commands import CommandRunner
from train.stages.plan import Plan, Training, shipped_policy
from train.stages.policy_roles import record_content

PYTHON = (sys.executable, "-m")
FROM_SCRATCH = 8
"""Learning a policy from scratch uses this many times the environments of an RL training."""
TEACHING = (
    "--oracle", "--optimizer", "adamw", "--learning-rate", "5e-4", "--rename-share", "0", "--copy-share", "0",
    "--skill-items", "0", "--thinking-share", "0",
)  # fmt: skip
TEACHING_MINUTES = {"cpu": 26, "cuda": 6}
"""On an H200, SmolLM2-135M reached a Solve-F1 of 0.48 on train environments after 0.7 minutes."""
DEV_CHECKS = {"cpu": ("--evaluate-every", 1300, "--dev-cases", 12), "cuda": ("--evaluate-every", 40, "--dev-cases", 40)}
"""How often teaching saves a checkpoint and measures it. A check on a CPU takes minutes."""
NEVER = 99_999
"""Seconds between dev evaluations that no training reaches. A control trains for a fixed time, so none is needed."""
MAX_TURNS = 20  # paper section "Evaluation"
UNSEEN = ("--hold-out", "relation:40%")
"""These relations are in the out-of-domain suite only. The shipped start policies never saw them either."""
LEVEL_ABOVE = {"compact": "medium", "medium": "paper", "paper": "paper"}
COLLECTED = ("trajectories.jsonl", "faults.jsonl", "configuration.json")
"""All that train.collect_trajectories writes."""
SKILL_TOKENS = 192
"""Token limit of an answer to a made skill item. The longest answer is a short program."""


class Steps(Plan):
    """The steps of one call of run_all.sh."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.runner = CommandRunner(self.out / "logs", dry_run=options.dry_run)
        self._writing_roles = threading.Lock()

    # --- commands ---------------------------------------------------------------------------------------------------

    def run(self, log: str, module: str, *arguments: Any, tag: str = "", threads: int | None = None) -> None:
        """Run `python -m module` with the nonempty arguments."""
        command = [*PYTHON, module, *(str(item) for item in arguments if item != "")]
        self.runner.run(log, command, tag, {"OMP_NUM_THREADS": str(threads)} if threads else None)

    def build(self, folder: Path, n_train: int, n_dev: int, n_test: int, *more: Any, level: str = "") -> None:
        self.run(
            f"build_{folder.name}", "env_construction.build",
            "--author", self.profile.author, "--level", level or self.profile.level,
            "--n-train", n_train, "--n-dev", n_dev, "--n-test", n_test, "--seed", self.options.seed, "--workers", 2,
            "--out", folder, *more,
        )  # fmt: skip

    def measure(self, name: str, policy: str, row: Experiment, suite: str = "", data: Path | None = None) -> None:
        """Measure with greedy decoding on the run's dev or test environments, or on a suite's `data`."""
        self.run(
            f"measure_{name}", "eval.environments", "--policy", policy, "--seed", self.options.seed,
            "--data", data or self.environments / f"{self.split}.jsonl",
            "--out", self.out / "eval" / name / suite, *(() if data else ("--limit", self.profile.eval_limit)),
            "--max-turns", MAX_TURNS, "--max-new-tokens", row.scale.max_response, "--thinking" if row.thinking else "",
            tag=self.tag(name),
        )  # fmt: skip
        if not suite and not self.options.dry_run:
            with self._writing_roles:
                record_content(self.out, name)

    def measure_all(self, name: str, policy: str, row: Experiment) -> None:
        """Measure on the run's environments, the out-of-domain environments and the made skills."""
        self.measure(name, policy, row)
        for suite, data in self.outside.items():
            self.measure(name, policy, row, suite, data)
        if self.profile.skills:
            self.run(
                f"measure_{name}", "eval.general", "--tasks", "made",
                "--data", self.out / "made-skills", "--split", "test",
                "--policy", policy, "--out", self.out / "eval" / name / "general", "--seed", self.options.seed,
                "--max-new-tokens", SKILL_TOKENS, "--thinking" if row.thinking else "", tag=self.tag(name),
            )  # fmt: skip

    def tag(self, name: str) -> str:
        return f"[{name}] " if self.side_by_side > 1 else ""

    def compare(self, log: str, start: str, name: str) -> None:
        evaluated = self.out / "eval"
        target = self.out / "compare" / f"{name}_vs_start.json"
        self.run(log, "eval.compare", evaluated / start, evaluated / name, "--out", target)

    def warm_start(
        self, log: str, folder: Path, row: Experiment, seed: int, minutes: float, continue_from: str, *more: Any
    ) -> None:
        """Train with supervised learning, starting at checkpoint `continue_from` or, if it is empty, from scratch."""
        self.run(
            log, "train.warm_start", "--environments", self.environments / "train.jsonl",
            "--dev", self.environments / "dev.jsonl", "--out", folder,
            *(("--continue-from", continue_from) if continue_from else ("--model", row.model.name)),
            "--seed", seed, "--minutes", f"{minutes:g}",
            *((*TEACHING, *DEV_CHECKS[self.device_of(row)]) if self.teach else ()), *more,
            # The tiny model trains fastest on one core; a pretrained model uses all cores.
            threads=os.cpu_count() if self.teach else None, tag=self.tag(folder.name),
        )  # fmt: skip

    # --- environments and start policies ----------------------------------------------------------------------------

    def load_published(self) -> None:
        """Load the authors' train and test environments."""
        data = self.environments
        file = ("--data-file", self.options.data_file) if self.options.data_file else ()
        self.run("environments", "train.published_data", *file, "--out", data / "train.jsonl")
        self.run("environments", "train.published_data", "--split", "test", "--out", data / "test.jsonl")

    def build_inside(self) -> None:
        """Build the train, dev and test environments."""
        profile, more = self.profile, FROM_SCRATCH if self.options.from_scratch else 1
        counts = profile.n_train * more, profile.n_dev, profile.n_test
        self.build(self.environments, *counts, *self.inside, *self.final)

    @property
    def final(self) -> tuple[Any, ...]:
        """Options of environments whose test split has the profile's fixed seed."""
        seed = self.profile.test_seed
        return () if seed is None else ("--test-seed", seed)

    @property
    def inside(self) -> tuple[str, ...]:
        """Options of environments that share no relation with the out-of-domain suite of unseen relations."""
        return (*UNSEEN, "--in-domain-test") if self.outside else ()

    def outside_builds(self) -> dict[str, Callable[[], None]]:
        """The out-of-domain environments that do not depend on the test environments."""
        if not self.outside:
            return {}
        unseen, above = self.outside["unseen_relations"].parent, self.outside["next_level"].parent
        count, level = self.profile.outside, LEVEL_ABOVE[self.profile.level]
        builds: dict[str, Callable[[], None]] = {
            "unseen relations": lambda: self.build(unseen, 0, 0, count, *UNSEEN, *self.final),
            "next level": lambda: self.build(above, 0, 0, count // 2, *self.inside, *self.final, level=level),
        }
        if (highest := LEVEL_ABOVE[level]) != level:  # too long for a tiny policy, but construction is judged on it
            folder = self.out / f"environments-{highest}-level"
            builds["highest level"] = lambda: self.build(folder, 0, 0, count // 4, *self.final, level=highest)
        return builds

    def disturb(self) -> None:
        """Make the test environments with disturbed names."""
        self.run(
            "disturb", "env_construction.disturb", "--data", self.environments / "test.jsonl",
            "--out", self.outside["disturbed"].parent, "--limit", self.profile.outside // 2,
        )  # fmt: skip

    def make_skills(self) -> None:
        self.run("made_skills", "eval.made_skills", "--out", self.out / "made-skills", "--items", self.profile.skills)

    def make_start(self) -> None:
        for model, row in {row.model.name: row for row in self.rows}.items():
            start = self.start_folder(row)
            if self.start_of(row) != str(start):
                print(f"  {model} is used as it is: {self.start_of(row)}")
            elif self.teach:
                self.warm_start(
                    "start", start, row, self.options.seed, TEACHING_MINUTES[self.device_of(row)], self.teach
                )
            elif self.options.from_scratch:
                self.warm_start("start", start, row, self.options.seed, self.profile.warm_minutes, "")
            else:
                self.runner.run("start", ["cp", "-R", f"{shipped_policy(row)}/.", str(start)])

    # --- training ---------------------------------------------------------------------------------------------------

    def train_one(self, training: Training) -> None:
        """In each epoch, collect trajectories with the current policy, build prompts and train.

        A finished epoch needs no prompts, and the weights that it started from may be gone (`prune_checkpoints`).
        """
        row, name = training.row, self.name_of(training)
        policy = self.start_of(row)
        for epoch in range(1, row.scale.epochs + 1):
            folder = self.epoch_folder(training, epoch)
            if not (folder / "done.json").exists():
                self._prompts(training, epoch, policy, folder)
            self.run(
                f"train_{name}", "train.run_openrlhf", "--experiment", row.name, "--policy-dir", policy,
                "--prompts", folder / "prompts.jsonl", "--out", folder, "--seed", self.seed_of(training, epoch),
                "--epoch", epoch, *self._trainer_options(row), tag=self.tag(name),
            )  # fmt: skip
            policy = str(folder / "checkpoint")
            if self.profile.prune and epoch > 1 and not self.options.keep_checkpoints:
                self.run(f"train_{name}", "train.prune_checkpoints", self.out / "train" / name, tag=self.tag(name))

    def collector_of(self, training: Training) -> Training:
        """The first training with the same trajectories before its first epoch. It collects them for all others."""

        def source(item: Training) -> tuple[Any, ...]:
            row, scale = item.row, item.row.scale
            limits = (scale.max_prompt, scale.max_response)
            return (self.start_of(row), row.thinking, self.environments_of(row), limits, item.seed, bool(row.episode))

        return next(item for item in (*self.trainings, training) if source(item) == source(training))

    def collect_first(self, training: Training) -> None:
        """Collect the start policy's trajectories."""
        folder = self.epoch_folder(training, 1)
        self.collect(f"train_{self.name_of(training)}", training, 1, self.start_of(training.row), folder)

    def collect(self, log: str, training: Training, epoch: int, policy: str, folder: Path) -> None:
        row = training.row
        self.run(
            log, "train.collect_trajectories", "--environments", self.environments_of(row) / "train.jsonl",
            "--limit", self.profile.collect, "--policy", f"{self.backend}:{policy}", "--out", folder,
            "--temperature", "1.0", "--max-turns", MAX_TURNS, "--max-new-tokens", row.scale.max_response,
            "--max-prompt-tokens", row.scale.max_prompt, "--seed", self.seed_of(training, epoch),
            "--thinking" if row.thinking else "", tag=self.tag(log.removeprefix("train_")),
        )  # fmt: skip

    def _prompts(self, training: Training, epoch: int, policy: str, folder: Path) -> None:
        """Collect trajectories, or copy those of the same start, and build the epoch's prompts from them."""
        row, name, scale = training.row, self.name_of(training), training.row.scale
        source = ["--trajectories", folder / "trajectories.jsonl"]
        if row.episode:  # the trainer itself plays complete episodes, so its prompts are the questions alone
            source = ["--environments", self.environments_of(row) / "train.jsonl"]
        elif epoch > 1:
            self.collect(f"train_{name}", training, epoch, policy, folder)
        elif (collector := self.collector_of(training)) != training:
            files = [str(self.epoch_folder(collector, 1) / file) for file in COLLECTED]
            copy = ["install", "-D", "-m", "644", "-t", str(folder), *files]
            self.runner.run(f"train_{name}", copy, self.tag(name))
        self.run(
            f"train_{name}", "train.rl_prompts", *source, "--tokenizer", policy, "--out", folder / "prompts.jsonl",
            "--rollout-batch", scale.rollout_batch, "--max-prompts", self.profile.max_prompts,
            "--max-prompt-tokens", scale.max_prompt, "--seed", self.seed_of(training, epoch),
            "--thinking" if row.thinking else "", tag=self.tag(name),
        )  # fmt: skip

    def seed_of(self, training: Training, epoch: int) -> int:
        """Seed of an epoch's collection, prompts and training."""
        return int(self.options.seed + 100 * training.seed + epoch)

    def _trainer_options(self, row: Experiment) -> Iterator[Any]:
        """Yield the options that are passed to train.run_openrlhf unchanged."""
        options = self.options
        for name in ("gpus", "nodes", "ray_address", "preset", "reference", "save_steps"):
            value = getattr(options, name)
            if value is not None:
                yield from (f"--{name.replace('_', '-')}", value)
        if options.reference == "base":
            yield from ("--base-policy", self.start_of(row))
        for setting in options.set or ():
            yield from ("--set", setting)

    def train_minutes(self, training: Training) -> float:
        """Minutes that a training spent in its steps. A control gets the same time to learn; 10 before training.

        Start-up and collection are not counted, for controls neither. For a tiny model they would be half of the time.
        """
        total = 0.0
        for path in (self.out / "train" / self.name_of(training)).glob("epoch*/done.json"):
            total += json.loads(path.read_text(encoding="utf-8"))["seconds_in_steps"]
        return round(total / 60, 2) or 10

    def more_lessons(self, folder: Path, *more: str) -> None:
        first, seed = self.trainings[0], self.options.seed + 1  # not the lessons that the start policy saw
        self.warm_start(
            "controls", folder, first.row, seed, self.train_minutes(first), self.start_of(first.row),
            "--evaluate-every", NEVER, *more,
        )  # fmt: skip

    def reject(self, folder: Path) -> None:
        """Rejection sampling with the first training's epochs, prompts and samples per prompt."""
        training = self.trainings[0]
        row, policy, scale = training.row, self.start_of(training.row), training.row.scale
        for epoch in range(1, scale.epochs + 1):
            place = folder.with_name(f"{folder.name}-epoch{epoch}")
            collected = self.epoch_folder(training, 1) if epoch == 1 else place
            if epoch > 1:
                self.collect("controls", training, epoch, policy, collected)
            # A separate folder, because the folder of the trajectories has its own configuration file.
            learned = place / "learned"
            checkpoint = folder if epoch == scale.epochs else learned / "checkpoint"
            self.run(
                "controls", "train.rejection_sampling", "--policy-dir", policy,
                "--trajectories", collected / "trajectories.jsonl", "--out", learned, "--checkpoint", checkpoint,
                "--samples", scale.samples_per_prompt, "--rollout-batch", scale.rollout_batch,
                "--max-prompts", self.profile.max_prompts,
                "--max-prompt-tokens", scale.max_prompt, "--max-new-tokens", scale.max_response,
                "--seed", self.seed_of(training, epoch),
                "--learning-rate", scale.learning_rate, "--minutes", f"{self.train_minutes(training) / scale.epochs:g}",
                "--thinking" if row.thinking else "", tag=self.tag(folder.name),
            )  # fmt: skip
            policy = str(checkpoint)
