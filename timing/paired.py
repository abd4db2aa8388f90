"""Runs a plan: all variants of a point one after the other on one core, a record for each."""

from __future__ import annotations

import contextlib
import copy
import os
import queue
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fastpart.at_once import SIDE_NICE, at_once
from fastpart.backend import Backend, Vtm
from fastpart.encode import DEFAULT_CFG
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import Clip, make_cut, named_cuts
from fastpart.quality import psnr
from fastpart.ratematch import settings
from fastpart.record import encode_record, sha256_file
from fastpart.supervise import Limits, run_measured
from fastpart.timing.conformance import Conformance, Decoders, check
from fastpart.timing.lock import folder_lock
from fastpart.timing.plan import Plan, Variant
from fastpart.timing.record import SCHEMA, load_records, stem
from fastpart.vtm import (
    RECON_BIT_DEPTH,
    EncodeResult,
    VtmHome,
    intra_period_for,
    run_encoder,
    speed_options,
)

#: What sharing a core is good for, in the help of commands.
SIDE_BY_SIDE = (
    "run the encodes of a pair at the same time on their one core, so that a machine whose speed drifts "
    "meets them alike; for entries that you trust, as one may slow the other down"
)

#: A tolerated variant that takes so many times as long as the anchor, and a minute, hangs.
HANG_FACTOR = 20
HANG_FLOOR_S = 60.0

#: No file of a tolerated variant may have more than so many times the clip's bytes, and 1 GiB.
FILE_FACTOR = 16


@dataclass(frozen=True)
class Encoder:
    """A back end ready to run. VTM's are copies of binary and model, so that a build or a fit in
    the meantime cannot mix into the series; original, original_model: what they were copied
    from. kind: `stock` or `patched`, or the back end's name. identity: of the back end."""

    backend: Backend
    kind: str
    original: Path
    original_model: Path | None
    identity: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One cut at one QP. cut: its definition, with a name. clip: the raw cut. source: what it
    was cut from. intra_period: pictures."""

    cut: dict
    clip: Clip
    clip_sha256: str
    intra_period: int
    qp: int
    source: Path

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
    side_by_side: bool = False,
) -> dict[Path, dict[str, Any]]:
    """Measure what the plan asks for and has no valid record yet; returns the folder's records.

    For each point (cut, QP) and repetition the variants, the anchor among them, run one after
    the other on one core, in reverse on odd repetitions; one point is at work on each of
    `cores`. Conformance is checked after each encode on the same core. A record is valid as
    long as its identity is unchanged and its anchor is there; missing variants run again
    together with the anchor. only: names of variants, the anchor is added. side_by_side: see
    `Runner`.
    Raises FastpartError for a plan that cannot run and for an encode that fails; records
    written so far stay. A bitstream that does not conform is recorded, not raised.
    """
    plan = plan.restricted(variants=only)
    check_cores(cores)
    decoders = Decoders.find(home)
    cfg = home.cfg(DEFAULT_CFG)
    cuts = named_cuts(cuts_file, plan.cuts, plan.path)
    with session_folder(out) as session:
        encoders = {
            name: ready(plan_backend(variant, home, cfg), variant.binary, session / name)
            for name, variant in plan.variants.items()
        }
        points = [
            point for cut in cuts
            for point in cut_points(cut, clips_root, session, plan.qps, plan.intra_period)
        ]
        runner = Runner(encoders, plan.anchor, out, decoders, session, side_by_side=side_by_side)
        runner.run(points, cores, repetitions)
    return load_records(out)


def check_cores(cores: Sequence[int]) -> None:
    """Raises FastpartError unless these are distinct CPUs that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if not cores or len(set(cores)) != len(cores) or not set(cores) <= set(allowed):
        raise FastpartError(
            f"cores {', '.join(map(str, cores)) or 'none'}: wanted distinct ones of "
            f"{', '.join(map(str, allowed))}"
        )


@contextlib.contextmanager
def session_folder(out: Path) -> Iterator[Path]:
    """A temporary folder in out, which no other run may use meanwhile."""
    with folder_lock(out, "another fastpart timing run is at work there; wait, or choose another folder"):
        for left in out.glob(".session-*"):
            shutil.rmtree(left, ignore_errors=True)
        session = Path(tempfile.mkdtemp(prefix=".session-", dir=out))
        try:
            yield session
        finally:
            shutil.rmtree(session, ignore_errors=True)


def plan_backend(variant: Variant, home: VtmHome, cfg: Path) -> Vtm:
    """The encoder of a variant of a plan, after the configuration cfg, with picture hashes."""
    speed = speed_options(variant.kappa, variant.target_ratio)
    backend = Vtm(
        home.encoder(variant.binary), [cfg], {"SEIDecodedPictureHash": 1, **variant.options, **speed},
        model=variant.model,
    )
    if variant.binary == "patched":
        backend.info.require_fastpart()
    return backend


def ready(backend: Backend, kind: str, folder: Path) -> Encoder:
    """Make a back end ready to run; folder: for copies, is created."""
    if not isinstance(backend, Vtm):
        return Encoder(backend, kind, Path(getattr(backend, "program", kind)), None,
                       backend.identity())
    original, model = backend.encoder, backend.model
    folder.mkdir(parents=True)
    copied = copy.copy(backend)
    copied.encoder = Path(shutil.copy2(original, folder / original.name))
    if model:
        copied.model = Path(shutil.copy2(model, folder / "model"))
    return Encoder(copied, kind, original, model, copied.identity())


def cut_points(
    cut: dict, clips_root: Path, session: Path, qps: Sequence[int], intra_period: int | None = None
) -> list[Point]:
    """Cut a test sequence into session; a point for each QP. intra_period: None for its own."""
    clip = make_cut(cut, clips_root, session / f"{cut['name']}.yuv")
    return clip_points(cut, clip, clips_root / cut["clip"], qps, intra_period)


def clip_points(
    cut: dict, clip: Clip, source: Path, qps: Sequence[int], intra_period: int | None = None
) -> list[Point]:
    """A point for each QP of a raw clip; cut: its name and what else is known of it."""
    period = intra_period or cut.get("intra_period") or intra_period_for(clip.fps)
    sha256 = sha256_file(clip.path)
    return [Point(cut, clip, sha256, period, qp, source) for qp in qps]


@dataclass(frozen=True)
class Change:
    """What a variant is encoded with at a point instead of its own. qp: need not be whole; options: of VTM."""

    qp: float
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Runner:
    """Everything that the encodes of one run share.

    encoders: by variant, anchor among them. tolerant: a variant but the anchor that fails is
    noted in `failures`, by (cut, QP, variant), and the run goes on. reconstruction: VTM's
    encoders write theirs, and the decoders must give it. limit_intra_period: the distance of
    intra random access pictures may not be larger than the point's. bit_depth: of the coded
    pictures. done: called with each record. examine: measures a decoded file
    besides PSNR, from (point, decoded clip) to further keys of the record. side_by_side: the
    encodes of a pairing share their core instead of taking turns, see `SIDE_BY_SIDE`. changes:
    by (cut, QP, variant).
    """

    encoders: dict[str, Encoder]
    anchor: str
    out: Path
    decoders: Decoders
    session: Path
    tolerant: bool = False
    reconstruction: bool = True
    side_by_side: bool = False
    limit_intra_period: bool = False
    bit_depth: int = RECON_BIT_DEPTH
    examine: Callable[[Point, Clip], dict[str, Any]] | None = None
    done: Callable[[dict[str, Any]], None] | None = None
    failures: dict[tuple[str, int, str], str] = field(default_factory=dict)
    changes: dict[tuple[str, int, str], Change] = field(default_factory=dict)

    def run(self, points: list[Point], cores: Sequence[int], repetitions: int) -> None:
        records = load_records(self.out)
        todo: queue.SimpleQueue[tuple[Point, list[_Series]]] = queue.SimpleQueue()
        total = 0
        for point in points:
            planned = [self._series(point, rep, records) for rep in range(repetitions)]
            if series := [one for one in planned if one.runs]:
                todo.put((point, series))
                total += sum(len(one.runs) for one in series)
        asked = len(points) * repetitions * len(self.encoders)
        say(f"{total} encodes to run for {asked} results; cores {', '.join(map(str, cores))}")
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

    def identity(self, point: Point, name: str) -> dict[str, Any]:
        """What a record's results depend on."""
        identity = {
            **self.encoders[name].identity,
            "clip": point.clip_sha256,
            "intra_period": point.intra_period,
        }
        change = self.change(point, name)
        if change.options:
            identity["options"] = {**identity["options"], **change.options}
        return identity if change.qp == point.qp else {**identity, "qp": change.qp}

    def change(self, point: Point, name: str) -> Change:
        """What a variant encodes the point with instead of its own; the point's QP if nothing."""
        return self.changes.get((point.cut["name"], point.qp, name)) or Change(point.qp)

    def _series(self, point: Point, rep: int, records: dict[Path, dict]) -> _Series:
        """What is missing of a repetition of a point, with the anchor to compare it with."""
        anchor = self.anchor
        here = {
            path: record
            for path, record in records.items()
            if (record["cut"], record["qp"], record["rep"]) == (point.cut["name"], point.qp, rep)
        }
        valid = [
            record
            for record in here.values()
            if record["variant"] in self.encoders
            and record["identity"] == self.identity(point, record["variant"])
        ]
        anchored = {r["pairing"]["id"] for r in valid if r["variant"] == anchor}
        done = {r["variant"] for r in valid if r["pairing"]["id"] in anchored}
        missing = [name for name in self.encoders if name not in done]
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
            for name in self.encoders
            if name in missing or name == anchor
        ]
        return _Series(rep, runs[::-1] if rep % 2 else runs, bool(valid))

    def _run_series(self, point, series, core, progress, failures) -> None:
        if all(self._has_failed(point, name)
               for name, _ in series.runs if name != self.anchor) and len(series.runs) > 1:
            return
        pairing = {
            "id": uuid.uuid4().hex, "order": [name for name, _ in series.runs],
            "side_by_side": self.side_by_side, "resumed": series.resumed,
        }
        seconds: dict[str, float] = {}
        for batch in [series.runs] if self.side_by_side else [[run] for run in series.runs]:
            batch = [(name, file_stem) for name, file_stem in batch if not self._has_failed(point, name)]
            if failures:
                return
            encodes = at_once([
                partial(self._encode, point, name, file_stem, core) for name, file_stem in batch
            ])
            for (name, file_stem), encode in zip(batch, encodes, strict=True):
                position = pairing["order"].index(name)
                try:
                    record = self._checked(
                        point, name, series.rep, file_stem, encode.result(), {**pairing, "position": position}
                    )
                except FastpartError as error:
                    if not self.tolerant or name == self.anchor:
                        raise
                    self.failures[point.cut["name"], point.qp, name] = str(error)
                    say(f"{point.name} {name}: FAILED: {error}")
                    continue
                seconds[name] = record["encode"]["times"]["user_s"]
                progress.encoded(point, record)
                if self.done:
                    self.done(record)
        anchor = seconds.get(self.anchor, 0)
        ratios = [f"{name} {user_s / anchor:.3f}" for name, user_s in seconds.items()
                  if name != self.anchor and anchor > 0]
        if ratios:
            say(f"{point.name} r{series.rep}: T against {self.anchor}: {', '.join(ratios)}")

    def _encode(self, point: Point, name: str, file_stem: str, core: int) -> dict[str, Any]:
        """One encode; its record."""
        encoder = self.encoders[name]
        bitstream, log = self._file(file_stem, ".266"), self._file(file_stem, ".log")
        change = self.change(point, name)
        arguments: dict[str, Any] = {"options": change.options} if change.options else {}
        if self._has_reconstruction(name):
            arguments["recon"] = self._file(file_stem, ".recon.yuv")
        command = encoder.backend.command(
            point.clip, change.qp, bitstream, intra_period=point.intra_period, **arguments
        )
        started = datetime.now(UTC)
        try:
            share_nice = None
            if self.side_by_side:
                share_nice = 0 if name == self.anchor else SIDE_NICE
            result = self._run(encoder, command, log, core, self._limits(point, name), share_nice)
            record = encode_record(
                result, variant=encoder.kind, clip=point.clip, source=point.source,
                cfg_files=getattr(encoder.backend, "cfg_files", []), qp=settings(change.qp)[0],
                intra_period=point.intra_period, bitstream=bitstream,
                bitstream_name=self.out / bitstream.name, started=started,
                model=getattr(encoder.backend, "model", None),
            )
        except FastpartError as error:
            kept = self._keep(log, f"{file_stem}.failed.log")
            self._file(file_stem, ".recon.yuv").unlink(missing_ok=True)
            raise FastpartError(f"{point.name}, {name}: {error}; log kept as {kept}") from error
        if isinstance(encoder.backend, Vtm):
            record["encoder"]["path"] = str(encoder.original)
        if encoder.original_model:
            record["model"]["path"] = str(encoder.original_model)
        return record

    def _checked(self, point, name, rep, file_stem, encode, pairing) -> dict[str, Any]:
        """The record of an encode, conformance included; its file appears last."""
        bitstream, recon_path, decoded_path, log, decoder_log = (
            self._file(file_stem, end)
            for end in (".266", ".recon.yuv", ".decoded.yuv", ".log", ".decoder.log")
        )
        decoded = Clip(decoded_path, point.clip.width, point.clip.height, point.clip.fps,
                       self.bit_depth, point.clip.frames)
        try:
            record = {
                "schema": SCHEMA,
                "cut": point.cut["name"],
                "cut_definition": point.cut,
                "qp": point.qp,
                "variant": name,
                "rep": rep,
                "pairing": pairing,
                "identity": self.identity(point, name),
                "encode": encode,
                **self._decoded(point, bitstream, decoded,
                                recon_path if self._has_reconstruction(name) else None, decoder_log),
            }
            record_path = self.out / f"{file_stem}.json"
            record_path.unlink(missing_ok=True)
            self._keep(log, log.name)
            if record["conformance"]["problems"] and decoder_log.exists():
                self._keep(decoder_log, decoder_log.name)
            self._keep(bitstream, bitstream.name)
            write_json_atomic(record_path, record)
            return record
        finally:
            recon_path.unlink(missing_ok=True)
            decoded_path.unlink(missing_ok=True)

    def _has_failed(self, point: Point, name: str) -> bool:
        return (point.cut["name"], point.qp, name) in self.failures

    def _has_reconstruction(self, name: str) -> bool:
        return self.reconstruction and isinstance(self.encoders[name].backend, Vtm)

    def _file(self, file_stem: str, end: str) -> Path:
        """A file of an encode under way."""
        return self.session / f"{file_stem}{end}"

    def _run(self, encoder, command, log, core, limits, share_nice) -> EncodeResult:
        if isinstance(encoder.backend, Vtm):
            return run_encoder(command, log, core=core, limits=limits, share_nice=share_nice)
        if encoder.backend.identity() != encoder.identity:
            raise FastpartError(f"{encoder.original}: changed during the run, wanted it to stay")
        usage = run_measured(command, log, core=core, limits=limits, share_nice=share_nice)
        return EncodeResult(tuple(command), log, core, usage)

    def _limits(self, point: Point, name: str) -> Limits:
        """A tolerated variant may take many times as long as the anchor did, then it hangs; its
        files, and so its log, may be many times the clip's size."""
        anchors = [
            record["encode"]["times"]["wall_s"] for record in load_records(self.out).values()
            if (record["cut"], record["qp"], record["variant"])
            == (point.cut["name"], point.qp, self.anchor)
        ]
        if not self.tolerant or name == self.anchor:
            return Limits()
        clip_bytes = point.clip.frame_bytes * point.clip.frames
        return Limits(
            file_bytes=FILE_FACTOR * clip_bytes + (1 << 30),
            wall_s=HANG_FLOOR_S + HANG_FACTOR * max(anchors) if anchors else None,
        )

    def _decoded(self, point, bitstream, decoded, recon_path, log) -> dict[str, Any]:
        """Conformance, PSNR and what else is examined, of a bitstream."""
        pictures = replace(decoded, path=recon_path or bitstream)
        found = check(
            bitstream, pictures, self.decoders, decoded.path, log, recon=recon_path is not None,
            intra_period=point.intra_period if self.limit_intra_period else None,
        )
        quality = psnr_of(point.clip, decoded)
        more = self.examine(point, decoded) if self.examine and quality else {}
        return {"psnr": quality, "conformance": conformance_record(found, self.decoders), **more}

    def _keep(self, path: Path, name: str) -> Path:
        """Move a file of the session to the records."""
        return path.replace(self.out / name)


def conformance_record(found: Conformance, decoders: Decoders) -> dict[str, Any]:
    """The record's entry on conformance."""
    return {
        "conforms": found.conforms,
        **asdict(found),
        "decoder": decoders.identity,
        "ffmpeg": decoders.ffmpeg_version,
    }


def psnr_of(source: Clip, decoded: Clip) -> dict[str, float] | None:
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

    def encoded(self, point: Point, record: dict[str, Any]) -> None:
        with self._lock:
            self._done += 1
            done = self._done
        encode, quality = record["encode"], record["psnr"]
        shown = f"{quality['weighted']:.3f} dB" if quality else "no picture"
        say(
            f"[{done}/{self._total}] {point.name} {record['variant']} r{record['rep']} "
            f"core {encode['core']}: {encode['times']['user_s']:.2f} s user, "
            f"{encode['kbps_without_sei']:.2f} kbps, {shown}, "
            + ("conforms" if record["conformance"]["conforms"] else "DOES NOT CONFORM: "
               + "; ".join(record["conformance"]["problems"]))
        )


def say(line: str) -> None:
    """A line of progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
