"""The whole experiment as one resumable pipeline: `bash run_all.sh` makes the environment and calls this.

    environments -> start -> measure_start -> train -> measure_trained -> [controls] -> analyse -> report

| stage | what it does | where it writes, below outputs/<run>/ |
| --- | --- | --- |
| environments | build train, dev and test environments; each is verified in the sandbox | environments/ |
| start | get the policy to start from: the shipped tiny one, a model as it is, or a model that is taught first | start/ |
| measure_start | measure the floor (random), the ceiling (oracle) and the start on the test environments | eval/ |
| train | per epoch: collect with the current policy, make prompts, train with OpenRLHF | train/<name>/epoch<k>/ |
| measure_trained | measure again: same code, same cases, paired differences | eval/, compare/ |
| controls | with --controls: more supervised learning, and RL with shuffled rewards | eval/, compare/ |
| analyse | tables and figures of everything for which data is there | analysis/ |
| report | manifest and one self-contained page | manifest.json, report.html |

A second call repeats nothing that is finished; a call after a kill resumes. `policies.json` says what each policy of the run is, for
the analyses. Sizes of a model's training come from its row of `train/experiments.py`; a profile says how much data there is.

Examples:
    bash run_all.sh                                    # the cpu profile: a tiny model, no GPU, no model hub, no key
    bash run_all.sh --profile smoke                    the same path in minutes; its numbers mean nothing
    bash run_all.sh --profile paper --dry-run          every command of the paper's twelve runs; nothing is run
    bash run_all.sh --experiment tiny-plain-grpo-solve-recall     one row of `python -m train.experiments`, in the same run folder
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
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from env_construction.environment.jsonl import BadInput, keep_configuration, run_main
from train.experiments import Experiment, experiment
from train.stages.commands import CommandFailed, CommandRunner, StageLog
from train.stages.policy_roles import Role, start_role, trained_role, write_roles
from train.stages.profiles import OVERRIDES, OWN, PROFILES, parse_options

PYTHON = (sys.executable, "-m")
SHIPPED_POLICY = "assets/tiny_policy"
FROM_SCRATCH = 8
"""A policy is made from this many times more environments than one is trained in."""
TEACHING = (
    "--oracle", "--optimizer", "adamw", "--learning-rate", "5e-4", "--rename-share", "0", "--copy-share", "0",
    "--evaluate-every", "1300", "--dev-cases", "12",
)  # fmt: skip
TEACHING_MINUTES = 26
MAX_TURNS = 20  # paper section "Evaluation"


class Pipeline:
    """One call of run_all.sh: its options, its experiments, and a method for each stage."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        profile = PROFILES[options.profile]
        names = options.experiment or (OWN if options.model and options.profile == "small" else profile.experiments)
        if any(name.startswith("own-") for name in names) and not options.model:
            raise BadInput(f"{' '.join(names)}: which model? --model PATH")
        self.rows = [self.row(name) for name in names]
        for model in {row.model.name for row in self.rows}:
            profile = replace(profile, **OVERRIDES.get(model, {}))
        self.profile = profile
        self.several_models = options.profile == "paper"
        if not self.several_models and len({row.model.name for row in self.rows}) > 1:
            raise BadInput(f"--experiment: profile {options.profile} trains one model per run; give each model a --run")
        self.out = Path("outputs") / (options.run or options.profile)
        self.environments = self.out / "environments"
        self.backend = "hf" if options.gpus == 0 else profile.backend
        first = self.rows[0].model
        self.teach = options.teach or (first.start if profile.teach and first.untaught and not options.model else "")
        self.runner = CommandRunner(self.out / "logs", dry_run=options.dry_run)
        self.log = StageLog(self.out / "stages.jsonl")
        self.failed: list[str] = []
        self._worked = False

    def row(self, name: str) -> Experiment:
        """The experiment of that name; an own-... row takes its shape from --model."""
        return experiment(name, self.options.model) if name.startswith("own-") else experiment(name)

    # --- names and places -------------------------------------------------------------------------------------------

    def name_of(self, row: Experiment) -> str:
        """An experiment's folder in the run. The model is left out where a run has one, and so is `plain`."""
        name = row.name
        if not self.several_models:
            name = name.removeprefix(f"{row.model.name}-").removeprefix("plain-")
        return name + (f"-seed{self.options.train_seed}" if self.options.train_seed else "")

    def start_name(self, row: Experiment) -> str:
        """Under which name the untrained policy of an experiment is measured."""
        mode = "thinking" if row.thinking else "plain"
        if self.several_models:
            return f"{row.model.name}-{mode}"
        return "start-thinking" if row.thinking else "start"

    def start_of(self, row: Experiment) -> str:
        """Where the untrained policy of an experiment is: a folder, or a hub name."""
        if self.options.model:
            return str(self.options.model)
        if self.teach or not row.model.start:
            return str(self.out / "start")
        return row.model.start

    def checkpoint_of(self, row: Experiment) -> str:
        return str(self.out / "train" / self.name_of(row) / f"epoch{row.scale.epochs}" / "checkpoint")

    def gpus_of(self, row: Experiment) -> int:
        return row.gpus if self.options.gpus is None else int(self.options.gpus)

    def environments_of(self, row: Experiment) -> Path:
        """The train environments of an experiment: a construction ablation has its own."""
        suffix = f"-no-{row.without.replace('_', '-')}" if row.without else ""
        return self.environments.with_name(self.environments.name + suffix)

    # --- commands ---------------------------------------------------------------------------------------------------

    def run(self, log: str, module: str, *arguments: Any, tag: str = "", threads: int | None = None) -> None:
        """Run `python -m module` with the arguments that are not empty."""
        command = [*PYTHON, module, *(str(item) for item in arguments if item != "")]
        self.runner.run(log, command, tag, {"OMP_NUM_THREADS": str(threads)} if threads else None)

    def build(self, folder: Path, n_train: int, n_dev: int, n_test: int, *more: str) -> None:
        self.run(
            f"environments{''.join(more[1:])}", "env_construction.build", "--author", "facts", "--level", self.profile.level,
            "--n-train", n_train, "--n-dev", n_dev, "--n-test", n_test, "--seed", self.options.seed, "--workers", 2,
            "--out", folder, *more,
        )  # fmt: skip

    def measure(self, name: str, policy: str, row: Experiment) -> None:
        """Greedy, on the run's own test environments."""
        self.run(
            f"measure_{name}", "eval.environments", "--policy", policy, "--data", self.environments / "test.jsonl",
            "--out", self.out / "eval" / name, "--limit", self.profile.eval_limit, "--seed", self.options.seed,
            "--max-turns", MAX_TURNS, "--max-new-tokens", row.scale.max_response, "--thinking" if row.thinking else "",
        )  # fmt: skip

    def compare(self, log: str, start: str, name: str) -> None:
        evaluated = self.out / "eval"
        target = self.out / "compare" / f"{name}_vs_start.json"
        self.run(log, "eval.compare", evaluated / start, evaluated / name, "--out", target)

    def warm_start(self, log: str, folder: Path, seed: int, minutes: float, continue_from: str) -> None:
        self.run(
            log, "train.warm_start", "--environments", self.environments / "train.jsonl",
            "--dev", self.environments / "dev.jsonl", "--out", folder,
            *(("--continue-from", continue_from) if continue_from else ()),
            "--seed", seed, "--minutes", f"{minutes:g}", *(TEACHING if self.teach else ()),
            # the tiny model is fastest on one core, a pretrained one uses all
            threads=os.cpu_count() if self.teach else None,
        )  # fmt: skip

    # --- training ---------------------------------------------------------------------------------------------------

    def train_one(self, row: Experiment) -> None:
        """Per epoch: collect with the current policy, make prompts, train."""
        name = self.name_of(row)
        tag = f"[{name}] " if self.profile.side_by_side > 1 and not self.options.dry_run else ""
        policy = self.start_of(row)
        for epoch in range(1, row.scale.epochs + 1):
            folder = self.out / "train" / name / f"epoch{epoch}"
            seed = self.options.seed + 100 * self.options.train_seed + epoch
            self._prompts(row, policy, folder, seed, tag)
            self.run(
                f"train_{name}", "train.run_openrlhf", "--experiment", row.name, "--policy-dir", policy,
                "--prompts", folder / "prompts.jsonl", "--out", folder, "--seed", seed, "--epoch", epoch,
                *self._trainer_options(row), tag=tag,
            )  # fmt: skip
            policy = str(folder / "checkpoint")
            if self.profile.prune and epoch > 1 and not self.options.keep_checkpoints:
                self.run(f"train_{name}", "train.prune_checkpoints", self.out / "train" / name, tag=tag)

    def _prompts(self, row: Experiment, policy: str, folder: Path, seed: int, tag: str) -> None:
        log, scale = f"train_{self.name_of(row)}", row.scale
        environments = self.environments_of(row) / "train.jsonl"
        shared = ["--max-prompt-tokens", scale.max_prompt, "--seed", seed, "--thinking" if row.thinking else ""]
        source = ["--trajectories", folder / "trajectories.jsonl"]
        if row.episode:  # whole episodes are played while training: their prompts are the bare questions
            source = ["--environments", environments]
        else:
            self.run(
                log, "train.collect_trajectories", "--environments", environments, "--limit", self.profile.collect,
                "--policy", f"{self.backend}:{policy}", "--out", folder, "--temperature", "1.0",
                "--max-turns", MAX_TURNS, "--max-new-tokens", scale.max_response, *shared, tag=tag,
            )  # fmt: skip
        self.run(
            log, "train.rl_prompts", *source, "--tokenizer", policy, "--out", folder / "prompts.jsonl",
            "--rollout-batch", scale.rollout_batch, "--max-prompts", self.profile.max_prompts, *shared, tag=tag,
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

    def train_all(self, rows: list[Experiment]) -> None:
        """Train every row. One that fails ends all, or, with --keep-going, is reported at the end."""
        for row in rows:
            if row.without:
                self.build(self.environments_of(row), self.profile.n_train, 0, 0, "--without", row.without)
        with ThreadPoolExecutor(1 if self.options.dry_run else self.profile.side_by_side) as pool:
            for row, done in [(row, pool.submit(self.train_one, row)) for row in rows]:
                try:
                    done.result()
                except CommandFailed as error:
                    if not self.options.keep_going:
                        self.runner.stop()
                        raise
                    print(f"run_all: {row.name} failed; the others go on. {error}", file=sys.stderr)
                    self.failed.append(row.name)

    def train_minutes(self, row: Experiment) -> float:
        """Wall time of an experiment's trainings, resumed calls included: what a control gets. 10 before there is one."""
        total = 0.0
        for path in (self.out / "train" / self.name_of(row)).glob("epoch*/done.json"):
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
        more = FROM_SCRATCH if self.options.from_scratch else 1
        self.build(self.environments, self.profile.n_train * more, self.profile.n_dev, self.profile.n_test)

    def make_start(self) -> None:
        start = self.out / "start"
        if self.start_of(self.rows[0]) != str(start):
            print(f"  it comes trained: {', '.join(sorted({self.start_of(row) for row in self.rows}))}")
        elif self.teach:
            self.warm_start("start", start, self.options.seed, TEACHING_MINUTES, self.teach)
        elif self.options.from_scratch:
            self.warm_start("start", start, self.options.seed, self.profile.warm_minutes, "")
        else:
            self.runner.run("start", ["cp", "-R", f"{SHIPPED_POLICY}/.", str(start)])

    def measure_start(self) -> None:
        self.measure("random", "random", self.rows[0])
        if self.options.data == "built":  # the published environments have no gold plan
            self.measure("oracle", "oracle", self.rows[0])
        starts: dict[str, Experiment] = {}
        for row in self.rows:
            starts.setdefault(self.start_name(row), row)
        for name, row in starts.items():
            self.measure(name, f"{self.backend}:{self.start_of(row)}", row)

    def train(self) -> None:
        self.train_all(self.rows)

    def measure_trained(self) -> None:
        for row in self.rows:
            if row.name not in self.failed:
                name = self.name_of(row)
                self.measure(name, f"{self.backend}:{self.checkpoint_of(row)}", row)
                self.compare("measure_trained", self.start_name(row), name)

    def run_controls(self) -> None:
        first = self.rows[0]
        shuffled = self.row(f"{first.name}-shuffled")
        self.train_all([shuffled])
        names = [self.name_of(shuffled)]
        taught_here = self.start_of(first) == str(self.out / "start")
        if taught_here and not self.options.train_seed:  # supervised learning has no training seed
            names.insert(0, "more-supervised")
            folder = self.out / "more-supervised"
            seed = self.options.seed + 1
            self.warm_start("controls", folder, seed, self.train_minutes(first), self.start_of(first))
            self.measure("more-supervised", f"{self.backend}:{folder}", first)
        self.measure(names[-1], f"{self.backend}:{self.checkpoint_of(shuffled)}", shuffled)
        for name in names:
            self.compare("controls", self.start_name(first), name)

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
        names = " ".join(row.name for row in self.rows)
        more = FROM_SCRATCH if self.options.from_scratch else 1
        built = (
            f"build {profile.n_train * more} train, {profile.n_dev} dev and {profile.n_test} test environments; "
            "each is verified in the sandbox"
        )
        data = built if self.options.data == "built" else "take the authors' train and test environments"
        yield "environments", data, self.make_environments, self.environments
        yield "start", "get a policy to start from", self.make_start, out / "start"
        yield (
            "measure_start",
            "measure floor, ceiling and start on the test environments",
            self.measure_start,
            out / "eval",
        )
        epochs = " or ".join(str(number) for number in sorted({row.scale.epochs for row in self.rows}))
        yield "train", f"reinforcement learning on OpenRLHF, {epochs} epochs each: {names}", self.train, out / "train"
        yield "measure_trained", "measure again: same code, same cases, paired", self.measure_trained, out / "compare"
        if self.options.controls:
            what = "more supervised learning for the same time, and RL with shuffled rewards"
            yield "controls", what, self.run_controls, out / "compare"
        yield "analyse", "tables and figures of everything for which data is there", self.analyse, out / "analysis"
        yield "report", "manifest and one self-contained page", self.report, out / "report.html"

    def key_of(self, stage: str) -> dict[str, Any]:
        """What identifies a finished stage; from training on, also which experiments it was about."""
        key: dict[str, Any] = {"stage": stage}
        if stage in ("train", "measure_trained", "controls"):
            key |= {"experiments": [row.name for row in self.rows], "train_seed": self.options.train_seed}
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
        kept = {
            "profile": options.profile,
            "seed": str(options.seed),
            "model": "matrix" if self.several_models else self.rows[0].model.name,
            "from_scratch": str(int(options.from_scratch)),
            "data": options.data,
        }
        more = {"start": options.model, "teach": self.teach, "settings": " ".join(options.set or ())}
        keep_configuration(self.out, {**kept, **{key: value for key, value in more.items() if value}})
        rows = list(self.rows)
        if options.controls:
            rows.append(self.row(f"{rows[0].name}-shuffled"))
        roles = {"random": Role("floor"), "oracle": Role("ceiling")}
        for row in rows:
            start, policy = self.start_name(row), self.checkpoint_of(row)
            roles[start] = start_role(row, self.start_of(row))
            roles[self.name_of(row)] = trained_role(row, start, policy, options.train_seed)
        if options.controls:
            folder = str(self.out / "more-supervised")
            roles["more-supervised"] = replace(roles[self.start_name(rows[0])], role="control", policy=folder)
        write_roles(self.out, roles)


def main() -> int:
    options = parse_options(__doc__)
    pipeline = Pipeline(options)

    def terminated(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    if all(not pipeline.gpus_of(row) for row in pipeline.rows):
        os.environ["CUDA_VISIBLE_DEVICES"] = (
            ""  # the CPU was asked for, whatever the machine has (train/trainer/devices.py)
        )
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
