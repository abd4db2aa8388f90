"""BD-rate over time of tables."""

import re
from pathlib import Path

import pytest

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.timing.plot import FRONT, OURS, Point, draw, other_points, table_points

TABLE = (
    "scope\tcut\tqp\tvariant\tt\tt_worst\tbd_rate\tengine_share\n"
    "all\t\t\tstock\t1.0\t1.0\t\t\n"
    "all\t\t\treduced\t0.36\t0.38\t1.3\t\n"
    "all\t\t\tt70\t0.62\t0.68\t0.2\t0.006\n"
    "cut\tx\t\tt70\t0.5\t0.6\t9.0\t0.006\n"
)
OTHERS = "name\tkind\tt\tbd_rate\tsource\nslow\tlibvvenc\t0.1\t4\tdesign\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text(TABLE)
    return path


def test_points_of_a_table_are_those_over_all_cuts(table):
    reduced, t70 = Point("reduced", FRONT, 0.36, 1.3), Point("t70", OURS, 0.62, 0.2)
    assert table_points(table) == [reduced, t70]
    assert table_points(table, ["t70"]) == [t70]


def test_the_figure_names_every_point_and_kind(table, tmp_path, capsys):
    others, out = tmp_path / "others.tsv", tmp_path / "front.svg"
    others.write_text(OTHERS)
    assert other_points(others) == [Point("slow", "libvvenc", 0.1, 4.0)]
    argv = ["timing", "plot", str(table), "--others", str(others), "--title", "Three", "-o", str(out)]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{out}\n"
    said = re.findall(r"<!-- (.*?) -->", out.read_text())   # each text of the figure is also a comment
    assert {"reduced", "t70", "slow", FRONT, OURS, "libvvenc", "Three"} <= set(said)
    assert draw(table_points(table), "") == draw(table_points(table), "")
    assert [path.name for path in Path(tmp_path).iterdir() if path.suffix == ".part"] == []


@pytest.mark.parametrize(
    ("text", "names", "says"),
    [
        (TABLE, ["t20"], "no variant t20, found stock, reduced, t70"),
        (TABLE.replace("engine_share", "engine"), None, "no column engine_share"),
        (TABLE.replace("0.62", "fast"), None, "t 'fast', bd_rate '0.2': wanted numbers"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, names, says):
    path = tmp_path / "table.tsv"
    path.write_text(text)
    with pytest.raises(FastpartError, match=re.escape(says)) as error:
        table_points(path, names)
    assert str(path) in str(error.value)


def test_a_figure_needs_points_and_a_place(table, tmp_path, capsys):
    table.write_text(TABLE.split("all\t\t\treduced")[0])
    assert main(["timing", "plot", str(table), "-o", str(tmp_path / "a.svg")]) == 1
    assert "no variant with a BD-rate" in capsys.readouterr().err
    table.write_text(TABLE)
    assert main(["timing", "plot", f"{table}:t70", "-o", str(tmp_path / "none" / "a.svg")]) == 1
    assert "cannot be written" in capsys.readouterr().err
