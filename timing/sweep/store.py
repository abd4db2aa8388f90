"""The store of a sweep's results: a record, a bitstream and a log for each cell, under its key.

    KK/KEY.json     the record, and beside it KEY.266 and KEY.log; KK: first two digits of the key
    KK/KEY.lock     held by the worker that is at it, with its host and process ID
    failed/         KEY.json: how often a cell failed and why last; KEY.N.log: logs of its attempts
    files/SHA256/   copies of encoders, models and configurations, so that a build in the meantime
                    cannot mix into a sweep
    clips/          raw cuts
    cores/          locks of the CPUs of each host
    work/           of cells under way

A key is the hash of everything that determines the result, so several sweeps may share a store.
A record appears last and complete: where there is one, its bitstream is there too. Locks are of
the system (flock): they end with their process, whatever ends it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.record import sha256_file

_POLL_S = 0.1


class StoreFull(FastpartError):
    """The file system has no room, or cannot be written: another attempt would fail too."""


class Store:
    """A folder of results. root: need not exist before `create`."""

    def __init__(self, root: Path):
        self.root = Path(root).resolve()

    def create(self) -> None:
        """Make the folders. Raises StoreFull when they cannot be written."""
        with self.writing():
            for name in ("failed", "files", "clips", "cores", "work"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "work") as file:
                file.write(b"\0" * 4096)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what the file system says into StoreFull."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM,
                                   errno.ENOTDIR, errno.EEXIST):
                raise
            raise StoreFull(
                f"{error.filename or self.root}: cannot be written ({error.strerror}); make room and "
                "permission, or choose another folder, then fastpart sweep resume"
            ) from error

    def path(self, key: str, suffix: str) -> Path:
        """A file of a cell: suffix .json, .266, .log or .lock."""
        return self.root / key[:2] / f"{key}{suffix}"

    def load(self, key: str) -> dict[str, Any] | None:
        """The record of a cell, None if there is none that holds."""
        path = self.path(key, ".json")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise FastpartError(
                f"{path}: cannot be read as a record ({error}); delete it and resume"
            ) from error
        stream = record.get("bitstream")
        if stream and not self.path(key, ".266").is_file():
            return None
        return record

    def commit(self, key: str, record: dict[str, Any], work: Path) -> None:
        """Move KEY.266 and KEY.log out of a work folder, then write the record."""
        with self.writing():
            self.path(key, "").parent.mkdir(exist_ok=True)
            for suffix in (".266", ".log"):
                if (work / f"{key}{suffix}").exists():
                    _to_disk(work / f"{key}{suffix}").replace(self.path(key, suffix))
            try:
                write_json_atomic(self.path(key, ".json"), record)
            except FastpartError as error:
                raise StoreFull(str(error)) from error
            (self.root / "failed" / f"{key}.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def work(self, key: str) -> Iterator[Path]:
        """An empty folder for the one worker that holds a cell's lock."""
        folder = self.root / "work" / key
        shutil.rmtree(folder, ignore_errors=True)
        with self.writing():
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Wait until no other worker is at the cell, and keep others off it."""
        with self.writing():
            self.path(key, "").parent.mkdir(exist_ok=True)
            file = self.path(key, ".lock").open("a+")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with self.writing():
                file.truncate(0)
                file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
                file.flush()
            yield

    def holder(self, key: str) -> dict[str, Any] | None:
        """Host and process ID of the worker that is at a cell, None if none is."""
        try:
            with self.path(key, ".lock").open("r") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return None
                except BlockingIOError:
                    return json.loads(file.read() or "{}")
        except (OSError, ValueError):
            return None

    @contextlib.contextmanager
    def core(self, cores: Sequence[int]) -> Iterator[int]:
        """One of the CPUs of this host that no other worker of the store has, when there is one."""
        host = socket.gethostname()
        while True:
            for core in cores:
                with self.writing():
                    file = (self.root / "cores" / f"{host}.{core}").open("w")
                with file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield core
                    return
            time.sleep(_POLL_S)

    def fail(self, key: str, error: str, log: Path | None) -> None:
        """Note a failed attempt at a cell, and keep its log."""
        failed = self.root / "failed"
        attempt = (self.failure(key) or {"attempts": 0})["attempts"] + 1
        kept = None
        with self.writing():
            if log and log.exists():
                kept = str(shutil.copyfile(log, failed / f"{key}.{attempt}.log"))
            write_json_atomic(
                failed / f"{key}.json", {"attempts": attempt, "error": error, "log": kept}
            )

    def failure(self, key: str) -> dict[str, Any] | None:
        """attempts, error, log of a cell that failed."""
        try:
            return json.loads((self.root / "failed" / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def progress(self, key: str) -> dict[str, Any] | None:
        """What a worker last wrote of a cell under way."""
        try:
            text = (self.root / "work" / key / "progress.json").read_text(encoding="utf-8")
            return json.loads(text)
        except (OSError, ValueError):
            return None

    def keep(self, path: Path) -> Path:
        """A copy of a program or a settings file that never changes, under the same name."""
        digest = sha256_file(path)
        copy = self.root / "files" / digest / Path(path).name
        if copy.exists():
            return copy
        # Locked as a cell is, so that what a killed copy leaves is swept by the next.
        with self.lock(digest), self.work(digest) as folder, self.writing():
            copy.parent.mkdir(exist_ok=True)
            shutil.copy2(path, folder / copy.name)
            if sha256_file(folder / copy.name) != digest:
                raise FastpartError(f"{path}: changed while it was copied; run it again")
            _to_disk(folder / copy.name).replace(copy)
        return copy


def _to_disk(path: Path) -> Path:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return path
