"""Segments at intra periods: where to split a sequence, how to join, and the proof that it is right.

A segment begins with an intra picture and ends with the next one, so each of those is coded twice:
as the CRA picture that ends a segment, and as the IDR picture that begins the following one, which
`parcat` drops. The encoder reads the whole file (FrameSkip), as its temporal filter looks beyond
the segment. The joined stream is that of the whole run as long as the encoder carries nothing over
an intra picture; whether that holds with given settings is found by trial, once for each encoder.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastpart.bitstream import nal_units
from fastpart.errors import FastpartError
from fastpart.media import Clip, frame_bytes

#: Side of the pictures of a trial, luma samples.
TRIAL_SIZE = 128


def split(frames: int, intra_period: int) -> list[tuple[int, int]]:
    """(start, frames) of each segment; one alone when there is no second intra picture."""
    starts = range(0, max(1, frames - 1), intra_period)
    return [(start, min(intra_period + 1, frames - start)) for start in starts]


def join(parcat: Path, parts: list[Path], out: Path) -> None:
    """Join bitstreams of segments. Raises FastpartError when parcat fails."""
    command = [str(parcat), *map(str, parts), str(out)]
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )
    except OSError as error:
        raise FastpartError(f"{parcat}: cannot be run ({error.strerror})") from error
    if done.returncode or not out.exists() or not out.stat().st_size:
        raise FastpartError(
            f"{parcat}: exit code {done.returncode}, wanted 0 and a stream: {done.stdout.strip()[-300:]}"
        )


def trial_clip(clip: Clip, intra_period: int, out: Path) -> Clip:
    """The middle of a clip's pictures, TRIAL_SIZE or less, over two intra periods, as a raw file."""
    frames = min(clip.frames, 2 * intra_period + 1)
    width, height = (min(TRIAL_SIZE, side // 8 * 8) for side in (clip.width, clip.height))
    left, top = ((clip.width - width) // 4 * 2, (clip.height - height) // 4 * 2)
    kind = np.uint8 if clip.bit_depth == 8 else np.dtype("<u2")
    luma = clip.width * clip.height
    with clip.path.open("rb") as source, out.open("wb") as file:
        source.seek(clip.start * clip.frame_bytes)
        for _ in range(frames):
            data = np.frombuffer(source.read(clip.frame_bytes), kind)
            for plane, (begin, end) in enumerate(
                ((0, luma), (luma, luma * 5 // 4), (luma * 5 // 4, luma * 3 // 2))
            ):
                half = 1 if plane == 0 else 2
                picture = data[begin:end].reshape(clip.height // half, clip.width // half)
                y, x = top // half, left // half
                file.write(picture[y : y + height // half, x : x + width // half].tobytes())
    if out.stat().st_size != frames * frame_bytes(width, height, clip.bit_depth):
        raise FastpartError(f"{clip.path}: ends early; is it complete?")
    return replace(clip, path=out, width=width, height=height, frames=frames, start=0)


def difference(whole: Path, joined: Path) -> str | None:
    """Where a joined stream first differs from the whole one; None if they are equal."""
    if whole.read_bytes() == joined.read_bytes():
        return None
    pairs = zip(nal_units(whole), nal_units(joined), strict=False)
    number, place = 0, "the end"
    for number, (first, second) in enumerate(pairs):
        if first != second:
            place = f"NAL unit {number} (type {first[1] >> 3}, {len(first)} bytes, wanted the same of "\
                    f"the joined one: type {second[1] >> 3}, {len(second)} bytes)"
            break
    return f"{whole.stat().st_size} and {joined.stat().st_size} bytes, first different in {place}"
