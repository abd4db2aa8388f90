"""Conformance of a bitstream: two independent decoders must give the encoder's reconstruction."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastpart.errors import FastpartError
from fastpart.media import Clip, ffmpeg_exe
from fastpart.record import file_identity
from fastpart.vtm import VERSION, VtmHome, binary_info, run_measured

_PICTURE = re.compile(r"^POC\s+(-?\d+) .*?(?=^POC\s|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Decoders:
    """The stock DecoderApp with its path and SHA-256, and an ffmpeg that decodes VVC."""

    decoder: Path
    identity: dict[str, str]
    ffmpeg: str
    ffmpeg_version: str

    @classmethod
    def find(cls, home: VtmHome) -> Decoders:
        """Raises FastpartError when either is missing, cannot be run or is something else."""
        decoder = home.decoder()
        if binary_info(decoder).version is None:
            raise FastpartError(
                f"{decoder}: does not print a VTM version, wanted the DecoderApp of VTM-{VERSION}; "
                "build it again and copy it there"
            )
        ffmpeg = ffmpeg_exe()
        about = _output([ffmpeg, "-hide_banner", "-h", "decoder=vvc"])
        if not re.search(r"^Decoder vvc\b", about, re.MULTILINE):
            raise FastpartError(
                f"{ffmpeg}: has no VVC decoder, wanted for the conformance check; "
                "pip install --upgrade imageio-ffmpeg"
            )
        version = re.match(r"ffmpeg version (\S+)", _output([ffmpeg, "-version"]))
        return cls(decoder, file_identity(decoder), ffmpeg, version[1] if version else "unknown")


@dataclass(frozen=True)
class Conformance:
    """What was found; the fields are those of the record. problems is empty if it conforms."""

    pictures: int
    pictures_ok: int
    reconstruction_equal: bool
    ffmpeg_equal: bool
    problems: tuple[str, ...]

    @property
    def conforms(self) -> bool:
        return not self.problems


def check(
    bitstream: Path, recon: Clip, decoders: Decoders, decoded: Path, log: Path
) -> Conformance:
    """Decode a bitstream with both decoders and compare with the encoder's reconstruction.

    bitstream: coded with SEIDecodedPictureHash=1. recon: the reconstruction the encoder wrote,
    with the number of pictures coded. decoded: file for the stock decoder's output, at recon's
    bit depth; it stays. log: file for what that decoder says. A decoder that fails is a problem
    of the stream, not an error. Work happens on the calling thread's CPU.
    """
    problems: list[str] = []

    def problem(text: str) -> None:
        problems.append(f"{bitstream.name}: {text}")

    failure = None
    decoded.unlink(missing_ok=True)
    try:
        run_measured(
            [decoders.decoder, "-b", bitstream, "-o", decoded, "-d", recon.bit_depth], log
        )
    except FastpartError as error:
        failure = str(error)
    hashed = [(int(m[1]), "(OK)" in m[0], "(***ERROR***)" in m[0])
              for m in _PICTURE.finditer(log.read_text(encoding="utf-8", errors="replace"))]
    wrong = [poc for poc, _, error in hashed if error]
    ok = sum(right and not error for _, right, error in hashed)
    for poc in wrong:
        problem(f"picture POC {poc}: the hash of what the stock decoder gets is not the one coded")
    if ok + len(wrong) != recon.frames:
        problem(
            f"the stock decoder verified {ok + len(wrong)} pictures, wanted {recon.frames}; "
            + (f"the last in decoding order is POC {hashed[-1][0]}" if hashed else "there is none")
        )
    if failure and not wrong:
        problem(f"the stock decoder failed: {failure}")
    if difference := _difference(decoded, recon):
        problem(f"the stock decoder's output {difference}")

    second = decoded.with_name(f"{decoded.name}.ffmpeg")
    try:
        said = _output([
            decoders.ffmpeg, "-nostdin", "-v", "error", "-y", "-threads", "1", "-c:v", "vvc",
            "-strict", "-2", "-f", "vvc", "-i", str(bitstream), "-fps_mode", "passthrough",
            "-pix_fmt", "yuv420p10le" if recon.bit_depth == 10 else "yuv420p",
            "-f", "rawvideo", str(second),
        ])
        if second_difference := _difference(second, recon):
            last = said.strip().splitlines()[-1:]
            problem(f"ffmpeg's output {second_difference}" + "".join(f" ({line})" for line in last))
    finally:
        second.unlink(missing_ok=True)
    return Conformance(recon.frames, ok, not difference, not second_difference, tuple(problems))


def _output(command: list[str]) -> str:
    """What a command prints, to either stream, whatever its exit code."""
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )
    except OSError as error:
        raise FastpartError(f"{command[0]}: cannot be run ({error.strerror})") from error
    return done.stdout


def _difference(decoded: Path, recon: Clip) -> str | None:
    """Where a decoded file first differs from the reconstruction; None if they are equal."""
    one = recon.frame_bytes
    wanted_size, found_size = (
        path.stat().st_size if path.exists() else 0 for path in (recon.path, decoded)
    )
    if wanted_size != one * recon.frames:
        return (
            "cannot be compared: the encoder's reconstruction has "
            f"{wanted_size / one:g} pictures, wanted {recon.frames}"
        )
    complete = min(recon.frames, found_size // one)
    if complete:
        with recon.path.open("rb") as first, decoded.open("rb") as second:
            for picture in range(complete):
                wanted, found = first.read(one), second.read(one)
                if wanted != found:
                    place = _place(wanted, found, recon)
                    return f"differs from the reconstruction in picture {picture}, {place}"
    if found_size != wanted_size:
        return f"has {found_size / one:g} pictures, wanted {recon.frames}"
    return None


def _place(wanted: bytes, found: bytes, recon: Clip) -> str:
    """Plane and position of the first sample that differs."""
    width = 1 if recon.bit_depth == 8 else 2
    at = int(np.flatnonzero(np.frombuffer(wanted, "u1") != np.frombuffer(found, "u1"))[0]) // width
    luma = recon.width * recon.height
    plane = 0 if at < luma else 1 + (at - luma) // (luma // 4)
    inside = at if plane == 0 else (at - luma) % (luma // 4)
    y, x = divmod(inside, recon.width if plane == 0 else recon.width // 2)
    return f"{'YUV'[plane]} sample ({x}, {y})"
