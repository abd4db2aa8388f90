"""Where rate is lost: temporal layers of timing records."""

import json
import math

import pytest

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.timing.layers import layer_rows
from fastpart.timing.record import SCHEMA

#: QP: bits and PSNR of the intra picture, and of each of two pictures of TId 1.
ANCHOR = {22: (4000, 44.0, 2000, 42.0), 27: (2000, 41.0, 1000, 39.0), 32: (1000, 38.0, 500, 36.0)}


def record(variant, qp, intra_bits, intra_psnr, bits, psnr, *, pictures=2, cut="a", rep=0) -> dict:
    coded = [("I", 0, intra_bits, intra_psnr), *[("B", 1, bits, psnr)] * pictures]
    return {
        "schema": SCHEMA, "cut": cut, "qp": qp, "variant": variant, "rep": rep,
        "encode": {"pictures": [
            {"poc": poc, "tid": tid, "slice_type": kind, "bits": size, "psnr": [db, db, db]}
            for poc, (kind, tid, size, db) in enumerate(coded)
        ]},
    }


def anchors(**more) -> list[dict]:
    return [record("stock", qp, *values, **more) for qp, values in ANCHOR.items()]


def by_layer(rows) -> dict:
    return {row.layer: row for row in rows}


def test_rate_and_psnr_go_to_their_layers():
    # 3 dB for twice the rate everywhere; 10 % more bits in the intra picture, 0.3 dB less in TId 1.
    rows = by_layer(layer_rows([*anchors(), record("fast", 27, 2200, 41.0, 1000, 38.7)]))
    assert list(rows) == ["I", "TId 1", None]
    assert [rows[name].rate_share for name in rows] == pytest.approx([50, 50, 100])
    assert [rows[name].rate_change for name in rows] == pytest.approx([5, 0, 5])
    assert [rows[name].psnr_change for name in rows] == pytest.approx([0, -0.3, -0.2])
    of_psnr = 100 * 0.2 / 3 * math.log(2)
    assert rows["I"].loss == pytest.approx(100 * math.log(1.05)), "as all of the growth is its own"
    assert rows["TId 1"].loss == pytest.approx(of_psnr)
    assert rows[None].loss == pytest.approx(100 * math.log(1.05) + of_psnr)


def test_a_move_along_the_curve_loses_nothing():
    step = 2 ** (1 / 3)   # a decibel
    rows = by_layer(layer_rows([*anchors(), record("other", 22, 4000 / step, 43.0, 2000 / step, 41.0)]))
    assert rows[None].loss == pytest.approx(0, abs=0.01)
    assert rows[None].psnr_change == pytest.approx(-1)


def test_means_are_of_points_and_repetitions_count_once():
    records = [
        *anchors(), *anchors(cut="b"),
        record("fast", 22, 4400, 44.0, 2200, 42.0), record("fast", 22, 4400, 44.0, 2200, 42.0, rep=1),
        record("fast", 27, 2000, 41.0, 1000, 39.0, cut="b"), record("fast", 42, 1, 1.0, 1, 1.0),
    ]
    everything = by_layer(layer_rows(records))[None]
    assert everything.points == 2 and everything.rate_change == pytest.approx(5)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (anchors(), "no cut with two QPs of it and another variant"),
        ([anchors()[0], record("fast", 22, 1, 1.0, 1, 1.0)], "no cut with two QPs"),
        ([*anchors(), record("fast", 22, 1, 1.0, 1, 1.0, pictures=1)],
         "fast on a at QP 22: layers 1 of I, 1 of TId 1, wanted those of stock: 1 of I, 2 of TId 1"),
    ],
)
def test_what_cannot_be_compared_is_named(records, says):
    with pytest.raises(FastpartError, match=says):
        layer_rows(records)


def test_the_command_prints_the_layers(tmp_path, capsys):
    for number, one in enumerate([*anchors(), record("fast", 27, 2200, 41.0, 1000, 38.7)]):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    assert main(["timing", "layers", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| fast | TId 1 | 50.0 % | +0.00 % | -0.300 dB |" in out and "all, 1 points" in out
    assert main(["timing", "layers", str(tmp_path), "--anchor", "none"]) == 1
    assert "anchor none: no cut" in capsys.readouterr().err
