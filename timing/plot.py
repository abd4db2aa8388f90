"""BD-rate over time of measured variants, against what others measured.

Points of the tables of `fastpart timing table --format tsv` (their rows of scope `all`) and of a file of
other points, of which the figure says so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastpart.errors import FastpartError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Kinds of points, in the order of the legend.
OURS, FRONT = "with the predictor", "VTM's own options"
COLUMNS = ("name", "kind", "t", "bd_rate", "source")


@dataclass(frozen=True)
class Point:
    """An operating point: t, share of the anchor's time; bd_rate, percent. kind: of the legend."""

    name: str
    kind: str
    t: float
    bd_rate: float


def table_points(path: Path, names: Sequence[str] | None = None) -> list[Point]:
    """The variants of a table over all its cuts; names: only these. A variant whose engine took time has the
    predictor. The anchor is left out.

    Raises FastpartError for another file and for names that it lacks.
    """
    rows = [row for row in _rows(path, ("scope", "variant", "t", "bd_rate", "engine_share")) if row["scope"] == "all"]
    for name in names or ():
        if name not in {row["variant"] for row in rows}:
            raise FastpartError(
                f"{path}: no variant {name}, found {', '.join(row['variant'] for row in rows)}"
            )
    return [
        Point(row["variant"], OURS if row["engine_share"] else FRONT, *_numbers(path, row))
        for row in rows if row["bd_rate"] and (names is None or row["variant"] in names)
    ]


def other_points(path: Path) -> list[Point]:
    """The points of a TSV file with COLUMNS; raises FastpartError for another file."""
    return [Point(row["name"], row["kind"], *_numbers(path, row)) for row in _rows(path, COLUMNS)]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (time, loss) that no other point beats in both, by rising time."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches. Raises FastpartError without `matplotlib`."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise FastpartError(
            "matplotlib: package not found, wanted for figures; pip install 'fastpart[report]'"
        ) from error
    return Figure(figsize=(width, height))


def draw(points: Iterable[Point], title: str) -> bytes:
    """The figure, as SVG; equal points give equal bytes. Measured points that no other of their kind beats in both
    time and loss are joined. Raises FastpartError without `matplotlib`."""
    figure = new_figure(8, 5)
    kinds: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: (p.kind != OURS, p.kind != FRONT, p.kind, p.t)):
        kinds.setdefault(point.kind, []).append(point)
    axes = figure.subplots()
    for marker, (kind, group) in zip("osD^vP*X", kinds.items(), strict=False):
        at = [(p.t, p.bd_rate) for p in group]
        (line,) = axes.plot(*zip(*at, strict=True), marker, label=kind)
        if kind in (OURS, FRONT):
            best = [at[index] for index in pareto_front(at)]
            axes.plot(*zip(*best, strict=True), color=line.get_color(), linewidth=0.8)
        for p in group:
            axes.annotate(p.name, (p.t, p.bd_rate), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set(xlabel="time against stock", ylabel="BD-rate of (6Y+U+V)/8 [%]", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "fastpart"}):
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    return out.getvalue()


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows, found = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError) as error:
        raise FastpartError(f"{path}: cannot be read ({error})") from error
    missing = [column for column in columns if column not in found]
    if missing:
        raise FastpartError(f"{path}: no column {', '.join(missing)}, wanted a TSV file with {', '.join(columns)}")
    return rows


def _numbers(path: Path, row: dict[str, str]) -> tuple[float, float]:
    try:
        return float(row["t"]), float(row["bd_rate"])
    except (TypeError, ValueError):
        raise FastpartError(f"{path}: t {row['t']!r}, bd_rate {row['bd_rate']!r}: wanted numbers") from None
