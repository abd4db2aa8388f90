"""Conformance of a bitstream: two independent decoders must give the same pictures.

They must be those of the encoder's reconstruction where there is one. What is decoded may be
hostile: the decoders run within limits.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from fastpart.errors import FastpartError
from fastpart.media import Clip, ffmpeg_exe
from fastpart.record import file_identity
from fastpart.supervise import Limits, run_measured
from fastpart.vtm import VtmHome, binary_info

_PICTURE = re.compile(r"^POC\s+(-?\d+) .*?(?=^POC\s|\Z)", re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(
    r"\[Parsed_showinfo\S* @ \S+\] n: *\d+ .* fmt:(\S+) .* s:(\d+x\d+) .* iskey:(\d)"
)
_HASHES = re.compile(r"\[\w+:([0-9a-f,]+),\(\*\*\*ERROR.*?\[rx\w+:([0-9a-f,]+)", re.DOTALL)
_ERROR = re.compile(r"error|invalid|fail|missing|could not|exceed", re.IGNORECASE)


@dataclass(frozen=True)
class Decoders:
    """What decodes: the stock DecoderApp with its path and SHA-256 (None: ffmpeg alone), and an
    ffmpeg that decodes VVC."""

    decoder: Path | None
    identity: dict[str, str] | None
    ffmpeg: str
    ffmpeg_version: str

    @classmethod
    def find(cls, home: VtmHome | None) -> Decoders:
        """home: None to go without the stock decoder.

        Raises FastpartError when either is missing, cannot be run or is something else.
        """
        decoder = home.decoder() if home else None
        if decoder and binary_info(decoder).version is None:
            raise FastpartError(
                f"{decoder}: does not print a VTM version, wanted the DecoderApp of "
                f"VTM-{home.version}; build it again and copy it there"
            )
        ffmpeg = ffmpeg_exe()
        about = _output([ffmpeg, "-hide_banner", "-h", "decoder=vvc"])
        if not re.search(r"^Decoder vvc\b", about, re.MULTILINE):
            raise FastpartError(
                f"{ffmpeg}: has no VVC decoder, wanted for the conformance check; "
                "pip install --upgrade imageio-ffmpeg"
            )
        version = re.match(r"ffmpeg version (\S+)", _output([ffmpeg, "-version"]))
        return cls(decoder, file_identity(decoder) if decoder else None, ffmpeg,
                   version[1] if version else "unknown")


@dataclass(frozen=True)
class Conformance:
    """What was found; the fields are those of the record. problems is empty if it conforms.

    reference: what the decoders' pictures were compared with: `reconstruction` of the encoder,
    or, without one, the stock `decoder`'s output, or `none` where ffmpeg decoded alone.
    reconstruction_equal: None without a reconstruction. ffmpeg_equal: None without a reference.
    hashes: of the stock decoder: `verified`, `wrong`, `absent`, or `unknown` without it.
    decode_s: CPU seconds of the first decoder, None if it failed.
    """

    pictures: int
    pictures_ok: int
    reconstruction_equal: bool | None
    ffmpeg_equal: bool | None
    problems: tuple[str, ...]
    reference: str = "reconstruction"
    hashes: str = "verified"
    decode_s: float | None = None

    @property
    def conforms(self) -> bool:
        return not self.problems


def decoding_limits(pictures: Clip) -> Limits:
    """What a decoder may take for such pictures: ample for an honest stream, and an end for any
    other. Output beyond the pictures wanted is cut off by the file limit."""
    share = pictures.width * pictures.height / (1920 * 1080)
    seconds = 60 + 20 * pictures.frames * share
    return Limits(
        memory_bytes=int((4 + 4 * share) * (1 << 30)),
        file_bytes=pictures.frame_bytes * pictures.frames + (1 << 20),
        cpu_s=seconds,
        wall_s=3 * seconds,
    )


def check(
    bitstream: Path,
    pictures: Clip,
    decoders: Decoders,
    decoded: Path,
    log: Path,
    *,
    recon: bool = True,
    intra_period: int | None = None,
    limits: Limits | None = None,
) -> Conformance:
    """Decode a bitstream with both decoders and compare.

    pictures: what was coded: size, number, and bit depth of the pictures; with recon, its file
    is the encoder's reconstruction, which the decoders must give and the stream must carry
    picture hashes for. Without, the decoders are compared with each other, and hashes
    are verified where there are any. decoded: file for the first decoder's output, at that bit
    depth; it stays. log: file for what that decoder says. intra_period: largest distance of
    intra random access pictures, None for any. limits: of each decoder, `decoding_limits` if
    None. A decoder that fails is a problem of the stream, not an error. Work happens on the
    calling thread's CPU.
    """
    problems: list[str] = []
    limits = limits or decoding_limits(pictures)

    def problem(text: str) -> None:
        problems.append(f"{bitstream.name}: {text}")

    decoded.unlink(missing_ok=True)
    difference = decode_s = None
    hashes, ok = "unknown", 0
    if decoders.decoder:
        failure = None
        try:
            used = run_measured(
                [decoders.decoder, "-b", bitstream, "-o", decoded, "-d", pictures.bit_depth], log,
                limits=limits,
            )
            decode_s = used.cpu_s
        except FastpartError as error:
            failure = str(error)
        said = _pictures_of(log)
        wrong = [(poc, planes) for poc, _, planes in said if planes]
        ok = sum(right and not planes for _, right, planes in said)
        hashes = "wrong" if wrong else "verified" if ok else "absent"
        last = f"the last in decoding order is POC {said[-1][0]}" if said else "there is none"
        missing = sorted(set(range(pictures.frames)) - {poc for poc, _, _ in said})
        if 0 < len(missing) == pictures.frames - len(said):
            last += f", missing POC {', '.join(map(str, missing[:8]))}"
            last += ", ..." if len(missing) > 8 else ""
        for poc, planes in wrong:
            problem(
                f"picture POC {poc}: the hash of what the stock decoder gets is not the one coded, "
                f"in {', '.join(planes)}"
            )
        if (recon or ok) and ok + len(wrong) != pictures.frames:
            problem(
                f"the stock decoder verified {ok + len(wrong)} pictures, wanted {pictures.frames}; "
                + last
            )
        elif len(said) != pictures.frames:
            problem(
                f"the stock decoder gave {len(said)} pictures, wanted {pictures.frames}; {last}"
            )
        if failure and not wrong:
            problem(f"the stock decoder failed: {_short(failure)}")
        if recon:
            if difference := _difference(decoded, pictures):
                problem(f"the stock decoder's output {difference}")
        elif (short := _count(decoded, pictures)) and not failure:
            problem(f"the stock decoder's output {short}")

    reference = pictures if recon else None
    if decoders.decoder and not recon and decoded.exists():
        reference = replace(pictures, path=decoded)
    second = decoded.with_name(f"{decoded.name}.ffmpeg") if decoders.decoder else decoded
    second_difference = None
    try:
        second_log = log.with_name(f"{log.name}.ffmpeg")
        seconds, failed = _decode_with_ffmpeg(
            bitstream, pictures, decoders.ffmpeg, second, second_log, limits
        )
        decode_s = decode_s if decoders.decoder else seconds
        shown = second_log.read_text(encoding="utf-8", errors="replace")
        second_log.unlink()
        for text in _stream_problems(shown, pictures, intra_period):
            problem(text)
        if reference:
            second_difference = _difference(
                second, reference, "the reconstruction" if recon else "the stock decoder's"
            )
        else:
            second_difference = _count(second, pictures)
        if second_difference:
            said = [line for line in shown.strip().splitlines()
                    if not _SHOWN.match(line) and _ERROR.search(line)][-1:]
            problem(f"ffmpeg's output {second_difference}" + "".join(f" ({s[:200]})" for s in said))
        elif failed:
            problem(f"ffmpeg failed: {_short(failed)}")
    finally:
        if second != decoded:
            second.unlink(missing_ok=True)
    return Conformance(
        pictures.frames, ok, not difference if recon and decoders.decoder else None,
        not second_difference if reference else None, tuple(problems),
        "reconstruction" if recon else "decoder" if decoders.decoder else "none", hashes, decode_s,
    )


def _short(failure: str) -> str:
    """How a decoder ended, and what it says was the error; its log is gone with the session."""
    first, *lines = failure.splitlines()
    error = next((line.strip() for line in reversed(lines) if _ERROR.search(line)), None)
    return first.partition("; log ")[0] + (f" ({error})" if error else "")


def _pictures_of(log: Path) -> list[tuple[int, bool, list[str]]]:
    """(POC, a hash is right, planes with a wrong one) of each picture the stock decoder names."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [(int(m[1]), "(OK)" in m[0], _wrong_planes(m[0])) for m in _PICTURE.finditer(text)]


def _wrong_planes(picture: str) -> list[str]:
    """Planes whose hashes differ, of the decoder's words on a picture; all if it does not say."""
    if "(***ERROR***)" not in picture:
        return []
    found = _HASHES.search(picture)
    pairs = zip("YUV", found[1].split(","), found[2].split(","), strict=False) if found else ()
    return [plane for plane, one, other in pairs if one != other] or list("YUV")


def _decode_with_ffmpeg(
    bitstream: Path, pictures: Clip, ffmpeg: str, out: Path, log: Path, limits: Limits
) -> tuple[float | None, str | None]:
    """CPU seconds, and what failed. showinfo tells size, format and kind of each picture."""
    out.unlink(missing_ok=True)
    command = [
        ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-v", "info", "-y", "-threads", "1",
        "-protocol_whitelist", "file", "-c:v", "vvc", "-strict", "-2", "-f", "vvc",
        "-i", bitstream, "-map", "0:v:0", "-vf", "showinfo=checksum=0",
        "-fps_mode", "passthrough",
        "-pix_fmt", "yuv420p10le" if pictures.bit_depth == 10 else "yuv420p",
        "-f", "rawvideo", out,
    ]
    try:
        return run_measured(command, log, limits=limits).cpu_s, None
    except FastpartError as error:
        return None, str(error)


def _stream_problems(shown: str, pictures: Clip, intra_period: int | None) -> list[str]:
    """What the lines of ffmpeg's showinfo say that is not as wanted."""
    found = [m.groups() for m in map(_SHOWN.match, shown.splitlines()) if m]
    problems = []
    sizes = {size for _, size, _ in found} - {f"{pictures.width}x{pictures.height}"}
    if sizes:
        problems.append(
            f"pictures of {', '.join(sorted(sizes))}, wanted {pictures.width}x{pictures.height}"
        )
    form = "yuv420p10le" if pictures.bit_depth == 10 else "yuv420p"
    if forms := {form_found for form_found, _, _ in found} - {form}:
        problems.append(
            f"pictures of format {', '.join(sorted(forms))}, wanted {form} "
            f"({pictures.bit_depth} bits)"
        )
    if intra_period and found:
        keys = [index for index, (_, _, key) in enumerate(found) if key == "1"]
        # In output order; pictures that lead the first one may come before it.
        gaps = [b - a for a, b in pairwise([0, *keys, len(found)])]
        if max(gaps) > intra_period:
            problems.append(
                f"{max(gaps)} pictures without an intra random access picture, from picture "
                f"{[0, *keys][gaps.index(max(gaps))]} on, wanted {intra_period} or fewer"
            )
    return problems


def compare(found: Path, wanted: Clip, name: str) -> str | None:
    """Where a file of pictures first differs from wanted, called `name`; None if they are equal."""
    return _difference(found, wanted, name)


def _count(found: Path, pictures: Clip) -> str | None:
    """What is wrong with the number of pictures in a file."""
    size = found.stat().st_size if found.exists() else 0
    if size == pictures.frame_bytes * pictures.frames:
        return None
    return f"has {size / pictures.frame_bytes:g} pictures, wanted {pictures.frames}"


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


def _difference(decoded: Path, recon: Clip, name: str = "the reconstruction") -> str | None:
    """Where a decoded file first differs from the wanted one; None if they are equal."""
    one = recon.frame_bytes
    wanted_size, found_size = (
        path.stat().st_size if path.exists() else 0 for path in (recon.path, decoded)
    )
    if wanted_size != one * recon.frames:
        return (
            f"cannot be compared: {name} has "
            f"{wanted_size / one:g} pictures, wanted {recon.frames}"
        )
    complete = min(recon.frames, found_size // one)
    if complete:
        with recon.path.open("rb") as first, decoded.open("rb") as second:
            for picture in range(complete):
                wanted, found = first.read(one), second.read(one)
                if wanted != found:
                    place = _place(wanted, found, recon)
                    return f"differs from {name} in picture {picture}, {place}"
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
