"""The engine's session without an encoder: labels, budgets, exploration, texture sums."""

import numpy as np
import pytest

from fastpart import _engine
from fastpart.training.dataset import ON_PATH, WON, read_trace, to_table

QT, BT_H, BT_V, TT_H, TT_V, CONTINUE, INTRA, AMVR_FULL, AMVR_FOUR, AMVR_HALF, ME, OTHER = range(12)
BIT = 32768.0


@pytest.fixture
def luma():
    return np.random.default_rng(1).integers(0, 1023, (64, 64), dtype=np.int16)


def open_session(luma, trace="", **settings):
    session = _engine.Session(trace=str(trace), **settings)
    session.begin_picture(poc=0, qp=32, temporal_id=0, intra=False, luma=luma)
    return session


def search_leaf(session, x, y, width, height, merge, intra):
    """A node with two candidates and no split; returns its cost."""
    session.enter(x, y, width, height)
    assert session.consider(OTHER)
    session.result(merge)
    if session.consider(INTRA, merge):
        session.result(intra)
    session.leave()
    return min(merge, intra)


def search_tree(session):
    """64x64: unsplit 1000 bits, BT_H 900 (children 500 + 400), BT_V 950."""
    session.enter(0, 0, 64, 64)
    assert session.consider(OTHER)
    session.result(1000 * BIT)
    assert session.consider(BT_H, 1000 * BIT)
    done = search_leaf(session, 0, 0, 64, 32, 520 * BIT, 500 * BIT)
    assert session.child_done(done, 64, 32)
    done += search_leaf(session, 0, 32, 64, 32, 400 * BIT, 1000 * BIT)
    assert session.child_done(done, 64, 32)
    session.result(done)
    assert session.consider(BT_V, done)
    part = search_leaf(session, 0, 0, 32, 64, 700 * BIT, 450 * BIT)
    assert session.child_done(part, 32, 64)
    part += search_leaf(session, 32, 0, 32, 64, 500 * BIT, 600 * BIT)
    session.result(part)
    session.leave()
    session.end_ctu()


def test_labels_are_regret_on_the_final_path(luma, tmp_path):
    path = tmp_path / "t.fpt"
    session = open_session(luma, path)
    search_tree(session)
    session.finish()
    trace = read_trace(path)
    assert trace.complete
    assert trace.features == _engine.feature_names()
    rows = {
        (int(r["candidate"]), int(r["x"]), int(r["y"]), 1 << int(r["log2_width"])): r
        for r in trace.records
    }
    # The root: BT_H wins with 900 against 950; BT_V does not win.
    assert rows[BT_H, 0, 0, 64]["regret"] == 50
    assert np.isinf(rows[BT_H, 0, 0, 64]["cap"])
    assert rows[BT_H, 0, 0, 64]["flags"] & (ON_PATH | WON) == ON_PATH | WON
    assert rows[BT_V, 0, 0, 64]["regret"] == 0
    # Going on with BT_H after its first child is worth what BT_H is worth.
    assert rows[CONTINUE, 0, 0, 64]["regret"] in (0, 50)
    # Intra of the upper half wins by 20 bits; at stake above are 50.
    assert rows[INTRA, 0, 0, 64]["regret"] == 20
    assert rows[INTRA, 0, 0, 64]["cap"] == 50
    # Intra of the left half wins by 250, but the BT_V that it is part of lost.
    assert rows[INTRA, 0, 0, 32]["regret"] == 250
    assert rows[INTRA, 0, 0, 32]["flags"] & (ON_PATH | WON) == WON

    table = to_table(trace, explore_keep=1.0, off_path_share=1.0, seed=1)
    losses = sorted(x for x in table["loss"].to_pylist() if x > 0)
    assert losses == [20, 50, 50]


def test_an_ancestor_limits_the_loss(luma, tmp_path):
    path = tmp_path / "t.fpt"
    session = open_session(luma, path)
    session.enter(0, 0, 64, 64)
    session.consider(OTHER)
    session.result(1000 * BIT)
    session.consider(BT_H, 1000 * BIT)
    done = search_leaf(session, 0, 0, 64, 32, 900 * BIT, 495 * BIT)
    session.child_done(done, 64, 32)
    done += search_leaf(session, 0, 32, 64, 32, 500 * BIT, 600 * BIT)
    session.result(done)
    session.leave()
    session.end_ctu()
    session.finish()
    table = to_table(read_trace(path), explore_keep=1.0, off_path_share=1.0, seed=1).to_pydict()
    intra = [
        loss for candidate, loss in zip(table["candidate_id"], table["loss"], strict=True)
        if candidate == INTRA
    ]
    # 405 bits at the node, but without them BT_H costs 1400 and the root falls back on 1000: 5 bits.
    assert sorted(intra) == [0, 5]


def test_a_cut_trace_loses_only_its_last_block(luma, tmp_path):
    path = tmp_path / "t.fpt"
    session = open_session(luma, path)
    for _ in range(1200):
        search_tree(session)
    session.finish()
    whole = read_trace(path)
    assert len(whole.records) > 4096
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    cut = read_trace(path)
    assert not cut.complete
    kept = len(cut.records)
    assert kept and kept % 4096 == 0 and len(whole.records) - kept <= 4096
    assert (cut.records["regret"] == whole.records["regret"][:kept]).all()


@pytest.mark.parametrize(
    ("size", "candidates"), [(16, {QT, INTRA, AMVR_FULL, CONTINUE}), (8, {QT, INTRA, AMVR_FULL})]
)
def test_questions_that_save_nothing_are_not_asked(luma, tmp_path, size, candidates):
    path = tmp_path / "t.fpt"
    session = open_session(luma, path)
    session.enter(0, 0, size, size)
    assert session.consider(OTHER)
    session.result(10 * BIT)
    for candidate in (AMVR_HALF, AMVR_FULL, INTRA, QT):
        assert session.consider(candidate, 10 * BIT)
    assert session.child_done(BIT, size // 2, size // 2)
    session.leave()
    session.end_ctu()
    session.finish()
    assert set(read_trace(path).records["candidate"].tolist()) == candidates


def test_exploration_skips_its_share_and_repeats(luma):
    def run(seed):
        session = open_session(luma, explore_skip=0.3, seed=seed)
        for _ in range(3000):
            session.enter(0, 0, 32, 32)
            session.consider(OTHER)
            session.result(10 * BIT)
            session.consider(INTRA, 10 * BIT)
            session.leave()
        return session.skipped()[INTRA]

    assert run(1) == run(1)
    assert 0.25 < run(1) / 3000 < 0.35


def test_nothing_is_asked_before_there_is_an_alternative(luma):
    session = open_session(luma, explore_skip=1.0)
    session.enter(0, 0, 64, 64)
    assert session.consider(QT)
    assert sum(session.asked()) == 0
    session.leave()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kappa": 0.0}, "FastPartKappa"),
        ({"target": 1.0}, "FastPartTargetRatio"),
        ({"explore_skip": 1.5}, "probability"),
        ({"enabled": True}, "no model compiled in"),
        ({"enabled": True, "model": b"not a model"}, "magic"),
        ({"trace": "/nonexistent/folder/t.fpt"}, "/nonexistent/folder/t.fpt"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        _engine.Session(**settings)


def test_block_sums_match_numpy():
    luma = np.random.default_rng(2).integers(0, 1023, (48, 80), dtype=np.int16)
    stats = _engine.PictureStats(luma)
    wide = luma.astype(np.int64)
    horizontal = np.abs(np.diff(wide, axis=1, append=wide[:, -1:]))
    vertical = np.abs(np.diff(wide, axis=0, append=wide[-1:, :]))
    for x, y, w, h in [(0, 0, 80, 48), (16, 8, 32, 16), (76, 44, 4, 4), (64, 32, 64, 64)]:
        block = np.s_[y : y + h, x : x + w]
        total, squares, gh, gv, samples, variance = stats.sums(x, y, w, h)
        assert total == wide[block].sum()
        assert squares == (wide[block] ** 2).sum()
        assert gh == horizontal[block].sum()
        assert gv == vertical[block].sum()
        assert samples == wide[block].size
        assert variance == pytest.approx(wide[block].var())
