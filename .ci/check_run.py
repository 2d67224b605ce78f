"""Check the output of a run: files exist, oracle scores 1.0, checkpoints differ from the start, the report parses.

Example: python .ci/check_run.py outputs/smoke
"""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

from safetensors.numpy import load_file


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
    HTMLParser().feed((run / "report.html").read_text(encoding="utf-8"))
    print(f"{run}: all required files exist; the oracle scores 1.0")


if __name__ == "__main__":
    main()
