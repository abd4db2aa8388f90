"""Editions of the challenge: the rules of one year and track as data, and the rate rules' code.

A TOML file an edition; those of this package are in `timing/editions`. Keys:

title           for people
codec           "vvc", or "any": bitstreams that only the entry's own decoder reads; their rate is
                the size of the file, their pictures come with the submission
qps             base QPs of the points
bit_depth       of the coded pictures (optional; default 10)
psnr_weights    of Y, U and V in the combined PSNR (optional; default [6, 1, 1])
note            sentence that the verdict repeats (optional)
[anchor]        backend: "vtm-stock", "vtm-patched" or "vvenc"; version: of VTM;
                further keys are options of the back end
[entry]         the same for the entry that is taken when none is named (optional; default: the
                patched encoder)
[time]          limit: largest time of the entry, as a ratio to the anchor's, at each point;
                single_thread: a second thread fails (both optional; without the limit, times are
                told and not judged)
[rate]          rule, low, high: see `RATE_RULES`, percent; count_sei: whether SEI messages count
                (optional; default false, as picture hashes are there for the check only)
[conformance]   decoders: "vtm" (stock DecoderApp of the anchor's version) and "ffmpeg" (its
                native decoder), both or one; none for codec "any"; intra_period: whether the
                entry's may not be larger than the anchor's
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError
from fastpart.vtm import VERSION

#: Editions that come with the package, named without their suffix.
EDITIONS_FOLDER = Path(__file__).with_name("editions")

DEFAULT_EDITION = "iscas2026-encoder"

#: What a rate rule compares; low and high are percent.
RATE_RULES = {
    "each": "each rate within [low, high] of the anchor's at the same QP",
    "span": "each rate within [low of the anchor's lowest rate, high of its highest]",
    "ends": "lowest and highest rate each within [low, high] of the anchor's lowest and highest",
}

_BACKENDS = ("vtm-stock", "vtm-patched", "vvenc")
_KEYS = {
    "title": str, "codec": str, "qps": list, "bit_depth": int, "psnr_weights": list, "note": str,
    "anchor": dict, "entry": dict, "time": dict, "rate": dict, "conformance": dict,
}
_NEEDED = {"title", "codec", "qps", "anchor", "rate", "conformance"}


@dataclass(frozen=True)
class RateRule:
    """rule: a key of RATE_RULES. low, high: percent. count_sei: SEI messages count."""

    rule: str
    low: float
    high: float
    count_sei: bool = False

    def windows(self, anchor: Mapping[int, float]) -> dict[int, tuple[float, float]]:
        """The rates allowed at each QP, for the anchor's rates by QP, in their unit.

        A point that the rule does not look at may have any rate.
        """
        low, high = self.low / 100, self.high / 100
        lowest, highest = min(anchor.values()), max(anchor.values())
        if self.rule == "each":
            return {qp: (low * rate, high * rate) for qp, rate in anchor.items()}
        if self.rule == "span":
            return dict.fromkeys(anchor, (low * lowest, high * highest))
        windows = dict.fromkeys(anchor, (0.0, float("inf")))
        for qp in (max(anchor), min(anchor)):
            windows[qp] = low * anchor[qp], high * anchor[qp]
        return windows


@dataclass(frozen=True)
class Edition:
    """One year and track; the fields are the keys of the file. source: name or path."""

    name: str
    source: str
    title: str
    codec: str
    qps: tuple[int, ...]
    rate: RateRule
    anchor: dict[str, Any]
    entry: dict[str, Any]
    decoders: tuple[str, ...]
    time_limit: float | None = None
    single_thread: bool = False
    limit_intra_period: bool = False
    bit_depth: int = 10
    psnr_weights: tuple[float, float, float] = (6, 1, 1)
    note: str | None = None
    data: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def vtm_version(self) -> str:
        """Version of VTM whose binaries the edition asks for."""
        return self.anchor.get("version", VERSION)

    def weighted(self, planes: Sequence[float]) -> float:
        """The combined PSNR of (Y, U, V), dB."""
        weights = self.psnr_weights
        return sum(w * psnr for w, psnr in zip(weights, planes, strict=True)) / sum(weights)


def edition_names() -> list[str]:
    """Names of the editions of this package."""
    return sorted(path.stem for path in EDITIONS_FOLDER.glob("*.toml"))


def load_edition(source: str | Path) -> Edition:
    """An edition of this package by name, or one from the path of a TOML file.

    Raises FastpartError naming the key that is missing, unknown or wrong.
    """
    path = EDITIONS_FOLDER / f"{source}.toml"
    if not path.is_file():
        path = Path(source)
    if not path.is_file():
        raise FastpartError(
            f"edition {source}: neither of this package nor a file, wanted one of "
            f"{', '.join(edition_names())}, or the path of a .toml file"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FastpartError(f"{path}: cannot be read as TOML: {error}") from error

    def wrong(what: str, wanted: str) -> FastpartError:
        return FastpartError(f"{path}: {what}, wanted {wanted}; see fastpart.timing.edition")

    if missing := sorted(_NEEDED - set(data)):
        raise wrong(f"lacks {', '.join(missing)}", "them")
    for key, value in data.items():
        if key not in _KEYS:
            raise wrong(f"has {key}", f"only {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise wrong(f"{key} = {value!r}", f"a {_KEYS[key].__name__}")
    if data["codec"] not in ("vvc", "any"):
        raise wrong(f"codec = {data['codec']!r}", '"vvc" or "any"')
    qps = data["qps"]
    if not qps or len(set(qps)) < len(qps) or not all(type(q) is int and 0 <= q <= 63 for q in qps):
        raise wrong(f"qps = {qps!r}", "distinct QPs from 0 to 63")
    weights = data.get("psnr_weights", [6, 1, 1])
    numbers = all(type(w) in (int, float) and w >= 0 for w in weights)
    if len(weights) != 3 or not numbers or not sum(weights):
        raise wrong(f"psnr_weights = {weights!r}", "three numbers")
    for side in ("anchor", "entry"):
        if side in data and data[side].get("backend") not in _BACKENDS:
            raise wrong(f"[{side}] backend = {data[side].get('backend')!r}",
                        f"one of {', '.join(_BACKENDS)}")
    tables = {
        "time": {"limit", "single_thread"},
        "rate": {"rule", "low", "high", "count_sei"},
        "conformance": {"decoders", "intra_period"},
    }
    for table, known in tables.items():
        if unknown := sorted(set(data.get(table, {})) - known):
            raise wrong(f"[{table}] has {', '.join(unknown)}", f"only {', '.join(sorted(known))}")
    rate = data["rate"]
    if rate.get("rule") not in RATE_RULES:
        raise wrong(f"[rate] rule = {rate.get('rule')!r}", f"one of {', '.join(RATE_RULES)}")
    numbers = all(type(rate.get(key)) in (int, float) for key in ("low", "high"))
    if not numbers or rate["low"] > rate["high"]:
        raise wrong(f"[rate] low = {rate.get('low')!r}, high = {rate.get('high')!r}", "percent")
    decoders = data["conformance"].get("decoders", [])
    if not isinstance(decoders, list) or set(decoders) - {"vtm", "ffmpeg"}:
        raise wrong(f"[conformance] decoders = {decoders!r}", 'some of "vtm", "ffmpeg"')
    if bool(decoders) != (data["codec"] == "vvc"):
        raise wrong(f"codec {data['codec']!r} with decoders {decoders!r}",
                    'decoders for "vvc" and none for "any"')
    time = data.get("time", {})
    limit = time.get("limit")
    if limit is not None and not (type(limit) in (int, float) and limit > 0):
        raise wrong(f"[time] limit = {limit!r}", "a positive ratio")
    return Edition(
        name=path.stem,
        source=str(source),
        title=data["title"],
        codec=data["codec"],
        qps=tuple(qps),
        rate=RateRule(rate["rule"], rate["low"], rate["high"], bool(rate.get("count_sei", False))),
        anchor=data["anchor"],
        entry=data.get("entry", {"backend": "vtm-patched"}),
        decoders=tuple(decoders),
        time_limit=limit,
        single_thread=bool(time.get("single_thread", False)),
        limit_intra_period=bool(data["conformance"].get("intra_period", False)),
        bit_depth=data.get("bit_depth", 10),
        psnr_weights=tuple(weights),
        note=data.get("note"),
        data=data,
    )
