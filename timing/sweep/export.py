"""The results of a sweep as a table: one row a point, to CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError
from fastpart.files import write_bytes_atomic
from fastpart.timing.sweep.store import Store

#: Columns and what they hold; absent numbers are empty. time_s: user and system time, of
#: segmented cells the sum. pairing: equal for times that may be compared.
COLUMNS = {
    "sequence": str, "class": str, "encoder": str, "label": str, "qp": int, "repetition": int,
    "status": str, "width": int, "height": int, "frames": int, "fps": float, "bit_depth": int,
    "intra_period": int, "segments": int, "bits": int, "sei_bits": int, "kbps": float,
    "kbps_without_sei": float, "psnr_y": float, "psnr_u": float, "psnr_v": float,
    "psnr_weighted": float, "user_s": float, "system_s": float, "wall_s": float, "time_s": float,
    "max_rss_kib": int, "host": str, "core": int, "pairing": str, "bitstream_sha256": str,
    "encoder_sha256": str, "model_sha256": str, "clip_sha256": str, "key": str,
}


def rows_of(sweep: Mapping[str, Any], store: Store) -> list[dict[str, Any]]:
    """A row for each point of a sweep, of `COLUMNS`; results are None where there is no record."""
    return [_row(point, sweep, store) for point in sweep["points"]]


def _row(point: Mapping[str, Any], sweep: Mapping[str, Any], store: Store) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "sequence": point["sequence"], "class": point["class_name"], "encoder": point["encoder"],
        "label": sweep["encoders"][point["encoder"]]["label"], "qp": point["qp"],
        "repetition": point["repetition"], "key": point["key"],
    }
    record = store.load(point["key"])
    row["status"] = state_of(point["key"], store) if record is None else "done"
    if record is None:
        return row
    identity, times = record["identity"], record["times"]
    fps = [int(word) for word in f"{identity['clip']['fps']}/1".split("/")]
    psnr = record["psnr"] or dict.fromkeys(("y", "u", "v", "weighted"))
    return row | {
        **{name: identity["clip"][name] for name in ("width", "height", "frames", "bit_depth")},
        "fps": fps[0] / fps[1],
        "intra_period": identity["intra_period"],
        "segments": len(record.get("segments", ())) or 1,
        "bits": record["bitstream"]["bits"],
        "sei_bits": record["bitstream"]["sei_bits"],
        "kbps": record["kbps"],
        "kbps_without_sei": record["kbps_without_sei"],
        **{f"psnr_{plane}": psnr[plane] for plane in ("y", "u", "v", "weighted")},
        **times,
        "time_s": times["user_s"] + times["system_s"],
        "max_rss_kib": record["max_rss_kib"],
        "host": record["job"]["host"],
        "core": record["job"]["core"],
        "pairing": record["pairing"],
        "bitstream_sha256": record["bitstream"]["sha256"],
        "encoder_sha256": identity["encoder"]["encoder"],
        "model_sha256": identity["encoder"]["model"],
        "clip_sha256": identity["clip"]["sha256"],
    }


def state_of(key: str, store: Store) -> str:
    """`done`, `running`, `failed` or `missing`."""
    if store.load(key) is not None:
        return "done"
    if store.holder(key):
        return "running"
    return "failed" if store.failure(key) else "missing"


def to_csv(rows: list[dict[str, Any]]) -> bytes:
    """CSV with a line of names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Parquet with typed columns. Raises FastpartError without the `pyarrow` package."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise FastpartError(
            "pyarrow: package not found, wanted for Parquet; pip install 'fastpart[sweep]'"
        ) from error
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), out)
    return out.getvalue()


FORMATS = {".csv": to_csv, ".parquet": to_parquet}


def write_export(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows in the format of the path's suffix; the file appears when complete.

    Raises FastpartError for another suffix, and when it cannot be written.
    """
    if path.suffix not in FORMATS:
        raise FastpartError(f"{path}: suffix {path.suffix!r}, wanted {' or '.join(FORMATS)}")
    write_bytes_atomic(path, FORMATS[path.suffix](rows))
