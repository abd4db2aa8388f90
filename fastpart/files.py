"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError


@contextlib.contextmanager
def appearing(path: str | os.PathLike, parents: bool = False) -> Iterator[Path]:
    """An empty file of another name beside path: renamed to path at the end, removed on failure.

    parents: make the folders above it that are missing. Raises FastpartError when path's folder cannot be written.
    """
    path = Path(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _cannot(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        try:
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as error:
            raise _cannot(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: str | os.PathLike, data: bytes, parents: bool = False) -> None:
    """Write data; parents: as of `appearing`. Raises FastpartError when it cannot be written."""
    with appearing(path, parents) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as error:
            raise _cannot(path, error) from error


def write_json_atomic(path: str | os.PathLike, data: Any) -> None:
    """Write data as JSON; raises FastpartError when it cannot be written, ValueError for NaN or infinity."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    write_bytes_atomic(path, text.encode())


def _cannot(path: str | os.PathLike, error: OSError) -> FastpartError:
    return FastpartError(f"{path}: cannot be written ({error.strerror}); choose another folder")
