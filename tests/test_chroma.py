"""Chroma QP offsets from the detail of the source."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import encode_patched as encode
from conftest import write_clip

from fastpart import _engine
from fastpart.errors import FastpartError
from fastpart.timing.conformance import Decoders, check


def planes(seed, height=24, width=32, chroma=1.0):
    random = np.random.default_rng(seed)
    luma = random.integers(0, 1024, (height, width)).astype(np.int16)
    cb, cr = (
        (512 + chroma * random.integers(-200, 200, (height // 2, width // 2))).astype(np.int16)
        for _ in range(2)
    )
    return luma, cb, cr


def laplacian(plane):
    p = plane.astype(np.int64)
    return np.abs(
        4 * p[1:-1, 1:-1] - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:]
    ).mean()


def ratio(pictures, pairs):
    """The definition of ChromaDetail::ratio."""
    y, cb, cr = np.sum([[laplacian(plane) for plane in picture] for picture in pictures], axis=0)
    spatial = (cb + cr) / y
    changes = [
        [np.abs(a.astype(int) - b).mean() for a, b in zip(*pair, strict=True)] for pair in pairs
    ]
    y, cb, cr = np.sum(changes, axis=0)
    return np.sqrt(spatial * (cb + cr) / y)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_detail_is_of_space_and_time(count):
    pictures = [planes(seed) for seed in range(count)]
    assert _engine.chroma_detail(pictures) == pytest.approx(
        ratio(pictures, pairwise(pictures)), rel=1e-12
    )


def test_a_single_picture_and_a_still_clip_have_spatial_detail_alone():
    picture = planes(1)
    y, cb, cr = map(laplacian, picture)
    for pictures in ([picture], [picture, picture]):
        assert _engine.chroma_detail(pictures) == pytest.approx((cb + cr) / y, rel=1e-12)


def test_a_clip_without_luma_detail_has_ratio_zero():
    _, cb, cr = planes(1)
    assert _engine.chroma_detail([(np.full((24, 32), 300, np.int16), cb, cr)]) == 0
    assert _engine.chroma_detail([]) == 0


def test_planes_must_be_of_one_picture():
    luma, cb, cr = planes(1)
    with pytest.raises(ValueError, match=r"shape \(12, 15\), wanted \(12, 16\)"):
        _engine.chroma_detail([(luma, cb[:, :-1], cr)])


def test_more_detail_or_a_lower_qp_never_makes_chroma_finer():
    ratios, qps = np.geomspace(0.01, 10, 200), range(64)
    offsets = np.array([[_engine.chroma_qp_offset(r, qp) for qp in qps] for r in ratios])
    assert (np.diff(offsets, axis=0) >= 0).all() and (np.diff(offsets, axis=1) <= 0).all()
    assert offsets.max() == 0 and offsets.min() >= -18 and len(np.unique(offsets)) > 5
    assert (offsets[0] == [_engine.chroma_qp_offset(0, qp) for qp in qps]).all()


def test_only_offsets_that_cost_rate_raise_the_qp():
    increments = [_engine.qp_increment(offset) for offset in range(-18, 1)]
    assert increments == sorted(increments, reverse=True)
    assert increments[0] == 1 and increments[-1] == 0


@pytest.mark.parametrize(("qp", "strength", "raised"), [(22, 0.3, False), (42, 0.3, True), (42, 0.04, True)])
def test_the_encoder_codes_with_the_offset_and_the_qp_it_prints(patched_vtm, tmp_path, qp, strength, raised):
    clip = write_clip(tmp_path / "Ramp_96x64_30.yuv", 96, 64, frames=4)
    luma, chroma = np.split(np.fromfile(clip.path, np.uint8).reshape(4, -1), [96 * 64], axis=1)
    chroma = (128 + strength * (chroma.astype(float) - 128)).astype(np.uint8)
    np.concatenate([luma, chroma], axis=1).tofile(clip.path)
    pictures = [
        (y, *planes)
        for y, planes in zip(luma.reshape(4, 64, 96), chroma.reshape(4, 2, 32, 48), strict=True)
    ]
    detail = ratio(pictures[::2], [pictures[:2], pictures[2:]])   # every second one and its successor

    chosen, result = encode(patched_vtm, clip, tmp_path, "chosen", qp, FastPartChroma=1)
    offset = int(result.counters["chroma_qp_offset"])
    assert result.counters["chroma_detail"] == pytest.approx(detail, abs=1e-4)
    assert offset == _engine.chroma_qp_offset(detail, qp) < 0
    assert result.counters["qp_increment"] == _engine.qp_increment(offset) == raised
    tables = -12 - offset   # what a picture parameter set cannot hold
    assert (tables > 0) == (strength < 0.3)
    options = {"CbQpOffset": max(-12, offset), "CrQpOffset": max(-12, offset), "CbCrQpOffset": max(-12, -1 + offset)}
    if tables > 0:
        options["QpInValCb"] = f"{-tables} 0 17 22 34 42"
        options["QpOutValCb"] = f"{-tables} {-tables} {17 - tables} {23 - tables} {35 - tables} {39 - tables}"
    if raised:
        options["QPIncrementFrame"] = 0
    explicit, _ = encode(patched_vtm, clip, tmp_path, "explicit", qp, **options)
    assert chosen == explicit
    found = check(
        tmp_path / "chosen.266", replace(clip, bit_depth=10), Decoders.find(patched_vtm),
        tmp_path / "decoded.yuv", tmp_path / "decoded.log", recon=False,
    )
    assert found.conforms, found.problems
    plain, result = encode(patched_vtm, clip, tmp_path, "plain", qp)
    assert "chroma_qp_offset" not in result.counters
    assert plain != chosen


def test_another_chroma_format_is_refused(patched_vtm, tmp_path):
    clip = write_clip(tmp_path / "Ramp_64x64_30.yuv")
    with pytest.raises(FastpartError, match="FastPartChroma is for 4:2:0"):
        encode(
            patched_vtm, clip, tmp_path, "x", FastPartChroma=1,
            InputChromaFormat=400, ChromaFormatIDC=400,
        )
