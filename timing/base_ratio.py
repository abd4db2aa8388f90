"""What configurations take of the anchor's time by themselves, without skips: the FastPartBaseRatio of a preset.

The engine's clock says of every encode what share of the time without skips it took (`estimated_ratio`) and how long
its inter pictures would have taken without (`microseconds_per_sample`). T over that share is what the configuration
takes by itself; over the logarithm of that time it is nearly a line.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpart.errors import FastpartError


@dataclass(frozen=True)
class Base:
    """A variant's encodes and the line through them.

    points: cut, QP, microseconds per luma sample, share of the anchor's time without skips. pairs: time and share at
    the two ends of the line. rms: of what the line leaves, in shares.
    """

    variant: str
    points: list[tuple[str, int, float, float]]
    pairs: tuple[tuple[float, float], tuple[float, float]]
    rms: float

    @property
    def option(self) -> str:
        """As FastPartBaseRatio takes it."""
        return ",".join(f"{time:.3g}:{share:.3f}" for time, share in self.pairs)


def base_ratios(records: Sequence[dict[str, Any]], anchor: str = "stock") -> list[Base]:
    """The base ratio of every variant of timing records (`fastpart.timing.record`) that was steered.

    Raises FastpartError when there is none, and for one with encodes of a single time.
    """
    anchor_s = {
        record["pairing"]["id"]: record["encode"]["times"]["user_s"]
        for record in records if record["variant"] == anchor
    }
    points = defaultdict(list)
    for record in records:
        counters, pairing = record["encode"].get("counters") or {}, record["pairing"]["id"]
        if pairing in anchor_s and "microseconds_per_sample" in counters:
            t = record["encode"]["times"]["user_s"] / anchor_s[pairing]
            points[record["variant"]].append((
                record["cut"], record["qp"], counters["microseconds_per_sample"], t / counters["estimated_ratio"],
            ))
    if not points:
        raise FastpartError(
            f"no record with the clock of the predictor and its anchor {anchor}, wanted variants with FastPart = 1"
        )
    return [_fit(variant, sorted(points[variant])) for variant in sorted(points)]


def _fit(variant: str, points: list[tuple[str, int, float, float]]) -> Base:
    x = np.log([time for *_, time, _ in points])
    y = np.array([share for *_, share in points])
    if np.ptp(x) == 0:
        raise FastpartError(f"{variant}: encodes of a single time per sample, wanted several cuts or QPs")
    slope, at_zero = np.polyfit(x, y, 1)
    ends = [(math.exp(end), float(at_zero + slope * end)) for end in (x.min(), x.max())]
    return Base(variant, points, (ends[0], ends[1]), float(np.sqrt(np.mean((at_zero + slope * x - y) ** 2))))


def to_markdown(bases: Sequence[Base]) -> str:
    """The option of each variant, and its points."""
    parts = []
    for base in bases:
        lines = [
            f"{base.variant}: FastPartBaseRatio {base.option}, within {base.rms:.3f} (rms)", "",
            "| cut | QP | microseconds per sample | share without skips |", "|---|---|---|---|",
            *(f"| {cut} | {qp} | {time:.2f} | {share:.3f} |" for cut, qp, time, share in base.points),
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
