"""A patch set: which lines go where in which files of one VTM version.

A folder `versions/<VTM version>/` holds

- `manifest.json`: `{"vtm": "23.2", "files": [{"path", "pristine", "patched"}, ...]}`, paths
  relative to the tree, SHA-256 of each file before and after;
- `insertions.patch`: a unified diff with zero context that only inserts, so that it holds no line
  of VTM: `--- a/path`, `+++ b/path`, `@@ -N,0 +M,K @@` and `+` lines, nothing else.

Hashes are of the bytes as they are, except that a file whose lines all end in CRLF is hashed with
LF: a checkout that converted line ends is the same version. An inserted line takes the line end of
the line before it (of the line after it, at the top).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fastpart.errors import FastpartError

MANIFEST = "manifest.json"
INSERTIONS = "insertions.patch"
#: Folder of the patch sets that come with the package.
SHIPPED = Path(__file__).parent / "versions"

_HUNK = re.compile(rb"@@ -(\d+),0 \+(\d+),(\d+) @@")


@dataclass(frozen=True)
class Insertion:
    """`lines` (without line ends) go after line `after` of the pristine file; 0 is the top."""

    after: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True)
class FilePatch:
    """One touched file; `pristine` and `patched` are digests as `digest` computes them."""

    path: str
    pristine: str
    patched: str
    insertions: tuple[Insertion, ...]

    def insert(self, pristine: bytes) -> bytes:
        """The patched file. Raises FastpartError if the result is not the one recorded."""
        lines = split_lines(pristine)
        out: list[bytes] = []
        position = 0
        for insertion in self.insertions:
            out += lines[position : insertion.after]
            position = insertion.after
            neighbour = lines[max(position - 1, 0) : max(position, 1)]
            end = b"\r\n" if neighbour and neighbour[0].endswith(b"\r\n") else b"\n"
            out += [line + end for line in insertion.lines]
        out += lines[position:]
        return self._checked(b"".join(out), self.patched)

    def remove(self, patched: bytes) -> bytes:
        """The pristine file. Raises FastpartError if the result is not the one recorded."""
        lines = split_lines(patched)
        out: list[bytes] = []
        position = shift = 0
        for insertion in self.insertions:
            out += lines[position : insertion.after + shift]
            shift += len(insertion.lines)
            position = insertion.after + shift
        out += lines[position:]
        return self._checked(b"".join(out), self.pristine)

    def _checked(self, data: bytes, wanted: str) -> bytes:
        found = digest(data)
        if found != wanted:
            raise FastpartError(
                f"{self.path}: {INSERTIONS} gives SHA-256 {found}, {MANIFEST} wants {wanted}; "
                "the patch set is damaged: install fastpart again"
            )
        return data


@dataclass(frozen=True)
class PatchSet:
    """All touched files of one VTM version, by path."""

    vtm: str
    files: dict[str, FilePatch]

    @classmethod
    def from_parts(cls, manifest: dict[str, Any], insertions: bytes, where: str) -> PatchSet:
        """Join the two files' contents. Raises FastpartError, naming `where`, if they do not fit."""
        hunks = parse_insertions(insertions, where)
        try:
            vtm = manifest["vtm"]
            files = {
                entry["path"]: FilePatch(
                    entry["path"], entry["pristine"], entry["patched"], hunks.pop(entry["path"], ())
                )
                for entry in manifest["files"]
            }
        except (KeyError, TypeError) as error:
            raise _damaged(f"{where}: no {error} in the manifest") from error
        if hunks:
            raise _damaged(f"{where}: {', '.join(hunks)} not in the manifest")
        for path in files:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise _damaged(f"{where}: {path} leaves the tree")
        return cls(vtm, files)

    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` holds."""
        return {
            "vtm": self.vtm,
            "files": [
                {"path": file.path, "pristine": file.pristine, "patched": file.patched}
                for file in self.files.values()
            ],
        }

    def insertions(self) -> bytes:
        """What `insertions.patch` holds."""
        out: list[bytes] = []
        for file in self.files.values():
            path = file.path.encode()
            out += [b"--- a/" + path, b"+++ b/" + path]
            shift = 0
            for insertion in file.insertions:
                count = len(insertion.lines)
                out.append(
                    b"@@ -%d,0 +%d,%d @@" % (insertion.after, insertion.after + shift + 1, count)
                )
                out += [b"+" + line for line in insertion.lines]
                shift += count
        return b"".join(line + b"\n" for line in out)


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal; of the LF form for a file whose lines all end in CRLF."""
    ends = data.count(b"\n")
    if ends and data.count(b"\r\n") == ends:
        data = data.replace(b"\r\n", b"\n")
    return hashlib.sha256(data).hexdigest()


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their ends, split at LF alone."""
    return io.BytesIO(data).readlines()


def parse_insertions(data: bytes, where: str) -> dict[str, tuple[Insertion, ...]]:
    """Insertions of each path. Raises FastpartError for anything but insertions without context."""
    lines = [line.rstrip(b"\r\n") for line in split_lines(data)]
    files: dict[str, tuple[Insertion, ...]] = {}
    path, shift, row = None, 0, 0
    while row < len(lines):
        line = lines[row]
        hunk = _HUNK.fullmatch(line)
        if line.startswith(b"--- a/") and lines[row + 1 : row + 2] == [b"+++ b/" + line[6:]]:
            path, shift = line[6:].decode(), 0
            files[path] = ()
            row += 2
        elif hunk and path is not None:
            after, start, count = map(int, hunk.groups())
            added = lines[row + 1 : row + 1 + count]
            last = files[path][-1].after if files[path] else -1
            whole = len(added) == count > 0 and all(text.startswith(b"+") for text in added)
            if not whole or after <= last or start != after + shift + 1:
                raise _damaged(f"{where}, line {row + 1}: hunk out of order or not whole")
            files[path] += (Insertion(after, tuple(text[1:] for text in added)),)
            shift += count
            row += 1 + count
        else:
            raise _damaged(f"{where}, line {row + 1}: neither a file, nor a hunk, nor an insertion")
    return files


def load(folder: Path) -> PatchSet:
    """Read one patch set. Raises FastpartError if it is absent or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        insertions = (folder / INSERTIONS).read_bytes()
    except (OSError, ValueError) as error:
        raise _damaged(f"{folder}: {error}") from error
    return PatchSet.from_parts(manifest, insertions, str(folder / INSERTIONS))


def load_shipped() -> list[PatchSet]:
    """The patch sets that come with the package, by version.

    Raises FastpartError if one is damaged or if there is none.
    """
    patch_sets = [load(manifest.parent) for manifest in sorted(SHIPPED.glob(f"*/{MANIFEST}"))]
    if not patch_sets:
        raise _damaged(f"{SHIPPED}: no patch set")
    return patch_sets


def save(patch_set: PatchSet, versions: Path) -> Path:
    """Write a patch set into its folder below `versions` and return that folder."""
    folder = versions / patch_set.vtm
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(patch_set.manifest(), indent=2) + "\n")
    (folder / INSERTIONS).write_bytes(patch_set.insertions())
    return folder


def _damaged(what: str) -> FastpartError:
    return FastpartError(
        f"{what}, wanted a manifest and insertions without context that fit; "
        "install fastpart again, or derive the patch set again"
    )
