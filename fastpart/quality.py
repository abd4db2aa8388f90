"""Measures of a result: PSNR and VMAF of pictures, BD-rate of curves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fastpart.errors import FastpartError
from fastpart.media import Clip, ffmpeg_exe

#: What VTM reports for a plane without any difference, dB.
LOSSLESS_PSNR = 999.99

#: Samples compared at a time: their differences stay in the second-level cache.
_BLOCK = 1 << 15

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
        return weighted_psnr(*self.planes)


def weighted_psnr(y: float, u: float, v: float) -> float:
    """(6Y + U + V) / 8 of three PSNRs, dB: the measure of the challenge."""
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
        wanted, found = bytearray(source.frame_bytes), bytearray(recon.frame_bytes)
        for index in range(source.frames):
            samples = _read_frame(first, source, wanted), _read_frame(second, recon, found)
            shifts = depth - source.bit_depth, depth - recon.bit_depth
            for plane, (begin, end) in enumerate(pairwise(bounds)):
                error = _squared_error(*(one[begin:end] for one in samples), *shifts)
                pictures[index, plane] = (
                    10 * math.log10(peak * peak * (end - begin) / error) if error else LOSSLESS_PSNR
                )
    return Psnr(pictures)


def vmaf(source: Clip, recon: Clip, log: str | os.PathLike) -> float:
    """VMAF of recon against source, mean over the pictures, by the bundled ffmpeg's libvmaf.

    The default model of libvmaf, at the higher of the two bit depths. log: file for its JSON.
    Raises FastpartError when that ffmpeg has no libvmaf or it fails.
    """
    form = "yuv420p10le" if max(source.bit_depth, recon.bit_depth) > 8 else "yuv420p"
    command = [ffmpeg_exe(), "-nostdin", "-v", "error"]
    for clip in (recon, source):
        own = "yuv420p" if clip.bit_depth == 8 else "yuv420p10le"
        command += ["-f", "rawvideo", "-pix_fmt", own, "-s", f"{clip.width}x{clip.height}",
                    "-r", str(clip.fps), "-i", str(clip.path)]
    trims = (f"[{index}:v]trim=start_frame={clip.start}:end_frame={clip.start + clip.frames},"
             f"setpts=N,format={form}[{name}]"
             for index, (name, clip) in enumerate({"d": recon, "r": source}.items()))
    log = Path(log)
    command += ["-lavfi", ";".join(trims) + f";[d][r]libvmaf=log_fmt=json:log_path={log.name}",
                "-f", "null", "-"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", cwd=log.parent
    )
    try:
        return float(json.loads(log.read_text())["pooled_metrics"]["vmaf"]["mean"])
    except (OSError, ValueError, KeyError) as error:
        raise FastpartError(
            f"{command[0]}: gives no VMAF of {recon.path}; leave out --vmaf, or name an ffmpeg "
            f"with libvmaf in $IMAGEIO_FFMPEG_EXE\n{done.stderr.strip()[-500:]}"
        ) from error


def bd_rate(
    anchor: Sequence[tuple[float, float]],
    test: Sequence[tuple[float, float]],
    method: str = "pchip",
) -> float:
    """Bjontegaard delta rate of test against anchor, percent; negative when test needs less.

    Each curve is at least four points (rate, PSNR in dB), in any order; piecewise cubic
    (`pchip`, the official one, or `akima`) interpolation of log rate over PSNR.
    Source: ITU-T HSTP-VID-WPOM / JVET-H0030.
    Raises FastpartError without the `bjontegaard` package, with too few points, or with two
    points of the same PSNR.
    """
    try:
        import bjontegaard
    except ModuleNotFoundError as error:
        raise FastpartError(
            "bjontegaard: package not found, wanted for BD-rate; pip install 'fastpart[report]'"
        ) from error
    for name, curve in (("anchor", anchor), ("test", test)):
        if len(curve) < 4:
            raise FastpartError(
                f"BD-rate: {len(curve)} points on the {name} curve, wanted at least 4"
            )
        if len({quality for _, quality in curve}) < len(curve):
            raise FastpartError(f"BD-rate: equal PSNR twice on the {name} curve, wanted distinct")
    anchor_points, test_points = (sorted(curve, key=lambda p: p[1]) for curve in (anchor, test))
    if overlap(anchor, test) <= 0:
        raise FastpartError("BD-rate: the curves have no PSNR in common, wanted overlapping ones")
    with warnings.catch_warnings():
        # The overlap is told by `curve_notes`.
        warnings.simplefilter("ignore")
        return float(
            bjontegaard.bd_rate(
                [rate for rate, _ in anchor_points],
                [quality for _, quality in anchor_points],
                [rate for rate, _ in test_points],
                [quality for _, quality in test_points],
                method=method,
                require_matching_points=False,
            )
        )


#: Curves that share less of their PSNR ranges make an uncertain BD-rate.
WANTED_OVERLAP = 0.75


def overlap(anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]) -> float:
    """The PSNR range that two curves share, as a part of the range of both together."""
    lows, highs = zip(
        *((min(q for _, q in curve), max(q for _, q in curve)) for curve in (anchor, test)), strict=True
    )
    return (min(highs) - max(lows)) / (max(highs) - min(lows)) if max(highs) > min(lows) else 1.0


def curve_notes(
    anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]
) -> list[str]:
    """What makes a BD-rate of two curves (rate, PSNR) uncertain."""
    notes = []
    for name, curve in (("anchor", anchor), ("entry", test)):
        by_rate = sorted(curve)
        if any(first[1] >= second[1] for first, second in pairwise(by_rate)):
            notes.append(f"the {name}'s curve is not monotonic: more rate, less PSNR somewhere")
    share = overlap(anchor, test)
    if share < WANTED_OVERLAP:
        notes.append(
            f"the curves share {max(0.0, share):.0%} of their PSNR range, wanted "
            f"{WANTED_OVERLAP:.0%} or more for a BD-rate to rely on"
        )
    return notes


def _read_frame(file, clip: Clip, buffer: bytearray) -> np.ndarray:
    """The samples of the next frame, as they are in the file; they live in buffer."""
    if file.readinto(buffer) != clip.frame_bytes:
        raise FastpartError(
            f"{clip.path}: ends inside a frame of {clip.width}x{clip.height} at {clip.bit_depth} "
            f"bits, wanted {clip.frames} frames from {clip.start} on; was it written completely?"
        )
    return np.frombuffer(buffer, np.uint8 if clip.bit_depth == 8 else np.dtype("<i2"))


def _squared_error(first: np.ndarray, second: np.ndarray, shift: int, second_shift: int) -> int:
    """Sum of squared differences of samples shifted up, exact."""
    total = 0
    for begin in range(0, first.size, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        difference = first[block].astype(np.int16) << shift
        difference -= second[block].astype(np.int16) << second_shift
        # A float64 holds every partial sum exactly, and its dot product is the fast one.
        values = difference.astype(np.float64)
        total += int(values @ values)
    return total
