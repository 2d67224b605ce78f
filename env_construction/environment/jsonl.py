"""Append-only JSONL files: read with exact error positions, write line by line, resume after a kill.

Every stage of the experiment reads and writes JSONL keyed by a stable id. The rules here hold for all of them:
a line is written whole and flushed; a torn last line (the process was killed while writing) is dropped and redone;
a broken line anywhere else is the user's to see: file, line number, what was expected, exit code 2.

Example:
    with JsonlWriter(Path("rows.jsonl")) as out:
        for record in records:
            if record["id"] not in out.done:
                out.write(record)
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pydantic_core import from_json

_BUFFER = 1 << 18
"""Records are long: read through a small buffer, lines take three times as long."""
INSTALL = (
    "install what this step needs, in a checkout of this repository: bash setup.sh, or pip install '.[train,eval]'"
)


class BadInput(Exception):
    """Input that the user has to mend. The message is one line: file, line, key, what was expected."""


def read_jsonl(
    path: Path | str, required: tuple[str, ...] = (), share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, record)` of every non-blank line; line numbers start at 1.

    `share` (i, n): only the lines that begin in the file's i-th of n equal parts, so that n processes read a file
    together. Raises BadInput for a missing file, a line that is not a JSON object, or a record without one of
    `required`.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    with path.open("rb", buffering=_BUFFER) as handle:
        first, size = _seek_share(handle, *share)
        for number, raw in enumerate(handle, start=first):
            if size <= 0:
                return
            size -= len(raw)
            if raw.isspace():
                continue
            try:
                record = _parse(raw)
            except ValueError as error:
                raise BadInput(
                    f"{path}:{number}: expected one JSON object a line, got invalid JSON ({error})"
                ) from None
            if not isinstance(record, dict):
                raise BadInput(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
            for key in required:
                if key not in record:
                    raise BadInput(f"{path}:{number}: key {key!r} is missing")
            yield number, record


def _seek_share(handle: BinaryIO, part: int, parts: int) -> tuple[int, int]:
    """Go to the first line that begins in this part of the file: its number, and the bytes from there to the next
    part."""
    size = handle.seek(0, 2)
    start, end = (size * edge // parts for edge in (part, part + 1))
    handle.seek(max(start - 1, 0))
    if start:
        handle.readline()
    first = handle.tell()
    handle.seek(0)
    before, left = 0, first
    while left:
        block = handle.read(min(left, 1 << 20))
        left -= len(block)
        before += block.count(b"\n")
    return before + 1, end - first


def _parse(raw: bytes) -> Any:
    """What `json.loads` gives, in half the time. pydantic's parser refuses lone surrogates and deep nesting."""
    try:
        return from_json(raw)
    except ValueError:
        return json.loads(raw)


def read_text(path: Path | str) -> str:
    """A text file as people save them: UTF-8 with or without a byte order mark, any line ends. Raises BadInput.

    Split it at the newline: `splitlines` also splits at characters that stand inside a line (U+2028, U+0085).
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: expected UTF-8 text ({error.reason} at byte {error.start})") from None


def json_text(value: Any, indent: int | None = None) -> str:
    """The JSON text of a value, as every reader takes it. What is written to a file or a page goes through here.

    NaN and the infinities are no JSON: they become null, as in JavaScript and pandas. Lone surrogates are escaped.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, indent=indent)
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            str(key) if isinstance(key, float) and not math.isfinite(key) else key: _finite(inner)
            for key, inner in value.items()
        }
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def dump_line(record: Mapping[str, Any]) -> str:
    """One JSON line, newline included; what is no JSON is replaced as in `json_text`."""
    return json_text(record) + "\n"


class JsonlWriter:
    """Append records to a JSONL file; `done` holds the keys that a former run already wrote.

    A torn last line is cut off when the file is opened. `key` names the field(s) that identify a record; with
    several fields, `done` holds tuples. `fresh=True` starts the file anew instead of resuming it.
    """

    def __init__(self, path: Path | str, key: str | tuple[str, ...] = "id", fresh: bool = False) -> None:
        self.path = Path(path)
        self.key = key
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self.path.unlink(missing_ok=True)
        self.done: set[Any] = set()
        if self.path.exists():
            _cut_torn_line(self.path)
            for _, record in read_jsonl(self.path):
                self.done.add(self._key_of(record))
        self._handle = self.path.open("a", encoding="utf-8")

    def _key_of(self, record: Mapping[str, Any]) -> Any:
        if isinstance(self.key, str):
            return record.get(self.key)
        return tuple(record.get(name) for name in self.key)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record and flush it."""
        self._handle.write(dump_line(record))
        self._handle.flush()
        self.done.add(self._key_of(record))

    def close(self) -> None:
        self._handle.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_jsonl(
    path: Path | str, records: Iterator[Mapping[str, Any]] | list[Mapping[str, Any]] | list[dict[str, Any]]
) -> int:
    """Write a whole file at once, through a temporary name so that a kill leaves no half file. Returns the line
    count.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as handle:
        for record in records:
            handle.write(dump_line(record))
            count += 1
    partial.replace(path)
    return count


def keep_configuration(
    folder: Path | str,
    configuration: Mapping[str, Any],
    *,
    may_grow: tuple[str, ...] = (),
    noted: tuple[str, ...] = (),
    partly_known: tuple[str, ...] = (),
) -> None:
    """Write `configuration.json` into an output folder, or refuse a folder that was made with another one.

    `may_grow` are numbers that may be raised later (None is no limit), never lowered: the folder's results are
    extended. `noted` are keys that are written down but not a reason to refuse (the path of what is identified by its
    content). Of the dictionaries `partly_known`, a key that one side does not have is not compared; it is written once
    it is known.
    Raises BadInput with each key that differs, its old and its new value.
    """
    path = Path(folder) / "configuration.json"
    wanted = json.loads(json.dumps(configuration))
    found: Any = None
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BadInput(f"{path}: expected a JSON object; delete the folder or restore the file")
        apart = {*noted, *may_grow}
        compared = [_flat({name: side[name] for name in side.keys() - apart}) for side in (found, wanted)]
        there, asked = compared

        def known_in_part(name: str) -> bool:
            return name in partly_known and all(isinstance(side.get(name), dict) for side in (found, wanted))

        differing = [
            f"{key}: {there.get(key, '(absent)')!r} there, {asked.get(key, '(absent)')!r} asked"
            for key in sorted(there.keys() | asked.keys())
            if not (key in there and key in asked and there[key] == asked[key])
            and not ((key in there) != (key in asked) and known_in_part(key.partition(".")[0]))
        ]
        for name in may_grow:
            old, new = found.get(name), wanted.get(name)
            if name in found and new is not None and (old is None or new < old):
                said = "no limit" if old is None else old
                differing.append(f"{name}: {said} there, {new} asked (it can be raised later, not lowered)")
        if differing:
            differing += [
                f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} asked"
                for name in noted
                if found.get(name) != wanted.get(name)
            ]
            raise BadInput(
                f"{folder} was made with another configuration: {'; '.join(differing)}. Choose another output folder"
            )
        for name in partly_known:
            if name in wanted:
                wanted[name] = found[name] | wanted[name]
        if wanted == found:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(wanted, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def _flat(record: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, so that a difference inside a dictionary is shown alone."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{head}{key}.")
        else:
            flat[f"{head}{key}"] = value
    return flat


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises BadInput if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's `main`; BadInput, and a package that is not installed, become one line on stderr and exit code
    2.
    """
    try:
        code = main()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(f"error: {error}; {INSTALL}", file=sys.stderr)
        sys.exit(2)
    sys.exit(code or 0)


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as handle:
        handle.seek(0, 2)
        size = handle.tell()
        end = size
        while end > 0:
            start = max(0, end - 65536)
            handle.seek(start)
            block = handle.read(end - start)
            position = block.rfind(b"\n")
            if position >= 0:
                end = start + position + 1
                break
            end = start
        if end < size:
            handle.truncate(end)


def main() -> int:
    """`python -m env_construction.environment.jsonl FOLDER key=value ...`: keep a run's configuration, or refuse the
    folder.
    """
    if len(sys.argv) < 2 or any("=" not in item for item in sys.argv[2:]):
        raise BadInput("usage: python -m env_construction.environment.jsonl FOLDER key=value ...")
    keep_configuration(sys.argv[1], dict(item.split("=", 1) for item in sys.argv[2:]))
    return 0


if __name__ == "__main__":
    run_main(main)
