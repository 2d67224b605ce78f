"""Environments for the tests of serving, and a server process started with `python -m serving.serve`.

The environments are the four small ones and, if available, the authors' sample.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from env_construction.environment.schema import Environment, GoldCall, read_environments
from tests.serving.server_process import free_port, running

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/ftrl_test_sample.jsonl"


@pytest.fixture
def played(environments: list[Environment]) -> list[Environment]:
    """The environments to play. The authors' ones have no gold plan, so they get calls with wrong arguments instead."""
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


@contextlib.contextmanager
def served(data: Path, *options: str, **environment: str) -> Iterator[str]:
    """The address of a running server. The server is killed at the end."""
    port = free_port()
    command = [
        sys.executable, "-m", "serving.serve", "--data", str(data), "--port", str(port), "--workers", "1", *options,
    ]  # fmt: skip
    with running(command, port, ROOT, {**os.environ, **environment}) as address:
        yield address


@pytest.fixture
def server() -> Callable[..., contextlib.AbstractContextManager[str]]:
    return served
