"""Are the built environments stable? Every one is replayed again, in fresh processes and under another hash seed.

The build keeps only what its own gold plan solves, so that an oracle scores 1 by construction and proves nothing. Here
the environments are judged anew by the replay rules of `python -m env_construction.validate`, in fresh processes and
under another hash seed than the build's: tools load, gold calls give what was recorded, twice alike and fast, the gold
plan scores 1, each answer needs its call. What breaks one on this machine counts against the claim. Beside it stand
what the build itself rejected, and the levels that were built.

Inputs:  RUN/environments*/{train,dev,test}.jsonl: every set of environments of the run, with configuration.json and
         statistics.json.
Outputs: RUN/analysis/construction_stability.{csv,txt}.
Paper:   section 3 (stable environments without online tools).

Example: python -m analysis.construction_stability outputs/cpu
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from scipy.stats import binomtest
from tqdm import tqdm

from analysis.figures.artifact import Artifact, caption_text, script_main
from analysis.run_data.run_folder import Missing, Run, read_json
from env_construction.environment.jsonl import run_main
from env_construction.rules.validation import REPLAY_RULES
from env_construction.validate import judge

STABILITY_RULES = frozenset(rule.__name__ for rule in REPLAY_RULES) | {"tools_load", "same_on_another_day"}
SPLITS = ("train", "dev", "test")
HASH_SEED = 1  # the build's is 0


def build(run: Run) -> list[Artifact]:
    """Raises Missing without built environments."""
    rows = []
    for folder in sorted(path for path in run.path.glob("environments*") if path.is_dir()):
        level = _json(folder / "configuration.json").get("level") or "not recorded"
        statistics = _json(folder / "statistics.json")
        for split in SPLITS:
            path = folder / f"{split}.jsonl"
            if path.is_file():
                rejected = (statistics.get(split) or {}).get("rejections by scenario and rule")
                head = {"environments": folder.name, "level": level, "split": split}
                rows.append(
                    head | _row(path) | {"rejected_by_build": sum(rejected.values()) if rejected is not None else None}
                )
    if not rows:
        raise Missing("environments/{train,dev,test}.jsonl are not there")
    total, unstable, skipped = (sum(row[key] for row in rows) for key in ("replayed", "unstable", "not_replayed"))
    caption = caption_text("construction_stability", stable=total - unstable, total=total)
    note = caption_text("stability_note", skipped=skipped)
    return [Artifact("construction_stability", "Do the environments behave as built?", caption, rows, note=note)]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _row(path: Path) -> dict[str, Any]:
    broken: Counter[str] = Counter()
    replayed = unstable = skipped = 0
    what = f"replay {path.parent.name}/{path.stem}"
    for _, _, findings in tqdm(judge(path, HASH_SEED), desc=what, unit="env", disable=None, leave=False):
        fatal = {finding.rule for finding in findings if finding.fatal}
        broken.update(fatal)
        replayable = fatal <= STABILITY_RULES  # what breaks a rule of the build is not replayed by the judge
        replayed += replayable
        skipped += not replayable
        unstable += bool(fatal) and replayable
    stable = replayed - unstable
    interval = binomtest(stable, replayed).proportion_ci() if replayed else None
    return {
        "replayed": replayed,
        "unstable": unstable,
        "not_replayed": skipped,
        "stable": stable / replayed if replayed else None,
        "stable_low": float(interval.low) if interval else None,
        "stable_high": float(interval.high) if interval else None,
        "stable_n": replayed,
        "rules_broken": ", ".join(f"{rule} {number}" for rule, number in broken.most_common()),
    }


def main() -> int:
    return script_main(__doc__, "analysis.construction_stability", build)


if __name__ == "__main__":
    run_main(main)
