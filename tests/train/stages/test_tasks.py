"""Tasks with dependencies: order, parallel work, errors and interruptions."""

import sys
import threading
import time
from pathlib import Path

import pytest

from train.stages.commands import CommandFailed, CommandRunner
from train.stages.tasks import Task, run_tasks


def test_one_worker_runs_ready_tasks_in_their_order() -> None:
    done: list[str] = []
    needs = {"a": [], "b": ["d"], "c": ["a", "not in the list"], "d": [], "e": ["b"]}
    tasks = [Task(name, lambda name=name: done.append(name), wanted) for name, wanted in needs.items()]  # type: ignore[misc]
    told: list[tuple[str, str]] = []
    run_tasks(
        tasks,
        1,
        starts=lambda task: told.append(("starts", task.name)),
        ended=lambda task: told.append(("ended", task.name)),
    )
    assert done == ["a", "c", "d", "b", "e"]
    assert told == [(what, name) for name in done for what in ("starts", "ended")]


def test_a_task_starts_when_what_it_needs_has_ended_and_not_later() -> None:
    """The second stage's task runs while a task of the first stage still runs; each waits for the other to begin."""
    both = threading.Barrier(2, timeout=20)
    run_tasks([Task("short", lambda: None), Task("long", both.wait), Task("next", both.wait, ["short"])], 2)


def test_no_more_tasks_run_than_there_are_workers() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    run_tasks([Task(str(number), work) for number in range(9)], 3)
    assert most == 3


def test_an_error_starts_no_other_task_and_is_raised() -> None:
    stopped: list[bool] = []

    def fail() -> None:
        raise CommandFailed("no")

    started: list[str] = []
    tasks = [Task("a", fail), Task("b", lambda: started.append("b"), ["a"])]
    with pytest.raises(CommandFailed, match="no"):
        run_tasks(tasks, 2, stop=lambda: stopped.append(True))
    assert stopped == [True] and started == []


def test_tasks_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="a, b"):
        run_tasks([Task("a", lambda: None, ["b"]), Task("b", lambda: None, ["a"])], 2)


def test_an_interruption_stops_the_parallel_commands(tmp_path: Path) -> None:
    runner = CommandRunner(tmp_path)
    began = time.monotonic()

    def interrupted() -> None:
        raise KeyboardInterrupt

    def sleep() -> None:
        runner.run("sleep", [sys.executable, "-c", "import time; time.sleep(60)"])

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("a", interrupted), Task("b", sleep)], 2, stop=runner.stop)
    assert time.monotonic() - began < 30
