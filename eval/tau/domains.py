"""The tasks and domains of tau-bench in the authors' layout, and the database that the recorded actions produce.

Input: a folder with `tau-bench.jsonl` (one task per line: `instruction`, `actions`, `outputs`, `data_source` =
`tau-bench/<domain>`) and `tau-bench/<domain>/`. That subfolder has `tools.json` (OpenAI functions), `codes.json`
(`{tool: source}`; each tool's function receives the database as its first argument), `wiki.md` (the policy that the
agent follows), and the database, one JSON file per table.
Output: `Task`s and `Domain`s.

A domain is read once. The sandbox receives its database once per episode, never once per call.

Source: paper/README.md, "Evaluation"; the reward rule is tau-bench's own.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput, read_jsonl, read_text
from env_construction.sandbox.tool_sandbox import SandboxFault, ToolCall, ToolSandbox
from eval.suites.games import GameFault
from eval.suites.suite import DataMissing

DOMAINS = ("airline", "retail")
HAND_OVER = "transfer_to_human_agents"
NOT_TABLES = ("tools.json", "codes.json")


@dataclass(frozen=True)
class Task:
    """One task. `id` is `<domain>/<index>`.

    `actions` are the recorded calls, `outputs` what the agent must say.
    """

    id: str
    domain: str
    instruction: str
    actions: tuple[ToolCall, ...]
    outputs: tuple[str, ...]

    @property
    def gold_calls(self) -> tuple[ToolCall, ...]:
        """The recorded calls that produce the right database: all except the call that would end the episode."""
        return tuple(action for action in self.actions if action.name != HAND_OVER)


@dataclass
class Domain:
    """One domain. `database` is never changed here: calls run on copies in the sandbox."""

    name: str
    wiki: str
    tools: list[dict[str, Any]]
    codes: dict[str, str]
    database: dict[str, Any]
    files: list[Path] = field(default_factory=list)
    _right: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def right_database(self, task: Task, sandbox: ToolSandbox) -> str:
        """The fingerprint after the task's recorded actions. As in tau-bench, an action that fails changes nothing.

        Computed once per task. Raises GameFault if the sandbox fails.
        """
        with self._lock:
            known = self._right.get(task.id)
        if known is None:
            known = self._replayed(task, sandbox)
            with self._lock:
                self._right[task.id] = known
        return known

    def _replayed(self, task: Task, sandbox: ToolSandbox) -> str:
        if not task.gold_calls:
            return fingerprint(self.database)
        try:
            with sandbox.open_session(self.codes, self.database) as session:
                for action in task.gold_calls:
                    result = session.call(action.name, action.arguments)
                    if result.status == "fault":
                        raise GameFault(result.output)
                return fingerprint(session.state())
        except SandboxFault as error:
            raise GameFault(f"the recorded actions of {task.id}: {error}") from None


def fingerprint(database: Any) -> str:
    """SHA-256 of a database, equal whenever tau-bench considers two databases equal.

    The order of keys is ignored; 1, 1.0 and true are three values.
    """
    return hashlib.sha256(json.dumps(database, sort_keys=True).encode()).hexdigest()


def read_tasks(path: Path, limit: int | None = None) -> list[Task]:
    """The tasks in order, at most `limit` per domain. Raises BadInput with line number and key."""
    tasks: list[Task] = []
    places: dict[str, int] = {}
    for number, record in read_jsonl(path, required=("instruction", "actions", "outputs", "data_source")):
        where = f"{path}:{number}"
        domain = str(record["data_source"]).removeprefix("tau-bench/")
        if domain not in DOMAINS:
            known = " or ".join(f"tau-bench/{name}" for name in DOMAINS)
            raise BadInput(f"{where}: key 'data_source': expected {known}, got {record['data_source']!r}")
        if not isinstance(record["instruction"], str):
            raise BadInput(f"{where}: key 'instruction': expected a string")
        outputs = record["outputs"]
        if not isinstance(outputs, list) or not all(isinstance(output, str) for output in outputs):
            raise BadInput(f"{where}: key 'outputs': expected a list of strings")
        if not isinstance(record["actions"], list):
            raise BadInput(f"{where}: key 'actions': expected a list of calls")
        place = places[domain] = places.get(domain, -1) + 1
        if limit is None or place < limit:
            actions = tuple(_action(action, where) for action in record["actions"])
            tasks.append(Task(f"{domain}/{place}", domain, record["instruction"], actions, tuple(outputs)))
    return tasks


def _action(action: Any, where: str) -> ToolCall:
    """A recorded call; `arguments` may be an object or its JSON text."""
    try:
        name, arguments = action["function"]["name"], action["function"]["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (TypeError, KeyError, ValueError) as error:
        raise BadInput(
            f"{where}: key 'actions': expected OpenAI tool calls ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise BadInput(f"{where}: key 'actions': expected a name and an object of arguments, got {action!r:.100}")
    return ToolCall(name, arguments)


def read_domain(folder: Path, name: str) -> Domain:
    """The domain in `folder/<name>`. Raises DataMissing for a missing file, BadInput for an invalid one."""
    place = folder / name
    for file in (*NOT_TABLES, "wiki.md"):
        if not (place / file).is_file():
            raise DataMissing(f"{place / file}: no such file; `python -m eval.download tau_bench` fetches the domains")
    tables = sorted(path for path in place.glob("*.json") if path.name not in NOT_TABLES)
    if not tables:
        raise DataMissing(
            f"{place}: no database: expected a JSON file for each table, in the folder of tools.json and codes.json"
        )
    tools, codes = _read_json(place / "tools.json"), _read_json(place / "codes.json")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadInput(f"{place / 'tools.json'}: expected a list of tool documents")
    if not isinstance(codes, dict) or not all(isinstance(source, str) for source in codes.values()):
        raise BadInput(f"{place / 'codes.json'}: expected an object of tool sources")
    return Domain(
        name=name,
        wiki=read_text(place / "wiki.md"),
        tools=tools,
        codes=codes,
        database={path.stem: _read_json(path) for path in tables},
        files=[*tables, place / "codes.json", place / "tools.json", place / "wiki.md"],
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path}: expected JSON ({error})") from None


def check_actions(tasks: list[Task], domains: Mapping[str, Domain]) -> None:
    """Refuse tasks whose recorded actions name a tool that the domain lacks. Raises BadInput."""
    for task in tasks:
        for action in task.actions:
            if action.name not in domains[task.domain].codes:
                raise BadInput(f"task {task.id}: recorded action {action.name!r}: the domain has no such tool")
