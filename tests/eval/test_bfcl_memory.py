"""BFCL's memory categories: a model answers from what it stored in the conversations, also after a resume."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.sandbox.tool_sandbox import ToolCall
from eval import bfcl
from eval.bfcl_support.memory import MemoryCategory, MemoryPhaseGame
from eval.bfcl_support.process import BfclProcess
from eval.suites.results import read_rows
from eval.suites.suite import DataMissing
from reward.tool_calls import render_call
from train.policies.interface import Generation, PolicyRequest

PHASE = "memory_rec_sum_prereq-customer"
NO_BM25 = importlib.util.find_spec("rank_bm25") is None


@pytest.fixture(scope="module")
def process() -> Iterator[BfclProcess]:
    with BfclProcess() as opened:
        yield opened


def measure(out: Path, *more: object, policy: Any = None) -> dict[str, Any]:
    flags = ["--policy", "oracle", "--categories", "memory_rec_sum", "--out", out, *more]
    return bfcl.run(bfcl.parser().parse_args(list(map(str, flags))), policy=policy)


def call(name: str, **arguments: Any) -> str:
    return render_call(ToolCall(name, arguments))


class NoteTaker:
    """Stores the first message of every conversation, and answers with everything that its prompt shows."""

    name = "note-taker"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        self.asked += [request.case_id for request in requests]
        return [Generation(self._turn(request), 1, 1, False) for request in requests]

    @staticmethod
    def _turn(request: PolicyRequest) -> str:
        messages = request.environment.messages
        if "prereq" not in request.case_id:
            return messages[0]["content"].partition("previous interactions:")[2]
        return "Noted." if len(messages) > 2 else call("memory_append", text=messages[1]["content"])


def test_oracle_gets_full_marks_and_all_stays_without_memory(tmp_path) -> None:
    summary = measure(tmp_path / "out", "--limit", 3)
    assert summary["by_category"]["memory_rec_sum"]["correct"]["value"] == 1.0
    assert summary["by_category"]["memory_rec_sum_prereq"]["correct"]["n"] == 0
    assert (summary["rows"], summary["faults"]) == (4, 0)
    assert summary["partial"]["memory"]["groups"] == ["memory_rec_sum"]
    assert not set(bfcl.chosen_categories("all")) & set(bfcl.MEMORY)


def test_a_question_is_answered_from_what_was_stored_also_after_a_resume(tmp_path) -> None:
    first = NoteTaker()
    measure(tmp_path / "out", "--limit", 1, policy=first)
    rows = {row["id"]: row for row in read_rows(tmp_path / "out")}
    question = rows["memory_rec_sum_0-customer-0"]
    assert "My name is Michael" in rows[PHASE]["memory"]["memory"] and rows[PHASE]["calls"] == 10
    assert question["correct"] is True
    assert "My name is Michael" in question["transcript"][0]["content"]
    assert "{'answer'" in question["transcript"][0]["content"], "the package's answer format"
    again = NoteTaker()
    measure(tmp_path / "out", "--limit", 2, policy=again)
    assert set(again.asked) == {"memory_rec_sum_1-customer-1"}, "the memory comes from the first call's row"
    assert len(read_rows(tmp_path / "out")) == 3


def test_an_empty_memory_answers_nothing(tmp_path) -> None:
    class Forgetful(NoteTaker):
        @staticmethod
        def _turn(request: PolicyRequest) -> str:
            return "I do not know."

    measure(tmp_path / "out", "--limit", 2, policy=Forgetful())
    rows = read_rows(tmp_path / "out")
    assert [row["failure"] for row in rows if row["category"] == "memory_rec_sum"] == ["agentic:answer_not_found"] * 2
    shown = next(row for row in rows if row["category"] == "memory_rec_sum")["transcript"][0]["content"]
    assert "There is no content in the memory" in shown


def test_without_its_conversations_a_question_is_a_fault(tmp_path) -> None:
    class Broken(NoteTaker):
        def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
            return [
                Generation("", 0, 0, False, fault="no server" if "prereq" in request.case_id else "")
                for request in requests
            ]

    with pytest.raises(BadInput, match="no server"):
        measure(tmp_path / "out", "--limit", 1, policy=Broken())
    faults = {row["id"]: row["fault"] for row in read_rows(tmp_path / "out" / "faults.jsonl")}
    assert "are not complete" in faults["memory_rec_sum_0-customer-0"]


def test_a_conversation_with_endless_calls_is_left_and_the_next_one_starts_afresh(process) -> None:
    category = MemoryCategory.load(process, "memory_rec_sum", 1)
    game = MemoryPhaseGame(category, PHASE, 0, process, 2)
    texts = [call("memory_append", text="a")] * 3
    for text in texts:
        game.hear(Generation(text, 1, 1, False))
    assert [message["role"] for message in game.state.messages] == ["system", "user"]
    assert "aaa" in game.state.messages[0]["content"]
    while not game.done:
        game.hear(Generation("Fine.", 1, 1, False))
    row = game.row("ended")
    assert (row["failure"], row["memory"], row["calls"]) == ("conversations_left", {"memory": "aaa"}, 3)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("_flush_memory_to_local_file", {}),
        ("__init__", {}),
        ("no_such", {}),
        ("memory_append", {"x": 1}),
        ("memory", {}),
    ],
)
def test_only_the_memorys_own_functions_run(process, name, arguments) -> None:
    asked = {"category": "memory_rec_sum", "state": {"memory": "kept"}, "call": {"name": name, "arguments": arguments}}
    found = process.ask("memory_call", **asked)
    assert found["output"].startswith("Error during execution") and found["state"] == {"memory": "kept"}


def test_calls_change_the_state_that_they_return(process) -> None:
    def ask(state: Any, name: str, **arguments: Any) -> Any:
        made = {"name": name, "arguments": arguments}
        found = process.ask("memory_call", category="memory_rec_sum", state=state, call=made)
        return found["state"], json.loads(found["output"])

    state, said = ask(None, "memory_append", text="Suva")
    assert (state, said) == ({"memory": "Suva"}, {"status": "Memory appended."})
    assert ask(state, "memory_replace", old_text="Lima", new_text="x")[1] == {
        "error": "Text 'Lima' not found in memory."
    }
    assert ask(state, "memory_retrieve")[1] == {"memory_content": "Suva"}
    assert process.ask("check_memory", said="It is suva, I think", accepted=["Suva"]) is True
    assert process.ask("check_memory", said="Suvarna", accepted=["Suva"]) is False


@pytest.mark.skipif(NO_BM25, reason="memory_kv needs the package rank-bm25, which is not among the requirements")
def test_keys_and_values_are_found_by_words(process) -> None:
    state: Any = None
    for key, value in (("user_name", "Michael"), ("home_city", "Seattle")):
        made = {"name": "archival_memory_add", "arguments": {"key": key, "value": value}}
        state = process.ask("memory_call", category="memory_kv", state=state, call=made)["state"]
    made = {"name": "archival_memory_key_search", "arguments": {"query": "city", "k": 1}}
    output = process.ask("memory_call", category="memory_kv", state=state, call=made)["output"]
    assert "home_city" in output and "user_name" not in output
    assert MemoryCategory.load(process, "memory_kv", 2).questions.keys() == {
        "memory_kv_0-customer-0",
        "memory_kv_1-customer-1",
    }


@pytest.mark.skipif(not NO_BM25, reason="the package rank-bm25 is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(DataMissing, match="rank-bm25"):
        bfcl.chosen_categories("memory")
