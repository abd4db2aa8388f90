"""The libvvenc back end: the encoder inside imageio-ffmpeg's ffmpeg, a quick stand-in for VTM.

It shows the same comparison - an anchor, and the same encoder with learned partition decisions -
in minutes and without a build. It is not VTM, and what it measures is no challenge result.

Encodes run on one thread in one process at constant QP, in the random-access structure of the
VTM configuration: GOP of 32, first intra picture at POC 0, CRA pictures, 10 bits inside, no
perceptual QP adaptation. The accelerated encoder is one command too, `python -m fastpart.vvenc`:
it reads the clip, chooses `MaxMTTDepth` by temporal layer (`fastpart.vvenc_choice`) and becomes
ffmpeg, so that the time of its process is all the time it takes.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError
from fastpart.media import Clip, ffmpeg_exe, parse_fps, parse_size

PRESETS = ("faster", "fast", "medium", "slow", "slower")
ANCHOR_PRESET = "slower"

#: On both sides of every comparison: the structure of the VTM random-access configuration, and no
#: non-linear ALF, whose design costs libvvenc 0.28 s a picture at whatever size: two thirds of the
#: time of a 128x80 clip at QP 37, spent outside the search that is compared here.
COMMON_OPTIONS = {
    "GOPSize": 32,
    "POC0IDR": 1,
    "DecodingRefreshType": "cra",
    "UseNonLinearAlfLuma": 0,
    "UseNonLinearAlfChroma": 0,
}

#: What this back end sets itself, and what to use instead.
OWN_OPTIONS = {"IntraPeriod": "intra_period", "SEIDecodedPictureHash": "picture_hash"}

_UPGRADE = "pip install --upgrade imageio-ffmpeg, or let IMAGEIO_FFMPEG_EXE name another ffmpeg"


@dataclass(frozen=True)
class Ffmpeg:
    """An ffmpeg that encodes with libvvenc and decodes VVC. libvvenc: its version."""

    path: Path
    version: str
    libvvenc: str

    @classmethod
    def find(cls) -> Ffmpeg:
        """The bundled one, or that of IMAGEIO_FFMPEG_EXE.

        Raises FastpartError if it lacks either, or libvvenc does not work.
        """
        return _examine(ffmpeg_exe())


@functools.cache
def _examine(path: str) -> Ffmpeg:
    for kind, name in (("encoder", "libvvenc"), ("decoder", "vvc")):
        about = _says(path, "-h", f"{kind}={name}")
        if not re.search(rf"^{kind.title()} {name}\b", about, re.MULTILINE):
            raise FastpartError(
                f"{path}: has no {kind} {name}, wanted an ffmpeg with it; {_UPGRADE}"
            )
    version = re.match(r"ffmpeg version (\S+)", _says(path, "-version"))
    # Only an encoder at work tells its version.
    trial = _says(
        path, "-v", "verbose", "-f", "lavfi", "-i", "color=size=64x64", "-frames:v", "1",
        "-c:v", "libvvenc", "-preset", "faster", "-threads", "1", "-f", "null", "-",
    )
    libvvenc = re.search(r"libvvenc version: (\S+)", trial)
    if not libvvenc:
        last = "\n  ".join(trial.strip().splitlines()[-3:])
        raise FastpartError(f"{path}: libvvenc does not encode a picture; {_UPGRADE}:\n  {last}")
    return Ffmpeg(Path(path), version[1] if version else "unknown", libvvenc[1])


def _says(path: str, *arguments: str) -> str:
    """What ffmpeg prints, to either stream."""
    try:
        done = subprocess.run(
            [path, "-hide_banner", "-nostdin", *arguments] if arguments != ("-version",)
            else [path, "-version"],
            check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FastpartError(f"{path}: cannot be run ({error}); {_UPGRADE}") from error
    return done.stdout


def encode_command(
    ffmpeg: str | os.PathLike,
    clip: Clip,
    qp: int,
    bitstream: str | os.PathLike,
    *,
    intra_period: int,
    picture_hash: bool = True,
    preset: str = ANCHOR_PRESET,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """The arguments of one encode of the raw clip to an H.266 byte stream.

    options: of libvvenc, under the names of its own application; they override the preset's.
    """
    parameters = {
        **COMMON_OPTIONS,
        "IntraPeriod": intra_period,
        "SEIDecodedPictureHash": "md5" if picture_hash else "off",
        "verbosity": 1,
        **(options or {}),
    }
    return [
        str(ffmpeg), "-nostdin", "-hide_banner", "-v", "error", "-y",
        "-f", "rawvideo", "-video_size", f"{clip.width}x{clip.height}",
        "-pixel_format", "yuv420p" if clip.bit_depth == 8 else "yuv420p10le",
        "-framerate", str(clip.fps),
        "-skip_initial_bytes", str(clip.start * clip.frame_bytes), "-i", str(clip.path),
        "-frames:v", str(clip.frames), "-fps_mode", "passthrough", "-filter_threads", "1",
        "-pix_fmt", "yuv420p10le",
        "-c:v", "libvvenc", "-threads", "1", "-preset", preset, "-qp", str(qp), "-qpa", "0",
        "-vvenc-params", ":".join(f"{name}={value}" for name, value in parameters.items()),
        "-f", "vvc", str(bitstream),
    ]


class Vvenc:
    """libvvenc at a preset, fixed or with learned partition depths.

    options: of libvvenc; they override the preset's. model: file of the learned choice, None for
    the one of this package; only when accelerated, which takes no options. program: the ffmpeg.
    Raises FastpartError without libvvenc, and for a preset or option that cannot be.
    """

    name = "vvenc"
    fractional_qp = False

    def __init__(
        self,
        preset: str = ANCHOR_PRESET,
        accelerate: bool = False,
        options: Mapping[str, Any] | None = None,
        *,
        model: Path | None = None,
    ):
        if preset not in PRESETS:
            raise FastpartError(f"preset {preset}: wanted one of {', '.join(PRESETS)}")
        self.ffmpeg = Ffmpeg.find()
        self.program = self.ffmpeg.path
        self.preset = preset
        self.accelerate = accelerate
        self.options = {str(name): str(value) for name, value in (options or {}).items()}
        for name, value in self.options.items():
            if name in OWN_OPTIONS:
                raise FastpartError(f"option {name}: is set by {OWN_OPTIONS[name]}, use that")
            if not name or re.search(r"[:=]", name) or ":" in value:
                raise FastpartError(f"option {name}={value}: wanted a name and a value without `:`")
        self.model = None
        if accelerate:
            from fastpart.vvenc_choice import DEFAULT_MODEL, load_model

            self.model = Path(model or DEFAULT_MODEL).resolve()
            if preset != ANCHOR_PRESET or self.options:
                raise FastpartError(
                    f"preset {preset} with options {self.options}: the learned choice starts from "
                    f"preset {ANCHOR_PRESET} and sets the options itself; leave them out"
                )
            load_model(self.model)
        changes = "".join(f" {name}={value}" for name, value in self.options.items())
        self.label = (
            f"libvvenc {self.ffmpeg.libvvenc} {preset}{changes}"
            f"{' with learned depths' if accelerate else ''} (not VTM)"
        )

    def command(
        self,
        clip: Clip,
        qp: int,
        bitstream: Path,
        *,
        intra_period: int,
        picture_hash: bool = True,
    ) -> list[str]:
        """As `fastpart.backend.Backend.command`."""
        if not self.accelerate:
            return encode_command(
                self.ffmpeg.path, clip, qp, bitstream, intra_period=intra_period,
                picture_hash=picture_hash, preset=self.preset, options=self.options,
            )
        return [
            sys.executable, "-m", "fastpart.vvenc", str(clip.path), "-o", str(bitstream),
            "--ffmpeg", str(self.ffmpeg.path), "--qp", str(qp),
            "--size", f"{clip.width}x{clip.height}", "--fps", str(clip.fps),
            "--bit-depth", str(clip.bit_depth), "--start", str(clip.start),
            "--frames", str(clip.frames), "--intra-period", str(intra_period),
            "--model", str(self.model), *([] if picture_hash else ["--no-hash"]),
        ]

    def identity(self) -> dict[str, Any]:
        """SHA-256 of ffmpeg and of the model (or None), versions, preset and options."""
        from fastpart.record import sha256_file

        return {
            "encoder": sha256_file(self.ffmpeg.path),
            "model": sha256_file(self.model) if self.model else None,
            "cfg": None,
            "options": {"preset": self.preset, **COMMON_OPTIONS, **self.options},
            "libvvenc": self.ffmpeg.libvvenc,
            "ffmpeg": self.ffmpeg.version,
        }


def main(argv: list[str] | None = None) -> int:
    """Choose the partition depths for a raw clip, then become the encoder that uses them."""
    from fastpart.vvenc_choice import choose, clip_features, load_model

    parser = argparse.ArgumentParser(
        prog="python -m fastpart.vvenc",
        description="Encode a raw clip with libvvenc at preset slower, with learned partition "
        "depths.",
    )
    parser.add_argument("input", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--qp", type=int, required=True)
    parser.add_argument("--size", type=parse_size, required=True)
    parser.add_argument("--fps", type=parse_fps, required=True)
    parser.add_argument("--bit-depth", type=int, choices=(8, 10), default=8)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--intra-period", type=int, required=True)
    parser.add_argument("--no-hash", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--ffmpeg", help="default: the bundled one")
    try:
        args = parser.parse_args(argv)
        clip = Clip(args.input, *args.size, args.fps, args.bit_depth, args.frames, args.start)
        choice = choose(load_model(args.model), clip_features(clip, args.qp), args.qp)
        command = encode_command(
            args.ffmpeg or ffmpeg_exe(), clip, args.qp, args.output,
            intra_period=args.intra_period, picture_hash=not args.no_hash, options=choice.options,
        )
        print(f"fastpart: {choice}", file=sys.stderr, flush=True)
        os.execv(command[0], command)
    except FastpartError as error:
        print(f"fastpart.vvenc: {error}", file=sys.stderr)
    except OSError as error:
        print(f"fastpart.vvenc: {command[0]}: cannot be run ({error.strerror})", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
