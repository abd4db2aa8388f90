"""Tables of timing records: one list of rows, and a function for each output format.

T is the user time of a variant over that of the anchor, taken only within a pairing: encodes
that ran one after the other on one core. Rates are without SEI, as the picture hashes are there
for the conformance check only. PSNR is (6Y+U+V)/8 of the decoded file.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from fastpart.errors import FastpartError
from fastpart.quality import bd_rate
from fastpart.timing.record import is_side_by_side

TABLE_SCHEMA = "fastpart.timing-table/1"

#: Bitrate of a variant, percent of the anchor's, within which two points are comparable.
RATE_WINDOW = (90.0, 110.0)

#: A curve needs as many points for a BD-rate.
BD_POINTS = 4

#: Below this share of the wall time on the CPU, an encode had to share its core.
UNDISTURBED = 0.95


@dataclass(frozen=True)
class Row:
    """A variant at one point (scope `point`), over one cut (`cut`) or over all (`all`).

    t: ratio of user times, geometric mean over repetitions and points; t_worst: the largest of a
    point. user_s: seconds, geometric mean over repetitions; at a point only, as are kbps and
    psnr_611 (dB). rate_low, rate_high: smallest and largest bitrate, percent of the anchor's;
    rate_ok: both are in RATE_WINDOW. bd_rate: percent, for a cut; the mean over cuts for all.
    engine_share: part of the encoder's time spent in the engine; cycles_per_decision of it; means.
    conforming, encodes: number of encodes whose bitstream conforms, and of all.
    None: does not apply, or could not be had.
    """

    scope: str
    cut: str | None
    qp: int | None
    variant: str
    t: float | None
    t_worst: float | None
    user_s: float | None
    kbps: float | None
    rate_low: float | None
    rate_high: float | None
    rate_ok: bool | None
    psnr_611: float | None
    bd_rate: float | None
    engine_share: float | None
    cycles_per_decision: float | None
    conforming: int
    encodes: int


@dataclass(frozen=True)
class Table:
    """rows: of all scopes. notes: sentences on what limits the numbers."""

    anchor: str
    rows: list[Row]
    notes: list[str]

    def scope(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.scope == name]


def build_table(records: Sequence[dict[str, Any]], anchor: str = "stock") -> Table:
    """Relate all variants of the records (`fastpart.timing.record`) to one of them.

    Raises FastpartError when there is no record of the anchor, and for BD-rate without the
    `bjontegaard` package.
    """
    by_point: dict[tuple[str, int], dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        by_point[record["cut"], record["qp"]][record["variant"]].append(record)
    names = {record["variant"] for record in records}
    if anchor not in names:
        raise FastpartError(
            f"anchor {anchor}: no record of it, wanted one of {', '.join(sorted(names))}"
        )
    points = [
        _point_row(cut, qp, name, runs, variants.get(anchor, []))
        for (cut, qp), variants in sorted(by_point.items())
        for name, runs in variants.items()
    ]
    cuts = [
        _sum_row("cut", name, rows, cut, _cut_bd_rate(rows, points, anchor))
        for (cut, name), rows in _grouped(points, lambda row: (row.cut, row.variant))
    ]
    every = []
    for (name,), rows in _grouped(points, lambda row: (row.variant,)):
        rates = [row.bd_rate for row in cuts if row.variant == name]
        every.append(_sum_row("all", name, rows, None, _mean(rates) if None not in rates else None))
    # The slowest first, so the anchor leads.
    slow = {row.variant: (row.variant != anchor, -(row.t or 0), row.variant) for row in every}
    rows = [
        *sorted(every, key=lambda row: slow[row.variant]),
        *sorted(cuts, key=lambda row: (row.cut, slow[row.variant])),
        *sorted(points, key=lambda row: (row.cut, row.qp, slow[row.variant])),
    ]
    return Table(anchor, rows, _notes(records, rows, anchor))


def to_markdown(table: Table) -> str:
    """For reading: variants, cuts and points, and the notes."""
    low, high = RATE_WINDOW
    shared = {
        "T": lambda row: _show(row.t, "{:.3f}"),
        "engine": lambda row: _show(row.engine_share, "{:.2%}"),
        "cycles a decision": lambda row: _show(row.cycles_per_decision, "{:.0f}"),
        "conforming": lambda row: f"{row.conforming}/{row.encodes}",
    }
    sums = {
        "T": shared["T"],
        "worst T": lambda row: _show(row.t_worst, "{:.3f}"),
        "BD-rate": lambda row: _show(row.bd_rate, "{:+.2f} %"),
        "rate": _rate_span,
        **shared,
    }
    variant = {"variant": lambda row: row.variant}
    legend = (
        f"T is user time against {table.anchor}, rate is without SEI, PSNR is (6Y+U+V)/8; "
        f"`!` marks a rate outside {low:g}-{high:g} %."
    )
    sections = [
        ("all", legend, {**variant, **sums}),
        ("cut", "By cut", {"cut": lambda row: row.cut, **variant, **sums}),
        ("point", "By point", {
            "cut": lambda row: row.cut,
            "QP": lambda row: str(row.qp),
            **variant,
            "user s": lambda row: _show(row.user_s, "{:.1f}"),
            "T": shared["T"],
            "kbps": lambda row: _show(row.kbps, "{:.2f}"),
            "rate": _rate_span,
            "PSNR dB": lambda row: _show(row.psnr_611, "{:.3f}"),
            **shared,
        }),
    ]
    parts = []
    for scope, title, columns in sections:
        lines = [title, "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in table.scope(scope):
            lines.append("| " + " | ".join(show(row) for show in columns.values()) + " |")
        parts.append("\n".join(lines) + "\n")
    if table.notes:
        parts.append("\n".join(f"- {note}" for note in table.notes) + "\n")
    return "\n".join(parts)


def to_tsv(table: Table) -> str:
    """One line a row under a line of names; empty where a value is None."""
    names = [field.name for field in fields(Row)]
    lines = ["\t".join(names)]
    for row in table.rows:
        values = (getattr(row, name) for name in names)
        lines.append("\t".join("" if value is None else str(value) for value in values))
    return "\n".join(lines) + "\n"


def to_json(table: Table) -> str:
    """One object: schema, anchor, rows, notes."""
    return json.dumps({"schema": TABLE_SCHEMA, **asdict(table)}, indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "tsv": to_tsv, "json": to_json}


def _grouped(rows: Iterable[Row], key: Callable[[Row], tuple]) -> list[tuple[tuple, list[Row]]]:
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return list(groups.items())


def _point_row(cut: str, qp: int, name: str, runs: list[dict], anchors: list[dict]) -> Row:
    anchor_s = {run["pairing"]["id"]: _user_s(run) for run in anchors}
    ratios = [
        _user_s(run) / anchor_s[run["pairing"]["id"]]
        for run in runs
        if anchor_s.get(run["pairing"]["id"])
    ]
    t = _geometric_mean(ratios)
    kbps, anchor_kbps = _mean(map(_kbps, runs)), _mean(map(_kbps, anchors))
    rate = 100 * kbps / anchor_kbps if anchor_kbps else None
    quality = [run["psnr"]["weighted"] if run["psnr"] else None for run in runs]
    return Row(
        scope="point",
        cut=cut,
        qp=qp,
        variant=name,
        t=t,
        t_worst=t,
        user_s=_geometric_mean(map(_user_s, runs)),
        kbps=kbps,
        rate_low=rate,
        rate_high=rate,
        rate_ok=None if rate is None else RATE_WINDOW[0] <= rate <= RATE_WINDOW[1],
        psnr_611=None if None in quality else _mean(quality),
        bd_rate=None,
        engine_share=_mean(_counter(runs, "share")),
        cycles_per_decision=_mean(_counter(runs, "cycles_per_decision")),
        conforming=sum(run["conformance"]["conforms"] for run in runs),
        encodes=len(runs),
    )


def _sum_row(scope: str, name: str, rows: list[Row], cut: str | None, bd: float | None) -> Row:
    """Several points as one row; a value that a point lacks is not had for their sum."""
    ts = [row.t for row in rows]
    rates = [row.rate_low for row in rows]
    return Row(
        scope=scope,
        cut=cut,
        qp=None,
        variant=name,
        t=None if None in ts else _geometric_mean(ts),
        t_worst=None if None in ts else max(ts),
        user_s=None,
        kbps=None,
        rate_low=None if None in rates else min(rates),
        rate_high=None if None in rates else max(rates),
        rate_ok=None if None in rates else all(row.rate_ok for row in rows),
        psnr_611=None,
        bd_rate=bd,
        engine_share=_mean(row.engine_share for row in rows if row.engine_share is not None),
        cycles_per_decision=_mean(
            row.cycles_per_decision for row in rows if row.cycles_per_decision is not None
        ),
        conforming=sum(row.conforming for row in rows),
        encodes=sum(row.encodes for row in rows),
    )


def _cut_bd_rate(rows: list[Row], points: list[Row], anchor: str) -> float | None:
    """BD-rate of one cut over the QPs that both have; None for the anchor, or with few points."""
    cut, name = rows[0].cut, rows[0].variant
    anchor_rows = {row.qp: row for row in points if row.cut == cut and row.variant == anchor}
    pairs = [
        (anchor_rows[row.qp], row)
        for row in rows
        if row.qp in anchor_rows and None not in (row.psnr_611, anchor_rows[row.qp].psnr_611)
    ]
    if name == anchor or len(pairs) < BD_POINTS or len(pairs) != len(rows):
        return None
    base, test = ([(pair[side].kbps, pair[side].psnr_611) for pair in pairs] for side in (0, 1))
    return bd_rate(base, test)


def _notes(records: Sequence[dict], rows: list[Row], anchor: str) -> list[str]:
    notes = [
        problem for record in records for problem in record["conformance"]["problems"]
    ]
    unpaired = [f"{row.variant} at {row.cut} QP {row.qp}"
                for row in rows if row.scope == "point" and row.t is None]
    if unpaired:
        notes.append(
            f"No T, as {anchor} did not run in the same series: {', '.join(unpaired)}."
        )
    few = [f"{row.variant} on {row.cut}" for row in rows
           if row.scope == "cut" and row.bd_rate is None and row.variant != anchor]
    if few:
        notes.append(
            f"No BD-rate without {BD_POINTS} decoded points of both curves: {', '.join(few)}."
        )
    for name in dict.fromkeys(row.variant for row in rows):
        runs = [record for record in records if record["variant"] == name]
        settings = {
            json.dumps(
                {key: run["identity"][key] for key in ("encoder", "model", "cfg", "options")},
                sort_keys=True,
            )
            for run in runs
        }
        if len(settings) > 1:
            notes.append(f"{name}: records of {len(settings)} different builds, models or options "
                         "are mixed; run the plan again to the end.")
        streams = defaultdict(set)
        for run in runs:
            streams[run["cut"], run["qp"]].add(run["encode"]["bitstream"]["sha256"])
        unequal = [key for key, seen in streams.items() if len(seen) > 1]
        if len(settings) == 1 and unequal:
            where = ", ".join(f"{cut} QP {qp}" for cut, qp in unequal)
            notes.append(f"{name}: repetitions gave different bitstreams at {where}.")
    disturbed = sum(
        _cpu_share(record) < UNDISTURBED for record in records if not is_side_by_side(record)
    )
    if disturbed:
        notes.append(
            f"{disturbed} of {len(records)} encodes had their core for less than "
            f"{UNDISTURBED:.0%} of the time: other work disturbed them; leave the machine alone or "
            "measure more repetitions."
        )
    resumed = sum(record["pairing"]["resumed"] for record in records)
    if resumed:
        notes.append(
            f"{resumed} of {len(records)} encodes ran in a later series than others of their "
            "point, each series with the plan's anchor."
        )
    return notes


def _user_s(record: dict) -> float:
    return record["encode"]["times"]["user_s"]


def _kbps(record: dict) -> float:
    return record["encode"]["kbps_without_sei"]


def _cpu_share(record: dict) -> float:
    times = record["encode"]["times"]
    return (times["user_s"] + times["system_s"]) / times["wall_s"] if times["wall_s"] else 1.0


def _counter(runs: list[dict], name: str) -> list[float]:
    return [run["encode"]["counters"][name] for run in runs if name in run["encode"]["counters"]]


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def _geometric_mean(values: Iterable[float]) -> float | None:
    values = list(values)
    if not values or min(values) <= 0:
        return None
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _rate_span(row: Row) -> str:
    if row.rate_low is None:
        return "-"
    low, high = f"{row.rate_low:.1f}", f"{row.rate_high:.1f}"
    return (low if low == high else f"{low}-{high}") + " %" + ("" if row.rate_ok else " !")
