"""The protocol of the sandbox's sockets. The worker process imports this too, so it uses only the standard library.

Frames in both directions: 4 bytes length (little endian), then the payload. When a process is dead, the zygote ends its
channel with a trailer: a mark that is no valid frame length, then the wait status.
"""

from __future__ import annotations

import struct

LENGTH = struct.Struct("<I")
CONTROL = struct.Struct("<ccqqd")
"""Parent to zygote: operation (F: fork, K: kill), kind of process, token, CPU seconds (0: no limit), wall seconds.

The zygote kills the process after the wall seconds (0: never).
"""
TRAILER = struct.Struct("<Ii")
TRAILER_MARK = 0xFFFFFFFF
POOL, ISOLATED, SESSION = b"P", b"I", b"S"
FORK, KILL = b"F", b"K"
FORK_FAILED = -1
"""Wait status in the trailer of a process that could not be forked."""
EXIT_DIRTY = 86
"""Exit status of a pool runner that found its interpreter changed. None of its unreported results is used."""

NO_VALUE = "which is no value"
"""Part of the error text of a call that returned a generator, function, module, or object with the default text."""


def frame(payload: bytes) -> bytes:
    return LENGTH.pack(len(payload)) + payload
