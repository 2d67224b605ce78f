"""The plan of a run: its trainings with their names, start policies and folders.

A training is a row of train/experiments.py with a seed. A run of one model has short names (`grpo`). A run of several
models has full names (`tiny-thinking-grpo`). `policies.json` records the role of each name, so that no code has to
parse names.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

from env_construction.environment.jsonl import BadInput
from train.experiments import Experiment, experiment
from train.stages.policy_roles import Role, start_role, trained_role
from train.stages.profiles import MATRIX, MATRIX_SEEDS, OVERRIDES, OWN, PROFILES, Profile

OUTSIDE = ("unseen_relations", "next_level", "disturbed")
CONTROLS = ("more-supervised", "oracle-demonstrations", "rejection-sampling", "shuffled")
GIB_OF_A_TRAINING = 5
"""Memory in GiB of one CPU training of our own models, all its processes together."""


def shipped_policy(row: Experiment) -> Path:
    """Folder of the shipped start policy of a row. Raises BadInput if this repository does not have it."""
    folder = Path("assets") / f"{row.model.name}_policy"
    if not (Path(__file__).resolve().parents[2] / folder).is_dir():
        raise BadInput(
            f"{row.name}: {folder} is not in this repository; create it with python -m train.warm_start --model "
            f"{row.model.name} ... --out {folder}, or add --from-scratch"
        )
    return folder


@dataclass(frozen=True)
class Training:
    """An experiment with a training seed."""

    row: Experiment
    seed: int


class Plan:
    """Names and folders of a run. Raises BadInput for options that contradict each other."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        profile = PROFILES[options.profile]
        if options.matrix and options.train_seed:
            raise BadInput("--matrix trains with three seeds; remove --train-seed")
        names = options.experiment or (MATRIX if options.matrix else profile.experiments)
        if (options.model or options.teach) and not options.experiment:  # train one model in one mode
            names = OWN if options.profile == "small" and options.model else names[:2]
        if any(name.startswith("own-") for name in names) and not options.model:
            raise BadInput(f"{' '.join(names)}: no start model; which model? --model PATH")
        self.rows = [self.row(name) for name in names]
        models = list(dict.fromkeys(row.model.name for row in self.rows))
        self.several_models = options.profile == "paper" or len(models) > 1
        starts = {row.model.start for row in self.rows}
        if len(models) > 1 and options.model:
            raise BadInput(f"--model: these experiments start from {len(models)} models; use one --run per model")
        if len(models) > 1 and "" not in starts and options.profile != "paper":
            raise BadInput(
                f"--experiment: profile {options.profile} trains one model per run; use a separate --run per model"
            )
        self.profile: Profile = profile
        for model in models:
            self.profile = replace(self.profile, **OVERRIDES.get(model, {}))
        if options.max_prompts is not None:
            self.profile = replace(self.profile, max_prompts=options.max_prompts)
        if options.author:
            self.profile = replace(self.profile, author=options.author)
        seeds = MATRIX_SEEDS if options.matrix else (options.train_seed,)
        self.trainings = [Training(row, seed) for seed in seeds for row in self.rows]
        ablation = any(not row.plain_reward for row in self.rows) and bool(options.experiment)
        self.split: str = options.split or ("dev" if ablation and options.data == "built" else "test")
        suffix = "-dev" if self.split == "dev" else ""
        self.out = Path("outputs") / (options.run or options.profile + suffix)
        self.environments = self.out / "environments"
        self.backend = "hf" if options.gpus == 0 else self.profile.backend
        first = self.rows[0].model
        taught = self.profile.teach and first.untaught and not options.model
        self.teach: str = options.teach or (first.start if taught else "")
        if self.teach and options.data == "published":
            raise BadInput(
                "--data published: has no gold plans to teach the call format with; choose an experiment that starts "
                "from a model as it is (--model), or --data built"
            )
        for row in self.rows:
            if self.start_of(row) == str(self.start_folder(row)) and not (self.teach or options.from_scratch):
                shipped_policy(row)
        asked = CONTROLS if options.controls or options.matrix else self.profile.controls
        self.controls = [name for name in asked if self._can_control(name)]

    def row(self, name: str) -> Experiment:
        """The experiment with that name. An own-... row gets its model shape from --model."""
        return experiment(name, self.options.model) if name.startswith("own-") else experiment(name)

    def _can_control(self, control: str) -> bool:
        """Whether this run can train a control.

        A supervised control has no training seed, so only the run with seed 0 trains it. More lessons need a start
        policy that this run copied or taught. A pretrained model is taught with oracle demonstrations, so more of its
        teaching would be the same control twice.
        """
        first = self.rows[0]
        if control == "more-supervised" and self.teach:
            return False
        lessons = control in ("more-supervised", "oracle-demonstrations")
        if control == "rejection-sampling" or lessons:
            taught_here = self.start_of(first) == str(self.start_folder(first))
            return not self.options.train_seed and not first.episode and (taught_here or not lessons)
        return True

    @property
    def side_by_side(self) -> int:
        """Number of parallel commands. A training of our own models uses one core; a GPU training uses the machine."""
        if self.options.dry_run or any(self.gpus_of(row) for row in self.rows) or not self.profile.parallel:
            return 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return max(1, min(len(os.sched_getaffinity(0)), int(memory / GIB_OF_A_TRAINING)))

    def name_of(self, training: Training) -> str:
        """Name of a training and its folder. If the run has one model, the name omits the model and `plain`."""
        name = training.row.name
        if not self.several_models:
            name = name.removeprefix(f"{training.row.model.name}-").removeprefix("plain-")
        return name + (f"-seed{training.seed}" if training.seed else "")

    def start_name(self, row: Experiment) -> str:
        """Name of an experiment's start policy."""
        mode = "thinking" if row.thinking else "plain"
        if self.several_models:
            return f"{row.model.name}-{mode}"
        return "start-thinking" if row.thinking else "start"

    def start_folder(self, row: Experiment) -> Path:
        """Folder of a start policy that the run trains or copies."""
        return self.out / (f"start-{row.model.name}" if self.several_models else "start")

    def start_of(self, row: Experiment) -> str:
        """Checkpoint folder or hub name of an experiment's start policy."""
        if self.options.model:
            return str(self.options.model)
        if self.teach or not row.model.start:
            return str(self.start_folder(row))
        return row.model.start

    def epoch_folder(self, training: Training, epoch: int) -> Path:
        return self.out / "train" / self.name_of(training) / f"epoch{epoch}"

    def checkpoint_of(self, training: Training) -> str:
        return str(self.epoch_folder(training, training.row.scale.epochs) / "checkpoint")

    def gpus_of(self, row: Experiment) -> int:
        return row.gpus if self.options.gpus is None else int(self.options.gpus)

    def device_of(self, row: Experiment) -> str:
        """The device that trains the row: cpu or cuda."""
        return "cuda" if self.gpus_of(row) else "cpu"

    def environments_of(self, row: Experiment) -> Path:
        """Folder of an experiment's train environments. A construction ablation has a separate one."""
        suffix = f"-no-{row.without.replace('_', '-')}" if row.without else ""
        return self.environments.with_name(self.environments.name + suffix)

    @property
    def outside(self) -> dict[str, Path]:
        """Environment file of each out-of-domain suite, by suite name."""
        if not self.profile.outside or self.options.data != "built":
            return {}
        folders = {name: self.out / f"environments-{name.replace('_', '-')}" for name in OUTSIDE}
        return {
            name: folder / ("all.jsonl" if name == "disturbed" else "test.jsonl") for name, folder in folders.items()
        }

    def control_name(self, control: str) -> str:
        """Name of a control of the first experiment."""
        if control == "shuffled":
            return self.name_of(self.shuffled)
        return f"{self.start_name(self.rows[0])}-{control}" if self.several_models else control

    @property
    def shuffled(self) -> Training:
        """The first experiment with shuffled rewards, which carry no information."""
        return Training(self.row(f"{self.rows[0].name}-shuffled"), self.trainings[0].seed)

    def roles(self) -> dict[str, Role]:
        """The role of each policy of the run, by policy name."""
        roles = {"random": Role("floor"), "oracle": Role("ceiling")}
        trainings = [*self.trainings, *([self.shuffled] if "shuffled" in self.controls else [])]
        for training in trainings:
            start = self.start_name(training.row)
            roles[start] = start_role(training.row, self.start_of(training.row))
            role = trained_role(training.row, start, self.checkpoint_of(training), training.seed)
            roles[self.name_of(training)] = role
        first = self.start_name(self.rows[0])
        for control in self.controls:
            if control != "shuffled":
                name = self.control_name(control)
                policy = str(self.out / "controls" / control)
                roles[name] = replace(roles[first], role="control", control=control, policy=policy, start=first)
        return roles
