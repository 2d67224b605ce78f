"""A server of `serving.serve` in a process of its own, as a user starts it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, write_environments

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def data(played: list[Environment], tmp_path: Path) -> Path:
    path = tmp_path / "environments.jsonl"
    write_environments(path, list({item.id: item for item in played}.values()))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(data: Path, *options: str, **environment: str) -> Iterator[str]:
    """The address of a running server; it is ended at the end."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "serving.serve",
        "--data",
        str(data),
        "--port",
        str(port),
        "--workers",
        "1",
        *options,
    ]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the server has ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def server() -> Callable[..., contextlib.AbstractContextManager[str]]:
    return served
