"""The client of eval/bfcl_support/checker.py: starts, queries and replaces it.

The process is replaced when a call hangs or uses too much memory.

Example:
    with BfclProcess() as bfcl:
        cases = bfcl.ask("cases", category="multi_turn_base")
        state = ToolState(bfcl, cases[0]["id"])
        output = state.call("ls", {"a": True})

The state of a multi-turn case lives in that process. After a replacement, the earlier calls of each case run again
before its next call, so other cases are not affected.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from eval.graders.line_process import LineProcess, NoAnswer
from eval.suites.games import GameFault

CALL_SECONDS = 10.0
OTHER_SECONDS = 120.0


class BfclProcess(LineProcess):
    """The checker process; its package writes into a scratch folder."""

    def __init__(self, call_seconds: float = CALL_SECONDS) -> None:
        super().__init__("eval.bfcl_support.checker", folder_variable="BFCL_PROJECT_ROOT")
        self.call_seconds = call_seconds
        self._keys = itertools.count()

    def new_key(self) -> str:
        """A unique name for one case's state."""
        return f"state{next(self._keys)}"

    def ask(self, operation: str, **request: Any) -> Any:
        """The process's response. Raises NoAnswer, or GameFault if it refused the request."""
        seconds = self.call_seconds if operation in ("call", "memory_call") else OTHER_SECONDS
        answer = self.request({"op": operation, **request}, seconds)
        if "error" in answer:
            raise GameFault(f"bfcl-eval: {operation}: {answer['error']}")
        return answer["value"]


class ToolState:
    """The tools of one multi-turn case, with a state that its calls change."""

    def __init__(self, process: BfclProcess, case_id: str) -> None:
        self._process = process
        self._case_id = case_id
        self._key = process.new_key()
        self._journal: list[dict[str, Any]] = []

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """The tool's output, and whether the call finished. An unfinished call leaves the state unchanged."""
        call = {"name": name, "arguments": arguments}
        request: dict[str, Any] = {"id": self._case_id, "key": self._key, "call": call}
        try:
            answer = self._process.ask("call", after=len(self._journal), **request)
            if answer.get("unknown"):
                answer = self._process.ask("call", journal=self._journal, **request)
        except NoAnswer:
            return "Error during execution: the call took too much time, memory or nesting", False
        self._journal.append(call)
        return str(answer["output"]), True

    def check(self, turns: Sequence[Sequence[Sequence[dict[str, Any]]]]) -> tuple[bool, str]:
        """The package's verdict on the complete case, and the error type; the state is dropped."""
        try:
            found = self._process.ask("check_multi", id=self._case_id, key=self._key, turns=turns)
        except NoAnswer:
            return False, "checker_timeout"
        return bool(found["valid"]), str(found["error_type"])

    def drop(self) -> None:
        """Drop the state without checking the case."""
        try:
            self._process.ask("forget", key=self._key)
        except NoAnswer:
            return  # the process was replaced, which also dropped the state
