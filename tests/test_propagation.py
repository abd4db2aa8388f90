"""What later pictures inherit from blocks of the source, and the QPs that suit it."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from conftest import SHALLOW, encode_patched, write_clip

from fastpart import _engine
from fastpart.errors import FastpartError
from fastpart.timing.conformance import Decoders, check

#: Coding tree units of 32 luma samples and what they want.
SMALL_UNITS = {"CTUSize": 32, "Log2MaxTbSize": 5} | {
    f"Max{tree}{slices}": 32 for tree in ("BT", "TT") for slices in ("LumaISlice", "ChromaISlice", "NonISlice")
}


def texture(height, width, seed=1):
    """Noise of 10 bits, smooth enough to be found again at half the size and to be followed between samples."""
    noise = np.random.default_rng(seed).normal(0, 1, (height + 16, width + 16))
    kernel = np.hanning(9) / np.hanning(9).sum()
    for axis in (0, 1):
        noise = np.apply_along_axis(np.convolve, axis, noise, kernel, "valid")
    noise = noise[:height, :width]
    return np.clip(512 + 150 * noise / noise.std(), 0, 1023).astype(np.int16)


def worth(pictures, gop=4, intra_period=0, qp=32, bit_depth=10):
    return 2.0 ** _engine.importance(np.stack(pictures), bit_depth, gop, intra_period, qp)


def test_a_group_is_coded_from_its_last_picture_on_by_halves():
    assert _engine.group_order(8, 4, 20, False) == [
        [12, 0, 8, -1], [10, 1, 8, 12], [9, 2, 8, 10], [11, 2, 10, 12],
    ]
    assert _engine.group_order(0, 4, 5, True)[0] == [4, 0, -1, -1]
    assert [each[0] for each in _engine.group_order(0, 8, 9, False)] == [8, 4, 2, 1, 3, 6, 5, 7]


def test_pictures_that_a_short_group_lacks_are_no_references():
    assert _engine.group_order(0, 4, 4, False) == [[2, 1, 0, -1], [1, 2, 0, 2], [3, 2, 2, -1]]
    assert _engine.group_order(0, 4, 2, False) == [[1, 2, 0, -1]]


def test_a_still_clip_hands_everything_on():
    picture = texture(64, 64)
    w1 = 1.0
    w2 = 1 + 2 * w1 / 4                   # two pictures take the mean of this one and another
    w4 = 1 + w2 / 4 + w1 / 4
    w0 = 1 + w4 + w2 / 4 + w1 / 4         # the last picture has one reference
    found = worth([picture] * 5)
    for poc, expected in enumerate([w0, w1, w2, w1, w4]):
        assert found[poc] == pytest.approx(np.full((4, 4), expected), rel=1e-5)


def test_an_intra_picture_inherits_nothing_but_its_leading_pictures_take_from_it():
    picture = texture(64, 64)
    found = worth([picture] * 9, intra_period=4)
    group = 1 + 1.5 / 4 + 1 / 4           # two pictures of a group take from either end
    assert found[0] == pytest.approx(np.full((4, 4), group), rel=1e-5)
    assert found[4] == pytest.approx(np.full((4, 4), 2 * group - 1), rel=1e-5)
    assert worth([picture] * 9)[0].min() > 2 * group


def test_pictures_without_anything_in_common_inherit_little():
    found = worth([texture(64, 64, seed) for seed in range(5)], qp=22)
    assert found.max() < 1.1
    assert worth([texture(64, 64, seed) for seed in range(5)], qp=47).max() > found.max()


def test_the_share_falls_with_what_prediction_leaves_against_the_error_of_coding():
    first = texture(64, 64)
    noise = np.random.default_rng(3).normal(0, 1, first.shape)
    means = []
    for strength in (0, 8, 16, 32):
        second = np.clip(first + strength * noise, 0, 1023).astype(np.int16)
        means.append(worth([first, second], gop=1)[0].mean() - 1)
        error = np.mean((second - first.astype(float)) ** 2) / 16           # of 8 bits
        step = 2 ** ((32 - 4) / 6)
        assert means[-1] == pytest.approx(step**2 / 30 / (step**2 / 30 + error), rel=0.1)
    assert np.all(np.diff(means) < 0)


@pytest.mark.parametrize(("dx", "dy"), [(8, 0), (-12, 4), (0, -10), (11, 12)])
def test_worth_goes_where_the_prediction_comes_from(dx, dy):
    whole = texture(320, 320)
    at = lambda k: whole[96 + k * dy : 224 + k * dy, 96 + k * dx : 224 + k * dx]  # noqa: E731
    found = worth([at(0), at(1)], gop=1)[0]
    inner = found[1:-1, 1:-1]
    gone = np.ones((8, 8))                # what the second picture still shows of the first
    y, x = np.mgrid[0:8, 0:8] * 16
    for edge, move in ((x, dx), (y, dy)):
        if move > 0:
            gone *= np.clip((edge + 16 - move) / 16, 0, 1)
        elif move < 0:
            gone *= np.clip((128 + move - edge) / 16, 0, 1)
    assert inner - 1 == pytest.approx(gone[1:-1, 1:-1], abs=0.05)


def test_motion_of_half_a_sample_is_followed():
    whole = texture(160, 320)[:, :].astype(float)
    halved = whole.reshape(160, 160, 2).mean(2)                       # the same at half the width
    moved = np.roll(whole, -1, 1).reshape(160, 160, 2).mean(2)        # half a sample further
    found = worth([halved[:128, :128].astype(np.int16), moved[:128, :128].astype(np.int16)], gop=1, qp=27)[0]
    still = worth([halved[:128, :128].astype(np.int16)] * 2, gop=1, qp=27)[0]
    assert found[1:-1, 1:-1].mean() > 0.9 * still.mean()


def test_bit_depths_say_the_same():
    eight = [(texture(64, 96, 1) >> 2).astype(np.int16), (texture(64, 96, 1)[::-1] >> 2).astype(np.int16)] * 3
    assert (worth(eight, bit_depth=8) == worth([p << 2 for p in eight], bit_depth=10)).all()


def test_blocks_of_which_a_picture_holds_a_part_are_left_out():
    picture = texture(72, 100)
    assert worth([picture] * 3).shape == (3, 4, 6)
    with pytest.raises(ValueError, match=r"shape \(1, 8, 64\), wanted"):
        worth([picture[:8, :64]])


def offsets_of(importance, width, height, side, strength):
    """By square of this side, raster order."""
    offsets = _engine.QpOffsets(importance, width, height, strength)
    return [offsets.at(x, y, side, side) for y in range(0, height, side) for x in range(0, width, side)]


def test_offsets_are_of_the_mean_of_a_block_against_the_picture():
    importance = np.zeros((4, 6), np.float32)
    importance[:, 4:] = 3                 # the right one of three squares of 32; the picture's mean is 1
    assert offsets_of(importance, 96, 64, 32, 1.0) == [1, 1, -2] * 2
    assert offsets_of(importance, 96, 64, 32, 2.0) == [2, 2, -4] * 2
    assert offsets_of(importance, 96, 64, 32, 9.0) == [6, 6, -6] * 2
    assert offsets_of(importance, 96, 64, 128, 2.0) == [0]
    assert offsets_of(importance, 103, 72, 32, 1.0) == [1, 1, -2, 0] * 2 + [0] * 4   # squares without a block
    offsets = _engine.QpOffsets(importance, 96, 64, 2.0)
    assert [offsets.at(32, 0, 64, 64), offsets.at(64, 16, 32, 8), offsets.at(56, 0, 16, 64)] == [-1, -4, -1]
    with pytest.raises(ValueError, match="wanted that of the blocks of 96x80"):
        _engine.QpOffsets(importance, 96, 80, 1.0)


def encode(*args, **options):
    return encode_patched(*args, **SMALL_UNITS, **options)


@pytest.mark.parametrize(("subdiv", "side"), [(0, 32), (2, 16)])
def test_the_encoder_codes_with_offsets_of_the_source(patched_vtm, tmp_path, subdiv, side):
    clip = write_clip(tmp_path / "Ramp_96x64_30.yuv", 96, 64, frames=9)
    luma = np.stack([texture(64, 96)] * 9) >> 2
    luma[:, :, 64:] = [texture(64, 32, seed) >> 2 for seed in range(9)]       # nothing is inherited there
    chroma = np.full((9, 96 * 64 // 2), 128, np.uint8)
    np.concatenate([luma.reshape(9, -1).astype(np.uint8), chroma], axis=1).tofile(clip.path)
    importance = _engine.importance(luma.astype(np.int16), 8, 32, 32, 32)
    offsets = [offsets_of(each, 96, 64, side, 4.0) for each in importance]
    assert min(map(min, offsets)) < 0 < max(map(max, offsets))

    options = {"FastPartPropagation": 4, "MaxCuDQPSubdiv": subdiv}
    adapted, result = encode(patched_vtm, clip, tmp_path, "adapted", **options)
    assert result.counters["least_qp_offset"] == min(map(min, offsets))
    assert result.counters["greatest_qp_offset"] == max(map(max, offsets))
    assert 0 < result.counters["lookahead_s"] < result.usage.user_s
    again, _ = encode(patched_vtm, clip, tmp_path, "again", **options)
    assert again == adapted
    found = check(
        tmp_path / "adapted.266", replace(clip, bit_depth=10), Decoders.find(patched_vtm),
        tmp_path / "decoded.yuv", tmp_path / "decoded.log", recon=False,
    )
    assert found.conforms, found.problems

    plain, result = encode(patched_vtm, clip, tmp_path, "plain")
    assert "lookahead_s" not in result.counters
    assert plain != adapted
    # Finer where the picture is handed on, coarser where it is not.
    finer, coarser = (
        {name: errors(patched_vtm, tmp_path, name, luma)[..., columns].mean() for name in ("plain", "adapted")}
        for columns in (slice(64), slice(64, None))
    )
    assert finer["adapted"] < finer["plain"] and coarser["adapted"] > coarser["plain"]


def test_small_pictures_may_have_finer_groups_than_large_ones(patched_vtm, tmp_path):
    clip = write_clip(tmp_path / "Ramp_256x128_30.yuv", 256, 128, frames=3)

    def stream(**options):
        return encode_patched(
            patched_vtm, clip, tmp_path, "fine", qp=27, FastPartPropagation=6, **SHALLOW, **options
        )[0]

    coarse, fine = stream(), stream(MaxCuDQPSubdiv=2)
    assert coarse != fine
    assert stream(FastPartPropagationFineSamples=256 * 128) == fine
    assert stream(FastPartPropagationFineSamples=256 * 128 - 1) == coarse


def errors(home, folder, name, luma):
    """Squared errors of the decoded luma, in the source's shape."""
    decoded = folder / f"{name}.yuv"
    subprocess.run(
        [home.decoder(), "-b", folder / f"{name}.266", "-o", decoded, "-d", "8"], check=True, capture_output=True
    )
    count, height, width = luma.shape
    pictures = np.fromfile(decoded, np.uint8).reshape(count, -1)[:, : height * width].reshape(luma.shape)
    return (pictures.astype(float) - luma) ** 2


@pytest.mark.parametrize(
    ("cfg", "options", "message"),
    [
        ("encoder_lowdelay_vtm.cfg", {"FastPartPropagation": 1}, "is for random access, found a group of 8"),
        ("encoder_randomaccess_vtm.cfg", {"FastPartPropagation": -1}, "found FastPartPropagation -1, wanted 0 or more"),
    ],
)
def test_what_the_offsets_cannot_be_for_is_refused(patched_vtm, tmp_path, cfg, options, message):
    clip = write_clip(tmp_path / "Ramp_64x64_30.yuv")
    with pytest.raises(FastpartError, match=message):
        encode(patched_vtm, clip, tmp_path, "x", cfg=cfg, **options)
