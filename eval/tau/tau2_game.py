"""One episode of tau2-bench (eval/tau2.py): the agent's turns, a user who may have tools, the package's verdict.

Input: a task, its domain, the package's process, a user. Output: the state that the policy sees next; the row.

Source: tau2-bench (arXiv 2506.07982); the repository sierra-research/tau2-bench, `orchestrator/` and `user/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from env_construction.environment.jsonl import BadInput, read_jsonl
from env_construction.sandbox.tool_sandbox import ToolCall
from eval.suites.games import GameFault, SuiteGame, conversation, with_messages
from eval.tau.simulated_user import GREETING, UserLeft
from eval.tau.tau2_process import Tau2Domain, Tau2Process, Tau2State, Tau2Task
from reward.tool_calls import ParsedTurn, assistant_message, parse_turn, render_call
from train.policies.games import turn_seed
from train.policies.interface import Generation, Policy, PolicyRequest, recorded_trial

STOPS = ("###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###")
MAX_ERRORS = 10
MAX_USER_STEPS = 50
"""Messages of the user (calls included) between two turns of the agent; more is a fault of the user's model."""


class Tau2User(Protocol):
    """Writes the user's next message: a text, or calls of the user's own tools."""

    name: str

    def next(self, game: Tau2Game, messages: Sequence[Mapping[str, Any]], place: int) -> str:
        """The raw text. `messages`: the user's view, in which the agent has the role of the user; `place`: how many
        messages the user has written. Raises GameFault, UserLeft."""


class ModelTau2User:
    """A language model with the package's own prompt for the user."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self.name, self._policy, self._seed = policy.name, policy, seed

    def next(self, game: Tau2Game, messages: Sequence[Mapping[str, Any]], place: int) -> str:
        state = conversation(game.id, messages, game.task.user_tools)
        seed = turn_seed(self._seed, f"user:{game.id}", game.trial, place)
        [generation] = self._policy.generate([PolicyRequest(state, game.id, game.trial, place, seed)])
        if generation.fault:
            raise GameFault(f"the simulated user failed: {generation.fault}")
        if generation.too_long:
            raise UserLeft
        return generation.text


class ReplayTau2User:
    """The messages that an earlier run recorded (`user_turns` in its result rows), by case and trial."""

    def __init__(self, path: str) -> None:
        self.name = f"replay:{path}"
        self._said: dict[tuple[str, int], list[str]] = {}
        for number, row in read_jsonl(path, required=("id", "user_turns")):
            said = row["user_turns"]
            if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
                raise BadInput(f"{path}:{number}: key 'user_turns': expected a list of strings")
            self._said[str(row["id"]), recorded_trial(row, f"{path}:{number}")] = said

    def next(self, game: Tau2Game, messages: Sequence[Mapping[str, Any]], place: int) -> str:
        said = self._said.get((game.id, game.trial), [])
        if place >= len(said):
            raise GameFault(f"only {len(said)} messages of the user are recorded for {game.id!r}, trial {game.trial}")
        return said[place]


class ScriptedTau2User:
    """Says the whole instruction first, then makes the right calls of the user as they come due, then stops.

    For tests of the code and for the oracle; its scores are not comparable with any others.
    """

    name = "scripted"

    def next(self, game: Tau2Game, messages: Sequence[Mapping[str, Any]], place: int) -> str:
        if place == 0:
            return game.task.instructions
        if call := game.next_action("user"):
            return render_call(call)
        return "Done. Go on." if messages[-1]["role"] == "tool" else STOPS[0]


class Tau2Game(SuiteGame):
    """One task in play. Making it asks the user for the first message."""

    def __init__(self, task: Tau2Task, domain: Tau2Domain, trial: int, user: Tau2User, process: Tau2Process) -> None:
        opened = [{"role": "system", "content": domain.system}, {"role": "assistant", "content": GREETING}]
        super().__init__(task.id, trial, conversation(task.id, opened, domain.tools))
        self.task, self._user = task, user
        self._package = Tau2State(process, task)
        self._package.say("assistant", GREETING)
        self._seen_by_user: list[dict[str, Any]] = [
            {"role": "system", "content": task.user_system},
            {"role": "user", "content": GREETING},
        ]
        self._user_turns: list[str] = []
        self._actions_left = [dict(action) for action in task.actions]
        self._calls: list[int] = []
        self._verdict: dict[str, Any] = {}
        self._failure = ""
        self._user_speaks()

    def next_action(self, requestor: str) -> ToolCall | None:
        """Take the next right action if it is this side's; None if it is not."""
        if not self._actions_left or self._actions_left[0]["requestor"] != requestor:
            return None
        action = self._actions_left.pop(0)
        return ToolCall(action["name"], action["arguments"])

    def gold_turn(self) -> str:
        """The agent's right actions one by one; a text where the user must act, and at the end."""
        if call := self.next_action("assistant"):
            return render_call(call)
        return "Please do your part." if self._actions_left else f"That is done. {'; '.join(self.task.communicate)}"

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, "strict")
        self._calls.append(len(turn.calls))
        message = assistant_message(turn)
        if turn.calls:
            outputs = self._package.call("assistant", _made(turn), turn.content)
            self.state = with_messages(self.state, message, *_tool_messages(turn, outputs))
        elif not turn.content:
            self.state = with_messages(self.state, message)
            self._end("empty")
        else:
            self.state = with_messages(self.state, message)
            self._package.say("assistant", turn.content)
            self._seen_by_user.append({"role": "user", "content": turn.content})
            self._user_speaks()
        if not self.done and self._package.errors >= MAX_ERRORS:
            self._end("too_many_errors")

    def _user_speaks(self) -> None:
        """The user's calls, then its words to the agent."""
        for _ in range(MAX_USER_STEPS):
            try:
                text = self._user.next(self, self._seen_by_user, len(self._user_turns))
            except UserLeft:
                self._end("user_left")
                return
            self._user_turns.append(text)
            turn = parse_turn(text, "strict")
            self._seen_by_user.append(assistant_message(turn))
            if turn.calls:
                outputs = self._package.call("user", _made(turn))
                self._seen_by_user += _tool_messages(turn, outputs)
                continue
            if not turn.content:
                raise GameFault("the simulated user said nothing")
            self._package.say("user", turn.content)
            self.state = with_messages(self.state, {"role": "user", "content": turn.content})
            if any(stop in turn.content for stop in STOPS):
                self._verdict, self.done = self._package.check(), True
            return
        raise GameFault(f"the simulated user made {MAX_USER_STEPS} calls without a word")

    def _end(self, failure: str) -> None:
        self._failure, self.done = failure, True

    def row(self, outcome: str) -> dict[str, Any]:
        if not self._verdict:
            self._package.drop()
        reward = float(self._verdict.get("reward", 0.0))
        failure = self._failure or ("" if self.done else outcome)
        if not failure and reward < 1:
            wrong = [name for name in ("env", "action", "communicate") if (self._verdict.get(name) or 0) < 1]
            failure = f"wrong_{next(name for name in wrong if self._verdict.get(name) is not None)}"
        return {
            "domain": self.task.domain,
            "reward": reward,
            **{name: self._verdict.get(name) for name in ("env", "action", "communicate")},
            "db_match": None if self._verdict.get("db_match") is None else float(self._verdict["db_match"]),
            "unjudged": float(self._verdict["unjudged"]) if self._verdict else None,
            "calls": sum(self._calls),
            "failed_calls": self._package.errors,
            "failure": failure,
            "user_turns": self._user_turns,
        }


def _made(turn: ParsedTurn) -> list[tuple[str, Mapping[str, Any]]]:
    return [(call.name, call.arguments) for call in turn.calls]


def _tool_messages(turn: ParsedTurn, outputs: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"role": "tool", "name": call.name, "content": output} for call, output in zip(turn.calls, outputs, strict=True)
    ]
