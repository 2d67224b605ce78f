"""Worker side: another date. The validator runs tools on another day too, to see whether their results depend on it.

Python code that asks for the time gets a shifted one. Monotonic clocks go on as they are. Called before tool code is
there.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import time
from collections.abc import Callable
from typing import Any


def shift_clock(seconds: float) -> None:
    """Shift the wall clock of this process, and of those that it forks, by `seconds`."""
    nanoseconds = round(seconds * 1e9)
    replaced: dict[str, Callable[..., Any]] = {name: getattr(time, name) for name in _NAMES}

    def shifted() -> float:
        return replaced["time"]() + seconds  # type: ignore[no-any-return]

    def with_default(name: str, default: Callable[[], Any], place: int = 0) -> Callable[..., Any]:
        """The function with this default for its argument at `place`."""
        real = replaced[name]
        return lambda *given: real(*given[:place], default()) if given[place:] in ((), (None,)) else real(*given)

    def of_clock(name: str, by: float) -> Callable[[int], Any]:
        real = replaced[name]
        return lambda clock: real(clock) + (by if clock == time.CLOCK_REALTIME else 0)

    def local() -> time.struct_time:
        return replaced["localtime"](shifted())  # type: ignore[no-any-return]

    new: dict[str, Callable[..., Any]] = {
        "time": shifted,
        "time_ns": lambda: replaced["time_ns"]() + nanoseconds,
        "clock_gettime": of_clock("clock_gettime", seconds),
        "clock_gettime_ns": of_clock("clock_gettime_ns", nanoseconds),
        **{name: with_default(name, shifted) for name in ("localtime", "gmtime", "ctime")},
        "asctime": with_default("asctime", local),
        "strftime": with_default("strftime", local, 1),
    }
    for name, function in new.items():
        setattr(time, name, function)
    # `date.today` asks `time.time`; these two ask the system, and are methods of a class written in C
    methods: dict[str, Any] = gc.get_referents(datetime.datetime.__dict__)[0]
    methods["now"] = classmethod(lambda cls, tz=None: cls.fromtimestamp(shifted(), tz))
    methods["utcnow"] = classmethod(lambda cls: cls.utcfromtimestamp(shifted()))
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))


_NAMES = ("time", "time_ns", "clock_gettime", "clock_gettime_ns", "localtime", "gmtime", "ctime", "asctime", "strftime")
