"""Arithmetic steps: the operations of `relations.OPERATIONS`, and how numbers are read and written.

Many published questions end with a calculator tool (paper/README.md, "The published data, counted"). The tools' source
uses the same expressions, so a tool computes the question's gold answer.
"""

from __future__ import annotations

import re

EXPRESSIONS: dict[str, str] = {
    "sum": "a + b",
    "difference": "abs(a - b)",
    "product": "a * b",
    "percentage": "a * b / 100",
}
CONSTANTS: dict[str, tuple[int, int, int]] = {
    "sum": (100, 900, 50),
    "difference": (1500, 1950, 25),
    "product": (2, 12, 1),
    "percentage": (5, 95, 5),
}
"""The numbers that a question may use for {y}: first, last, step."""

_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")


def number_of(text: str) -> float | int | None:
    """The number in a value as people write it ("35,310" -> 35310), or None if it is not a number."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text.replace(",", ""))
    return int(number) if number == int(number) else number


def written(value: float) -> str:
    """A result as people write it: 1234.5 -> "1,234.5"."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def calculate(operation: str, a: float, b: float) -> str:
    """The result as text. KeyError for an operation that is not a key of EXPRESSIONS."""
    results = {"sum": a + b, "difference": abs(a - b), "product": a * b, "percentage": a * b / 100}
    return written(results[operation])
