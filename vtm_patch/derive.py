"""Makes a patch set from a pristine and a modified tree; refuses anything but insertions."""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.vtm_patch.layout import is_added
from fastpart.vtm_patch.patchset import FilePatch, Insertion, PatchSet, digest, split_lines

_IGNORED = {".git", "build", "bin", "lib"}
#: Shorter lines (braces, `return;`, `#endif`) are nobody's.
_OWN_LINE = 16


def derive(pristine: Path, modified: Path, vtm: str) -> PatchSet:
    """The patch set that turns one tree into the other.

    Build products (`build`, `bin`, `lib`, `.git` at the top) and the files that fastpart adds are
    left out. Raises FastpartError if a file was added or deleted, or if a line of the pristine tree
    was removed or changed.
    """
    before, after = _files(pristine), _files(modified)
    if before != after:
        odd = sorted(before ^ after)
        raise FastpartError(
            f"{modified}: {', '.join(odd[:5])} in one tree only ({len(odd)} files), wanted the "
            "same files in both; put new sources into vtm_patch/hook, restore what was deleted"
        )
    files = {}
    for path in sorted(before):
        old, new = (pristine / path).read_bytes(), (modified / path).read_bytes()
        if old != new:
            files[path] = FilePatch(path, digest(old), digest(new), _insertions(path, old, new))
            files[path].insert(old)
    if not files:
        raise FastpartError(f"{modified}: no file differs from {pristine}, wanted insertions")
    return PatchSet(vtm, files)


def repeated_lines(patch_set: PatchSet, pristine: Path) -> list[str]:
    """`path: line` for inserted lines that the pristine file has too.

    A patch set must not carry lines of VTM; such a line is better called than repeated.
    """
    found = []
    for path, file in patch_set.files.items():
        theirs = {line.strip() for line in split_lines((pristine / path).read_bytes())}
        for insertion in file.insertions:
            for line in insertion.lines:
                if len(line.strip()) >= _OWN_LINE and line.strip() in theirs:
                    found.append(f"{path}: {line.strip().decode(errors='replace')}")
    return found


def _files(tree: Path) -> set[str]:
    if not tree.is_dir():
        raise FastpartError(f"{tree}: no such folder, wanted the top folder of a VTM tree")
    found = set()
    for folder, folders, names in os.walk(tree):
        if Path(folder) == tree:
            folders[:] = [name for name in folders if name not in _IGNORED]
            names = [name for name in names if name not in _IGNORED]
        found.update((Path(folder) / name).relative_to(tree).as_posix() for name in names)
    return {path for path in found if not is_added(path)}


def _insertions(path: str, old: bytes, new: bytes) -> tuple[Insertion, ...]:
    before, after = split_lines(old), split_lines(new)
    kept = _align(before, after)
    if kept is None:
        raise _changed(path, before, after)
    insertions = []
    position = 0
    for index, target in enumerate([*kept, len(after)]):
        if target > position:
            lines = after[position:target]
            if not lines[-1].endswith(b"\n"):
                raise FastpartError(
                    f"{path}: the last inserted line has no line end, wanted one; add it"
                )
            insertions.append(Insertion(index, tuple(line.rstrip(b"\r\n") for line in lines)))
        position = target + 1
    return tuple(insertions)


def _align(before: list[bytes], after: list[bytes]) -> list[int] | None:
    """Where each line of `before` lies in `after`: fewest insertions, each as late as possible.

    None if `before` is not a subsequence of `after`.
    """
    surplus = len(after) - len(before)
    if surplus < 0:
        return None
    # Fewest hunks for the rest, by the lines inserted so far, outside and inside of an insertion.
    outside = [1.0] * surplus + [0.0]
    keep = []
    for row in range(len(before) - 1, -1, -1):
        keep_row = bytearray(2 * (surplus + 1))
        here, inside = [math.inf] * (surplus + 1), [math.inf] * (surplus + 1)
        for count in range(surplus, -1, -1):
            match = outside[count] if before[row] == after[row + count] else math.inf
            more = inside[count + 1] if count < surplus else math.inf
            here[count], inside[count] = min(match, 1 + more), min(match, more)
            keep_row[2 * count] = match <= 1 + more
            keep_row[2 * count + 1] = match <= more
        outside = here
        keep.append(keep_row)
    if outside[0] == math.inf:
        return None
    kept, count, inserting = [], 0, False
    for row in range(len(before)):
        keep_row = keep[len(before) - 1 - row]
        while not keep_row[2 * count + inserting]:
            count, inserting = count + 1, True
        kept.append(row + count)
        inserting = False
    return kept


def _changed(path: str, before: list[bytes], after: list[bytes]) -> FastpartError:
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    line = next(code[1] + 1 for code in matcher.get_opcodes() if code[0] in ("delete", "replace"))
    return FastpartError(
        f"{path}: line {line} of the pristine file was removed or changed, wanted insertions "
        "only; restore it and insert around it"
    )
