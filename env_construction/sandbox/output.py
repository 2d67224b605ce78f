"""Worker side of the sandbox: reading and writing frames, and the text of what a tool returned. Bound before tool code
runs.
"""

from __future__ import annotations

import json
import os
import re
import types
from json import dumps
from typing import Any

from env_construction.sandbox.protocol import LENGTH, NO_VALUE

CHANNEL = 3
"""Descriptor of the channel in a forked process; all above it are closed."""
MODULE = "tool"
"""`__name__` of the module that tool code runs as."""
RANDOM_SEED = 0
"""`random` starts from here in every call, so that a result depends on source and arguments alone."""
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{4,}", re.IGNORECASE)
NO_VALUES: dict[type, str] = {
    types.GeneratorType: "a generator",
    types.AsyncGeneratorType: "an asynchronous generator",
    types.FunctionType: "a function",
    types.BuiltinFunctionType: "a function",
    types.MethodType: "a function",
    types.ModuleType: "a module",
}


class NoValue(Exception):
    """What a tool returned is no value. The message says what it is."""


def read_exactly(descriptor: int, size: int) -> bytes | None:
    """Read `size` bytes, or None at end of file."""
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_frame(descriptor: int) -> bytes:
    """The next frame; the process ends where the parent has closed the channel."""
    head = read_exactly(descriptor, LENGTH.size)
    body = None if head is None else read_exactly(descriptor, LENGTH.unpack(head)[0])
    if body is None:
        os._exit(0)
    return body


_decoder: Any = json.JSONDecoder()
_scan = _decoder.scan_once


def decoded(body: bytes, scan: Any = _scan) -> Any:
    """The JSON of a request. The C scanner alone: every page that a forked process touches costs microseconds."""
    return scan(body.decode("ascii"), 0)[0]


def write_frame(
    payload: bytes, descriptor: int = CHANNEL, write: Any = os.write, pack: Any = LENGTH.pack, view: Any = memoryview
) -> None:
    """Everything that writes is bound at the start, out of reach of a patched module."""
    data = view(pack(len(payload)) + payload)
    while data:
        data = data[write(descriptor, data) :]


_c: Any = json.encoder
encode_rows = _c.c_make_encoder(None, repr, _c.c_encode_basestring_ascii, None, ":", ",", False, False, True)
"""The C encoder itself: nothing in the module `json` is looked up when a result is written."""


def encoded(value: Any, encode: Any = encode_rows, join: Any = "".join) -> bytes:
    return join(encode(value, 0)).encode("ascii")  # type: ignore[no-any-return]


def too_long(text: str, limit: int) -> bool:
    """Whether `text` takes more than `limit` bytes of UTF-8."""
    if len(text) > limit:
        return True
    return len(text) * 4 > limit and not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > limit


_write_value = _c.c_make_encoder(
    None, _c.JSONEncoder().default, _c.encode_basestring, None, ": ", ", ", False, False, True
)


def dumps_unmarked(value: Any, encode: Any = _write_value, join: Any = "".join) -> str:
    """What `dumps(value, ensure_ascii=False)` gives, without the encoder that it makes for each call, half of its
    time. A value that holds itself raises RecursionError here."""
    return join(encode(value, 0))  # type: ignore[no-any-return]


def render(value: Any, write: Any = lambda value, dumps=dumps: dumps(value, ensure_ascii=False)) -> str:
    """What the model sees of a returned value: JSON for a dict or list, else `str()` (paper/README.md, Reward).

    A coroutine is awaited first. Raises NoValue for a generator, a function or a module. `write` writes a dict or list.
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is types.CoroutineType:
        import asyncio

        value = asyncio.run(value)
        kind = type(value)
    if kind in NO_VALUES:
        raise NoValue(f"returned {NO_VALUES[kind]}, {NO_VALUE}: expected text, a number, a list or an object")
    if isinstance(value, (dict, list)):
        return write(value)  # type: ignore[no-any-return]
    return str(value)


def holds_address(text: str, search: Any = _ADDRESS.search) -> bool:
    """Whether a text looks like that of an object without one of its own: `<... at 0x7f...>`."""
    return ("0x" in text or "0X" in text) and search(text) is not None


def error_text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return type(error).__name__


def checked(status: str, output: str, arguments: Any, limit: int) -> tuple[str, str]:
    """The outcome of a call, unless its text is too long or depends on an address."""
    if type(output) is not str:
        output = str.__str__(output)
    if too_long(output, limit):
        return "output_limit", f"the output is longer than {limit} bytes"
    if holds_address(output) and not holds_address(dumps(arguments)):
        return "error", f"returned an object without a text of its own, {NO_VALUE}: the text holds its address"
    return status, output
