"""From a grid to its points and tasks: sequences cut, encoders copied, cells and their order."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpart.backend import Backend, Vtm
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import Clip, make_cut, named_cuts, open_clip, parse_fps
from fastpart.record import sha256_file
from fastpart.timing.conformance import Decoders
from fastpart.timing.sweep.cell import ENCODE, JOIN, PROOF, Cell, Source, digest, stamp_of
from fastpart.timing.sweep.grid import Grid, make_backend
from fastpart.timing.sweep.segments import split, trial_clip
from fastpart.timing.sweep.store import Store
from fastpart.timing.sweep.work import Task
from fastpart.vtm import VtmHome, intra_period_for


@dataclass(frozen=True)
class Point:
    """One result that the sweep is for. key: of its record; cells: keys of all that it takes."""

    sequence: str
    class_name: str
    encoder: str
    qp: int
    repetition: int
    key: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A sweep laid out. tasks: each after those that it needs."""

    points: list[Point]
    tasks: list[Task]
    encoders: dict[str, Backend]
    identities: dict[str, dict[str, Any]]


def lay_out(
    grid: Grid, store: Store, home: VtmHome, decoders: Decoders, cores: tuple[int, ...] | None
) -> Layout:
    """The points and tasks of a grid.

    cores: CPUs for the workers, None for those that they may use.
    Raises FastpartError for what cannot be run.
    """
    sources = _sources(grid, store)
    encoders = {
        name: _kept(make_backend(entry, home, grid.path.parent), store)
        for name, entry in grid.encoders.items()
    }
    identities = {name: dict(backend.identity()) for name, backend in encoders.items()}
    builder = _Builder(grid, store, home, decoders, cores, encoders, identities)
    for source in sources:
        for qp in grid.qps:
            if grid.purpose == "time":
                builder.add_series(source, qp)
            else:
                for name in encoders:
                    builder.add(source, qp, name)
    return Layout(builder.points, list(builder.tasks.values()), encoders, identities)


class _Builder:
    """Collects points and tasks; equal cells are one."""

    def __init__(self, grid, store, home, decoders, cores, encoders, identities):
        self._grid, self._store, self._home = grid, store, home
        self._decoders, self._cores = decoders, cores
        self._encoders, self._identities = encoders, identities
        self.points: list[Point] = []
        self.tasks: dict[str, Task] = {}
        self._trials: dict[int, Source] = {}

    def add_series(self, source: Source, qp: int) -> None:
        """All encoders of a point, one after the other; in reverse on odd repetitions."""
        series = tuple(digest(identity) for identity in self._identities.values())
        for repetition in range(self._grid.repetitions):
            cells = [
                self._cell(source, qp, name, series=(repetition, series)) for name in self._encoders
            ]
            self._task(cells[::-1] if repetition % 2 else cells)
            for cell in cells:
                self._point(cell, (cell,), repetition)

    def add(self, source: Source, qp: int, name: str) -> None:
        """One encoder at a point, in whole or in segments."""
        segments = split(source.clip.frames, source.intra_period) if self._grid.segments else []
        if len(segments) < 2:
            cell = self._cell(source, qp, name)
            self._task([cell])
            self._point(cell, (cell,))
            return
        parcat = self._parcat(name)
        proof = self._proof(source, name, parcat)
        parts = tuple(self._cell(source, qp, name, segment=segment) for segment in segments)
        for part in parts:
            self._task([part], (proof.key,))
        joined = self._cell(source, qp, name, kind=JOIN, parts=parts, **parcat)
        self._task([joined], tuple(part.key for part in parts))
        self._point(joined, (proof, *parts, joined))

    def _cell(self, source: Source, qp: int, name: str, kind: str = ENCODE, **more: Any) -> Cell:
        return Cell(kind, source, name, self._encoders[name], self._identities[name], qp, **more)

    def _task(self, cells: list[Cell], needs: tuple[str, ...] = ()) -> None:
        self.tasks.setdefault(
            cells[0].key,
            Task(self._store.root, tuple(cells), self._decoders, self._cores, needs),
        )

    def _point(self, cell: Cell, cells: tuple[Cell, ...], repetition: int = 0) -> None:
        self.points.append(Point(
            cell.source.name, cell.source.class_name, cell.encoder, cell.qp, repetition, cell.key,
            tuple(one.key for one in cells),
        ))

    def _parcat(self, name: str) -> dict[str, Any]:
        if not isinstance(self._encoders[name], Vtm):
            raise FastpartError(
                f"{self._grid.path}: segments with encoder {name}: parcat joins streams of VTM; leave "
                "out segments, or put the encoder into a grid of its own"
            )
        parcat = self._store.keep(self._home.parcat())
        return {"parcat": parcat, "parcat_sha256": sha256_file(parcat)}

    def _proof(self, source: Source, name: str, parcat: dict[str, Any]) -> Cell:
        """The cell that tries an encoder's segments, on the first sequence of that intra period."""
        period = source.intra_period
        if period not in self._trials:
            path = self._store.root / "clips" / f"trial-{source.sha256[:16]}-{period}.yuv"
            with self._store.writing(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
                clip = trial_clip(source.clip, period, Path(folder) / path.name)
                clip.path.replace(path)
            self._trials[period] = Source(
                "trial", "trial", Clip(path, clip.width, clip.height, clip.fps, clip.bit_depth,
                                       clip.frames),
                sha256_file(path), stamp_of(path), source.path, period,
            )
        trial = self._trials[period]
        parts = tuple(
            self._cell(trial, max(self._grid.qps), name, segment=segment)
            for segment in split(trial.clip.frames, period)
        )
        proof = self._cell(trial, max(self._grid.qps), name, kind=PROOF, parts=parts, **parcat)
        self._task([proof])
        return proof


def _kept(backend: Backend, store: Store) -> Backend:
    """A back end of VTM with copies of its files; others are checked as they run."""
    if not isinstance(backend, Vtm):
        return backend
    kept = copy.copy(backend)
    kept.encoder = store.keep(backend.encoder)
    kept.cfg_files = [store.keep(path) for path in backend.cfg_files]
    kept.model = store.keep(backend.model) if backend.model else None
    return kept


def _sources(grid: Grid, store: Store) -> list[Source]:
    found = []
    if grid.cuts:
        cuts_file = grid.cuts_file or grid.clips / "cuts.toml"
        found += [_cut(cut, grid, store) for cut in named_cuts(cuts_file, grid.cuts, grid.path)]
    found += [_file(path, grid, store) for path in grid.files]
    names = [source.name for source in found]
    if len(set(names)) < len(names):
        raise FastpartError(f"{grid.path}: sequences {', '.join(names)}: wanted distinct names")
    return found


def _cut(cut: dict, grid: Grid, store: Store) -> Source:
    origin = grid.clips / cut["clip"]
    made_of = digest({"cut": {**cut, "name": ""}, "source": sha256_file(origin)})

    def make(folder: Path) -> Clip:
        return make_cut(cut, grid.clips, folder / "cut.yuv")

    clip, sha256 = _made(store, made_of, make)
    period = grid.intra_period or cut.get("intra_period") or intra_period_for(clip.fps)
    name = str(cut.get("class", f"{clip.width}x{clip.height}"))
    return Source(cut["name"], name, clip, sha256, stamp_of(clip.path), origin, period)


def _file(path: Path, grid: Grid, store: Store) -> Source:
    made_of = digest({"file": sha256_file(path) if path.is_file() else None, "frames": grid.frames,
                      "name": path.name})

    def make(folder: Path) -> Clip:
        clip = open_clip(path, frames=grid.frames, workdir=folder)
        # The encoder's temporal filter looks beyond what is coded: a file of its own.
        out = folder / "clip.raw"
        with clip.path.open("rb") as file, out.open("wb") as raw:
            shutil.copyfileobj(file, raw)
            raw.truncate(clip.frames * clip.frame_bytes)
        return Clip(out, clip.width, clip.height, clip.fps, clip.bit_depth, clip.frames)

    clip, sha256 = _made(store, made_of, make)
    period = grid.intra_period or intra_period_for(clip.fps)
    return Source(path.stem, f"{clip.width}x{clip.height}", clip, sha256, stamp_of(clip.path), path,
                  period)


def _made(store: Store, made_of: str, make) -> tuple[Clip, str]:
    """A raw clip of the store and its SHA-256, made unless it is there."""
    path = store.root / "clips" / f"{made_of[:32]}.yuv"
    about = path.with_suffix(".json")
    try:
        known: Mapping[str, Any] = json.loads(about.read_text(encoding="utf-8"))
        if list(stamp_of(path)) == known["stamp"]:
            return _clip(path, known), known["sha256"]
    except (OSError, ValueError, KeyError, FastpartError):
        pass
    with store.writing(), tempfile.TemporaryDirectory(dir=store.root / "work") as folder:
        clip = make(Path(folder))
        sha256 = sha256_file(clip.path)
        # Another sweep may put the same in its place at any time: equal contents get an equal time of change.
        time_of_change = int(sha256[:15], 16)
        os.utime(clip.path, ns=(time_of_change, time_of_change))
        clip.path.replace(path)
    known = {
        "width": clip.width, "height": clip.height, "fps": str(clip.fps),
        "bit_depth": clip.bit_depth, "frames": clip.frames, "sha256": sha256,
        "stamp": list(stamp_of(path)),
    }
    write_json_atomic(about, known)
    return _clip(path, known), known["sha256"]


def _clip(path: Path, known: Mapping[str, Any]) -> Clip:
    return Clip(path, known["width"], known["height"], parse_fps(known["fps"]), known["bit_depth"],
                known["frames"])
