"""Training of the learned partition depths: records, fit, table."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_clip

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.training import vvenc
from fastpart.training.command import VVENC_RECIPE
from fastpart.vvenc import encode_command
from fastpart.vvenc_choice import FEATURES, FULL, PARTS, candidates, load_model, setting_options, steps

COMMITTED = Path(str(VVENC_RECIPE)).parents[1] / "results" / "vvenc_train.tsv"


def made_records(time: np.ndarray, loss: np.ndarray, slope: float = 0.2, seed: int = 3) -> list[dict]:
    """Records of encodes whose log time and loss are linear in the steps away from it.

    time: shape (parts,), but one unit of the feature `texture` doubles it. loss: percent.
    """
    random = np.random.default_rng(seed)
    vectors = candidates()
    records = []
    for number in range(12):
        features = {name: 1.0 for name in FEATURES if name != "qp"} | {"texture": float(number % 3)}
        for qp in (22, 32):
            base = {"cut": f"c{number}", "qp": qp, "user_s": 10.0, "bits": 100_000 * 2 ** (-qp / 10),
                    "y": 50 - qp * math.log(2) / 10 / slope, **features}
            base |= {"u": base["y"], "v": base["y"]}
            records.append({**base, "setting": "anchor"})
            for vector in vectors[random.choice(len(vectors), 4, replace=False)]:
                moved = steps(vector)
                scale = 2.0 ** features["texture"]
                # Half of the loss as rate, half as quality.
                half = float(loss @ moved) / 200
                records.append({
                    **base, "setting": "parts:" + ",".join(map(str, vector)),
                    "user_s": 10 * math.exp(scale * float(time @ moved)),
                    "bits": base["bits"] * math.exp(half),
                    **{plane: base[plane] - half / slope for plane in "yuv"},
                })
    return records


def write_records(path: Path, records: list[dict]) -> None:
    path.write_text("\t".join(vvenc.COLUMNS) + "\n" + "".join(
        "\t".join(str(int(r[c]) if c == "bits" else r[c]) for c in vvenc.COLUMNS) + "\n"
        for r in records
    ))


def test_fit_finds_time_and_loss_of_the_parts(tmp_path):
    time = np.array([-0.02, -0.005, -0.005, -0.01, -0.02, -0.03, -0.04, -0.05])
    loss = np.array([0.1, 0.05, 0.05, 0.1, 0.2, 0.2, 0.3, 0.4])
    write_records(tmp_path / "r.tsv", made_records(time, loss))
    recipe = vvenc.load_recipe(Path(str(VVENC_RECIPE)))
    # There is no noise here, so nothing has to be drawn towards the mean.
    recipe = replace(recipe, fit={**recipe.fit, "ridge_loss": [0.01]})
    model = vvenc.fit(recipe, tmp_path / "r.tsv", tmp_path / "m.json")
    assert load_model(tmp_path / "m.json") == json.loads(json.dumps(model))
    checked = model["training"]["cross_validation"]
    # The feature matters to the time, and the fit says so.
    assert checked["log_time"] < 0.7 * checked["log_time_without_features"]
    assert checked["log_time"] < 0.3 * checked["log_time_spread"]
    assert model["target"] == pytest.approx(0.7 * math.exp(-2 * checked["log_time"]))
    assert checked["loss"] < 0.1
    found = np.array(model["loss"])
    assert found[3:, 0] == pytest.approx(loss[3:], abs=0.04) and not found[:, 1:].any()
    # TId 0 and 1 always go together, so only their sum can be known.
    assert found[1, 0] + found[2, 0] == pytest.approx(0.1, abs=0.04)


def test_loss_is_never_negative():
    random = np.random.default_rng(2)
    moved = random.integers(0, 3, (40, len(PARTS))).astype(float)
    z = random.normal(size=(40, 3))
    y = moved @ np.array([0.5, 0, 0, 0.5, -0.5, 0.5, 0.5, 0.5])
    weights = vvenc.fit_loss(z, moved, y, (1.0,))
    assert weights.min() == 0 and weights[4, 0] < 0.05
    far = vvenc.fit_loss(z, moved, y, (1e9,))
    assert far[:, 0] == pytest.approx(y.sum() / moved.sum(), rel=1e-3)


def test_loss_is_rate_at_equal_quality():
    loss = np.array([0.0, 0, 0, 0, 0, 0, 2.0, 0])
    data = vvenc.samples(made_records(np.zeros(len(PARTS)), loss))
    assert data.loss == pytest.approx(2.0 * data.moved[:, 6], abs=1e-6)
    assert data.log_time == pytest.approx(0)


def test_a_cut_needs_two_anchors():
    records = [r for r in made_records(np.zeros(len(PARTS)), np.zeros(len(PARTS))) if r["qp"] == 22]
    with pytest.raises(FastpartError, match="cut c0: 1 anchors, wanted one at each of two QPs"):
        vvenc.samples(records)


def test_recipe_keeps_measuring_apart_from_learning(tmp_path):
    recipe = vvenc.load_recipe(Path(str(VVENC_RECIPE)))
    cells = vvenc.designs(recipe)
    assert cells == vvenc.designs(recipe)
    assert {cut["clip"].split("/")[0] for cut, _, _ in cells} == {"train"}
    assert {cut["clip"].split("/")[0] for cut, _, _ in vvenc.test_cells(recipe)} == {"public_test"}
    text = Path(str(VVENC_RECIPE)).read_text()
    mixed = tmp_path / "mixed.toml"
    mixed.write_text(text.replace("train/bee", "public_test/bee"))
    with pytest.raises(FastpartError, match="what is learned from cannot be measured on"):
        vvenc.load_recipe(mixed)
    mixed.write_text(text.replace("test_qps", "tests_qps"))
    with pytest.raises(FastpartError, match="found no key 'test_qps'"):
        vvenc.load_recipe(mixed)


def test_collecting_goes_on_where_it_stopped(tmp_path, monkeypatch):
    made, encoded = [], []

    def make_cut(cut, root, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.append(cut["name"])
        return write_clip(path, 64, 64, 2)

    def argv(clip, qp, setting, bitstream):
        encoded.append((qp, setting))
        options = setting_options(FULL) if setting != "anchor" else {}
        return encode_command(vvenc.Ffmpeg.find().path, clip, qp, bitstream, intra_period=64,
                              preset="faster", options=options)

    monkeypatch.setattr(vvenc, "make_cut", make_cut)
    wanted = [({"name": "a"}, qp, setting) for qp in (32, 37) for setting in ("anchor", "parts:3")]
    records = tmp_path / "r.tsv"
    assert vvenc.collect(wanted, records, tmp_path, tmp_path, argv, limit=3) == 1
    with records.open("a") as file:
        file.write("a\t37\tparts:3")
    assert vvenc.collect(wanted, records, tmp_path, tmp_path, argv) == 0
    rows = vvenc.read_records(records)
    assert [(r["cut"], r["qp"], r["setting"]) for r in rows] == [
        (cut["name"], qp, setting) for cut, qp, setting in wanted
    ]
    assert len(encoded) == 4 and made == ["a", "a"]
    assert all(r["user_s"] > 0 and r["bits"] > 0 and r["y"] > 20 for r in rows)
    assert vvenc.collect(wanted, records, tmp_path, tmp_path, argv) == 0 and len(encoded) == 4


def test_records_of_other_columns_are_refused(tmp_path):
    (tmp_path / "r.tsv").write_text("cut\tqp\n")
    with pytest.raises(FastpartError, match="columns .* wanted"):
        vvenc.read_records(tmp_path / "r.tsv")


def test_table_relates_settings_to_the_anchor():
    pytest.importorskip("bjontegaard")
    records = []
    for qp in (22, 27, 32, 37):
        base = {"cut": "c", "qp": qp, "bits": 1e6 * 2 ** (-qp / 6), "y": 50.0 - qp / 2,
                "u": 50.0 - qp / 2, "v": 50.0 - qp / 2}
        records.append({**base, "setting": "anchor", "user_s": 10.0})
        records.append({**base, "setting": "half", "user_s": 5.0 + (qp == 37), "bits": base["bits"] * 1.02})
    lines = vvenc.table(records).splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[0] == "half" and cells[2] == "0.600" and cells[4] == cells[5] == "+2.00 %"
    assert float(cells[1]) == pytest.approx((0.5**3 * 0.6) ** 0.25, abs=1e-3)
    with pytest.raises(FastpartError, match=r"half on c: QPs \[27, 32, 37\], wanted"):
        vvenc.table([r for r in records if (r["setting"], r["qp"]) != ("half", 22)])


def test_committed_records_give_the_committed_model(tmp_path):
    """`fastpart train vvenc` with all records there only fits."""
    from fastpart.record import sha256_file
    from fastpart.vvenc_choice import DEFAULT_MODEL

    shutil.copy(COMMITTED, tmp_path / "train.tsv")
    assert main(["train", "vvenc", "--clips", str(tmp_path), "--out", str(tmp_path),
                 "--model", str(tmp_path / "m.json")]) == 0
    fitted, committed = load_model(tmp_path / "m.json"), load_model(DEFAULT_MODEL)
    for key in ("mean", "scale", "time", "loss"):
        assert np.array(fitted[key]) == pytest.approx(np.array(committed[key]), rel=1e-6, abs=1e-9)
    assert committed["training"]["records_sha256"] == sha256_file(COMMITTED)
    assert committed["training"]["recipe_sha256"] == sha256_file(Path(str(VVENC_RECIPE)))
