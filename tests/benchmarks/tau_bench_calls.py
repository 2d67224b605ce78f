"""The cost of a call in a tau-bench episode: a session that keeps the database, or a copy of the database per call.

The database is synthetic and as large as the airline's (5 MB), or a real one (--domain-folder). Three methods, in the
same run:
- session: the database goes to the sandbox once, and calls run on it there (as in eval/tau_bench.py)
- copied: the database is deep-copied for every call, in this process, without isolation
- re-read: its JSON is parsed for every call, in this process, without isolation

Prints milliseconds per call and the ratio to the session. Run by hand.

Example:
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/tau_bench_calls.py --calls 200
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/tau_bench_calls.py --domain-folder
    data/ftrl/tau-bench/airline
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from env_construction.sandbox.tool_sandbox import ToolSandbox
from eval.tau.domains import read_domain

CODE = """def touch(data, table, key):
    entry = data[table][key]
    return {"found": str(entry)[:80]}
"""


def synthetic_database() -> dict[str, Any]:
    """About 5 MB of JSON in three tables."""
    entry = {"name": "x" * 40, "items": [{"price": 12.5, "date": "2024-05-20", "free": True}] * 8}
    return {table: {f"{table}-{place}": entry for place in range(3000)} for table in ("flights", "bookings", "users")}


def milliseconds(call: Callable[[], Any], calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        call()
    return 1000 * (time.perf_counter() - begun) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--domain-folder", default=None)
    arguments = parser.parse_args()
    if arguments.domain_folder:
        folder = Path(arguments.domain_folder)
        database = read_domain(folder.parent, folder.name).database
    else:
        database = synthetic_database()
    text = json.dumps(database)
    table = next(iter(database))
    given = {"table": table, "key": next(iter(database[table]))}
    space: dict[str, Any] = {}
    exec(CODE, space)
    with ToolSandbox(workers=1, memory_mb=1024, output_bytes=4 * len(text)) as sandbox:
        begun = time.perf_counter()
        with sandbox.open_session({"touch": CODE}, database) as session:
            session.call("touch", given)
            opened = 1000 * (time.perf_counter() - begun)
            found = {"session": milliseconds(lambda: session.call("touch", given), arguments.calls)}
            begun = time.perf_counter()
            session.state()
            read_back = 1000 * (time.perf_counter() - begun)
    few = max(3, arguments.calls // 10)
    found["copied"] = milliseconds(lambda: space["touch"](copy.deepcopy(database), **given), few)
    found["re-read"] = milliseconds(lambda: space["touch"](json.loads(text), **given), few)
    print(
        f"database: {len(text) / 1e6:.1f} MB; once per episode: {opened:.0f} ms to hand over, "
        f"{read_back:.0f} ms to read back"
    )
    for way, cost in found.items():
        print(f"{way:>8}: {cost:8.2f} ms per call, {cost / found['session']:8.1f} x the session")


if __name__ == "__main__":
    main()
