"""What both sides of the sandbox's sockets agree on. Imported by the worker process too: standard library only.

Frames both ways: 4 bytes length (little endian), then the payload. A process's channel ends with a trailer that the
zygote writes once the process is dead: the mark, which is no frame's length, and the wait status.
"""

from __future__ import annotations

import struct

LENGTH = struct.Struct("<I")
CONTROL = struct.Struct("<ccqqd")
"""Parent to zygote: operation (F: fork, K: kill), kind of process, token, CPU seconds of the process (0: no limit),
wall seconds after which the zygote kills it by itself (0: never)."""
TRAILER = struct.Struct("<Ii")
TRAILER_MARK = 0xFFFFFFFF
POOL, ISOLATED, SESSION = b"P", b"I", b"S"
FORK, KILL = b"F", b"K"
FORK_FAILED = -1
"""Wait status in the trailer of a process that could not be forked."""
EXIT_DIRTY = 86
"""Exit status of a pool runner that found its interpreter changed: nothing unreported of it is believed."""

NO_VALUE = "which is no value"
"""Part of the error of a call that returned a generator, a function, a module, or an object whose text is its
address.
"""


def frame(payload: bytes) -> bytes:
    return LENGTH.pack(len(payload)) + payload
