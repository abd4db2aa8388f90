"""PSNR, bitstream bits and BD-rate, against plain formulas and against VTM itself."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from conftest import write_clip

from fastpart.bitstream import bitstream_bits
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.quality import LOSSLESS_PSNR, bd_rate, curve_notes, psnr, vmaf
from fastpart.vtm import RECON_BIT_DEPTH, encode_command, run_encoder


def plain_psnr(a: np.ndarray, b: np.ndarray, peak: int) -> float:
    mse = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return 10 * math.log10(peak**2 / mse)


def planes_of(clip: Clip, frame: int) -> list[np.ndarray]:
    samples = np.fromfile(clip.path, "u1" if clip.bit_depth == 8 else "<u2").astype(int)
    luma = clip.width * clip.height
    one = samples.reshape(-1, luma * 3 // 2)[frame]
    return [one[:luma], one[luma : luma * 5 // 4], one[luma * 5 // 4 :]]


@pytest.mark.parametrize(("depth", "recon_depth"), [(8, 8), (8, 10), (10, 10), (10, 8)])
def test_psnr_is_the_formula(tmp_path, depth, recon_depth):
    source = write_clip(tmp_path / "a.yuv", 50, 38, 3, depth, seed=1)
    recon = write_clip(tmp_path / "b.yuv", 50, 38, 3, recon_depth, seed=2)
    found = psnr(source, recon)
    common = max(depth, recon_depth)
    wanted = [
        [
            plain_psnr(a << (common - depth), b << (common - recon_depth), 255 << (common - 8))
            for a, b in zip(planes_of(source, frame), planes_of(recon, frame), strict=True)
        ]
        for frame in range(3)
    ]
    assert found.pictures == pytest.approx(np.array(wanted), abs=1e-9)
    assert found.planes == pytest.approx(np.mean(wanted, axis=0))
    assert found.psnr_611 == pytest.approx(np.mean(wanted, axis=0) @ [0.75, 0.125, 0.125])


def test_psnr_of_equal_planes(tmp_path, clip):
    other = tmp_path / "b.yuv"
    data = bytearray(clip.path.read_bytes())
    data[0] ^= 1
    other.write_bytes(data)
    found = psnr(clip, replace(clip, path=other)).pictures
    assert found[0, 0] == pytest.approx(10 * math.log10(255**2 * 64 * 64))
    assert (found.ravel()[1:] == LOSSLESS_PSNR).all()


def test_psnr_starts_where_the_clip_starts(tmp_path, clip):
    one = clip.frame_bytes
    (tmp_path / "b.yuv").write_bytes(clip.path.read_bytes()[one:])
    recon = replace(clip, path=tmp_path / "b.yuv", frames=2)
    assert psnr(replace(clip, start=1, frames=2), recon).planes == (LOSSLESS_PSNR,) * 3


def test_psnr_refused(tmp_path, clip):
    with pytest.raises(FastpartError, match="frames 2, wanted 3"):
        psnr(clip, replace(clip, frames=2))
    with pytest.raises(FastpartError, match="width 32, wanted 64"):
        psnr(clip, replace(clip, width=32))
    short = tmp_path / "short.yuv"
    short.write_bytes(clip.path.read_bytes()[:-1])
    with pytest.raises(FastpartError, match=r"short\.yuv: ends inside a frame"):
        psnr(clip, replace(clip, path=short))


def nal(kind: int, payload: bytes, start: bytes = b"\0\0\1") -> bytes:
    """A NAL unit of layer 0, TemporalId 0 with its start code."""
    return start + bytes([0, kind << 3 | 1]) + payload


def test_bitstream_bits(tmp_path):
    path = tmp_path / "a.266"
    long = b"\0\0\0\1"
    parameters = nal(15, b"\x55" * 20, long)
    picture = nal(7, b"\x66\0\0\3\1" * 10, long)
    prefix = nal(23, b"\x77" * 7, long)
    suffix = nal(24, b"\x88" * 18)
    trailing = b"\0" * 3
    path.write_bytes(parameters + prefix + trailing + picture + suffix + picture)
    assert bitstream_bits(path) == {
        "total": 8 * (len(parameters + prefix + suffix) + 3 + 2 * len(picture)),
        "sei": 8 * (len(prefix) + 3 + len(suffix)),
    }
    path.write_bytes(picture + suffix + trailing)
    assert bitstream_bits(path)["sei"] == 8 * (len(suffix) + 3)
    path.write_bytes(picture)
    assert bitstream_bits(path) == {"total": 8 * len(picture), "sei": 0}


@pytest.mark.parametrize("data", [b"", b"\0\0", b"not a bitstream", b"x\0\0\1\0\x09"])
def test_bitstream_refused(tmp_path, data):
    path = tmp_path / "a.266"
    path.write_bytes(data)
    with pytest.raises(FastpartError, match=r"a\.266"):
        bitstream_bits(path)


def test_bd_rate_of_a_scaled_curve():
    anchor = [(1000.0, 33.0), (2000.0, 36.0), (4000.0, 38.5), (8000.0, 40.5)]
    saving = [(rate * 0.9, quality) for rate, quality in anchor]
    assert bd_rate(anchor, anchor) == pytest.approx(0, abs=1e-9)
    assert bd_rate(anchor, saving) == pytest.approx(-10)
    assert bd_rate(anchor, saving[::-1]) == pytest.approx(-10)


@pytest.mark.parametrize(("anchor", "test", "wanted"), [
    ([(108048.8736, 43.6471), (61279.976, 40.3953), (33905.6656, 37.247), (18883.6928, 34.2911)],
     [(108061.2784, 43.6768), (61299.9936, 40.4232), (33928.7472, 37.2761), (18910.912, 34.3147)],
     -0.465215420752807),
    ([(40433.8848, 37.5761), (7622.7456, 35.3756), (2394.488, 33.8977), (1017.6184, 32.0603)],
     [(40370.12, 37.5982), (7587.0024, 35.4025), (2390.0944, 33.9194), (1017.0984, 32.0822)],
     -1.8779823450567612),
])
def test_bd_rate_of_published_curves(anchor, test, wanted):
    """Curves of JCTVC-E137; results as the tests of Netflix VMAF's BD-rate calculator (pchip) and of
    Android's video quality suite give them."""
    assert bd_rate(anchor, test) == pytest.approx(wanted, abs=1e-6)


def test_notes_on_curves():
    anchor = [(1.0, 30.0), (2.0, 33.0), (4.0, 36.0), (8.0, 39.0)]
    assert curve_notes(anchor, anchor) == []
    bent = [(1.0, 30.0), (2.0, 34.0), (4.0, 33.5), (8.0, 39.0)]
    assert ["not monotonic" in note for note in curve_notes(anchor, bent)] == [True]
    apart = [(rate, quality + 4) for rate, quality in anchor]
    assert "share 38% of their PSNR range" in curve_notes(anchor, apart)[0]
    with pytest.raises(FastpartError, match="no PSNR in common"):
        bd_rate(anchor, [(rate, quality + 20) for rate, quality in anchor])
    with pytest.raises(FastpartError, match="equal PSNR twice"):
        bd_rate(anchor, [(1.0, 30.0), (2.0, 30.0), (4.0, 36.0), (8.0, 39.0)])


def test_vmaf_of_a_blurred_clip_is_lower(tmp_path, ffmpeg):
    clip = write_clip(tmp_path / "a.yuv", 192, 128, 4)
    blurred = replace(clip, path=tmp_path / "b.yuv")
    ffmpeg("-f", "rawvideo", "-s", "192x128", "-i", clip.path, "-vf", "boxblur=3", "-f", "rawvideo",
           blurred.path)
    same, worse = (vmaf(clip, one, tmp_path / "log.json") for one in (clip, blurred))
    assert worse < same - 10 and same > 90


def test_bd_rate_refused(monkeypatch):
    curve = [(1.0, 30.0), (2.0, 33.0), (3.0, 35.0)]
    with pytest.raises(FastpartError, match="3 points on the anchor curve"):
        bd_rate(curve, curve)
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    with pytest.raises(FastpartError, match=r"fastpart\[report\]"):
        bd_rate(curve, curve)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (68, 46)])
def test_agrees_with_vtm(tmp_path, vtm_home, width, height):
    """Bits without SEI equal a run without hashes; PSNR equals VTM's, picture by picture."""
    clip = write_clip(tmp_path / "a.yuv", width, height, frames=4, fps=Fraction(30000, 1001))
    clip = replace(clip, start=1, frames=3)
    bits, results = {}, {}
    for hashes in (0, 1):
        stream, recon = tmp_path / f"{hashes}.266", tmp_path / f"{hashes}.yuv"
        results[hashes] = run_encoder(
            encode_command(
                vtm_home.encoder("stock"), [vtm_home.cfg("encoder_randomaccess_vtm.cfg")], clip, 45,
                stream, recon, {"SEIDecodedPictureHash": hashes},
            ),
            tmp_path / "log",
        )
        bits[hashes] = bitstream_bits(stream)
    assert bits[0]["sei"] == 0
    assert bits[1]["sei"] > 0
    assert bits[0]["total"] == (tmp_path / "0.266").stat().st_size * 8
    assert bits[1]["total"] - bits[1]["sei"] == bits[0]["total"]
    assert results[0].kbps == pytest.approx(bits[0]["total"] * float(clip.fps) / 3000, abs=1e-3)

    recon = Clip(tmp_path / "1.yuv", width, height, clip.fps, RECON_BIT_DEPTH, 3)
    measured = psnr(clip, recon)
    for picture in results[1].pictures:
        assert measured.pictures[picture.poc] == pytest.approx(picture.psnr, abs=1e-4)
    assert measured.psnr_611 == pytest.approx(results[1].psnr_611, abs=1e-4)
