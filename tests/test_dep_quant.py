"""Dependent quantisation of the engine against a search that keeps whole paths and counts their bits anew."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from fastpart import _engine

BIT = 1 << 15
#: States that an even and an odd level lead to: QStateTransTable of H.266.
NEXT_STATE = [(0, 2), (2, 0), (1, 3), (3, 1)]
#: A first index at four coefficients and a half, steps of four, 1/16 bit for a squared difference of one.
SCALE = {
    "index_shift": 12, "index_rounding": -(3 << 11), "scale": 1024, "greatest": 32764,
    "shift": 8, "rounding": 128, "step": 16 * 2048 * 256, "origin": 8 * 2048 * 256 // 1024,
}  # fmt: skip


def diagonal(columns, rows):
    return sorted(((x, y) for x in range(columns) for y in range(rows)), key=lambda at: (sum(at), at[0]))


def scan_of(width, height):
    """Positions (x, y) in scan order, and the columns and rows of a sub-block: H.266, 6.5.2 and 7.3.11.11."""
    columns = rows = 2 if min(width, height) < 4 else 4
    if width * height > 8 and width < 4:
        columns, rows = width, 16 // width
    elif width * height > 8 and height < 4:
        columns, rows = 16 // height, height
    scan = [
        (x * columns + i, y * rows + j)
        for x, y in diagonal(min(width, 32) // columns, min(height, 32) // rows)
        for i, j in diagonal(columns, rows)
    ]
    return scan, columns, rows


def rates(luma, precision=BIT):
    """Of contexts at random, in so many fractions of a bit; a coded sub-block is likely next to another one alone."""
    random = np.random.default_rng(0)

    def bins(count):
        one = random.uniform(0.01, 0.99, count)
        return np.stack([-np.log2(1 - one), -np.log2(one)], axis=1)

    def fixed(bits, kind):
        return (np.round(np.asarray(bits) * precision) * (BIT // precision)).astype(kind)

    contexts, levels = (12, 21) if luma else (8, 11)
    above_one, parity, above_three = bins(levels), 1 + bins(levels), bins(levels)
    level = [np.zeros(levels), 1 + above_one[:, 0]]
    level += [above_one[:, 1] + parity[:, k & 1] + above_three[:, k >> 1] for k in range(4)]
    return {
        "last_bits": fixed(random.uniform(1, 8, (2, 32)), np.int32),
        "sub_block": fixed([[0.1, 4], [5, 0.05]], np.uint32),
        "significant": fixed(bins(3 * contexts), np.uint32),
        "level": fixed(np.stack(level, axis=1), np.int32),
    }


def rice_of(total):
    return 0 if total < 7 else 1 if total < 14 else 2 if total < 28 else 3


def escape_bits(value, rice):
    """Of a prefix of at most six ones, and an Exp-Golomb suffix: H.266, 9.3.3. VTM's table ends at 63."""
    value = min(value, 63)
    prefix = value >> rice
    if prefix < 6:
        return BIT * (prefix + 1 + rice)
    return BIT * (6 + 2 * ((prefix - 6 + 2).bit_length() - 1) + rice)


@dataclass
class Path:
    cost: int = 0
    levels: dict = field(default_factory=dict)
    bins: int = 0
    coded: bool = False
    #: Whether a sub-block is coded, by its column and row.
    sub_blocks: dict = field(default_factory=dict)


class Search:
    def __init__(self, coefficients, luma, bins, last, rates):
        self.coefficients, self.luma, self.bins, self.last, self.rates = coefficients, luma, bins, last, rates
        self.height, self.width = coefficients.shape
        self.scan, self.columns, self.rows = scan_of(self.width, self.height)
        self.size = self.columns * self.rows

    def template(self, path, x, y):
        at = [(x + 1, y), (x + 2, y), (x + 1, y + 1), (x, y + 1), (x, y + 2)]
        return [path.levels.get(position, 0) for position in at]

    def bits(self, path, state, i, level, zeros):
        """Of a level at a position, given all that come before it in coding order.

        zeros: what codes no level without contexts, by state; VTM does not renew it at the first position of a
        sub-block.
        """
        x, y = self.scan[i]
        around = self.template(path, x, y)
        total, number = sum(min(4 + (a & 1), a) for a in around), sum(a > 0 for a in around)
        # VTM takes the Rice parameter at the first position of a sub-block for 0.
        at_first = i % self.size == self.size - 1
        if path.bins < 4:
            rice = 0 if at_first else rice_of(sum(around))
            if not at_first:
                zeros[state] = (1 if state < 2 else 2) << rice
            zero = zeros[state]
            if level == 0:
                return escape_bits(zero, rice)
            return BIT + escape_bits(level - 1 if level <= zero else level, rice)
        if self.luma:
            significant = 8 if x + y < 2 else 4 if x + y < 5 else 0
            offset = 16 if x + y < 1 else 11 if x + y < 3 else 6 if x + y < 10 else 1
        else:
            significant, offset = 4 if x + y < 2 else 0, 6 if x + y < 1 else 1
        row = max(state - 1, 0) * (12 if self.luma else 8) + significant + min((total + 1) // 2, 3)
        bits = int(self.rates["significant"][row, int(level > 0)])
        if self.has_flag(i):
            if at_first:
                bits += self.flag_bits(path, i, 1)
            elif i % self.size == 0 and not path.coded:
                bits = 0
        if level == 0:
            return bits
        rice = 0 if at_first else rice_of(max(sum(around) - 20, 0))
        return bits + self.level_bits(offset + min(total - number, 4), level, rice)

    def level_bits(self, row, level, rice):
        bits = self.rates["level"][row]
        if level < 4:
            return int(bits[level])
        return int(bits[4 + (level & 1)]) + escape_bits((level - 4) // 2, rice)

    def has_flag(self, i):
        return self.size <= i < len(self.scan) - self.size

    def flag_bits(self, path, i, flag):
        x, y = self.scan[i][0] // self.columns, self.scan[i][1] // self.rows
        around = path.sub_blocks.get((x + 1, y), False) or path.sub_blocks.get((x, y + 1), False)
        return int(self.rates["sub_block"][int(around), flag])

    def extended(self, path, i, level, cost):
        left = path.bins - 1
        at_last = i % self.size == 0
        x, y = self.scan[i]
        new = Path(cost, path.levels | {(x, y): min(level, 255)}, path.bins, path.coded or level > 0, path.sub_blocks)
        # VTM does not count the bins of the last coefficient of a sub-block.
        if not at_last:
            new.bins = left - (level if level < 2 else 3) if left >= 4 else left
        else:
            new.sub_blocks = path.sub_blocks | {(x // self.columns, y // self.rows): new.coded}
            new.coded = False
        return new

    def run(self):
        paths, skipping = [None] * 4, [None] * 4
        # VTM keeps states in three sets in turn, and what codes no level with them.
        zeros, zeros_next, zeros_skipping = [0] * 4, [0] * 4, [0] * 4
        for i in range(self.last, -1, -1):
            x, y = self.scan[i]
            scaled = abs(int(self.coefficients[y, x])) * SCALE["scale"]
            lowest = (scaled + SCALE["index_rounding"]) >> SCALE["index_shift"]
            lowest = max(1, min(SCALE["greatest"], lowest))
            distortion = {
                index & 3: ((index + 1) // 2,
                    (index * (index * SCALE["step"] - scaled * SCALE["origin"]) + SCALE["rounding"]) >> SCALE["shift"])
                for index in range(lowest, lowest + 4)
            }  # fmt: skip
            ways = [[] for _ in range(4)]
            for state, path in enumerate(paths):
                if path is None:
                    continue
                for k in (0, 2) if state < 2 else (3, 1):
                    level, more = distortion[k]
                    cost = path.cost + more + self.bits(path, state, i, level, zeros)
                    ways[NEXT_STATE[state][level & 1]].append(self.extended(path, i, level, cost))
                at_last = self.has_flag(i) and i % self.size == 0
                if not (at_last and not path.coded and path.bins >= 4):
                    cost = path.cost + self.bits(path, state, i, 0, zeros)
                    ways[NEXT_STATE[state][0]].append(self.extended(path, i, 0, cost))
            if self.has_flag(i) and i % self.size == 0:
                for state, path in enumerate(skipping):
                    if path is not None:
                        cost = path.cost + self.flag_bits(path, i, 0)
                        ways[state].append(self.extended(path, i, 0, cost))
            for k in (0, 2):
                level, more = distortion[k]
                last_bits = int(self.rates["last_bits"][0, x] + self.rates["last_bits"][1, y])
                start = Path(bins=self.bins if i % self.size == 0 else self.bins + 1)
                cost = more + last_bits + self.level_bits(0, level, 0)
                ways[k].append(self.extended(start, i, level, cost))
            paths = [min(way, key=lambda path: path.cost) if way else None for way in ways]
            if i % self.size == 0:
                skipping = paths
            zeros, zeros_next = zeros_next, zeros
            if self.has_flag(i) and i % self.size == self.size - 1:
                zeros_next, zeros_skipping = zeros_skipping, zeros_next
        best = min(paths, key=lambda path: path.cost)
        levels = np.zeros((self.height, self.width), np.int32)
        if best.cost < 0:
            for (x, y), level in best.levels.items():
                levels[y, x] = -level if self.coefficients[y, x] < 0 else level
        return levels


def block(height, width, strength, seed):
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    return np.round(random.laplace(0, strength / (1 + (x + y) / 3))).astype(np.int32)


def quantised(coefficients, luma, bins, last, bits):
    return _engine.dep_quant(coefficients, luma, bins, last, list(SCALE.values()), **bits)


@pytest.mark.parametrize("luma", [True, False], ids=["luma", "chroma"])
@pytest.mark.parametrize(
    ("height", "width"), [(4, 4), (8, 8), (4, 16), (32, 16), (64, 64), (8, 2), (2, 32), (16, 1), (2, 2)]
)
def test_levels_are_those_of_the_search_over_whole_paths(height, width, luma):
    size = min(height, 32) * min(width, 32)
    coded = 0
    for seed, strength in enumerate((6, 20, 80, 400)):
        bits = rates(luma, precision=BIT if seed % 2 else 2)  # of halves of a bit there are ties
        coefficients = block(height, width, strength, seed)
        last = _engine.last_above(coefficients, size - 1, 4)
        for bins in (size * 28 // 16, size):
            found = quantised(coefficients, luma, bins, last, bits)
            np.testing.assert_array_equal(found, Search(coefficients, luma, bins, last, bits).run())
        coded += np.count_nonzero(found)
    assert coded > 3


@pytest.mark.parametrize("luma", [True, False], ids=["luma", "chroma"])
def test_levels_of_sparse_blocks_are_those_of_the_search(luma):
    """Sub-blocks with one coefficient or none, and paths that start at any place."""
    bits = rates(luma, precision=2)
    for seed in range(30):
        random = np.random.default_rng(seed)
        coefficients = block(16, 16, 200, seed) * (random.random((16, 16)) < 0.05)
        last = _engine.last_above(coefficients, 255, 4)
        for bins in (7 + seed, 448):
            found = quantised(coefficients, luma, bins, last, bits)
            np.testing.assert_array_equal(found, Search(coefficients, luma, bins, last, bits).run())
            assert found.any()


def test_levels_are_others_when_bins_with_contexts_run_out():
    coefficients = block(8, 8, 60, 0)
    few, many = (quantised(coefficients, True, bins, 63, rates(True)) for bins in (28, 640))
    assert (few != many).any()


def test_last_position_above_a_threshold_is_that_of_the_scan():
    for height, width in [(8, 8), (64, 16), (2, 16)]:
        coefficients = block(height, width, 6, 1)
        scan, _, _ = scan_of(width, height)
        for last in (len(scan) - 1, 7):
            above = [i for i, (x, y) in enumerate(scan[: last + 1]) if abs(coefficients[y, x]) > 5]
            assert above
            assert _engine.last_above(coefficients, last, 5) == above[-1]
    assert _engine.last_above(np.full((4, 4), -5, np.int32), 15, 5) == -1


def test_blocks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="a side of 3, wanted 1, 2, 4 to 64"):
        _engine.last_above(np.zeros((4, 3), np.int32), 11, 0)
    with pytest.raises(ValueError, match=r"significant of shape \(24, 2\), wanted \(36, 2\)"):
        quantised(block(4, 4, 20, 0), True, 28, 15, rates(False) | {"level": rates(True)["level"]})
    with pytest.raises(ValueError, match="last position 16 of 16"):
        quantised(block(4, 4, 20, 0), True, 28, 16, rates(True))
