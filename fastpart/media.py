"""Input clips: turns any video file into a raw planar 4:2:0 file that VTM can read."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from fastpart.errors import FastpartError
from fastpart.files import appearing

#: Colour tags of a YUV4MPEG2 header that mean planar 4:2:0, with their bit depth.
Y4M_DEPTHS = {"420": 8, "420jpeg": 8, "420mpeg2": 8, "420paldv": 8, "420p10": 10}

#: ffmpeg's names of 4:2:0 pixel formats, and the format to decode them to:
#: samples are moved, not changed, except that more than 10 bits become 10.
FFMPEG_420 = {
    "yuv420p": "yuv420p",
    "yuvj420p": "yuvj420p",
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    **{
        name + end: "yuv420p10le"
        for name in ("yuv420p9", "yuv420p10", "yuv420p12", "yuv420p14", "yuv420p16",
                     "p010", "p012", "p016")
        for end in ("le", "be")
    },
}

TO_420 = "convert it first, for example with ffmpeg -i IN -pix_fmt yuv420p OUT.y4m"

_COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class Clip:
    """A raw planar 4:2:0 file and how to read it.

    path: file of whole frames, each Y (height x width), then U and V (height/2 x width/2);
        one byte a sample at 8 bits, two bytes little endian at 10 bits.
    width, height: luma samples, both even.
    fps: frames per second.
    bit_depth: 8 or 10.
    frames: number of frames to use.
    start: index in the file of the first frame to use.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    bit_depth: int
    frames: int
    start: int = 0

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in the file."""
        return frame_bytes(self.width, self.height, self.bit_depth)


def frame_bytes(width: int, height: int, bit_depth: int) -> int:
    """Bytes of one 4:2:0 frame; above 8 bits a sample takes two bytes."""
    return width * height * 3 // 2 * (1 if bit_depth == 8 else 2)


def parse_size(text: str) -> tuple[int, int]:
    """Read `1920x1080` as (width, height) in luma samples.

    Raises FastpartError when the text has another form.
    """
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match:
        raise FastpartError(f"--size {text}: wanted WIDTHxHEIGHT, for example 1920x1080")
    return int(match[1]), int(match[2])


def parse_fps(value: str | float | Fraction) -> Fraction:
    """Read a frame rate in frames per second: `60`, `30000/1001`, `30000:1001`, `29.97`.

    A decimal within 0.005 of N*1000/1001 means that rate of the NTSC family.
    Raises FastpartError when it is no positive number.
    """
    try:
        rate = Fraction(str(value).replace(":", "/"))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise FastpartError(f"frame rate {value}: wanted a positive number such as 60 or 30000/1001")
    if rate.denominator != 1 and "." in str(value):
        ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
        if abs(ntsc - rate) < Fraction(5, 1000):
            return ntsc
    return rate.limit_denominator(100_000)


def ffmpeg_exe() -> str:
    """Path of the ffmpeg binary that imageio-ffmpeg brings (or that IMAGEIO_FFMPEG_EXE names)."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise FastpartError(
            f"ffmpeg: {error}; reinstall with pip install --force-reinstall imageio-ffmpeg, "
            "or set IMAGEIO_FFMPEG_EXE to an ffmpeg binary"
        ) from error


def open_clip(
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    fps: str | float | Fraction | None = None,
    bit_depth: int | None = None,
    frames: int | None = None,
    start: int = 0,
    workdir: str | os.PathLike,
) -> Clip:
    """Open a video file as a raw clip.

    A `.yuv` file is used in place; size (luma samples), fps and bit_depth come from the
    arguments or else from its name (`Name_1920x1080_60.yuv`,
    `Name_3840x2160_60fps_10bit_420.yuv`). A `.y4m` file and, through ffmpeg, any other
    file are written to workdir as raw frames, unchanged, in the order and number in which
    they decode; fps then overrides the file's nominal rate.

    frames: how many to use, from frame `start` on; all that follow when None.
    Raises FastpartError for what VTM could not encode: unreadable or truncated files,
    unknown or odd sizes (4:2:0 of H.266 codes even ones), chroma formats other than 4:2:0,
    depths other than 8 and 10 bits, too few frames.
    """
    path = Path(path)
    if start < 0 or (frames is not None and frames < 1):
        raise FastpartError(f"{path}: frames {frames} from {start}: wanted at least one, from 0 on")
    if bit_depth not in (None, 8, 10):
        raise FastpartError(f"{path}: bit depth {bit_depth}: wanted 8 or 10")
    _require_readable(path)
    rate = None if fps is None else parse_fps(fps)
    if path.suffix.lower() == ".yuv":
        return _open_raw(path, size, rate, bit_depth, frames, start)
    if path.suffix.lower() == ".y4m":
        with path.open("rb") as stream:
            clip = _convert_y4m(stream, path, Path(workdir), rate, frames, start)
    else:
        with _decode(path, None if frames is None else start + frames) as stream:
            clip = _convert_y4m(stream, path, Path(workdir), rate, frames, start)
    if size not in (None, (clip.width, clip.height)) or bit_depth not in (None, clip.bit_depth):
        raise FastpartError(
            f"{path}: it says {clip.width}x{clip.height} at {clip.bit_depth} bits itself; "
            "leave out --size and --bit-depth, they are for raw .yuv files"
        )
    return clip


def load_cuts(path: str | os.PathLike) -> dict[str, dict]:
    """Read a file of named test sequences, in its order.

    Each `[[cut]]` of the TOML file has name, clip (path below a clips folder), size
    ([width, height]), start and frames (in source frames), fps, and optionally
    intra_period. Returns them by name. Raises FastpartError when one is malformed.
    """
    path = Path(path)
    try:
        cuts = tomllib.loads(path.read_text(encoding="utf-8")).get("cut", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise FastpartError(f"{path}: cannot be read as TOML: {error}") from error
    wanted = ("name", "clip", "size", "start", "frames", "fps")
    for number, cut in enumerate(cuts, 1):
        missing = [key for key in wanted if key not in cut]
        if missing:
            raise FastpartError(f"{path}: cut {number} lacks {', '.join(missing)}")
    by_name = {cut["name"]: cut for cut in cuts}
    if not cuts or len(by_name) != len(cuts):
        raise FastpartError(f"{path}: {len(cuts)} cuts, {len(by_name)} names; wanted distinct names")
    return by_name


def named_cuts(path: str | os.PathLike, names: Sequence[str], where: str | os.PathLike) -> list[dict]:
    """The cuts of these names in a file as of `load_cuts`. where: what names them.

    Raises FastpartError when the file is malformed or lacks one.
    """
    cuts = load_cuts(path)
    if unknown := [name for name in names if name not in cuts]:
        raise FastpartError(
            f"{where}: no cut {', '.join(unknown)} in {path}, wanted some of {', '.join(cuts)}"
        )
    return [cuts[name] for name in names]


@dataclass(frozen=True)
class Facts:
    """What a video file holds: size in luma samples, frames per second, bits a sample that a cut keeps, frames."""

    width: int
    height: int
    fps: Fraction
    bit_depth: int
    frames: int


def probe(path: str | os.PathLike) -> Facts:
    """Size, rate, depth and number of frames of a video, which is decoded for that; a raw `.yuv` says all but the
    last in its name.

    Raises FastpartError for a file that ffmpeg or its name does not explain.
    """
    path = Path(path)
    _require_readable(path)
    if path.suffix.lower() == ".yuv":
        raw = _open_raw(path, None, None, None, None, 0)
        return Facts(raw.width, raw.height, raw.fps, raw.bit_depth, raw.frames)
    video = _video_line(path)
    size = re.search(r"\b(\d{2,5})x(\d{2,5})\b", video)
    rate = re.search(r"([\d.]+)(k?) (?:fps|tbr)\b", video)
    counted = subprocess.run(
        [ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", str(path), "-map", "0:v:0",
         "-fps_mode", "passthrough", "-f", "null", "-"],
        check=False, capture_output=True, text=True, errors="replace",
    )
    frames = re.findall(r"frame=\s*(\d+)", counted.stderr)
    if counted.returncode or not (size and rate and frames):
        raise FastpartError(f"{path}: ffmpeg does not tell its size, rate and frames:\n{_tail(counted.stderr)}")
    fps = parse_fps(float(rate[1]) * 1000 if rate[2] else rate[1])
    return Facts(int(size[1]), int(size[2]), fps, _depth_to_keep(path, _format_in(video)), int(frames[-1]))


def make_cut(cut: dict, clips_root: str | os.PathLike, out_path: str | os.PathLike) -> Clip:
    """Cut a named test sequence from its source clip into the raw file out_path.

    Frames [start, start+frames) in display order, scaled with Lanczos until they cover
    size (or the larger `cover`, if the cut names one), cropped about the centre to size;
    8-bit 4:2:0, or 10-bit when the source has more than 8 bits. A raw `.yuv` source says size and bit depth in its
    name, as for `open_clip`; a 4:2:2 or 4:4:4 source becomes 4:2:0.
    Raises FastpartError when the source is missing or has too few frames.
    """
    source = Path(clips_root) / cut["clip"]
    _require_readable(source)
    if source.suffix.lower() == ".yuv":
        raw = _open_raw(source, None, parse_fps(cut["fps"]), None, None, 0)
        depth, given = raw.bit_depth, raw_input(raw)
    else:
        depth, given = _depth_to_keep(source, _pixel_format(source)), []
    width, height = cut["size"]
    _require_even(source, width, height)
    cover_width, cover_height = cut.get("cover", cut["size"])
    start, frames = cut["start"], cut["frames"]
    filters = (
        rf"select='between(n\,{start}\,{start + frames - 1})',"
        f"scale={cover_width}:{cover_height}:force_original_aspect_ratio=increase:flags=lanczos,"
        f"crop={width}:{height}"
    )
    out_path = Path(out_path)
    with appearing(out_path, parents=True) as temporary:
        command = [ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *given, "-i", str(source),
                   "-vf", filters, "-fps_mode", "passthrough", "-frames:v", str(frames),
                   "-pix_fmt", "yuv420p" if depth == 8 else "yuv420p10le",
                   "-f", "rawvideo", str(temporary)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            raise FastpartError(f"{source}: ffmpeg cannot cut it:\n{_tail(done.stderr)}")
        found = temporary.stat().st_size / frame_bytes(width, height, depth)
        if found != frames:
            raise FastpartError(
                f"{source}: cut {cut['name']} got {found:g} frames, wanted {frames} from frame "
                f"{start} on; the source is too short or damaged: correct start and frames"
            )
    return Clip(out_path, width, height, parse_fps(cut["fps"]), depth, frames)


def _require_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise FastpartError(f"{path}: the file is empty, wanted a video; get it again")
    except OSError as error:
        raise FastpartError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _require_even(path: Path, width: int, height: int) -> None:
    if width % 2 or height % 2 or width < 8 or height < 8:
        raise FastpartError(
            f"{path}: picture size {width}x{height}, wanted even numbers from 8 on "
            "(4:2:0 has half the luma size in chroma); crop it first, for example with "
            "ffmpeg -i IN -vf crop=floor(iw/2)*2:floor(ih/2)*2 OUT.y4m"
        )


def _rest_of(path: Path, found: int, frames: int | None, start: int) -> int:
    """How many frames to use of the `found` ones."""
    wanted = found - start if frames is None else frames
    if wanted < 1 or start + wanted > found:
        raise FastpartError(
            f"{path}: {found} frames in the file, wanted {max(wanted, 1)} from frame {start} on; "
            "lower --start or --frames"
        )
    return wanted


def _open_raw(path, size, fps, bit_depth, frames, start) -> Clip:
    named_size, named_fps, named_depth = _from_name(path)
    size = size or named_size
    fps = fps or named_fps
    depth = bit_depth or named_depth
    if size is None:
        raise FastpartError(
            f"{path}: picture size unknown, a raw file does not say it; give --size WIDTHxHEIGHT "
            "or a name such as Name_1920x1080_60.yuv"
        )
    if fps is None:
        raise FastpartError(
            f"{path}: frame rate unknown, a raw file does not say it; give --fps "
            "or a name such as Name_1920x1080_60.yuv"
        )
    width, height = size
    _require_even(path, width, height)
    found = path.stat().st_size
    one = frame_bytes(width, height, depth)
    if found % one:
        raise FastpartError(
            f"{path}: {found} bytes, wanted a multiple of {one} ({width}x{height} 4:2:0 at {depth} "
            f"bits), {found % one} bytes are left over; the file is truncated, or correct "
            "--size and --bit-depth"
        )
    return Clip(path, width, height, fps, depth, _rest_of(path, found // one, frames, start), start)


def _from_name(path: Path) -> tuple[tuple[int, int] | None, Fraction | None, int]:
    """Size, rate and bit depth that a raw file's name tells in the habits of the field."""
    name = path.stem
    size = re.search(r"(?<!\d)(\d{2,5})x(\d{2,5})(?!\d)", name)
    after = name[size.end():] if size else name
    chroma = re.search(r"(?<![0-9])(400|422|444)(?![0-9])", after)
    if chroma:
        raise FastpartError(f"{path}: its name says chroma format {chroma[1]}, wanted 420; {TO_420}")
    fps = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)fps", name) or re.match(
        r"p?_?(?!420(?!\d))(\d{1,3}(?:\.\d+)?)(?=p?(?:_|-|$))", after
    )
    depth = re.search(r"(?<!\d)(\d+)b(?:it)?s?(?![a-z0-9])|420p(\d+)(?:le)?(?!\d)", after)
    bits = int(depth[1] or depth[2]) if depth else 8
    if bits not in (8, 10):
        raise FastpartError(f"{path}: its name says {bits} bits, wanted 8 or 10; {TO_420}")
    return (
        (int(size[1]), int(size[2])) if size else None,
        parse_fps(fps[1]) if fps else None,
        bits,
    )


def _convert_y4m(stream: BinaryIO, source: Path, workdir: Path, fps, frames, start) -> Clip:
    """Write the frames of a YUV4MPEG2 stream to a raw file in workdir."""
    width, height, file_fps, depth = _read_y4m_header(stream, source)
    _require_even(source, width, height)
    fps = fps or file_fps
    if fps is None:
        raise FastpartError(f"{source}: its header gives no frame rate; give --fps")
    one = frame_bytes(width, height, depth)
    rate = f"{float(fps):.5g}"
    out = workdir / f"{source.stem}_{width}x{height}_{rate}_{depth}bit.yuv"
    with appearing(out, parents=True) as temporary, temporary.open("wb") as raw:
        found = 0
        while (frames is None or found < start + frames) and _read_frame_marker(stream, source, found):
            _copy(stream, raw if found >= start else None, one, source, found)
            found += 1
        used = _rest_of(source, found, frames, start)
    return Clip(out, width, height, fps, depth, used)


def _read_y4m_header(stream: BinaryIO, source: Path) -> tuple[int, int, Fraction | None, int]:
    line = stream.readline(4096)
    words = line.decode("ascii", "replace").split()
    if not words or words[0] != "YUV4MPEG2" or not line.endswith(b"\n"):
        raise FastpartError(f"{source}: starts with {line[:16]!r}, wanted a YUV4MPEG2 header")
    tags = {word[0]: word[1:] for word in reversed(words[1:])}
    try:
        width, height = int(tags["W"]), int(tags["H"])
    except (KeyError, ValueError) as error:
        raise FastpartError(f"{source}: its header {line!r} gives no picture size") from error
    colour = tags.get("C", "420jpeg")
    if colour not in Y4M_DEPTHS:
        raise FastpartError(
            f"{source}: colour format C{colour}, wanted 4:2:0 at 8 or 10 bits "
            f"(C{', C'.join(Y4M_DEPTHS)}); {TO_420}"
        )
    rate = re.fullmatch(r"(\d+):(\d+)", tags.get("F", ""))
    known = rate and int(rate[1]) and int(rate[2])
    return width, height, Fraction(int(rate[1]), int(rate[2])) if known else None, Y4M_DEPTHS[colour]


def _read_frame_marker(stream: BinaryIO, source: Path, index: int) -> bool:
    """Read the line before a frame; False at the end of the stream."""
    line = stream.readline(4096)
    if not line:
        return False
    if not line.startswith(b"FRAME") or not line.endswith(b"\n"):
        raise FastpartError(
            f"{source}: frame {index} starts with {line[:16]!r}, wanted FRAME; "
            "the file is damaged or truncated, get it again"
        )
    return True


def _copy(stream: BinaryIO, out: BinaryIO | None, count: int, source: Path, index: int) -> None:
    """Move one frame of `count` bytes from stream to out, or past it."""
    left = count
    while left:
        block = stream.read(min(left, _COPY_BYTES))
        if not block:
            raise FastpartError(
                f"{source}: truncated, frame {index} has {count - left} bytes, wanted {count}; "
                f"get the file again, or use --frames {index} if those frames are enough"
            )
        if out:
            out.write(block)
        left -= len(block)


def _decoded_format(path: Path) -> str:
    """Pixel format to decode the file's first video stream to, samples unchanged."""
    found = _pixel_format(path)
    if found not in FFMPEG_420:
        raise FastpartError(f"{path}: pixel format {found}, wanted 4:2:0 such as yuv420p; {TO_420}")
    return FFMPEG_420[found]


def _depth_to_keep(path: Path, pixel_format: str) -> int:
    """Bit depth to convert a format of luma and chroma to: 8, or 10 if it has more. Refuses others, such as RGB."""
    if not re.match(r"yuv|nv[12]|uyvy|yuyv|p[024]1|y21|v[23]10", pixel_format):
        raise FastpartError(f"{path}: pixel format {pixel_format}, wanted luma and chroma; {TO_420}")
    return 10 if pixel_format.endswith(("le", "be")) else 8


def raw_input(clip: Clip) -> list[str]:
    """What ffmpeg must be told of a raw file."""
    form = "yuv420p" if clip.bit_depth == 8 else "yuv420p10le"
    return ["-f", "rawvideo", "-video_size", f"{clip.width}x{clip.height}", "-pixel_format", form]


def _pixel_format(path: Path) -> str:
    """ffmpeg's name of the pixel format of the file's first video stream."""
    return _format_in(_video_line(path))


def _format_in(video: str) -> str:
    """The pixel format that such a line names."""
    # The codec's own parentheses may hold commas; the pixel format is the field after it.
    fields = re.sub(r"\([^()]*\)", "", video).split(",")
    return fields[1].strip() if len(fields) > 1 else "unknown"


def _video_line(path: Path) -> str:
    """What ffmpeg says of the file's first video stream."""
    done = subprocess.run(
        [ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", str(path)],
        check=False, capture_output=True, text=True, errors="replace",
    )
    video = re.search(r"^\s*Stream #\S+.*?: Video: (.*)$", done.stderr, re.MULTILINE)
    if not video:
        raise FastpartError(f"{path}: ffmpeg finds no video in it:\n{_tail(done.stderr)}")
    return video[1]


@contextlib.contextmanager
def _decode(path: Path, frames: int | None) -> Iterator[BinaryIO]:
    """The file's first `frames` pictures as a YUV4MPEG2 stream from ffmpeg."""
    command = [ffmpeg_exe(), "-nostdin", "-v", "error", "-i", str(path), "-map", "0:v:0",
               "-fps_mode", "passthrough", "-pix_fmt", _decoded_format(path)]
    if frames is not None:
        command += ["-frames:v", str(frames)]
    command += ["-f", "yuv4mpegpipe", "-strict", "-1", "-"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield process.stdout
            # Read to the end: a decoder whose pipe closes early reports a failure of its own.
            process.stdout.read()
            failed = process.wait()
            said = _stderr_of(errors)
            if failed:
                raise FastpartError(f"{path}: ffmpeg cannot decode it:\n{said}")
            if said:
                warnings.warn(f"{path}: is it complete? ffmpeg says:\n{said}", stacklevel=4)
        except FastpartError as error:
            # What the stream lacked, ffmpeg may explain as it ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(timeout=0.5) and (said := _stderr_of(errors)) not in str(error):
                    raise FastpartError(f"{error}\nffmpeg says:\n{said}") from error
            raise
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _stderr_of(file: BinaryIO) -> str:
    file.seek(0)
    return _tail(file.read().decode("utf-8", "replace"))


def _tail(text: str, lines: int = 5) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
