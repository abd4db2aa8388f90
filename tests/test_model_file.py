"""What the writer wrote is what the engine reads; anything else is refused with a reason."""

import struct
import zlib

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpart import _engine
from fastpart.errors import FastpartError
from fastpart.modelfile import STEERING, VERSION, describe, write_model

TABLES = {
    "qp_knots": [22, 27, 32],
    "log_kappa": [-1.5, 0, 2.25],
    "log_layer_weight": [0, 0.5, 1, 1, 1, 1.5, 2, 2],
    "steering": {name: [0.25 * i + 0.5 for i in range(size)] for name, size in STEERING.items()},
}
FEATURES = ["width", "height", "größe"]
METADATA = {"recipe": "test", "rounds": 2}
HEADER, TRAILER = 20, 4


def train(categorical="auto", **parameters):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 3))
    X[:, 2] = rng.integers(0, 3, 200)
    parameters = {"objective": "regression", "num_leaves": 4, "verbose": -1, **parameters}
    return lightgbm.train(
        parameters, lightgbm.Dataset(X, X.sum(1), categorical_feature=categorical), 2
    )


BOOSTER = train()


def write(path, booster=BOOSTER, tables=TABLES, features=FEATURES, group="split_intra"):
    write_model(path, {group: (booster, BOOSTER)}, tables, METADATA, features)
    return path.read_bytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "model")


def sealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


def refuses(data, reason):
    with pytest.raises(ValueError, match=reason):
        _engine.Model(data)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_crc32_is_the_usual_one(data, cut):
    assert _engine.crc32(data) == zlib.crc32(data)
    assert _engine.crc32(data[cut:], _engine.crc32(data[:cut])) == zlib.crc32(data)


def test_round_trip(tmp_path, model):
    parsed = _engine.Model(model)
    assert parsed.features == FEATURES
    assert parsed.checksum == zlib.crc32(model[:-TRAILER])
    assert parsed.tables.qp_knots == TABLES["qp_knots"]
    assert parsed.tables.log_kappa == TABLES["log_kappa"]
    assert parsed.tables.log_layer_weight == TABLES["log_layer_weight"]
    assert parsed.tables.steering == [v for name in STEERING for v in TABLES["steering"][name]]
    assert parsed.trees("split_intra") == (2, 2)
    assert write(tmp_path / "again") == model
    assert [each.name for each in tmp_path.iterdir()] == ["again"]

    summary = describe(tmp_path / "again")
    assert summary["version"] == VERSION
    assert summary["metadata"] == METADATA
    assert summary["bytes"] == len(model)
    assert summary["checksum"] == f"{parsed.checksum:08x}"
    assert summary["tables"] == TABLES
    assert summary["trees"]["split_intra"] == {"loss": 2, "time": 2}


def test_steering_tables_are_optional(tmp_path):
    write(tmp_path / "plain", tables={**TABLES, "steering": None})
    assert describe(tmp_path / "plain")["tables"]["steering"] is None
    model = (tmp_path / "plain").read_bytes()
    with pytest.raises(ValueError, match="features, this engine has"):
        _engine.Session(model=model, enabled=True)


def test_describe_names_the_file(tmp_path):
    with pytest.raises(FastpartError, match="absent"):
        describe(tmp_path / "absent")
    (tmp_path / "other").write_bytes(b"not a model at all")
    with pytest.raises(FastpartError, match="other.*FASTPART"):
        describe(tmp_path / "other")


def test_refuses_every_truncation(model):
    for size in range(len(model)):
        with pytest.raises(ValueError, match="wanted"):
            _engine.Model(model[:size])
    refuses(model + b"\0", "payload of")


def test_refuses_every_truncated_payload(model):
    payload = model[HEADER:-TRAILER]
    for size in range(len(payload)):
        body = model[:12] + struct.pack("<Q", size) + payload[:size]
        with pytest.raises(ValueError, match="wanted|but"):
            _engine.Model(sealed(body))
    body = model[:12] + struct.pack("<Q", len(payload) + 1) + payload + b"\0"
    refuses(sealed(body), "1 bytes after the last group")


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0), flip=st.integers(1, 255))
def test_refuses_a_damaged_byte(model, position, flip):
    damaged = bytearray(model)
    damaged[position % len(model)] ^= flip
    with pytest.raises(ValueError):
        _engine.Model(bytes(damaged))


@settings(max_examples=3000, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3)
)
def test_survives_hostile_payloads(model, edits):
    body = bytearray(model[:-TRAILER])
    for position, patch in edits:
        start = HEADER + position % (len(body) - HEADER)
        patch = patch[: len(body) - start]
        body[start : start + len(patch)] = patch
    try:
        parsed = _engine.Model(sealed(bytes(body)))
        features = len(parsed.features)
    except ValueError:
        return
    X = np.array([[0, 1, np.nan], [-5, np.inf, 1e-36]], np.float32)[:, :features]
    for group in ("split_inter", "split_intra", "continue", "mode"):
        np.testing.assert_array_equal(parsed.predict(group, X), parsed.predict_plain(group, X))


def payload_of(trees, knots=(22, 27), features=("a",)):
    """A payload whose first forest has the trees given as (nodes, leaves)."""
    parts = [struct.pack("<I", 2), b"{}", struct.pack("<I", len(features))]
    parts += [struct.pack("<H", len(name)) + name.encode() for name in features]
    parts += [
        struct.pack(f"<I{2 * len(knots)}f8fI", len(knots), *knots, *[0] * len(knots), *[0] * 9)
    ]
    parts += [struct.pack("<II", 4, len(trees))]
    for nodes, leaves in trees:
        parts += [struct.pack("<I", len(nodes)), *(struct.pack("<dHBBii", *node) for node in nodes)]
        parts += [struct.pack(f"<{len(leaves)}d", *leaves)]
    parts += [struct.pack("<IId", 1, 0, 0.5), struct.pack("<6I", *[0] * 6)]
    payload = b"".join(parts)
    return sealed(b"FASTPART" + struct.pack("<IQ", VERSION, len(payload)) + payload)


@pytest.mark.parametrize(
    "nodes, leaves, reason",
    [
        ([(0.5, 1, 0, 0, -1, -2)], [1, 2], "feature 1, wanted below 1"),
        ([(0.5, 0, 3, 0, -1, -2)], [1, 2], "missing type 3"),
        ([(0.5, 0, 0, 2, -1, -2)], [1, 2], "default left 2"),
        ([(np.nan, 0, 0, 0, -1, -2)], [1, 2], "threshold is NaN"),
        ([(0.5, 0, 0, 0, -1, -2)], [1, np.nan], "leaf 1 is not finite"),
        ([(0.5, 0, 0, 0, -1, -2)], [-np.inf, 1], "leaf 0 is not finite"),
        ([(0.5, 0, 0, 0, 0, -2)], [1, 2], "child 0, wanted a node from 1"),
        ([(0.5, 0, 0, 0, 1, -2)], [1, 2], "child 1, wanted"),
        ([(0.5, 0, 0, 0, -1, -3)], [1, 2], "child -3, wanted"),
        ([(0.5, 0, 0, 0, -(2**31), -2)], [1, 2], "child -2147483648, wanted"),
        ([(0.5, 0, 0, 0, -1, -1)], [1, 2], "child -1 has two parents"),
        ([(0.5, 0, 0, 0, 1, 1), (0.5, 0, 0, 0, -1, -2)], [1, 2, 3], "child 1 has two parents"),
        ([(0.5, 0, 0, 0, 1, -1), (0.5, 0, 0, 0, 0, -2)], [1, 2, 3], "node 1: child 0"),
    ],
)
def test_refuses_unsound_trees(nodes, leaves, reason):
    refuses(payload_of([(nodes, leaves)]), reason)


def test_refuses_unsound_heads():
    leaf = ([], [1.0])
    assert _engine.Model(payload_of([leaf])).trees("split_inter") == (1, 1)
    refuses(payload_of([]), "0 loss and 1 time trees")
    refuses(payload_of([leaf], knots=(27, 27)), "ascending")
    refuses(payload_of([leaf], knots=(22, np.nan)), "QP knot: not finite")
    refuses(payload_of([leaf], knots=()), "number of QP knots: 0")
    refuses(payload_of([leaf], features=()), "number of features: 0")
    refuses(payload_of([leaf], features=("a", "a")), "appears twice")
    good = payload_of([leaf])
    refuses(
        sealed(good[:8] + struct.pack("<I", 9) + good[12:-TRAILER]), "format version 9, wanted"
    )
    refuses(sealed(b"FASTPASS" + good[8:-TRAILER]), "FASTPART")
    refuses(good[:-TRAILER] + b"\0\0\0\0", "checksum .* wanted the stored 0")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"booster": train(linear_tree=True)}, "linear"),
        ({"booster": train(categorical=[2], min_data_per_group=1)}, "categorical"),
        ({"booster": train(boosting="rf", bagging_freq=1, bagging_fraction=0.5)}, "averaging"),
        ({"features": ["a", "b"]}, "3 features, wanted 2"),
        ({"features": ["a", "b", "b"]}, "distinct"),
        ({"group": "intra"}, "wanted some of split_inter"),
        ({"tables": {**TABLES, "qp_knots": [22, 32, 27]}}, "ascending"),
        ({"tables": {**TABLES, "log_kappa": [0, 1]}}, "one log_kappa for each"),
        ({"tables": {**TABLES, "steering": {"saved_scale": [1]}}}, "as many as in"),
        ({"tables": {**TABLES, "steering": {**TABLES["steering"], "logit_slope": [0]}}}, "positive"),
        ({"tables": {**TABLES, "steering": {**TABLES["steering"], "saved_scale": [1, 0]}}}, "positive"),
        ({"tables": {**TABLES, "log_kappa": [0, 1, np.nan]}}, "finite"),
        ({"tables": {**TABLES, "log_layer_weight": [0] * 7}}, "8 of them"),
    ],
)
def test_writer_refuses(tmp_path, change, reason):
    with pytest.raises(FastpartError, match=f"{tmp_path.name}.*{reason}"):
        write(tmp_path / "model", **change)
    assert not list(tmp_path.iterdir())


def test_writer_names_an_unwritable_folder(tmp_path):
    with pytest.raises(FastpartError, match="absent.*cannot be written"):
        write(tmp_path / "absent" / "model")
