"""`fastpart encode`: one clip to one H.266 bitstream and its run record."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import Clip, open_clip, parse_size
from fastpart.presets import configured, preset_file, require_stock, resulting
from fastpart.ratematch import lambda_options, match_rate, matches, miss, settings
from fastpart.record import encode_record
from fastpart.vtm import (
    EncodeResult,
    Picture,
    VtmHome,
    binary_info,
    encode_command,
    intra_period_for,
    predictor_options,
    run_encoder,
)

DEFAULT_CFG = "encoder_randomaccess_vtm.cfg"

#: Exit code when no trial has the wanted rate.
NOT_MATCHED = 2

#: Encodes that --match-rate makes at most.
MOST_TRIALS = 6

#: VTM options that this command sets itself, and what to use instead of --option.
OWN_OPTIONS = {
    "InputFile": "INPUT",
    "BitstreamFile": "-o",
    "ReconFile": "--keep-recon",
    "SourceWidth": "--size",
    "SourceHeight": "--size",
    "FrameRate": "--fps",
    "InputBitDepth": "--bit-depth",
    "FramesToBeEncoded": "--frames",
    "FrameSkip": "--start",
    "QP": "--qp",
    "IntraPeriod": "--intra-period",
    "FastPart": "--stock",
    "FastPartKappa": "--kappa",
    "FastPartTargetRatio": "--target-ratio",
    "FastPartModel": "--model",
}


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `encode` to the command line."""
    parser = subparsers.add_parser(
        "encode",
        help="encode a clip with VTM and the learned predictor",
        description="Encode a clip with the patched VTM. Writes OUT, its run record OUT.json and "
        "the encoder's log OUT.log.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("input", metavar="INPUT", nargs="?", help="raw .yuv, .y4m, or any file ffmpeg reads")
    parser.add_argument("-o", "--output", metavar="OUT.266", help="bitstream to write")
    parser.add_argument("--qp", type=int, help="base QP, 0 to 63")
    clip = parser.add_argument_group("input")
    clip.add_argument("--size", metavar="WxH", help="picture size of a .yuv (default: from its name)")
    clip.add_argument("--fps", metavar="RATE", help="60 or 30000/1001 (default: the file's own)")
    clip.add_argument("--bit-depth", type=int, choices=(8, 10), help="sample depth of a .yuv")
    clip.add_argument("--frames", type=int, metavar="N", help="how many frames (default: all)")
    clip.add_argument("--start", type=int, default=0, metavar="N", help="first frame (default: 0)")
    predictor = parser.add_argument_group("predictor")
    speed = predictor.add_mutually_exclusive_group()
    speed.add_argument("--target-ratio", type=float, metavar="R", help="share of the time of the same "
                       "encode without the predictor to take (default: the patched encoder's, 0.62)")
    speed.add_argument("--kappa", type=float, help="instead: a fixed speed; larger skips more (1: as trained)")
    predictor.add_argument("--model", metavar="FILE", help="model file (default: the one compiled in)")
    predictor.add_argument("--stock", action="store_true", help="run the stock encoder instead")
    encoder = parser.add_argument_group("encoder")
    encoder.add_argument("--vtm-home", metavar="DIR", help="folder with 23.2/patched, 23.2/stock, "
                         "23.2/cfg (default: $FASTPART_VTM_HOME or ~/.cache/fastpart/vtm)")
    encoder.add_argument("--cfg", action="append", metavar="CFG", help="file of the cfg folder, or a "
                         f"path; repeatable (default: {DEFAULT_CFG})")
    encoder.add_argument("--preset", metavar="NAME", help="a measured operating point, after the cfg files; it "
                         "alone decides whether the predictor runs, unless --target-ratio or --kappa is given")
    encoder.add_argument("--print-config", action="store_true", help="print every VTM option that results, and "
                         "encode nothing")
    encoder.add_argument("--option", action="append", default=[], metavar="KEY=VALUE",
                         help="passed to VTM as --KEY=VALUE; repeatable")
    encoder.add_argument("--match-rate", type=float, metavar="KBPS", help="encode again, from --qp on, with another QP "
                         f"and lambda until the rate without SEI is this, {MOST_TRIALS} times at most")
    encoder.add_argument("--rate-tolerance", type=float, default=2, metavar="PERCENT",
                         help="by which it may miss that (default: 2)")
    encoder.add_argument("--intra-period", type=int, metavar="N",
                         help="pictures (default: the multiple of 32 nearest to one second)")
    encoder.add_argument("--hash", action="store_true", help="write picture hashes, which the "
                         "decoder then verifies (SEIDecodedPictureHash=1)")
    encoder.add_argument("--core", type=int, metavar="N", help="pin the encoder to this CPU")
    output = parser.add_argument_group("output")
    output.add_argument("--keep-recon", metavar="FILE",
                        help="also write the reconstruction, raw 4:2:0 at 10 bits")
    output.add_argument("--force", action="store_true", help="replace files that exist")


def run(args: argparse.Namespace) -> int:
    """Encode as the parsed arguments say; returns 0.

    The bitstream appears under its name when complete, and the record after it: where there
    is a record, its bitstream is there too. Raises FastpartError for anything to mend.
    """
    options = _vtm_options(args)
    home = VtmHome.find(args.vtm_home)
    if args.print_config:
        for name, value, origin in resulting(configuration(home, args.cfg, args.preset), options):
            print(f"{name:30}: {value:40} # {origin}")
        return 0
    if args.input is None or args.output is None or args.qp is None:
        raise FastpartError("encode: INPUT, -o OUT.266 and --qp are wanted")
    if not 0 <= args.qp <= 63:
        raise FastpartError(f"--qp {args.qp}: wanted 0 to 63")
    if args.match_rate is not None and not (args.match_rate > 0 and args.rate_tolerance > 0):
        raise FastpartError("--match-rate, --rate-tolerance: wanted kbps and a percentage above 0")
    variant = "stock" if args.stock else "patched"
    encoder = home.encoder(variant)
    if variant == "patched":
        binary_info(encoder).require_fastpart()
    cfg_files = configuration(home, args.cfg, args.preset)
    if args.model and not Path(args.model).is_file():
        raise FastpartError(f"{args.model}: no such model file; check --model")

    output = Path(args.output)
    record_path, log_path = (output.with_name(output.name + end) for end in (".json", ".log"))
    recon = Path(args.keep_recon) if args.keep_recon else None
    if len({path.resolve() for path in (Path(args.input), output, recon) if path}) < 2 + bool(recon):
        raise FastpartError(f"{output}: input, output and --keep-recon must be different files")
    for path in (output, record_path, recon):
        if path and path.exists() and not args.force:
            raise FastpartError(f"{path}: exists already; choose another name or give --force")

    with _terminate_as_interrupt(), contextlib.ExitStack() as stack:
        work = stack.enter_context(_work_folder(output))
        recon_work = stack.enter_context(_work_folder(recon)) if recon else None
        clip = open_clip(
            args.input,
            size=parse_size(args.size) if args.size else None,
            fps=args.fps,
            bit_depth=args.bit_depth,
            frames=args.frames,
            start=args.start,
            workdir=work,
        )
        intra_period = args.intra_period or intra_period_for(clip.fps)

        def encode(qp: int, more: dict[str, object], name: str) -> tuple[EncodeResult, dict]:
            """Encode into the work folders under this name; what was measured, and its record."""
            command = encode_command(
                encoder, cfg_files, clip, qp, work / name, recon_work / name if recon else None,
                options | more, intra_period=intra_period,
            )
            started = datetime.now(UTC)
            try:
                progress = _Progress(clip.frames)
                try:
                    result = run_encoder(command, log_path, progress.show, args.core)
                finally:
                    progress.close()
            except KeyboardInterrupt:
                log_path.unlink(missing_ok=True)
                raise
            return result, encode_record(
                result, variant=variant, clip=clip, source=args.input, cfg_files=cfg_files, qp=qp,
                intra_period=intra_period, bitstream=work / name, bitstream_name=output,
                started=started, model=args.model,
            )

        if args.match_rate is None:
            name, matched = output.name, True
            result, record = encode(args.qp, {}, name)
        else:
            name, result, record, matched = _match(encode, args, configured(cfg_files, options), work)
        record_path.unlink(missing_ok=True)
        if recon:
            (recon_work / name).replace(recon)
        (work / name).replace(output)
        write_json_atomic(record_path, record)
    print(_summary(output, clip, result, record))
    if not matched:
        print(
            f"fastpart: {output}: {record['kbps_without_sei']:.2f} kbps is the nearest to {args.match_rate:g} kbps "
            f"that {len(record['rate_match']['trials'])} trials came; start at another --qp, or widen --rate-tolerance",
            file=sys.stderr,
        )
    return 0 if matched else NOT_MATCHED


def _match(
    encode: Callable[[int, dict[str, object], str], tuple[EncodeResult, dict]], args: argparse.Namespace,
    values: Mapping[str, str], work: Path,
) -> tuple[str, EncodeResult, dict, bool]:
    """Encode until the rate matches; file name, result and record of the nearest trial, and whether it does.

    values: of the VTM options that configuration and command line set, by name.
    Trials are recorded with their user times; the times of the record are those of its own encode.
    """
    done: list[tuple[str, EncodeResult, dict]] = []

    def trial(qp: float) -> float:
        whole, factor = settings(qp)
        name = f"trial{len(done)}"
        print(f"fastpart: trial {len(done) + 1} at QP {qp:.2f}", file=sys.stderr, flush=True)
        result, record = encode(whole, lambda_options(factor, values), name)
        result.log_path.replace(work / f"{name}.log")
        done.append((name, result, record))
        print(f"fastpart: {record['kbps_without_sei']:.2f} kbps for {args.match_rate:g}", file=sys.stderr, flush=True)
        return record["kbps_without_sei"]

    tolerance = args.rate_tolerance / 100
    trials = match_rate(trial, args.match_rate, args.qp, tolerance, MOST_TRIALS)
    nearest = min(range(len(trials)), key=lambda i: abs(miss(trials[i], args.match_rate)))
    name, result, record = done[nearest]
    (work / f"{name}.log").replace(result.log_path)
    record["rate_match"] = {
        "wanted_kbps": args.match_rate,
        "trials": [
            {"qp": trial.qp, "kbps_without_sei": trial.kbps, "user_s": made["times"]["user_s"]}
            for trial, (_, _, made) in zip(trials, done, strict=True)
        ],
    }
    return name, result, record, matches(trials[nearest], args.match_rate, tolerance)


def configuration(home: VtmHome, cfg: Sequence[str | Path] | None, preset: str | None) -> list[Path]:
    """Configuration files in the order in which the encoder reads them.

    cfg: files of the cfg folder, or paths; None for random access. Raises FastpartError for one that is missing.
    """
    files = [home.cfg(name) for name in cfg or [DEFAULT_CFG]]
    return [*files, preset_file(preset)] if preset else files


def _vtm_options(args: argparse.Namespace) -> dict[str, object]:
    """VTM options of the command line, by name."""
    options: dict[str, object] = {}
    if args.hash:
        options["SEIDecodedPictureHash"] = 1
    if args.stock and (args.kappa is not None or args.target_ratio is not None or args.model):
        raise FastpartError(
            "--stock: runs without the predictor; leave out --target-ratio, --kappa and --model"
        )
    if args.stock and args.preset:
        require_stock(args.preset)
    if not args.stock:
        options |= predictor_options(args.kappa, args.target_ratio, args.preset)
        if args.model:
            options["FastPartModel"] = args.model
    for text in args.option:
        name, equals, value = text.partition("=")
        if not equals or not name or name.startswith("-"):
            raise FastpartError(f"--option {text}: wanted KEY=VALUE, for example MTS=4")
        if name in OWN_OPTIONS:
            raise FastpartError(f"--option {text}: is set by {OWN_OPTIONS[name]}, use that")
        options[name] = value
    return options


@contextlib.contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target, on its file system."""
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise FastpartError(
            f"{target}: its folder cannot be written ({error.strerror}); "
            "create the folder or choose another"
        ) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP clean up as Ctrl-C does."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """One line a picture on stderr; on a terminal one line that changes."""

    def __init__(self, frames: int):
        self._frames = frames
        self._done = 0
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def show(self, picture: Picture) -> None:
        self._done += 1
        elapsed = time.monotonic() - self._start
        left = elapsed / self._done * max(0, self._frames - self._done)
        line = (
            f"{self._done}/{self._frames}  POC {picture.poc}  TId {picture.tid}  "
            f"{picture.slice_type}  {picture.bits} bits  {_clock(elapsed)} elapsed, "
            f"about {_clock(left)} left"
        )
        if self._terminal:
            width = shutil.get_terminal_size().columns
            print(f"\r\x1b[K{line[:width - 1]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._terminal and self._done:
            print(file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _summary(output: Path, clip: Clip, result: EncodeResult, record: dict) -> str:
    y, u, v = result.psnr
    text = (
        f"{output}: {len(result.pictures)} pictures {clip.width}x{clip.height}, "
        f"{record['kbps']:.2f} kbps ({record['kbps_without_sei']:.2f} without SEI), "
        f"Y {y:.2f} U {u:.2f} V {v:.2f} dB, (6Y+U+V)/8 {result.psnr_611:.3f} dB, "
        f"{result.usage.user_s:.1f} s user"
    )
    if result.counters:
        totals = (f"{key} {value}" for key, value in result.counters.items() if "." not in key)
        text += f"\nengine: {', '.join(totals)}"
    return text
