"""New processes under load: does a call time out without reason, or report an impossible time? Run by hand.

The load is two busy processes per CPU. The benchmark runs `--processes` isolated calls, each in a new process, 32 at a
time. For every 20 calls it starts a new sandbox (a new zygote and pool runner), whose first call follows after a pause.
The time limit of a call is 10 s. Output: counts and the slowest call. The exit code is 1 if a call failed or took
longer than its batch.

Example:
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/fresh_runners.py --processes 2000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter

from tqdm import tqdm

from env_construction.environment.jsonl import run_main
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolResult, ToolSandbox

CODES = {"proven": "def proven(x): return x", "isolated": "import os\ndef isolated(x): return x"}
BATCH = 32
PER_SANDBOX = 20


def measured(sandbox: ToolSandbox, name: str, count: int) -> tuple[list[ToolResult], int]:
    """The results of `count` responses with one call each, and the number of impossible times among them."""
    start = time.monotonic()
    results = [
        row[0] for row in sandbox.run_batch([SandboxJob(CODES, [ToolCall(name, {"x": i})]) for i in range(count)])
    ]
    wall = time.monotonic() - start
    return results, sum(not 0.0 <= result.seconds <= wall for result in results)


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for false timeouts and impossible times of fresh processes.")
    parser.add_argument("--processes", type=int, default=2000, help="isolated calls (default %(default)s)")
    arguments = parser.parse_args()
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    statuses: Counter[str] = Counter()
    impossible, slowest = 0, 0.0
    try:
        with ToolSandbox(workers=2) as sandbox:
            for start in tqdm(range(0, arguments.processes, BATCH)):
                rounds = [measured(sandbox, "isolated", min(BATCH, arguments.processes - start))]
                for _ in range(max(1, BATCH // PER_SANDBOX)):
                    with ToolSandbox(workers=1) as fresh:
                        time.sleep(0.02)
                        rounds.append(measured(fresh, "proven", 1))
                for results, wrong in rounds:
                    statuses.update(result.status for result in results)
                    impossible += wrong
                    slowest = max(slowest, *(result.seconds for result in results))
    finally:
        for process in load:
            process.kill()
            process.wait()
    print(f"statuses {dict(statuses)}; impossible times {impossible}; slowest call {slowest:.3f} s")
    return 1 if impossible or set(statuses) != {"ok"} else 0


if __name__ == "__main__":
    run_main(main)
