"""A cell of a sweep: one encode of a sequence or a segment, the joining of segments, or the proof
that an encoder's segments may be joined. Its key is the hash of its identity, of all that
determines the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fastpart.backend import Backend
from fastpart.errors import FastpartError
from fastpart.media import Clip

#: Part of each identity; the number rises when a record changes its meaning.
SCHEMA = "fastpart.cell/1"

ENCODE, JOIN, PROOF = "encode", "join", "proof"


@dataclass(frozen=True)
class Source:
    """A sequence of a sweep. clip: all of a raw file. sha256: of that file; stamp: its size and time
    of change when that was taken. path: what it was made of."""

    name: str
    class_name: str
    clip: Clip
    sha256: str
    stamp: tuple[int, int]
    path: Path
    intra_period: int

    def check(self) -> None:
        """Raises FastpartError when the raw file is no longer what it was."""
        if stamp_of(self.clip.path) != self.stamp:
            raise FastpartError(f"{self.clip.path}: changed since the sweep began; resume it")

    def part(self, segment: tuple[int, int] | None) -> Clip:
        """The clip of a segment (start, frames). The encoder sees the file around it too."""
        if segment is None:
            return self.clip
        return replace(self.clip, start=self.clip.start + segment[0], frames=segment[1])


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change of a file. Raises FastpartError when it is not there."""
    try:
        stat = path.stat()
    except OSError as error:
        raise FastpartError(f"{path}: cannot be read ({error.strerror})") from error
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Cell:
    """What to do, and what for.

    encoder: name in the grid; backend: its back end with what must stay as it is. segment: (start,
    frames) or None for the whole. parts: the segments to join. series: number of a timed repetition
    and identities of all encoders that run with this one, None when time is not measured.
    """

    kind: str
    source: Source
    encoder: str
    backend: Backend
    backend_identity: Mapping[str, Any]
    qp: int
    segment: tuple[int, int] | None = None
    parts: tuple[Cell, ...] = ()
    series: tuple[int, tuple[str, ...]] | None = None
    parcat: Path | None = None
    parcat_sha256: str | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that determines the result."""
        clip = self.source.clip
        found = {
            "schema": SCHEMA,
            "kind": self.kind,
            "encoder": self.backend_identity,
            "clip": {
                "sha256": self.source.sha256, "width": clip.width, "height": clip.height,
                "fps": str(clip.fps), "bit_depth": clip.bit_depth, "frames": clip.frames,
            },
            "intra_period": self.source.intra_period,
            "qp": self.qp,
            "picture_hash": True,
        }
        if self.segment:
            found["segment"] = list(self.segment)
        if self.series:
            found["series"] = {"repetition": self.series[0], "encoders": list(self.series[1])}
        if self.parcat_sha256:
            found |= {"parcat": self.parcat_sha256, "parts": [part.key for part in self.parts]}
        return found

    @cached_property
    def key(self) -> str:
        return digest(self.identity)

    @property
    def name(self) -> str:
        """For people."""
        part = f" pictures {self.segment[0]}-{sum(self.segment) - 1}" if self.segment else ""
        kind = "" if self.kind == ENCODE else f" {self.kind}"
        rep = f" r{self.series[0]}" if self.series else ""
        return f"{self.source.name} QP {self.qp} {self.encoder}{part}{kind}{rep}"

    @property
    def weight(self) -> int:
        """Luma samples to encode: what a cell takes grows with it."""
        if self.kind == JOIN:
            return 0
        frames = self.segment[1] if self.segment else self.source.clip.frames
        return self.source.clip.width * self.source.clip.height * frames


def digest(data: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys; values as command lines show them."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): plain(one) for name, one in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(one) for one in value]
        return value if value is None else str(int(value) if isinstance(value, bool) else value)

    text = json.dumps(plain(data), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
