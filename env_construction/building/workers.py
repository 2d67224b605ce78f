"""Build chunks of a data set in this process, in local processes, or on a Ray cluster. The result is the same.

A chunk comes back as JSONL lines with its counts, so the writing process has little to do.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from env_construction.building.author_options import make_author
from env_construction.building.environment_builder import BuildConfiguration, Built, build_chunk
from env_construction.data_statistics import Tally
from env_construction.environment.jsonl import dump_line
from env_construction.environment.schema import Split
from env_construction.rules.duplicates import DISTINCT, DistinctCounter, distinct_keys, question_key
from env_construction.sandbox.tool_sandbox import ToolSandbox

Job = tuple[BuildConfiguration, Split, list[int]]


@dataclass
class Chunk:
    """What a worker returns: each index's line and key, and the counts over the chunk."""

    lines: list[tuple[int, str, int]]
    tally: Tally
    rejections: Counter[str]
    flags: Counter[str]
    distinct: dict[str, DistinctCounter]


class ChunkBuilder:
    """An author and a sandbox, one pair per process and author."""

    def __init__(self, author: str) -> None:
        self.author = make_author(author)
        self.sandbox = ToolSandbox(workers=1)

    def build(self, job: Job, first_attempts: dict[int, int] | None = None) -> list[Built]:
        configuration, split, indices = job
        return build_chunk(self.author, configuration, split, indices, self.sandbox, first_attempts)

    def chunk(self, job: Job) -> Chunk:
        return summarize(self.build(job))


def summarize(built: list[Built]) -> Chunk:
    """The lines and counts of built environments."""
    chunk = Chunk([], Tally(), Counter(), Counter(), {name: DistinctCounter() for name in DISTINCT})
    for item in built:
        chunk.lines.append((item.index, dump_line(item.environment.to_record()), question_key(item.environment)))
        chunk.tally.add(item.environment)
        chunk.rejections.update(item.rejections)
        chunk.flags.update(item.flags)
        for name, keys in distinct_keys(item.environment).items():
            chunk.distinct[name].add(keys)
    return chunk


@cache
def _builder_of_process(author: str) -> ChunkBuilder:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    builder = ChunkBuilder(author)
    # Without this, 5 to 8% of the time goes into looking for garbage, most of it in the author's tables.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    return builder


def _leave_with_parent() -> None:
    """A killed parent cannot stop its workers, and they would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _chunk_in_process(job: Job) -> Chunk:
    return _builder_of_process(job[0].author).chunk(job)


Runner = Callable[[Iterator[Job]], Iterator[Chunk]]
"""Turns jobs into chunks, in the jobs' order, with a few of them in flight at a time."""


@contextmanager
def open_runner(workers: int, here: ChunkBuilder, ray_address: str | None) -> Iterator[Runner]:
    """A runner in this process, in local processes, or on a Ray cluster. The result is the same."""
    if ray_address is not None:
        import ray

        # the nodes import the project from this repository's path
        runtime_env = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}}
        ray.init(address=ray_address, ignore_reinit_error=True, runtime_env=runtime_env, log_to_driver=False)
        task = ray.remote(num_cpus=1)(_chunk_in_process)
        yield lambda jobs: _window(jobs, 2 * workers, task.remote, ray.get)
    elif workers == 1:
        yield lambda jobs: map(here.chunk, jobs)
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield lambda jobs: _window(
                jobs, 2 * workers, lambda job: pool.submit(_chunk_in_process, job), Future.result
            )


def _window(
    jobs: Iterator[Job], size: int, submit: Callable[[Job], Any], wait: Callable[[Any], Chunk]
) -> Iterator[Chunk]:
    in_flight: deque[Any] = deque()
    for job in jobs:
        in_flight.append(submit(job))
        if len(in_flight) >= size:
            yield wait(in_flight.popleft())
    while in_flight:
        yield wait(in_flight.popleft())
