"""The steps of a run: building, measuring and training, each as one or a few commands.

`Steps` knows how a command is called. Which steps a run takes, and in which order, is in `train/pipeline.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterator
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
"""At most. On an H200, SmolLM2-135M reached a Solve-F1 of 0.48 on train environments after 0.7 minutes."""
DEV_CHECKS = {"cpu": ("--evaluate-every", 1300, "--dev-cases", 12), "cuda": ("--evaluate-every", 40, "--dev-cases", 40)}
"""When teaching looks whether it may stop. A check on a CPU takes minutes."""
NEVER = 99_999
"""Seconds between dev evaluations that no training reaches. A control trains for a fixed time, so none is needed."""
MAX_TURNS = 20  # paper section "Evaluation"
UNSEEN = ("--hold-out", "relation:40%")
"""These relations are in the out-of-domain suite only. The shipped start policies never saw them either."""
LEVEL_ABOVE = {"compact": "medium", "medium": "paper", "paper": "paper"}
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

    def make_environments(self) -> None:
        if self.options.data == "published":
            data = self.environments
            file = ("--data-file", self.options.data_file) if self.options.data_file else ()
            self.run("environments", "train.published_data", *file, "--out", data / "train.jsonl")
            self.run("environments", "train.published_data", "--split", "test", "--out", data / "test.jsonl")
            return
        profile, more = self.profile, FROM_SCRATCH if self.options.from_scratch else 1
        final = ("--test-seed", profile.test_seed) if profile.test_seed is not None else ()
        self.build(self.environments, profile.n_train * more, profile.n_dev, profile.n_test, *self.inside, *final)
        if self.outside:
            self._build_outside(final)
        if profile.skills:
            self.run("made_skills", "eval.made_skills", "--out", self.out / "made-skills", "--items", profile.skills)

    @property
    def inside(self) -> tuple[str, ...]:
        """Options of environments that share no relation with the out-of-domain suite of unseen relations."""
        return (*UNSEEN, "--in-domain-test") if self.outside else ()

    def _build_outside(self, final: tuple[Any, ...]) -> None:
        """Build out-of-domain environments: unseen relations, the next level up, disturbed names."""
        unseen, above, disturbed = (path.parent for path in self.outside.values())
        count = self.profile.outside
        self.build(unseen, 0, 0, count, *UNSEEN, *final)
        level = LEVEL_ABOVE[self.profile.level]
        self.build(above, 0, 0, count // 2, *self.inside, *final, level=level)
        if (highest := LEVEL_ABOVE[level]) != level:  # too long for a tiny policy, but construction is judged on it
            self.build(self.out / f"environments-{highest}-level", 0, 0, count // 4, *final, level=highest)
        self.run(
            "disturb", "env_construction.disturb", "--data", self.environments / "test.jsonl", "--out", disturbed,
            "--limit", count // 2,
        )  # fmt: skip

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
        """In each epoch, collect trajectories with the current policy, build prompts and train."""
        row, name = training.row, self.name_of(training)
        policy = self.start_of(row)
        for epoch in range(1, row.scale.epochs + 1):
            folder = self.out / "train" / name / f"epoch{epoch}"
            seed = self.options.seed + 100 * training.seed + epoch
            self._prompts(row, name, policy, folder, seed)
            self.run(
                f"train_{name}", "train.run_openrlhf", "--experiment", row.name, "--policy-dir", policy,
                "--prompts", folder / "prompts.jsonl", "--out", folder, "--seed", seed, "--epoch", epoch,
                *self._trainer_options(row), tag=self.tag(name),
            )  # fmt: skip
            policy = str(folder / "checkpoint")
            if self.profile.prune and epoch > 1 and not self.options.keep_checkpoints:
                self.run(f"train_{name}", "train.prune_checkpoints", self.out / "train" / name, tag=self.tag(name))

    def collect(self, log: str, row: Experiment, policy: str, folder: Path, seed: int) -> None:
        self.run(
            log, "train.collect_trajectories", "--environments", self.environments_of(row) / "train.jsonl",
            "--limit", self.profile.collect, "--policy", f"{self.backend}:{policy}", "--out", folder,
            "--temperature", "1.0", "--max-turns", MAX_TURNS, "--max-new-tokens", row.scale.max_response,
            "--max-prompt-tokens", row.scale.max_prompt, "--seed", seed, "--thinking" if row.thinking else "",
            tag=self.tag(log.removeprefix("train_")),
        )  # fmt: skip

    def _prompts(self, row: Experiment, name: str, policy: str, folder: Path, seed: int) -> None:
        log, scale = f"train_{name}", row.scale
        source = ["--trajectories", folder / "trajectories.jsonl"]
        if row.episode:  # the trainer itself plays complete episodes, so its prompts are the questions alone
            source = ["--environments", self.environments_of(row) / "train.jsonl"]
        else:
            self.collect(log, row, policy, folder, seed)
        self.run(
            log, "train.rl_prompts", *source, "--tokenizer", policy, "--out", folder / "prompts.jsonl",
            "--rollout-batch", scale.rollout_batch, "--max-prompts", self.profile.max_prompts,
            "--max-prompt-tokens", scale.max_prompt, "--seed", seed, "--thinking" if row.thinking else "",
            tag=self.tag(name),
        )  # fmt: skip

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
            seed = self.options.seed + 100 * training.seed + epoch
            self.collect("controls", row, policy, place, seed)
            # A separate folder, because the folder of the trajectories has its own configuration file.
            learned = place / "learned"
            checkpoint = folder if epoch == scale.epochs else learned / "checkpoint"
            self.run(
                "controls", "train.rejection_sampling", "--policy-dir", policy,
                "--trajectories", place / "trajectories.jsonl", "--out", learned, "--checkpoint", checkpoint,
                "--samples", scale.samples_per_prompt, "--max-prompts", self.profile.max_prompts,
                "--max-prompt-tokens", scale.max_prompt, "--max-new-tokens", scale.max_response, "--seed", seed,
                "--learning-rate", scale.learning_rate, "--minutes", f"{self.train_minutes(training) / scale.epochs:g}",
                "--thinking" if row.thinking else "", tag=self.tag(folder.name),
            )  # fmt: skip
            policy = str(checkpoint)
