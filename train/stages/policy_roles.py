"""The role of each policy in a run: the pipeline writes it to `<run>/policies.json`, and the analyses read it.

A key is the name of the policy's folder in `<run>/eval/`. No code has to parse that name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from env_construction.environment.jsonl import BadInput
from train.experiments import Experiment

FILE = "policies.json"
ROLES = ("floor", "ceiling", "start", "trained", "ablation", "control")
HOW_TO_WRITE = (
    "run the run_all.sh command of the run with `--only report` to write it, or write one entry per folder of eval/: "
    '{"start": {"role": "start", "model": "tiny", "mode": "plain"}, '
    '"grpo": {"role": "trained", "model": "tiny", "mode": "plain", "algorithm": "grpo", "start": "start"}}'
)


@dataclass(frozen=True)
class Role:
    """One policy of a run. Empty fields do not apply to its role.

    - `role`: one of ROLES.
    - `policy`: checkpoint folder or hub name.
    - `start`: name of the policy that the training started from.
    - `experiment`: row of train/experiments.py. The fields from `algorithm` to `without` are that row's settings.
    - `control`: what a control changes, or its method in place of reinforcement learning.
    - `seed`: the training seed.
    - `content`: hash of the measured weights, or the hub's commit; empty before the measurement.
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
    content: str = ""
    credit: str = ""


def start_role(row: Experiment, policy: str) -> Role:
    """Role of an experiment's start policy."""
    return Role("start", row.model.name, "thinking" if row.thinking else "plain", policy)


def trained_role(row: Experiment, start: str, policy: str, seed: int) -> Role:
    """Role of an experiment's trained policy: the paper's method, an ablation of it, or a control."""
    role = "control" if row.control else "trained" if row.plain_reward else "ablation"
    return Role(
        role, row.model.name, "thinking" if row.thinking else "plain", policy, start, row.name, row.algorithm,
        row.variant, row.match, row.control, row.episode, row.adapter, row.without, seed, credit=row.credit,
    )  # fmt: skip


def write_roles(run: Path, roles: Mapping[str, Role]) -> None:
    """Add `roles` to the run's file. Keep the roles of other policies, and the content hash of an unchanged role."""
    kept = read_roles(run)
    for name, role in roles.items():
        before = kept.get(name)
        same = before is not None and replace(before, content="") == role
        kept[name] = before if same and before else role
    partial = run / f"{FILE}.partial"
    partial.write_text(json.dumps({name: asdict(role) for name, role in kept.items()}, indent=1, sort_keys=True) + "\n")
    partial.replace(run / FILE)


def record_content(run: Path, name: str) -> None:
    """Copy the content hash of the measured weights from a policy's evaluation to its role, if it is recorded there."""
    try:
        settings = json.loads((run / "eval" / name / "configuration.json").read_text(encoding="utf-8"))
        content = settings["policy_content"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    role = read_roles(run).get(name)
    if role is not None:
        write_roles(run, {name: replace(role, content=content_of(content))})


def content_of(identity: Mapping[str, str]) -> str:
    """The hash or commit that identifies the weights in a policy's identity (train/policies/identity.py)."""
    return str(identity.get("weights") or identity.get("commit") or "")


def read_roles(run: Path) -> dict[str, Role]:
    """Roles by policy name; {} for a run without the file. Raises BadInput for invalid contents."""
    path = run / FILE
    if not path.is_file():
        return {}
    try:
        found = {name: Role(**fields) for name, fields in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: expected roles in the format of train/stages/policy_roles.py: {error}") from None
    for name, role in found.items():
        if role.role not in ROLES:
            raise BadInput(f"{path}: key {name!r}: expected a role of {', '.join(ROLES)}, got {role.role!r}")
        start = found.get(role.start)
        if role.start and (start is None or start.role != "start"):
            raise BadInput(
                f"{path}: key {name!r}: expected 'start' to name a policy with the role 'start', got {role.start!r}"
            )
        if start is not None and (start.model, start.mode) != (role.model, role.mode):
            raise BadInput(
                f"{path}: key {name!r}: {role.model} {role.mode} cannot start from {role.start!r}, "
                f"which is {start.model} {start.mode}"
            )
        if role.role in ("trained", "ablation") and not role.start:
            raise BadInput(f"{path}: key {name!r}: expected 'start', the name of the policy that it was trained from")
    return found
