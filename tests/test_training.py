"""Recipe, labels and fit on a synthetic trace."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastpart import _engine
from fastpart.errors import FastpartError
from fastpart.modelfile import describe, write_tables
from fastpart.training import fit
from fastpart.training.dataset import CANDIDATES, read_trace
from fastpart.training.recipe import DEFAULT_RECIPE, load_recipe
from fastpart.training.steer import NEUTRAL

#: Two cuts of one clip, and one each of two others.
CLIPS = {"a": "train/x.mp4", "b": "train/x.mp4", "c": "train/y.mp4", "d": "train/z.mp4"}


def synthetic(path, rows=6000, seed=1):
    """Questions whose loss grows with best_cost and whose time grows with log2_along."""
    random = np.random.default_rng(seed)
    columns = {
        name: random.normal(size=rows).astype(np.float32) for name in _engine.feature_names()
    }
    columns["intra_slice"] = (random.random(rows) < 0.3).astype(np.float32)
    columns["log2_along"] = random.integers(2, 8, rows).astype(np.float32)
    likely = random.random(rows) < 0.5
    loss = np.where(likely, np.exp(columns["best_cost"]), 0).astype(np.float32)
    cycles = (2.0 ** columns["log2_along"] * 1e6 * random.uniform(0.8, 1.2, rows)).astype(np.float32)
    table = pa.table(
        columns
        | {
            "candidate_id": random.integers(0, len(CANDIDATES) - 1, rows).astype(np.uint8),
            "on_path": likely,
            "won": likely,
            "policy_skip": np.zeros(rows, bool),
            "loss": loss,
            "cycles": cycles,
            "weight": np.ones(rows, np.float32),
            "poc": np.zeros(rows, np.int32),
        }
    )
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    paths = [synthetic(folder / f"{cut}_qp32.parquet", seed=i) for i, cut in enumerate("abcd")]
    options = fit.FitOptions(loss_trees=20, min_rows_in_leaf=20, holdout=("d",))
    report = fit.fit(paths, CLIPS, folder / "m.fpm", folder / "m.json", options, {"recipe": "test"})
    return folder, paths, options, report


def test_fit_finds_what_was_planted(fitted):
    folder, _, _, report = fitted
    for group in ("split_inter", "mode"):
        entry = report["groups"][group]
        assert next(iter(entry["importance"])) == "best_cost"
        assert entry["holdout"]["time_at_loss"]["0.05"] > 0.15
        assert 0.4 < entry["holdout"]["predicted_over_actual_loss"] < 2
    assert json.loads((folder / "m.json").read_text()) == json.loads(json.dumps(report))
    assert describe(folder / "m.fpm")["checksum"] == report["checksum"]


def test_fit_is_reproducible(fitted):
    folder, paths, options, _ = fitted
    fit.fit(paths, CLIPS, folder / "again.fpm", folder / "again.json", options, {"recipe": "test"})
    assert (folder / "again.fpm").read_bytes() == (folder / "m.fpm").read_bytes()


def test_unseen_clips_are_unseen(fitted, monkeypatch):
    _, paths, options, report = fitted
    rows = fit.load_group(paths, "mode", options)
    clip = np.array([CLIPS[cut] for cut in rows.cut])
    seen = []

    class Number:
        def __init__(self, value):
            self.value = value

        def predict(self, features, raw_score):
            return np.full(len(features), self.value)

    def number_of_the_fit(training, _):
        seen.append({CLIPS[cut] for cut in training.cut})
        return Number(len(seen)), Number(-len(seen))

    monkeypatch.setattr(fit, "fit_group", number_of_the_fit)
    predicted = fit.predict_unseen(rows, CLIPS, options)
    assert set(predicted[0]) == {1, 2} and (predicted[1] == -predicted[0]).all()
    for number, clips in enumerate(seen, 1):
        assert not clips & set(clip[predicted[0] == number])
    assert fit.predict_unseen(rows.where(clip == "train/x.mp4"), CLIPS, options) is None
    entry = report["groups"]["mode"]
    assert entry["unseen_clips"]["rows"] == entry["training_rows"]
    assert 0.4 < entry["unseen_clips"]["predicted_over_actual_loss"] < 2


def test_traces_without_a_loss_are_refused(tmp_path):
    path = synthetic(tmp_path / "a_qp32.parquet")
    table = pq.read_table(path)
    zeros = pa.array(np.zeros(len(table), np.float32))
    pq.write_table(table.set_column(table.column_names.index("loss"), "loss", zeros), path)
    with pytest.raises(FastpartError, match="without any loss"):
        fit.fit([path], CLIPS, tmp_path / "m.fpm", tmp_path / "m.json", fit.FitOptions(), {})
    assert not (tmp_path / "m.fpm").exists()


def test_tables_can_be_replaced(fitted):
    folder, *_ = fitted
    tables = {"qp_knots": (30,), "log_kappa": (-2.0,), "log_layer_weight": [0.5] * 8}
    write_tables(folder / "m.fpm", folder / "t.fpm", tables)
    old = _engine.Model((folder / "m.fpm").read_bytes())
    new = _engine.Model((folder / "t.fpm").read_bytes())
    assert new.tables.log_kappa == [-2.0]
    X = np.random.default_rng(1).normal(size=(50, len(old.features))).astype(np.float32)
    assert (old.predict("mode", X) == new.predict("mode", X)).all()
    assert new.checksum != old.checksum


def test_policy_follows_kappa(fitted):
    folder, *_ = fitted
    model = (folder / "m.fpm").read_bytes()
    luma = np.full((64, 64), 100, np.int16)

    def skipped(kappa):
        session = _engine.Session(model=model, enabled=True, kappa=kappa)
        session.begin_picture(poc=0, qp=32, temporal_id=0, intra=False, luma=luma)
        session.enter(0, 0, 64, 64)
        session.consider(11)
        session.result(1e6)
        session.consider(1, 1e6)
        return session.skipped()[1]

    assert skipped(1e-9) == 0
    assert skipped(1e9) == 1
    with pytest.raises(ValueError, match="no steering tables.*FastPartTargetRatio"):
        _engine.Session(model=model, enabled=True, target=0.6)


def test_controls_skip_nothing_below_and_stand_for_all(fitted, tmp_path):
    folder, *_ = fitted
    tables = {"qp_knots": (30,), "log_kappa": (0.0,), "log_layer_weight": [0.0] * 8,
              "steering": NEUTRAL}
    write_tables(folder / "m.fpm", tmp_path / "m.fpm", tables)
    session = _engine.Session(model=(tmp_path / "m.fpm").read_bytes(), enabled=True, kappa=1e9)
    luma = np.full((64, 64), 100, np.int16)

    def asks(x):
        session.enter(x, 0, 32, 64)
        session.consider(11)
        session.result(1e6)
        return session.consider(1, 1e6)

    controls = questions = 0
    for picture in range(200):
        session.begin_picture(poc=picture, qp=32, temporal_id=0, intra=picture == 0, luma=luma)
        for _ in range(40):
            session.enter(0, 0, 64, 64)
            session.consider(11)
            session.result(1e6)
            questions += 1
            if session.consider(1, 1e6):
                controls += 1
                asked = session.asked()
                for x in (0, 32):
                    assert asks(x), "nothing is skipped below a control"
                    session.leave()
                assert session.asked() == asked, "nor is the model asked"
            session.leave()
            session.end_ctu()
    session.finish()
    found, estimated, search = session.controls()
    assert found == controls
    assert 20 <= controls <= questions / 10
    child = (32 * 64 / 16) ** 0.6
    assert search == pytest.approx(2 * child * questions, rel=0.15)
    assert estimated > 0


def test_default_recipe_trains_on_train_only():
    recipe = load_recipe(DEFAULT_RECIPE)
    assert all(cut["clip"].startswith("train/") for cut in recipe.cuts)
    assert {cell.qp for cell in recipe.steering_cells} == {22, 27, 32, 37}
    pictures = {(cut["clip"], p) for cut in recipe.cuts for p in range(cut["start"], cut["start"] + 33)}
    for cell in recipe.steering_cells:
        start = cell.cut["start"]
        assert not pictures & {(cell.cut["clip"], p) for p in range(start, start + cell.cut["frames"])}
    for round_ in recipe.rounds.values():
        assert len(round_.cells) >= len(recipe.cuts)
        assert {cell.qp for cell in round_.cells} == {22, 27, 32, 37}


def test_recipe_refuses_test_clips(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        '[cut_defaults]\n[[cut]]\nname = "x"\nclip = "public_test/x.mp4"\n[[round]]\nname = "a"\n'
    )
    with pytest.raises(FastpartError, match="public_test/x.mp4.*train/"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "magic"), (b"FPTRACE1" + b"\1\0\0\0" * 3 + b"x" * 10, "header is damaged")],
)
def test_foreign_traces_are_refused(tmp_path, data, words):
    path = tmp_path / "t.fpt"
    path.write_bytes(data)
    with pytest.raises(FastpartError, match=words):
        read_trace(path)
