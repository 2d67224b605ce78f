"""Make every table and figure for which a run has data, and say which are missing and why.

Inputs:  the folder of a run.
Outputs: RUN/analysis/*.{csv,txt,md,tex,png,svg,pdf}, and RUN/analysis/index.json (the report reads it): what was made
         by which script, what is missing and why, and what this run was not meant to have.

Example: python -m analysis.all outputs/cpu
"""

from __future__ import annotations

import importlib
import json
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
    "scenario_breakdown",
    "training_curves",
    "main_table",
    "failure_modes",
    "reward_hacking",
    "reward_ablation",
    "thinking_modes",
    "general_retention",
    "parameter_deltas",
    "restore_layers",
    "restore_elements",
    "construction_stability",
)


def make_all(run: Run, out: Path, scripts: tuple[str, ...] = SCRIPTS) -> dict[str, Any]:
    """Write all artifacts into `out`; returns the index that is written beside them."""
    made: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = [
        {"script": f"eval/{name}", "shows": run.label(name), "reason": "it has no results on the test environments"}
        for name in run.unmeasured
    ]
    missing += [
        {
            "script": name,
            "shows": "a folder of eval/ or train/",
            "reason": "policies.json does not say what it is, so it is left out",
        }
        for name in run.unlisted
    ]
    not_planned: list[dict[str, str]] = []
    for name in tqdm(scripts, desc="analysis", unit="script", disable=None):
        script = importlib.import_module(f"analysis.{name}")
        try:
            artifacts: list[Artifact] = script.build(run)
        except Missing as reason:
            absent = not_planned if isinstance(reason, NotPlanned) else missing
            absent.append({"script": name, "shows": first_line(script.__doc__), "reason": str(reason)})
            continue
        for artifact in artifacts:
            files = [path.name for path in artifact.write(out)]
            made.append({"script": name, "name": artifact.name, "title": artifact.title, "files": files})
    index = {"made": made, "missing": missing, "not_planned": not_planned}
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return index


def first_line(docstring: str | None) -> str:
    """The first line of a script's docstring, without the full stop: what the script shows."""
    return (docstring or "").strip().split("\n", 1)[0].rstrip(".:")


def main() -> int:
    parser = ScriptParser(__doc__, "python -m analysis.all")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, help="where to write (default: RUN/analysis)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    out = arguments.out or run.path / "analysis"
    index = make_all(run, out)
    for entry in index["made"]:
        print(f"made     {entry['name']}: {entry['title']} ({', '.join(entry['files'])})")
    for entry in index["missing"]:
        print(f"missing  {entry['script']}: {entry['reason']}")
    for entry in index["not_planned"]:
        print(f"no part  {entry['script']}: {entry['reason']}")
    print(f"wrote {len(index['made'])} tables and figures into {out}, {len(index['missing'])} missing")
    return 0


if __name__ == "__main__":
    run_main(main)
