"""Checks a packed submission as an organizer would, without trusting what it says of itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fastpart.bitstream import bitstream_bits
from fastpart.errors import FastpartError
from fastpart.media import Clip, parse_fps
from fastpart.record import sha256_file
from fastpart.timing.conformance import Decoders, check, compare
from fastpart.timing.edition import Edition
from fastpart.timing.report import check_verdict, figures, to_csv
from fastpart.timing.submission.layout import (
    DOCUMENTS,
    MANIFEST,
    SCHEMA,
    STREAMS,
    SUMS,
    TABLES,
    VERDICT,
    load_json,
    pictures_name,
    stream_name,
)


def problems_of(folder: Path, edition: Edition, decoders: Decoders) -> list[str]:
    """What is wrong with a submission, in sentences; empty if nothing is.

    Raises FastpartError when it is none at all.
    """
    manifest = load_json(folder / MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise FastpartError(
            f"{folder / MANIFEST}: schema {manifest.get('schema')!r}, wanted {SCHEMA!r}"
        )
    problems = _files(folder, manifest)
    try:
        verdict = load_json(folder / VERDICT)
        check_verdict(verdict, folder / VERDICT)
    except FastpartError as error:
        return [*problems, str(error)]
    problems += _tables(folder, verdict)
    by_sequence: dict[str, list[dict[str, Any]]] = {}
    for point in verdict["points"]:
        by_sequence.setdefault(point["sequence"], []).append(point)
    for sequence, points in by_sequence.items():
        if missing := sorted(set(edition.qps) - {point["qp"] for point in points}):
            problems.append(
                f"{sequence}: no points at QP {', '.join(map(str, missing))}, wanted those of "
                f"{edition.name}"
            )
        problems += _rates(folder, points, edition)
    with tempfile.TemporaryDirectory() as work:
        for point in verdict["points"]:
            problems += _pictures(folder, point, manifest, decoders, Path(work))
    return problems


def _files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Missing, changed and unlisted files."""
    listed = manifest.get("files", {})
    wanted = {*TABLES, VERDICT, *(f"{name}{end}" for name in DOCUMENTS for end in (".md", ".pdf"))}
    wanted |= {
        name(point["sequence"], point["qp"]) for point in manifest.get("points", ())
        for name in (stream_name, pictures_name)
    }
    problems = [f"{name}: not in the list of {MANIFEST}" for name in sorted(wanted - set(listed))]
    for name, about in sorted(listed.items()):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            problems.append(f"{name}: outside of the submission")
        elif not path.is_file():
            problems.append(f"{name}: missing")
        elif (found := sha256_file(path)) != about.get("sha256"):
            problems.append(f"{name}: SHA-256 {found}, wanted {about.get('sha256')}")
    sums = "".join(f"{about.get('sha256')}  {name}\n" for name, about in sorted(listed.items()))
    if not (folder / SUMS).is_file() or (folder / SUMS).read_text(encoding="utf-8") != sums:
        problems.append(f"{SUMS}: does not say what {MANIFEST} says")
    found_streams = {f"{STREAMS}/{path.name}" for path in (folder / STREAMS).glob("*")}
    problems += [f"{name}: not listed" for name in sorted(found_streams - set(listed))]
    return problems


def _tables(folder: Path, verdict: dict[str, Any]) -> list[str]:
    path = folder / "report.csv"
    if path.is_file() and path.read_text(encoding="utf-8") != to_csv(figures(verdict)):
        return [f"{path.name}: its figures are not those of {VERDICT}"]
    return []


def _rates(folder: Path, points: list[dict[str, Any]], edition: Edition) -> list[str]:
    """Rates of the streams themselves, outside of the window or not as told."""
    key = "kbps" if edition.rate.count_sei else "kbps_without_sei"
    anchor = {point["qp"]: point["anchor"][key] for point in points}
    windows = edition.rate.windows(anchor)
    problems = []
    for point in points:
        name = stream_name(point["sequence"], point["qp"])
        try:
            bits = bitstream_bits(folder / name)
        except FastpartError as error:
            problems.append(f"{name}: no bitstream: {error}")
            continue
        counted = bits["total"] - (0 if edition.rate.count_sei else bits["sei"])
        rate = counted * float(parse_fps(point["fps"]) / point["frames"] / 1000)
        low, high = windows[point["qp"]]
        if not low <= rate <= high:
            problems.append(
                f"{name}: {rate:.2f} kbps are {100 * rate / anchor[point['qp']]:.2f} % of the "
                f"anchor's, wanted {low:.2f} to {high:.2f} kbps"
            )
        told = (point["entry"] or {}).get(key)
        if told is None or abs(told - rate) > 1e-6 * rate:
            problems.append(f"{name}: {rate:.4f} kbps, but {VERDICT} says {told}")
    return problems


def _pictures(folder: Path, point, manifest, decoders: Decoders, work: Path) -> list[str]:
    """What the decoders say of a stream, and whether the pictures beside it are theirs."""
    name = stream_name(point["sequence"], point["qp"])
    if not (folder / name).is_file():
        return []
    decoded = Clip(work / "decoded.yuv", point["width"], point["height"], parse_fps(point["fps"]),
                   manifest["bit_depth"], point["frames"])
    found = check(folder / name, decoded, decoders, decoded.path, work / "decoder.log", recon=False)
    problems = [f"{name}: {text}" for text in found.problems]
    pictures = folder / pictures_name(point["sequence"], point["qp"])
    if pictures.is_file() and not problems:
        if difference := compare(pictures, decoded, "what the decoder gives"):
            problems.append(f"{pictures.relative_to(folder)}: {difference}")
    return problems
