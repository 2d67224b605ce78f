"""The complete experiment as one resumable pipeline. `bash run_all.sh` sets up the Python environment and calls this.

    environments -> start -> measure_start -> train -> measure_trained -> controls
    -> restoration -> suites -> logprob_gap -> analyse -> report

| stage | what it does | output below outputs/<run>/ |
| --- | --- | --- |
| environments | build and verify train, dev, test and out-of-domain environments | environments*/, made-skills/ |
| start | get the start policies: shipped, a model as it is, or a model taught first | start*/ |
| measure_start | measure the floor (random), the ceiling (oracle) and the start policies | eval/ |
| train | per epoch: collect trajectories (the first ones per start), build prompts, train | train/<name>/epoch<k>/ |
| measure_trained | measure the trained policies on the same cases; paired differences | eval/, compare/ |
| controls | alternatives to the first training, with the same time budget | controls/, eval/, compare/ |
| restoration | restore groups of the first training's weights; measure the remaining gain | restore/ |
| suites | run the suites of the paper's Table 2 that have data | eval/<name>/<suite>/ |
| logprob_gap | compare the log-probabilities of rollout engine and trainer | train/<name>/epoch<k>/logprob_gap.json |
| analyse | draw every table and figure that has data | analysis/ |
| report | write the manifest and one self-contained page | manifest.json, report.html |

The controls are three kinds of supervised learning and RL with shuffled rewards.

A stage consists of tasks that run in parallel if the machine has the cores and the memory. A task needs only some
results of earlier stages, so stages overlap (train/stages/tasks.py). With a GPU the tasks run one by one, in order.

The same command skips finished stages and resumes after an interruption. `policies.json` records what each policy of
the run is; the analyses read it. A profile sets the amount of data. A row of `train/experiments.py` sets the size of a
model's training. Ablations are measured on dev environments, because choices are made there. `--split test` measures
the final result.

Examples:
    bash run_all.sh                                    # cpu profile: tiny models, no GPU or network; all six claims
    bash run_all.sh --matrix --run matrix              every size, mode, algorithm, reward and control; three seeds
    bash run_all.sh --profile smoke                    every stage in minutes; its numbers mean nothing
    bash run_all.sh --profile paper --dry-run          print every command of the paper's twelve runs; run nothing
    bash run_all.sh --experiment tiny-plain-grpo-solve-recall     one row of `python -m train.experiments`
    bash run_all.sh --author worlds --run worlds       environments about fictional worlds only
    bash run_all.sh --set actor.adam.lr=5e-6 --run slow           any trainer setting; recorded with the run
    bash run_all.sh --profile paper --data published   train and test on the authors' environments
    bash run_all.sh --profile small --gpus 0           another number of GPUs; 0: on the CPU, slowly
    bash run_all.sh --run mine --model PATH            start from your own model (checkpoint folder or hub name)
    bash run_all.sh --run mine --teach MODEL           teach a pretrained model on oracle trajectories first
    bash run_all.sh --only report | --from analyse     one stage, or one stage and all later ones
    bash run_all.sh --train-seed 1                     train again with another seed; keep environments and start
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from env_construction.environment.jsonl import keep_configuration, run_main
from train.experiments import TEMPERATURE, Experiment
from train.policies.specs import WORKERS_VARIABLE
from train.stages.commands import CommandFailed, StageLog
from train.stages.plan import CONTROLS, Training
from train.stages.policy_roles import write_roles
from train.stages.profiles import parse_options
from train.stages.steps import FROM_SCRATCH, Steps
from train.stages.tasks import Task, run_tasks
from train.trainer import preloaded_python

SUITES = "toolhop,tau_bench,rotbench,bfcl,general"
PRELOADED = (
    "analysis.restore_elements",
    "eval.compare",
    "eval.environments",
    "eval.general",
    "train.policies.local_policies",
    "train.rejection_sampling",
    "train.run_openrlhf",
    "train.warm_start",
    "transformers.models.qwen3.modeling_qwen3",
)
"""Imported once for all commands of a run on a CPU. Their imports would take minutes in all."""
OF_TRAININGS = ("train", "measure_trained", "controls", "restoration", "suites", "logprob_gap")
"""Stages that are not finished as long as a training has failed."""
LAST = ("analyse", "report")
"""Stages that read what all others wrote."""
RESTORED = {"layers": 7, "elements": 3}
"""The restoration tests, and the parts in which each is measured: short ones, so that no core waits for the last."""


@dataclass(frozen=True)
class Stage:
    """A row of the table above: its tasks, and the output path that is printed at its end."""

    name: str
    what: str
    tasks: Sequence[Task]
    written: Path


class Pipeline(Steps):
    """One call of run_all.sh: the tasks of each stage, and their order."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.log = StageLog(self.out / "stages.jsonl")
        self.failed: list[str] = []

    # --- stages -----------------------------------------------------------------------------------------------------

    def make_environments(self) -> list[Task]:
        if self.options.data == "published":
            return [Task("environments", self.load_published)]
        tasks = [Task("environments", self.build_inside)]
        tasks += [Task(f"build {name}", build) for name, build in self.outside_builds().items()]
        if self.outside:
            tasks.append(Task("disturb", self.disturb, ["environments"]))
        if self.profile.skills:
            tasks.append(Task("made skills", self.make_skills))
        return tasks

    def measure_start(self) -> list[Task]:
        first = self.rows[0]
        tasks = [Task("measure random", lambda: self.measure("random", "random", first), ["environments"])]
        if self.options.data == "built":  # the published environments have no gold plan
            tasks.append(Task("measure oracle", lambda: self.measure("oracle", "oracle", first), ["environments"]))
        for name, row in {self.start_name(row): row for row in reversed(self.rows)}.items():
            work = partial(self.measure_all, name, f"{self.backend}:{self.start_of(row)}", row)
            tasks.append(Task(f"measure {name}", work, ["start"]))
        return tasks

    def train(self) -> list[Task]:
        """Train. A failure stops the run; with --keep-going it is reported at the end instead."""
        tasks = []
        for without, row in {row.without: row for row in self.rows if row.without}.items():
            build = partial(
                self.build, self.environments_of(row), self.profile.n_train, 0, 0, *self.inside, "--without", without
            )
            tasks.append(Task(f"build without {without}", build, ["environments"]))
        for training in self.trainings:
            name, collector = self.name_of(training), self.collector_of(training)
            needs = ["start", f"build without {training.row.without}"]
            if collector == training and not training.row.episode:
                collect = partial(self._or_note, training, self.collect_first)
                tasks.append(Task(f"collect {name}", collect, needs))
            needs = [*needs, f"collect {self.name_of(collector)}"]
            tasks.append(Task(f"train {name}", partial(self._train_or_note, training), needs))
        return tasks

    def _train_or_note(self, training: Training) -> None:
        self._unless_failed(training, partial(self._or_note, training, self.train_one))

    def _or_note(self, training: Training, work: Callable[[Training], None]) -> None:
        try:
            work(training)
        except CommandFailed as error:
            if not self.options.keep_going:
                raise
            print(f"run_all: {self.name_of(training)} failed; the others continue. {error}", file=sys.stderr)
            self.failed.append(self.name_of(training))

    def measure_trained(self) -> list[Task]:
        return [
            Task(
                f"measure {self.name_of(training)}",
                partial(self._unless_failed, training, partial(self._measure_one, training)),
                [f"train {self.name_of(training)}", f"measure {self.start_name(training.row)}"],
            )
            for training in self.trainings
        ]

    def _unless_failed(self, training: Training, work: Callable[[], None]) -> None:
        if self.name_of(training) not in self.failed:
            work()

    def _measure_one(self, training: Training) -> None:
        row, name = training.row, self.name_of(training)
        # No claim needs an ablation's results out of domain.
        measure = self.measure_all if row.plain_reward else self.measure
        measure(name, f"{self.backend}:{self.checkpoint_of(training)}", row)
        self.compare("measure_trained", self.start_name(row), name)

    def run_controls(self) -> list[Task]:
        """Train and measure the controls: alternatives to the first training, with the same time budget."""
        trainers = {
            "more-supervised": self.more_lessons,
            "oracle-demonstrations": lambda folder: self.more_lessons(folder, "--oracle"),
            "rejection-sampling": self.reject,
            "shuffled": lambda _: self._train_or_note(self.shuffled),
        }
        needs = [f"train {self.name_of(self.trainings[0])}", f"measure {self.start_name(self.rows[0])}"]
        return [
            Task(
                f"control {name}",
                partial(self._unless_failed, self.trainings[0], partial(self._control, name, trainers[name])),
                needs,
            )
            for name in CONTROLS
            if name in self.controls
        ]

    def _control(self, control: str, train: Callable[[Path], None]) -> None:
        first = self.rows[0]
        folder = self.out / "controls" / control
        train(folder)
        name = self.control_name(control)
        if name in self.failed:
            return
        policy = self.checkpoint_of(self.shuffled) if control == "shuffled" else str(folder)
        self.measure(name, f"{self.backend}:{policy}", first)
        self.compare("controls", self.start_name(first), name)

    def restore(self) -> list[Task]:
        """Test where the gain is stored: by layer group and by size of the change (analysis/restore_*.py)."""
        first, name = self.trainings[0], self.name_of(self.trainings[0])

        def restore_by(by: str, part: str) -> None:
            self.run(
                f"restore_{by}", f"analysis.restore_{by}", self.out, "--policy", name,
                "--limit", self.profile.restored, "--part", part, "--no-figures", tag=self.tag(f"restore {by}"),
            )  # fmt: skip

        return [
            Task(
                f"restore {by} {part}",
                partial(self._unless_failed, first, partial(restore_by, by, part)),
                [f"measure {name}", f"measure {self.start_name(first.row)}"],
            )
            for by, parts in RESTORED.items()
            for part in (f"{number}/{parts}" for number in range(1, parts + 1))
        ]

    def run_suites(self) -> list[Task]:
        """Run Table 2's suites for start and trained policies. Suites without data are listed and retried next time."""

        def measure(name: str, policy: str, row: Experiment) -> None:
            self.run(
                "suites", "eval.run", "--model", f"{self.backend}:{policy}", "--suites", SUITES,
                "--out", self.out / "eval" / name, "--max-new-tokens", row.scale.max_response, "--skip-missing",
                "--thinking" if row.thinking else "",
            )  # fmt: skip

        starts = {self.start_name(row): row for row in self.rows}
        tasks = [
            Task(f"suites {name}", partial(measure, name, self.start_of(row), row), ["start"])
            for name, row in starts.items()
        ]
        for item in self.trainings:
            if item.row.plain_reward:
                name = self.name_of(item)
                work = partial(measure, name, self.checkpoint_of(item), item.row)
                tasks.append(Task(f"suites {name}", partial(self._unless_failed, item, work), [f"train {name}"]))
        return tasks

    def logprob_gap(self) -> list[Task]:
        """Measure the gap for the first training only: all trainings of a run share the engine and the trainer."""
        training = self.trainings[0]
        folder = self.epoch_folder(training, training.row.scale.epochs)

        def work() -> None:
            try:
                self.run(
                    "logprob_gap", "train.logprob_gap",
                    "--policy", folder / "checkpoint", "--prompts", folder / "prompts.jsonl",
                    "--max-prompt-tokens", training.row.scale.max_prompt,
                    "--temperature", TEMPERATURE[self.options.preset or "paper"],
                    "--out", folder / "logprob_gap.json",
                )  # fmt: skip
            except CommandFailed as error:  # a diagnostic: tables and report do not need it
                print(
                    f"run_all: the log-probability gap was not measured (--only logprob_gap tries again). {error}",
                    file=sys.stderr,
                )

        needs = [f"train {self.name_of(training)}"]
        return [Task("logprob_gap", partial(self._unless_failed, training, work), needs)]

    def analyse(self) -> None:
        self.run("analyse", "analysis.all", self.out)

    def report(self) -> None:
        settings = ("--set", f"profile={self.options.profile}", "--set", f"seed={self.options.seed}")
        self.run("report", "analysis.manifest", self.out, *settings)
        self.run("report", "analysis.report", self.out)

    # --- the order ----------------------------------------------------------------------------------------------------

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in order. The last two need all earlier tasks."""
        profile, out = self.profile, self.out
        earlier: list[str] = []

        def stage(name: str, what: str, work: list[Task] | Callable[[], None], written: Path) -> Stage:
            tasks = work if isinstance(work, list) else [Task(name, work, tuple(earlier))]
            earlier.extend(task.name for task in tasks)
            return Stage(name, what, tasks, written)

        names = " ".join(self.name_of(training) for training in self.trainings)
        more = FROM_SCRATCH if self.options.from_scratch else 1
        built = (
            f"build {profile.n_train * more} train, {profile.n_dev} dev and {profile.n_test} test environments; "
            "each is verified in the sandbox"
        )
        data = built if self.options.data == "built" else "load the authors' train and test environments"
        yield stage("environments", data, self.make_environments(), self.environments)
        yield stage("start", "get the start policies", self.make_start, out / "start")
        where = f"on the {self.split} environments"
        what = f"measure floor, ceiling and start policies {where}"
        yield stage("measure_start", what, self.measure_start(), out / "eval")
        epochs = " or ".join(str(number) for number in sorted({row.scale.epochs for row in self.rows}))
        what = f"reinforcement learning with OpenRLHF, {epochs} epochs per training: {names}"
        yield stage("train", what, self.train(), out / "train")
        what = "measure the trained policies on the same cases; paired differences"
        yield stage("measure_trained", what, self.measure_trained(), out / "compare")
        if self.controls:
            what = f"train and measure, with the same time budget: {', '.join(self.controls)}"
            yield stage("controls", what, self.run_controls(), out / "compare")
        if profile.restored and self.split == "test":
            what = "restore groups of weights to the start: which of them hold the gain?"
            yield stage("restoration", what, self.restore(), out / "restore")
        if profile.suites:
            yield stage("suites", "run the suites of Table 2 that have data", self.run_suites(), out / "eval")
        if self.backend == "vllm" and not self.rows[0].episode:
            what = "compare the rollout engine's log-probabilities with the trainer's"
            yield stage("logprob_gap", what, self.logprob_gap(), out / "train")
        yield stage("analyse", "draw every table and figure that has data", self.analyse, out / "analysis")
        yield stage("report", "write the manifest and one self-contained page", self.report, out / "report.html")

    def key_of(self, stage: str) -> dict[str, Any]:
        """Key of a finished stage. From training on, it also names the trainings of that stage."""
        key: dict[str, Any] = {"stage": stage}
        if stage == "measure_start":
            key |= {"starts": sorted({self.start_name(row) for row in self.rows})}
        if stage in OF_TRAININGS:
            key |= {"trainings": [self.name_of(training) for training in self.trainings]}
        if stage == "controls":
            key |= {"controls": list(self.controls)}
        return key

    def run_stages(self) -> None:
        """Run the tasks of the selected stages that are not finished."""
        chosen = list(self._unfinished())
        stage_of = {task.name: stage for stage in chosen for task in stage.tasks}
        left = {stage.name: len(stage.tasks) for stage in chosen}
        started: dict[str, float] = {}

        def starts(task: Task) -> None:
            stage = stage_of[task.name]
            if stage.name not in started:
                print(f"== {stage.name}: {stage.what}", flush=True)
                started[stage.name] = time.monotonic()

        def ended(task: Task) -> None:
            stage = stage_of[task.name]
            left[stage.name] -= 1
            if left[stage.name] or self.options.dry_run:
                return
            if self.failed and stage.name in OF_TRAININGS:
                return  # the next run retries the failed trainings
            if stage.name == "suites" and (missing := self._suites_without_data()):
                print(f"== suites: no data for {', '.join(missing)}; the next call tries them again", flush=True)
                return
            seconds = self.log.write(self.key_of(stage.name), started[stage.name])
            print(f"== {stage.name}: {seconds} s -> {stage.written}", flush=True)

        tasks = [task for stage in chosen for task in stage.tasks]
        run_tasks(tasks, self.side_by_side, starts=starts, ended=ended, stop=self.runner.stop)

    def _unfinished(self) -> Iterator[Stage]:
        """The selected stages without those that are finished, which are printed."""
        options = self.options
        asked = options.dry_run or options.only or options.from_stage
        begun, working = not options.from_stage, False
        for stage in self.stages():
            begun = begun or stage.name == options.from_stage
            if not begun or (options.only and stage.name != options.only):
                continue
            if not asked and not (working and stage.name in LAST) and self._is_finished(stage.name):
                print(f"== {stage.name}: already done", flush=True)
                continue
            working = True
            yield stage

    def _is_finished(self, stage: str) -> bool:
        """Tables and report are out of date as soon as an earlier stage has run after them."""
        key = self.key_of(stage)
        return self.log.up_to_date(key, LAST[LAST.index(stage) :]) if stage in LAST else self.log.finished(key)

    def _suites_without_data(self) -> list[str]:
        """The suites that the latest call skipped."""
        found: set[str] = set()
        for path in (self.out / "eval").glob("*/suites.json"):
            found |= set(json.loads(path.read_text(encoding="utf-8")).get("skipped") or ())
        return sorted(found)

    def prepare(self) -> None:
        """Refuse a run folder with other settings (BadInput), and write the role of each policy of the run."""
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
        more |= {"author": options.author, "data_file": options.data_file}
        more |= {"preset": options.preset, "reference": options.reference}
        more["max_prompts"] = "" if options.max_prompts is None else str(options.max_prompts)
        keep_configuration(self.out, {**kept, **{key: value for key, value in more.items() if value}})
        write_roles(self.out, self.roles())


def main() -> int:
    options = parse_options(__doc__)
    pipeline = Pipeline(options)
    if pipeline.side_by_side > 1:
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault(WORKERS_VARIABLE, str(max(1, cores // pipeline.side_by_side)))
    if all(not pipeline.gpus_of(row) for row in pipeline.rows):
        # The options or the experiments select the CPU, even if the machine has a GPU (train/trainer/devices.py).
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if not options.dry_run:
            pipeline.runner.python = preloaded_python.start(PRELOADED)

    def terminated(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    if not options.dry_run:
        pipeline.prepare()
    try:
        pipeline.run_stages()
    except CommandFailed as error:
        print(f"run_all: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("run_all: stopped; run the same command again to resume", file=sys.stderr)
        return 130
    finally:
        pipeline.runner.stop()
    if pipeline.failed:
        print(f"run_all: failed: {', '.join(pipeline.failed)}; run the same command again to retry", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
