"""What each policy of a run is: written once by the pipeline to `<run>/policies.json`, read by the analyses.

A key is the name of the policy's folder in `<run>/eval/`. Nothing about a policy has to be guessed from that name.
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
    "the run_all.sh command of the run with `--only report` writes it; by hand, it is one entry per folder of eval/: "
    '{"start": {"role": "start", "model": "tiny", "mode": "plain"}, '
    '"grpo": {"role": "trained", "model": "tiny", "mode": "plain", "algorithm": "grpo", "start": "start"}}'
)


@dataclass(frozen=True)
class Role:
    """One policy of a run. Empty fields do not apply to its role.

    `role`: one of ROLES. `policy`: checkpoint folder or hub name. `start`: name of the policy that it was trained from.
    `experiment`: its row of train/experiments.py; the fields after it are that row's settings. `control`: what a control changes,
    or what it does instead of reinforcement learning. `seed`: the training seed. `content`: hash of the weights that were measured, or
    the hub's commit; empty before that.
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
    """Add `roles` to the run's file; what an earlier call wrote about other policies, and the content of the same one, stays."""
    kept = read_roles(run)
    for name, role in roles.items():
        before = kept.get(name)
        same = before is not None and replace(before, content="") == role
        kept[name] = before if same and before else role
    partial = run / f"{FILE}.partial"
    partial.write_text(json.dumps({name: asdict(role) for name, role in kept.items()}, indent=1, sort_keys=True) + "\n")
    partial.replace(run / FILE)


def record_content(run: Path, name: str) -> None:
    """Add to a policy's role what its evaluation says that it measured; nothing where it says nothing."""
    try:
        settings = json.loads((run / "eval" / name / "configuration.json").read_text(encoding="utf-8"))
        content = settings["policy_content"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    role = read_roles(run).get(name)
    if role is not None:
        write_roles(run, {name: replace(role, content=content_of(content))})


def content_of(identity: Mapping[str, str]) -> str:
    """The one text that identifies the weights in a policy's identity (train/policies/identity.py)."""
    return str(identity.get("weights") or identity.get("commit") or "")


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
        start = found.get(role.start)
        if role.start and (start is None or start.role != "start"):
            raise BadInput(
                f"{path}: key {name!r}: its start {role.start!r} is no policy with the role 'start' in this file"
            )
        if start is not None and (start.model, start.mode) != (role.model, role.mode):
            raise BadInput(
                f"{path}: key {name!r}: {role.model} {role.mode} cannot start from {role.start!r}, which is {start.model} {start.mode}"
            )
        if role.role in ("trained", "ablation") and not role.start:
            raise BadInput(f"{path}: key {name!r}: expected the 'start' that it was trained from")
    return found
