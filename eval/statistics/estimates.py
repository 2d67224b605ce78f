"""Estimates and p-values as they are stored and printed, and Holm's correction for a family of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SMALLEST_SHOWN_P = 1e-4


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its 95% interval; n counts cases, not trials.

    All are None if no case has a value. Only `low` and `high` are None if the data allow no interval (a cost without
    spread).
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def estimate_text(found: Estimate | None, digits: int = 3, signed: bool = False) -> str:
    """`0.412 [0.350, 0.471]`, with real minus signs.

    `7.000 [n/a]` without an interval; `n/a` without a value.
    """
    if found is None or found.value is None:
        return "n/a"
    return f"{number_text(found.value, digits, signed)} {interval_text(found.low, found.high, digits, signed)}"


def interval_text(low: float | None, high: float | None, digits: int = 3, signed: bool = False) -> str:
    """`[0.350, 0.471]`, or `[n/a]`."""
    if low is None or high is None:
        return "[n/a]"
    return f"[{number_text(low, digits, signed)}, {number_text(high, digits, signed)}]"


def number_text(value: float, digits: int, signed: bool = False) -> str:
    """The number with a real minus sign, and no sign before a zero."""
    text = f"{value:{'+' if signed else ''}z.{digits}f}"
    return text.replace("-", "−")


def percent_text(found: Estimate | None) -> str:
    """`41.2 [35.0, 47.1]`, in percent."""
    if found is None or found.value is None:
        return "n/a"
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    return estimate_text(Estimate(100 * found.value, low, high, found.n), digits=1)


def p_text(p_value: float | None, at_floor: bool = False) -> str:
    """`0.0312`; `< 0.0002` for a p-value below the resolution of resampling; `n/a` without one."""
    if p_value is None:
        return "n/a"
    if p_value < SMALLEST_SHOWN_P:
        return f"< {SMALLEST_SHOWN_P:.4f}"
    return f"{'< ' if at_floor else ''}{p_value:.4f}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; the input order is kept."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def add_holm(family: Sequence[dict[str, Any]]) -> None:
    """Add `p_holm` and `p_holm_at_floor` to tests with `p` and `p_at_floor`; tests without a p-value are skipped.

    A corrected value is at the floor of resampling if its test is at the floor, or if it was raised to the value of
    such a test.
    """
    tested = [item for item in family if item["p"] is not None]
    adjusted = holm([item["p"] for item in tested])
    floors = {value for item, value in zip(tested, adjusted, strict=True) if item["p_at_floor"] and value < 1}
    for item, value in zip(tested, adjusted, strict=True):
        item |= {"p_holm": value, "p_holm_at_floor": value in floors}
