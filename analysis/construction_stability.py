"""Are the built environments stable? Every one is replayed again, in fresh sandbox processes, long after the build.

The build keeps only what its own gold plan solves, so that an oracle scores 1 by construction and proves nothing. Here the
environments are judged anew by the replay rules of `python -m env_construction.validate`: tools load, gold calls give what was recorded,
twice alike and fast, the gold plan scores 1, each answer needs its call. What breaks one on this machine counts against the claim.

Inputs:  RUN/environments/{train,dev,test}.jsonl.
Outputs: RUN/analysis/construction_stability.{csv,txt}.
Paper:   section 3 (stable environments without online tools).

Example: python -m analysis.construction_stability outputs/cpu
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from scipy.stats import binomtest
from tqdm import tqdm

from analysis.figures.artifact import Artifact, script_main
from analysis.run_data.run_folder import Missing, Run
from env_construction.environment.jsonl import run_main
from env_construction.rules.validation import REPLAY_RULES
from env_construction.validate import judge

STABILITY_RULES = frozenset(rule.__name__ for rule in REPLAY_RULES) | {"tools_load", "same_on_another_day"}
SPLITS = ("train", "dev", "test")


def build(run: Run) -> list[Artifact]:
    """Raises Missing without built environments."""
    files = {split: run.path / "environments" / f"{split}.jsonl" for split in SPLITS}
    rows = [_row(split, path) for split, path in files.items() if path.is_file()]
    if not rows:
        raise Missing("environments/{train,dev,test}.jsonl are not there")
    total, unstable, skipped = (sum(row[key] for row in rows) for key in ("replayed", "unstable", "not_replayed"))
    left_out = f"{skipped} more could not be replayed, since they break a rule of the build. " if skipped else ""
    caption = (
        f"{total - unstable} of {total} built environments (n by split in the table) replay as they were built, in fresh sandbox processes: tools load, gold calls "
        f"give what was recorded, twice alike, and the gold plan scores 1. {left_out}Intervals: Clopper-Pearson, 95%. Source: environments/<split>.jsonl."
    )
    return [Artifact("construction_stability", "Do the environments replay as built?", caption, rows)]


def _row(split: str, path: Any) -> dict[str, Any]:
    broken: Counter[str] = Counter()
    replayed = unstable = skipped = 0
    for _, _, findings in tqdm(judge(path), desc=f"replay {split}", unit="env", disable=None, leave=False):
        fatal = {finding.rule for finding in findings if finding.fatal}
        broken.update(fatal)
        replayable = fatal <= STABILITY_RULES  # what breaks a rule of the build is not replayed by the judge
        replayed += replayable
        skipped += not replayable
        unstable += bool(fatal) and replayable
    stable = replayed - unstable
    interval = binomtest(stable, replayed).proportion_ci() if replayed else None
    return {
        "split": split,
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
