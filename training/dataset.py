"""Traces to Parquet: one row per question that was followed up, with its labels.

Schema (one file per trace; column, type, unit):
  <feature>    float32  the engine's features, in the engine's order and under its names
  candidate_id uint8    number of the candidate in `CANDIDATES`
  on_path      bool     the node is part of the final coding tree
  won          bool     the candidate is the node's final choice
  policy_skip  bool     the policy would have skipped it; exploration kept it
  loss         float32  bits that skipping it would have cost: the regret at the node, at most what is at
                        stake at any ancestor, 0 off the final path
  cycles       float32  time-stamp cycles that testing it took, its whole subtree included
  weight       float32  how many questions the row stands for (inverse of the sampling probability)
  poc          int32
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastpart.errors import FastpartError
from fastpart.files import appearing

#: Names of the engine's candidates (fastpart/engine/node.hpp), by number.
CANDIDATES = (
    "split_qt", "split_bt_h", "split_bt_v", "split_tt_h", "split_tt_v",
    "continue", "intra", "amvr_full", "amvr_four", "amvr_half", "inter_me", "other",
)
#: Which candidates each group of ensembles answers for.
GROUPS = {
    "split_inter": (0, 1, 2, 3, 4),
    "split_intra": (0, 1, 2, 3, 4),
    "continue": (5,),
    "mode": (6, 7, 8, 9, 10),
}
ON_PATH, WON, POLICY_SKIP = 1, 2, 4


@dataclass(frozen=True)
class Trace:
    """records: structured array, one element per question. complete: no block was lost."""

    features: list[str]
    records: np.ndarray
    complete: bool


def read_trace(path: str | Path) -> Trace:
    """Read a trace file (layout: fastpart/engine/trace.hpp).

    A file that was cut short gives all its whole blocks. Raises FastpartError for a damaged
    header or block.
    """
    data = Path(path).read_bytes()
    if data[:8] != b"FPTRACE1":
        raise FastpartError(
            f"{path}: found magic {data[:8]!r}, wanted b'FPTRACE1'; collect the trace again"
        )
    record_size, count, names_size = np.frombuffer(data, "<u4", 3, 8).tolist()
    end = 20 + names_size
    if len(data) < end + 4 or zlib.crc32(data[:end]) != int.from_bytes(data[end : end + 4], "little"):
        raise FastpartError(f"{path}: header is damaged; collect the trace again")
    names = data[20:end].decode().split("\n")
    dtype = np.dtype(
        [
            ("start", "<u8"), ("poc", "<i4"), ("x", "<u2"), ("y", "<u2"), ("candidate", "u1"), ("flags", "u1"),
            ("log2_width", "u1"), ("log2_height", "u1"), ("regret", "<f4"), ("cap", "<f4"),
            ("cycles", "<f4"), ("features", "<f4", (count,)),
        ]
    )
    if dtype.itemsize != record_size or len(names) != count:
        raise FastpartError(
            f"{path}: found records of {record_size} bytes and {len(names)} features, wanted "
            f"{dtype.itemsize} and {count}; collect the trace with this version of fastpart"
        )
    blocks, position, complete = [], end + 4, True
    while position < len(data):
        body = position + 4
        if len(data) < body + 4:
            complete = False
            break
        n = int.from_bytes(data[body : body + 4], "little")
        stop = body + 4 + n * record_size
        if data[position:body] != b"FPB1":
            raise FastpartError(f"{path}: found no block at byte {position}; collect it again")
        if len(data) < stop + 4:
            complete = False
            break
        if zlib.crc32(data[body:stop]) != int.from_bytes(data[stop : stop + 4], "little"):
            raise FastpartError(f"{path}: block at byte {position} is damaged; collect it again")
        blocks.append(np.frombuffer(data, dtype, n, body + 4))
        position = stop + 4
    records = np.concatenate(blocks) if blocks else np.empty(0, dtype)
    return Trace(names, records, complete)


def to_table(trace: Trace, *, explore_keep: float, off_path_share: float, seed: int) -> pa.Table:
    """Label the questions of a trace and thin out those off the final path.

    explore_keep: the probability with which the collecting run kept what its policy would have
    skipped (weights undo it). off_path_share: share of the rows off the final path that stay;
    they all have loss 0, so a sample of them says as much.
    """
    r = trace.records
    on_path = (r["flags"] & ON_PATH) != 0
    policy_skip = (r["flags"] & POLICY_SKIP) != 0
    keep = on_path | (np.random.default_rng(seed).random(len(r)) < off_path_share)
    r, on_path, policy_skip = r[keep], on_path[keep], policy_skip[keep]
    loss = np.where(on_path, np.minimum(r["regret"], r["cap"]), 0)
    # A root without alternative has no finite regret; nothing was asked about it.
    usable = np.isfinite(loss) & (r["cycles"] > 0)
    r, on_path, policy_skip, loss = r[usable], on_path[usable], policy_skip[usable], loss[usable]
    weight = np.where(on_path, 1.0, 1.0 / off_path_share)
    weight = weight * np.where(policy_skip, 1.0 / max(explore_keep, 1e-9), 1.0)
    columns = {name: r["features"][:, i] for i, name in enumerate(trace.features)}
    columns |= {
        "candidate_id": r["candidate"],
        "on_path": on_path,
        "won": (r["flags"] & WON) != 0,
        "policy_skip": policy_skip,
        "loss": loss.astype(np.float32),
        "cycles": r["cycles"],
        "weight": weight.astype(np.float32),
        "poc": r["poc"],
    }
    return pa.table({name: np.ascontiguousarray(column) for name, column in columns.items()})


def convert(
    trace_path: Path, parquet_path: Path, *, explore_keep: float, off_path_share: float, seed: int
) -> None:
    """Turn one trace file into one Parquet file, which appears only when complete."""
    table = to_table(
        read_trace(trace_path),
        explore_keep=explore_keep, off_path_share=off_path_share, seed=seed,
    )
    with appearing(parquet_path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
