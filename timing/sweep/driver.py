"""The driver of a sweep: gives tasks to an executor until every record is there or has failed.

It keeps no state of its own but the folder's `sweep.json`: what is done is told by the store, so
it may end in any way at any time and be started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastpart import __version__
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.timing.lock import folder_lock, holder_of
from fastpart.timing.sweep.executor import Executor, Slurm
from fastpart.timing.sweep.grid import Grid
from fastpart.timing.sweep.layout import Layout
from fastpart.timing.sweep.store import Store, StoreFull
from fastpart.timing.sweep.table import Table
from fastpart.timing.sweep.work import Task

SWEEP_SCHEMA = "fastpart.sweep/1"
SWEEP_NAME = "sweep.json"

_POLL_S = 0.05


def write_sweep(
    out: Path, grid: Grid, layout: Layout, store: Store, run: Mapping[str, Any]
) -> None:
    """Write what a sweep is: its points with the keys of their records, its encoders, its grid.
    run: how it was started."""
    write_json_atomic(out / SWEEP_NAME, {
        "schema": SWEEP_SCHEMA,
        "fastpart": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "grid": {"path": str(grid.path.resolve()), "text": grid.text},
        "purpose": grid.purpose,
        "store": str(store.root),
        "run": dict(run),
        "encoders": {
            name: {"label": backend.label, "identity": layout.identities[name]}
            for name, backend in layout.encoders.items()
        },
        "points": [asdict(point) for point in layout.points],
    })


def load_sweep(out: Path) -> dict[str, Any]:
    """What `write_sweep` wrote. Raises FastpartError when it is not there or another version's."""
    path = out / SWEEP_NAME
    try:
        sweep = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FastpartError(
            f"{path}: cannot be read ({error}), wanted the --out of fastpart sweep run"
        ) from error
    if sweep.get("schema") != SWEEP_SCHEMA:
        raise FastpartError(f"{path}: schema {sweep.get('schema')!r}, wanted {SWEEP_SCHEMA!r}")
    return sweep


@contextlib.contextmanager
def driving(out: Path) -> Iterator[None]:
    """Be the one driver of a folder. SIGTERM ends it as an interrupt does."""
    held = f"another fastpart sweep is at work there; wait, or fastpart sweep cancel {out}"
    with folder_lock(out, held) as lock:
        lock.truncate(0)
        lock.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        lock.flush()

        def interrupt(_number, _frame):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def driver_of(out: Path) -> dict[str, Any] | None:
    """Host and process ID of the driver at work on a folder, None if there is none."""
    try:
        written = holder_of(out)
        return None if written is None else json.loads(written or "{}")
    except ValueError:
        return None


def drive(
    tasks: Sequence[Task], store: Store, executor: Executor, retries: int, name: str
) -> dict[str, str]:
    """Do all tasks that are not done; returns why cells failed, by key of a task's first cell.

    retries: how often a failed task is tried again. Tasks that need a failed one fail with it.
    Raises StoreFull when the file system has no room: then nothing would succeed.
    """
    left = {task.cells[0].key: task for task in tasks if not task.is_done(store)}
    total = sum(len(task.cells) for task in tasks)
    todo = sum(len(task.cells) for task in left.values())
    weight = sum(cell.weight for task in left.values() for cell in task.cells)
    table = Table(store, name, total, total - todo, max(weight, 1))
    flying: dict[str, Task] = {}
    if isinstance(executor, Slurm):
        flying = {task.cells[0].key: task for task in executor.adopt(list(left.values()))}
    tries: Counter[str] = Counter()
    failures: dict[str, str] = {}
    known: dict[str, int] = {}
    try:
        while left:
            if executor.room() > 0:
                if starting := _ready(left, flying, failures, tries, table, store)[: executor.room()]:
                    with store.writing():
                        executor.submit(starting)
                    flying |= {task.cells[0].key: task for task in starting}
                    known |= {task.cells[0].key: _attempts(store, task) for task in starting}
            for task, said in executor.ended():
                key = task.cells[0].key
                flying.pop(key)
                if task.is_done(store):
                    table.finished(left.pop(key))
                    continue
                store.create()
                tries[key] += 1
                error = f"{task.cells[0].name}: {_why(store, task, said, known.get(key, 0))}"
                if final := tries[key] > retries:
                    failures[key] = error
                    del left[key]
                table.failed(task, error, tries[key], final)
            table.draw(list(flying.values()), executor.running())
            time.sleep(_POLL_S)
    finally:
        table.clear()
        executor.leave()
    return failures


def _ready(
    left: dict[str, Task], flying: Mapping[str, Task], failures: dict[str, str],
    tries: Mapping[str, int], table: Table, store: Store,
) -> list[Task]:
    """Tasks that may start. Those that need a failed one are taken out of left, as failures."""
    missing = {cell.key for task in left.values() for cell in task.cells}
    ready = []
    for key, task in list(left.items()):
        if broken := next((need for need in task.needs if need in failures), None):
            failures[key] = f"{task.cells[0].name}: needs {broken[:12]}..., which failed"
            table.failed(left.pop(key), failures[key], tries[key], True)
        elif key not in flying and missing.isdisjoint(task.needs):
            ready.append(task)
    # Cells that a worker of an earlier or another driver is at: others first.
    return sorted(ready, key=lambda task: store.holder(task.cells[0].key) is not None)


def _attempts(store: Store, task: Task) -> int:
    """Failed attempts at a task's cells that the store knows of."""
    return sum((store.failure(cell.key) or {"attempts": 0})["attempts"] for cell in task.cells)


def _why(store: Store, task: Task, said: str, known: int) -> str:
    """Why a task has not done its work. known: failed attempts before it started."""
    if "StoreFull" in said or "No space left" in said:
        raise StoreFull(said.partition("StoreFull: ")[2] or said)
    if _attempts(store, task) > known:
        notes = [note for cell in task.cells if (note := store.failure(cell.key))]
        last = notes[-1]
        return last["error"] + (f"; log {last['log']}" if last["log"] else "")
    return f"its worker ended without a word (killed?){': ' + said if said else ''}"
