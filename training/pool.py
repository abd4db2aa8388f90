"""Runs jobs side by side, one on each core."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from fastpart.errors import FastpartError

Job = TypeVar("Job")


def each_on_a_core(
    jobs: Iterable[Job], cores: Sequence[int], run: Callable[[Job, int], None]
) -> None:
    """Call run(job, core) for every job, one at a time on each of `cores`.

    After a FastpartError no further job starts; it is raised when those under way have ended.
    """
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    failures: list[FastpartError] = []

    def work(core: int) -> None:
        while not failures:
            try:
                run(todo.get_nowait(), core)
            except queue.Empty:
                return
            except FastpartError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(core,)) for core in cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
