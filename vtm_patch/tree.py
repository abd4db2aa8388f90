"""The state of a VTM tree, and the way from one state to another: apply and revert."""

from __future__ import annotations

import contextlib
import enum
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.vtm_patch import layout
from fastpart.vtm_patch.patchset import PatchSet, digest
from fastpart.vtm_patch.payload import Payload
from fastpart.vtm_patch.record import Record
from fastpart.vtm_patch.transaction import SUFFIXES, Transaction

_VERSION = re.compile(rb'#\s*define\s+VTM_VERSION\s+"([^"]*)"')


class Kind(enum.Enum):
    PRISTINE = "pristine"
    PATCHED = "patched"
    HALF = "half-patched"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Touched:
    """A file that some patch set inserts into.

    found: its digest, None if it is absent. pristine: its content without insertions, None if it is
    neither pristine nor exactly patched.
    """

    found: str | None
    data: bytes
    pristine: bytes | None
    patched: bool


@dataclass(frozen=True)
class TreeState:
    """What `inspect` found.

    base: the patch set that the touched files belong to, None if there is none (foreign).
    touched: by path, for all known patch sets. record: of the last apply, if any.
    added: paths that fastpart adds and that exist. strangers: those of them that it did not write
    like that. missing: those that it wrote and that are gone. leftovers: temporary files.
    """

    root: Path
    kind: Kind
    version: str | None
    base: PatchSet | None
    touched: dict[str, Touched]
    record: Record | None
    added: tuple[str, ...]
    strangers: tuple[str, ...]
    missing: tuple[str, ...]
    leftovers: tuple[Path, ...]

    def paths(self) -> list[str]:
        """Touched files of the base and of the record."""
        recorded = self.record.patch_sets if self.record else ()
        sets = (*((self.base,) if self.base else ()), *recorded)
        return list(dict.fromkeys(path for item in sets for path in item.files))

    def details(self) -> list[str]:
        """Why a tree is half-patched, a line for each reason."""
        paths = self.paths()
        groups = {
            "patched": [path for path in paths if self.touched[path].patched],
            "pristine": [path for path in paths if not self.touched[path].patched],
            "added but gone": self.missing,
            "not as fastpart wrote it": self.strangers,
            "left over": [path.relative_to(self.root).as_posix() for path in self.leftovers],
        }
        lines = [f"{what}: {', '.join(items)}" for what, items in groups.items() if items]
        if self.record is None:
            lines.append(f"no record: {layout.RECORD}")
        elif not self.record.complete:
            lines.append(f"interrupted, says the record: {layout.RECORD}")
        return lines


def inspect(root: Path, shipped: Sequence[PatchSet]) -> TreeState:
    """Tell the state of a tree from its contents alone.

    Raises FastpartError if this is no VTM tree or cannot be read.
    """
    if not (root / layout.ENCODER_LIB).is_dir():
        raise FastpartError(
            f"{root}: no folder {layout.ENCODER_LIB} in it, wanted the top folder of a VTM source "
            f"tree; check the path"
        )
    try:
        return _inspect(root, shipped)
    except OSError as error:
        raise FastpartError(
            f"{error.filename}: {error.strerror}, wanted a readable VTM tree; mend its permissions"
        ) from error


def _inspect(root: Path, shipped: Sequence[PatchSet]) -> TreeState:
    record_file = root / layout.RECORD
    record = None
    if record_file.exists():
        record = Record.from_bytes(record_file.read_bytes(), str(record_file))
    known = (*(record.patch_sets if record else ()), *shipped)
    touched = {
        path: _classify(root / path, path, known)
        for path in dict.fromkeys(path for item in known for path in item.files)
    }
    # A recorded set comes first: where it does not fit, its insertions cannot be taken out.
    fitting = [item for item in known if _fits(item, touched)]
    recorded_fit = all(item in fitting for item in (record.patch_sets if record else ()))
    base = fitting[0] if fitting and recorded_fit else None

    leftovers = _leftovers(root, touched)
    added = tuple(_added(root))
    allowed = record.added if record else {}
    state = TreeState(
        root=root,
        kind=Kind.FOREIGN,
        version=_version(root),
        base=base,
        touched=touched,
        record=record,
        added=added,
        strangers=tuple(
            path
            for path in added
            if digest((root / path).read_bytes()) not in allowed.get(path, ())
        ),
        missing=tuple(path for path in allowed if path not in added),
        leftovers=leftovers,
    )
    return replace(state, kind=_kind(state))


def _kind(state: TreeState) -> Kind:
    if state.base is None:
        return Kind.FOREIGN
    clean = not (state.strangers or state.missing or state.leftovers)
    if state.record:
        whole = state.record.complete and all(
            state.touched[path].found == file.patched
            for path, file in state.record.patch_sets[0].files.items()
        )
        return Kind.PATCHED if clean and whole else Kind.HALF
    untouched = not any(state.touched[path].patched for path in state.base.files)
    folder = (state.root / layout.FOLDER).exists()
    return Kind.PRISTINE if clean and untouched and not folder else Kind.HALF


def apply(root: Path, shipped: Sequence[PatchSet], payload: Payload) -> list[str]:
    """Patch a pristine tree, or bring a patched one up to this patch set and payload.

    Returns the paths that were written or deleted, none if the tree was up to date. Raises
    FastpartError, with the tree as it was, if it is foreign or half-patched or cannot be written.
    """
    state = inspect(root, shipped)
    target = next((item for item in shipped if _fits(item, state.touched)), None)
    if target is None or state.kind is Kind.FOREIGN:
        raise _foreign(state, shipped)
    if state.kind is Kind.HALF:
        raise FastpartError(
            "\n  ".join((f"{root}: half-patched", *state.details()))
            + "\nwanted a pristine or a patched tree; run: fastpart patch revert"
        )

    contents = {path: state.touched[path].pristine for path in state.paths()}
    contents |= {
        path: file.insert(state.touched[path].pristine) for path, file in target.files.items()
    }
    old = state.record
    stale = [path for path in state.added if path not in payload.files]
    changed = _differing(root, {**payload.files, **contents})
    record = Record(
        complete=True,
        fastpart=payload.fastpart,
        model=payload.model,
        added={path: (digest(data),) for path, data in payload.files.items()},
        patch_sets=(target,),
    )
    if old == record and not changed and not stale:
        return []

    accepted = {**(old.added if old else {})}
    for path, digests in record.added.items():
        accepted[path] = tuple(dict.fromkeys((*digests, *accepted.get(path, ()))))
    journal = replace(
        record,
        complete=False,
        added=accepted,
        patch_sets=(target, *(item for item in (old.patch_sets if old else ()) if item != target)),
    )
    step = Transaction()
    step.write(root / layout.RECORD, journal.to_bytes())
    for path, data in changed.items():
        step.write(root / path, data)
    for path in stale:
        step.delete(root / path)
    step.write(root / layout.RECORD, record.to_bytes())
    step.commit()
    if set(payload.files) != set(state.added):
        _touch_build_file(root)
    return [*changed, *stale]


def revert(root: Path, shipped: Sequence[PatchSet]) -> list[str]:
    """Make a patched or half-patched tree pristine, byte for byte.

    Returns the paths that were restored or deleted, none if the tree was pristine. Raises
    FastpartError, with the tree as it was, if a file that it would have to restore or delete is not
    one that fastpart wrote, or cannot be written.
    """
    state = inspect(root, shipped)
    if state.kind is Kind.PRISTINE:
        return []
    if state.kind is Kind.FOREIGN:
        raise _foreign(state, shipped)
    if state.strangers:
        raise FastpartError(
            f"{root}: not as fastpart wrote it: {', '.join(state.strangers)}; wanted unchanged "
            "files, so that nobody's work is lost; move it away, then run: fastpart patch revert"
        )
    _delete(state.leftovers)
    restored = [path for path in state.paths() if state.touched[path].patched]
    step = Transaction()
    if state.record:
        journal = replace(state.record, complete=False)
        step.write(root / layout.RECORD, journal.to_bytes())
    for path in restored:
        step.write(root / path, state.touched[path].pristine)
    for path in state.added:
        step.delete(root / path)
    if state.record:
        step.delete(root / layout.RECORD)
    step.commit()
    for folder in (layout.ENGINE, layout.FOLDER):
        with contextlib.suppress(FileNotFoundError):
            (root / folder).rmdir()
    _touch_build_file(root)
    return [*restored, *state.added]


def mismatch(state: TreeState, shipped: Sequence[PatchSet]) -> str:
    """Why a tree fits no patch set: each file, the hash found, the hashes wanted; the way out."""
    lines = []
    for path, touched in state.touched.items():
        clean = touched.pristine and digest(touched.pristine)
        wanted = sorted(
            f"{item.files[path].pristine} (VTM-{item.vtm})"
            for item in shipped
            if path in item.files and item.files[path].pristine != clean
        )
        if wanted:
            found = f"SHA-256 {touched.found}" if touched.found else "not there"
            lines.append(f"{path}: {found}, wanted {' or '.join(wanted)}")
    version = f"VTM-{state.version}" if state.version else "unknown version"
    known = [f"VTM-{item.vtm}" for item in shipped]
    way_out = (
        f"restore these files from tag {version}, or check that tag out afresh"
        if version in known
        else f"check out tag {' or '.join(known)} of the VTM repository and use that tree"
    )
    return "\n  ".join((f"{version}, supported: {', '.join(known)}", *lines)) + f"\n{way_out}"


def _classify(file: Path, path: str, known: Iterable[PatchSet]) -> Touched:
    if not file.is_file():
        return Touched(None, b"", None, False)
    data = file.read_bytes()
    found = digest(data)
    for patch in (item.files[path] for item in known if path in item.files):
        if found == patch.pristine:
            return Touched(found, data, data, False)
        if found == patch.patched:
            return Touched(found, data, patch.remove(data), True)
    return Touched(found, data, None, False)


def _fits(patch_set: PatchSet, touched: dict[str, Touched]) -> bool:
    return all(
        touched[path].pristine is not None and digest(touched[path].pristine) == file.pristine
        for path, file in patch_set.files.items()
    )


def _foreign(state: TreeState, shipped: Sequence[PatchSet]) -> FastpartError:
    return FastpartError(f"{state.root}: {mismatch(state, shipped)}")


def _differing(root: Path, contents: dict[str, bytes]) -> dict[str, bytes]:
    return {
        path: data
        for path, data in contents.items()
        if not (root / path).is_file() or (root / path).read_bytes() != data
    }


def _added(root: Path) -> list[str]:
    library, folder = root / layout.ENCODER_LIB, root / layout.FOLDER
    files = [*library.glob("Fastpart*"), *folder.rglob("*")]
    paths = sorted(file.relative_to(root).as_posix() for file in files if file.is_file())
    return [
        path
        for path in paths
        if layout.is_added(path) and path != layout.RECORD and not path.endswith(SUFFIXES)
    ]


def _leftovers(root: Path, touched: Iterable[str]) -> tuple[Path, ...]:
    library, folder = root / layout.ENCODER_LIB, root / layout.FOLDER
    files = {*library.glob("Fastpart*"), *folder.rglob("*")}
    for path in touched:
        files.update((root / path).parent.glob(f"{Path(path).name}.*"))
    return tuple(sorted(file for file in files if file.name.endswith(SUFFIXES)))


def _delete(files: Iterable[Path]) -> None:
    try:
        for file in files:
            file.unlink()
    except OSError as error:
        raise FastpartError(
            f"{error.filename}: {error.strerror}, wanted a writable tree; make it so and try again"
        ) from error


def _touch_build_file(root: Path) -> None:
    """A configured build looks for sources again only if this file is newer."""
    with contextlib.suppress(OSError):
        os.utime(root / layout.BUILD_FILE)


def _version(root: Path) -> str | None:
    try:
        found = _VERSION.search((root / layout.VERSION_FILE).read_bytes())
    except OSError:
        return None
    return found[1].decode(errors="replace") if found else None
