"""The simulator: a policy on a trace of the full search."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from test_training_clips import make_clip, recipe_of

from fastpart import _engine
from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.modelfile import DEFAULT_MODEL
from fastpart.training.dataset import CANDIDATES, ON_PATH, POLICY_SKIP, WON, Trace, read_trace
from fastpart.training.simulate import Outcome, coded_bits, log_kappas, simulate, to_markdown

NAMES = _engine.feature_names()
DTYPE = [
    ("start", "<u8"), ("poc", "<i4"), ("candidate", "u1"), ("flags", "u1"), ("regret", "<f4"), ("cap", "<f4"),
    ("cycles", "<f4"), ("features", "<f4", (len(NAMES),)),
]
#: A split and two questions within it, then two questions after it: candidate, start, cycles, regret, cap, score.
SEARCH = [
    ("split_bt_h", 0, 1000, 50, math.inf, 2.0),
    ("intra", 100, 200, 20, 50, 0.5),
    ("continue", 400, 500, 80, 50, 1.0),
    ("split_tt_v", 1000, 300, 0, math.inf, 1.5),
    ("intra", 1400, 100, 10, 5, 0.25),
]


def trace_of(search, **features) -> Trace:
    """score: ln of the kappa above which `Scores` refuses the question."""
    records = np.zeros(len(search), DTYPE)
    for record, (candidate, start, cycles, regret, cap, score) in zip(records, search, strict=True):
        record["candidate"], record["start"] = CANDIDATES.index(candidate), 10**15 + start
        record["cycles"], record["regret"], record["cap"] = cycles, regret, cap
        record["flags"] = ON_PATH | WON
        for name, value in {"qp": 32, "best_cost": score, **features}.items():
            record["features"][NAMES.index(name)] = value
    return Trace(NAMES, records[::-1], complete=True)   # as nodes come in another order than questions


class Scores:
    """A model whose loss is the feature best_cost, and whose time is 0."""

    def __init__(self, weight=(0.0,) * 8, log_kappa=(0.0, 0.0), groups=("split_inter", "continue", "mode")):
        self.tables = SimpleNamespace(qp_knots=[22.0, 42.0], log_kappa=log_kappa, log_layer_weight=weight)
        self.groups = groups

    def trees(self, group):
        return (1, 1) if group in self.groups else (0, 0)

    def predict(self, group, rows):
        return np.column_stack([rows[:, NAMES.index("best_cost")], np.zeros(len(rows))])


@pytest.mark.parametrize(
    ("log_kappa", "saved", "lost"),
    [
        (0.0, 0, 0),
        (0.3, 100, 5),                 # at most what is at stake above
        (0.6, 300, 25),
        (1.1, 200 + 500 + 100, 75),    # going on, too
        (1.6, 200 + 500 + 100 + 300, 75),
        (2.1, 1000 + 300 + 100, 55),   # the whole split: nothing within it is asked
    ],
)
def test_what_is_within_a_refused_test_is_not_asked(log_kappa, saved, lost):
    (outcome,) = simulate(trace_of(SEARCH), 1000, Scores(), [math.exp(log_kappa)])
    assert outcome.ratio == pytest.approx(1 - saved / 1500)
    assert outcome.loss == pytest.approx(lost / 10)


def test_off_the_final_path_nothing_is_lost():
    trace = trace_of(SEARCH)
    trace.records["flags"] = WON
    (outcome,) = simulate(trace, 1000, Scores(), [10.0])
    assert (outcome.ratio, outcome.loss) == (pytest.approx(1 - 1400 / 1500), 0)


@pytest.mark.parametrize("intra", [False, True])
def test_thresholds_are_those_of_the_engine(tmp_path, intra):
    """The engine marks what it would have skipped."""
    path, data = tmp_path / "t.fpt", DEFAULT_MODEL.read_bytes()
    luma = np.random.default_rng(1).integers(0, 1023, (64, 64), dtype=np.int16)
    refused = 0
    for kappa in (0.01, 1.0, 1e2, 1e4):
        session = _engine.Session(model=data, enabled=True, kappa=kappa, trace=str(path), explore_keep=1.0)
        session.begin_picture(poc=0, qp=33, temporal_id=0, intra=intra, luma=luma)
        for size in (64, 32, 16):
            session.enter(0, 0, size, size, intra_slice=intra, qp=33)
            session.consider(CANDIDATES.index("other"))
            session.result(9e6)
            for candidate in range(5):
                assert session.consider(candidate, 9e6)
            session.leave()
        session.end_ctu()
        session.finish()
        trace = read_trace(path)
        marked = (trace.records["flags"] & POLICY_SKIP) != 0
        assert len(marked) == 15
        assert (marked == (log_kappas(trace, _engine.Model(data)) < math.log(kappa))).all()
        refused += marked.sum()
    assert 0 < refused < 4 * 15


def test_layers_and_qps_have_their_thresholds():
    model = Scores(weight=(0.1, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.7), log_kappa=(0.0, 2.0))
    one = SEARCH[:1]
    assert log_kappas(trace_of(one, temporal_id=2), model) == pytest.approx([2.0 - 1.0 + 3.0])
    assert log_kappas(trace_of(one, qp=42, temporal_id=2), model) == pytest.approx([2.0 - 2.0 + 3.0])
    assert np.isnan(log_kappas(trace_of(one, intra_slice=1), model)).all(), "no ensembles for it"
    model.groups = ("split_intra",)
    assert log_kappas(trace_of(one, intra_slice=1), model) == pytest.approx([2.0 - 1.0 + 0.1])
    assert log_kappas(trace_of(one, intra_slice=1, chroma=1), model) == pytest.approx([2.0 - 1.0 + 0.7])


def test_a_cut_trace_and_a_foreign_log_are_refused(tmp_path):
    trace = trace_of(SEARCH)
    for records, complete in ((trace.records, False), (trace.records[:0], True)):
        with pytest.raises(FastpartError, match="cut short"):
            simulate(Trace(trace.features, records, complete), 1, Scores(), [1.0])
    log = tmp_path / "a.log"
    log.write_text("nothing\n")
    with pytest.raises(FastpartError, match="no picture"):
        coded_bits(log)


def test_the_table_compares_with_real_encodes():
    simulated, measured = Outcome(1.0, 0.70, 1.0), Outcome(1.0, 0.72, 1.5)
    text = to_markdown({"a": [(simulated, measured)], "b": [(simulated, None)]})
    assert "| a | 1 | 0.700 | 0.720 | +1.00 % | +1.50 % |" in text and "| b | 1 | 0.700 |  |" in text
    assert "measured T: -0.020 on average, 0.020 rms" in text and "loss: -0.500 on average" in text


def test_the_command_simulates_and_measures(patched_vtm, tmp_path, capfd):
    (tmp_path / "train").mkdir()
    make_clip(tmp_path / "train/x_128x128_30.yuv", 128, 128, frames=6, seed=1)
    recipe = recipe_of(tmp_path / "r.toml", ("a", []))
    argv = ["train", "simulate", "a", "--recipe", str(recipe), "--clips", str(tmp_path), "--kappas", "0.001,30",
            "--out", str(tmp_path / "work"), "--limit", "1", "--measure", "--jobs", "1",
            "--vtm-home", str(patched_vtm.root)]
    assert main(argv) == 0
    out = capfd.readouterr().out
    low, high = (line.split("|") for line in out.splitlines() if line.startswith("| x_qp32"))
    assert float(high[3]) < float(low[3]) <= 1, "T simulated"
    assert float(high[4]) < float(low[4]), "T measured"
    assert abs(float(high[3]) - float(high[4])) < 0.25
    assert "loss: " in out
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work/a-full").iterdir()}
    assert main(argv) == 0 and capfd.readouterr().out == out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work/a-full").iterdir()} == made
    with pytest.raises(SystemExit):
        main([*argv, "--kappas", "0"])
    assert "wanted numbers above 0" in capfd.readouterr().err
