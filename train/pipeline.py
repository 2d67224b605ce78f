"""The whole experiment as one resumable pipeline: `bash run_all.sh` makes the environment and calls this.

    environments -> start -> measure_start -> train -> measure_trained -> controls -> suites -> logprob_gap -> analyse -> report

| stage | what it does | where it writes, below outputs/<run>/ |
| --- | --- | --- |
| environments | build train, dev and test environments, and those out of domain; each is verified in the sandbox | environments*/, made-skills/ |
| start | get the policies to start from: the shipped ones, a model as it is, or a model that is taught first | start*/ |
| measure_start | measure the floor (random), the ceiling (oracle) and the starts | eval/ |
| train | per epoch: collect with the current policy, make prompts, train with OpenRLHF | train/<name>/epoch<k>/ |
| measure_trained | measure again: same code, same cases, paired differences | eval/, compare/ |
| controls | the first training's rivals, with its time: supervised learning of three kinds, RL with shuffled rewards | controls/, eval/, compare/ |
| suites | the suites of the paper's Table 2 whose data are there, starts and trained policies | eval/<name>/<suite>/ |
| logprob_gap | how far the rollout engine's log-probabilities are from the trainer's | train/<name>/epoch<k>/logprob_gap.json |
| analyse | tables and figures of everything for which data is there | analysis/ |
| report | manifest and one self-contained page | manifest.json, report.html |

A second call repeats nothing that is finished; a call after a kill resumes. `policies.json` says what each policy of the run is, for
the analyses. Sizes of a model's training come from its row of `train/experiments.py`; a profile says how much data there is.
Choices are made on dev environments: experiments that are ablations are measured on them, unless --split test asks for the final figure.

Examples:
    bash run_all.sh                                    # the cpu profile: tiny models, no GPU, no model hub, no key; all six claims
    bash run_all.sh --matrix --run matrix              every size, mode, algorithm, reward and control, three seeds; resumable
    bash run_all.sh --profile smoke                    the same path in minutes; its numbers mean nothing
    bash run_all.sh --profile paper --dry-run          every command of the paper's twelve runs; nothing is run
    bash run_all.sh --experiment tiny-plain-grpo-solve-recall     one row of `python -m train.experiments`, on dev environments
    bash run_all.sh --set actor.adam.lr=5e-6 --run slow           any setting of the trainer, recorded with the run
    bash run_all.sh --profile paper --data published   train and test on the authors' environments
    bash run_all.sh --profile small --gpus 0           on another number of GPUs than the profile's own; 0: on the CPU, slowly
    bash run_all.sh --run mine --model PATH            start from your own model (a checkpoint folder, or a hub name)
    bash run_all.sh --run mine --teach MODEL           teach a pretrained model on oracle trajectories first, and start from that
    bash run_all.sh --only report | --from analyse     one stage, or all from one stage on
    bash run_all.sh --train-seed 1                     repeat the trainings with another seed; environments and start stay
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from env_construction.environment.jsonl import keep_configuration, run_main
from train.experiments import Experiment
from train.stages.commands import CommandFailed, CommandRunner, StageLog
from train.stages.plan import CONTROLS, Plan, Training, shipped_policy
from train.stages.policy_roles import record_content, write_roles
from train.stages.profiles import parse_options

PYTHON = (sys.executable, "-m")
FROM_SCRATCH = 8
"""A policy is made from this many times more environments than one is trained in."""
TEACHING = (
    "--oracle", "--optimizer", "adamw", "--learning-rate", "5e-4", "--rename-share", "0", "--copy-share", "0",
    "--evaluate-every", "1300", "--dev-cases", "12", "--skill-items", "0", "--thinking-share", "0",
)  # fmt: skip
TEACHING_MINUTES = 26
MAX_TURNS = 20  # paper section "Evaluation"
SUITES = "toolhop,tau_bench,rotbench,bfcl,general"
LEVEL_ABOVE = {"compact": "medium", "medium": "paper", "paper": "paper"}
SKILL_TOKENS = 192
"""Tokens of an answer to a made skill: a short program is the longest."""


class Pipeline(Plan):
    """One call of run_all.sh: its plan, and a method for each stage."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.runner = CommandRunner(self.out / "logs", dry_run=options.dry_run)
        self.log = StageLog(self.out / "stages.jsonl")
        self.failed: list[str] = []
        self._worked = False
        self._writing_roles = threading.Lock()

    # --- commands ---------------------------------------------------------------------------------------------------

    def run(self, log: str, module: str, *arguments: Any, tag: str = "", threads: int | None = None) -> None:
        """Run `python -m module` with the arguments that are not empty."""
        command = [*PYTHON, module, *(str(item) for item in arguments if item != "")]
        self.runner.run(log, command, tag, {"OMP_NUM_THREADS": str(threads)} if threads else None)

    def build(self, folder: Path, n_train: int, n_dev: int, n_test: int, *more: Any, level: str = "") -> None:
        self.run(
            f"build_{folder.name}", "env_construction.build", "--author", "facts", "--level", level or self.profile.level,
            "--n-train", n_train, "--n-dev", n_dev, "--n-test", n_test, "--seed", self.options.seed, "--workers", 2,
            "--out", folder, *more,
        )  # fmt: skip

    def measure(self, name: str, policy: str, row: Experiment, suite: str = "", data: Path | None = None) -> None:
        """Greedy, on the run's own dev or test environments, or on those of a suite."""
        self.run(
            f"measure_{name}", "eval.environments", "--policy", policy, "--seed", self.options.seed,
            "--data", data or self.environments / f"{self.split}.jsonl",
            "--out", self.out / "eval" / name / suite, *(() if data else ("--limit", self.profile.eval_limit)),
            "--max-turns", MAX_TURNS, "--max-new-tokens", row.scale.max_response, "--thinking" if row.thinking else "",
            tag=self._tag(name),
        )  # fmt: skip
        if not suite and not self.options.dry_run:
            with self._writing_roles:
                record_content(self.out, name)

    def measure_all(self, name: str, policy: str, row: Experiment) -> None:
        """On the run's own environments, on those out of domain, and on the made skills."""
        self.measure(name, policy, row)
        for suite, data in self.outside.items():
            self.measure(name, policy, row, suite, data)
        if self.profile.skills:
            self.run(
                f"measure_{name}", "eval.general", "--tasks", "made", "--data", self.out / "made-skills", "--split", "test",
                "--policy", policy, "--out", self.out / "eval" / name / "general", "--seed", self.options.seed,
                "--max-new-tokens", SKILL_TOKENS, "--thinking" if row.thinking else "", tag=self._tag(name),
            )  # fmt: skip

    def _tag(self, name: str) -> str:
        return f"[{name}] " if self.side_by_side > 1 else ""

    def compare(self, log: str, start: str, name: str) -> None:
        evaluated = self.out / "eval"
        target = self.out / "compare" / f"{name}_vs_start.json"
        self.run(log, "eval.compare", evaluated / start, evaluated / name, "--out", target)

    def warm_start(
        self, log: str, folder: Path, row: Experiment, seed: int, minutes: float, continue_from: str, *more: str
    ) -> None:
        """Supervised learning: `continue_from` a checkpoint, or from scratch."""
        self.run(
            log, "train.warm_start", "--environments", self.environments / "train.jsonl",
            "--dev", self.environments / "dev.jsonl", "--out", folder,
            *(("--continue-from", continue_from) if continue_from else ("--model", row.model.name)),
            "--seed", seed, "--minutes", f"{minutes:g}", *(TEACHING if self.teach else ()), *more,
            # the tiny model is fastest on one core, a pretrained one uses all
            threads=os.cpu_count() if self.teach else None, tag=self._tag(folder.name),
        )  # fmt: skip

    def side_by_side_do(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Do all tasks, as many at once as the machine allows. The first that fails ends the others."""
        with ThreadPoolExecutor(self.side_by_side) as pool:
            for done in [pool.submit(task) for task in tasks]:
                try:
                    done.result()
                except CommandFailed:
                    self.runner.stop()
                    raise

    # --- training ---------------------------------------------------------------------------------------------------

    def train_one(self, training: Training) -> None:
        """Per epoch: collect with the current policy, make prompts, train."""
        row, name = training.row, self.name_of(training)
        policy = self.start_of(row)
        for epoch in range(1, row.scale.epochs + 1):
            folder = self.out / "train" / name / f"epoch{epoch}"
            seed = self.options.seed + 100 * training.seed + epoch
            self._prompts(row, name, policy, folder, seed)
            self.run(
                f"train_{name}", "train.run_openrlhf", "--experiment", row.name, "--policy-dir", policy,
                "--prompts", folder / "prompts.jsonl", "--out", folder, "--seed", seed, "--epoch", epoch,
                *self._trainer_options(row), tag=self._tag(name),
            )  # fmt: skip
            policy = str(folder / "checkpoint")
            if self.profile.prune and epoch > 1 and not self.options.keep_checkpoints:
                self.run(f"train_{name}", "train.prune_checkpoints", self.out / "train" / name, tag=self._tag(name))

    def _collect(self, log: str, row: Experiment, policy: str, folder: Path, seed: int) -> None:
        self.run(
            log, "train.collect_trajectories", "--environments", self.environments_of(row) / "train.jsonl",
            "--limit", self.profile.collect, "--policy", f"{self.backend}:{policy}", "--out", folder, "--temperature", "1.0",
            "--max-turns", MAX_TURNS, "--max-new-tokens", row.scale.max_response,
            "--max-prompt-tokens", row.scale.max_prompt, "--seed", seed, "--thinking" if row.thinking else "",
            tag=self._tag(log.removeprefix("train_")),
        )  # fmt: skip

    def _prompts(self, row: Experiment, name: str, policy: str, folder: Path, seed: int) -> None:
        log, scale = f"train_{name}", row.scale
        source = ["--trajectories", folder / "trajectories.jsonl"]
        if row.episode:  # whole episodes are played while training: their prompts are the bare questions
            source = ["--environments", self.environments_of(row) / "train.jsonl"]
        else:
            self._collect(log, row, policy, folder, seed)
        self.run(
            log, "train.rl_prompts", *source, "--tokenizer", policy, "--out", folder / "prompts.jsonl",
            "--rollout-batch", scale.rollout_batch, "--max-prompts", self.profile.max_prompts,
            "--max-prompt-tokens", scale.max_prompt, "--seed", seed, "--thinking" if row.thinking else "", tag=self._tag(name),
        )  # fmt: skip

    def _trainer_options(self, row: Experiment) -> Iterator[Any]:
        """Options that go through to train.run_openrlhf as they are."""
        options = self.options
        for name in ("gpus", "nodes", "ray_address", "preset", "reference", "save_steps"):
            value = getattr(options, name)
            if value is not None:
                yield from (f"--{name.replace('_', '-')}", value)
        if options.reference == "base":
            yield from ("--base-policy", self.start_of(row))
        for setting in options.set or ():
            yield from ("--set", setting)

    def train_all(self, trainings: list[Training]) -> None:
        """Train all of them. One that fails ends the others, or, with --keep-going, is reported at the end."""
        for row in {training.row.without: training.row for training in trainings}.values():
            if row.without:
                self.build(self.environments_of(row), self.profile.n_train, 0, 0, "--without", row.without)
        self.side_by_side_do(lambda item=item: self._train_or_note(item) for item in trainings)  # type: ignore[misc]

    def _train_or_note(self, training: Training) -> None:
        try:
            self.train_one(training)
        except CommandFailed as error:
            if not self.options.keep_going:
                raise
            print(f"run_all: {self.name_of(training)} failed; the others continue. {error}", file=sys.stderr)
            self.failed.append(self.name_of(training))

    def train_minutes(self, training: Training) -> float:
        """Wall time of a training, resumed calls included: what a control gets. 10 before there is one."""
        total = 0.0
        for path in (self.out / "train" / self.name_of(training)).glob("epoch*/done.json"):
            done = json.loads(path.read_text(encoding="utf-8"))
            total += max(done["seconds"], done["seconds_in_steps"])
        return round(total / 60, 2) or 10

    # --- stages -----------------------------------------------------------------------------------------------------

    def make_environments(self) -> None:
        if self.options.data == "published":
            data = self.environments
            file = ("--data-file", self.options.data_file) if self.options.data_file else ()
            self.run("environments", "train.published_data", *file, "--out", data / "train.jsonl")
            self.run("environments", "train.published_data", "--split", "test", "--out", data / "test.jsonl")
            return
        profile, more = self.profile, FROM_SCRATCH if self.options.from_scratch else 1
        final = ("--test-seed", profile.test_seed) if profile.test_seed is not None else ()
        self.build(self.environments, profile.n_train * more, profile.n_dev, profile.n_test, *final)
        if self.outside:
            self._build_outside(final)
        if profile.skills:
            self.run("made_skills", "eval.made_skills", "--out", self.out / "made-skills", "--items", profile.skills)

    def _build_outside(self, final: tuple[Any, ...]) -> None:
        """Environments that the policy was not made for: unseen relations, the next level up, disturbed names."""
        unseen, above, disturbed = (path.parent for path in self.outside.values())
        count = self.profile.outside
        self.build(unseen, 0, 0, count, "--split-relations", *final)
        level = LEVEL_ABOVE[self.profile.level]
        self.build(above, 0, 0, count // 2, *final, level=level)
        if (highest := LEVEL_ABOVE[level]) != level:  # too long for a tiny policy; construction is judged on it too
            self.build(self.out / f"environments-{highest}-level", 0, 0, count // 4, *final, level=highest)
        self.run(
            "disturb", "env_construction.disturb", "--data", self.environments / "test.jsonl", "--out", disturbed,
            "--limit", count // 2,
        )  # fmt: skip

    def make_start(self) -> None:
        for model, row in {row.model.name: row for row in self.rows}.items():
            start = self.start_folder(row)
            if self.start_of(row) != str(start):
                print(f"  {model} comes trained: {self.start_of(row)}")
            elif self.teach:
                self.warm_start("start", start, row, self.options.seed, TEACHING_MINUTES, self.teach)
            elif self.options.from_scratch:
                self.warm_start("start", start, row, self.options.seed, self.profile.warm_minutes, "")
            else:
                self.runner.run("start", ["cp", "-R", f"{shipped_policy(row)}/.", str(start)])

    def measure_start(self) -> None:
        first = self.rows[0]
        tasks = [lambda: self.measure("random", "random", first)]
        if self.options.data == "built":  # the published environments have no gold plan
            tasks.append(lambda: self.measure("oracle", "oracle", first))
        starts = {self.start_name(row): row for row in reversed(self.rows)}
        for name, row in starts.items():
            policy = f"{self.backend}:{self.start_of(row)}"
            tasks.append(lambda name=name, policy=policy, row=row: self.measure_all(name, policy, row))  # type: ignore[misc]
        self.side_by_side_do(tasks)

    def train(self) -> None:
        self.train_all(self.trainings)

    def measure_trained(self) -> None:
        self.side_by_side_do(
            lambda item=item: self._measure_one(item)  # type: ignore[misc]
            for item in self.trainings
            if self.name_of(item) not in self.failed
        )

    def _measure_one(self, training: Training) -> None:
        row, name = training.row, self.name_of(training)
        # what an ablation does out of domain is no part of any claim
        measure = self.measure_all if row.plain_reward else self.measure
        measure(name, f"{self.backend}:{self.checkpoint_of(training)}", row)
        self.compare("measure_trained", self.start_name(row), name)

    def run_controls(self) -> None:
        """What might do as well as the first training, in the same time."""
        made = {
            "more-supervised": lambda folder: self._more_lessons(folder),
            "oracle-demonstrations": lambda folder: self._more_lessons(folder, "--oracle"),
            "rejection-sampling": self._reject,
            "shuffled": lambda _: self.train_all([self.shuffled]),
        }
        self.side_by_side_do(
            lambda name=name: self._control(name, made[name])  # type: ignore[misc]
            for name in CONTROLS
            if name in self.controls
        )

    def _control(self, control: str, make: Callable[[Path], None]) -> None:
        first = self.rows[0]
        folder = self.out / "controls" / control
        make(folder)
        policy = self.checkpoint_of(self.shuffled) if control == "shuffled" else str(folder)
        name = self.control_name(control)
        self.measure(name, f"{self.backend}:{policy}", first)
        self.compare("controls", self.start_name(first), name)

    def _more_lessons(self, folder: Path, *more: str) -> None:
        first, seed = self.trainings[0], self.options.seed + 1  # other lessons than the start had
        self.warm_start("controls", folder, first.row, seed, self.train_minutes(first), self.start_of(first.row), *more)

    def _reject(self, folder: Path) -> None:
        """Rejection sampling with the first training's epochs, prompts and samples per prompt."""
        training = self.trainings[0]
        row, policy, scale = training.row, self.start_of(training.row), training.row.scale
        for epoch in range(1, scale.epochs + 1):
            place = folder.with_name(f"{folder.name}-epoch{epoch}")
            seed = self.options.seed + 100 * training.seed + epoch
            self._collect("controls", row, policy, place, seed)
            # beside the trajectories, whose folder has a configuration of its own
            learned = place / "learned"
            checkpoint = folder if epoch == scale.epochs else learned / "checkpoint"
            self.run(
                "controls", "train.rejection_sampling", "--policy-dir", policy, "--trajectories", place / "trajectories.jsonl",
                "--out", learned, "--checkpoint", checkpoint,
                "--samples", scale.samples_per_prompt, "--max-prompts", self.profile.max_prompts,
                "--max-prompt-tokens", scale.max_prompt, "--max-new-tokens", scale.max_response, "--seed", seed,
                "--learning-rate", scale.learning_rate, "--minutes", f"{self.train_minutes(training) / scale.epochs:g}",
                "--thinking" if row.thinking else "", tag=self._tag(folder.name),
            )  # fmt: skip
            policy = str(checkpoint)

    def run_suites(self) -> None:
        """Table 2's suites for starts and trained policies. What has no data is named, and tried again by the next call."""
        policies = {self.start_name(row): (self.start_of(row), row) for row in self.rows}
        for item in self.trainings:
            if item.row.plain_reward and self.name_of(item) not in self.failed:
                policies[self.name_of(item)] = (self.checkpoint_of(item), item.row)
        for name, (policy, row) in policies.items():
            self.run(
                "suites", "eval.run", "--model", f"{self.backend}:{policy}", "--suites", SUITES,
                "--out", self.out / "eval" / name, "--max-new-tokens", row.scale.max_response, "--skip-missing",
                "--thinking" if row.thinking else "",
            )  # fmt: skip

    def logprob_gap(self) -> None:
        """Of the first training: engine and trainer are the same in all of a run."""
        training = self.trainings[0]
        folder = self.out / "train" / self.name_of(training) / f"epoch{training.row.scale.epochs}"
        self.run(
            "logprob_gap", "train.logprob_gap", "--policy", folder / "checkpoint", "--prompts", folder / "prompts.jsonl",
            "--max-prompt-tokens", training.row.scale.max_prompt, "--out", folder / "logprob_gap.json",
        )  # fmt: skip

    def analyse(self) -> None:
        self.run("analyse", "analysis.all", self.out)

    def report(self) -> None:
        settings = ("--set", f"profile={self.options.profile}", "--set", f"seed={self.options.seed}")
        self.run("report", "analysis.manifest", self.out, *settings)
        self.run("report", "analysis.report", self.out)

    # --- the order ----------------------------------------------------------------------------------------------------

    def stages(self) -> Iterator[tuple[str, str, Callable[[], None], Path]]:
        """Name, what it does, the method, and what it writes."""
        profile, out = self.profile, self.out
        names = " ".join(self.name_of(training) for training in self.trainings)
        more = FROM_SCRATCH if self.options.from_scratch else 1
        built = (
            f"build {profile.n_train * more} train, {profile.n_dev} dev and {profile.n_test} test environments; "
            "each is verified in the sandbox"
        )
        data = built if self.options.data == "built" else "take the authors' train and test environments"
        yield "environments", data, self.make_environments, self.environments
        yield "start", "get a policy to start from", self.make_start, out / "start"
        where = f"on the {self.split} environments"
        yield "measure_start", f"measure floor, ceiling and start {where}", self.measure_start, out / "eval"
        epochs = " or ".join(str(number) for number in sorted({row.scale.epochs for row in self.rows}))
        yield "train", f"reinforcement learning on OpenRLHF, {epochs} epochs each: {names}", self.train, out / "train"
        yield "measure_trained", "measure again: same code, same cases, paired", self.measure_trained, out / "compare"
        if self.controls:
            yield "controls", f"the same time with {', '.join(self.controls)}", self.run_controls, out / "compare"
        if profile.suites:
            yield "suites", "measure the suites of Table 2 whose data are there", self.run_suites, out / "eval"
        if self.backend == "vllm" and not self.rows[0].episode:
            what = "compare the rollout engine's log-probabilities with the trainer's"
            yield "logprob_gap", what, self.logprob_gap, out / "train"
        yield "analyse", "tables and figures of everything for which data is there", self.analyse, out / "analysis"
        yield "report", "manifest and one self-contained page", self.report, out / "report.html"

    def key_of(self, stage: str) -> dict[str, Any]:
        """What identifies a finished stage; from training on, also which experiments it was about."""
        key: dict[str, Any] = {"stage": stage}
        if stage == "measure_start":
            key |= {"starts": sorted({self.start_name(row) for row in self.rows})}
        if stage in ("train", "measure_trained", "controls", "suites", "logprob_gap"):
            key |= {"trainings": [self.name_of(training) for training in self.trainings]}
        if stage == "controls":
            key |= {"controls": list(self.controls)}
        return key

    def run_stages(self) -> None:
        """All stages that are asked for and not finished, in order."""
        options = self.options
        asked = options.dry_run or options.only or options.from_stage
        begun = not options.from_stage
        for name, what, work, written in self.stages():
            begun = begun or name == options.from_stage
            if not begun or (options.only and name != options.only):
                continue
            # tables and report are remade whenever an earlier stage did something
            stale = name in ("analyse", "report") and self._worked
            if not (asked or stale) and self.log.finished(self.key_of(name)):
                print(f"== {name}: done already", flush=True)
                continue
            print(f"== {name}: {what}", flush=True)
            started = time.monotonic()
            work()
            if options.dry_run:
                continue
            self._worked = True
            if self.failed and name in ("train", "measure_trained"):
                continue  # the next call takes up what failed
            print(f"== {name}: {self.log.write(self.key_of(name), started)} s -> {written}", flush=True)

    def prepare(self) -> None:
        """Refuse a run folder that was made with other settings, and write what each policy of the run is."""
        options = self.options
        models = {row.model.name for row in self.rows}
        kept = {
            "profile": options.profile,
            "seed": str(options.seed),
            "model": "matrix" if self.several_models else models.pop(),
            "from_scratch": str(int(options.from_scratch)),
            "data": options.data,
            "split": self.split,
        }
        more = {"start": options.model, "teach": self.teach, "settings": " ".join(options.set or ())}
        keep_configuration(self.out, {**kept, **{key: value for key, value in more.items() if value}})
        write_roles(self.out, self.roles())


def main() -> int:
    options = parse_options(__doc__)
    pipeline = Pipeline(options)

    def terminated(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    if all(not pipeline.gpus_of(row) for row in pipeline.rows):
        # the CPU was asked for, whatever the machine has (train/trainer/devices.py)
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not options.dry_run:
        pipeline.prepare()
    try:
        pipeline.run_stages()
    except CommandFailed as error:
        print(f"run_all: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("run_all: stopped; the same command resumes", file=sys.stderr)
        return 130
    finally:
        pipeline.runner.stop()
    if pipeline.failed:
        print(f"run_all: failed: {', '.join(pipeline.failed)}; the same command tries them again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
