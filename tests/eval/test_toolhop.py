"""ToolHop: both data layouts, three settings, every branch of both readings of AC, and the published rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from env_construction.environment.jsonl import BadInput
from env_construction.sandbox.tool_sandbox import ToolCall
from eval.suites.results import read_rows
from eval.suites.suite import DataMissing
from eval.suites.toolhop_questions import read_questions
from eval.toolhop import PROMPTS, parser, published_correct, published_final, run, strict_correct
from reward.tool_calls import parse_turn, render_call
from train.policies.interface import Generation, PolicyRequest

DIRECTOR = """
def director_of(film, detail="plain"):
    directors = {"Little Mill": "Ada Born", "Loud River": "Ben Ash"}
    if film not in directors:
        raise KeyError("no film " + film)
    return {"film": film, "director": directors[film]}
"""
# ends with an example call, like many sources of the data set
BIRTH = """import datetime

def _year(name):
    return {"Ada Born": 1951, "Ben Ash": 1923}[name]

def birth_year(name):
    return datetime.date(_year(name), 1, 1).year

# Example usage
print(birth_year("Ben Ash"))
"""
DOCUMENTS = {
    "Who directed the film Little Mill?": {
        "name": "director_of",
        "description": "Director of a film.",
        "parameters": {"type": "object", "properties": {"film": {"type": "string"}}, "required": ["film"]},
    },
    "In which year was Ada Born born?": {
        "name": "birth_year",
        "description": "Year of birth.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
AUTHORS: dict[str, Any] = {
    "question": "In which year was the director of the film Little Mill born?",
    "answer": "1951",
    "tools": DOCUMENTS,
    "functions": {"director_of": DIRECTOR, "birth_year": BIRTH},
}
ORIGINAL: dict[str, Any] = {
    "id": 17,
    "question": "Who directed Loud River?",
    "answer": "Ben Ash",
    "sub_task": {"Who directed the film Loud River?": "Ben Ash"},
    "tools": DOCUMENTS,
    "functions": [BIRTH, DIRECTOR],
    "domain": "Film",
    "answer_type": "name",
}
DIRECTOR_CALL = render_call(ToolCall("director_of", {"film": "Little Mill"}))
BIRTH_CALL = render_call(ToolCall("birth_year", {"name": "Ada Born"}))


class Scripted:
    """Says `turns[setting][turn]` and repeats the last one; one list of turns serves every setting."""

    name = "scripted"

    def __init__(self, turns: dict[str, list[str]] | list[str]) -> None:
        self.turns = turns
        self.requests: list[PolicyRequest] = []

    def generate(self, requests: Sequence[PolicyRequest]) -> list[Generation]:
        self.requests += requests
        return [Generation(self._text(request), 5, 7, False) for request in requests]

    def _text(self, request: PolicyRequest) -> str:
        turns = self.turns if isinstance(self.turns, list) else self.turns[request.case_id.split("/")[-1]]
        return turns[min(request.turn, len(turns) - 1)]


def data(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "ToolHop.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records or (AUTHORS,)), encoding="utf-8")
    return path


def played(folder: Path, policy: Any, *flags: str, path: Path | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary and, by case id, the rows of a run."""
    out = folder / "out"
    shown = getattr(policy, "name", policy)
    arguments = parser().parse_args(
        ["--policy", shown, "--data", str(path or data(folder)), "--out", str(out), "--seed", "3", *flags]
    )
    summary = run(arguments, None if isinstance(policy, str) else policy)
    return summary, {row["id"]: row for row in read_rows(out)}


def test_a_question_is_asked_in_three_settings_and_solved_with_its_tools(tmp_path: Path) -> None:
    answer = "It is <answer>1951</answer>"
    policy = Scripted(
        {"direct": ["<answer>1950</answer>"], "mandatory": [DIRECTOR_CALL, BIRTH_CALL, answer], "free": [answer]}
    )
    summary, rows = played(tmp_path, policy)
    assert {
        case: (row["ac_published"], row["ac_strict"], row["turns"], row["calls"]) for case, row in rows.items()
    } == {
        "0/direct": (0.0, 0.0, 1, 0),
        "0/mandatory": (1.0, 1.0, 3, 2),
        "0/free": (1.0, 1.0, 1, 0),
    }
    assert [message["content"] for message in rows["0/mandatory"]["transcript"] if message["role"] == "tool"] == [
        '{"film": "Little Mill", "director": "Ada Born"}',
        "1951",
    ]
    assert [turn["status"] for turn in rows["0/mandatory"]["turn_scores"]] == [["ok"], ["ok"], []]
    assert rows["0/direct"]["failure"] == "wrong_answer"
    assert summary["metrics"]["ac_strict"]["value"] == pytest.approx(2 / 3)
    assert summary["metrics"]["ac_strict"]["n"] == 1
    assert {name: table["ac_strict"]["value"] for name, table in summary["by_setting"].items()} == {
        "direct": 0.0,
        "mandatory": 1.0,
        "free": 1.0,
    }


def test_direct_gets_no_tools_and_each_setting_its_own_prompt(tmp_path: Path) -> None:
    policy = Scripted(["<answer>1951</answer>"])
    played(tmp_path, policy)
    asked = {request.case_id: request.environment for request in policy.requests}
    assert [len(asked[f"0/{setting}"].tools) for setting in ("direct", "mandatory", "free")] == [0, 2, 2]
    texts = {setting: asked[f"0/{setting}"].messages[0]["content"] for setting in PROMPTS}
    assert len(set(texts.values())) == 3
    assert all(text.endswith(f"Question: {AUTHORS['question']}") for text in texts.values())
    assert "Call a tool at every step" in texts["mandatory"]


def test_prompts_from_a_file_are_used_and_recorded(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({name: f"{name}! {{question}}" for name in PROMPTS}))
    policy = Scripted(["x"])
    summary, _ = played(tmp_path, policy, "--prompts", str(prompts), "--settings", "direct")
    assert policy.requests[0].environment.messages[0]["content"] == f"direct! {AUTHORS['question']}"
    assert summary["configuration"]["prompts"] == {"direct": "direct! {question}"}
    prompts.write_text(json.dumps({"direct": "no place for it", "mandatory": "{question}", "free": "{question}"}))
    with pytest.raises(BadInput, match="'direct'"):
        played(tmp_path, policy, "--prompts", str(prompts))


def test_both_layouts_of_the_data_give_the_same_tools(tmp_path: Path) -> None:
    [authors] = read_questions(data(tmp_path))
    whole = tmp_path / "ToolHop.json"
    whole.write_text(json.dumps([{**AUTHORS, "functions": [DIRECTOR, BIRTH]}, ORIGINAL], indent=1))
    first, second = read_questions(whole)
    assert (first.codes, first.tools, first.id) == (authors.codes, authors.tools, "0")
    assert (second.id, second.domain, second.codes["birth_year"]) == ("17", "Film", BIRTH)
    assert len(read_questions(whole, limit=1)) == 1
    for text in ("\ufeff" + whole.read_text(), "\ufeff\r\n" + whole.read_text().replace("\n", "\r\n")):
        whole.write_bytes(text.encode())
        assert read_questions(whole) == [first, second]
    lines = "\ufeff" + data(tmp_path).read_text().replace("\n", "\r\n")
    (tmp_path / "marked.jsonl").write_bytes(lines.encode())
    assert read_questions(tmp_path / "marked.jsonl") == [authors]


def test_a_duplicate_tool_name_is_offered_once_with_the_fitting_document(tmp_path: Path) -> None:
    other = {"name": "director_of", "description": "other", "parameters": {"properties": {"title": {}, "film": {}}}}
    fitting = DOCUMENTS["Who directed the film Little Mill?"]
    for pair in ((other, fitting), (fitting, other), (fitting, {**fitting, "description": "the same again"})):
        tools = {"first": pair[0], **DOCUMENTS, "last": pair[1]}
        del tools["Who directed the film Little Mill?"]
        [question] = read_questions(data(tmp_path, {**AUTHORS, "tools": tools}))
        assert [tool["description"] for tool in question.tools] == ["Director of a film.", "Year of birth."]
    unreadable = {**AUTHORS, "tools": {"a": other, "b": fitting}, "functions": {"director_of": "def director_of(:"}}
    [question] = read_questions(data(tmp_path, unreadable))
    assert [tool["name"] for tool in question.tools] == ["director_of"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "'question'"),
        ({"answer": None}, "'answer'"),
        ({"tools": "none"}, "'tools'"),
        ({"tools": {"q": {"description": "no name"}}}, "'tools'"),
        ({"functions": None}, "'functions'"),
        ({"functions": {"director_of": 3}}, "'functions'"),
    ],
)
def test_broken_records_are_named_with_line_and_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = data(tmp_path, AUTHORS, {**AUTHORS, **change})
    with pytest.raises(BadInput, match=rf"ToolHop.jsonl:2: key {message}"):
        read_questions(path)


def test_a_duplicate_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"duplicate id '17'"):
        read_questions(data(tmp_path, ORIGINAL, ORIGINAL))


def test_missing_data_are_reported_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = parser().parse_args(["--policy", "random", "--out", "out"])
    with pytest.raises(DataMissing, match=r"ToolHop\.jsonl: no such file.*bytedance/FTRL.*eval\.download toolhop"):
        run(arguments)
    arguments = parser().parse_args(["--policy", "random", "--out", "out", "--data", "mine.jsonl"])
    with pytest.raises(DataMissing, match=r"mine\.jsonl: no such file"):
        run(arguments)


@pytest.mark.parametrize(
    ("answer", "final", "tool_output", "published", "strict"),
    [
        ("1951", "<answer>1951</answer>", None, True, True),
        ("1951", "In 1951.", None, True, True),
        ("1951", "<answer>1952</answer>", None, False, False),
        # defect 4: substrings of other words and numbers
        ("19", "<answer>1951</answer>", None, True, False),
        ("no", "<answer>unknown</answer>", None, True, False),
        # numbers by value, dates by day
        ("1234", "<answer>1,234.0</answer>", None, True, True),
        ("1949-08-21", "<answer>August 21, 1949</answer>", None, False, True),
        # defect 9: a wrong last message with the answer in the tool output before it
        ("1951", "<answer>1952</answer>", "1951", True, False),
        ("1951", "I do not know.", '{"year": 1951}', True, False),
        ("1951", "I do not know.", '{"year": 1952}', False, False),
        # an empty last message is wrong in both readings, whatever the tool output
        ("1951", "", "1951", False, False),
        # defect 6b: the answer only inside the thinking
        ("1951", "<think>1951?</think>No idea.", None, True, False),
        ("1951", "<think>1952?</think>1951", None, True, True),
        # the parts of an answer in another order
        ("Ann, Bob", "<answer>Bob and Ann</answer>", None, True, False),
        ("Ann, Bob", "<answer>Ann, Bob</answer>", None, True, True),
        # the tag contains the answer and another one
        ("1951", "First 1951. <answer>1950</answer>", None, True, False),
        ("1951", "<answer>1950</answer> No: <answer>1951</answer>", None, True, True),
        ("1951", "<answer>1951", None, True, True),
        # a call that does not parse
        ("1951", '<tool_call>{"name": "birth_year", "arg', "1951", True, False),
        ("1951", 'So 1951. <tool_call>{"name": "f", "arguments": {}}</tool_call>', None, True, False),
        ("1951", "</tool_call> 1951", None, True, False),
        # fences are text
        ("1951", "```\n<answer>1951</answer>\n```", None, True, True),
        # nothing to find
        ("?", "<answer>x</answer>", None, False, False),
        ("?", "what?", None, True, False),
    ],
)
def test_every_branch_of_both_readings(
    answer: str, final: str, tool_output: str | None, published: bool, strict: bool
) -> None:
    assert published_correct(answer, published_final(final), tool_output) is published
    assert strict_correct(answer, parse_turn(final, "strict")) is strict


def authors_verdict(messages: list[dict[str, Any]], answer: str) -> bool:
    """The published rule, computed from its description alone: over the last two messages of an episode."""
    last = messages[-1]
    if last["role"] != "assistant" or not last["content"]:
        return False

    def holds(text: str) -> bool:
        text = text.lower().replace(",", "").strip()
        return all(part.lower().replace(",", "").strip() in text for part in answer.split(", "))

    if holds(last["content"]):
        return True
    return messages[-2]["role"] == "tool" and holds(messages[-2]["content"])


@pytest.mark.parametrize(
    "turns",
    [
        ["<answer>1951</answer>"],
        [DIRECTOR_CALL, BIRTH_CALL, "<answer>1900</answer>"],
        [DIRECTOR_CALL, "1900"],
        [BIRTH_CALL],
        [BIRTH_CALL, ""],
        [f"{DIRECTOR_CALL}\n{BIRTH_CALL}", "done"],
        [f"{BIRTH_CALL}\n{DIRECTOR_CALL}", "done"],
        ["1951 " + BIRTH_CALL, "<tool_call>{"],
    ],
)
def test_published_column_follows_the_authors_rule_on_the_same_transcript(tmp_path: Path, turns: list[str]) -> None:
    _, rows = played(tmp_path, Scripted(turns), "--max-turns", "3")
    assert len(rows) == 3
    for case, row in rows.items():
        expected = authors_verdict(row["transcript"], "1951")
        if case.endswith("direct") and turns[0].startswith("1951 "):
            assert row["transcript"][-1]["content"] == "1951"
        assert row["ac_published"] == float(expected), case


def test_an_episode_that_ends_with_a_call_is_wrong_in_both_readings(tmp_path: Path) -> None:
    _, rows = played(tmp_path, Scripted([BIRTH_CALL]))
    row = rows["0/mandatory"]
    assert (row["turns"], row["calls"], row["outcome"], row["failure"]) == (9, 9, "max_turns", "max_turns")
    assert (row["ac_published"], row["ac_strict"]) == (0.0, 0.0)
    assert row["transcript"][-1] == {"role": "tool", "name": "birth_year", "content": "1951"}


@pytest.mark.parametrize(
    ("turns", "failure", "calls"),
    [
        ([""], "empty", 0),
        (["<think>hm"], "empty", 0),
        (["a" * (1 << 20)], "no_calls", 0),
        (['<tool_call>\n{"name": "birth_year", "argum'], "malformed", 0),
        ([render_call(ToolCall("no_such_tool", {})), "1900"], "wrong_answer", 1),
        ([render_call(ToolCall("director_of", {"movie": "x"})), "1900"], "wrong_answer", 1),
        ([BIRTH_CALL], "max_turns", 9),
        (["\n".join([BIRTH_CALL] * 20), "1900"], "wrong_answer", 20),
        (['```json\n{"name": "birth_year", "arguments": {"name": "Ada Born"}}\n```'], "no_calls", 0),
        (["<answer>1900</answer>\n" + BIRTH_CALL, "<answer>1900</answer>"], "wrong_answer", 1),
        (['<tool_call>{"name": "birth_year", "arguments": [1]}</tool_call>', "1900"], "malformed", 0),
        (["\ud800 <answer>\udfff</answer>"], "no_calls", 0),
    ],
)
def test_hostile_output_ends_in_a_scored_row(tmp_path: Path, turns: list[str], failure: str, calls: int) -> None:
    match = "strict" if failure == "malformed" else "published"
    summary, rows = played(tmp_path, Scripted(turns), "--settings", "free", "--match", match)
    row = rows["0/free"]
    assert (row["failure"], row["calls"], row["ac_strict"]) == (failure, calls, 0.0)
    assert (summary["rows"], summary["faults"]) == (1, 0)


def test_oracle_shows_that_every_answer_can_be_scored(tmp_path: Path) -> None:
    summary, _ = played(tmp_path, "oracle", path=data(tmp_path, AUTHORS, ORIGINAL))
    for reading in ("ac_published", "ac_strict"):
        estimate = summary["metrics"][reading]
        assert (estimate["value"], estimate["n"]) == (1.0, 2)


def test_random_policy_plays_and_scores_low(tmp_path: Path) -> None:
    summary, rows = played(tmp_path, "random", "--trials", "2", path=data(tmp_path, AUTHORS, ORIGINAL))
    assert (summary["rows"], summary["cases"]) == (12, 6)
    assert all(row["outcome"] in ("ended", "max_turns") for row in rows.values())
    assert summary["metrics"]["ac_strict"]["value"] < 0.5


def test_settings_of_a_question_are_resampled_together(tmp_path: Path) -> None:
    """Two questions, one right in every setting: the interval is that of two cases, not of six."""

    class HalfRight(Scripted):
        def _text(self, request: PolicyRequest) -> str:
            return "1951" if request.case_id.startswith("0/") else "nothing"

    summary, _ = played(tmp_path, HalfRight([]), path=data(tmp_path, AUTHORS, ORIGINAL))
    estimate = summary["metrics"]["ac_strict"]
    wilson = binomtest(1, 2).proportion_ci(method="wilson")
    assert (estimate["value"], estimate["n"]) == (0.5, 2)
    assert (estimate["low"], estimate["high"]) == pytest.approx((wilson.low, wilson.high))
    assert summary["smallest_resolvable_difference"]["ac_strict"] > 1


def test_recorded_turns_are_scored_again_without_a_model(tmp_path: Path) -> None:
    policy = Scripted([DIRECTOR_CALL, BIRTH_CALL, "<answer>1951</answer>"])
    summary, rows = played(tmp_path, policy)
    recorded = tmp_path / "recorded.jsonl"
    (tmp_path / "out" / "results.jsonl").rename(recorded)
    again, rows_again = played(tmp_path / "again", f"replay:{recorded}", path=tmp_path / "ToolHop.jsonl")
    assert again["metrics"]["ac_strict"] == summary["metrics"]["ac_strict"]
    assert {case: row["transcript"] for case, row in rows_again.items()} == {
        case: row["transcript"] for case, row in rows.items()
    }
