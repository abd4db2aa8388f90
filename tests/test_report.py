"""The report: page, CSV and workbook show the figures of the record, and hold hostile names."""

from __future__ import annotations

import copy
import csv
import io
import json
from html.parser import HTMLParser

import pytest

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.timing.report import (
    COLUMNS,
    PLANES,
    VERDICT_SCHEMA,
    check_verdict,
    figures,
    load_verdict,
    to_csv,
    write_report,
)

HOSTILE = '<script>alert("x")</script>&'
FORMULA = "=cmd|'/C calc'!A0"


def side(kbps: float, quality: float, seconds: float | None) -> dict:
    return {
        "bits": int(kbps * 1000), "sei_bits": 8, "kbps": kbps, "kbps_without_sei": kbps * 0.99,
        "psnr": {"y": quality - 0.5, "u": quality + 1.25, "v": quality + 1.75, "weighted": quality},
        "vmaf": None, "encode_s": seconds, "decode_s": 1.25, "runs": 3,
    }


def point(sequence: str, group: str, qp: int, status: str = "pass") -> dict:
    rate, quality, ratio = 4000 / 1.1**qp, 50 - qp * 0.4, 0.5 + qp / 250
    return {
        "sequence": sequence, "class": group, "qp": qp, "frames": 33, "width": 416, "height": 240,
        "bit_depth": 8, "fps": "30", "intra_period": 32,
        "anchor": side(rate, quality, 123.456), "entry": side(rate * 1.01, quality - 0.013, 77.7),
        "time": {"ratio": ratio, "low": ratio - 0.0123, "high": ratio + 0.0098, "repetitions": 3,
                 "status": status, "reason": None},
        "rate": {"percent": 101.0, "low": 90.0, "high": 110.0, "status": "pass", "reason": None},
        "conformance": {"status": "pass", "reason": None, "problems": []},
        "status": status, "reasons": [] if status == "pass" else [f"time: {status} & <late>"],
    }


@pytest.fixture
def verdict() -> dict:
    """Two sequences at four QPs; one is named to do harm, one point failed, one lacks its time."""
    points = [point("ramp_416x240", "D", qp) for qp in (22, 27, 32, 37)]
    points += [point(HOSTILE, FORMULA, qp) for qp in (22, 27, 32)]
    points.append(point(HOSTILE, FORMULA, 37, "fail"))
    points[1] |= {"time": {"ratio": None, "low": None, "high": None, "status": "not_measured"},
                  "status": "not_measured"}
    points[1]["anchor"] |= {"encode_s": None}
    rates = {"y": 1.0101, "u": -0.5202, "v": 0.2503, "weighted": 0.8404}
    other = {"y": None, "u": None, "v": None, "weighted": None}
    return {
        "schema": VERDICT_SCHEMA, "fastpart": "0.1.0", "created": "2026-01-02T03:04:05+00:00",
        "edition": {"name": "edition", "title": "Edition <2026>", "codec": "vvc",
                    "qps": [22, 27, 32, 37], "time_limit": 0.70, "rate_rule": {"low": 90, "high": 110}},
        "anchor": {"name": "vtm-stock", "label": "VTM-23.2 stock", "identity": {}, "command": "enc -q"},
        "entry": {"name": "command", "label": f"entry {HOSTILE}", "identity": {}, "command": FORMULA},
        "machine": {"cpu": HOSTILE, "governor": None, "load": [0.5, 0.25, 0.125]},
        "commands": {"verify": f"fastpart verify --out {HOSTILE}"},
        "points": points,
        "sequences": [
            {"sequence": "ramp_416x240", "class": "D", "bd_rate": rates, "bd_rate_akima": rates,
             "time_ratio": 0.6117, "delta_time_percent": -38.83, "notes": []},
            {"sequence": HOSTILE, "class": FORMULA, "bd_rate": other, "bd_rate_akima": other,
             "time_ratio": 0.6218, "delta_time_percent": -37.82, "notes": [f"curves {HOSTILE}"]},
        ],
        "classes": [{"class": "D", "sequences": 1, "bd_rate": rates, "time_ratio": 0.6117},
                    {"class": FORMULA, "sequences": 1, "bd_rate": other, "time_ratio": 0.6218}],
        "overall": {"bd_rate": rates, "bd_rate_akima": rates, "time_ratio": 0.6167,
                    "worst_time_ratio": 0.648, "status": "fail", "reasons": ["one point is late"]},
    }


class Page(HTMLParser):
    """Tables as rows of cells; a cell is its exact figures, or its text where it has none."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.tables: list[list[list]] = []
        self.cell: list | None = None
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = []
        elif tag == "data" and self.cell is not None:
            self.cell.append(float(dict(attrs)["value"]))

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            said = "".join(text for text in self.cell if isinstance(text, str))
            numbers = [value for value in self.cell if isinstance(value, float)]
            self.tables[-1][-1].append(numbers or said)
            self.cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self.cell is not None:
            self.cell.append(data)


def workbook(value):
    """Figures as a workbook holds them: 16 digits."""
    return [float(f"{v:.16g}") if isinstance(v, float) else v for v in value]


def read_csv(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_three_show_the_figures_of_the_record(tmp_path, verdict):
    openpyxl = pytest.importorskip("openpyxl")
    files = write_report(verdict, tmp_path / "new" / "folder")
    assert [path.name for path in files.values()] == ["report.html", "report.csv", "report.xlsx"]
    page = Page(files["html"].read_text())
    by_point, anchor_table, entry_table, sums = page.tables
    rows = read_csv(files["csv"])
    book = openpyxl.load_workbook(files["xlsx"])
    sheet = [[cell.value for cell in row] for row in book["Sequences"].iter_rows()]
    data = [dict(zip(COLUMNS, [cell.value for cell in row], strict=True))
            for row in book["Data"].iter_rows(min_row=2)]
    assert len(rows) == len(data) == 8 + 2 + 2 + 1

    points = [row for row in rows if row["scope"] == "point"]
    assert len(points) == len(by_point) - 1 == len(anchor_table) - 1 == 8
    for index, wanted in enumerate(verdict["points"]):
        for name, table in (("anchor", anchor_table), ("entry", entry_table)):
            had = wanted[name]
            figures_wanted = [had["kbps_without_sei"], *(had["psnr"][plane] for plane in PLANES),
                              had["encode_s"], had["decode_s"]]
            in_csv = [points[index][f"{name}_{key}"] for key in
                      ("kbps_without_sei", *(f"psnr_{plane}" for plane in PLANES), "encode_s", "decode_s")]
            assert [None if value == "" else float(value) for value in in_csv] == figures_wanted
            in_page = [cell[0] if isinstance(cell, list) else None for cell in table[index + 1][2:]]
            assert in_page == figures_wanted
            start = 3 if name == "anchor" else 10
            assert sheet[2 + index][start : start + 7] == workbook(figures_wanted)
            (in_data,) = (row for row in data if row["scope"] == "point"
                          and (row["sequence"], row["qp"]) == (wanted["sequence"], wanted["qp"]))
            assert [in_data[f"{name}_kbps"]] == workbook([had["kbps"]])
        time = wanted["time"]
        wanted_time = [time[key] for key in ("ratio", "low", "high")]
        cell = by_point[index + 1][3]
        assert cell == wanted_time if time["ratio"] is not None else cell == "–"
        assert [float(points[index][f"time_{key}"] or "nan") for key in ("ratio", "low", "high")] == (
            pytest.approx([float("nan") if v is None else v for v in wanted_time], nan_ok=True)
        )
        assert sheet[2 + index][21] == time["ratio"]
        assert points[index]["status"] == sheet[2 + index][23] == wanted["status"]
        assert by_point[index + 1][2].endswith(wanted["status"].replace("_", " "))

    rates = verdict["overall"]["bd_rate"]
    overall = rows[-1]
    assert [float(overall[f"bd_rate_{plane}"]) for plane in PLANES] == list(rates.values())
    assert [cell[0] for cell in sums[-1][1:5]] == list(rates.values())
    assert sheet[-1][17:21] == list(rates.values())
    assert sheet[2][17:21] == list(rates.values())
    assert sheet[-1][21] == float(overall["time_ratio"]) == sums[-1][-1][0] == 0.6167
    assert verdict["overall"]["worst_time_ratio"] in [
        row[1].value for row in book["Summary"].iter_rows()
    ]


def test_names_do_no_harm_on_the_page(tmp_path, verdict):
    text = write_report(verdict, tmp_path)["html"].read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert not {"src", "href", "onload", "onclick"} & {name for name, _ in page.attributes}
    assert "http" not in text
    assert HOSTILE in "".join(page.text)
    assert any("Rate and PSNR of" in (value or "") and HOSTILE in value for _, value in page.attributes)
    # In words, not in colour alone.
    assert {"✓ pass", "✗ fail", "– not measured"} <= {cell for row in page.tables[0] for cell in row
                                                    if isinstance(cell, str)}


def test_text_is_no_formula(tmp_path, verdict):
    openpyxl = pytest.importorskip("openpyxl")
    verdict["points"][0]["reasons"] = ["\x07 bell", "+1"]
    files = write_report(verdict, tmp_path)
    rows = read_csv(files["csv"])
    assert rows[5]["class"] == "'" + FORMULA
    assert all(not text.lstrip().startswith(("=", "@", "+")) for row in rows for text in row.values())
    book = openpyxl.load_workbook(files["xlsx"])
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert "f" not in {cell.data_type for cell in cells}
    assert any(cell.value == FORMULA for cell in cells)


@pytest.mark.parametrize("start", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1"])
def test_csv_quotes_what_a_spreadsheet_would_run(verdict, start):
    verdict["points"][0]["sequence"] = start
    verdict["sequences"][0]["sequence"] = start
    first = next(csv.DictReader(io.StringIO(to_csv(figures(verdict)), newline="")))
    assert first["sequence"].startswith("'")
    assert float(first["entry_kbps"]) == verdict["points"][0]["entry"]["kbps"]


def test_negative_numbers_stay_numbers(verdict):
    rows = list(csv.DictReader(io.StringIO(to_csv(figures(verdict)))))
    assert float(rows[-1]["bd_rate_u"]) == -0.5202


def test_a_record_of_nothing_but_its_frame(tmp_path):
    verdict = {"schema": VERDICT_SCHEMA, "edition": {}, "anchor": {}, "entry": {}, "points": [
        {"sequence": "a", "qp": 22, "status": "not_measured"}
    ], "sequences": [], "classes": [], "overall": {}}
    pytest.importorskip("openpyxl")
    files = write_report(verdict, tmp_path)
    assert "not measured" in files["html"].read_text()
    assert [row["scope"] for row in read_csv(files["csv"])] == ["point", "sequence", "overall"]


def test_command(tmp_path, verdict, capsys):
    pytest.importorskip("openpyxl")
    (tmp_path / "verdict.json").write_text(json.dumps(verdict))
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()
    assert main(["report", str(tmp_path / "verdict.json"), "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "report.xlsx").exists()
    assert str(tmp_path / "b" / "report.csv") in capsys.readouterr().out


def change(verdict, **values):
    return {**copy.deepcopy(verdict), **values}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "not JSON"),
        ("[1]", "schema None, wanted 'fastpart.verdict/1'"),
        ('{"schema": "fastpart.encode/1"}', "schema 'fastpart.encode/1'"),
        ('{"schema": "fastpart.verdict/1", "edition": NaN}', "NaN"),
        ('{"schema": "fastpart.verdict/1", "edition": 1}', "edition is int, wanted dict"),
        ("\udcff", "not JSON"),
    ],
)
def test_other_input_is_refused(tmp_path, capsys, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert main(["report", str(path)]) == 1
    error = capsys.readouterr().err
    assert said in error and str(path) in error
    assert not (tmp_path / "report.html").exists()


def test_missing_input(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "verdict.json: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_point_without_its_keys_is_refused(verdict):
    del verdict["points"][2]["qp"]
    with pytest.raises(FastpartError, match=r"points\[2\] lacks qp"):
        check_verdict(verdict)
    verdict["points"][2] |= {"qp": 32, "status": "great"}
    with pytest.raises(FastpartError, match=r"points\[2\] has status 'great', wanted one of pass"):
        check_verdict(verdict)


def test_unwritable_folder(tmp_path, verdict):
    pytest.importorskip("openpyxl")
    (tmp_path / "file").write_text("")
    with pytest.raises(FastpartError, match="cannot be written"):
        write_report(verdict, tmp_path / "file" / "folder")


def test_load_gives_the_record(tmp_path, verdict):
    (tmp_path / "v.json").write_text(json.dumps(verdict))
    assert load_verdict(tmp_path / "v.json") == verdict
