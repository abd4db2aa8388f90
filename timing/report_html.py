"""The verdict as one web page that needs nothing else: no script, no network, figures as SVG."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fastpart.timing.report import PLANES, figures, get

#: Status, the word for it, and its sign, so that colour is not the only carrier.
WORDS = {
    "pass": ("pass", "✓"),
    "fail": ("fail", "✗"),
    "inconclusive": ("inconclusive", "?"),
    "not_measured": ("not measured", "–"),
}
_PLANE_HEADS = {"y": "Y", "u": "U", "v": "V", "weighted": "6:1:1"}

#: More remarks than these are folded away.
_REASONS_SHOWN = 3

_STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --card: #fff; --ink: #1d2126; --soft: #5d6670;
  --line: #dcdfe3; --grid: #e8eaed; --anchor: #6b7684; --entry: #1f6fd6; --pass: #1a7f37;
  --fail: #c4262e; --inconclusive: #9a6700; --not_measured: #69737d; --window: #1a7f3722; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --card: #1c2026; --ink: #e6e9ec;
  --soft: #9aa4af; --line: #333a42; --grid: #2a3038; --anchor: #a3adb8; --entry: #6cabff;
  --pass: #4cc46a; --fail: #ff7b7b; --inconclusive: #e0af45; --not_measured: #98a2ad;
  --window: #4cc46a2c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1300px; margin: 0 auto; padding: 24px clamp(12px, 3vw, 32px) 48px; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 36px 0 10px; }
p { margin: 6px 0; max-width: 85ch; }
.soft, figcaption, .note { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; }
.verdict { border-left: 6px solid var(--tone); margin: 18px 0; }
.verdict strong { color: var(--tone); font-size: 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; }
.tiles div { display: flex; flex-direction: column; }
.tiles b { font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.plots { margin-bottom: 12px; display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
figure { margin: 0; } figcaption { font-size: .86rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
svg { display: block; width: 100%; max-width: 560px; margin: 0 auto; height: auto; }
svg text { fill: var(--soft); font-size: 11px; }
svg text.name { fill: var(--ink); font-weight: 600; stroke: var(--card); stroke-width: 4px; paint-order: stroke; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 8px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th.t, td.t { text-align: left; } th.w, td.w { white-space: normal; min-width: 24ch; text-align: left; }
tr.sum td { font-weight: 600; } tr.first td { border-top: 2px solid var(--line); }
summary { cursor: pointer; margin-top: 8px; color: var(--soft); }
.badge { color: var(--tone); font-weight: 600; white-space: nowrap; }
.pass { --tone: var(--pass); } .fail { --tone: var(--fail); }
.inconclusive { --tone: var(--inconclusive); } .not_measured { --tone: var(--not_measured); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 16px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .84rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.key span { display: inline-block; width: 22px; border-top: 3px var(--dash) var(--c); margin: 0 6px 3px 0; }
.key { display: inline-block; margin-right: 18px; }
@media (max-width: 560px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  .card { padding: 10px 12px; } h1 { font-size: 1.25rem; } }
@media print { .scroll { overflow: visible; } }
"""


def page(verdict: Mapping[str, Any]) -> str:
    """The whole page; every text of the record is escaped. verdict: as `check_verdict` wants it."""
    rows = figures(verdict)
    points = [row for row in rows if row["scope"] == "point"]
    title = str(get(verdict, "edition", "title") or get(verdict, "edition", "name") or "Verdict")
    entry, anchor = (str(verdict[side].get("label") or side) for side in ("entry", "anchor"))
    parts = [
        f"<h1>{escape(entry)}</h1>",
        f'<p class="soft">against {escape(anchor)} · {escape(title)}</p>',
        _headline(verdict, points),
        "<h2>Rate and quality</h2>", _keys(anchor, entry),
        f'<div class="plots">{"".join(_rd_plots(points))}</div>',
        '<div class="plots">',
        _time_plot(verdict, points), _rate_plot(verdict, points),
        "</div>",
        "<h2>Verdict by point</h2>", _point_table(verdict, points),
        "<h2>Measurements</h2>", _measurements(rows, anchor, entry),
        "<h2>Compression and time</h2>", _sums(rows),
        _notes(verdict),
        "<h2>Machine and commands</h2>", _about(verdict),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(entry)}: {escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body><main>\n{chr(10).join(parts)}\n</main></body>\n</html>\n"
    )


def _number(value: float | None, form: str) -> str:
    """A figure as it is read, with the exact one as the element's value."""
    if value is None:
        return "–"
    return f'<data value="{escape(repr(value))}">{escape(form.format(value))}</data>'


def _badge(status: Any) -> str:
    if status is None:
        return "–"
    word, sign = WORDS.get(status, (str(status), ""))
    return f'<span class="badge {escape(str(status))}">{sign} {escape(word)}</span>'


def _headline(verdict: Mapping[str, Any], points: list[dict]) -> str:
    overall = verdict["overall"]
    status = overall.get("status") or "not_measured"
    counts = {name: sum(row["status"] == name for row in points) for name in WORDS}
    said = ", ".join(f"{count} {WORDS[name][0]}" for name, count in counts.items() if count)
    limit = get(verdict, "edition", "time_limit")
    tiles = [
        ("time ratio, mean", _number(overall.get("time_ratio"), "{:.3f}")),
        ("time ratio, worst point" + (f" (limit {limit:.2f})" if limit else ""),
         _number(overall.get("worst_time_ratio"), "{:.3f}")),
        ("BD-rate, 6:1:1", _number(get(overall, "bd_rate", "weighted"), "{:+.2f} %")),
        ("points", f"{len(points)}"),
    ]
    found = overall.get("reasons") or []
    reasons = "".join(f"<p>{escape(str(text))}</p>" for text in found)
    if len(found) > _REASONS_SHOWN:
        reasons = f"<details><summary>{len(found)} remarks</summary>{reasons}</details>"
    return (
        f'<section class="card verdict {escape(str(status))}"><strong>{_badge(status)}</strong>'
        f'<p>points: {escape(said)}</p><div class="tiles">'
        + "".join(f'<div><b>{value}</b><span class="soft">{name}</span></div>'
                  for name, value in tiles)
        + f"</div>{reasons}</section>"
    )


def _keys(anchor: str, entry: str) -> str:
    return "<p>" + "".join(
        f'<span class="key"><span style="--c: var(--{name}); --dash: {dash}"></span>'
        f"{escape(label)}</span>"
        for name, dash, label in (("anchor", "dashed", anchor), ("entry", "solid", entry))
    ) + "</p>"


class _Axes:
    """A plot area in a drawing: maps values to pixels and draws grid and labels."""

    def __init__(self, width, height, x_range, y_range, *, left=46, right=12, top=12, bottom=34,
                 log_x=False):
        self.width, self.height, self.log_x = width, height, log_x
        self.x0, self.x1 = left, width - right
        self.y0, self.y1 = height - bottom, top
        self.x_range = tuple(map(math.log10, x_range)) if log_x else x_range
        self.y_range = y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        at = math.log10(value) if self.log_x else value
        return self.x0 + (at - low) / (high - low) * (self.x1 - self.x0)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.y0 + (value - low) / (high - low) * (self.y1 - self.y0)

    def grid(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> str:
        parts = [
            f'<path d="M{self.x0} {self.y(t):.1f}H{self.x1}" stroke="var(--grid)"/>'
            f'<text x="{self.x0 - 6}" y="{self.y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
            for t in y_ticks
        ] + [
            f'<path d="M{self.x(t):.1f} {self.y1}V{self.y0}" stroke="var(--grid)"/>'
            f'<text x="{self.x(t):.1f}" y="{self.y0 + 15}" text-anchor="middle">{t:g}</text>'
            for t in x_ticks
        ]
        parts.append(f'<text x="{(self.x0 + self.x1) / 2}" y="{self.height - 4}" '
                     f'text-anchor="middle">{escape(x_label)}</text>')
        return "".join(parts)

    def svg(self, label: str, *parts: str) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
        )


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values within a range, about `count` of them."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= min((1, 2, 5, 10), key=lambda m: abs((high - low) / (m * step) - count))
    first = math.ceil(low / step)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a range; fewer when they would crowd."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) <= 6:
            break
    return found


def _padded(values: Iterable[float], share: float, least: float) -> tuple[float, float]:
    values = list(values)
    low, high = min(values), max(values)
    pad = max(share * (high - low), least)
    return low - pad, high + pad


def _rd_plots(points: list[dict]) -> list[str]:
    plots = []
    for name in dict.fromkeys(row["sequence"] for row in points):
        curves = {}
        for side in ("anchor", "entry"):
            curves[side] = sorted(
                (row[f"{side}_kbps_without_sei"], row[f"{side}_psnr_weighted"], row["qp"])
                for row in points
                if row["sequence"] == name
                and row[f"{side}_kbps_without_sei"] and row[f"{side}_psnr_weighted"]
            )
        shown = [point for curve in curves.values() for point in curve]
        caption = f"<figcaption><b>{escape(str(name))}</b> "
        if not shown:
            plots.append(f'<figure class="card">{caption}no rate and PSNR measured</figcaption>'
                         "</figure>")
            continue
        rates = [rate for rate, _, _ in shown]
        axes = _Axes(380, 250, (min(rates) / 1.15, max(rates) * 1.15),
                     _padded((quality for _, quality, _ in shown), 0.08, 0.2), log_x=True)
        parts = [axes.grid(_log_ticks(min(rates) / 1.15, max(rates) * 1.15), _ticks(*axes.y_range),
                           "kbps without SEI (logarithmic)")]
        for side, curve in curves.items():
            line = " ".join(f"{axes.x(rate):.1f},{axes.y(quality):.1f}"
                            for rate, quality, _ in curve)
            dashes = 'stroke-dasharray="5 4"' if side == "anchor" else ""
            parts.append(f'<polyline points="{line}" fill="none" stroke="var(--{side})" '
                         f'stroke-width="2" {dashes}/>')
            for rate, quality, qp in curve:
                parts.append(
                    f'<circle cx="{axes.x(rate):.1f}" cy="{axes.y(quality):.1f}" r="3.5" '
                    f'fill="var(--{side})"><title>{side} QP {escape(str(qp))}: {rate:.2f} kbps, '
                    f"{quality:.3f} dB</title></circle>"
                )
        plots.append(
            f'<figure class="card">{axes.svg(f"Rate and PSNR of {name}", *parts)}'
            f"{caption}(6Y+U+V)/8 PSNR in dB over bitrate</figcaption></figure>"
        )
    return plots


def _time_plot(verdict: Mapping[str, Any], points: list[dict]) -> str:
    limit = get(verdict, "edition", "time_limit")
    caption = "CPU time of the entry over that of the anchor, with its 95 % confidence bounds"
    measured = [row[key] for row in points for key in ("time_ratio", "time_low", "time_high")
                if row[key] is not None]
    return _dots(
        points, "time", "time_ratio", "Time ratio",
        caption + (f"; the line is the limit, {limit:.2f}" if limit else ""),
        (0.0, max([1.0, *(value * 1.05 for value in measured)])), _whiskers, limit, "{:.3f}",
    )


def _rate_plot(verdict: Mapping[str, Any], points: list[dict]) -> str:
    bounds = [row[key] for row in points for key in ("rate_percent", "rate_low", "rate_high")
              if row[key] is not None]
    return _dots(
        points, "rate", "rate_percent", "Bitrate",
        "Bitrate of the entry in percent of the anchor's; the band is what the rule allows",
        _padded([100.0, *bounds], 0.06, 1.0), _band, None, "{:.2f} %",
    )


def _whiskers(axes: _Axes, y: float, low: float | None, high: float | None, colour: str) -> str:
    """A confidence interval."""
    if low is None or high is None:
        return ""
    left, right = axes.x(low), axes.x(high)
    return (f'<path d="M{left:.1f} {y}H{right:.1f}M{left:.1f} {y - 4}v8M{right:.1f} {y - 4}v8" '
            f'stroke="{colour}" stroke-width="1.6" fill="none"/>')


def _band(axes: _Axes, y: float, low: float | None, high: float | None, colour: str) -> str:
    """What is allowed; without a bound, as far as is drawn."""
    left = axes.x0 if low is None else axes.x(low)
    right = axes.x1 if high is None else axes.x(high)
    return (f'<path d="M{left:.1f} {y - 8}h{right - left:.1f}v16H{left:.1f}z" '
            'fill="var(--window)" stroke="none"/>')


def _dots(
    points: list[dict], what: str, key: str, title: str, caption: str,
    x_range: tuple[float, float], bounds: Callable[..., str], limit: float | None, form: str,
) -> str:
    """A dot and its bounds for each point, one below the other by sequence."""
    if all(row[key] is None for row in points):
        return f'<figure class="card"><figcaption><b>{title}</b> not measured</figcaption></figure>'
    names = list(dict.fromkeys(row["sequence"] for row in points))
    axes = _Axes(400, 50 + 17 * len(points) + 22 * len(names), x_range, (0, 1), left=52)
    parts = [axes.grid(_ticks(*axes.x_range), [], "")]
    if limit:
        parts.append(f'<path d="M{axes.x(limit):.1f} {axes.y1}V{axes.y0}" stroke="var(--ink)" '
                     'stroke-width="1.5" stroke-dasharray="4 3"/>')
    top = axes.y1 + 4
    for name in names:
        shown = str(name) if len(str(name)) <= 44 else f"{str(name)[:43]}…"
        parts.append(f'<text class="name" x="6" y="{top + 12}">{escape(shown)}</text>')
        top += 22
        for row in (row for row in points if row["sequence"] == name):
            low, high, y = row[f"{what}_low"], row[f"{what}_high"], top + 5
            status = row[f"{what}_status"]
            colour = f"var(--{status if status in WORDS else row['status']})"
            parts.append(f'<text x="{axes.x0 - 6}" y="{y + 4}" text-anchor="end">'
                         f"QP {escape(str(row['qp']))}</text>")
            if row[key] is not None:
                parts.append(bounds(axes, y, low, high, colour))
                said = " to ".join("…" if v is None else form.format(v) for v in (low, high))
                parts.append(f'<circle cx="{axes.x(row[key]):.1f}" cy="{y}" r="4" fill="{colour}">'
                             f"<title>{form.format(row[key])} ({said})</title></circle>")
            top += 17
    return (
        f'<figure class="card">{axes.svg(title, *parts)}'
        f"<figcaption><b>{title}</b> {escape(caption)}</figcaption></figure>"
    )


def _table(heads: Sequence[tuple[str, str]], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """heads: text and class of each column; rows: class and cells, already escaped."""
    head = "".join(f'<th class="{kind}">{text}</th>' for text, kind in heads)
    body = "".join(
        f'<tr class="{row_class}">'
        + "".join(f'<td class="{kind}">{cell}</td>'
                  for cell, (_, kind) in zip(cells, heads, strict=True))
        + "</tr>\n"
        for row_class, cells in rows
    )
    return (f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>\n{body}</tbody></table></div>")


def _first_of(points: list[dict]) -> list[bool]:
    before = [None, *(row["sequence"] for row in points)]
    return [row["sequence"] != last for row, last in zip(points, before, strict=False)]


def _point_table(verdict: Mapping[str, Any], points: list[dict]) -> str:
    limit = get(verdict, "edition", "time_limit")
    rows = []
    for row, first in zip(points, _first_of(points), strict=True):
        bounds = "" if row["time_low"] is None or row["time_high"] is None else (
            f' <span class="soft">({_number(row["time_low"], "{:.3f}")} to '
            f'{_number(row["time_high"], "{:.3f}")})</span>'
        )
        rows.append(("first" if first else "", [
            escape(str(row["sequence"])) if first else "", _number(row["qp"], "{}"),
            _badge(row["status"]), _number(row["time_ratio"], "{:.3f}") + bounds,
            _badge(row["time_status"]), _number(row["rate_percent"], "{:.2f} %"),
            _badge(row["rate_status"]), _badge(row["conformance_status"]),
            escape(row["reasons"] or ""),
        ]))
    heads = [("sequence", "t"), ("QP", ""), ("verdict", "t"),
             ("time ratio, 95 %" + (f", limit {limit:.2f}" if limit else ""), ""),
             ("time", "t"), ("bitrate", ""), ("rate", "t"), ("conformance", "t"), ("why", "w")]
    return _table(heads, rows)


def _measurements(rows: list[dict], anchor: str, entry: str) -> str:
    """Rate, PSNR and times of both encoders at each point."""
    columns = [("kbps w/o SEI", "kbps_without_sei", "{:.4f}"),
               *((f"{head} psnr", f"psnr_{plane}", "{:.4f}")
                 for plane, head in _PLANE_HEADS.items()),
               ("EncT [s]", "encode_s", "{:.2f}"), ("DecT [s]", "decode_s", "{:.2f}")]
    points = [row for row in rows if row["scope"] == "point"]
    tables = []
    for side, label in (("anchor", anchor), ("entry", entry)):
        body = [
            ("first" if first else "", [
                escape(str(row["sequence"])) if first else "", _number(row["qp"], "{}"),
                *(_number(row[f"{side}_{key}"], form) for _, key, form in columns),
            ])
            for row, first in zip(points, _first_of(points), strict=True)
        ]
        heads = [("sequence", "t"), ("QP", ""), *((head, "") for head, _, _ in columns)]
        tables.append(f'<p class="note">{escape(label)}</p>{_table(heads, body)}')
    return "".join(tables)


def _sums(rows: list[dict]) -> str:
    """BD-rates and time ratios by sequence, class and overall."""
    akima = any(row[f"bd_rate_akima_{plane}"] is not None for row in rows for plane in PLANES)
    kinds = ("bd_rate", "bd_rate_akima") if akima else ("bd_rate",)
    heads = [("", "t"), *(
        (f"{_PLANE_HEADS[plane]}{' (akima)' if kind == 'bd_rate_akima' else ''}", "")
        for kind in kinds for plane in PLANES
    ), ("EncT ratio", "")]
    names = {"sequence": lambda row: str(row["sequence"]),
             "class": lambda row: f"Class {row['class']}", "overall": lambda row: "Overall"}
    body = [
        ("sum" if row["scope"] != "sequence" else "", [
            escape(names[row["scope"]](row)),
            *(_number(row[f"{kind}_{plane}"], "{:+.2f} %") for kind in kinds for plane in PLANES),
            _number(row["time_ratio"], "{:.3f}"),
        ])
        for row in rows if row["scope"] != "point"
    ]
    return ('<p class="note">BD-rate by piecewise cubic (pchip) interpolation'
            f'{" and by Akima" if akima else ""}; negative: the entry needs less.</p>'
            + _table(heads, body))


def _notes(verdict: Mapping[str, Any]) -> str:
    notes = [f"{entry['sequence']}: {text}" for entry in verdict["sequences"]
             for text in entry.get("notes") or []]
    return "".join(f'<p class="note">{escape(str(note))}</p>' for note in notes)


def _about(verdict: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    rows = [(key, shown(value)) for key, value in (verdict.get("machine") or {}).items()
            if value is not None]
    commands = [(f"command: {key}", shown(value))
                for key, value in (verdict.get("commands") or {}).items()]
    for side in ("anchor", "entry"):
        if verdict[side].get("command"):
            commands.append((f"{side}: command", shown(verdict[side]["command"])))
        commands.append((f"{side}: identity", shown(verdict[side].get("identity"))))
    rules = [(f"edition: {key}", shown(value)) for key, value in verdict["edition"].items()]
    made = [(key, shown(verdict.get(key))) for key in ("created", "fastpart")]
    return '<dl class="card">' + "".join(
        f"<dt>{escape(key)}</dt><dd>"
        + (f"<code>{escape(text)}</code>" if ": " in key else escape(text)) + "</dd>"
        for key, text in [*made, *rows, *rules, *commands]
    ) + "</dl>"
