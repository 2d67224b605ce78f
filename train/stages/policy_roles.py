"""What each policy of a run is: written once by the pipeline to `<run>/policies.json`, read by the analyses.

A key is the name of the policy's folder in `<run>/eval/`. Nothing about a policy has to be guessed from that name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from env_construction.environment.jsonl import BadInput
from train.experiments import Experiment

FILE = "policies.json"
ROLES = ("floor", "ceiling", "start", "trained", "ablation", "control")


@dataclass(frozen=True)
class Role:
    """One policy of a run. Empty fields do not apply to its role.

    `role`: one of ROLES. `policy`: checkpoint folder or hub name. `start`: name of the policy that it was trained from.
    `experiment`: its row of train/experiments.py; the fields after it are that row's settings. `seed`: the training seed.
    """

    role: str
    model: str = ""
    mode: str = ""
    policy: str = ""
    start: str = ""
    experiment: str = ""
    algorithm: str = ""
    variant: str = ""
    match: str = ""
    control: str = ""
    episode: str = ""
    adapter: str = ""
    without: str = ""
    seed: int = 0


def start_role(row: Experiment, policy: str) -> Role:
    """The untrained policy of an experiment."""
    return Role("start", row.model.name, "thinking" if row.thinking else "plain", policy)


def trained_role(row: Experiment, start: str, policy: str, seed: int) -> Role:
    """What an experiment trains: the paper's method, an ablation of it, or a control."""
    role = "control" if row.control else "trained" if row.plain_reward else "ablation"
    return Role(
        role, row.model.name, "thinking" if row.thinking else "plain", policy, start, row.name, row.algorithm,
        row.variant, row.match, row.control, row.episode, row.adapter, row.without, seed,
    )  # fmt: skip


def write_roles(run: Path, roles: Mapping[str, Role]) -> None:
    """Add `roles` to the run's file; what an earlier call wrote about other policies stays."""
    kept = read_roles(run) | dict(roles)
    partial = run / f"{FILE}.partial"
    partial.write_text(json.dumps({name: asdict(role) for name, role in kept.items()}, indent=1, sort_keys=True) + "\n")
    partial.replace(run / FILE)


def read_roles(run: Path) -> dict[str, Role]:
    """Roles by policy name; {} for a run without the file. Raises BadInput for a file that holds something else."""
    path = run / FILE
    if not path.is_file():
        return {}
    try:
        found = {name: Role(**fields) for name, fields in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: expected roles as train/stages/policy_roles.py writes them: {error}") from None
    for name, role in found.items():
        if role.role not in ROLES:
            raise BadInput(f"{path}: key {name!r}: expected a role of {', '.join(ROLES)}, got {role.role!r}")
    return found
