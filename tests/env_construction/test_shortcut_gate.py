"""The shortcut audit is a gate of `build`: a leak fails it; an exempt level or a small build is not audited."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from env_construction.build import FEWEST_AUDITED, SHORTCUT_PAYS, _publish
from env_construction.data_statistics import tally
from env_construction.environment.schema import Environment, write_environments


def _environment(number: int) -> Environment:
    """The needed tool always stands first."""
    text = {"type": "string", "description": "A name."}
    names = ("get_length", "get_depth", "get_color", "get_age")
    return Environment.model_validate(
        {
            "messages": [{"role": "user", "content": f"Call.\nQuestion: What is the value of Orm {number}?"}],
            "tools": [
                {
                    "name": name,
                    "description": "Finds a value.",
                    "parameters": {"type": "object", "properties": {"river": text}, "required": ["river"]},
                }
                for name in names
            ],
            "codes": {name: f"def {name}(river):\n    return {{'Orm': {number}}}.get(river)\n" for name in names},
            "unsolved_set": {"get_length": [str(1000 + number)]},
            "answer": str(1000 + number),
            "id": f"e{number}",
            "scenario": "single_hop",
        }
    )


def _code(folder: Path, count: int, level: str, allowed: bool = False) -> int:
    environments = [_environment(number) for number in range(count)]
    folder.mkdir(parents=True)
    write_environments(folder / "train.jsonl", environments)
    arguments = argparse.Namespace(out=folder, level=level, no_parquet=True, allow_shortcuts=allowed)
    counted = {
        "environments": count,
        "rejections by scenario and rule": {},
        "distinct (estimated)": {},
        **tally(environments).to_record(),
    }
    return _publish(arguments, {"author": "facts"}, {"train": counted})


def test_a_shortcut_fails_the_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _code(tmp_path / "a", 60, "medium") == SHORTCUT_PAYS
    assert "first tool" in capsys.readouterr().out
    assert "first tool" in json.loads((tmp_path / "a/shortcuts.json").read_text(encoding="utf-8"))["leaks"]
    assert "LEAKS" in (tmp_path / "a/README.md").read_text(encoding="utf-8")
    assert _code(tmp_path / "b", 60, "medium", allowed=True) == 0
    assert (tmp_path / "b/shortcuts.json").exists()


def test_small_builds_and_the_compact_level_are_not_audited(tmp_path: Path) -> None:
    assert _code(tmp_path / "a", FEWEST_AUDITED - 1, "medium") == 0
    assert _code(tmp_path / "b", 60, "compact") == 0
    assert not list(tmp_path.glob("*/shortcuts.json"))
