"""A server in a separate process, started like by a user."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command: Sequence[str], port: int, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of the server that `command` starts in `folder` on `port`. The server is killed at the end."""
    process = subprocess.Popen(command, cwd=folder, env=environment)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the server exited"
            time.sleep(0.1)
        else:
            raise AssertionError("the server accepts no connection after a minute")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
