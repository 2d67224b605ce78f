"""Check the output of a run: files exist, the oracle scores 1.0, checkpoints differ from the start, unseen relations
are unseen, the report parses.

Example: python .ci/check_run.py outputs/smoke
"""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

from safetensors.numpy import load_file


def relations(path: Path) -> set[str]:
    """The relations of all tools and sub-questions in a file of environments."""
    found: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        provenance = json.loads(line)["provenance"]
        found.update(provenance["labels"]["relations"])
        found.update(name for tool in provenance["tools"].values() for name in tool["relations"])
    return found


def main() -> None:
    run = Path(sys.argv[1])
    expected = ["environments/test.jsonl", "start/model.safetensors", "manifest.json", "report.html", "stages.jsonl"]
    missing = [name for name in expected if not (run / name).is_file()]
    assert not missing, f"missing: {missing}"
    oracle = json.loads((run / "eval/oracle/summary.json").read_text())["metrics"]
    for name in ("solve_p", "solve_r", "solve_f1"):
        assert oracle[name]["value"] == 1.0, f"the oracle's {name} is {oracle[name]['value']}, not 1.0"
    checkpoints = sorted(run.glob("train/*/epoch*/checkpoint/model.safetensors"))
    assert checkpoints, f"{run}: no train/*/epoch*/checkpoint/model.safetensors; OpenRLHF saved no checkpoint"
    start = load_file(run / "start/model.safetensors")
    for path in checkpoints:
        trained = load_file(path)
        changed = sum(bool((trained[name] != start[name]).any()) for name in start if name in trained)
        assert changed, f"{path} is identical to the start; training changed no weight"
        print(f"{path}: {changed} of {len(start)} tensors changed")
    inside = {name for split in ("train", "dev", "test") for name in relations(run / f"environments/{split}.jsonl")}
    unseen = relations(run / "environments-unseen-relations/test.jsonl")
    assert inside and unseen and not inside & unseen, f"relations in and out of domain: {sorted(inside & unseen)}"
    HTMLParser().feed((run / "report.html").read_text(encoding="utf-8"))
    print(f"{run}: all required files exist; the oracle scores 1.0; {len(unseen)} unseen relations")


if __name__ == "__main__":
    main()
