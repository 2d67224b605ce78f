"""A rule's verdict on an environment that breaks it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A broken rule. `fatal` findings reject the environment, others only flag it. `place`: tool or sub-question."""

    rule: str
    message: str
    fatal: bool = True
    place: str = ""
