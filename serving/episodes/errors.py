"""What a client can do wrong, and what the server runs out of: one typed error for every face."""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "unknown_split",
    "unknown_environment",
    "unknown_episode",
    "ended",
    "expired",
    "busy",
    "closed_turn",
    "call_limit",
    "byte_limit",
    "bad_request",
    "full",
    "sandbox_fault",
]


class EpisodeError(Exception):
    """A refused request. `code` is for programs, the message says what was expected. The episode is as it was before."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
