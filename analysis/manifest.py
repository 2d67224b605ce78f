"""Write manifest.json: what made a run, so that it can be repeated.

Inputs:  RUN/configuration.json, RUN/stages.jsonl (`{"stage", "seconds", "finished"}`, written by run_all.sh),
         RUN/start/warm_start.json, the installed packages, this repository's commit.
Outputs: RUN/manifest.json: versions, configuration, git commit, seeds, seconds per stage, machine, SHA-256 of the
environments.

Example: python -m analysis.manifest outputs/cpu --set profile=cpu --set seed=1
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.run_data.run_folder import Run
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, read_jsonl, run_main
from eval.suites.results import file_sha256, git_commit, versions

FURTHER_PACKAGES = (
    "ray",
    "deepspeed",
    "accelerate",
    "peft",
    "safetensors",
    "tokenizers",
    "datasets",
    "matplotlib",
    "pandas",
)


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on; those not installed are left out."""
    found = versions()
    for package in FURTHER_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stage_seconds(run: Run) -> list[dict[str, Any]]:
    """One entry per stage in the order of first completion; a stage that was run again adds up its seconds."""
    path = run.path / "stages.jsonl"
    stages: dict[str, dict[str, Any]] = {}
    for number, row in read_jsonl(path, required=("stage", "seconds")) if path.is_file() else ():
        try:
            seconds = float(row["seconds"])
        except (TypeError, ValueError):
            raise BadInput(f"{path}:{number}: key 'seconds': expected a number, got {row['seconds']!r}") from None
        entry = stages.setdefault(str(row["stage"]), {"stage": str(row["stage"]), "seconds": 0.0, "calls": 0})
        entry["seconds"] += seconds
        entry["calls"] += 1
        entry["finished"] = row.get("finished")
    return list(stages.values())


def find_seeds(value: Any, place: str = "") -> dict[str, Any]:
    """Every entry whose key ends in `seed` or `seeds`, by dotted place."""
    found: dict[str, Any] = {}
    if isinstance(value, Mapping):
        for key, item in value.items():
            inner = f"{place}.{key}" if place else str(key)
            if str(key).lower().endswith(("seed", "seeds")) and not isinstance(item, Mapping):
                found[inner] = item
            else:
                found |= find_seeds(item, inner)
    return found


def machine() -> dict[str, Any]:
    """Processor count, memory and system: what a time in this manifest was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
    }


def make_manifest(run: Run, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest as a JSON object; `extra` adds to the configuration that was found."""
    configuration = run.configuration() | dict(extra or {})
    sources = {"configuration": configuration, "warm_start": run.warm_start()}
    for policy in run.policies:
        sources[f"eval/{policy}"] = run.summary(policy).get("configuration") or {}
    stages = stage_seconds(run)
    files = sorted((run.path / "environments").glob("*.jsonl"))
    return {
        "run": run.name,
        "configuration": configuration,
        "git_commit": git_commit(),
        "versions": package_versions(),
        "machine": machine(),
        "seeds": find_seeds(sources),
        "stages": stages,
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "environments_sha256": {path.name: file_sha256(path) for path in files},
        "warm_start": run.warm_start(),
    }


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`; a value that is JSON is taken as such, any other as text. Raises BadInput."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {text!r}: expected KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def main() -> int:
    parser = ScriptParser(__doc__, "python -m analysis.manifest")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="add to the recorded configuration"
    )
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    manifest = make_manifest(run, dict(parse_setting(text) for text in arguments.set))
    path = run.path / "manifest.json"
    partial = path.with_name("manifest.json.partial")
    partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    print(f"wrote {path} ({len(manifest['stages'])} stages, {manifest['seconds']:.0f} s in all)")
    return 0


if __name__ == "__main__":
    run_main(main)
