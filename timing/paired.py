"""Runs a plan: all variants of a point one after the other on one core, a record for each."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastpart.encode import DEFAULT_CFG
from fastpart.errors import FastpartError
from fastpart.media import Clip, load_cuts, make_cut, parse_fps
from fastpart.quality import psnr
from fastpart.record import encode_record, sha256_file, write_json_atomic
from fastpart.timing.conformance import Conformance, Decoders, check
from fastpart.timing.plan import Plan, Variant
from fastpart.timing.record import SCHEMA, load_records, stem
from fastpart.vtm import (
    RECON_BIT_DEPTH,
    VtmHome,
    binary_info,
    encode_command,
    intra_period_for,
    run_encoder,
)


@dataclass(frozen=True)
class _Encoder:
    """A variant ready to run: copies of its binary and model, so that a build or a fit in the
    meantime cannot mix into the series."""

    variant: Variant
    original: Path
    binary: Path
    binary_sha256: str
    model: Path | None
    model_sha256: str | None

    @property
    def options(self) -> dict[str, Any]:
        """VTM options but for the model's path."""
        kappa, target = self.variant.kappa, self.variant.target_ratio
        speed = {} if target is None else {"FastPartTargetRatio": target}
        if kappa is not None:
            speed = {"FastPartTargetRatio": 0, "FastPartKappa": kappa}
        return {"SEIDecodedPictureHash": 1, **self.variant.options, **speed}


@dataclass(frozen=True)
class _Point:
    """One cut at one QP. clip: the raw cut."""

    cut: dict
    clip: Clip
    clip_sha256: str
    intra_period: int
    qp: int

    @property
    def name(self) -> str:
        return f"{self.cut['name']} QP {self.qp}"


@dataclass(frozen=True)
class _Series:
    """Variants of a point to run back to back: name and files' stem of each, in order."""

    rep: int
    runs: list[tuple[str, str]]
    resumed: bool


def run_plan(
    plan: Plan,
    clips_root: Path,
    cuts_file: Path,
    out: Path,
    home: VtmHome,
    cores: Sequence[int],
    repetitions: int = 1,
    only: Sequence[str] | None = None,
) -> dict[Path, dict[str, Any]]:
    """Measure what the plan asks for and has no valid record yet; returns the folder's records.

    For each point (cut, QP) and repetition the variants, the anchor among them, run one after
    the other on one core, in reverse on odd repetitions; one point is at work on each of
    `cores`. Conformance is checked after each encode on the same core. A record is valid as
    long as its identity is unchanged and its anchor is there; missing variants run again
    together with the anchor. only: names of variants, the anchor is added.
    Raises FastpartError for a plan that cannot run and for an encode that fails; records
    written so far stay. A bitstream that does not conform is recorded, not raised.
    """
    plan = plan.restricted(variants=only)
    _check_cores(cores)
    decoders = Decoders.find(home)
    cfg = home.cfg(DEFAULT_CFG)
    cuts = load_cuts(cuts_file)
    if unknown := [name for name in plan.cuts if name not in cuts]:
        raise FastpartError(
            f"{plan.path}: no cut {', '.join(unknown)} in {cuts_file}, "
            f"wanted some of {', '.join(cuts)}"
        )
    with _session_folder(out) as session:
        encoders = _copy_encoders(plan, home, session)
        points = _cut_points(plan, cuts, clips_root, session)
        runner = _Runner(plan, clips_root, out, cfg, sha256_file(cfg), decoders, encoders, session)
        runner.run(points, cores, repetitions)
    return load_records(out)


def _check_cores(cores: Sequence[int]) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if not cores or len(set(cores)) != len(cores) or not set(cores) <= set(allowed):
        raise FastpartError(
            f"cores {', '.join(map(str, cores)) or 'none'}: wanted distinct ones of "
            f"{', '.join(map(str, allowed))}"
        )


@contextlib.contextmanager
def _session_folder(out: Path) -> Iterator[Path]:
    """A temporary folder in out, which no other run may use meanwhile."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise FastpartError(
            f"{out}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FastpartError(
                f"{out}: another fastpart timing run is at work there; "
                "wait, or choose another folder"
            ) from error
        for left in out.glob(".session-*"):
            shutil.rmtree(left, ignore_errors=True)
        session = Path(tempfile.mkdtemp(prefix=".session-", dir=out))
        try:
            yield session
        finally:
            shutil.rmtree(session, ignore_errors=True)


def _copy_encoders(plan: Plan, home: VtmHome, session: Path) -> dict[str, _Encoder]:
    binaries: dict[str, tuple[Path, Path, str]] = {}
    for kind in {variant.binary for variant in plan.variants.values()}:
        original = home.encoder(kind)
        copy = session / kind / original.name
        copy.parent.mkdir()
        shutil.copy2(original, copy)
        if kind == "patched" and not binary_info(copy).has_fastpart:
            raise FastpartError(
                f"{original}: does not know --FastPart, wanted a build of the patched tree; run "
                "fastpart patch apply on the VTM tree and build it again"
            )
        binaries[kind] = original, copy, sha256_file(copy)
    encoders = {}
    for name, variant in plan.variants.items():
        model = None
        if variant.model:
            model = session / f"{name}.model"
            shutil.copy2(variant.model, model)
        encoders[name] = _Encoder(
            variant, *binaries[variant.binary], model, sha256_file(model) if model else None
        )
    return encoders


def _cut_points(plan: Plan, cuts: dict[str, dict], clips_root: Path, session: Path) -> list[_Point]:
    points = []
    for name in plan.cuts:
        cut = cuts[name]
        clip = make_cut(cut, clips_root, session / f"{name}.yuv")
        own = cut.get("intra_period") or intra_period_for(parse_fps(cut["fps"]))
        sha256 = sha256_file(clip.path)
        points += [_Point(cut, clip, sha256, plan.intra_period or own, qp) for qp in plan.qps]
    return points


@dataclass(frozen=True)
class _Runner:
    """Everything that the encodes of one run share."""

    plan: Plan
    clips_root: Path
    out: Path
    cfg: Path
    cfg_sha256: str
    decoders: Decoders
    encoders: dict[str, _Encoder]
    session: Path

    def run(self, points: list[_Point], cores: Sequence[int], repetitions: int) -> None:
        records = load_records(self.out)
        todo: queue.SimpleQueue[tuple[_Point, list[_Series]]] = queue.SimpleQueue()
        total = 0
        for point in points:
            planned = [self._series(point, rep, records) for rep in range(repetitions)]
            if series := [one for one in planned if one.runs]:
                todo.put((point, series))
                total += sum(len(one.runs) for one in series)
        asked = len(points) * repetitions * len(self.plan.variants)
        _say(f"{total} encodes to run for {asked} results; cores {', '.join(map(str, cores))}")
        progress = _Progress(total)
        failures: list[BaseException] = []

        def work(core: int) -> None:
            # This thread and so its children: measuring and checking never leave the core.
            os.sched_setaffinity(0, {core})
            try:
                while not failures:
                    point, planned = todo.get_nowait()
                    for series in planned:
                        self._run_series(point, series, core, progress, failures)
            except queue.Empty:
                return
            except Exception as error:  # noqa: BLE001 (raised again when all threads have ended)
                failures.append(error)

        # Daemons: an interrupt ends the process at once, and the encoders end with it.
        threads = [threading.Thread(target=work, args=(core,), daemon=True) for core in cores]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as interrupt:
            failures.append(interrupt)
            raise
        if failures:
            raise failures[0]

    def _identity(self, point: _Point, name: str) -> dict[str, Any]:
        encoder = self.encoders[name]
        return {
            "encoder": encoder.binary_sha256,
            "model": encoder.model_sha256,
            "cfg": self.cfg_sha256,
            "clip": point.clip_sha256,
            "intra_period": point.intra_period,
            "options": encoder.options,
        }

    def _series(self, point: _Point, rep: int, records: dict[Path, dict]) -> _Series:
        """What is missing of a repetition of a point, with the anchor to compare it with."""
        anchor = self.plan.anchor
        here = {
            path: record
            for path, record in records.items()
            if (record["cut"], record["qp"], record["rep"]) == (point.cut["name"], point.qp, rep)
        }
        valid = [
            record
            for record in here.values()
            if record["variant"] in self.encoders
            and record["identity"] == self._identity(point, record["variant"])
        ]
        anchored = {r["pairing"]["id"] for r in valid if r["variant"] == anchor}
        done = {r["variant"] for r in valid if r["pairing"]["id"] in anchored}
        missing = [name for name in self.plan.variants if name not in done]
        if not missing:
            return _Series(rep, [], False)
        # A first record of the anchor stays while variants that do not run now relate to it.
        serving = {
            r["pairing"]["id"] for r in here.values() if r["variant"] not in (anchor, *missing)
        }
        occupied = {
            path.stem
            for path, r in here.items()
            if r["variant"] == anchor and r["pairing"]["id"] in serving
        }
        number = 1
        while stem(point.cut["name"], point.qp, anchor, rep, number) in occupied:
            number += 1
        runs = [
            (name, stem(point.cut["name"], point.qp, name, rep, number if name == anchor else 1))
            for name in self.plan.variants
            if name in missing or name == anchor
        ]
        return _Series(rep, runs[::-1] if rep % 2 else runs, bool(valid))

    def _run_series(self, point, series, core, progress, failures) -> None:
        pairing = {"id": uuid.uuid4().hex, "order": [name for name, _ in series.runs]}
        seconds: dict[str, float] = {}
        for position, (name, file_stem) in enumerate(series.runs):
            if failures:
                return
            record = self._measure(
                point, name, series.rep, file_stem, core,
                {**pairing, "position": position, "resumed": series.resumed},
            )
            seconds[name] = record["encode"]["times"]["user_s"]
            progress.encoded(point, record)
        anchor = seconds[self.plan.anchor]
        ratios = [f"{name} {user_s / anchor:.3f}" for name, user_s in seconds.items()
                  if name != self.plan.anchor and anchor > 0]
        if ratios:
            _say(f"{point.name} r{series.rep}: T against {self.plan.anchor}: {', '.join(ratios)}")

    def _measure(self, point, name, rep, file_stem, core, pairing) -> dict[str, Any]:
        """One encode, its conformance and its record; the record's file appears last."""
        encoder = self.encoders[name]
        bitstream, recon_path, decoded_path, log, decoder_log = (
            self.session / f"{file_stem}{end}"
            for end in (".266", ".recon.yuv", ".decoded.yuv", ".log", ".decoder.log")
        )
        recon, decoded = (
            Clip(path, point.clip.width, point.clip.height, point.clip.fps, RECON_BIT_DEPTH,
                 point.clip.frames)
            for path in (recon_path, decoded_path)
        )
        options = encoder.options
        if encoder.model:
            options["FastPartModel"] = encoder.model
        command = encode_command(
            encoder.binary, [self.cfg], point.clip, point.qp, bitstream, recon_path, options,
            intra_period=point.intra_period,
        )
        started = datetime.now(timezone.utc)
        try:
            try:
                result = run_encoder(command, log, core=core)
            except FastpartError as error:
                kept = self._keep(log, f"{file_stem}.failed.log")
                raise FastpartError(f"{point.name}, {name}: {error}; log kept as {kept}") from error
            encode = encode_record(
                result, variant=encoder.variant.binary, clip=point.clip,
                source=self.clips_root / point.cut["clip"], cfg_files=[self.cfg], qp=point.qp,
                intra_period=point.intra_period, bitstream=bitstream,
                bitstream_name=self.out / bitstream.name, started=started,
                model=encoder.model,
            )
            encode["encoder"]["path"] = str(encoder.original)
            if encoder.model:
                encode["model"]["path"] = str(encoder.variant.model)
            found = check(bitstream, recon, self.decoders, decoded_path, decoder_log)
            record = {
                "schema": SCHEMA,
                "cut": point.cut["name"],
                "cut_definition": point.cut,
                "qp": point.qp,
                "variant": name,
                "rep": rep,
                "pairing": pairing,
                "identity": self._identity(point, name),
                "encode": encode,
                "psnr": _psnr_of(point.clip, decoded),
                "conformance": self._conformance(found),
            }
            record_path = self.out / f"{file_stem}.json"
            record_path.unlink(missing_ok=True)
            self._keep(log, log.name)
            if not found.conforms and decoder_log.exists():
                self._keep(decoder_log, decoder_log.name)
            self._keep(bitstream, bitstream.name)
            write_json_atomic(record_path, record)
            return record
        finally:
            recon_path.unlink(missing_ok=True)
            decoded_path.unlink(missing_ok=True)

    def _keep(self, path: Path, name: str) -> Path:
        """Move a file of the session to the records."""
        return path.replace(self.out / name)

    def _conformance(self, found: Conformance) -> dict[str, Any]:
        return {
            "conforms": found.conforms,
            **asdict(found),
            "decoder": self.decoders.identity,
            "ffmpeg": self.decoders.ffmpeg_version,
        }


def _psnr_of(source: Clip, decoded: Clip) -> dict[str, float] | None:
    """PSNR of a decoded file; None if it is incomplete."""
    size = decoded.path.stat().st_size if decoded.path.exists() else 0
    if size != decoded.frame_bytes * decoded.frames:
        return None
    found = psnr(source, decoded)
    y, u, v = found.planes
    return {"y": y, "u": u, "v": v, "weighted": found.psnr_611}


class _Progress:
    """A line on stderr for each finished encode."""

    def __init__(self, total: int):
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def encoded(self, point: _Point, record: dict[str, Any]) -> None:
        with self._lock:
            self._done += 1
            done = self._done
        encode, quality = record["encode"], record["psnr"]
        shown = f"{quality['weighted']:.3f} dB" if quality else "no picture"
        _say(
            f"[{done}/{self._total}] {point.name} {record['variant']} r{record['rep']} "
            f"core {encode['core']}: {encode['times']['user_s']:.2f} s user, "
            f"{encode['kbps_without_sei']:.2f} kbps, {shown}, "
            + ("conforms" if record["conformance"]["conforms"] else "DOES NOT CONFORM: "
               + "; ".join(record["conformance"]["problems"]))
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
