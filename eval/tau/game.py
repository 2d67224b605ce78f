"""One episode of tau-bench: the agent's turns, the user's replies, the database, and the reward. See eval/tau_bench.py.

Input: a task, its domain, a simulated user, a sandbox. Output: the state that the policy sees next, and the final row.

Source: tau-bench (arXiv 2406.12045); paper/README.md, defect 8.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from env_construction.sandbox.tool_sandbox import SandboxFault, ToolSandbox, ToolSession
from eval.suites.games import GameFault, SuiteGame, conversation, with_messages
from eval.tau.domains import HAND_OVER, Domain, Task, fingerprint
from eval.tau.simulated_user import GREETING, STOP, SimulatedUser, UserLeft
from reward.tool_calls import (
    CALL_CLOSE,
    CALL_OPEN,
    ParsedTurn,
    assistant_message,
    parse_turn,
    render_call,
    tool_messages,
)
from train.policies.interface import Generation


def required_outputs_said(outputs: Sequence[str], said: Sequence[str]) -> bool:
    """Whether each output appears in one of the texts, in lower case and without commas, as in tau-bench."""
    texts = [text.lower().replace(",", "") for text in said]
    return all(any(output.lower() in text for text in texts) for output in outputs)


def first_call(text: str, match: str) -> tuple[ParsedTurn, int]:
    """The turn with only its first call, and the number of dropped calls.

    `published` ignores everything after the first closing tag. If the text before it is not a call, the entire turn is
    a message.
    """
    turn = parse_turn(text, match)
    if match == "published":
        start = turn.text.find(CALL_OPEN)
        end = turn.text.find(CALL_CLOSE, start) if start >= 0 else -1
        if end >= 0:
            end += len(CALL_CLOSE)
            shortened = parse_turn(turn.text[:end], match)
            if not shortened.calls:
                return replace(turn, calls=(), content=shortened.content + turn.text[end:]), len(turn.calls)
            return replace(shortened, text=turn.text), len(turn.calls) - 1
    return replace(turn, calls=turn.calls[:1]), max(0, len(turn.calls) - 1)


class TauGame(SuiteGame):
    """One task in play."""

    def __init__(
        self,
        task: Task,
        domain: Domain,
        trial: int,
        user: SimulatedUser,
        opening: str,
        sandbox: ToolSandbox,
        match: str,
    ) -> None:
        opened = [{"role": "system", "content": domain.wiki}, {"role": "user", "content": opening}]
        super().__init__(task.id, trial, conversation(task.id, opened, domain.tools))
        self._task, self._domain, self._user, self._sandbox, self._match = task, domain, user, sandbox, match
        self._lines = [GREETING, opening]  # agent and user alternate, as the user sees it
        self._session: ToolSession | None = None
        self._said: list[str] = []  # messages to the user
        self._said_with_calls: list[str] = []
        self._statuses: list[list[str]] = []
        self._failed_calls = self._dropped_calls = self._gold_made = 0
        self._handed_over = self._user_left = False
        self._db_match: bool | None = None

    def gold_turn(self) -> str:
        """The recorded actions one by one, then the outputs; without outputs, the recorded hand-over if any."""
        if self._gold_made < len(self._task.gold_calls):
            self._gold_made += 1
            return render_call(self._task.gold_calls[self._gold_made - 1])
        hand_over = next((action for action in self._task.actions if action.name == HAND_OVER), None)
        if hand_over is not None and not self._task.outputs:
            return render_call(hand_over)
        return f"That is done. {'; '.join(self._task.outputs)}"

    def hear(self, generation: Generation) -> None:
        turn, dropped = first_call(generation.text, self._match)
        self._dropped_calls += dropped
        try:
            if turn.calls:
                self._execute(turn)
            else:
                self._answer_user(turn)
            if self.done:
                self._db_match = self._database_is_right()
        except GameFault:
            self._close()
            raise

    def _execute(self, turn: ParsedTurn) -> None:
        if self._session is None:
            try:
                self._session = self._sandbox.open_session(self._domain.codes, self._domain.database)
            except SandboxFault as error:
                raise GameFault(str(error)) from None
            weakref.finalize(self, self._session.close)  # if the policy fails, nothing else closes the session
        [call] = turn.calls
        result = self._session.call(call.name, call.arguments)
        if result.status == "fault":
            raise GameFault(result.output)
        self._failed_calls += not result.ok
        self._statuses.append([result.status])
        self._said_with_calls.append(turn.content)
        self.state = with_messages(self.state, assistant_message(turn), *tool_messages(turn, [result]))
        if call.name == HAND_OVER:
            self._handed_over = self.done = True

    def _answer_user(self, turn: ParsedTurn) -> None:
        self._statuses.append([])
        self._said.append(turn.content)
        self._lines.append(turn.content)
        self.state = with_messages(self.state, assistant_message(turn))
        try:
            reply = self._user.reply(self.id, self.trial, self._task.instruction, self._lines)
        except UserLeft:
            self._user_left = self.done = True
            return
        self._lines.append(reply)
        self.state = with_messages(self.state, {"role": "user", "content": reply})
        self.done = STOP in reply

    def _database_is_right(self) -> bool:
        right = self._domain.right_database(self._task, self._sandbox)
        if self._session is None:
            return fingerprint(self._domain.database) == right
        try:
            return fingerprint(self._session.state()) == right
        except SandboxFault as error:
            raise GameFault(str(error)) from None

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()

    def row(self, outcome: str) -> dict[str, Any]:
        self._close()
        outputs = self._task.outputs
        solved = self._db_match is True and not self._user_left
        said = required_outputs_said(outputs, self._said)
        if not self.done:
            failure = outcome
        elif self._user_left:
            failure = "user_left"
        elif not solved:
            failure = "wrong_database"
        else:
            failure = "" if said else "missing_output"
        return {
            "domain": self._task.domain,
            "reward": float(solved and said),
            "reward_published": float(solved and required_outputs_said(outputs, self._said_with_calls)),
            "db_match": None if self._db_match is None else float(self._db_match),
            "outputs_said": float(said) if outputs and self.done else None,
            "handed_over": float(self._handed_over),
            "calls": sum(len(statuses) for statuses in self._statuses),
            "failed_calls": self._failed_calls,
            "dropped_calls": self._dropped_calls,
            "failure": failure,
            "user_turns": self._lines[1::2],
            "turn_scores": [{"status": statuses} for statuses in self._statuses],
        }
