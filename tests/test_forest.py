"""The only correct score is LightGBM's own, to the last bit."""

import lightgbm
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpart import _engine
from fastpart.modelfile import write_model

TABLES = {"qp_knots": [32], "log_kappa": [0], "log_layer_weight": [0] * 8}
SPECIAL = np.array(
    [np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-36, -1e-36, 1e-35, -1e-35, 1e-40, -1e-45, 3e38, -3e38],
    np.float32,
)
MISSING = ({}, {"zero_as_missing": True}, {"use_missing": False})


def training_set(rng, rows, features):
    """Columns of several kinds: Gaussian, integer with ties, mostly zero, tiny; some with NaN."""
    X = rng.normal(size=(rows, features))
    for column in range(features):
        kind = rng.integers(5)
        if kind == 1:
            X[:, column] = rng.integers(-3, 4, rows)
        elif kind == 2:
            X[rng.random(rows) < 0.7, column] = 0
        elif kind == 3:
            X[:, column] *= 1e-35
        if rng.random() < 0.5:
            X[rng.random(rows) < 0.2, column] = np.nan
    signal = np.nan_to_num(X) @ rng.normal(size=features) + np.isnan(X) @ rng.normal(size=features)
    return X, signal + rng.normal(size=rows)


def booster(rng, X, target, objective, leaves, trees, missing):
    parameters = {
        "objective": objective,
        "num_leaves": leaves,
        "min_data_in_leaf": 5,
        "learning_rate": 0.3,
        "seed": int(rng.integers(1000)),
        "num_threads": 1,
        "verbose": -1,
        **missing,
    }
    label = np.maximum(target, 0) if objective == "tweedie" else target
    return lightgbm.train(parameters, lightgbm.Dataset(X, label), trees)


def around(threshold):
    """The float32 values at and on either side of a threshold."""
    with np.errstate(over="ignore"):
        at = np.float32(float(threshold))
    return [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]


def thresholds(node):
    if "split_feature" in node:
        yield node["split_feature"], node["threshold"]
        yield from thresholds(node["left_child"])
        yield from thresholds(node["right_child"])


def probes(rng, boosters, features):
    """Random rows, then rows of values at and around thresholds and of special values."""
    pool = [list(SPECIAL) for _ in range(features)]
    for each in boosters:
        for tree in each.dump_model()["tree_info"]:
            for feature, threshold in thresholds(tree["tree_structure"]):
                pool[feature] += around(threshold)
    edge = np.stack([rng.choice(np.array(values, np.float32), 300) for values in pool], axis=1)
    return np.concatenate([rng.normal(size=(100, features)).astype(np.float32), edge])


def check(path, boosters, X):
    features = [f"feature {index}" for index in range(X.shape[1])]
    write_model(path, {"mode": boosters}, TABLES, {}, features)
    model = _engine.Model(path.read_bytes())
    assert model.trees("mode") == tuple(each.num_trees() for each in boosters)
    wanted = np.stack([each.predict(X, raw_score=True, num_threads=1) for each in boosters], axis=1)
    np.testing.assert_array_equal(model.predict_plain("mode", X), wanted)
    np.testing.assert_array_equal(model.predict("mode", X), wanted)


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    features=st.integers(1, 12),
    leaves=st.sampled_from([2, 3, 8, 31, 64]),
    trees=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    objectives=st.tuples(*[st.sampled_from(["regression", "tweedie"])] * 2),
    missing=st.tuples(*[st.sampled_from(MISSING)] * 2),
)
def test_equals_lightgbm(tmp_path, seed, features, leaves, trees, objectives, missing):
    rng = np.random.default_rng(seed)
    X, target = training_set(rng, 400, features)
    boosters = tuple(
        booster(rng, X, target, objectives[i], leaves, trees[i], missing[i]) for i in range(2)
    )
    check(tmp_path / "model", boosters, probes(rng, boosters, features))


@pytest.mark.parametrize(("loss", "time"), [(20, 4), (100, 25), (140, 30), (100, 160)])
def test_sizes_around_those_of_the_encoder(tmp_path, loss, time):
    rng = np.random.default_rng(7)
    X, target = training_set(rng, 3000, 60)
    boosters = (
        booster(rng, X, target, "tweedie", 48, loss, {}),
        booster(rng, X, target, "regression", 48, time, {}),
    )
    check(tmp_path / "model", boosters, probes(rng, boosters, 60))


def test_one_leaf_trees(tmp_path):
    rng = np.random.default_rng(3)
    X, target = training_set(rng, 40, 3)
    leaf = lightgbm.train(
        {"objective": "regression", "min_data_in_leaf": 40, "verbose": -1},
        lightgbm.Dataset(X, target),
        3,
    )
    check(
        tmp_path / "model",
        (leaf, booster(rng, X, target, "regression", 8, 3, {})),
        X.astype(np.float32),
    )


def edited(booster, **arrays):
    """The booster with fields of its first tree's text replaced."""
    lines = booster.model_to_string().split("\n")
    for name, values in arrays.items():
        index = next(i for i, line in enumerate(lines) if line.startswith(f"{name}="))
        lines[index] = f"{name}=" + " ".join(map(str, values))
    lines = [line for line in lines if not line.startswith("tree_sizes=")]
    return lightgbm.Booster(model_str="\n".join(lines))


@pytest.mark.parametrize("decision", [0, 2, 4, 6, 8, 10])
@pytest.mark.parametrize(
    "threshold",
    [
        0.0,
        -0.0,
        1e-35,
        -1e-35,
        1e-36,
        -1e-36,
        1e-45,
        1e-46,
        0.1,
        16777217.0,
        1e39,
        -1e39,
        1e300,
        -1e300,
        "inf",
        "-inf",
    ],
)
def test_every_missing_type_at_hard_thresholds(tmp_path, decision, threshold):
    X = np.linspace(-1, 1, 100)[:, None]
    stump = lightgbm.train(
        {"objective": "regression", "num_leaves": 2, "verbose": -1}, lightgbm.Dataset(X, X[:, 0]), 1
    )
    stump = edited(stump, threshold=[threshold], decision_type=[decision])
    values = np.concatenate([SPECIAL, around(threshold)]).astype(np.float32)
    check(tmp_path / "model", (stump, stump), values[:, None])


def test_refuses_features_of_another_shape(tmp_path):
    rng = np.random.default_rng(3)
    X, target = training_set(rng, 100, 3)
    each = booster(rng, X, target, "regression", 4, 2, {})
    write_model(tmp_path / "model", {"continue": (each, each)}, TABLES, {}, ["a", "b", "c"])
    model = _engine.Model((tmp_path / "model").read_bytes())
    with pytest.raises(ValueError, match=r"wanted \(n, 3\)"):
        model.predict("continue", np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="wanted one of split_inter"):
        model.predict("intra", np.zeros((2, 3), np.float32))
    assert model.trees("mode") == (0, 0)
    assert not model.predict("mode", np.zeros((2, 3), np.float32)).any()
