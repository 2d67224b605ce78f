"""Run tasks that depend on each other, as many in parallel as the machine allows.

A stage of the pipeline is a list of tasks. A task starts as soon as the tasks it needs have ended, so the stages of a
run overlap: one core measures a trained policy while another still trains. With one worker the tasks run in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Work with a unique name. `needs` names the tasks that must end first; a name without a task counts as ended."""

    name: str
    work: Callable[[], None]
    needs: Sequence[str] = ()


def run_tasks(
    tasks: Sequence[Task],
    workers: int,
    *,
    starts: Callable[[Task], None] = lambda _: None,
    ended: Callable[[Task], None] = lambda _: None,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Run all tasks, of the ready ones always the first. Raises the first error of a task.

    `starts` and `ended` are called in the caller's thread. `stop` is called after an error or an interruption; it must
    end the tasks that run. Raises ValueError for tasks that wait for each other.
    """
    waiting = list(tasks)
    running: dict[Future[None], Task] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or running:
                while len(running) < workers and (task := _first_ready(waiting, running.values())):
                    waiting.remove(task)
                    starts(task)
                    running[pool.submit(task.work)] = task
                if not running:
                    raise ValueError(f"tasks wait for each other: {', '.join(task.name for task in waiting)}")
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    ended(running.pop(future))
        except BaseException:
            stop()
            raise


def _first_ready(waiting: Sequence[Task], running: Iterable[Task]) -> Task | None:
    unfinished = {task.name for task in (*waiting, *running)}
    return next((task for task in waiting if not unfinished.intersection(task.needs)), None)
