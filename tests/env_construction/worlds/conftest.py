"""A small desk as a file, with parts of its action replaced by bad ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

DESK = """
about: loans
today: 2024-01-01
tables:
  reader:
    name: person
    debts: int 100..900 step 10
actions:
  fine_reader:
    about: Fines a reader.
    takes: {reader: reader, amount: int 10..90 step 10}
    gives: debts = reader.debts | the debts
"""
ACTION = {
    "changes": "[reader.debts += amount]",
    "ask": '["{reader} owes ${amount} for a late book.", "Please charge ${amount} to {reader}."]',
}


@pytest.fixture
def write_desk(tmp_path: Path) -> Callable[..., Path]:
    """Writes the desk with these parts of its action, as YAML texts."""

    def write(**parts: str) -> Path:
        path = tmp_path / "library.yaml"
        path.write_text(DESK + "".join(f"    {name}: {text}\n" for name, text in (ACTION | parts).items()))
        return path

    return write
