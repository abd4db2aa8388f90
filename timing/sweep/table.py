"""The live table of a sweep, on stderr: what runs, how far it is, what is left."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence

from fastpart.timing.sweep.cell import Cell
from fastpart.timing.sweep.store import Store
from fastpart.timing.sweep.work import Task

#: Between two drawings on a terminal, and two lines elsewhere, seconds.
DRAW_S = 0.5
LINE_S = 60.0

#: Rows of running cells that a terminal shows.
_ROWS = 20


class Table:
    """Progress of one run of the driver. total: cells of the sweep; done: at its start."""

    def __init__(self, store: Store, name: str, total: int, done: int, weight: int):
        self._store = store
        self._name = name
        self._total = total
        self._done = done
        self._failed = 0
        self._retried = 0
        self._weight = weight
        self._finished_weight = 0
        self._start = time.monotonic()
        self._drawn = 0.0
        self._height = 0
        self._terminal = sys.stderr.isatty()

    def finished(self, task: Task) -> None:
        for cell in task.cells:
            self._done += 1
            self._finished_weight += cell.weight
            self._say(f"[{self._done}/{self._total}] {cell.name}: {self._result(cell)}")

    def failed(self, task: Task, error: str, attempts: int, final: bool) -> None:
        self._failed += len(task.cells) * final
        self._retried += not final
        what = "FAILED" if final else f"attempt {attempts} failed, again"
        self._say(f"{what}: {error}")

    def draw(self, tasks: Sequence[Task], running: int) -> None:
        now = time.monotonic()
        if now - self._drawn < (DRAW_S if self._terminal else LINE_S):
            return
        first = not self._drawn
        self._drawn = now
        if not self._terminal:
            if not first:
                self._print(self._header(running, ()))
            return
        under_way = [(cell, note) for task in tasks for cell in task.cells
                     if (note := self._store.progress(cell.key))]
        rows = [
            f"  {cell.name}: {note['pictures']}/{note['of']} pictures, core {note['core']}, "
            f"{clock(time.time() - note['started'])}" for cell, note in under_way[:_ROWS]
        ]
        self.clear()
        columns = shutil.get_terminal_size().columns
        lines = [line[: columns - 1] for line in [self._header(running, under_way), *rows]]
        print("\n".join(lines), file=sys.stderr, flush=True)
        self._height = len(lines)

    def clear(self) -> None:
        """Take the table off the terminal."""
        if self._height:
            print(f"\x1b[{self._height}A\x1b[J", end="", file=sys.stderr, flush=True)
            self._height = 0

    def _header(self, running: int, under_way) -> str:
        elapsed = time.monotonic() - self._start
        partly = sum(cell.weight * note["pictures"] / note["of"] for cell, note in under_way)
        reached = self._finished_weight + partly
        left = "?" if not reached else clock(elapsed / reached * (self._weight - reached))
        return (
            f"{self._name}: {self._done}/{self._total} cells, {running} running or queued, "
            f"{self._failed} failed, {self._retried} tried again; {clock(elapsed)} elapsed, about "
            f"{left} left"
        )

    def _result(self, cell: Cell) -> str:
        record = self._store.load(cell.key)
        if not record or "kbps" not in record:
            return "proven"
        quality = record["psnr"]["weighted"] if record["psnr"] else float("nan")
        return (f"{record['times']['user_s']:.1f} s user, {record['kbps_without_sei']:.2f} kbps, "
                f"{quality:.3f} dB")

    def _say(self, line: str) -> None:
        self.clear()
        self._print(line)

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """1:02:03."""
    minutes, seconds = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
