"""One typed error for all interfaces: invalid requests, and limits of the server."""

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
    """A rejected request; the episode is unchanged. `code` is for programs; the message says what was expected."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
