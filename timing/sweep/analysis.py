"""Analysis of a sweep: BD-rate and time of each encoder against one of them, by class, and figures.

A view of the sweep's table (`fastpart.timing.sweep.export`). Times are ratios of CPU time; only those
of a sweep with purpose "time" were measured in pairs, others depend on what else ran.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastpart.errors import FastpartError
from fastpart.files import write_bytes_atomic
from fastpart.quality import bd_rate
from fastpart.timing.plot import new_figure, pareto_front

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANES = ("y", "u", "v", "weighted")

#: Columns of the analysis. scope: `sequence`, `class` or `overall`; bd_rate: percent; time_ratio:
#: geometric mean; paired: whether times were measured in pairs; note: why a number is missing.
COLUMNS = (
    "scope", "class", "sequence", "encoder", "label", "points",
    *(f"bd_rate_{plane}" for plane in PLANES), "time_ratio", "paired", "note",
)


def analyse(rows: Sequence[Mapping[str, Any]], anchor: str) -> list[dict[str, Any]]:
    """Rows of COLUMNS: each encoder against the anchor by sequence, by class and overall.

    rows: of `rows_of`, of one sweep or several. Raises FastpartError for an unknown anchor, and
    without the `bjontegaard` package.
    """
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    if anchor not in encoders:
        raise FastpartError(f"--anchor {anchor}: wanted one of {', '.join(encoders)}")
    done = [row for row in rows if row["status"] == "done"]
    found = []
    for name in encoders:
        if name == anchor:
            continue
        label = next(row["label"] for row in rows if row["encoder"] == name)
        sequences = [
            {"label": label, "encoder": name, **_sequence(done, sequence, name, anchor)}
            for sequence in dict.fromkeys(row["sequence"] for row in rows)
        ]
        found += sequences
        classes = list(dict.fromkeys(row["class"] for row in sequences))
        for one in classes:
            part = [row for row in sequences if row["class"] == one]
            found.append({"scope": "class", "class": one, **_mean(part, name, label)})
        found.append({"scope": "overall", "class": None, **_mean(sequences, name, label)})
    return [{column: row.get(column) for column in COLUMNS} for row in found]


def _sequence(done, sequence: str, name: str, anchor: str) -> dict[str, Any]:
    by_qp = {
        side: {(row["qp"], row["repetition"]): row for row in done
               if (row["sequence"], row["encoder"]) == (sequence, side)}
        for side in (name, anchor)
    }
    both = sorted(set(by_qp[name]) & set(by_qp[anchor]))
    first = [key for key in both if key[1] == 0]
    result: dict[str, Any] = {
        "scope": "sequence", "sequence": sequence, "points": len(first),
        "class": next((row["class"] for row in done if row["sequence"] == sequence), None),
    }
    for plane in PLANES:
        curves = [
            [(by_qp[side][key]["kbps_without_sei"], by_qp[side][key][f"psnr_{plane}"])
             for key in first] for side in (anchor, name)
        ]
        try:
            result[f"bd_rate_{plane}"] = bd_rate(*curves)
        except FastpartError as error:
            if "bjontegaard:" in str(error):
                raise
            result["note"] = str(error)
    pairs = [(by_qp[name][key], by_qp[anchor][key]) for key in both]
    if pairs and all(one["time_s"] > 0 and other["time_s"] > 0 for one, other in pairs):
        logs = [math.log(one["time_s"] / other["time_s"]) for one, other in pairs]
        result["time_ratio"] = math.exp(math.fsum(logs) / len(logs))
        result["paired"] = all(
            one["pairing"] and one["pairing"] == other["pairing"] for one, other in pairs
        )
    return result


def _mean(rows: Sequence[Mapping[str, Any]], name: str, label: str) -> dict[str, Any]:
    """Means over sequences; a number is missing where one of theirs is."""
    result: dict[str, Any] = {"encoder": name, "label": label,
                              "points": sum(row["points"] for row in rows)}
    for plane in PLANES:
        values = [row.get(f"bd_rate_{plane}") for row in rows]
        result[f"bd_rate_{plane}"] = None if None in values else math.fsum(values) / len(values)
    ratios = [row.get("time_ratio") for row in rows]
    if None not in ratios:
        result["time_ratio"] = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
        result["paired"] = all(row["paired"] for row in rows)
    return result


def write_analysis(
    rows: Sequence[Mapping[str, Any]], anchor: str, folder: Path
) -> list[Path]:
    """Write analysis.csv, .xlsx and .html, and the figures pareto and rd_SEQUENCE as .pdf and .png.

    Raises FastpartError without the packages `openpyxl` or `matplotlib`, or when it cannot write.
    """
    found = analyse(rows, anchor)
    files: dict[str, bytes] = {"analysis.csv": _csv(found), "analysis.xlsx": _xlsx(found, rows)}
    figures = _figures(found, rows, anchor)
    files |= figures
    files["analysis.html"] = _page(found, figures, anchor)
    for name, data in files.items():
        write_bytes_atomic(folder / name, data, parents=True)
    return [folder / name for name in files]


def _csv(found: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue().encode()


def _xlsx(found: list[dict[str, Any]], rows: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        from openpyxl import Workbook
    except ModuleNotFoundError as error:
        raise FastpartError(
            "openpyxl: package not found, wanted for analysis.xlsx; pip install 'fastpart[report]'"
        ) from error
    book = Workbook()
    for sheet, title, table in (
        (book.active, "Analysis", found), (book.create_sheet(), "Points", rows),
    ):
        sheet.title = title
        sheet.append(list(table[0]) if table else [])
        for row in table:
            sheet.append(list(row.values()))
        sheet.freeze_panes = "A2"
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _figures(found, rows, anchor: str) -> dict[str, bytes]:
    files = {}

    def save(figure: Figure, name: str) -> None:
        for suffix, more in (("png", {"dpi": 150}), ("pdf", {"metadata": {"CreationDate": None}})):
            out = io.BytesIO()
            figure.savefig(out, format=suffix, bbox_inches="tight", **more)
            files[f"{name}.{suffix}"] = out.getvalue()

    points = [
        (row["time_ratio"], row["bd_rate_weighted"], row["encoder"]) for row in found
        if row["scope"] == "overall" and None not in (row["time_ratio"], row["bd_rate_weighted"])
    ] + [(1.0, 0.0, anchor)]
    figure = new_figure(6, 4)
    axes = figure.subplots()
    axes.scatter([p[0] for p in points], [p[1] for p in points])
    for time, loss, name in points:
        axes.annotate(name, (time, loss), textcoords="offset points", xytext=(4, 4), fontsize=7)
    front = [points[index] for index in pareto_front([p[:2] for p in points])]
    axes.step([p[0] for p in front], [p[1] for p in front], where="post", linewidth=0.8)
    axes.set(xlabel=f"time against {anchor}", ylabel="BD-rate of (6Y+U+V)/8 [%]")
    axes.grid(alpha=0.3)
    save(figure, "pareto")
    for sequence in dict.fromkeys(row["sequence"] for row in rows):
        figure = new_figure(6, 4)
        axes = figure.subplots()
        for name in dict.fromkeys(row["encoder"] for row in rows):
            curve = sorted(
                (row["kbps_without_sei"], row["psnr_weighted"]) for row in rows
                if (row["sequence"], row["encoder"], row["repetition"], row["status"])
                == (sequence, name, 0, "done")
            )
            axes.plot([p[0] for p in curve], [p[1] for p in curve], "o-", markersize=3, label=name)
        axes.set(xlabel="kbps", ylabel="(6Y+U+V)/8 PSNR [dB]", title=sequence, xscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
        save(figure, f"rd_{sequence}")
    return files


def _page(found: list[dict[str, Any]], figures: Mapping[str, bytes], anchor: str) -> bytes:
    def cell(value: Any) -> str:
        text = "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
        return f"<td>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    body = "\n".join(f"<tr>{''.join(map(cell, row.values()))}</tr>" for row in found)
    images = "\n".join(
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, data in figures.items() if name.endswith(".png")
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>fastpart sweep</title>'
        "<style>body{font-family:sans-serif}td,th{padding:2px 8px;text-align:right}"
        "img{max-width:45em;width:100%}</style>"
        f"<h1>Against {html.escape(anchor)}</h1><table><tr>{head}</tr>\n{body}</table>\n{images}</html>\n"
    ).encode()
