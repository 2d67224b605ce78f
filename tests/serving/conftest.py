"""What the tests of serving share: the environments that they play (the four small ones, and the authors' sample where it lies beside the
project), and a server of `serving.serve` in a process of its own, as a user starts it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, GoldCall, read_environments

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/ftrl_test_sample.jsonl"


@pytest.fixture
def played(environments: list[Environment]) -> list[Environment]:
    """The environments to play. The authors' have no gold plan: calls of the right tools with wrong arguments stand in."""
    if not SAMPLE.is_file():
        return environments
    published = [
        environment.model_copy(
            update={
                "gold_plan": [
                    GoldCall(sub_question="", name=tool, arguments={"query": answer})
                    for tool, answers in environment.unsolved_set.items()
                    for answer in answers
                ]
            }
        )
        for environment in read_environments(SAMPLE)
    ]
    return [*environments * 4, *published]


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
