"""Environments as packages for OpenEnv and verifiers, with this project's sandbox, scorer and episodes inside.

A package is self-contained: it depends only on what its `pyproject.toml` names. The project's modules are copied
unchanged.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from env_construction.environment.jsonl import BadInput, json_text
from env_construction.environment.schema import Environment, write_environments
from serving.exports.labels import TURN, LabelSettings

ROOT = Path(__file__).resolve().parents[2]
# the modules that play and score an episode; nothing else is exported
CARRIED = (
    "env_construction/__init__.py",
    "env_construction/environment",
    "env_construction/sandbox",
    "env_construction/replies/__init__.py",
    "env_construction/replies/message_content.py",
    "env_construction/replies/reply_text.py",
    "reward/__init__.py",
    "reward/episode_rewards.py",
    "reward/rewards.py",
    "reward/score.py",
    "reward/scoring.py",
    "reward/state_scoring.py",
    "reward/tool_calls.py",
    "serving/__init__.py",
    "serving/episodes",
)
_FILLED = {"pyproject.template.toml": "pyproject.toml", "README.md": "README.md"}


def write_package(
    kind: str, folder: Path, environments: Mapping[str, Environment], settings: LabelSettings
) -> dict[str, int]:
    """Write the package. Returns the number of environments per split. Raises BadInput for a reward of single turns."""
    if settings.reward == TURN:
        raise BadInput(f"--reward {TURN}: a package plays complete episodes; choose a reward of complete episodes")
    shutil.copytree(Path(__file__).with_name(f"{kind}_package"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in CARRIED:
        source, target = ROOT / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (folder / "LICENSE").write_text(_license(), encoding="utf-8")
    write_environments(folder / "environments.jsonl", list(environments.values()))
    (folder / "settings.json").write_text(json_text(vars(settings)) + "\n", encoding="utf-8")
    name, inner = ("ftrl_tools", "server") if kind == "openenv" else ("ftrl_tools_v1", "servers")
    carried = [".".join(path.parent.relative_to(folder).parts) for path in folder.glob("*/**/__init__.py")]
    packages = json.dumps([name, f"{name}.{inner}", *sorted(set(carried) - {inner})])
    for template, filled in _FILLED.items():
        text = (folder / template).read_text(encoding="utf-8").replace('["{packages}"]', packages)
        for key, value in vars(settings).items():
            text = text.replace("{" + key + "}", value)
        (folder / template).unlink()
        (folder / filled).write_text(text, encoding="utf-8")
    return dict(Counter(environment.split for environment in environments.values()))


def _license() -> str:
    """The license text, from the checkout or the installed distribution."""
    beside = ROOT / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = metadata.distribution("ftrl-tool-use").read_text("licenses/LICENSE")
    if text is None:
        raise BadInput(
            "the installed ftrl-tool-use has no LICENSE file, which an exported package must include; reinstall it"
        )
    return text
