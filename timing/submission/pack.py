"""Packs a submission out of the folder of `fastpart verify`."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from fastpart import __version__
from fastpart.doctor import DEFAULT_MODEL
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import Clip, parse_fps
from fastpart.modelfile import describe
from fastpart.record import sha256_file
from fastpart.timing.conformance import Decoders, check
from fastpart.timing.record import load_records, stem
from fastpart.timing.report import load_verdict, write_report
from fastpart.timing.submission.factsheet import factsheet, methodology, to_pdf
from fastpart.timing.submission.layout import (
    MANIFEST,
    SCHEMA,
    STREAMS,
    SUMS,
    TABLES,
    VERDICT,
    pictures_name,
    stream_name,
)

ENTRY = "entry"


def pack(folder: Path, out: Path, decoders: Decoders, bit_depth: int) -> dict[str, Any]:
    """Pack what `fastpart verify` left in folder into the new folder out; returns the manifest.

    Raises FastpartError when a stream is missing, is not the one measured or does not conform,
    and when out exists.
    """
    verdict = load_verdict(folder / VERDICT)
    if out.exists():
        raise FastpartError(f"{out}: exists already; choose another name")
    records = _entry_records(folder, verdict)
    model = _model(records)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=_parent(out)))
    try:
        (work / STREAMS).mkdir()
        for point, record in zip(verdict["points"], records, strict=True):
            _add_point(folder, work, point, record, decoders, bit_depth)
        for path in write_report(verdict, work).values():
            if path.name not in TABLES:
                path.unlink()
        shutil.copyfile(folder / VERDICT, work / VERDICT)
        created = datetime.fromisoformat(verdict["created"])
        for name, write in (("factsheet", factsheet), ("methodology", methodology)):
            text = write(verdict, records, model)
            (work / f"{name}.md").write_text(text, encoding="utf-8")
            (work / f"{name}.pdf").write_bytes(to_pdf(text, created))
        names = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())
        files = {
            name: {"bytes": (work / name).stat().st_size, "sha256": sha256_file(work / name)}
            for name in names
        }
        sums = "".join(f"{about['sha256']}  {name}\n" for name, about in files.items())
        (work / SUMS).write_text(sums, encoding="utf-8")
        manifest = {
            "schema": SCHEMA, "fastpart": __version__, "created": verdict["created"],
            "edition": verdict["edition"]["name"], "entry": verdict["entry"]["label"],
            "bit_depth": bit_depth,
            "points": [{"sequence": p["sequence"], "qp": p["qp"]} for p in verdict["points"]],
            "files": files,
        }
        write_json_atomic(work / MANIFEST, manifest)
        work.chmod(0o755)
        work.replace(out)
    except OSError as error:
        raise FastpartError(f"{out}: cannot be written ({error.strerror}); make room") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _parent(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FastpartError(f"{out}: cannot be written ({error.strerror})") from error
    return out.parent


def _entry_records(folder: Path, verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """The first record of the entry at each point."""
    records = {path.stem: record for path, record in load_records(folder).items()}
    found = []
    for point in verdict["points"]:
        name = stem(point["sequence"], point["qp"], ENTRY, 0)
        if name not in records or point["entry"] is None:
            raise FastpartError(
                f"{folder / name}.json: no record of an encode, wanted one of each point of "
                f"{folder / VERDICT}; run fastpart verify with the entry as a program"
            )
        found.append(records[name])
    return found


def _model(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The model that the entry ran with: the one named, or the package's if it has the checksum."""
    encode = records[0]["encode"]
    named = encode.get("model")
    path = Path(named["path"]) if named else DEFAULT_MODEL
    if not encode.get("model_checksum") or not path.is_file():
        return None
    model = describe(path)
    same = model["checksum"].lstrip("0") == encode["model_checksum"].lstrip("0")
    return model if same else None


def _add_point(folder: Path, work: Path, point, record, decoders: Decoders, bit_depth: int) -> None:
    source = folder / f"{stem(point['sequence'], point['qp'], ENTRY, 0)}.266"
    wanted = record["encode"]["bitstream"]["sha256"]
    if not source.is_file() or sha256_file(source) != wanted:
        raise FastpartError(
            f"{source}: not the stream that was measured (SHA-256 {wanted}); run fastpart verify again"
        )
    stream = work / stream_name(point["sequence"], point["qp"])
    shutil.copyfile(source, stream)
    pictures = Clip(
        work / pictures_name(point["sequence"], point["qp"]), point["width"], point["height"],
        parse_fps(point["fps"]), bit_depth, point["frames"],
    )
    found = check(stream, pictures, decoders, pictures.path, work / "decoder.log", recon=False)
    (work / "decoder.log").unlink(missing_ok=True)
    if not found.conforms:
        raise FastpartError(f"{source}: does not conform: {'; '.join(found.problems)}")
