"""What is written as JSON is JSON for every reader, and nothing else changes on the way."""

from __future__ import annotations

import importlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_construction.environment.jsonl import JsonlWriter, dump_line, json_text, read_jsonl, run_main, write_jsonl

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.floats(), inner, max_size=4),
    max_leaves=12,
)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _same(value: Any, read: Any) -> bool:
    if isinstance(value, float):
        return read is None if not math.isfinite(value) else read == value
    if isinstance(value, dict):
        return all(_same(inner, read[key if isinstance(key, str) else str(key)]) for key, inner in value.items())
    return len(value) == len(read) and all(map(_same, value, read)) if isinstance(value, list) else read == value


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_every_record_is_one_line_of_json_and_nan_becomes_null(record: dict[str, Any]) -> None:
    line = dump_line(record)
    assert line.count("\n") == 1 and line.encode("utf-8")
    read = json.loads(line, parse_constant=_refuse)
    assert _same(record, read)
    assert json.loads(json_text(record, indent=2)) == read


def test_files_hold_no_bare_nan(tmp_path: Path) -> None:
    row = {"id": "a", "arguments": {"depth": math.nan, "width": [math.inf, -math.inf, 1.5]}, "odd": "\ud800"}
    with JsonlWriter(tmp_path / "a.jsonl") as writer:
        writer.write(row)
    write_jsonl(tmp_path / "b.jsonl", [row])
    for name in ("a.jsonl", "b.jsonl"):
        [(_, read)] = read_jsonl(tmp_path / name)
        assert read["arguments"] == {"depth": None, "width": [None, None, 1.5]} and read["odd"] == "\ud800"
        assert "NaN" not in (tmp_path / name).read_text() and "Infinity" not in (tmp_path / name).read_text()


@given(st.lists(st.text(alphabet="ab\u2028 ", max_size=9), max_size=12), st.integers(1, 5), st.sampled_from(["", "\n"]))
def test_the_shares_of_a_file_are_its_lines_each_once_with_its_number(texts: list[str], parts: int, end: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.jsonl"
        path.write_text("\n".join(json_text({"text": text}) if text else "" for text in texts) + end, encoding="utf-8")
        shares = [list(read_jsonl(path, share=(part, parts))) for part in range(parts)]
        assert [line for share in shares for line in share] == list(read_jsonl(path))


def test_a_package_that_is_not_installed_is_one_line_that_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        importlib.import_module("a_package_that_nobody_has")

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: No module named 'a_package_that_nobody_has'; ") and "bash setup.sh" in line
