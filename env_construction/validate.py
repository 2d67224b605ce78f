"""Check every environment of a file against every rule, and report which ones break which rule and why.

In: environments in the authors' format or ours (JSONL or Parquet). Out: a table on the screen; with --out, also a JSON
report with every finding. Environments without a gold plan (the published data) get the checks that need none: their
tools are called without arguments, with meaningless texts, with every boolean and choice, and on other dates. The exit
code is 1 if any environment breaks a fatal rule.

Example:
    python -m env_construction.validate outputs/demo/environments/test.jsonl --out outputs/demo/validation.json

Paper section 3.1, verification of the environments.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import run_main
from env_construction.environment.schema import Environment, located_environments
from env_construction.environment.tool_schema import required_of
from env_construction.rules.finding import Finding
from env_construction.rules.probe_rules import PROBE_RULES
from env_construction.rules.state_rules import STATE_RULES
from env_construction.rules.validation import REPLAY_RULES, STATIC_RULES, validate_environments
from env_construction.sandbox.execution import Surroundings
from env_construction.sandbox.protocol import NO_VALUE
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolSandbox

CHUNK = 64
SIMPLE_VALUES = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "null": None}


def keep_valid(environments: Sequence[Environment]) -> list[Environment]:
    """The environments that break no fatal rule."""
    with ToolSandbox() as sandbox:
        findings = validate_environments(environments, sandbox)
    return [
        environment
        for environment, found in zip(environments, findings, strict=True)
        if not any(item.fatal for item in found)
    ]


def tools_load(environments: Sequence[Environment], sandbox: ToolSandbox) -> list[Finding | None]:
    """Check that every tool's source loads and that it answers two calls: one with no arguments, one with the required.

    An answer is a value or a raised error. A generator, a function, or an object without its own text form is neither.
    """
    jobs = [
        SandboxJob(
            environment.codes,
            [ToolCall(name, {}) for name in environment.codes]
            + [
                ToolCall(tool.name, required_arguments(tool.parameters))
                for tool in environment.tools
                if tool.name in environment.codes
            ],
        )
        for environment in environments
    ]
    found: list[Finding | None] = []
    for results in sandbox.run_batch(jobs):
        broken = {
            result.name: result.output if NO_VALUE in result.output else f"{result.name}: {result.status}"
            for result in results
            if result.status not in ("ok", "error") or (result.status == "error" and NO_VALUE in result.output)
        }
        found.append(Finding("tools_load", ", ".join(broken.values())) if broken else None)
    return found


def required_arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The simplest value for each parameter that a tool's JSON Schema requires."""
    properties = schema.get("properties") or {}
    values = {}
    for name in required_of(schema):
        rule = properties.get(name) if isinstance(properties, dict) else None
        rule = rule if isinstance(rule, dict) else {}
        kinds = rule.get("type")
        kind = kinds[0] if isinstance(kinds, list) and kinds else kinds
        simple = SIMPLE_VALUES.get(kind, "x") if isinstance(kind, str) else "x"
        choices = rule.get("enum")
        values[name] = choices[0] if isinstance(choices, list) and choices else simple
    return values


def judge(path: Path, hash_seed: int = 0) -> Iterator[tuple[str, Environment, list[Finding]]]:
    """Yield (file and line, environment, findings) of a file. Raises BadInput with file and line for an invalid record.

    `hash_seed` is Python's hash seed in the tools' processes. A seed other than the build's (0) reveals results that
    depend on the order of a set.
    """
    with ToolSandbox(surroundings=Surroundings(hash_seed)) as sandbox:
        source = located_environments(path, check_tools=False)
        while chunk := list(islice(source, CHUNK)):
            environments = [environment for _, environment in chunk]
            loads = tools_load(environments, sandbox)
            judged = validate_environments(environments, sandbox)
            for (where, environment), found, load in zip(chunk, judged, loads, strict=True):
                yield where, environment, found + ([load] if load else [])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ScriptParser(__doc__, "python -m env_construction.validate")
    parser.add_argument("file", type=Path, help="environments as JSONL or Parquet, in the authors' format or ours")
    parser.add_argument("--out", type=Path, help="JSON report with every finding")
    parser.add_argument("--examples", type=int, default=2, help="findings to print per rule (default: 2)")
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse_arguments()
    environments = 0
    broken: Counter[tuple[str, bool]] = Counter()
    by_scenario: Counter[tuple[str, str]] = Counter()
    examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    rejected = 0
    for where, environment, found in tqdm(judge(arguments.file), desc="validate", unit="env", disable=None):
        environments += 1
        rejected += any(item.fatal for item in found)
        for item in found:
            broken[item.rule, item.fatal] += 1
            by_scenario[item.rule, environment.scenario or "unknown"] += 1
            examples[item.rule].append({"where": where, "id": environment.id, **asdict(item)})
    print(f"{environments} environments, {rejected} of which break a fatal rule")
    for (rule, fatal), number in sorted(broken.items()):
        print(f"{'error' if fatal else 'flag '}  {rule}: {number} of {environments}")
        for example in examples[rule][: arguments.examples]:
            print(f"         {example['where']}: {example['message']}")
    if arguments.out:
        report = {
            "file": str(arguments.file),
            "environments": environments,
            "rejected": rejected,
            "rules": [rule.__name__ for rule in (*STATIC_RULES, *REPLAY_RULES, *PROBE_RULES, *STATE_RULES)]
            + ["tools_load", "gold_plan_absent"],
            "broken": {rule: number for (rule, _), number in sorted(broken.items())},
            "broken by scenario": {
                f"{rule}/{scenario}": number for (rule, scenario), number in sorted(by_scenario.items())
            },
            "findings": dict(sorted(examples.items())),
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")
    return 1 if rejected else 0


def command() -> None:
    """The console script."""
    run_main(main)


if __name__ == "__main__":
    command()
