"""Where a variant loses or gains rate, by temporal layer, from the pictures of timing records.

At a point, the loss is what the rate grows by at equal PSNR: 100 (ln R/R0 - (Q - Q0) / S) percent, where R is the rate
of all pictures, Q the mean of their (6Y+U+V)/8 PSNRs, 0 marks the anchor, and S is the slope of the anchor's Q over
ln R at that QP. Rate and PSNR are sums over pictures, so each layer has its part.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastpart.errors import FastpartError
from fastpart.quality import weighted_psnr
from fastpart.timing.record import layer_name


@dataclass(frozen=True)
class LayerRow:
    """A layer of a variant, mean over all points that it has with the anchor.

    layer: as `layer_name` has it; None: all of them. rate_share: of the anchor's bits, percent. rate_change: of the
    layer's bits, percent of all bits of the anchor. psnr_change: of the layer's pictures, dB. loss: the layer's part,
    percent; those of all layers add up to that of None. points: how many the means are of.
    """

    variant: str
    layer: str | None
    rate_share: float
    rate_change: float
    psnr_change: float
    loss: float
    points: int


@dataclass(frozen=True)
class _Layer:
    bits: int
    psnr: float   # dB, sum over the pictures
    pictures: int


def layer_rows(records: Sequence[dict[str, Any]], anchor: str = "stock") -> list[LayerRow]:
    """By variant in the order of their names, its layers from the lowest on, then all of them.

    Repetitions are of the same bitstream: the first counts. Raises FastpartError without a variant on a cut of which
    the anchor has two QPs, and for encodes whose layers are not the anchor's.
    """
    layers: dict[tuple[str, str], dict[int, dict[str, _Layer]]] = defaultdict(dict)
    for record in records:
        pictures = record["encode"]["pictures"]
        layers[record["variant"], record["cut"]].setdefault(record["qp"], _by_layer(pictures))
    parts: dict[str, list[dict[str | None, tuple[float, ...]]]] = defaultdict(list)
    for (variant, cut), points in sorted(layers.items()):
        anchors = layers.get((anchor, cut), {})
        if variant == anchor or len(anchors) < 2:
            continue
        for qp, tested in sorted(points.items()):
            if qp not in anchors:
                continue
            found, wanted = _names(tested), _names(anchors[qp])
            if found != wanted:
                raise FastpartError(
                    f"{variant} on {cut} at QP {qp}: layers {found}, wanted those of {anchor}: {wanted}"
                )
            parts[variant].append(_parts(tested, anchors[qp], _slope(anchors, qp)))
    if not parts:
        raise FastpartError(f"anchor {anchor}: no cut with two QPs of it and another variant; run the plan to the end")
    rows = []
    for variant, points in parts.items():
        for name in _order(set.intersection(*map(set, points))):
            means = (math.fsum(column) / len(points) for column in zip(*(p[name] for p in points), strict=True))
            rows.append(LayerRow(variant, name, *means, len(points)))
    return rows


def to_markdown(rows: Sequence[LayerRow], anchor: str) -> str:
    """A table for reading."""
    lines = [
        f"Rate at equal (6Y+U+V)/8 PSNR against {anchor}, by the slope of its curve, and the part of each layer; "
        "means of points.",
        "",
        "| variant | layer | rate of the anchor | change of rate, of all | change of PSNR | loss |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.variant} | {row.layer or f'all, {row.points} points'} | {row.rate_share:.1f} % | "
            f"{row.rate_change:+.2f} % | {row.psnr_change:+.3f} dB | {row.loss:+.2f} % |"
        )
    return "\n".join(lines) + "\n"


def _by_layer(pictures: Sequence[dict[str, Any]]) -> dict[str, _Layer]:
    grouped = defaultdict(list)
    for picture in pictures:
        grouped[layer_name(picture["slice_type"], picture["tid"])].append(picture)
    return {
        name: _Layer(
            sum(p["bits"] for p in group), math.fsum(weighted_psnr(*p["psnr"]) for p in group), len(group)
        )
        for name, group in grouped.items()
    }


def _names(layers: dict[str, _Layer]) -> str:
    return ", ".join(f"{layers[name].pictures} of {name}" for name in _order(set(layers)))


def _order(names: set[str | None]) -> list[str | None]:
    return sorted(names, key=lambda name: (name is None, name or ""))


def _total(layers: dict[str, _Layer]) -> tuple[float, float]:
    """ln of all bits, mean PSNR in dB."""
    bits, pictures = (sum(getattr(layer, name) for layer in layers.values()) for name in ("bits", "pictures"))
    return math.log(bits), math.fsum(layer.psnr for layer in layers.values()) / pictures


def _slope(anchors: dict[int, dict[str, _Layer]], qp: int) -> float:
    """dB for a unit of ln rate, between the QPs next to this one."""
    qps = sorted(anchors)
    at = qps.index(qp)
    (low_rate, low_psnr), (high_rate, high_psnr) = (
        _total(anchors[qps[i]]) for i in (min(at + 1, len(qps) - 1), max(at - 1, 0))
    )
    return (high_psnr - low_psnr) / (high_rate - low_rate)


def _parts(
    tested: dict[str, _Layer], anchor: dict[str, _Layer], slope: float
) -> dict[str | None, tuple[float, ...]]:
    """rate_share, rate_change, psnr_change and loss, by layer."""
    bits = sum(layer.bits for layer in anchor.values())
    pictures = sum(layer.pictures for layer in anchor.values())
    (rate, psnr), (rate0, psnr0) = _total(tested), _total(anchor)
    growth = math.expm1(rate - rate0)
    logarithmic = (rate - rate0) / growth if growth else 1.0   # so that the parts of the rate add up to ln R/R0
    parts: dict[str | None, tuple[float, ...]] = {}
    for name, was in anchor.items():
        more, better = (tested[name].bits - was.bits) / bits, tested[name].psnr - was.psnr
        parts[name] = (
            100 * was.bits / bits,
            100 * more,
            better / was.pictures,
            100 * (logarithmic * more - better / pictures / slope),
        )
    parts[None] = (100.0, 100 * growth, psnr - psnr0, 100 * (rate - rate0 - (psnr - psnr0) / slope))
    return parts
