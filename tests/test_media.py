"""Input clips: what comes in, byte for byte, and what is refused."""

from __future__ import annotations

import subprocess
from fractions import Fraction

import pytest
from conftest import write_clip

from fastpart.errors import FastpartError
from fastpart.media import (
    ffmpeg_exe,
    frame_bytes,
    load_cuts,
    make_cut,
    open_clip,
    parse_fps,
    parse_size,
)


def y4m_of(clip, colour="420jpeg", rate="F30000:1001", marker=b"FRAME\n"):
    """The clip's frames as a YUV4MPEG2 file."""
    frames = clip.path.read_bytes()
    one = clip.frame_bytes
    header = f"YUV4MPEG2 W{clip.width} H{clip.height} {rate} Ip A1:1 C{colour} XYSCSS=X\n".encode()
    return header + b"".join(
        marker + frames[at : at + one] for at in range(0, len(frames), one)
    )


@pytest.mark.parametrize(
    ("name", "fps", "depth"),
    [
        ("Name_64x48_60.yuv", Fraction(60), 8),
        ("Name_64x48_60fps_10bit_420.yuv", Fraction(60), 10),
        ("Name_64x48_50_10b.yuv", Fraction(50), 10),
        ("Name_64x48_60_8bit_420.yuv", Fraction(60), 8),
        ("Name_64x48_30fps_bt709_420_videoRange.yuv", Fraction(30), 8),
        ("name_64x48_29.97.yuv", Fraction(30000, 1001), 8),
        ("name-64x48p50.yuv", Fraction(50), 8),
        ("name_64x48_23.976fps_yuv420p10le.yuv", Fraction(24000, 1001), 10),
        ("25fps_name_64x48.yuv", Fraction(25), 8),
        ("Name2_64x48_24_crop.YUV", Fraction(24), 8),
    ],
)
def test_raw_name(tmp_path, name, fps, depth):
    made = write_clip(tmp_path / name, 64, 48, frames=2, bit_depth=depth)
    clip = open_clip(made.path, workdir=tmp_path / "work")
    assert (clip.width, clip.height, clip.fps, clip.bit_depth, clip.frames) == (64, 48, fps, depth, 2)
    assert clip.path == made.path
    assert not (tmp_path / "work").exists()


def test_raw_options_override_the_name(tmp_path):
    made = write_clip(tmp_path / "Name_64x48_60.yuv", 32, 16, frames=6, bit_depth=10)
    clip = open_clip(made.path, size=(32, 16), fps="30000/1001", bit_depth=10, frames=3, start=2,
                     workdir=tmp_path)
    assert (clip.width, clip.height, clip.bit_depth) == (32, 16, 10)
    assert (clip.fps, clip.frames, clip.start) == (Fraction(30000, 1001), 3, 2)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("plain.yuv", 6144, "picture size unknown.*--size"),
        ("plain_64x64.yuv", 6144, "frame rate unknown.*--fps"),
        ("plain_64x64_420.yuv", 6144, "frame rate unknown.*--fps"),
        ("cut_64x64_30.yuv", 6144 * 2 + 5, "12293 bytes.*multiple of 6144.*5 bytes are left.*--size"),
        ("odd_63x64_30.yuv", 6144, "63x64.*even numbers.*crop"),
        ("chroma_64x64_30_422.yuv", 8192, "422.*420.*ffmpeg"),
        ("deep_64x64_30_12bit.yuv", 12288, "12 bits.*8 or 10"),
        ("empty_64x64_30.yuv", 0, "empty"),
    ],
)
def test_raw_refused(tmp_path, name, size, message):
    path = tmp_path / name
    path.write_bytes(b"\x10" * size)
    with pytest.raises(FastpartError, match=message) as caught:
        open_clip(path, workdir=tmp_path)
    assert str(path) in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(FastpartError, match="No such file"):
        open_clip(tmp_path / "none_64x64_30.yuv", workdir=tmp_path)
    with pytest.raises(FastpartError, match="Is a directory"):
        open_clip(tmp_path, workdir=tmp_path)


def test_too_few_frames(clip, tmp_path):
    with pytest.raises(FastpartError, match=r"3 frames in the file, wanted 4 from frame 0"):
        open_clip(clip.path, frames=4, workdir=tmp_path)
    with pytest.raises(FastpartError, match=r"3 frames in the file, wanted 1 from frame 3"):
        open_clip(clip.path, start=3, workdir=tmp_path)
    with pytest.raises(FastpartError, match="at least one"):
        open_clip(clip.path, frames=0, workdir=tmp_path)


@pytest.mark.parametrize(("colour", "depth"), [("420jpeg", 8), ("420mpeg2", 8), ("420p10", 10)])
def test_y4m(tmp_path, colour, depth):
    made = write_clip(tmp_path / "a.yuv", 48, 34, frames=4, bit_depth=depth)
    (tmp_path / "a.y4m").write_bytes(y4m_of(made, colour, marker=b"FRAME Ip\n"))
    clip = open_clip(tmp_path / "a.y4m", workdir=tmp_path / "new" / "work")
    assert (clip.width, clip.height, clip.bit_depth, clip.frames) == (48, 34, depth, 4)
    assert clip.fps == Fraction(30000, 1001)
    assert clip.path.read_bytes() == made.path.read_bytes()


def test_y4m_part(clip, tmp_path):
    (tmp_path / "a.y4m").write_bytes(y4m_of(clip))
    part = open_clip(tmp_path / "a.y4m", fps=25, start=1, frames=1, workdir=tmp_path)
    one = clip.frame_bytes
    assert part.path.read_bytes() == clip.path.read_bytes()[one : 2 * one]
    assert (part.frames, part.start, part.fps) == (1, 0, Fraction(25))


def test_y4m_refused(clip, tmp_path):
    path = tmp_path / "a.y4m"
    work = tmp_path / "work"
    good = y4m_of(clip)
    for data, message in (
        (good[:-100], "truncated, frame 2 has 6044 bytes, wanted 6144.*--frames 2"),
        (good[: good.index(b"FRAME")], "0 frames in the file"),
        (good[:-6150] + b"GRAME\n" + good[-6144:], "frame 2 starts with"),
        (y4m_of(clip, "422"), "C422, wanted 4:2:0"),
        (y4m_of(clip, "444"), "C444, wanted 4:2:0"),
        (y4m_of(clip, "420p12"), "C420p12, wanted 4:2:0 at 8 or 10 bits"),
        (y4m_of(clip, rate="F0:0"), "no frame rate.*--fps"),
        (good.replace(b"W64", b"W63"), "63x64, wanted even"),
        (good.replace(b" W64", b""), "gives no picture size"),
        (b"RIFF" + good, "wanted a YUV4MPEG2 header"),
    ):
        path.write_bytes(data)
        with pytest.raises(FastpartError, match=message):
            open_clip(path, workdir=work)
        assert not work.exists() or not list(work.iterdir()), "leftovers"


@pytest.mark.parametrize(
    ("pix_fmt", "depth", "codec"),
    [
        ("yuv420p", 8, ("ffv1",)),
        ("yuvj420p", 8, ("libx264", "-qp", "0")),
        ("yuv420p10le", 10, ("ffv1",)),
    ],
)
def test_coded_file_keeps_samples(tmp_path, ffmpeg, pix_fmt, depth, codec):
    made = write_clip(tmp_path / "a.yuv", 64, 36, frames=5, bit_depth=depth)
    raw = ("-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", "64x36", "-r", "24000/1001")
    ffmpeg(*raw, "-i", made.path, "-c:v", *codec, tmp_path / "a.mkv")
    clip = open_clip(tmp_path / "a.mkv", workdir=tmp_path / "work")
    assert (clip.width, clip.height, clip.bit_depth, clip.frames) == (64, 36, depth, 5)
    assert clip.fps == Fraction(24000, 1001)
    assert clip.path.read_bytes() == made.path.read_bytes()
    part = open_clip(tmp_path / "a.mkv", start=2, frames=2, workdir=tmp_path / "work")
    one = made.frame_bytes
    assert part.path.read_bytes() == made.path.read_bytes()[2 * one : 4 * one]
    with pytest.raises(FastpartError, match="5 frames in the file, wanted 6"):
        open_clip(tmp_path / "a.mkv", frames=6, workdir=tmp_path / "work")


def test_coded_file_cut_short_warns(tmp_path, ffmpeg):
    made = write_clip(tmp_path / "a.yuv", 64, 64, frames=6)
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "64x64", "-r", "25")
    ffmpeg(*raw, "-i", made.path, "-c:v", "ffv1", tmp_path / "a.mkv")
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "short.mkv").write_bytes(data[: len(data) * 2 // 3])
    with pytest.warns(UserWarning, match=r"short\.mkv: is it complete"):
        clip = open_clip(tmp_path / "short.mkv", workdir=tmp_path)
    assert 1 <= clip.frames < 6


def test_coded_file_above_10_bits(tmp_path, ffmpeg):
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x36:r=25", "-frames:v", 1, "-pix_fmt", "yuv420p12le",
           "-c:v", "ffv1", tmp_path / "a.mkv")
    clip = open_clip(tmp_path / "a.mkv", workdir=tmp_path)
    assert clip.bit_depth == 10
    assert clip.path.stat().st_size == frame_bytes(64, 36, 10)


def test_coded_file_refused(tmp_path, ffmpeg):
    for pix_fmt in ("yuv422p", "yuv444p10le", "gray", "bgr0"):
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x36:r=25", "-frames:v", 1, "-pix_fmt", pix_fmt,
               "-c:v", "ffv1", tmp_path / "a.mkv")
        with pytest.raises(FastpartError, match=f"pixel format {pix_fmt}, wanted 4:2:0"):
            open_clip(tmp_path / "a.mkv", workdir=tmp_path / "work")
    (tmp_path / "notes.mp4").write_text("no video here")
    with pytest.raises(FastpartError, match="ffmpeg finds no video"):
        open_clip(tmp_path / "notes.mp4", workdir=tmp_path / "work")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=63x36:r=25", "-frames:v", 1, "-pix_fmt", "yuv420p",
           "-c:v", "ffv1", tmp_path / "odd.mkv")
    with pytest.raises(FastpartError, match="63x36, wanted even"):
        open_clip(tmp_path / "odd.mkv", workdir=tmp_path / "work")
    assert not list((tmp_path / "work").glob("*"))


def test_options_that_contradict_the_file(clip, tmp_path):
    (tmp_path / "a.y4m").write_bytes(y4m_of(clip))
    with pytest.raises(FastpartError, match="says 64x64 at 8 bits itself"):
        open_clip(tmp_path / "a.y4m", size=(32, 32), workdir=tmp_path)


@pytest.fixture
def source(tmp_path, ffmpeg):
    """10 frames of 96x54 in a folder of clips."""
    (tmp_path / "clips").mkdir()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x54:r=30", "-frames:v", 10, "-pix_fmt", "yuv420p",
           "-c:v", "ffv1", tmp_path / "clips" / "a.mkv")
    return tmp_path / "clips"


CUT = {"name": "a_64x48_30", "clip": "a.mkv", "size": [64, 48], "start": 4, "frames": 3, "fps": 30}


def test_cut_is_the_documented_command(source, tmp_path):
    clip = make_cut(CUT, source, tmp_path / "out" / "a.yuv")
    filters = (
        r"select='between(n\,4\,6)',"
        "scale=64:48:force_original_aspect_ratio=increase:flags=lanczos,crop=64:48"
    )
    wanted = subprocess.run(
        [ffmpeg_exe(), "-v", "error", "-i", source / "a.mkv", "-vf", filters,
         "-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"],
        check=True, capture_output=True,
    ).stdout
    assert clip.path.read_bytes() == wanted
    assert len(wanted) == 3 * frame_bytes(64, 48, 8)
    assert (clip.width, clip.height, clip.frames, clip.fps) == (64, 48, 3, Fraction(30))


def test_cut_without_scaling_takes_the_frames_as_they_are(source, tmp_path):
    whole = open_clip(source / "a.mkv", workdir=tmp_path / "work")
    cut = make_cut({**CUT, "size": [96, 54]}, source, tmp_path / "a.yuv")
    one = whole.frame_bytes
    assert cut.path.read_bytes() == whole.path.read_bytes()[4 * one : 7 * one]


def test_cut_of_a_deep_source_keeps_10_bits(tmp_path, ffmpeg):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x54:r=30", "-frames:v", 8, "-pix_fmt", "yuv420p10le",
           "-c:v", "ffv1", tmp_path / "a.mkv")
    cut = make_cut(CUT, tmp_path, tmp_path / "a.yuv")
    assert cut.bit_depth == 10
    assert cut.path.stat().st_size == 3 * frame_bytes(64, 48, 10)


def test_cut_refused(source, tmp_path):
    out = tmp_path / "out" / "a.yuv"
    with pytest.raises(FastpartError, match="got 2 frames, wanted 3 from frame 8"):
        make_cut({**CUT, "start": 8}, source, out)
    with pytest.raises(FastpartError, match="No such file"):
        make_cut({**CUT, "clip": "b.mkv"}, source, out)
    with pytest.raises(FastpartError, match="64x47, wanted even"):
        make_cut({**CUT, "size": [64, 47]}, source, out)
    assert not list(out.parent.glob("*")), "leftovers"


def test_load_cuts(tmp_path):
    path = tmp_path / "cuts.toml"
    entry = '[[cut]]\nname = "{}"\nclip = "a.mkv"\nsize = [64, 48]\nstart = 4\nframes = 3\nfps = 30\n'
    path.write_text(entry.format("one") + entry.format("two"))
    assert list(load_cuts(path)) == ["one", "two"]
    assert load_cuts(path)["two"] == {**CUT, "name": "two"}
    for text, message in (
        (entry.format("one") * 2, "distinct names"),
        ("", "distinct names"),
        ('[[cut]]\nname = "one"\n', "cut 1 lacks clip, size, start, frames, fps"),
        ("[[cut", "cannot be read as TOML"),
    ):
        path.write_text(text)
        with pytest.raises(FastpartError, match=message):
            load_cuts(path)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("60", Fraction(60)),
        (25, Fraction(25)),
        ("30000/1001", Fraction(30000, 1001)),
        ("30000:1001", Fraction(30000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        (12.5, Fraction(25, 2)),
    ],
)
def test_parse_fps(value, rate):
    assert parse_fps(value) == rate


def test_parse_refused():
    for value in ("fast", "0", "-5", "1/0"):
        with pytest.raises(FastpartError, match="frame rate"):
            parse_fps(value)
    assert parse_size("1920x1080") == (1920, 1080)
    with pytest.raises(FastpartError, match="WIDTHxHEIGHT"):
        parse_size("1080p")
