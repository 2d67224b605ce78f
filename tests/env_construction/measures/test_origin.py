"""The classifier tells apart what differs, and does not tell apart two halves of one data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from env_construction.environment.jsonl import BadInput
from env_construction.environment.schema import Environment, write_environments
from env_construction.measures.origin import tell_apart
from env_construction.told_apart import main

SUBJECTS = ("river", "lake", "poet", "museum", "treaty", "quarry", "court", "novel", "tower", "island")


def environment(number: int, ours: bool) -> Environment:
    subject, other = SUBJECTS[number % 10], SUBJECTS[number * 7 % 10]
    code = f"def find_{subject}(name):\n    return {number}\n"
    return Environment.model_validate(
        {
            "messages": [{"role": "user", "content": f"Question: How old is the {subject} beside the {other}?"}],
            "tools": [{"name": f"find_{subject}", "description": "Looks it up." if ours else "Retrieves details."}],
            "codes": {f"find_{subject}": code},
            "unsolved_set": {f"find_{subject}": [str(number)]},
            "answer": str(number),
            "scenario": "single_hop" if number % 2 else "multi_hop",
        }
    )


OURS = [environment(number, True) for number in range(60)]
THEIRS = [environment(number, False) for number in range(100, 130)]


def test_what_differs_is_told_apart_and_named() -> None:
    told = tell_apart(OURS, THEIRS, "documents")
    assert told.accuracy == 1 and told.n == 60
    assert "word 'looks'" in told.first and "word 'retrieves'" in told.second


def test_what_is_alike_is_not_told_apart() -> None:
    told = tell_apart(OURS, THEIRS, "questions")
    assert told.low < 0.5 + 0.1 and told.accuracy < 0.75


def test_too_few_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        tell_apart(OURS, THEIRS[:3], "code")


def test_the_command_writes_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    ours, theirs, out = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl", tmp_path / "told.json"
    write_environments(ours, OURS[:20])
    write_environments(theirs, THEIRS)
    monkeypatch.setattr("sys.argv", ["told_apart", str(ours), "--published", str(theirs), "--out", str(out)])
    assert main() == 0
    assert [row["part"] for row in json.loads(out.read_text(encoding="utf-8"))] == ["questions", "documents", "code"]
    write_environments(theirs, THEIRS[:2])
    with pytest.raises(BadInput, match="at least"):
        main()
