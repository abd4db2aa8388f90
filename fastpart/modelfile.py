"""Writes the engine's model file from LightGBM boosters, and describes one.

The format is documented in `engine/model.hpp`.
"""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from fastpart.errors import FastpartError

if TYPE_CHECKING:
    from lightgbm import Booster

MAGIC = b"FASTPART"
VERSION = 1
GROUPS = ("split_inter", "split_intra", "continue", "mode")
MAX_FEATURES = 128
MAX_LEAVES = 4096
MAX_KNOTS = 64
LAYERS = 8

_HEADER = struct.Struct("<8sIQ")
_NODE = struct.Struct("<dHBBii")
_MISSING = {"None": 0, "Zero": 1, "NaN": 2}


def write_model(
    path: str | os.PathLike[str],
    groups: Mapping[str, tuple[Booster, Booster]],
    tables: Mapping[str, Sequence[float]],
    metadata: Mapping[str, Any],
    features: Sequence[str],
) -> int:
    """Write a model file and return its checksum.

    groups: loss and time booster of each group in `GROUPS`; a group left out stays empty.
    tables: `qp_knots` and `log_kappa` (same length, knots ascending), `log_layer_weight` (8 values,
        I pictures, then temporal layers 0 to 6).
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
    _replace(path, body + struct.pack("<I", checksum))
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
        },
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


def _pack_tables(path: Path, tables: Mapping[str, Sequence[float]]) -> bytes:
    knots, log_kappa, weights = (
        [float(value) for value in tables[name]]
        for name in ("qp_knots", "log_kappa", "log_layer_weight")
    )
    ascending = all(low < high for low, high in zip(knots, knots[1:]))
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
    return struct.pack(f"<I{len(values)}f", len(knots), *values)


def _pack_groups(
    path: Path, groups: Mapping[str, tuple[Booster, Booster]], features: int
) -> bytes:
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
    model = booster.dump_model()
    if model["num_tree_per_iteration"] != 1 or model["average_output"]:
        raise FastpartError(
            f"{where}: booster of several classes or an averaging one (boosting=rf), "
            "wanted one sum of trees; train a regression by boosting=gbdt"
        )
    # The JSON dump cannot tell a linear tree from a plain one; the text can.
    if "is_linear=1" in booster.model_to_string():
        raise FastpartError(
            f"{where}: linear trees, wanted constant leaves; train with linear_tree=false"
        )
    trees = [_pack_tree(where, tree) for tree in model["tree_info"]]
    return struct.pack("<I", len(trees)) + b"".join(trees)


def _pack_tree(where: str, tree: Mapping[str, Any]) -> bytes:
    if tree["num_cat"]:
        raise FastpartError(
            f"{where}: tree {tree['tree_index']} splits on a categorical feature, "
            "wanted numerical splits; train without categorical_feature"
        )
    if tree["num_leaves"] > MAX_LEAVES:
        raise FastpartError(
            f"{where}: tree {tree['tree_index']} of {tree['num_leaves']} leaves, "
            f"wanted at most {MAX_LEAVES}; train with a smaller num_leaves"
        )
    nodes: dict[int, bytes] = {}
    leaves: dict[int, float] = {}
    pending = [tree["tree_structure"]]
    while pending:
        node = pending.pop()
        if "split_index" not in node:
            leaves[node.get("leaf_index", 0)] = node["leaf_value"]
            continue
        left, right = node["left_child"], node["right_child"]
        nodes[node["split_index"]] = _NODE.pack(
            node["threshold"],
            node["split_feature"],
            _MISSING[node["missing_type"]],
            node["default_left"],
            _child(left),
            _child(right),
        )
        pending += (left, right)
    return b"".join(
        (
            struct.pack("<I", len(nodes)),
            *(nodes[index] for index in range(len(nodes))),
            struct.pack(f"<{len(leaves)}d", *(leaves[index] for index in range(len(leaves)))),
        )
    )


def _child(node: Mapping[str, Any]) -> int:
    return node["split_index"] if "split_index" in node else ~node["leaf_index"]


def _replace(path: Path, data: bytes) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise FastpartError(
            f"{path}: {error.strerror}, wanted a writable folder; choose another output"
        ) from error
