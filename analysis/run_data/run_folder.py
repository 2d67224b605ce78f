"""Read the folder of one run: the evaluated policies, their result rows, the environments, the training logs.

Layout (written by run_all.sh): `policies.json`, `environments/{train,dev,test}.jsonl`, `start/`,
`train/<policy>/epoch<k>/`, `eval/<policy>/{results.jsonl,summary.json}` (further suites in `eval/<policy>/<suite>/`),
`compare/`, `analysis/`. `policies.json` defines the role of each policy (train/stages/policy_roles.py). Folder names
carry no meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.run_data import labels
from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import Environment, read_environments
from train.experiments import MODELS
from train.stages.faults import fault_rows, one_sided_faults_text, rows_faults_text
from train.stages.policy_roles import FILE, HOW_TO_WRITE, Role, content_of, read_roles

ENVIRONMENTS_SUITE = "environments"
_NOT_SETTINGS = {"role": "", "policy": "", "start": "", "experiment": "", "content": ""}


class Missing(Exception):
    """The data for a table or figure are missing. The message names the data and the reason."""


class NotPlanned(Missing):
    """The run did not plan these data, so this is no error. The message says how to produce them."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadInput naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except ValueError as error:
        raise BadInput(f"{path}: expected JSON ({error})") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


@dataclass(frozen=True)
class Epoch:
    """One outer epoch of one policy's training: `train/<policy>/epoch<number>/`."""

    policy: str
    number: int
    path: Path

    def log(self) -> list[dict[str, Any]]:
        """Rows of train_log.jsonl, [] if there is none."""
        path = self.path / "train_log.jsonl"
        return [row for _, row in read_jsonl(path)] if path.is_file() else []

    def prompts_summary(self) -> dict[str, Any]:
        """What the prompt builder kept and dropped, {} if it wrote no summary."""
        path = self.path / "prompts.summary.json"
        return read_json(path) if path.is_file() else {}


@dataclass(frozen=True)
class Run:
    """A run's folder, opened for reading. Files are read on first use and cached."""

    path: Path

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Raises BadInput if the folder does not exist or holds no run."""
        path = Path(path)
        if not path.is_dir():
            raise BadInput(f"{path}: no such folder; pass the folder of a run, such as outputs/cpu")
        if not any((path / name).is_dir() for name in ("eval", "train", "environments")):
            raise BadInput(
                f"{path}: not the folder of a run (it has no eval/, train/ or environments/); "
                "pass the folder of a run, such as outputs/cpu"
            )
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def configuration(self) -> dict[str, Any]:
        """The run's settings: configuration.json, or that part of manifest.json; {} without either."""
        for path, key in ((self.path / "configuration.json", None), (self.path / "manifest.json", "configuration")):
            if path.is_file():
                found = read_json(path)
                return found if key is None else dict(found.get(key) or {})
        return {}

    def warm_start(self) -> dict[str, Any]:
        """start/warm_start.json: how the start was trained; {} for a run that starts from another model."""
        path = self.path / "start" / "warm_start.json"
        return read_json(path) if path.is_file() else {}

    @cached_property
    def roles(self) -> dict[str, Role]:
        """The role of each policy. Raises BadInput without policies.json."""
        found = read_roles(self.path)
        if not found:
            raise BadInput(f"{self.path / FILE}: no such file; it defines each policy of the run; {HOW_TO_WRITE}")
        return found

    @property
    def models(self) -> list[str]:
        """The models that the run's policies start from."""
        return list(
            dict.fromkeys(
                self.roles[name].model for name in sorted(self.roles, key=self._rank) if self.roles[name].model
            )
        )

    @property
    def is_tiny(self) -> bool:
        """Whether all models are this repository's small ones, whose scores say nothing about the paper's models."""
        return bool(self.models) and all(labels.is_small_model(model) for model in self.models)

    def model_label(self) -> str:
        """The names of the run's models, for headings."""
        return ", ".join(labels.model_label(model) for model in self.models) or "no model"

    def label(self, policy: str) -> str:
        """The name of a policy as tables and figures print it."""
        return labels.policy_label(self.roles[policy], self.roles)

    def method(self, policy: str) -> str:
        """The name of a policy without its model and mode."""
        return labels.method_label(self.roles[policy])

    def start_label(self, start: str) -> str:
        """Model and mode of a start if the run has several of them; empty otherwise."""
        return labels.start_label(self.roles[start], self.roles)

    def _rank(self, policy: str) -> tuple[Any, ...]:
        """Reading order: floor, then by model (smallest first) and mode with the start first, then ceiling."""
        role = self.roles[policy]
        known = MODELS.get(role.model)
        kind = {"floor": -1, "start": 0, "trained": 2, "ablation": 3, "control": 4 if role.algorithm else 1}
        algorithms = list(labels.ALGORITHMS)
        algorithm = algorithms.index(role.algorithm) if role.algorithm in algorithms else len(algorithms)
        return (
            {"floor": 0, "ceiling": 2}.get(role.role, 1), known.parameters if known else 0.0, role.model, role.mode,
            kind.get(role.role, 5), algorithm, role.experiment, role.seed, policy,
        )  # fmt: skip

    def _suite_folder(self, policy: str, suite: str) -> Path | None:
        base = self.path / "eval" / policy
        if suite == ENVIRONMENTS_SUITE and (base / "results.jsonl").is_file():
            return base
        return base / suite if (base / suite / "summary.json").is_file() else None

    @cached_property
    def policies(self) -> list[str]:
        """Policies with results on the run's test split, in reading order."""
        return self.policies_of(ENVIRONMENTS_SUITE)

    def _evaluated(self, suite: str) -> list[str]:
        base = self.path / "eval"
        folders = sorted(base.iterdir()) if base.is_dir() else []
        return [folder.name for folder in folders if folder.is_dir() and self._suite_folder(folder.name, suite)]

    def policies_of(self, suite: str) -> list[str]:
        """Policies with results on a suite, in reading order. Raises BadInput if other weights were measured."""
        names = [name for name in self._evaluated(suite) if name in self.roles]
        for name in names:
            self._check_content(name, suite)
        return sorted(names, key=self._rank)

    @property
    def unlisted(self) -> list[str]:
        """Folders of eval/ and train/ that are not in policies.json. Their role is unknown, so they are left out."""
        found = {path.name for part in ("eval", "train") for path in (self.path / part).glob("*/") if path.is_dir()}
        return sorted(found - self.roles.keys()) if found else []

    def _check_content(self, name: str, suite: str) -> None:
        folder = self._suite_folder(name, suite)
        path = folder / "configuration.json" if folder else None
        if path is None or not path.is_file() or not self.roles[name].content:
            return
        measured = content_of(read_json(path).get("policy_content") or {})
        if measured and measured != self.roles[name].content:
            raise BadInput(
                f"{path}: the results are for weights {measured[:12]}, but {FILE} says that {name!r} has weights "
                f"{self.roles[name].content[:12]}; evaluate {name!r} again, or correct {FILE}"
            )

    @property
    def starts(self) -> list[str]:
        """The untrained policies that were evaluated."""
        return [name for name in self.policies if self.roles[name].role == "start"]

    @property
    def trained(self) -> list[str]:
        """Evaluated policies that RL trained with the paper's reward, one entry per training seed."""
        return [name for name in self.policies if self.roles[name].role == "trained"]

    def start_of(self, policy: str, suite: str = ENVIRONMENTS_SUITE) -> str | None:
        """The start that a policy is paired with, if it was evaluated; None for a start, floor and ceiling."""
        start = self.roles[policy].start
        return start if start and self._suite_folder(start, suite) else None

    def same_but(self, policy: str, *fields: str) -> list[str]:
        """Evaluated policies that differ from `policy` in at least one of `fields` and in no other setting."""
        blank = dict.fromkeys(fields, "")
        mine = self.roles[policy]

        def settings(role: Role, **more: Any) -> Role:
            return replace(role, **_NOT_SETTINGS, **more)  # type: ignore[arg-type]

        return [
            name
            for name in self.policies
            if settings(self.roles[name], **blank) == settings(mine, **blank)
            and settings(self.roles[name]) != settings(mine)
        ]

    def planned(self, *fields: str) -> bool:
        """Whether policies.json names two policies that differ only in these settings, evaluated or not."""
        blank = dict.fromkeys(fields, "")
        seen: dict[Role, Role] = {}
        for role in self.roles.values():
            whole, part = replace(role, **_NOT_SETTINGS), replace(role, **_NOT_SETTINGS, **blank)  # type: ignore[arg-type]
            if seen.setdefault(part, whole) != whole:
                return True
        return False

    @property
    def unmeasured(self) -> list[str]:
        """Policies in policies.json without results on the run's test environments."""
        return [name for name in self.roles if name not in self.policies]

    def training_seeds(self) -> dict[str, dict[int, str]]:
        """`{policy of the lowest seed: {training seed: policy}}` of every evaluated RL policy, controls included."""
        found: dict[str, dict[int, str]] = {}
        for name in self.policies:
            role = self.roles[name]
            if role.role in ("trained", "ablation", "control") and role.algorithm and not self._lower_seeds(name):
                repeats = [name, *self.same_but(name, "seed")]
                found[name] = {self.roles[repeat].seed: repeat for repeat in sorted(repeats, key=self._rank)}
        return found

    def _lower_seeds(self, policy: str) -> list[str]:
        return [name for name in self.same_but(policy, "seed") if self.roles[name].seed < self.roles[policy].seed]

    def compared(self) -> dict[str, list[str]]:
        """`{start: trained policies}` without repeats by other seeds. Raises Missing without a policy and its start."""
        found: dict[str, list[str]] = {}
        for name in self.trained:
            start = self.start_of(name)
            if start and not self._lower_seeds(name):
                found.setdefault(start, []).append(name)
        if not found:
            raise Missing(
                "no trained policy was evaluated together with its start; eval/ holds "
                + (", ".join(self.policies) or "nothing")
            )
        return found

    def paired_with(self, start: str) -> list[str]:
        """All evaluated policies that are paired with a start: trained, ablations and controls, every seed."""
        return [name for name in self.policies if self.start_of(name) == start]

    @cached_property
    def _rows(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        return {}

    def rows(self, policy: str, suite: str = ENVIRONMENTS_SUITE) -> list[dict[str, Any]]:
        """Result rows of a policy without infrastructure faults (`faults_text` reports those). Raises Missing."""
        key = (policy, suite)
        if key not in self._rows:
            folder = self._suite_folder(policy, suite)
            if folder is None or not (folder / "results.jsonl").is_file():
                raise Missing(f"no results of policy {policy!r} on suite {suite!r}")
            rows = [row for _, row in read_jsonl(folder / "results.jsonl", required=("id",))]
            self._rows[key] = [row for row in rows if row.get("outcome") != "fault"]
        return self._rows[key]

    def faults_text(self, suite: str = ENVIRONMENTS_SUITE) -> str:
        """What each policy's evaluation lost to faults, as sentences that end in `. `; empty if nothing was lost.

        train.stages.faults words them. A warning follows if faults removed an episode from only one side of a
        comparison with the start.
        """
        all_rows, said = {}, ""
        for policy in self.policies_of(suite):
            folder = self._suite_folder(policy, suite)
            if folder is not None and (folder / "results.jsonl").is_file():
                rows = self.rows(policy, suite)
                all_rows[policy] = [*rows, *fault_rows(folder, rows)]
                said += f"{self.label(policy)}: {text}. " if (text := rows_faults_text(all_rows[policy])) else ""
        for policy, rows in all_rows.items():
            start = self.roles[policy].start
            if start in all_rows:
                text = one_sided_faults_text(all_rows[start], rows, (self.label(start), self.label(policy)))
                said += f"{text}. " if text else ""
        return said

    def summary(self, policy: str, suite: str = ENVIRONMENTS_SUITE) -> dict[str, Any]:
        """summary.json of a policy on a suite, {} if there is none."""
        folder = self._suite_folder(policy, suite)
        path = folder / "summary.json" if folder else None
        return read_json(path) if path and path.is_file() else {}

    @cached_property
    def _environments(self) -> dict[str, dict[str, Environment]]:
        return {}

    def environments(self, split: str = "") -> dict[str, Environment]:
        """Environments of a split (default: the evaluated one) by id, {} if the file does not exist."""
        split = split or str(self.configuration().get("split") or "test")
        if split not in self._environments:
            path = self.path / "environments" / f"{split}.jsonl"
            found = {item.id: item for item in read_environments(path)} if path.is_file() else {}
            self._environments[split] = found
        return self._environments[split]

    @cached_property
    def epochs(self) -> dict[str, list[Epoch]]:
        """Outer epochs by policy, in reading order."""
        found: dict[str, list[Epoch]] = {}
        base = self.path / "train"
        for folder in sorted(base.iterdir()) if base.is_dir() else []:
            numbered = []
            for child in folder.iterdir() if folder.is_dir() and folder.name in self.roles else []:
                match = re.fullmatch(r"epoch[-_]?(\d+)", child.name)
                if match and child.is_dir():
                    numbered.append(Epoch(folder.name, int(match.group(1)), child))
            if numbered:
                found[folder.name] = sorted(numbered, key=lambda epoch: epoch.number)
        return dict(sorted(found.items(), key=lambda item: self._rank(item[0])))

    def checkpoint(self, policy: str) -> Path | None:
        """Folder with a policy's weights: the last epoch's checkpoint, or the one its role names; None without one."""
        named = self.roles[policy].policy
        folders = [epoch.path / "checkpoint" for epoch in reversed(self.epochs.get(policy, []))]
        # The run folder may have been moved, so the recorded folder name is also tried inside the run.
        folders += [self.path / Path(named).name, Path(named), *_cached(named)] if named else []
        return next((folder for folder in folders if any(folder.glob("*.safetensors"))), None)


def _cached(name: str) -> Sequence[Path]:
    """The folder of a hub model in the local cache, if it is there."""
    import huggingface_hub

    try:
        return [Path(huggingface_hub.snapshot_download(name, local_files_only=True))]
    except (OSError, ValueError):  # not in the cache, or not a hub name
        return []
