"""The progress of a split's build, so that an interrupted build resumes with the same result.

After each chunk of environments, the state file is replaced atomically. It holds the number of environments and bytes
written, and all counts so far. Data beyond those bytes is cut off and rebuilt. The hashes that find duplicates are in a
separate file, 8 bytes per environment.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from env_construction.data_statistics import Tally
from env_construction.environment.jsonl import BadInput
from env_construction.rules.duplicates import DISTINCT, DistinctCounter, HashSet


class SplitProgress:
    """The open files of one split: `<split>.jsonl`, and its hashes and state in `.progress/`. A context manager.

    Raises BadInput if the data file is shorter than the state says.
    """

    def __init__(self, folder: Path, split: str, expected: int) -> None:
        self.path = folder / f"{split}.jsonl"
        self._state_path = folder / ".progress" / f"{split}.json"
        keys_path = folder / ".progress" / f"{split}.keys"
        keys_path.parent.mkdir(parents=True, exist_ok=True)
        self.done = 0
        self.tally = Tally()
        self.rejections: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.distinct = {name: DistinctCounter() for name in DISTINCT}
        self.seen = HashSet(expected)
        size = self._load()
        self._data = _open_at(self.path, size)
        self._keys = _open_at(keys_path, 8 * self.done)
        self._keys.seek(0)
        for key in np.frombuffer(self._keys.read(), dtype="<u8").tolist():
            self.seen.add(key)

    def _load(self) -> int:
        if not self._state_path.exists():
            return 0
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
        except ValueError:
            raise BadInput(
                f"{self._state_path}: expected JSON; delete {self.path} and its .progress to rebuild it"
            ) from None
        found = self.path.stat().st_size if self.path.exists() else 0
        if found < state["bytes"]:
            raise BadInput(
                f"{self.path}: {found} bytes, but {state['bytes']} were written; "
                "delete it and its .progress to rebuild it"
            )
        self.done = state["done"]
        self.tally = Tally.from_state(state["tally"])
        self.rejections, self.flags = Counter(state["rejections"]), Counter(state["flags"])
        for name, text in state["distinct"].items():
            registers = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).copy()
            self.distinct[name] = DistinctCounter(registers)
        return int(state["bytes"])

    def write(self, line: str, key: int) -> None:
        """Append one environment. It counts only after `commit`."""
        self._data.write(line.encode("utf-8"))
        self._keys.write(key.to_bytes(8, "little"))
        self.done += 1

    def commit(self) -> None:
        """Make everything written so far permanent."""
        self._data.flush()
        self._keys.flush()
        state: dict[str, Any] = {
            "done": self.done,
            "bytes": self._data.tell(),
            "tally": self.tally.to_state(),
            "rejections": dict(self.rejections),
            "flags": dict(self.flags),
            "distinct": {
                name: base64.b64encode(zlib.compress(counter.registers.tobytes(), 1)).decode("ascii")
                for name, counter in self.distinct.items()
            },
        }
        partial = self._state_path.with_suffix(".partial")
        partial.write_text(json.dumps(state), encoding="utf-8")
        os.replace(partial, self._state_path)

    def close(self) -> None:
        self._data.close()
        self._keys.close()

    def __enter__(self) -> SplitProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_at(path: Path, size: int) -> Any:
    """Open for reading and writing, cut to `size` bytes, positioned at the end."""
    if not path.exists():
        path.touch()
    handle = path.open("r+b")
    if handle.seek(0, os.SEEK_END) != size:
        handle.truncate(size)
        handle.seek(size)
    return handle
