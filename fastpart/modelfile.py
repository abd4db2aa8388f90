"""Writes the engine's model file from LightGBM boosters, and describes one.

The format is documented in `engine/model.hpp`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastpart.errors import FastpartError
from fastpart.files import write_bytes_atomic

if TYPE_CHECKING:
    from lightgbm import Booster

#: The committed model, which `fastpart patch apply` compiles in.
DEFAULT_MODEL = Path(__file__).parent / "models" / "default.fpm"

MAGIC = b"FASTPART"
VERSION = 6
GROUPS = ("split_inter", "split_intra", "continue", "mode")
MAX_FEATURES = 128
MAX_LEAVES = 4096
MAX_KNOTS = 64
LAYERS = 8
#: Steering tables (`SteeringTables` of engine/model.hpp): name and number of values, in file order.
STEERING = {
    "picture_time": 1, "sample_time": 1, "node_time": 2, "filter_time_saved": 1, "split_scale": 2,
    "split_scale_controls": 2, "saved_scale": 2, "skip_logit": 14, "log_time": 14, "logit_slope": 1,
}
_POSITIVE = ("split_scale", "split_scale_controls", "saved_scale", "logit_slope")

_HEADER = struct.Struct("<8sIQ")
_NODE = struct.Struct("<dHBBii")
# Bits of LightGBM's decision_type (include/LightGBM/tree.h).
_DEFAULT_LEFT = 2
_MISSING_SHIFT = 2


def write_model(
    path: str | os.PathLike[str],
    groups: Mapping[str, tuple[Booster, Booster]],
    tables: Mapping[str, Any],
    metadata: Mapping[str, Any],
    features: Sequence[str],
) -> int:
    """Write a model file and return its checksum.

    groups: loss and time booster of each group in `GROUPS`; a group left out stays empty.
    tables: `qp_knots` and `log_kappa` (same length, knots ascending), `log_layer_weight` (8 values:
        luma of I pictures, temporal layers 0 to 5, chroma of I pictures), and `steering`: None, or the
        values of each name in `STEERING`.
    features: names in the order of the boosters' columns.

    Equal arguments give equal bytes. The file appears under its name when complete.
    Raises FastpartError if the boosters or tables are not ones that the engine can run.
    """
    path = Path(path)
    payload = b"".join(
        (
            _text(json.dumps(metadata, sort_keys=True, allow_nan=False), "<I"),
            _pack_features(path, features),
            _pack_tables(path, tables),
            _pack_groups(path, groups, len(features)),
        )
    )
    body = _HEADER.pack(MAGIC, VERSION, len(payload)) + payload
    checksum = zlib.crc32(body)
    write_bytes_atomic(path, body + struct.pack("<I", checksum))
    return checksum


def write_tables(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    tables: Mapping[str, Any],
) -> int:
    """Write the model file `source` with other policy tables to `path`; returns the checksum.

    tables: as in `write_model`. The ensembles stay byte for byte.
    Raises FastpartError if the source is damaged or a table is not valid.
    """
    describe(source)
    payload = Path(source).read_bytes()[_HEADER.size : -4]
    (length,) = struct.unpack_from("<I", payload)
    start = 4 + length
    (count,) = struct.unpack_from("<I", payload, start)
    start += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", payload, start)
        start += 2 + length
    (knots,) = struct.unpack_from("<I", payload, start)
    end = start + 4 + 4 * (2 * knots + LAYERS)
    (steering,) = struct.unpack_from("<I", payload, end)
    end += 4 + 4 * steering * sum(STEERING.values())
    payload = payload[:start] + _pack_tables(Path(path), tables) + payload[end:]
    body = _HEADER.pack(MAGIC, VERSION, len(payload)) + payload
    checksum = zlib.crc32(body)
    write_bytes_atomic(path, body + struct.pack("<I", checksum))
    return checksum


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Version, checksum, size in bytes, features, tables, trees by group and metadata of a model file.

    Raises FastpartError if the file cannot be read or is damaged.
    """
    from fastpart import _engine

    path = Path(path)
    try:
        data = path.read_bytes()
        model = _engine.Model(data)
    except OSError as error:
        raise FastpartError(
            f"{path}: {error.strerror}, wanted a readable model file; check the path"
        ) from error
    except ValueError as error:
        raise FastpartError(
            f"{path}: {error}; fetch the file again or train a model with this version of fastpart"
        ) from error
    return {
        "version": _HEADER.unpack_from(data)[1],
        "checksum": f"{model.checksum:08x}",
        "bytes": len(data),
        "features": model.features,
        "tables": {
            name: list(getattr(model.tables, name))
            for name in ("qp_knots", "log_kappa", "log_layer_weight")
        }
        | {"steering": _named(model.tables.steering)},
        "trees": {
            group: dict(zip(("loss", "time"), model.trees(group), strict=True)) for group in GROUPS
        },
        "metadata": json.loads(model.metadata),
    }


def _text(text: str, length: str) -> bytes:
    encoded = text.encode()
    return struct.pack(length, len(encoded)) + encoded


def _pack_features(path: Path, features: Sequence[str]) -> bytes:
    if not 1 <= len(features) <= MAX_FEATURES or len(set(features)) != len(features):
        raise FastpartError(
            f"{path}: {len(features)} features of which {len(set(features))} differ, "
            f"wanted 1 to {MAX_FEATURES} distinct names; drop some"
        )
    return struct.pack("<I", len(features)) + b"".join(_text(name, "<H") for name in features)


def _named(values: Sequence[float]) -> dict[str, list[float]] | None:
    """Steering tables by name; None for no values."""
    ends = list(itertools.accumulate(STEERING.values()))
    return {
        name: list(values[end - size : end])
        for (name, size), end in zip(STEERING.items(), ends, strict=True)
    } if values else None


def _pack_steering(path: Path, tables: Mapping[str, Sequence[float]] | None) -> bytes:
    if tables is None:
        return struct.pack("<I", 0)
    sizes = {name: len(values) for name, values in tables.items()}
    values = [float(value) for name in STEERING for value in tables.get(name, ())]
    positive = sizes == STEERING and all(value > 0 for name in _POSITIVE for value in tables[name])
    if not positive or not all(map(math.isfinite, values)):
        raise FastpartError(
            f"{path}: steering tables {dict(tables)}, wanted finite values, as many as in {STEERING}, "
            f"positive in {', '.join(_POSITIVE)}; run fastpart train steer"
        )
    return struct.pack(f"<I{len(values)}f", 1, *values)


def _pack_tables(path: Path, tables: Mapping[str, Any]) -> bytes:
    knots, log_kappa, weights = (
        [float(value) for value in tables[name]]
        for name in ("qp_knots", "log_kappa", "log_layer_weight")
    )
    ascending = all(low < high for low, high in itertools.pairwise(knots))
    if not 1 <= len(knots) <= MAX_KNOTS or len(log_kappa) != len(knots) or not ascending:
        raise FastpartError(
            f"{path}: qp_knots {knots} with log_kappa {log_kappa}, wanted 1 to {MAX_KNOTS} "
            "ascending knots and one log_kappa for each; mend the calibration"
        )
    if len(weights) != LAYERS or not all(map(math.isfinite, (*knots, *log_kappa, *weights))):
        raise FastpartError(
            f"{path}: log_kappa {log_kappa}, log_layer_weight {weights}, wanted finite values, "
            f"{LAYERS} of them in log_layer_weight; mend the calibration"
        )
    values = (*knots, *log_kappa, *weights)
    return struct.pack(f"<I{len(values)}f", len(knots), *values) + _pack_steering(
        path, tables.get("steering")
    )


def _pack_groups(path: Path, groups: Mapping[str, tuple[Booster, Booster]], features: int) -> bytes:
    unknown = set(groups) - set(GROUPS)
    if unknown:
        raise FastpartError(
            f"{path}: groups {sorted(unknown)}, wanted some of {', '.join(GROUPS)}; rename them"
        )
    parts = [struct.pack("<I", len(GROUPS))]
    for group in GROUPS:
        for kind, booster in zip(("loss", "time"), groups.get(group, (None, None)), strict=True):
            parts.append(
                _pack_forest(f"{path}: {group} {kind}", booster, features)
                if booster is not None
                else struct.pack("<I", 0)
            )
    return b"".join(parts)


def _pack_forest(where: str, booster: Booster, features: int) -> bytes:
    if booster.num_feature() != features:
        raise FastpartError(
            f"{where}: booster of {booster.num_feature()} features, wanted {features}; "
            "train it on the columns that are named"
        )
    # The text, not dump_model(), which shows infinite thresholds as 1e300.
    head, *trees = booster.model_to_string().split("\nend of trees")[0].split("\nTree=")
    header = head.split("\n")
    if "num_tree_per_iteration=1" not in header or "average_output" in header:
        raise FastpartError(
            f"{where}: booster of several classes or an averaging one (boosting=rf), "
            "wanted one sum of trees; train a regression by boosting=gbdt"
        )
    return struct.pack("<I", len(trees)) + b"".join(_pack_tree(where, tree) for tree in trees)


def _pack_tree(where: str, text: str) -> bytes:
    number, *lines = text.split("\n")
    fields = dict(line.split("=", 1) for line in lines if line)
    leaves = [float(value) for value in fields["leaf_value"].split()]
    if fields["is_linear"] != "0":
        raise FastpartError(
            f"{where}: tree {number} is linear, wanted constant leaves; "
            "train with linear_tree=false"
        )
    if fields["num_cat"] != "0":
        raise FastpartError(
            f"{where}: tree {number} splits on a categorical feature, "
            "wanted numerical splits; train without categorical_feature"
        )
    if len(leaves) > MAX_LEAVES:
        raise FastpartError(
            f"{where}: tree {number} of {len(leaves)} leaves, "
            f"wanted at most {MAX_LEAVES}; train with a smaller num_leaves"
        )
    columns = (
        fields[name].split()
        for name in ("threshold", "split_feature", "decision_type", "left_child", "right_child")
    )
    nodes = [
        _NODE.pack(
            float(threshold),
            int(feature),
            int(decision) >> _MISSING_SHIFT,
            bool(int(decision) & _DEFAULT_LEFT),
            int(left),
            int(right),
        )
        for threshold, feature, decision, left, right in zip(*columns, strict=True)
    ]
    return b"".join(
        (struct.pack("<I", len(nodes)), *nodes, struct.pack(f"<{len(leaves)}d", *leaves))
    )
