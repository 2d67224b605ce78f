"""Read the folder of one run: which policies were evaluated, their rows, the environments, the training logs.

Layout (made by run_all.sh): `environments/{train,dev,test}.jsonl`, `start/`, `train/<algorithm>/epoch<k>/`,
`eval/<policy>/{results.jsonl,summary.json}` (further suites in `eval/<policy>/<suite>/`), `compare/`, `analysis/`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.environment.schema import Environment, read_environments
from train.stages.faults import fault_rows, one_sided_faults_text, rows_faults_text

ENVIRONMENTS_SUITE = "environments"
_ORDER = ("random", "start", "more-supervised", "grpo", "reinforce++")
_LABELS = {
    "random": "Random (floor)",
    "start": "Start",
    "more-supervised": "More supervised steps",
    "grpo": "GRPO",
    "reinforce++": "REINFORCE++",
    "oracle": "Oracle (ceiling)",
}
# Policies trained with another reward than the paper's: `<algorithm>-<ending>`.
ABLATIONS = {"solve-precision": "Solve-P reward", "solve-recall": "Solve-R reward", "solve-pr": "Solve-PR reward"}
SCENARIO_LABELS = {
    "single_hop": "Single-hop",
    "parallel_single_hop": "Parallel single-hop",
    "multi_hop": "Multi-hop",
    "parallel_multi_hop": "Parallel multi-hop",
}


class Missing(Exception):
    """The data for a table or figure are not there; the message says which and why."""


def split_seed(policy: str) -> tuple[str, int]:
    """A training repeated with another seed ends in `-seed<N>`: `grpo-seed2` is `("grpo", 2)`; the first one has seed 0."""
    found = re.fullmatch(r"(.+)-seed(\d+)", policy)
    return (found.group(1), int(found.group(2))) if found else (policy, 0)


def policy_label(policy: str) -> str:
    """The name of a policy as tables and figures print it: `grpo-shuffled` becomes `GRPO, shuffled`."""
    base, seed = split_seed(policy)
    if seed:
        return f"{policy_label(base)}, seed {seed}"
    if policy in _LABELS:
        return _LABELS[policy]
    for name in ("reinforce++", "grpo", "start"):
        if policy.startswith(name + "-"):
            variant = policy[len(name) + 1 :]
            return f"{_LABELS[name]}, {ABLATIONS.get(variant, variant.replace('-', ' '))}"
    return policy


def is_control(policy: str) -> bool:
    """Controls are trained, but not with the reward under test."""
    return policy == "more-supervised" or split_seed(policy)[0].endswith(("-shuffled", "-constant"))


def is_ablation(policy: str) -> bool:
    """Trained with one of the rewards that the paper compares its own with."""
    return split_seed(policy)[0].endswith(tuple(f"-{name}" for name in ABLATIONS))


def _rank(policy: str) -> tuple[int, int, str]:
    if policy == "oracle":
        return (4, 0, policy)
    if policy in _ORDER:
        return (0, _ORDER.index(policy), policy)
    if policy.startswith("start-"):
        return (0, _ORDER.index("start"), policy)
    base, seed = split_seed(policy)
    if seed and base in _ORDER:
        return (0, _ORDER.index(base), policy)
    return (3 if is_control(policy) else 2 if is_ablation(policy) else 1, 0, policy)


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
    """One outer epoch of one algorithm: `train/<algorithm>/epoch<number>/`."""

    algorithm: str
    number: int
    path: Path

    def log(self) -> list[dict[str, Any]]:
        """Rows of train_log.jsonl, [] where there is none."""
        path = self.path / "train_log.jsonl"
        return [row for _, row in read_jsonl(path)] if path.is_file() else []

    def prompts_summary(self) -> dict[str, Any]:
        """What the prompt builder kept and dropped, {} where it left no summary."""
        names = ("prompts_summary.json", "prompts.summary.json")
        return next((read_json(self.path / name) for name in names if (self.path / name).is_file()), {})


@dataclass(frozen=True)
class Run:
    """A run's folder, opened for reading. Files are read on first use and kept."""

    path: Path

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Raises BadInput where there is no such folder, or nothing of a run in it."""
        path = Path(path)
        if not path.is_dir():
            raise BadInput(f"{path}: no such folder; give the folder of a run, such as outputs/cpu")
        if not any((path / name).is_dir() for name in ("eval", "train", "environments")):
            raise BadInput(f"{path}: not the folder of a run (no eval/, train/ or environments/ in it)")
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def configuration(self) -> dict[str, Any]:
        """What the run was asked to do: configuration.json, or that part of manifest.json; {} without either."""
        for path, key in ((self.path / "configuration.json", None), (self.path / "manifest.json", "configuration")):
            if path.is_file():
                found = read_json(path)
                return found if key is None else dict(found.get(key) or {})
        return {}

    def warm_start(self) -> dict[str, Any]:
        """start/warm_start.json: how the tiny starting policy was made; {} for a run that starts from another model."""
        path = self.path / "start" / "warm_start.json"
        return read_json(path) if path.is_file() else {}

    @property
    def is_tiny(self) -> bool:
        """Whether the policy is this repository's tiny CPU model, whose scores say nothing about the paper's models."""
        model = str(self.configuration().get("model") or "")
        return model.startswith("tiny") or (not model and bool(self.warm_start()))

    def model_label(self) -> str:
        """What the policy of this run is, for headings."""
        return "tiny CPU model" if self.is_tiny else str(self.configuration().get("model") or "model not recorded")

    def _suite_folder(self, policy: str, suite: str) -> Path | None:
        base = self.path / "eval" / policy
        if suite == ENVIRONMENTS_SUITE and (base / "results.jsonl").is_file():
            return base
        return base / suite if (base / suite / "summary.json").is_file() else None

    @cached_property
    def policies(self) -> list[str]:
        """Policies with results on the run's own test split: floor, start, trained, controls, oracle."""
        return self.policies_of(ENVIRONMENTS_SUITE)

    def policies_of(self, suite: str) -> list[str]:
        base = self.path / "eval"
        if not base.is_dir():
            return []
        names = [folder.name for folder in base.iterdir() if folder.is_dir() and self._suite_folder(folder.name, suite)]
        return sorted(names, key=_rank)

    @property
    def trained(self) -> list[str]:
        """Evaluated policies that RL made with the real reward."""
        return [
            name
            for name in self.policies
            if name not in ("random", "start", "oracle") and not name.startswith("start-") and not is_control(name)
        ]

    def training_seeds(self) -> dict[str, dict[int, str]]:
        """`{policy: {training seed: its evaluated repeat}}` of every policy that RL made, controls included."""
        found: dict[str, dict[int, str]] = {}
        for name in self.policies:
            if name not in ("random", "start", "oracle", "more-supervised") and not name.startswith("start-"):
                base, seed = split_seed(name)
                found.setdefault(base, {})[seed] = name
        return {base: dict(sorted(seeds.items())) for base, seeds in found.items()}

    def need(self, *policies: str) -> None:
        """Raises Missing unless all of `policies` were evaluated."""
        for policy in policies:
            if policy not in self.policies:
                raise Missing(
                    f"eval/{policy}/results.jsonl is not there (policy {policy!r} was not evaluated in this run)"
                )

    def need_trained(self) -> list[str]:
        """The trained policies, ablations and repeats with other seeds left out; raises Missing when there is none beside a start."""
        self.need("start")
        found = [policy for policy in self.trained if not is_ablation(policy) and not split_seed(policy)[1]]
        if not found:
            raise Missing("no trained policy was evaluated: eval/ holds " + (", ".join(self.policies) or "nothing"))
        return found

    @cached_property
    def _rows(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        return {}

    def rows(self, policy: str, suite: str = ENVIRONMENTS_SUITE) -> list[dict[str, Any]]:
        """Result rows of a policy; infrastructure faults are left out (`faults_text` tells them). Raises Missing."""
        key = (policy, suite)
        if key not in self._rows:
            folder = self._suite_folder(policy, suite)
            if folder is None or not (folder / "results.jsonl").is_file():
                raise Missing(f"no results of policy {policy!r} on suite {suite!r}")
            rows = [row for _, row in read_jsonl(folder / "results.jsonl", required=("id",))]
            self._rows[key] = [row for row in rows if row.get("outcome") != "fault"]
        return self._rows[key]

    def faults_text(self, suite: str = ENVIRONMENTS_SUITE) -> str:
        """What each policy's evaluation lost to faults, in the words of train.stages.faults, `. ` at the end; empty if nothing.

        A warning follows for a policy whose comparison with the start lacks episodes that only one of them lost.
        """
        all_rows, said = {}, ""
        for policy in self.policies_of(suite):
            folder = self._suite_folder(policy, suite)
            if folder is not None and (folder / "results.jsonl").is_file():
                rows = self.rows(policy, suite)
                all_rows[policy] = [*rows, *fault_rows(folder, rows)]
                said += f"{policy_label(policy)}: {text}. " if (text := rows_faults_text(all_rows[policy])) else ""
        start = all_rows.pop("start", [])
        for policy, rows in all_rows.items():
            text = one_sided_faults_text(start, rows, (policy_label("start"), policy_label(policy))) if start else ""
            said += f"{text}. " if text else ""
        return said

    def summary(self, policy: str, suite: str = ENVIRONMENTS_SUITE) -> dict[str, Any]:
        """summary.json of a policy on a suite, {} where there is none."""
        folder = self._suite_folder(policy, suite)
        path = folder / "summary.json" if folder else None
        return read_json(path) if path and path.is_file() else {}

    @cached_property
    def _environments(self) -> dict[str, dict[str, Environment]]:
        return {}

    def environments(self, split: str = "test") -> dict[str, Environment]:
        """Environments of a split by id, {} where the file is not there."""
        if split not in self._environments:
            path = self.path / "environments" / f"{split}.jsonl"
            found = {item.id: item for item in read_environments(path)} if path.is_file() else {}
            self._environments[split] = found
        return self._environments[split]

    @cached_property
    def epochs(self) -> dict[str, list[Epoch]]:
        """Outer epochs by algorithm, in order of number."""
        found: dict[str, list[Epoch]] = {}
        base = self.path / "train"
        for folder in sorted(base.iterdir()) if base.is_dir() else []:
            numbered = []
            for child in folder.iterdir() if folder.is_dir() else []:
                match = re.fullmatch(r"epoch[-_]?(\d+)", child.name)
                if match and child.is_dir():
                    numbered.append(Epoch(folder.name, int(match.group(1)), child))
            if numbered:
                found[folder.name] = sorted(numbered, key=lambda epoch: epoch.number)
        return dict(sorted(found.items(), key=lambda item: _rank(item[0])))

    def checkpoint(self, policy: str) -> Path | None:
        """Folder with the weights of a policy: `start/`, or the last epoch's `checkpoint/`; None where there is none."""
        if policy == "start":
            folders = [self.path / "start"]
        else:
            folders = [epoch.path / "checkpoint" for epoch in reversed(self.epochs.get(policy, []))]
            folders.append(self.path / policy)
        return next((folder for folder in folders if any(folder.glob("*.safetensors"))), None)
