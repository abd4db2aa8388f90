"""Fact sheet and methodology of a submission, in Markdown with the figures of the records, and as PDF.

What only the entrants know is left as a line in brackets for them to fill in.
"""

from __future__ import annotations

import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fastpart.errors import FastpartError

_TO_FILL = "[to be filled in]"


def factsheet(
    verdict: Mapping[str, Any], records: Sequence[Mapping[str, Any]], model: Mapping[str, Any] | None
) -> str:
    """The fact sheet. records: timing records of the entry; model: as `modelfile.describe` gives
    it, None if the entry has none."""
    overall, edition, machine = verdict["overall"], verdict["edition"], verdict["machine"]
    lines = [
        "# Fact sheet", "",
        f"- Entry: {verdict['entry']['label']}",
        f"- Edition: {edition['title']}",
        f"- Team, contact: {_TO_FILL}",
        f"- Verdict of fastpart {verdict['fastpart']}, {verdict['created']}: {overall['status']}", "",
        "## RD data", "",
        *_table(
            ("Sequence", "QP", "Base QP", "Target", "kbps", "Rate %", "Y dB", "U dB", "V dB", "6:1:1 dB", "T"),
            [
                (point["sequence"], point["qp"], *_base(point), _number(entry["kbps"], 2),
                 _number(point["rate"]["percent"], 2),
                 *(_number((entry["psnr"] or {}).get(plane), 3)
                   for plane in ("y", "u", "v", "weighted")),
                 _number(point["time"]["ratio"], 3))
                for point in verdict["points"] if (entry := point["entry"])
            ],
        ), "",
        "Base QP and target are what the entry was encoded with: QP, between two by its lambdas, and share of the time "
        "without skips, its own where there is none. "
        f"Rates are those of the whole bitstream; T is CPU time of entry to anchor ({verdict['anchor']['label']}), "
        "single thread. BD-rate of 6:1:1 PSNR, pchip: "
        + "; ".join(f"{row['sequence']} {_number(row['bd_rate']['weighted'], 2)} %"
                    for row in verdict["sequences"])
        + f"; mean {_number(overall['bd_rate']['weighted'], 2)} %, mean T "
        f"{_number(overall['time_ratio'], 3)}, worst T {_number(overall['worst_time_ratio'], 3)}.", "",
        "## Complexity", "",
        *_table(("Quantity", "Value"), _complexity(verdict, records, model)), "",
        "## Training data", "", *_training(model), "",
        "## Machine", "",
        *_table(("Property", "Value"), [
            (key, value) for key, value in machine.items() if not isinstance(value, dict)
        ] + [(f"compiler of the {side}", compiler or "not known")
             for side, compiler in (machine.get("compilers") or {}).items()]), "",
    ]
    return "\n".join(lines)


def _base(point: Mapping[str, Any]) -> tuple[str, str]:
    matching = point.get("matching") or {"qp": point["qp"], "target_ratio": None}
    return _number(matching["qp"], 2), _number(matching["target_ratio"], 3)


def methodology(
    verdict: Mapping[str, Any], records: Sequence[Mapping[str, Any]], model: Mapping[str, Any] | None
) -> str:
    """The skeleton of the methodology."""
    lines = [
        "# Methodology", "",
        "## Method", "",
        f"{verdict['entry']['label']}, against {verdict['anchor']['label']}.", "",
    ]
    if model:
        lines += [
            "Before the encoder tests a split, a prediction mode or the rest of a split under way, two "
            "ensembles of regression trees predict the expected loss of rate-distortion cost if it is "
            "skipped and the time that it would take. A candidate is skipped when its loss per time is "
            f"below a threshold. {len(model['features'])} features of the node go in.", "",
        ]
    lines += [
        f"What is new, and why it works: {_TO_FILL}", "",
        "## Configuration", "",
        "The command of one point, as it ran:", "",
        *(_code(" ".join(map(str, records[0]["encode"]["argv"]))) if records else [_TO_FILL]), "",
        "## Training", "", *_training(model), "",
        f"Hardware and duration of the training: {_TO_FILL}", "",
        "## Measurement", "",
        "Anchor and entry ran in pairs on one core, in alternating order; everything that the entry "
        "starts counts. Each bitstream was decoded by the decoders of the edition "
        f"({', '.join(verdict['edition']['decoders'])}), and PSNR is that of the decoded file.", "",
        *_code(verdict["commands"]["verify"]), "",
        "## Limits", "",
        *(f"- {reason}" for reason in verdict["overall"]["reasons"]),
        f"- Known weaknesses: {_TO_FILL}", "",
    ]
    return "\n".join(lines)


def to_pdf(markdown_text: str, created: datetime) -> bytes:
    """A PDF of Markdown with headings, lists and tables; its bytes depend on the arguments alone.

    Raises FastpartError without the packages `fpdf2` and `markdown`.
    """
    try:
        import markdown
        from fpdf import FPDF
        from fpdf.fonts import FontFace
    except ModuleNotFoundError as error:
        raise FastpartError(
            f"{error.name}: package not found, wanted for PDF; pip install 'fastpart[report]'"
        ) from error
    # The fonts of every PDF reader know Latin-1.
    text = markdown_text.replace("\u2264", "<=").replace("\u2026", "...").encode("latin-1", "replace").decode("latin-1")
    pdf = FPDF(format="A4")
    pdf.set_creation_date(created)
    pdf.set_font("Helvetica", size=9)
    pdf.add_page()
    pdf.write_html(
        markdown.markdown(text, extensions=["tables"]),
        tag_styles={"code": FontFace(family="Courier", size_pt=7)},
        table_line_separators=True,
    )
    out = io.BytesIO()
    pdf.output(out)
    return out.getvalue()


def _complexity(verdict, records, model) -> list[tuple[str, str]]:
    rows = []
    if model:
        trees = sum(sum(group.values()) for group in model["trees"].values())
        rows += [
            ("Model file", f"{model['bytes']} bytes, checksum {model['checksum']}"),
            ("Regression trees", f"{trees} in {len(model['trees'])} groups, {len(model['features'])} "
             "features"),
        ]
    encodes = [record["encode"] for record in records if record["encode"].get("times")]
    counters = [(one["counters"], one) for one in encodes if one.get("counters", {}).get("decisions")]
    if counters:
        samples = sum(_samples(one) for _, one in counters)
        decisions = sum(c["decisions"] for c, _ in counters)
        rows.append(("Decisions of the model for each luma sample", f"{decisions / samples:.4f}"))
        if all("cycles_per_decision" in c for c, _ in counters):
            cycles = sum(c["decisions"] * c["cycles_per_decision"] for c, _ in counters)
            rows.append(("Cycles of the model for each luma sample", f"{cycles / samples:.1f}"))
        if all(c.get("seconds") and c.get("share") for c, _ in counters):
            share = sum(c["seconds"] for c, _ in counters) / sum(c["seconds"] / c["share"] for c, _ in counters)
            rows.append(("Share of the model in the entry's time T1", f"{100 * share:.2f} %"))
    if encodes:
        rows.append(("Peak memory of the entry", f"{max(e['max_rss_kib'] for e in encodes) / 1024:.0f} MiB"))
        seconds = [e["times"]["user_s"] + e["times"]["system_s"] for e in encodes]
        rate = sum(_samples(e) for e in encodes) / sum(seconds)
        rows.append(("Encoding, luma samples a CPU second", f"{rate:.0f}"))
    decode = [point["entry"]["decode_s"] for point in verdict["points"]
              if point["entry"] and point["entry"]["decode_s"]]
    if decode:
        rows.append(("Decoding, median CPU seconds", f"{statistics.median(decode):.3f}"))
    return rows or [("Complexity", _TO_FILL)]


def _samples(encode: Mapping[str, Any]) -> int:
    clip = encode["clip"]
    return clip["width"] * clip["height"] * clip["frames"]


def _training(model: Mapping[str, Any] | None) -> list[str]:
    if not model:
        return [f"The entry names no model. {_TO_FILL}"]
    about = model["metadata"]
    lines = [f"- Clips: {', '.join(about['clips'])}"] if about.get("clips") else []
    lines += [f"- {key.replace('_', ' ')}: {_plain(value)}" for key, value in about.items()
              if key != "clips"]
    return [*(lines or ["- " + _TO_FILL]), f"- Licences and sources of the clips: {_TO_FILL}"]


def _code(text: str) -> list[str]:
    """A command, in lines that fit a page."""
    return ["    " + line for line in textwrap.wrap(text, 100, break_on_hyphens=False)]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return str(value)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows),
    ]
