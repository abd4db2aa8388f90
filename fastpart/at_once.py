"""Runs jobs at the same time, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

#: Niceness of all but the anchor among encodes that share a core, of which they then get 0.64 to its 1: what has
#: 0.64 of the work ends when the anchor does, and drift of the machine's speed does not meet one alone.
SIDE_NICE = 2


def at_once(jobs: Sequence[Callable[[], Result]]) -> list[Future[Result]]:
    """Run all jobs where this thread may run; a future of each, all of them done.

    An interrupt of the process does not wait for them.
    """
    futures: list[Future[Result]] = [Future() for _ in jobs]

    def run(job: Callable[[], Result], future: Future[Result]) -> None:
        try:
            future.set_result(job())
        except BaseException as error:  # noqa: BLE001 (raised by the future)
            future.set_exception(error)

    threads = [
        threading.Thread(target=run, args=pair, daemon=True) for pair in zip(jobs, futures, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return futures
