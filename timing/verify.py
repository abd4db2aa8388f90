"""`fastpart verify`: the verdict on an entry, for someone who trusts nobody."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastpart.arguments import names, numbers
from fastpart.backend import Backend, Command, PatchedVtm, StockVtm
from fastpart.bitstream import bitstream_bits
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import Clip, named_cuts, open_clip
from fastpart.quality import vmaf
from fastpart.record import compiler_of, describe_machine, sha256_file
from fastpart.timing.conformance import Decoders, check, compare
from fastpart.timing.container import DEFAULT_ARGUMENTS, Image
from fastpart.timing.edition import DEFAULT_EDITION, Edition, edition_names, load_edition
from fastpart.timing.matching import MOST_ENCODES, TIME_BAND, Matching, Wanted
from fastpart.timing.paired import (
    SIDE_BY_SIDE,
    Point,
    Runner,
    check_cores,
    clip_points,
    conformance_record,
    cut_points,
    psnr_of,
    ready,
    say,
    session_folder,
)
from fastpart.timing.record import load_records, stem
from fastpart.timing.verdict import (
    FAIL,
    INCONCLUSIVE,
    NOT_MEASURED,
    PASS,
    Results,
    Test,
    build_verdict,
    to_text,
)
from fastpart.vtm import VERSION, VtmHome

EXIT_CODES = {PASS: 0, FAIL: 2, INCONCLUSIVE: 3, NOT_MEASURED: 3}

#: Record of a bitstream that was not encoded here, with the keys that the verdict needs.
READY_SCHEMA = "fastpart.ready/1"

#: What the command line or an edition may set of the patched encoder, besides VTM options.
PATCHED_SETTINGS = ("model", "preset", "kappa", "target_ratio")

#: How the bitstreams of a submission may end.
STREAM_SUFFIXES = (".266", ".vvc", ".bin")

ANCHOR, ENTRY = "anchor", "entry"

DESCRIPTION = f"""\
Verify an entry of the challenge against the rules of an edition: time, rate, conformance.

Anchor and entry run in pairs on one core, in alternating order; everything that the entry starts
counts. Each bitstream goes through the stock decoder and through ffmpeg's, within limits.
Writes a record of each encode and the verdict, verdict.json, to --out; started again, it does
what is missing.

Editions: {", ".join(edition_names())}, or the path of a .toml file.

An entry runs with your rights. One that you do not trust belongs in a container (--image) or in an
account of its own.

A submission is a folder with SEQUENCE_qpQP.266 (or .vvc, .bin) and, where the pictures were
decoded already, SEQUENCE_qpQP.yuv beside it: raw 4:2:0, as the stock decoder writes it at the
edition's bit depth.

Exit code: 0 pass, 2 the verdict is failed, 3 inconclusive, 1 could not run.
"""


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `verify` to the command line."""
    parser = subparsers.add_parser(
        "verify",
        help="verdict on an entry by the rules of the challenge",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("inputs", nargs="*", metavar="CLIP",
                        help="raw .yuv whose name tells its format (Name_416x240_24.yuv), or any "
                        "file that ffmpeg reads")
    sequences = parser.add_argument_group("sequences, besides CLIP")
    sequences.add_argument("--cuts", type=names, default=[], metavar="NAME,...",
                           help="test sequences of the cuts file")
    sequences.add_argument("--clips", type=Path, metavar="DIR", help="folder of the clips")
    sequences.add_argument("--cuts-file", type=Path, metavar="FILE",
                           help="definitions of the cuts (default: cuts.toml of the clips folder)")
    sequences.add_argument("--frames", type=int, metavar="N", help="of each CLIP (default: all)")
    sequences.add_argument("--intra-period", type=int, metavar="N",
                           help="pictures (default: the cut's own, or the multiple of 32 nearest "
                           "to one second)")
    sequences.add_argument("--qps", type=numbers, metavar="QP,...",
                           help="these QPs instead of the edition's")
    entry = parser.add_argument_group("entry and anchor")
    entry.add_argument("--entry", metavar="COMMAND",
                       help="'prog -i {input} -q {qp} -b {bitstream}'; also {width} {height} {fps} {frames} "
                       "{bit_depth} {intra_period} (default: "
                       "the edition's, which is the patched encoder where it names none)")
    entry.add_argument("--submission", type=Path, metavar="DIR",
                       help="ready bitstreams instead of a program; time is not measured")
    entry.add_argument("--image", type=Path, metavar="ARCHIVE",
                       help="container image archive; --entry then holds the arguments of its "
                       f"entry point (default: '{DEFAULT_ARGUMENTS}')")
    entry.add_argument("--anchor", metavar="COMMAND|DIR",
                       help="a command, or a folder of ready bitstreams named as in a submission "
                       "(default: the edition's)")
    entry.add_argument("--model", type=Path, metavar="FILE", help="of the patched encoder")
    entry.add_argument("--preset", metavar="NAME", help="of the patched encoder, as for fastpart encode")
    speed = entry.add_mutually_exclusive_group()
    speed.add_argument("--target-ratio", type=float, metavar="R", help="of the patched encoder")
    speed.add_argument("--kappa", type=float, help="of the patched encoder")
    entry.add_argument("--match-rate", type=float, metavar="PERCENT",
                       help="encode a point whose rate misses the anchor's by more than this again, at another QP "
                       f"or with lambdas between two, {MOST_ENCODES} times at most; only the encode that stays counts")
    entry.add_argument("--match-time", type=float, metavar="T",
                       help=f"encode a point that takes another share of the anchor's time than T - {TIME_BAND:g} to T "
                       "again, steered for another share of the time without skips, likewise; of the patched encoder")
    entry.add_argument("--vtm-home", metavar="DIR", help="as for fastpart encode")
    measuring = parser.add_argument_group("measurement")
    measuring.add_argument("--edition", default=DEFAULT_EDITION, metavar="NAME|FILE",
                           help=f"rules (default: {DEFAULT_EDITION})")
    measuring.add_argument("--repetitions", type=int, default=1, metavar="N",
                           help="pairs of encodes at each point (default: 1)")
    measuring.add_argument("--side-by-side", action="store_true", help=SIDE_BY_SIDE)
    measuring.add_argument("--cores", type=numbers, metavar="N,...",
                           help="as for fastpart timing run")
    measuring.add_argument("--vmaf", action="store_true", help="measure VMAF too")
    measuring.add_argument("--out", type=Path, required=True, metavar="DIR",
                           help="folder for records and verdict")
    measuring.add_argument("--json", action="store_true",
                           help="print the verdict as JSON, one object a line: kind (point, "
                           "sequence, class or overall) and the keys that verdict.json has there")

    def usage_error(message: str) -> None:
        parser.print_usage(sys.stderr)
        parser.exit(1, f"{parser.prog}: error: {message}\n")

    # argparse's own exit code, 2, is that of a failed verdict here.
    parser.error = usage_error


def run(args: argparse.Namespace) -> int:
    """Verify as the arguments say; returns the exit code of the verdict."""
    edition = load_edition(args.edition)
    if args.repetitions < 1:
        raise FastpartError(f"--repetitions {args.repetitions}: wanted 1 or more")
    if args.match_rate is not None and (args.submission or not 0 < args.match_rate < 100):
        raise FastpartError("--match-rate: wanted a percentage above 0 and below 100, and no --submission")
    if args.match_time is not None and (
        args.submission or args.kappa is not None or not TIME_BAND < args.match_time <= 1
    ):
        raise FastpartError(
            f"--match-time: wanted a ratio above {TIME_BAND:g} and up to 1, no --kappa and no --submission"
        )
    if args.submission and (args.entry or args.image):
        raise FastpartError("--submission: ready bitstreams need no --entry or --image")
    qps = args.qps or list(edition.qps)
    if not all(0 <= qp <= 63 for qp in qps) or len(set(qps)) < len(qps):
        raise FastpartError(f"--qps {','.join(map(str, qps))}: wanted distinct ones from 0 to 63")
    cores = args.cores or sorted(os.sched_getaffinity(0))[:1]
    check_cores(cores)
    _require_bjontegaard()
    home = VtmHome.find(args.vtm_home, edition.vtm_version)
    # A pair needs a program on both sides.
    timed = not args.submission and edition.codec == "vvc"
    if edition.codec != "vvc" and not args.submission:
        raise FastpartError(
            f"edition {edition.name}: only the entry's own decoder reads its bitstreams; "
            "give them and the decoded pictures with --submission DIR"
        )
    decoders = Decoders.find(home if edition.codec != "vvc" or "vtm" in edition.decoders else None)
    anchor = _anchor(args, edition, home)
    entry = None if args.submission else _entry(args, edition)
    if args.match_time is not None and not isinstance(entry, PatchedVtm):
        raise FastpartError(f"--match-time: the entry is {entry.label}, wanted the patched encoder")
    if isinstance(anchor, Path) and entry:
        raise FastpartError(
            f"--anchor {anchor}: ready bitstreams have no time to compare with; "
            "give the entry as a --submission, or the anchor as a command"
        )
    machine = describe_machine(cores[0])
    with session_folder(args.out) as session:
        points = _points(args, qps, session)
        backends = {} if isinstance(anchor, Path) else {ANCHOR: anchor}
        if timed:
            backends[ENTRY] = entry
        encoders = {name: ready(one, _kind(one), session / name) for name, one in backends.items()}
        examine = _Vmaf(session) if args.vmaf else None
        runner = Runner(
            encoders, ANCHOR, args.out, decoders, session, tolerant=True, reconstruction=False,
            limit_intra_period=edition.limit_intra_period, examine=examine,
            bit_depth=edition.bit_depth, side_by_side=args.side_by_side,
        )
        matching = None
        if args.match_rate is not None or args.match_time is not None:
            tolerance = None if args.match_rate is None else args.match_rate / 100
            rate = "kbps" if edition.rate.count_sei else "kbps_without_sei"
            matching = Matching(runner, ENTRY, Wanted(tolerance, rate, args.match_time))
            matching.run(points, cores)
        if encoders:
            runner.run(points, cores, args.repetitions if timed else 1)
        folders = {ANCHOR: anchor if isinstance(anchor, Path) else None, ENTRY: args.submission}
        sources = {
            name: _Ready(folder, edition, decoders, session, args.out, examine, name)
            for name, folder in folders.items() if folder
        }
        found = _results(points, runner, sources, args.repetitions if timed else 1, matching)
        described = {
            name: _describe(name, backends.get(name), folders[name], points[0], session)
            for name in (ANCHOR, ENTRY)
        }
        machine["compilers"] = {
            name: compiler_of(encoders[name].original) if name in encoders else None
            for name in (ANCHOR, ENTRY)
        }
    verdict = build_verdict(
        edition, found, anchor=described[ANCHOR], entry=described[ENTRY], machine=machine,
        command=shlex.join(["fastpart", *args.argv]),
    )
    write_json_atomic(args.out / "verdict.json", verdict)
    print("\n".join(_json_lines(verdict)) if args.json else to_text(verdict), end="\n" * args.json)
    return EXIT_CODES[verdict["overall"]["status"]]


def _require_bjontegaard() -> None:
    try:
        importlib.import_module("bjontegaard")
    except ModuleNotFoundError as error:
        raise FastpartError(
            "bjontegaard: package not found, wanted for BD-rate; pip install 'fastpart[report]'"
        ) from error


def _anchor(args: argparse.Namespace, edition: Edition, home: VtmHome) -> Backend | Path:
    if args.anchor is None:
        return _backend(edition.anchor, home)
    # A command may be longer than a path can be.
    if os.path.isdir(args.anchor):
        return Path(args.anchor)
    return Command(args.anchor)


def _entry(args: argparse.Namespace, edition: Edition) -> Backend:
    if args.image:
        return Image(args.image, args.entry or DEFAULT_ARGUMENTS)
    own = {key: getattr(args, key) for key in PATCHED_SETTINGS if getattr(args, key) is not None}
    if args.entry:
        if own:
            raise FastpartError(
                "--entry: --model, --preset, --kappa and --target-ratio are for the patched encoder"
            )
        return Command(args.entry)
    spec = {**edition.entry, **own}
    return _backend(spec, VtmHome.find(args.vtm_home, spec.get("version", VERSION)))


def _backend(spec: Mapping[str, Any], home: VtmHome) -> Backend:
    """The back end that an edition names, with its options."""
    options = {key: value for key, value in spec.items() if key not in ("backend", "version")}
    if spec["backend"] == "vtm-stock":
        return StockVtm(home, options)
    if spec["backend"] == "vtm-patched":
        own = {key: options.pop(key) for key in PATCHED_SETTINGS if key in options}
        return PatchedVtm(home, options, **own)
    try:
        module = importlib.import_module("fastpart.vvenc")
        return module.Vvenc(**options)
    except (ModuleNotFoundError, TypeError) as error:
        raise FastpartError(
            f"back end {spec['backend']}: cannot be made ({error}); correct the edition"
        ) from error


def _kind(backend: Backend) -> str:
    return backend.name.removeprefix("vtm-")


def _points(args: argparse.Namespace, qps: Sequence[int], session: Path) -> list[Point]:
    """What is asked for: cuts first, then clips."""
    points: list[Point] = []
    if args.cuts:
        if not args.clips:
            raise FastpartError("--cuts: wanted the folder of their clips too; give --clips DIR")
        if args.frames:
            raise FastpartError("--frames is of each CLIP, a cut has its own; write a shorter cut, or give a CLIP")
        cuts_file = args.cuts_file or args.clips / "cuts.toml"
        for cut in named_cuts(cuts_file, args.cuts, "--cuts"):
            points += cut_points(cut, args.clips, session, qps, args.intra_period)
    for path in map(Path, args.inputs):
        clip = _alone(open_clip(path, frames=args.frames, workdir=session), session)
        points += clip_points({"name": path.stem}, clip, path, qps, args.intra_period)
    if not points:
        raise FastpartError("no sequence to verify; give a CLIP, or --cuts and --clips")
    names = [point.name for point in points]
    if len(set(names)) < len(names):
        raise FastpartError(f"sequences: {', '.join(names)}: wanted distinct names")
    return points


def _alone(clip: Clip, session: Path) -> Clip:
    """The clip in a file that holds nothing else, for encoders that take a file as a whole."""
    wanted = clip.frame_bytes * clip.frames
    if clip.path.stat().st_size == wanted:
        return clip
    out = session / clip.path.name
    with clip.path.open("rb") as source, out.open("wb") as target:
        source.seek(clip.start * clip.frame_bytes)
        for _ in range(clip.frames):
            target.write(source.read(clip.frame_bytes))
    return replace(clip, path=out, start=0)


def _test(point: Point) -> Test:
    clip = point.clip
    return Test(
        point.cut["name"], str(point.cut.get("class", f"{clip.width}x{clip.height}")), point.qp,
        clip.frames, clip.width, clip.height, clip.bit_depth, str(clip.fps), point.intra_period,
    )


def _results(
    points: Sequence[Point], runner: Runner, sources: Mapping[str, _Ready], repetitions: int,
    matching: Matching | None,
) -> dict[Test, Results]:
    """The records of this run's points, those of other builds or settings left out."""
    records = load_records(runner.out)
    found = {}
    for point in points:
        sides: dict[str, list[dict[str, Any]]] = {ANCHOR: [], ENTRY: []}
        failure = runner.failures.get((point.cut["name"], point.qp, ENTRY))
        for name in sides:
            if name in sources:
                try:
                    sides[name] = [sources[name].record(point)]
                except FastpartError as error:
                    if name == ANCHOR:
                        raise
                    failure = str(error)
            else:
                sides[name] = [
                    _examined(path, record, point, runner) for path, record in records.items()
                    if (record["cut"], record["qp"], record["variant"])
                    == (point.cut["name"], point.qp, name)
                    and record["rep"] < repetitions
                    and record["identity"] == runner.identity(point, name)
                ]
        found[_test(point)] = Results(
            sides[ANCHOR], [] if failure else sides[ENTRY], failure, matching.describe(point) if matching else None,
        )
    return found


def _examined(path: Path, record: dict[str, Any], point: Point, runner: Runner) -> dict[str, Any]:
    """The record, with what an earlier start was not asked to examine."""
    if runner.examine is None or not record["psnr"] or "vmaf" in record:
        return record
    decoded = Clip(runner.session / f"{path.stem}.yuv", point.clip.width, point.clip.height,
                   point.clip.fps, runner.bit_depth, point.clip.frames)
    try:
        check(path.with_suffix(".266"), decoded, runner.decoders, decoded.path,
              runner.session / "decoder.log", recon=False)
        record = {**record, **runner.examine(point, decoded)}
    finally:
        decoded.path.unlink(missing_ok=True)
    write_json_atomic(path, record)
    return record


class _Vmaf:
    """Adds VMAF to a record."""

    def __init__(self, session: Path):
        self._session = session

    def __call__(self, point: Point, decoded: Clip) -> dict[str, Any]:
        log = self._session / f"{decoded.path.name}.vmaf.json"
        try:
            return {"vmaf": vmaf(point.clip, decoded, log)}
        finally:
            log.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Ready:
    """A folder of bitstreams that were not encoded here. examine: as of `Runner`."""

    folder: Path
    edition: Edition
    decoders: Decoders
    session: Path
    out: Path
    examine: _Vmaf | None
    name: str

    def record(self, point: Point) -> dict[str, Any]:
        """What the verdict needs of one point's bitstream, from an earlier start if nothing
        changed. Raises FastpartError when it is missing or no bitstream."""
        base = f"{point.cut['name']}_qp{point.qp}"
        stream = next(
            filter(_exists, (self.folder / f"{base}{suffix}" for suffix in STREAM_SUFFIXES)), None
        )
        if stream is None:
            raise FastpartError(
                f"{self.folder / base}{STREAM_SUFFIXES[0]}: no such bitstream, wanted one for "
                f"{point.name}"
            )
        pictures = self.folder / f"{base}.yuv"
        pictures = pictures if _exists(pictures) else None
        identity = {
            "stream": sha256_file(stream), "pictures": pictures and sha256_file(pictures),
            "clip": point.clip_sha256, "intra_period": point.intra_period,
            "edition": self.edition.data, "vmaf": self.examine is not None,
            "decoder": self.decoders.identity, "ffmpeg": self.decoders.ffmpeg_version,
        }
        path = self.out / f"{stem(point.cut['name'], point.qp, self.name, 0)}.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known.get("schema") == READY_SCHEMA and known["identity"] == identity:
                return known
        except (OSError, ValueError, KeyError, AttributeError):
            pass
        say(f"{point.name} {self.name}: checking {stream}")
        record = {
            "schema": READY_SCHEMA, "identity": identity,
            **self._measured(point, stream, pictures),
        }
        write_json_atomic(path, record)
        return record

    def _measured(self, point: Point, stream: Path, pictures: Path | None) -> dict[str, Any]:
        clip = point.clip
        private = Path(tempfile.mkdtemp(dir=self.session))
        decoded = Clip(private / "decoded.yuv", clip.width, clip.height, clip.fps,
                       self.edition.bit_depth, clip.frames)
        if self.edition.codec == "vvc":
            bits = bitstream_bits(stream)
            found = check(
                stream, decoded, self.decoders, decoded.path, private / "decoder.log", recon=False,
                intra_period=point.intra_period if self.edition.limit_intra_period else None,
            )
            conformance = conformance_record(found, self.decoders)
            if pictures and (difference := compare(pictures, decoded, "what the decoder gives")):
                conformance["problems"] = [
                    *conformance["problems"], f"{pictures.name}: the submitted file {difference}"
                ]
        else:
            if pictures is None:
                raise FastpartError(
                    f"{stream.with_suffix('.yuv')}: no decoded pictures, wanted them beside "
                    f"{stream}, which only the entry's own decoder reads"
                )
            bits = {"total": 8 * stream.stat().st_size, "sei": 0}
            decoded = replace(decoded, path=pictures)
            conformance = {"problems": [], "decode_s": None}
        quality = psnr_of(clip, decoded)
        more = self.examine(point, decoded) if self.examine and quality else {}
        shutil.rmtree(private)
        kbps_of_a_bit = float(clip.fps / clip.frames / 1000)
        return {
            "encode": {
                "times": None,
                "bitstream": {"path": str(stream), "sha256": sha256_file(stream),
                              "bits": bits["total"], "sei_bits": bits["sei"]},
                "kbps": bits["total"] * kbps_of_a_bit,
                "kbps_without_sei": (bits["total"] - bits["sei"]) * kbps_of_a_bit,
            },
            "psnr": quality, "conformance": conformance, **more,
        }


def _exists(path: Path) -> bool:
    """There is a regular file; a link could lead anywhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _describe(
    name: str, backend: Backend | None, folder: Path | None, point: Point, session: Path
) -> dict[str, Any]:
    if folder:
        return {"name": "ready", "label": f"ready bitstreams in {folder}", "identity": {},
                "command": None}
    bitstream = session / f"{name}.example.266"
    command = backend.command(point.clip, point.qp, bitstream, intra_period=point.intra_period)
    return {
        "name": backend.name, "label": backend.label, "identity": backend.identity(),
        "command": shlex.join(command).replace(f"{session}/", ""),
    }


def _json_lines(verdict: Mapping[str, Any]) -> Iterator[str]:
    for kind, key in (("point", "points"), ("sequence", "sequences"), ("class", "classes")):
        for row in verdict[key]:
            yield json.dumps({"kind": kind, **row}, allow_nan=False)
    yield json.dumps({"kind": "overall", **verdict["overall"]}, allow_nan=False)
