"""The other end of eval/bfcl_support/checker.py: starts it, asks it, and replaces it when a call hangs or takes too much memory.

Example:
    with BfclProcess() as bfcl:
        cases = bfcl.ask("cases", category="multi_turn_base")
        state = ToolState(bfcl, cases[0]["id"])
        output = state.call("ls", {"a": True})

A multi-turn case's state lives in that process. After it was replaced, each case's earlier calls are run again before its next
one, so that no other case notices.
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
    """The checker's process; its package writes into a scratch folder."""

    def __init__(self, call_seconds: float = CALL_SECONDS) -> None:
        super().__init__("eval.bfcl_support.checker", folder_variable="BFCL_PROJECT_ROOT")
        self.call_seconds = call_seconds
        self._keys = itertools.count()

    def new_key(self) -> str:
        """A name for one case's state that no other state has had."""
        return f"state{next(self._keys)}"

    def ask(self, operation: str, **request: Any) -> Any:
        """The process's answer. Raises NoAnswer, or GameFault if the request itself was refused."""
        seconds = self.call_seconds if operation == "call" else OTHER_SECONDS
        answer = self.request({"op": operation, **request}, seconds)
        if "error" in answer:
            raise GameFault(f"bfcl-eval: {operation}: {answer['error']}")
        return answer["value"]


class ToolState:
    """The tools of one multi-turn case, on a state that its calls change."""

    def __init__(self, process: BfclProcess, case_id: str) -> None:
        self._process = process
        self._case_id = case_id
        self._key = process.new_key()
        self._journal: list[dict[str, Any]] = []

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """The tool's output, and whether the call came to its end. One that did not leaves the state as it was."""
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
        """The package's verdict on the whole case, and the kind of error; the state is dropped."""
        try:
            found = self._process.ask("check_multi", id=self._case_id, key=self._key, turns=turns)
        except NoAnswer:
            return False, "checker_timeout"
        return bool(found["valid"]), str(found["error_type"])

    def drop(self) -> None:
        """Forget the state; the case is not checked."""
        try:
            self._process.ask("forget", key=self._key)
        except NoAnswer:
            return  # the process was replaced, and the state went with it
