"""Audit a data set for shortcuts: what do policies score that never read what a question means?

In:  environments as JSONL or Parquet, ours or the authors'.
Out: a table with one row per policy (`measures/shortcuts.py`): n, score, 95% interval, chance, the highest score that
     is allowed, and LEAKS if the interval lies above it. Below it, the surface probe (`measures/surface_probe.py`).
     --out writes the same as JSON. The exit code is 1 if anything leaks.

Policies that need a gold plan or the names of relations have n = 0 in the published data.

Example:
    python -m env_construction.shortcuts outputs/demo/environments/train.jsonl --out outputs/demo/shortcuts.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import Environment, read_environments
from env_construction.measures.shortcuts import Row, audit, table
from env_construction.measures.surface_probe import ProbeResult, describe_probe, probe
from env_construction.sandbox.tool_sandbox import ToolSandbox

MOST = 1000
"""Environments that are audited at most; the calls of more take long and change little."""


def shortcut_report(
    environments: Sequence[Environment], sandbox: ToolSandbox
) -> tuple[list[Row], ProbeResult | None, dict[str, Any]]:
    """The rows, the probe's result, and both as a JSON record with `leaks`, the names of what leaks."""
    rows, probed = audit(environments, sandbox), probe(environments)
    leaks = [row.policy for row in rows if row.leaks] + (["surface probe"] if probed and probed.leaks else [])
    record = {
        "environments": len(environments),
        "leaks": leaks,
        "policies": [asdict(row) | {"leaks": row.leaks} for row in rows if row.n],
        "surface probe": asdict(probed) | {"leaks": probed.leaks} if probed else None,
    }
    return rows, probed, record


def main() -> int:
    parser = ScriptParser(__doc__, "python -m env_construction.shortcuts")
    parser.add_argument("file", type=Path, help="environments, JSONL or Parquet")
    parser.add_argument("--limit", type=int, default=MOST, help=f"only the first N environments (default: {MOST})")
    parser.add_argument("--out", type=Path, help="JSON with all numbers")
    arguments = parser.parse_args()
    environments = list(islice(read_environments(arguments.file), arguments.limit))
    if not environments:
        raise BadInput(f"{arguments.file}: holds no environment; there is nothing to audit")
    with ToolSandbox() as sandbox:
        rows, probed, record = shortcut_report(environments, sandbox)
    print(f"{len(environments)} environments of {arguments.file}")
    print(table(rows))
    print(describe_probe(probed))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")
    return 1 if record["leaks"] else 0


if __name__ == "__main__":
    run_main(main)
