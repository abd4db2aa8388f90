"""The sums of the adaptive loop filter and the errors of the temporal filter, which have to be those of VTM."""

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from conftest import SHALLOW, write_clip
from test_patched_encoder import encode

from fastpart import _engine

CLIPS = (1024, 181, 32, 6)

#: Offsets (x, y) of one sample of each pair, in the order of the equation that filters luma, and the
#: coefficient of each by transposition: H.266, 8.8.5.2.
LUMA = [
    (0, 3), (1, 2), (0, 2), (-1, 2), (2, 1), (1, 1), (0, 1), (-1, 1), (-2, 1), (3, 0), (2, 0), (1, 0),
]
COEFFICIENTS = [
    range(12),
    (9, 4, 10, 8, 1, 5, 11, 7, 3, 0, 2, 6),
    (0, 3, 2, 1, 8, 7, 6, 5, 4, 9, 10, 11),
    (9, 8, 10, 4, 3, 7, 11, 5, 1, 0, 2, 6),
]
CHROMA = [(0, 2), (1, 1), (0, 1), (-1, 1), (2, 0), (1, 0)]

NO_BOUNDARY = {"y": 0, "ctu_height": 128, "boundary": 124}


def area(height, width, reach, seed=1, greatest=1023):
    random = np.random.default_rng(seed)
    reconstruction = random.integers(0, greatest + 1, (height + 2 * reach, width + 2 * reach))
    original = random.integers(0, greatest + 1, (height, width))
    return reconstruction.astype(np.int16), original.astype(np.int16)


def definition(reconstruction, original, kinds, number, reach, rows_seen=None):
    """Sums of AlfSums, sample by sample; rows_seen: how far above and below a row the filter sees."""
    positions = LUMA if reach == 3 else CHROMA
    count = len(positions) + 1
    r = reconstruction.astype(np.int64)
    sums = np.zeros((number, 4 * count + 1, 4 * count + 1))
    for y, x in np.ndindex(original.shape):
        of_class, transposition = kinds[y // 4, x // 4]
        centre = r[y + reach, x + reach]
        column = np.zeros((4, count))
        for i, (dx, dy) in enumerate(positions):
            if rows_seen is not None:
                dy = min(dy, rows_seen(y))
            for sign in (1, -1):
                difference = r[y + reach + sign * dy, x + reach + sign * dx] - centre
                column[:, COEFFICIENTS[transposition][i]] += np.clip(difference, np.negative(CLIPS), CLIPS)
        column[:, -1] = centre
        column = np.append(column.ravel(), original[y, x] - centre)
        sums[of_class] += np.outer(column, column)
    lower = np.tril_indices(4 * count)
    return sums[:, -1, :-1], sums[:, :-1, :-1][:, *lower], sums[:, -1, -1]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("transposition", range(4))
def test_luma_sums_are_of_the_coefficients_of_the_standard(transposition):
    reconstruction, original = area(8, 12, 3)
    kinds = np.random.default_rng(2).integers(0, 3, (2, 3, 2)).astype(np.uint8)
    kinds[..., 1] = transposition
    assert_same(
        _engine.alf_sums(reconstruction, original, kinds, 3, 3, CLIPS, **NO_BOUNDARY),
        definition(reconstruction, original, kinds, 3, 3),
    )


def test_chroma_sums_are_of_one_class():
    reconstruction, original = area(8, 8, 2)
    kinds = np.zeros((2, 2, 2), np.uint8)
    assert_same(
        _engine.alf_sums(reconstruction, original, kinds, 1, 2, CLIPS, **NO_BOUNDARY),
        definition(reconstruction, original, kinds, 1, 2),
    )


@pytest.mark.parametrize("transposition", [0, 2])
def test_rows_at_a_virtual_boundary_do_not_see_across_it(transposition):
    reconstruction, original = area(12, 8, 3)
    kinds = np.full((3, 2, 2), transposition, np.uint8)
    kinds[..., 0] = 0
    boundary = {"y": 116, "ctu_height": 128, "boundary": 124}  # between rows 7 and 8 of the area

    def seen(row):
        return {4: 3, 5: 2, 6: 1, 7: 0, 8: 0, 9: 1, 10: 2}.get(row, 3)

    assert_same(
        _engine.alf_sums(reconstruction, original, kinds, 1, 3, CLIPS, **boundary),
        definition(reconstruction, original, kinds, 1, 3, seen),
    )


def test_sums_of_the_greatest_differences_do_not_overflow():
    """More blocks of one class than fit a batch, each difference as large as 10 bits allow."""
    height = width = 64
    reconstruction = np.zeros((height + 6, width + 6), np.int16)
    reconstruction[::2, ::2] = reconstruction[1::2, 1::2] = 1023
    original = np.where(reconstruction[3:-3, 3:-3] > 0, 0, 1023).astype(np.int16)
    kinds = np.zeros((height // 4, width // 4, 2), np.uint8)
    with_target, products, target = _engine.alf_sums(
        reconstruction, original, kinds, 1, 3, CLIPS, **NO_BOUNDARY
    )
    assert target[0] == height * width * 1023**2
    nearest = 11  # the coefficient of the samples to the left and right
    assert products[0, nearest * (nearest + 3) // 2] == height * width * 2046**2
    assert with_target[0, nearest] == target[0] * 2


def least_error(matrix, right, target):
    """By Cholesky decomposition, in the order in which VTM adds."""

    def added(terms):
        return reduce(add, terms, 0.0)  # sum() compensates for rounding in later versions of Python

    size = len(right)
    upper = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            rest = matrix[i][j]
            for k in reversed(range(i)):
                rest -= upper[k][j] * upper[k][i]
            upper[i][j] = math.sqrt(rest) if i == j else rest * (1 / upper[i][i])
    half, solution = [], [0.0] * size
    for i in range(size):
        half.append((right[i] - added(half[j] * upper[j][i] for j in range(i))) / upper[i][i])
    for i in reversed(range(size)):
        rest = half[i] - added(upper[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = rest / upper[i][i]
    return target - added(one * other for one, other in zip(solution, right, strict=True))


@pytest.mark.parametrize("reach", [3, 2], ids=["luma", "chroma"])
def test_errors_of_clipping_values_are_those_of_one_system_at_a_time(reach):
    reconstruction, original = area(32, 32, reach)
    kinds = np.zeros((8, 8, 2), np.uint8)
    sums = _engine.alf_sums(reconstruction, original, kinds, 1, reach, CLIPS, **NO_BOUNDARY)
    with_target, products, target = (each[0].tolist() for each in sums)
    size = len(with_target) // 4
    clips = [1, 2, 0, 3] * 3 + [0] if reach == 3 else [1, 2, 0, 3, 0, 1, 0]
    tries = [(i, value) for i in range(size - 1) for value in (clips[i] - 1, clips[i] + 1) if 0 <= value < 4]
    assert len(tries) % 4

    wanted = []
    for changed, value in tries:
        new = clips[:changed] + [value] + clips[changed + 1 :]
        columns = [clip * size + i for i, clip in enumerate(new)]
        rows = [[max(one, other) for other in columns] for one in columns]
        matrix = [
            [products[row * (row + 1) // 2 + min(one, other)] for row, other in zip(rows[i], columns, strict=True)]
            for i, one in enumerate(columns)
        ]
        wanted.append(least_error(matrix, [with_target[column] for column in columns], target))
    assert _engine.alf_errors(with_target, products, target, clips, tries) == wanted


def test_singular_systems_have_no_errors():
    with_target, products = np.ones(28), np.ones(28 * 29 // 2)
    assert _engine.alf_errors(with_target, products, 1.0, [0] * 7, [(0, 1)]) == []


def test_bad_clipping_values_are_refused():
    with_target, products = np.ones(28), np.ones(28 * 29 // 2)
    for clips, tries, message in (
        ([0] * 6, [(0, 1)], "wanted 24 and their lower triangle"),
        ([0] * 7, [(7, 1)], "outside the coefficients"),
        ([4] * 7, [(0, 1)], "clipping value 4, wanted 0 to 3"),
        ([0] * 14, [], "14 clipping values, wanted 1 to 13"),
    ):
        with pytest.raises(ValueError, match=message):
            _engine.alf_errors(with_target, products, 1.0, clips, tries)


def test_bad_areas_are_refused():
    reconstruction, original = area(8, 8, 3)
    kinds = np.zeros((2, 2, 2), np.uint8)
    for bad, message in (
        ((reconstruction, original[:6], kinds, 1), "blocks of 4x4"),
        ((reconstruction[1:], original, kinds, 1), r"wanted \(14, 14\)"),
        ((reconstruction, original, kinds[1:], 1), "of every block"),
        ((reconstruction, original, kinds + 4, 1), "too large"),
    ):
        with pytest.raises(ValueError, match=message):
            _engine.alf_sums(*bad, 3, CLIPS, **NO_BOUNDARY)


def test_blocks_of_other_sizes_are_refused():
    block = np.zeros((4, 4), np.int16)
    with pytest.raises(ValueError, match=r"block of shape \(4, 4\), wanted \(8, 8\) or \(16, 16\)"):
        _engine.temporal_filter_error(block, block, 2**31 - 1)


#: For 0, 1/4 and 1/2 sample, like VTM's: eight taps of which the outer ones are zero, gain 64.
TAPS = [(0, 0, 0, 64, 0, 0, 0, 0), (0, 2, -9, 57, 19, -7, 2, 0), (0, 1, -7, 38, 38, -7, 1, 0)]


@pytest.mark.parametrize("size", [8, 16])
def test_the_error_between_samples_is_that_of_the_filtered_reference(size):
    reference, block = area(size, size, 3, seed=size)
    for horizontal in TAPS:
        for vertical in TAPS:
            wide = reference.astype(np.int64)
            wide = sum(horizontal[1 + i] * wide[:, 1 + i : 1 + i + size] for i in range(6))
            wide = sum(vertical[1 + i] * wide[1 + i : 1 + i + size] for i in range(6))
            wanted = ((np.clip((wide + 2048) >> 12, 0, 1023) - block) ** 2).sum()
            assert wanted == _engine.temporal_filter_error(
                block, reference, horizontal, vertical, 1023, 2**31 - 1
            )
            enough = int(wanted) // 3
            assert _engine.temporal_filter_error(block, reference, horizontal, vertical, 1023, enough) > enough


@pytest.mark.parametrize("size", [8, 16])
def test_the_error_at_whole_samples_is_that_of_the_reference(size):
    reference, block = area(size, size, 0, seed=size)
    wanted = ((reference.astype(np.int64) - block) ** 2).sum()
    assert _engine.temporal_filter_error(block, reference, 2**31 - 1) == wanted
    assert _engine.temporal_filter_error(block, reference, int(wanted) // 3) > wanted // 3


@pytest.mark.parametrize(("bit_depth", "linear"), [(8, 0), (10, 1)])
def test_filters_of_the_patched_encoder_are_those_of_stock(patched_vtm, tmp_path, bit_depth, linear):
    """Two rows of CTUs, so that there is a virtual boundary, with the hook at work and nothing skipped."""
    clip = write_clip(tmp_path / "Clip_192x160_30.yuv", 192, 160, frames=5, bit_depth=bit_depth)
    options = SHALLOW | {"UseNonLinearAlfLuma": 1 - linear}
    _, stock, _ = encode(patched_vtm, "stock", clip, 32, tmp_path, "stock", **options)
    _, on, _ = encode(
        patched_vtm, "patched", clip, 32, tmp_path, "on", FastPartTrace=tmp_path / "t.fpt", **options
    )
    assert on == stock
