"""Call every published tool at random: does it load, survive, and return the same result twice? Run by hand.

Inputs: environments (JSONL, the authors' format). Output: a summary on stdout and, with --out, one JSON line per tool:
`environment`, `tool`, `loads`, `plain` (shares a process, see code_proof.py; packages installed here count as present),
`clock` (reads the date or time, so another date may give another result), statuses of conforming and of broken calls,
`differing` (calls that returned another result when repeated in another order).

A conforming call has arguments drawn from the tool's JSON Schema, with words of its question and its source. A broken
call omits, adds, retypes or nests arguments, or its arguments are not an object.

Example (200 conforming and 200 broken calls per tool):
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/real_tools.py --environments
    ../shared/data/ftrl_test_sample.jsonl
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.jsonl import run_main, write_jsonl
from env_construction.environment.schema import Environment, read_environments
from env_construction.sandbox.code_proof import why_unproven
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolSandbox
from train.policies.interface import random_arguments

ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, float("nan"), "", " ", "x" * 10_000, "\ud800", "' OR 1=1 --", "{0.__class__}",
    "../..",
    "2023-02-30", [], [[]], {}, {"": None}, [None] * 1000, {"a": {"b": {"c": []}}},
)  # fmt: skip
"""Values that a broken call has in place of a valid one."""


@dataclass
class ToolReport:
    """The results of the calls to one tool. Statuses as in ToolResult."""

    environment: str
    tool: str
    loads: bool
    plain: bool
    clock: bool
    conforming: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    differing: int = 0


def generator(seed: int, tool: str, index: int) -> random.Random:
    """The random generator for one call."""
    return random.Random(f"{seed}:{index}:{tool}")


def words_of(environment: Environment, source: str) -> list[str]:
    """Words that a tool may know: from the question and from the string constants of its source."""
    return re.findall(r"\w+", environment.question) + re.findall(r"['\"]([^'\"\n]{2,40})['\"]", source)


def broken_arguments(schema: dict[str, Any], words: Sequence[str], rng: random.Random) -> Any:
    """Arguments that a careless model might send: a value is missing, superfluous, or of another type."""
    arguments: Any = random_arguments(schema, words, rng)
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(5)
        if kind == 0 and arguments:
            del arguments[rng.choice(list(arguments))]
        elif kind == 1:
            arguments[rng.choice(["extra", "self", "args", "", "città", *words[:3]])] = rng.choice(ODD_VALUES)
        elif kind == 2 and arguments:
            arguments[rng.choice(list(arguments))] = rng.choice(ODD_VALUES)
        elif kind == 3 and arguments:
            name = rng.choice(list(arguments))
            arguments[name] = rng.choice([str(arguments[name]), [arguments[name]], {name: arguments[name]}])
        elif kind == 4 and rng.random() < 0.2:
            return rng.choice([None, [], list(arguments), "arguments", 3, [arguments]])
    return arguments


def examine(
    environments: Sequence[Environment], sandbox: ToolSandbox, conforming: int, broken: int, seed: int
) -> list[ToolReport]:
    """One report per tool of each environment."""
    return list(_reports(environments, sandbox, conforming, broken, seed))


def _reports(
    environments: Sequence[Environment], sandbox: ToolSandbox, conforming: int, broken: int, seed: int
) -> Iterator[ToolReport]:
    for environment in environments:
        for tool in environment.tools:
            source = environment.codes[tool.name]
            words = words_of(environment, source)
            calls = [
                (random_arguments if index < conforming else broken_arguments)(
                    tool.parameters, words, generator(seed, tool.name, index)
                )
                for index in range(conforming + broken)
            ]
            jobs = [SandboxJob({tool.name: source}, [ToolCall(tool.name, arguments)]) for arguments in calls]
            results = [row[0] for row in sandbox.run_batch(jobs)]
            again = [row[0] for row in sandbox.run_batch(jobs[::-1])][::-1]
            probe = {tool.name: f"{source}\n_callable = callable({tool.name})\ndef {tool.name}(): return _callable"}
            yield ToolReport(
                environment=environment.id,
                tool=tool.name,
                loads=sandbox.run(probe, [ToolCall(tool.name, {})])[0].output == "True",
                plain=why_unproven(ast.parse(source)) is None,
                clock=re.search(r"\b(now|today|utcnow|time|localtime|gmtime)\(", source) is not None,
                conforming=Counter(result.status for result in results[:conforming]),
                broken=Counter(result.status for result in results[conforming:]),
                differing=sum(
                    (a.status, a.output) != (b.status, b.output) for a, b in zip(results, again, strict=True)
                ),
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Call every published tool at random.",
        epilog="example: PYTHONPATH=. python tests/benchmarks/real_tools.py --environments ENV.jsonl --out tools.jsonl",
    )
    parser.add_argument("--environments", required=True, help="environments, JSONL in the authors' format")
    parser.add_argument("--conforming", type=int, default=200, help="conforming calls per tool (default %(default)s)")
    parser.add_argument("--broken", type=int, default=200, help="broken calls per tool (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSONL file, one line per tool")
    arguments = parser.parse_args()
    environments = list(read_environments(arguments.environments))
    start = time.monotonic()
    with ToolSandbox(workers=arguments.workers) as sandbox:
        found = _reports(environments, sandbox, arguments.conforming, arguments.broken, arguments.seed)
        reports = list(tqdm(found, total=sum(len(environment.tools) for environment in environments)))
    print(f"{len(reports)} tools of {len(environments)} environments, {time.monotonic() - start:.0f} s")
    print(
        f"load: {sum(report.loads for report in reports)}; share a process: {sum(report.plain for report in reports)}"
    )
    print(
        f"read the clock: {sum(report.clock for report in reports)}; "
        f"returned two results: {sum(r.differing > 0 for r in reports)}"
    )
    print(f"conforming calls: {dict(sum((report.conforming for report in reports), Counter()))}")
    print(f"broken calls: {dict(sum((report.broken for report in reports), Counter()))}")
    for report in reports:
        if (
            report.differing
            or report.clock
            or not report.loads
            or set(report.conforming + report.broken) - {"ok", "error"}
        ):
            print(json.dumps(vars(report)))
    if arguments.out:
        print(f"wrote {write_jsonl(arguments.out, map(vars, reports))} lines to {arguments.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
