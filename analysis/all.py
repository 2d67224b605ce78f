"""Create every table and figure for which a run has data, and list the missing ones with the reason.

Inputs:  the folder of a run.
Outputs: RUN/analysis/*.{csv,txt,md,tex,png,svg,pdf}, and RUN/analysis/index.json, which analysis.report reads: the
         artifacts of each script, what is missing and why, and what the run did not plan.

Example: python -m analysis.all outputs/cpu
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.figures.artifact import Artifact
from analysis.run_data.run_folder import Missing, NotPlanned, Run
from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import run_main

# In the order of the report.
SCRIPTS = (
    "results_table",
    "training_seeds",
    "selection_on_test",
    "scenario_breakdown",
    "training_curves",
    "main_table",
    "failure_modes",
    "lost_answers",
    "reward_hacking",
    "reward_ablation",
    "thinking_modes",
    "general_retention",
    "parameter_deltas",
    "restore_layers",
    "restore_elements",
    "construction_stability",
)


def make_all(run: Run, out: Path, scripts: tuple[str, ...] = SCRIPTS, processes: int = 1) -> dict[str, Any]:
    """Write all artifacts and index.json into `out` and return the index. `processes`: scripts in parallel, by fork."""
    made: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = [
        {"script": f"eval/{name}", "shows": run.label(name), "reason": "no results on the test environments"}
        for name in run.unmeasured
    ]
    missing += [
        {
            "script": name,
            "shows": "a folder of eval/ or train/",
            "reason": "policies.json does not define its role, so it is left out",
        }
        for name in run.unlisted
    ]
    not_planned: list[dict[str, str]] = []
    for name, found in zip(scripts, _made(run, out, scripts, processes), strict=True):
        if isinstance(found, Missing):
            absent = not_planned if isinstance(found, NotPlanned) else missing
            shows = first_line(importlib.import_module(f"analysis.{name}").__doc__)
            absent.append({"script": name, "shows": shows, "reason": str(found)})
        else:
            made += found
    index = {"made": made, "missing": missing, "not_planned": not_planned}
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return index


def _made(run: Run, out: Path, scripts: Sequence[str], processes: int) -> list[list[dict[str, Any]] | Missing]:
    """The artifacts of each script, or why there are none."""
    if processes == 1:
        return [_make(run, out, name) for name in tqdm(scripts, desc="analysis", unit="script", disable=None)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
        # The last scripts take the longest, so they start first.
        waiting = {name: pool.submit(_make, run, out, name) for name in reversed(scripts)}
        for future in tqdm(as_completed(waiting.values()), "analysis", len(waiting), unit="script", disable=None):
            future.result()
        return [waiting[name].result() for name in scripts]


def _make(run: Run, out: Path, name: str) -> list[dict[str, Any]] | Missing:
    try:
        artifacts: list[Artifact] = importlib.import_module(f"analysis.{name}").build(run)
    except Missing as reason:
        return reason
    return [
        {
            "script": name,
            "name": artifact.name,
            "title": artifact.title,
            "files": [path.name for path in artifact.write(out)],
        }
        for artifact in artifacts
    ]


def first_line(docstring: str | None) -> str:
    """The first line of a script's docstring without the period: what the script shows."""
    return (docstring or "").strip().split("\n", 1)[0].rstrip(".:")


def main() -> int:
    parser = ScriptParser(__doc__, "python -m analysis.all")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, help="output folder (default: RUN/analysis)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    out = arguments.out or run.path / "analysis"
    index = make_all(run, out, processes=len(os.sched_getaffinity(0)))
    for entry in index["made"]:
        print(f"written      {entry['name']}: {entry['title']} ({', '.join(entry['files'])})")
    for entry in index["missing"]:
        print(f"missing      {entry['script']}: {entry['reason']}")
    for entry in index["not_planned"]:
        print(f"not planned  {entry['script']}: {entry['reason']}")
    print(f"wrote {len(index['made'])} tables and figures to {out}, {len(index['missing'])} missing")
    return 0


if __name__ == "__main__":
    run_main(main)
