"""Write manifest.json: the settings, versions and seeds of a run, so that it can be reproduced.

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
from collections.abc import Mapping, Sequence
from datetime import datetime
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
    """Versions of the packages that a result may depend on, without those that are not installed."""
    found = versions()
    for package in FURTHER_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of stages.jsonl; [] without the file. Raises BadInput for seconds that are no number."""
    path = run.path / "stages.jsonl"
    rows = list(read_jsonl(path, required=("stage", "seconds"))) if path.is_file() else []
    for number, row in rows:
        try:
            row["seconds"] = float(row["seconds"])
        except (TypeError, ValueError):
            raise BadInput(
                f"{path}:{number}: key 'seconds': expected a number, got {row['seconds']!r}; correct or delete the line"
            ) from None
    return [row for _, row in rows]


def stage_seconds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per stage in the order of first completion. The seconds of repeated stages are added up."""
    stages: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = stages.setdefault(str(row["stage"]), {"stage": str(row["stage"]), "seconds": 0.0, "calls": 0})
        entry["seconds"] += row["seconds"]
        entry["calls"] += 1
        entry["finished"] = row.get("finished")
    return list(stages.values())


def total_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds in which at least one stage ran, because stages overlap. Rows without an end time are added."""
    total, covered = 0.0, float("-inf")
    spans = []
    for row in rows:
        end = datetime.fromisoformat(row["finished"]).timestamp() if row.get("finished") else None
        total += 0.0 if end else row["seconds"]
        spans += [(end - row["seconds"], end)] if end else []
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, covered))
        covered = max(covered, end)
    return total


def find_seeds(value: Any, place: str = "") -> dict[str, Any]:
    """Every entry whose key ends in `seed` or `seeds`, by dotted path."""
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
    """Core count, memory and system of the machine on which the manifest's times were measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
    }


def make_manifest(run: Run, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest as a JSON object; `extra` is added to the recorded configuration."""
    configuration = run.configuration() | dict(extra or {})
    sources = {"configuration": configuration, "warm_start": run.warm_start()}
    for policy in run.policies:
        sources[f"eval/{policy}"] = run.summary(policy).get("configuration") or {}
    rows = stage_rows(run)
    files = sorted((run.path / "environments").glob("*.jsonl"))
    return {
        "run": run.name,
        "configuration": configuration,
        "git_commit": git_commit(),
        "versions": package_versions(),
        "machine": machine(),
        "seeds": find_seeds(sources),
        "stages": stage_seconds(rows),
        "seconds": round(total_seconds(rows), 1),
        "environments_sha256": {path.name: file_sha256(path) for path in files},
        "warm_start": run.warm_start(),
    }


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse `KEY=VALUE`. The value is parsed as JSON if possible and is text otherwise. Raises BadInput."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {text!r}: expected KEY=VALUE, such as --set seed=1")
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
    print(f"wrote {path} ({len(manifest['stages'])} stages, {manifest['seconds']:.0f} s in total)")
    return 0


if __name__ == "__main__":
    run_main(main)
