"""Measures of a result: PSNR of a reconstruction, bits of a bitstream, BD-rate of two curves."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fastpart.errors import FastpartError
from fastpart.media import Clip

#: What VTM reports for a plane without any difference, dB.
LOSSLESS_PSNR = 999.99

#: nal_unit_type of prefix and suffix SEI (H.266 Table 5).
SEI_TYPES = (23, 24)


@dataclass(frozen=True)
class Psnr:
    """PSNR of a sequence. pictures: float64 array of shape (frames, 3), dB, columns Y, U, V."""

    pictures: np.ndarray

    @property
    def planes(self) -> tuple[float, float, float]:
        """Averages over the pictures of Y, U and V, dB."""
        y, u, v = self.pictures.mean(axis=0)
        return float(y), float(u), float(v)

    @property
    def psnr_611(self) -> float:
        """(6Y + U + V) / 8 of the averages, dB."""
        y, u, v = self.planes
        return (6 * y + u + v) / 8


def psnr(source: Clip, recon: Clip) -> Psnr:
    """PSNR of each picture and plane of recon against source, frame by frame.

    Both must have the same size and number of frames. At different bit depths the lower
    one is shifted up. As VTM does (EncGOP::xCalculateAddPSNR), the peak is 255 << (depth - 8)
    at the depth of comparison, and a plane without difference counts LOSSLESS_PSNR.
    Raises FastpartError when the clips do not match or a file is too short.
    """
    for what in ("width", "height", "frames"):
        found, wanted = getattr(recon, what), getattr(source, what)
        if found != wanted:
            raise FastpartError(
                f"{recon.path}: {what} {found}, wanted {wanted} as in {source.path}; "
                "compare a reconstruction with the clip that it was coded from"
            )
    depth = max(source.bit_depth, recon.bit_depth)
    peak = 255 << (depth - 8)
    luma = source.width * source.height
    bounds = (0, luma, luma + luma // 4, luma + luma // 2)
    pictures = np.empty((source.frames, 3))
    with open(source.path, "rb") as first, open(recon.path, "rb") as second:
        first.seek(source.start * source.frame_bytes)
        second.seek(recon.start * recon.frame_bytes)
        for index in range(source.frames):
            difference = _read_frame(first, source, depth)
            difference -= _read_frame(second, recon, depth)
            for plane, (begin, end) in enumerate(pairwise(bounds)):
                squares = difference[begin:end]
                error = int(np.einsum("i,i->", squares, squares, dtype=np.int64))
                pictures[index, plane] = (
                    10 * math.log10(peak * peak * (end - begin) / error) if error else LOSSLESS_PSNR
                )
    return Psnr(pictures)


def bitstream_bits(path: str | os.PathLike) -> dict[str, int]:
    """Bits of a byte stream file, `total`, and those of its SEI NAL units, `sei`.

    Walks the byte stream format (H.266 Annex B). A NAL unit counts with its start code,
    the zero byte before that, and the zero bytes that trail it, so that total - sei is
    what the same encode would have written without SEI messages.
    Raises FastpartError when the file is no such stream.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            starts = _nal_starts(data)
            if not starts or data[: starts[0][0]].strip(b"\0"):
                raise FastpartError(f"{path}: no start code at its beginning, wanted an H.266 stream")
            ends = [begin for begin, _ in starts[1:]] + [len(data)]
            sei = sum(
                end - begin
                for (begin, header), end in zip(starts, ends)
                if header + 1 < len(data) and data[header + 1] >> 3 in SEI_TYPES
            )
            return {"total": 8 * len(data), "sei": 8 * sei}
    except (OSError, ValueError) as error:
        raise FastpartError(f"{path}: cannot be read as a bitstream: {error}") from error


def bd_rate(anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]) -> float:
    """Bjontegaard delta rate of test against anchor, percent; negative when test needs less.

    Each curve is at least four points (rate, PSNR in dB), in any order; piecewise cubic
    (pchip) interpolation of log rate over PSNR. Source: ITU-T HSTP-VID-WPOM / JVET-H0030.
    Raises FastpartError without the `bjontegaard` package or with too few points.
    """
    try:
        import bjontegaard
    except ModuleNotFoundError as error:
        raise FastpartError(
            "bjontegaard: package not found, wanted for BD-rate; pip install 'fastpart[report]'"
        ) from error
    for name, curve in (("anchor", anchor), ("test", test)):
        if len(curve) < 4:
            raise FastpartError(f"BD-rate: {len(curve)} points on the {name} curve, wanted at least 4")
    anchor_points, test_points = (sorted(curve, key=lambda p: p[1]) for curve in (anchor, test))
    return float(
        bjontegaard.bd_rate(
            [rate for rate, _ in anchor_points],
            [quality for _, quality in anchor_points],
            [rate for rate, _ in test_points],
            [quality for _, quality in test_points],
            method="pchip",
        )
    )


def _read_frame(file, clip: Clip, depth: int) -> np.ndarray:
    """The samples of one frame, int32, scaled up to `depth` bits."""
    data = file.read(clip.frame_bytes)
    if len(data) != clip.frame_bytes:
        raise FastpartError(
            f"{clip.path}: ends inside a frame of {clip.width}x{clip.height} at {clip.bit_depth} "
            f"bits, wanted {clip.frames} frames from {clip.start} on; was it written completely?"
        )
    samples = np.frombuffer(data, np.uint8 if clip.bit_depth == 8 else np.dtype("<u2"))
    return samples.astype(np.int32) << (depth - clip.bit_depth)


def _nal_starts(data) -> list[tuple[int, int]]:
    """(first byte counted to the NAL unit, first byte of its header) of each NAL unit."""
    starts = []
    at = data.find(b"\0\0\1")
    while at >= 0:
        zero_byte = at > 0 and data[at - 1] == 0
        starts.append((at - zero_byte, at + 3))
        at = data.find(b"\0\0\1", at + 3)
    return starts
