"""The clips of a training folder, and a recipe that takes cuts of all of them.

`CLIPS/train/` may hold any files and folders: ours with a `MANIFEST.tsv`, those of UVG as unpacked
(`uvg/Beauty_3840x2160_120fps_420_10bit_YUV.yuv`), those of CDVL as downloaded (`cdvl/*.avi`, any container).
"""

from __future__ import annotations

import csv
import io
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.media import Facts, probe

VIDEO = {".yuv", ".y4m", ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mxf", ".ts", ".264", ".265", ".266"}
PACKED = {".7z", ".zip", ".rar", ".gz", ".xz"}

#: Source and licence of the files below a folder of this name.
COLLECTIONS = {
    "uvg": ("UVG, https://ultravideo.fi", "CC BY-NC 3.0"),
    "cdvl": ("CDVL, https://www.cdvl.org", "CDVL licence of the clip, https://cdvl.org/license"),
}
UNKNOWN = ("unknown", "unknown")

#: Pictures of a cut: one random-access GOP after the intra picture.
FRAMES = 33
#: Sizes (luma samples) that a clip is scaled to cover before the crop; those larger than it are left out.
COVERS = ((416, 240), (960, 540), (1920, 1080))
CROP, WHOLE = (256, 128), (416, 240)
#: Of a cut for the steering; the first one is observed at both.
KAPPAS = (1.0, 1.5)
#: A clip gives a cut for every so many frames, up to the most.
FRAMES_PER_CUT, MOST_CUTS = 100, 3


@dataclass(frozen=True)
class Source:
    """A clip: its path below the clips folder, what it holds, where it is from."""

    clip: str
    facts: Facts
    origin: str
    licence: str


@dataclass(frozen=True)
class Cut:
    """Pictures of a clip. cover: it is scaled to cover that; size: and cropped to this. role: training or steering."""

    source: Source
    start: int
    cover: tuple[int, int]
    size: tuple[int, int]
    role: str

    @property
    def name(self) -> str:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", self.source.clip.removeprefix("train/").rpartition(".")[0])
        return f"{stem}_{self.start}"


def find_sources(root: Path) -> list[Source]:
    """All clips below root/train, by path.

    Origin and licence are those of root/MANIFEST.tsv (columns file, source_repository, licence), else of the
    collection whose folder they are in. Says on stderr which archives are still packed and whose origin is unknown.
    Raises FastpartError if there is no clip, and for one that cannot be read.
    """
    manifest = _manifest(root / "MANIFEST.tsv")
    found = []
    for path in sorted((root / "train").rglob("*")):
        clip, suffix = path.relative_to(root).as_posix(), path.suffix.lower()
        if suffix in PACKED:
            print(f"fastpart train: {path} is packed, left out; unpack it", file=sys.stderr)
        if suffix not in VIDEO or not path.is_file():
            continue
        origin, licence = manifest.get(clip) or next(
            (COLLECTIONS[part] for part in clip.lower().split("/") if part in COLLECTIONS), UNKNOWN
        )
        if UNKNOWN[0] in (origin, licence):
            print(f"fastpart train: {path}: origin unknown; name it in {root / 'MANIFEST.tsv'}", file=sys.stderr)
        found.append(Source(clip, probe(path), origin, licence))
    if not found:
        raise FastpartError(f"{root / 'train'}: no clips in it, wanted videos ({' '.join(sorted(VIDEO))})")
    return found


def choose_cuts(sources: Sequence[Source], seed: int) -> list[Cut]:
    """Cuts of the sources, equal for an equal seed: pictures that do not overlap, sizes in turn, and of clips
    that have pictures left one whole cut for the steering.

    Clips too short or too small are left out, as stderr says. Raises FastpartError if all are.
    """
    chooser = random.Random(seed)
    cuts: list[Cut] = []
    for source in sources:
        facts = source.facts
        covers = [cover for cover in COVERS if cover[0] <= facts.width and cover[1] <= facts.height]
        slots = facts.frames // FRAMES
        if not slots or not covers:
            print(
                f"fastpart train: {source.clip}: {facts.frames} frames of {facts.width}x{facts.height}, "
                f"wanted {FRAMES} of {COVERS[0][0]}x{COVERS[0][1]} or more; left out", file=sys.stderr,
            )
            continue
        count = min(MOST_CUTS, max(1, facts.frames // FRAMES_PER_CUT), slots)
        starts = [FRAMES * slot for slot in chooser.sample(range(slots), min(slots, count + 1))]
        for start in sorted(starts[:count]):
            cuts.append(Cut(source, start, covers[len(cuts) % len(covers)], CROP, "training"))
        for start in starts[count:]:
            cuts.append(Cut(source, start, WHOLE, WHOLE, "steering"))
    if not cuts:
        raise FastpartError("no clip is long and large enough for a cut; name others")
    return cuts


def recipe_text(cuts: Sequence[Cut], qps: Sequence[int], seed: int) -> str:
    """A recipe (`fastpart.training.recipe`) on top of the default one's rounds and fit."""
    clips = len({cut.source.clip for cut in cuts})
    out = [
        f"# Cuts of {clips} clips, chosen by `fastpart train recipe` with seed {seed}; rounds and fit are those of the",
        "# default recipe.",
        'base = "default"',
        f"qps = {list(qps)}",
        "",
        "[cut_defaults]",
        f"frames = {FRAMES}",
    ]
    steering = [cut for cut in cuts if cut.role == "steering"]
    for cut in cuts:
        if cut.role == "training":
            out += ["", "[[cut]]", *_entry(cut)]
    if steering:
        out += ["", "[steering.defaults]"]
    for number, cut in enumerate(steering):
        for kappa in KAPPAS if number == 0 else KAPPAS[:1]:
            out += ["", "[[steering.cell]]", *_entry(cut), f"qp = {qps[number % len(qps)]}", f"kappa = {kappa}"]
    return "\n".join(out) + "\n"


def data_sheet(cuts: Sequence[Cut]) -> str:
    """TSV of the clips that the cuts are of: source, licence, and the frames used."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(["clip", "resolution", "fps", "bit_depth", "frames", "frames_used", "source", "licence"])
    for source in dict.fromkeys(cut.source for cut in cuts):
        starts = sorted(cut.start for cut in cuts if cut.source == source)
        facts = source.facts
        writer.writerow([
            source.clip, f"{facts.width}x{facts.height}", f"{float(facts.fps):.5g}", facts.bit_depth, facts.frames,
            " ".join(f"{start}-{start + FRAMES - 1}" for start in starts), source.origin, source.licence,
        ])
    return out.getvalue()


def _entry(cut: Cut) -> list[str]:
    return [
        f'name = "{cut.name}"', f'clip = "{cut.source.clip}"', f"start = {cut.start}",
        f"fps = {float(cut.source.facts.fps):.5g}", f"cover = {list(cut.cover)}", f"size = {list(cut.size)}",
    ]


def _manifest(path: Path) -> dict[str, tuple[str, str]]:
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                row["file"]: (row["source_repository"], row["licence"]) for row in csv.DictReader(file, delimiter="\t")
            }
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise FastpartError(
            f"{path}: cannot be read ({error!r}), wanted a TSV file with file, source_repository, licence"
        ) from error
