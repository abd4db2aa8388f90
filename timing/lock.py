"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from fastpart.errors import FastpartError

_NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path, held: str) -> Iterator[TextIO]:
    """Make the folder and be alone in it; yields its lock file, to append to.

    The lock ends with this process, whatever ends it. held: what to say, after the folder's name, when
    somebody else has it. Raises FastpartError for that and for a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _NAME).open("a+")
    except OSError as error:
        raise FastpartError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FastpartError(f"{folder}: {held}") from error
        yield lock


def holder_of(folder: Path) -> str | None:
    """What the holder of a folder's lock wrote to its lock file; None if nobody holds it."""
    try:
        with (folder / _NAME).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                return lock.read()
    except OSError:
        return None
