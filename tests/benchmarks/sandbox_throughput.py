"""Calls per second of real tools that import something, as they are and each in a process of its own. Run by hand.

Inputs: environments (JSONL, the authors' format). Conforming calls with random arguments, in random order, one per
response, one worker.
Output: how many of these tools are proven (code_proof.py), calls/s of wall time, and calls per second of CPU time of
all processes.

Example:
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/sandbox_throughput.py --environments
    ../shared/data/ftrl_test_sample.jsonl
"""

from __future__ import annotations

import argparse
import ast
import random
import time

from reward_throughput import cpu_seconds

from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import Environment, ToolDocument, read_environments
from env_construction.sandbox.code_proof import why_unproven
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolSandbox
from train.policies.interface import random_arguments


def importing_tools(environments: list[Environment]) -> list[tuple[Environment, ToolDocument]]:
    return [
        (environment, tool)
        for environment in environments
        for tool in environment.tools
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(ast.parse(environment.codes[tool.name])))
    ]


def jobs_of(tools: list[tuple[Environment, ToolDocument]], calls: int, suffix: str, seed: int) -> list[SandboxJob]:
    jobs = []
    for environment, tool in tools:
        rng = random.Random(f"{seed}:{environment.id}:{tool.name}")
        words = environment.question.split()
        codes = {tool.name: environment.codes[tool.name] + suffix}
        jobs += [
            SandboxJob(codes, [ToolCall(tool.name, random_arguments(tool.parameters, words, rng))])
            for _ in range(calls)
        ]
    random.Random(seed).shuffle(jobs)
    return jobs


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure calls per second of real tools with imports.")
    parser.add_argument("--environments", required=True, help="environments, JSONL in the authors' format")
    parser.add_argument("--calls", type=int, default=120, help="calls per tool (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tools = importing_tools(list(read_environments(arguments.environments)))
    proven = sum(why_unproven(ast.parse(environment.codes[tool.name])) is None for environment, tool in tools)
    print(f"{len(tools)} tools import something, {proven} of them are proven")
    for name, suffix, calls in (
        ("as they are", "", arguments.calls),
        ("isolated", "\nimport sys\n", arguments.calls // 10),
    ):
        jobs = jobs_of(tools, max(1, calls), suffix, arguments.seed)
        with ToolSandbox(workers=1) as sandbox:
            sandbox.run_batch(jobs[: len(tools)])
            start, before = time.perf_counter(), cpu_seconds()
            sandbox.run_batch(jobs)
            wall, used = time.perf_counter() - start, cpu_seconds() - before
        print(
            f"{name}: {len(jobs)} calls, {len(jobs) / wall:,.0f}/s of wall time, {len(jobs) / used:,.0f} per CPU second of all processes"
        )
    return 0


if __name__ == "__main__":
    run_main(main)
