"""What a rule says of an environment that breaks it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A broken rule. `fatal` findings reject the environment, others only flag it. `place`: the tool or sub-question
    at fault."""

    rule: str
    message: str
    fatal: bool = True
    place: str = ""
