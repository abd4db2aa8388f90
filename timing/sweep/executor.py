"""Executors of tasks, through submitit: processes of this machine, or jobs of Slurm.

Both answer two questions only: how many tasks may come, and which of those given have ended.
Whether a task did its work is told by the store alone.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.timing.sweep.work import Task

#: Memory of an encode by picture size: of any, and per luma sample; bytes. VTM-23.2 in random access took
#: 130 MiB at 64x64 and 250 MiB at 416x240; this has a margin.
BASE_BYTES = 200 << 20
BYTES_PER_SAMPLE = 1500

#: Share of the free memory that local workers may take together.
MEMORY_SHARE = 0.9

#: How long an unreachable Slurm controller is waited for, and how often it is asked, seconds.
SLURM_PATIENCE_S = 900.0
SLURM_POLL_S = 2.0


class Executor(Protocol):
    """Where tasks run."""

    def room(self) -> int:
        """How many more tasks may be given now."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start tasks, or queue them."""

    def ended(self) -> list[tuple[Task, str]]:
        """Tasks that have ended since the last call, each with the last it said."""

    def running(self) -> int:
        """How many have not."""

    def leave(self) -> None:
        """The driver ends: end what must not run without it."""


def memory_of(width: int, height: int) -> int:
    """Bytes that an encode of such pictures takes, an estimate on the safe side."""
    return BASE_BYTES + BYTES_PER_SAMPLE * width * height


def local_workers(tasks: Sequence[Task], cores: Sequence[int]) -> int:
    """How many tasks this machine's cores and free memory can take at a time, at least 1."""
    largest = max(
        (memory_of(cell.source.clip.width, cell.source.clip.height)
         for task in tasks for cell in task.cells),
        default=BASE_BYTES,
    )
    return max(1, min(len(cores), int(MEMORY_SHARE * psutil.virtual_memory().available / largest)))


def _submitit():
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise FastpartError(
            "submitit: package not found, wanted for sweeps; pip install 'fastpart[sweep]'"
        ) from error
    return submitit


def _python() -> str:
    """Command of the workers' Python: this one, without the current folder in its path, which may
    hold the sources of this package."""
    return f"{shlex.quote(sys.executable)} -P"


@dataclass
class _Job:
    task: Task
    job: Any
    folder: Path


class Local:
    """Processes of this machine, each pinned to a core of its own. folder: for their files."""

    def __init__(self, folder: Path, workers: int):
        self._submitit = _submitit()
        self._folder = folder
        self._workers = workers
        self._jobs: list[_Job] = []

    def room(self) -> int:
        return self._workers - len(self._jobs)

    def running(self) -> int:
        return len(self._jobs)

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            # A folder each: submitit names its files by process ID, which comes again.
            folder = self._folder / uuid.uuid4().hex
            executor = self._submitit.LocalExecutor(folder, python=_python())
            executor.update_parameters(timeout_min=60 * 24 * 365, stderr_to_stdout=True)
            self._jobs.append(_Job(task, executor.submit(task), folder))

    def ended(self) -> list[tuple[Task, str]]:
        done = [job for job in self._jobs if job.job.done()]
        self._jobs = [job for job in self._jobs if job not in done]
        found = []
        for job in done:
            found.append((job.task, _last_line(job.folder)))
            shutil.rmtree(job.folder, ignore_errors=True)
        return found

    def leave(self) -> None:
        for job in self._jobs:
            job.job.cancel()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not all(job.job.done() for job in self._jobs):
            time.sleep(0.05)


class Slurm:
    """Array jobs of Slurm, requeued when a node fails or they are preempted.

    folder: for their files, on a file system that the nodes share. settings: of the grid's [slurm].
    exclusive: nodes of their own, unless settings say otherwise. mem_bytes: of a task.
    Jobs outlive the driver; the next one finds them again by folder/jobs.json.
    Raises FastpartError where there is no Slurm.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, exclusive: bool, mem_bytes: int,
        timeout_min: int = 7 * 24 * 60,
    ):
        self._submitit = _submitit()
        for program in ("sbatch", "squeue"):
            if shutil.which(program) is None:
                raise FastpartError(
                    f"--executor slurm: no {program} here, wanted Slurm's commands; run it on a node "
                    "that submits jobs, or use --executor local"
                )
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._executor = self._submitit.AutoExecutor(
            folder, cluster="slurm", slurm_python=_python()
        )
        more = {key: settings[key] for key in ("account", "qos") if key in settings}
        self._executor.update_parameters(
            name="fastpart", nodes=1, tasks_per_node=1, cpus_per_task=1,
            timeout_min=settings.get("timeout_min", timeout_min),
            mem_gb=settings.get("mem_gb", round(mem_bytes / (1 << 30), 3)),
            slurm_array_parallelism=settings.get("parallel", 1000),
            slurm_additional_parameters={"requeue": True, **more},
            **({"slurm_partition": settings["partition"]} if "partition" in settings else {}),
            **({"slurm_constraint": settings["constraint"]} if "constraint" in settings else {}),
            **({"slurm_exclusive": True} if settings.get("exclusive", exclusive) else {}),
        )
        self._jobs: dict[str, Task] = {}
        self._asked = 0.0
        self._reached = time.monotonic()

    @property
    def _list(self) -> Path:
        return self._folder / "jobs.json"

    def adopt(self, tasks: Sequence[Task]) -> list[Task]:
        """Those of the tasks that an earlier driver's jobs still work at or wait for."""
        queued = self._queue()
        by_key = {task.cells[0].key: task for task in tasks}
        known = load_jobs(self._list)
        self._jobs = {
            job: by_key[key] for job, key in known.items()
            if key in by_key and queued and job in queued
        }
        return list(self._jobs.values())

    def room(self) -> int:
        return 1_000_000

    def running(self) -> int:
        return len(self._jobs)

    def submit(self, tasks: Sequence[Task]) -> None:
        deadline = time.monotonic() + SLURM_PATIENCE_S
        while True:
            try:
                with self._executor.batch():
                    jobs = [self._executor.submit(task) for task in tasks]
                break
            except self._submitit.core.utils.FailedJobError as error:
                if time.monotonic() > deadline or "contact" not in str(error).lower():
                    raise FastpartError(
                        f"sbatch: {str(error).strip()[-500:]}; correct [slurm] of the grid"
                    ) from error
                time.sleep(SLURM_POLL_S)
        self._jobs |= {job.job_id: task for job, task in zip(jobs, tasks, strict=True)}
        self._write()

    def ended(self) -> list[tuple[Task, str]]:
        if time.monotonic() - self._asked < SLURM_POLL_S:
            return []
        self._asked = time.monotonic()
        queued = self._queue()
        if queued is None:
            if time.monotonic() - self._reached > SLURM_PATIENCE_S:
                raise FastpartError(
                    f"squeue: no answer for {SLURM_PATIENCE_S:.0f} s, wanted a Slurm controller; its "
                    "jobs go on without it: fastpart sweep resume when it is back"
                )
            return []
        self._reached = time.monotonic()
        gone = [job for job in self._jobs if job not in queued]
        found = []
        for job in gone:
            found.append((self._jobs.pop(job), _last_line(self._folder, f"{job}_*")))
        if gone:
            self._write()
        return found

    def leave(self) -> None:
        """Jobs stay in the queue."""

    def _write(self) -> None:
        write_json_atomic(self._list, {job: task.cells[0].key for job, task in self._jobs.items()})

    @staticmethod
    def _queue() -> set[str] | None:
        """IDs of all jobs that wait or run; None when the controller does not answer."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                ["squeue", "--noheader", "--array", "--format=%i"],
                check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            )
            if done.returncode == 0:
                return set(done.stdout.split())
        return None


def load_jobs(path: Path) -> dict[str, str]:
    """Key of the first cell by ID of the Slurm job."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _last_line(folder: Path, pattern: str = "*") -> str:
    """The error that a job ended with, or else the last that it wrote."""
    lines: list[str] = []
    for path in sorted([*folder.glob(f"{pattern}.out"), *folder.glob(f"{pattern}.err")]):
        with contextlib.suppress(OSError):
            lines += path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-60:]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|StoreFull)\b", line)]
    return (errors or lines or [""])[-1]
