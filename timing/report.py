"""`fastpart report`: a verdict record as a web page, as CSV and as a workbook.

All three are views of the record (`fastpart.verdict/1`) and show the same figures: `figures`
picks them once, in the habit of the tables of JVET: four QPs a sequence with rate, PSNR of Y, U
and V and 6:1:1, encoding and decoding time, then BD-rates by sequence, class and overall.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError
from fastpart.files import write_bytes_atomic

VERDICT_SCHEMA = "fastpart.verdict/1"
VERDICT_NAME = "verdict.json"
STATUSES = ("pass", "fail", "inconclusive", "not_measured")

#: Planes of PSNR and BD-rate; `weighted` is (6Y+U+V)/8.
PLANES = ("y", "u", "v", "weighted")

#: Columns of one encoder at one point, and where the record has them.
_SIDE = {
    "kbps": ("kbps",),
    "kbps_without_sei": ("kbps_without_sei",),
    **{f"psnr_{plane}": ("psnr", plane) for plane in PLANES},
    "encode_s": ("encode_s",),
    "decode_s": ("decode_s",),
}

#: Columns of the figures: of a point (scope `point`), a `sequence`, a `class`, or `overall`.
COLUMNS = (
    "scope", "class", "sequence", "qp", "status", "reasons",
    *(f"{side}_{name}" for side in ("anchor", "entry") for name in _SIDE),
    "time_ratio", "time_low", "time_high", "time_status",
    "rate_percent", "rate_low", "rate_high", "rate_status", "conformance_status",
    *(f"bd_rate_{plane}" for plane in PLANES),
    *(f"bd_rate_akima_{plane}" for plane in PLANES),
)

#: What a spreadsheet program would take for a formula (OWASP: CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

#: Characters that XML 1.0, and so a workbook, cannot hold.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `report` to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="a verdict as a web page, CSV and workbook",
        description="Make report.html, report.csv and report.xlsx of what fastpart verify found. "
        "The page needs no network.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("verdict", type=Path, metavar="VERDICT.json|DIR",
                        help=f"the record, or the folder that holds it as {VERDICT_NAME}")
    parser.add_argument("more", type=Path, nargs="*", metavar="DIR",
                        help="with the folder of a sweep: further sweeps to compare with it")
    parser.add_argument("--anchor", metavar="ENCODER",
                        help="of sweeps: encoder to relate the others to (default: the first)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: that "
                        "of the record)")


def run(args: argparse.Namespace) -> int:
    """Write the report; returns 0."""
    path = args.verdict / VERDICT_NAME if args.verdict.is_dir() else args.verdict
    if args.verdict.is_dir() and not path.exists() and (args.verdict / "sweep.json").exists():
        from fastpart.timing.sweep.command import report_sweeps

        return report_sweeps([args.verdict, *args.more], args.anchor, args.out or args.verdict)
    for written in write_report(load_verdict(path), args.out or path.parent).values():
        print(written)
    return 0


def load_verdict(path: str | os.PathLike) -> dict[str, Any]:
    """Read a verdict record.

    Raises FastpartError when it cannot be read, or is no such record.
    """
    path = Path(path)
    try:
        verdict = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise FastpartError(
            f"{path}: cannot be read ({error.strerror}), wanted the {VERDICT_NAME} that "
            "fastpart verify writes"
        ) from error
    except ValueError as error:
        raise FastpartError(f"{path}: not JSON ({error}); run fastpart verify again") from error
    check_verdict(verdict, path)
    return verdict


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def check_verdict(verdict: Any, path: str | os.PathLike = VERDICT_NAME) -> None:
    """Raise FastpartError naming the first thing in which a record is not of VERDICT_SCHEMA."""
    found = verdict.get("schema") if isinstance(verdict, dict) else None
    if found != VERDICT_SCHEMA:
        raise FastpartError(
            f"{path}: schema {found!r}, wanted {VERDICT_SCHEMA!r}: a record of fastpart verify"
        )
    wanted = {"edition": dict, "anchor": dict, "entry": dict, "points": list, "sequences": list,
              "classes": list, "overall": dict}
    for key, kind in wanted.items():
        if not isinstance(verdict.get(key), kind):
            raise FastpartError(
                f"{path}: {key} is {type(verdict.get(key)).__name__}, wanted {kind.__name__}; "
                "run fastpart verify again"
            )
    for part in ("points", "sequences", "classes"):
        for number, entry in enumerate(verdict[part]):
            if not isinstance(entry, dict):
                raise FastpartError(
                    f"{path}: {part}[{number}] is no object; run fastpart verify again"
                )
            needed = {"points": ("sequence", "qp", "status"), "sequences": ("sequence",),
                      "classes": ("class",)}[part]
            if missing := [key for key in needed if key not in entry]:
                raise FastpartError(f"{path}: {part}[{number}] lacks {missing[0]}")
    for number, point in enumerate(verdict["points"]):
        if point["status"] not in STATUSES:
            raise FastpartError(
                f"{path}: points[{number}] has status {point['status']!r}, wanted one of "
                + ", ".join(STATUSES)
            )


def write_report(verdict: Mapping[str, Any], folder: str | os.PathLike) -> dict[str, Path]:
    """Write report.html, report.csv and report.xlsx; returns their paths by suffix.

    verdict: a record of VERDICT_SCHEMA. Each file appears under its name when complete.
    Raises FastpartError for another record, a folder that cannot be written, and without the
    `openpyxl` package.
    """
    from fastpart.timing.report_html import page

    check_verdict(verdict)
    folder = Path(folder)
    files = {
        "html": page(verdict).encode(),
        "csv": to_csv(figures(verdict)).encode(),
        "xlsx": to_xlsx(verdict),
    }
    paths = {suffix: folder / f"report.{suffix}" for suffix in files}
    for suffix, data in files.items():
        write_bytes_atomic(paths[suffix], data, parents=True)
    return paths


def get(record: Mapping[str, Any] | None, *keys: str) -> Any:
    """What is under the keys, one inside the other; None where something is absent."""
    for key in keys:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def figures(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All figures, one row of COLUMNS for each point, sequence, class, and overall.

    Absent ones are None. The rows of a sequence follow its points.
    """
    rows = []
    sequences = {entry["sequence"]: entry for entry in verdict["sequences"]}
    for name in dict.fromkeys([p["sequence"] for p in verdict["points"]] + list(sequences)):
        points = [point for point in verdict["points"] if point["sequence"] == name]
        rows += [_point_row(point) for point in sorted(points, key=lambda point: point["qp"])]
        rows.append(_sum_row("sequence", sequences.get(name, {"sequence": name})))
    rows += [_sum_row("class", entry) for entry in verdict["classes"]]
    rows.append(_sum_row("overall", verdict["overall"]))
    return rows


def _row(**values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(COLUMNS), **values}


def _point_row(point: Mapping[str, Any]) -> dict[str, Any]:
    sides = {
        f"{side}_{name}": get(point, side, *keys)
        for side in ("anchor", "entry")
        for name, keys in _SIDE.items()
    }
    return _row(
        scope="point", sequence=point["sequence"], qp=point["qp"], status=point["status"],
        reasons="; ".join(map(str, point.get("reasons") or [])), **{"class": point.get("class")},
        **sides,
        time_ratio=get(point, "time", "ratio"), time_low=get(point, "time", "low"),
        time_high=get(point, "time", "high"), time_status=get(point, "time", "status"),
        rate_percent=get(point, "rate", "percent"), rate_low=get(point, "rate", "low"),
        rate_high=get(point, "rate", "high"), rate_status=get(point, "rate", "status"),
        conformance_status=get(point, "conformance", "status"),
    )


def _sum_row(scope: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    rates = {
        f"{kind}_{plane}": get(entry, kind, plane)
        for kind in ("bd_rate", "bd_rate_akima")
        for plane in PLANES
    }
    return _row(
        scope=scope, sequence=entry.get("sequence") if scope == "sequence" else None,
        status=entry.get("status"), reasons="; ".join(map(str, entry.get("reasons") or [])) or None,
        time_ratio=entry.get("time_ratio"), **{"class": entry.get("class")}, **rates,
    )


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line of COLUMNS and one of each row; empty where a value is None.

    Text is one line; what a spreadsheet would take for a formula gets a quote in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow("" if row[name] is None else _no_formula(row[name]) for name in COLUMNS)
    return out.getvalue()


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    line = re.sub(r"[\r\n]+", " ", value)
    return f"'{line}" if value.startswith(_FORMULA) or line.lstrip().startswith(_FORMULA) else line


#: Columns of the sheet of sequences: heading, key, number format. BD-rates go by these rates.
_SIDE_HEADS = (
    ("kbps w/o SEI", "kbps_without_sei", "0.0000"), ("Y psnr", "psnr_y", "0.0000"),
    ("U psnr", "psnr_u", "0.0000"), ("V psnr", "psnr_v", "0.0000"),
    ("6:1:1 psnr", "psnr_weighted", "0.0000"),
    ("EncT [s]", "encode_s", "0.00"), ("DecT [s]", "decode_s", "0.00"),
)
_BD_HEADS = (("Y", "y"), ("U", "u"), ("V", "v"), ("6:1:1", "weighted"))


def to_xlsx(verdict: Mapping[str, Any]) -> bytes:
    """A workbook: `Summary`, `Sequences` in the habit of JVET, and `Data`, all of COLUMNS.

    BD-rates, as in the record, are in percent. Text stays text, whatever it begins with.
    Raises FastpartError without the `openpyxl` package.
    """
    try:
        from openpyxl import Workbook
    except ModuleNotFoundError as error:
        raise FastpartError(
            "openpyxl: package not found, wanted for report.xlsx; pip install 'fastpart[report]'"
        ) from error
    rows = figures(verdict)
    book = Workbook()
    _summary_sheet(book.active, verdict, rows)
    _sequences_sheet(book.create_sheet("Sequences"), verdict, rows)
    data = book.create_sheet("Data")
    _append(data, [(name, None) for name in COLUMNS], bold=True)
    for row in rows:
        _append(data, [(row[name], None) for name in COLUMNS])
    for sheet in book:
        sheet.freeze_panes = "A2" if sheet.title == "Data" else sheet.freeze_panes
        for column in sheet.columns:
            width = max(len(_shown(cell)) for cell in column)
            sheet.column_dimensions[column[0].column_letter].width = min(60, max(9, width + 2))
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _shown(cell: Any) -> str:
    if cell.value is None:
        return ""
    return f"{cell.value:.4f}" if isinstance(cell.value, float) else str(cell.value)


def _append(sheet: Any, values: Sequence[tuple[Any, str | None]], *, bold: bool = False) -> None:
    """A row of (value, number format) after the last one; strings are never formulas."""
    from openpyxl.styles import Font

    sheet.append([
        _NOT_XML.sub("\ufffd", value)[:32767] if isinstance(value, str) else value
        for value, _ in values
    ])
    for cell, (value, form) in zip(sheet[sheet.max_row], values, strict=True):
        if isinstance(value, str):
            cell.data_type = "s"
        if form and value is not None and not isinstance(value, str):
            cell.number_format = form
        if bold:
            cell.font = Font(bold=True)


def _summary_sheet(sheet: Any, verdict: Mapping[str, Any], rows: list[dict]) -> None:
    sheet.title = "Summary"
    overall = verdict["overall"]
    for name, value in (
        ("edition", get(verdict, "edition", "title") or get(verdict, "edition", "name")),
        ("anchor", get(verdict, "anchor", "label")),
        ("entry", get(verdict, "entry", "label")),
        ("status", overall.get("status")),
        ("time ratio", overall.get("time_ratio")),
        ("worst time ratio", overall.get("worst_time_ratio")),
        ("created", verdict.get("created")),
        ("fastpart", verdict.get("fastpart")),
        *((f"machine {key}", value) for key, value in (verdict.get("machine") or {}).items()),
        *((f"command {key}", value) for key, value in (verdict.get("commands") or {}).items()),
        ("anchor command", get(verdict, "anchor", "command")),
        ("entry command", get(verdict, "entry", "command")),
    ):
        _append(sheet, [(name, None), (_flat(value), "0.000")])
    _append(sheet, [("Class", None), *((f"BD-rate {head} [%]", None) for head, _ in _BD_HEADS),
                    ("EncT ratio", None)], bold=True)
    for row in rows:
        if row["scope"] in ("class", "overall"):
            name = row["class"] if row["scope"] == "class" else "Overall"
            rates = [(row[f"bd_rate_{key}"], "0.00") for _, key in _BD_HEADS]
            _append(sheet, [(name, None), *rates, (row["time_ratio"], "0.000")])


def _flat(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _sequences_sheet(sheet: Any, verdict: Mapping[str, Any], rows: list[dict]) -> None:
    sides = [(side, (verdict[side].get("label") or side)) for side in ("anchor", "entry")]
    _append(sheet, [(None, None)] * 3 + [
        (label if not index else None, None)
        for _, label in sides for index in range(len(_SIDE_HEADS))
    ], bold=True)
    _append(sheet, [(head, None) for head in (
        "Class", "Sequence", "QP", *(head for _ in sides for head, _, _ in _SIDE_HEADS),
        *(f"BD-rate {head} [%]" for head, _ in _BD_HEADS), "EncT ratio", "Rate [%]", "Verdict",
    )], bold=True)
    sheet.freeze_panes = "D3"
    sums = {row["sequence"]: row for row in rows if row["scope"] == "sequence"}
    seen = set()
    for row in rows:
        if row["scope"] == "point":
            first = row["sequence"] not in seen
            seen.add(row["sequence"])
            rates = sums[row["sequence"]] if first else {}
            _append(sheet, [
                (row["class"] if first else None, None), (row["sequence"] if first else None, None),
                (row["qp"], None),
                *((row[f"{side}_{key}"], form)
                  for side, _ in sides for _, key, form in _SIDE_HEADS),
                *((rates.get(f"bd_rate_{key}"), "0.00") for _, key in _BD_HEADS),
                (row["time_ratio"], "0.000"), (row["rate_percent"], "0.00"), (row["status"], None),
            ])
    for row in rows:
        if row["scope"] in ("class", "overall"):
            name = f"Class {row['class']}" if row["scope"] == "class" else "Overall"
            _append(sheet, [
                (name, None), *[(None, None)] * (2 + 2 * len(_SIDE_HEADS)),
                *((row[f"bd_rate_{key}"], "0.00") for _, key in _BD_HEADS),
                (row["time_ratio"], "0.000"), (None, None), (row["status"], None),
            ], bold=True)
