"""BFCL's memory categories that need no network: the model fills a memory in conversations, then answers from it.

| category | the memory |
| --- | --- |
| `memory_kv` | keys and values: a small part that is always shown, and an archive with a keyword search (rank-bm25) |
| `memory_rec_sum` | one text of up to 10,000 characters, always shown |

The third, `memory_vector`, needs an embedding model. Per scenario and trial the model first has the package's
conversations, one after another, each with a fresh context and the memory so far (`MemoryPhaseGame`). Its row keeps the
filled memory; the category is `<category>_prereq`, and it has no score. Each question then starts from a copy of it.

Source: PyPI bfcl-eval 2026.3.23, `model_handler/base_handler.py` (inference_multi_turn_FC) and `eval_runner.py`
(_evaluate_single_agentic_entry).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.bfcl_support.process import BfclProcess, NoAnswer
from eval.suites.games import GameFault, OnRow, Play, PlayCases, SuiteGame, conversation, with_messages
from eval.suites.results import read_rows
from reward.tool_calls import ParsedTurn, assistant_message, parse_turn
from train.policies.interface import Generation, Policy

Memory = dict[str, Any]


@dataclass
class MemoryCategory:
    """The cases of a memory category. `phase_of` maps a question's id to the id of its memory phase."""

    name: str
    tools: Sequence[Mapping[str, Any]]
    questions: dict[str, Mapping[str, Any]]
    conversations: dict[str, Sequence[Sequence[Sequence[Mapping[str, Any]]]]]
    memories: dict[Play, Memory] = field(default_factory=dict)

    @classmethod
    def load(cls, bfcl: BfclProcess, name: str, limit: int | None) -> MemoryCategory:
        found = bfcl.ask("memory_cases", category=name, limit=limit)
        questions = {question["id"]: question for question in found["questions"]}
        conversations = {f"{name}_prereq-{scenario}": told for scenario, told in found["conversations"].items()}
        return cls(name, found["tools"], questions, conversations)

    def phase_of(self, question: str) -> str:
        return f"{self.name}_prereq-{self.questions[question]['scenario']}"

    def game(self, case_id: str, trial: int, bfcl: BfclProcess, max_steps: int) -> SuiteGame:
        """The phase or the question of this id. Raises GameFault for a question whose phase has no memory yet."""
        if case_id in self.conversations:
            return MemoryPhaseGame(self, case_id, trial, bfcl, max_steps)
        phase = self.phase_of(case_id)
        if (phase, trial) not in self.memories:
            raise GameFault(f"the conversations of {phase} are not complete: there is no memory to answer from")
        return MemoryQuestionGame(self, case_id, trial, bfcl, max_steps, self.memories[phase, trial])


class _MemoryGame(SuiteGame):
    """A memory and its tools; a turn without a call ends the step."""

    def __init__(self, category: MemoryCategory, case_id: str, trial: int, bfcl: BfclProcess, max_steps: int) -> None:
        super().__init__(case_id, trial, conversation(case_id, []))
        self._category, self._bfcl, self._max_steps = category, bfcl, max_steps
        self._memory: Memory | None = None
        self._calls = self._steps = self._cut = 0

    def _opened(self, scenario: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """A fresh context: the package's system prompt with the memory so far, then the messages."""
        system = self._bfcl.ask("memory_prompt", category=self._category.name, scenario=scenario, state=self._memory)
        if messages[0]["role"] == "system":
            system, messages = f"{system}\n\n{messages[0]['content']}", messages[1:]
        opened = [{"role": "system", "content": system}, *messages]
        self.state = conversation(self.id, opened, self._category.tools)

    def _call(self, turn: ParsedTurn) -> None:
        outputs = []
        for call in turn.calls:
            made = {"name": call.name, "arguments": call.arguments}
            try:
                found = self._bfcl.ask("memory_call", category=self._category.name, state=self._memory, call=made)
                self._memory, output = found["state"], found["output"]
            except NoAnswer:
                self._cut += 1
                output = "Error during execution: the call took too much time, memory or nesting"
            outputs.append({"role": "tool", "name": call.name, "content": output})
        self._calls += len(turn.calls)
        self._steps += 1
        self.state = with_messages(self.state, assistant_message(turn), *outputs)


class MemoryPhaseGame(_MemoryGame):
    """The conversations of one scenario. A conversation in which the model does not stop calling is left."""

    def __init__(self, category: MemoryCategory, case_id: str, trial: int, bfcl: BfclProcess, max_steps: int) -> None:
        super().__init__(category, case_id, trial, bfcl, max_steps)
        self._scenario = case_id.rpartition("-")[2]
        self._told = category.conversations[case_id]
        self._conversation = self._turn = self._left = 0
        self._opened(self._scenario, self._told[0][0])

    def gold_turn(self) -> str:
        return "Thank you, noted."

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, "strict")
        if turn.calls:
            self._call(turn)
            if self._steps <= self._max_steps:
                return
            self._left += 1
            self._turn = len(self._told[self._conversation])
        else:
            self.state = with_messages(self.state, assistant_message(turn))
            self._turn += 1
        self._steps = 0
        if self._turn < len(self._told[self._conversation]):
            self.state = with_messages(self.state, *self._told[self._conversation][self._turn])
        elif self._conversation + 1 < len(self._told):
            self._conversation, self._turn = self._conversation + 1, 0
            self._opened(self._scenario, self._told[self._conversation][0])
        else:
            self.done = True

    def row(self, outcome: str) -> dict[str, Any]:
        return {
            "category": f"{self._category.name}_prereq",
            "correct": None,
            "failure": outcome if outcome != "ended" else "conversations_left" if self._left else "",
            "calls": self._calls,
            "calls_cut": self._cut,
            "memory": self._memory or {},
        }


class MemoryQuestionGame(_MemoryGame):
    """One question, answered from a copy of the memory."""

    def __init__(
        self,
        category: MemoryCategory,
        case_id: str,
        trial: int,
        bfcl: BfclProcess,
        max_steps: int,
        memory: Memory,
    ) -> None:
        super().__init__(category, case_id, trial, bfcl, max_steps)
        self._memory = memory or None
        self._question = category.questions[case_id]
        self._said: str | None = None
        self._opened(self._question["scenario"], self._question["question"])

    def gold_turn(self) -> str:
        return f"{{'answer': '{self._question['gold'][0]}', 'context': 'said earlier'}}"

    def hear(self, generation: Generation) -> None:
        turn = parse_turn(generation.text, "strict")
        if turn.calls:
            self._call(turn)
            self.done = self._steps > self._max_steps
            return
        self.state = with_messages(self.state, assistant_message(turn))
        self._said, self.done = turn.content, True

    def row(self, outcome: str) -> dict[str, Any]:
        right = False
        if self._said:
            right = bool(self._bfcl.ask("check_memory", said=self._said, accepted=self._question["gold"]))
        failure = "" if right else "agentic:answer_not_found"
        if not self._said:
            failure = outcome if outcome != "ended" else "agentic:no_last_message"
        return {
            "category": self._category.name,
            "scenario": self._question["scenario"],
            "correct": right,
            "failure": failure,
            "calls": self._calls,
            "calls_cut": self._cut,
        }


def phases_first(out: Path, categories: Sequence[MemoryCategory], player: PlayCases) -> PlayCases:
    """A player that completes the memory phases before the questions; phases of an earlier call are read from `out`."""
    phases = {phase: category for category in categories for phase in category.conversations}

    def keep_memory(row: Mapping[str, Any]) -> None:
        if row["id"] in phases and row["outcome"] != "fault":
            phases[row["id"]].memories[row["id"], row["trial"]] = row["memory"]

    def play(policy: Policy, plays: Sequence[Play], on_row: OnRow) -> None:
        results = out / "results.jsonl"
        if phases and results.is_file() and results.stat().st_size:
            for row in read_rows(results):
                keep_memory(row)

        def both(row: dict[str, Any]) -> None:
            keep_memory(row)
            on_row(row)

        groups: list[tuple[list[Play], Callable[[dict[str, Any]], None]]] = [
            ([play for play in plays if play[0] in phases], both),
            ([play for play in plays if play[0] not in phases], on_row),
        ]
        for group, on_each in groups:
            if group:
                player(policy, group, on_each)

    return play
