"""Show environments in full, as Markdown: question, gold calls with their outputs, database, tools with their code.

In:  environments in the authors' format or ours (JSONL or Parquet).
Out: one section per environment, on the screen. The gold calls run in the sandbox, so the outputs are real. For an
environment with a database: its tables before, and the cells that the gold calls change.

Example:
    python -m env_construction.show outputs/demo/environments/test.jsonl --limit 1
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from env_construction.environment.command_line import ScriptParser, at_least_one
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.environment.schema import Environment, read_environments
from env_construction.environment.state import difference
from env_construction.rules.state_rules import from_tables, on_tables
from env_construction.sandbox.stateful_turn import StatefulRun
from env_construction.sandbox.tool_sandbox import SandboxJob, ToolCall, ToolSandbox


def describe(environment: Environment, sandbox: ToolSandbox) -> str:
    """The environment as Markdown. Runs its gold calls."""
    return "\n\n".join(_sections(environment, sandbox)) + "\n"


def _sections(environment: Environment, sandbox: ToolSandbox) -> Iterator[str]:
    yield f"## Environment {environment.id}"
    kind = (environment.scenario or "").replace("_", "-")
    yield f"{kind or 'scenario unknown'}, {len(environment.tools)} tools, {environment.unsolved_count} sub-questions"
    yield "\n".join(f"> {line}".rstrip() for line in environment.question.splitlines())
    yield f"Answer: **{environment.answer}**"
    calls = [ToolCall(gold.name, gold.arguments) for gold in environment.gold_plan]
    job, state = SandboxJob(environment.codes, calls), environment.state
    [results] = sandbox.run_batch([on_tables(state, job, alone=False) if state else job])
    run = from_tables(state, job, results) if state else StatefulRun(results, None)
    steps = {step.id: step for step in environment.sub_questions}
    for gold, result in zip(environment.gold_plan, run.results, strict=True):
        if step := steps.get(gold.sub_question):
            needs = f" (needs {', '.join(step.depends_on)})" if step.depends_on else ""
            yield f"**{step.id}**{needs}: {step.question} **{step.answer}**"
        yield _block(f"{gold.name}({_json(gold.arguments)})\n-> {result.output}", "")
    if state:
        yield "Database before:"
        yield _block("\n".join(_rows(state.tables)), "")
        yield "What the gold calls change:"
        yield _block("\n".join(_rows(difference(state.tables, run.state))), "")
    needed = {gold.name for gold in environment.gold_plan}
    for tool in environment.tools:
        yield f"### {tool.name}{' (needed)' if tool.name in needed else ''}"
        yield tool.description
        yield _block(json.dumps(tool.parameters, indent=1, ensure_ascii=False), "json")
        yield _block(environment.codes.get(tool.name, "# this tool has no code").strip(), "python")


def _rows(tables: dict[str, dict[str, Any]]) -> Iterator[str]:
    """One line per row of each table. A row without a value does not exist any more."""
    for table, rows in tables.items():
        for key, row in rows.items():
            yield f"{table} {key}: {'deleted' if row is None else _json(row)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _block(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"


def main() -> int:
    parser = ScriptParser(__doc__, "python -m env_construction.show")
    parser.add_argument("file", type=Path, help="environments, JSONL or Parquet")
    parser.add_argument("--id", help="only the environment with this id")
    parser.add_argument("--limit", type=at_least_one, default=1, help="at most this many (default: %(default)s)")
    arguments = parser.parse_args()
    found = (each for each in read_environments(arguments.file) if arguments.id in (None, each.id))
    shown = list(islice(found, arguments.limit))
    if not shown:
        raise BadInput(f"{arguments.file}: no environment" + (f" has the id {arguments.id!r}" if arguments.id else ""))
    with ToolSandbox() as sandbox:
        for environment in shown:
            print(describe(environment, sandbox))
    return 0


if __name__ == "__main__":
    run_main(main)
