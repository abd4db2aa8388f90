"""`fastpart demo`: anchor against accelerated encoder on a short clip, verified and reported."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.files import appearing
from fastpart.media import Clip, ffmpeg_exe, open_clip, parse_size, raw_input
from fastpart.timing import verify
from fastpart.timing.edition import load_edition
from fastpart.timing.report import load_verdict, write_report
from fastpart.timing.synthetic import make_clip
from fastpart.vtm import VtmHome

SYNTHETIC_NAME = "synthetic"


@dataclass(frozen=True)
class Scale:
    """By which rules a demo runs, and how much it encodes: picture size, frames, repetitions."""

    edition: str
    size: tuple[int, int]
    frames: int
    repetitions: int


#: By back end, for about five minutes on two cores.
SCALES = {
    "vvenc": Scale("demo-vvenc", (160, 96), 33, 3),
    "vtm": Scale("demo-vtm", (160, 96), 17, 1),
}

#: One intra picture per clip, as in a long random-access run.
INTRA_PERIOD = 64


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="see anchor and accelerated encoder compared and verified, in minutes",
        description="Encode a short clip at four QPs with an anchor and with the same encoder "
        "accelerated, verify both as fastpart verify does, and write a report. Without VTM, both "
        "are libvvenc out of the bundled ffmpeg: not VTM and not a challenge result.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("clip", nargs="?", metavar="CLIP",
                        help="its first frames, made small (default: a clip made on the spot)")
    parser.add_argument("--out", type=Path, default=Path("fastpart-demo"), metavar="DIR",
                        help="folder for clip, bitstreams, verdict and report (default: "
                        "fastpart-demo)")
    parser.add_argument("--backend", choices=("auto", "vtm", "vvenc"), default="auto",
                        help="auto: VTM if stock and patched binaries are found, else libvvenc")
    parser.add_argument("--size", metavar="WxH", help="picture size to encode "
                        f"(default: {SCALES['vvenc'].size[0]}x{SCALES['vvenc'].size[1]})")
    parser.add_argument("--frames", type=int, metavar="N", help="how many (default: "
                        f"{SCALES['vvenc'].frames}, with VTM {SCALES['vtm'].frames})")
    parser.add_argument("--repetitions", type=int, metavar="N", help="pairs of encodes at each "
                        f"point (default: {SCALES['vvenc'].repetitions}, with VTM "
                        f"{SCALES['vtm'].repetitions})")
    parser.add_argument("--cores", metavar="N,...", help="CPUs that each take one point at a time "
                        "(default: all that this process may use)")
    parser.add_argument("--vtm-home", metavar="DIR", help="as for fastpart encode")


def run(args: argparse.Namespace) -> int:
    """Make the clip, verify, report; returns the exit code of the verdict."""
    home = VtmHome.find(args.vtm_home)
    backend = args.backend
    if backend == "auto":
        backend = "vtm" if has_vtm(home) else "vvenc"
    scale = SCALES[backend]
    size = parse_size(args.size) if args.size else scale.size
    frames = scale.frames if args.frames is None else args.frames
    if frames < 1 or size[0] % 2 or size[1] % 2 or min(size) < 64:
        raise FastpartError(
            f"--size {size[0]}x{size[1]} --frames {frames}: wanted even numbers from 64 on, "
            "and at least one frame"
        )
    _say(f"{load_edition(scale.edition).title}")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        clip = prepare_clip(args.clip, size, frames, args.out)
    except OSError as error:
        raise FastpartError(
            f"{args.out}: cannot be written ({error.strerror}); choose another folder with --out"
        ) from error
    _say(f"{clip.path}: {clip.frames} frames of {clip.width}x{clip.height}")
    cores = args.cores or ",".join(map(str, sorted(os.sched_getaffinity(0))))
    records = args.out / backend
    code = verify.run(_verify_arguments([
        str(clip.path), "--edition", scale.edition, "--intra-period", str(INTRA_PERIOD),
        "--repetitions", str(args.repetitions or scale.repetitions), "--cores", cores,
        "--out", str(records), *(["--vtm-home", args.vtm_home] if args.vtm_home else []),
    ]))
    files = write_report(load_verdict(records / "verdict.json"), args.out)
    print(f"\nreport: {files['html']}, {files['csv']}, {files['xlsx']}")
    return code


def _verify_arguments(words: list[str]) -> argparse.Namespace:
    """What `fastpart verify` would get from these words."""
    parser = argparse.ArgumentParser(prog="fastpart")
    verify.add_commands(parser.add_subparsers())
    words = ["verify", *words]
    args = parser.parse_args(words)
    # As the command line does: the verdict tells the command that makes it again.
    args.argv = words
    return args


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def has_vtm(home: VtmHome) -> bool:
    """Whether both encoders and the stock decoder are there."""
    try:
        return all((home.encoder("stock"), home.encoder("patched"), home.decoder()))
    except FastpartError:
        return False


def prepare_clip(source: str | None, size: tuple[int, int], frames: int, out: Path) -> Clip:
    """The clip to encode, as a raw file in the folder out.

    source: any file that `open_clip` reads, of which the first frames are taken, scaled until
    they cover size and cropped about the centre; None: a synthetic clip.
    Raises FastpartError for a source that cannot be used, or has too few frames.
    """
    if source is None:
        return make_clip(out / f"{SYNTHETIC_NAME}_{size[0]}x{size[1]}_30.yuv", *size, frames)
    with tempfile.TemporaryDirectory(dir=out, prefix=".clip.") as work:
        whole = open_clip(source, frames=frames, workdir=work)
        return shrink(whole, size, out)


def shrink(clip: Clip, size: tuple[int, int], out: Path) -> Clip:
    """Scale a raw clip until it covers size (luma samples), and crop it, into the folder out."""
    width, height = size
    name = f"{Path(clip.path).stem.split('_')[0]}_{width}x{height}_{float(clip.fps):.5g}"
    path = out / (f"{name}.yuv" if clip.bit_depth == 8 else f"{name}_10bit.yuv")
    small = replace(clip, path=path, width=width, height=height, start=0)
    filters = (f"scale={width}:{height}:force_original_aspect_ratio=increase:flags=lanczos,"
               f"crop={width}:{height}")
    with appearing(path) as temporary:
        done = subprocess.run(
            [ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *raw_input(clip),
             "-skip_initial_bytes", str(clip.start * clip.frame_bytes), "-i", str(clip.path),
             "-frames:v", str(clip.frames), "-vf", filters, "-fps_mode", "passthrough",
             "-f", "rawvideo", str(temporary)],
            check=False, capture_output=True, text=True, errors="replace",
        )
        if done.returncode or temporary.stat().st_size != small.frame_bytes * clip.frames:
            raise FastpartError(f"{clip.path}: cannot be made {width}x{height}: {done.stderr.strip()}")
    return small
