"""Replaces and deletes several files as one step: on an error all are as before.

A killed process can leave some files replaced and others not, never a file half-written, and
temporary files that end in one of `SUFFIXES`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from fastpart.errors import FastpartError

_NEW, _OLD = SUFFIXES = (".fastpart-new", ".fastpart-old")


class Transaction:
    """Collects steps; `commit` carries them out in the order in which they were given."""

    def __init__(self) -> None:
        self._steps: list[tuple[Path, bytes | None]] = []
        self._staged: list[Path] = []
        self._backups: dict[Path, Path | None] = {}
        self._begun: list[Path] = []
        self._folders: list[Path] = []

    def write(self, path: Path, data: bytes) -> None:
        """Give a file this content; its mode stays, folders are made as needed."""
        self._steps.append((path, data))

    def delete(self, path: Path) -> None:
        """Remove a file if it is there."""
        self._steps.append((path, None))

    def commit(self) -> None:
        """Stage everything beside its target, then rename.

        Raises FastpartError if the tree cannot be written; it is then as before, unless the
        message says otherwise.
        """
        try:
            for index, (path, data) in enumerate(self._steps):
                self._stage(index, path, data)
            for (path, data), new in zip(self._steps, self._staged, strict=True):
                self._begun.append(path)
                if data is None:
                    path.unlink(missing_ok=True)
                else:
                    os.replace(new, path)
        except BaseException as error:
            self._roll_back(error)
            if isinstance(error, OSError):
                raise FastpartError(
                    f"{error.filename}: {error.strerror}, wanted a writable tree with free space; "
                    "make it so and try again; the tree is as it was"
                ) from error
            raise
        self._clean()

    def _stage(self, index: int, path: Path, data: bytes | None) -> None:
        self._make_folder(path.parent)
        new = path.with_name(f"{path.name}.{index}{_NEW}")
        self._staged.append(new)
        if path not in self._backups:
            backup = path.with_name(path.name + _OLD) if path.exists() else None
            self._backups[path] = backup
            if backup:
                shutil.copy2(path, backup)
        if data is not None:
            with open(new, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if self._backups[path]:
                shutil.copymode(path, new)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir()
            self._folders.append(folder)

    def _roll_back(self, cause: BaseException) -> None:
        try:
            for path in reversed(dict.fromkeys(self._begun)):
                backup = self._backups[path]
                if backup:
                    os.replace(backup, path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise FastpartError(
                f"{error.filename}: {error.strerror} while undoing what had begun ({cause}), "
                "wanted a writable tree; make it so, then run: fastpart patch revert"
            ) from cause
        finally:
            self._clean()
            for folder in reversed(self._folders):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _clean(self) -> None:
        for path in (*self._staged, *filter(None, self._backups.values())):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
