"""A server of `serving.serve` in a process of its own, as a user starts it."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, write_environments
from tests.serving.server_process import free_port, running

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def data(played: list[Environment], tmp_path: Path) -> Path:
    path = tmp_path / "environments.jsonl"
    write_environments(path, list({item.id: item for item in played}.values()))
    return path


@contextlib.contextmanager
def served(data: Path, *options: str, **environment: str) -> Iterator[str]:
    """The address of a running server; it is ended at the end."""
    port = free_port()
    command = [
        sys.executable, "-m", "serving.serve", "--data", str(data), "--port", str(port), "--workers", "1", *options,
    ]  # fmt: skip
    with running(command, port, ROOT, {**os.environ, **environment}) as address:
        yield address


@pytest.fixture
def server() -> Callable[..., contextlib.AbstractContextManager[str]]:
    return served
