"""The client of eval/tau/tau2_worker.py: tasks and tools of tau2-bench from its own package.

Input: a checkout of the repository sierra-research/tau2-bench, and an interpreter that has the package's requirements
(`uv sync` in the checkout makes `.venv`), because they do not fit into this project's environment. The distribution
named tau2 on the Python package index is another project.

Example:
    with Tau2Process(Path("tau2-bench")) as tau2:
        domain = tau2.domain("retail", "base")

Source: the repository sierra-research/tau2-bench at commit a2c024725189.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_construction.environment.jsonl import BadInput
from eval.graders.line_process import LineProcess, NoAnswer
from eval.suites.games import GameFault
from eval.suites.suite import DataMissing

REQUEST_SECONDS = 300.0
START_SECONDS = 900.0
"""Generous limits: the package imports litellm, which takes minutes on a cold disk, so a restart costs most."""


@dataclass(frozen=True)
class Tau2Task:
    """A task. `actions`: the right calls, each with `name`, `arguments` and its `requestor` (assistant or user)."""

    domain: str
    name: str
    instructions: str
    user_system: str
    user_tools: Sequence[Mapping[str, Any]]
    actions: Sequence[Mapping[str, Any]]
    communicate: Sequence[str]

    @property
    def id(self) -> str:
        return f"{self.domain}/{self.name}"


@dataclass(frozen=True)
class Tau2Domain:
    """What the agent sees in a domain, and its tasks. `left_out`: tasks that start in a recorded conversation."""

    system: str
    tools: Sequence[Mapping[str, Any]]
    tasks: Sequence[Tau2Task]
    left_out: int


class Tau2Process(LineProcess):
    """The worker. `folder`: the checkout; `python`: None is `.venv/bin/python` in it. Raises DataMissing."""

    def __init__(self, folder: Path, python: str | None = None) -> None:
        interpreter = Path(python) if python else folder / ".venv" / "bin" / "python"
        for needed in (folder / "src" / "tau2", folder / "data" / "tau2" / "domains", interpreter):
            if not needed.exists():
                raise DataMissing(
                    f"{needed}: not found; tau2-bench runs from a checkout: git clone "
                    f"https://github.com/sierra-research/tau2-bench {folder} and, in it, `uv sync` (or pass --python)"
                )
        super().__init__(
            "eval.tau.tau2_worker",
            "HOME",  # the package writes logs and caches
            python=str(interpreter),
            environ={
                "PYTHONPATH": str(folder.resolve() / "src"),
                "TAU2_DATA_DIR": str(folder.resolve() / "data"),
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no download at import
                "LOGURU_LEVEL": "ERROR",
            },
            start_seconds=START_SECONDS,
        )
        self._keys = itertools.count()

    def ask(self, operation: str, **request: Any) -> Any:
        """The process's response. Raises NoAnswer, or GameFault if the package raised."""
        answer = self.request({"op": operation, **request}, REQUEST_SECONDS)
        if "error" in answer:
            raise GameFault(f"tau2: {operation}: {answer['error']}")
        return answer["value"]

    def domain(self, name: str, split: str | None) -> Tau2Domain:
        """A domain with the tasks of a split (None: all). Raises BadInput if the package cannot load it."""
        try:
            found = self.ask("tasks", domain=name, split=split)
        except (GameFault, NoAnswer) as error:
            raise BadInput(f"tau2-bench: domain {name}, split {split}: {error}; check the checkout's data") from None
        tasks = [
            Tau2Task(
                name,
                str(task["id"]),
                task["instructions"],
                task["user_system"],
                task["user_tools"],
                task["actions"],
                task["communicate"],
            )
            for task in found["tasks"]
        ]
        return Tau2Domain(found["system"], found["tools"], tasks, found["left_out"])

    def new_key(self) -> str:
        """A unique name for one case's state."""
        return f"state{next(self._keys)}"


class Tau2State:
    """The tools of one task in play, and the conversation as the package records it."""

    def __init__(self, process: Tau2Process, task: Tau2Task) -> None:
        self._process, self._task = process, task
        self._key = process.new_key()
        self._journal: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.errors = 0

    def say(self, role: str, content: str) -> None:
        """Record what the agent (`assistant`) or the user says."""
        self.messages.append({"role": role, "content": content})

    def call(self, role: str, calls: Sequence[tuple[str, Mapping[str, Any]]], content: str = "") -> list[str]:
        """Run the calls of one message of the agent or the user; their outputs. Raises GameFault."""
        made = [
            {"id": f"call{len(self._journal) + place}", "name": name, "arguments": dict(arguments), "requestor": role}
            for place, (name, arguments) in enumerate(calls)
        ]
        self.messages.append({"role": role, "content": content or None, "tool_calls": made})
        outputs = []
        for call in made:
            request = {"key": self._key, "domain": self._task.domain, "task": self._task.name, "call": call}
            try:
                answer = self._process.ask("call", after=len(self._journal), **request)
                if answer.get("unknown"):
                    answer = self._process.ask("call", after=len(self._journal), journal=self._journal, **request)
            except NoAnswer as error:
                raise GameFault(f"tau2: the call of {call['name']} got no answer: {error}") from None
            self._journal.append(call)
            self.errors += bool(answer["error"])
            self.messages.append(
                {"role": "tool", "id": call["id"], "content": answer["output"], "requestor": role}
                | {"error": bool(answer["error"])}
            )
            outputs.append(str(answer["output"]))
        return outputs

    def check(self) -> dict[str, Any]:
        """The package's verdict on the whole conversation; the state is dropped. Raises GameFault."""
        try:
            return dict(
                self._process.ask(
                    "check",
                    key=self._key,
                    domain=self._task.domain,
                    task=self._task.name,
                    messages=self.messages,
                )
            )
        except NoAnswer as error:
            raise GameFault(f"tau2: the evaluation got no answer: {error}") from None

    def drop(self) -> None:
        """Drop the state without a verdict."""
        try:
            self._process.ask("forget", key=self._key)
        except NoAnswer:
            return  # the process was replaced, which also dropped the state
