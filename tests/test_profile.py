"""Where the time goes: stacks, kinds, layers, the command."""

import json
import os

import pytest
from test_timing import CUTS, PLAN, write_program

from fastpart.cli import main
from fastpart.timing.profile import OTHER, count_samples, kind_of, stacks

SCRIPT = """\
  10.500000:
\t          2bbf48 solveEqual
\t          2d7de3 InterSearch::xPredAffineInterSearch
\t          37f9ad EncCu::xCheckRDCostInter
\t          387d48 EncCu::xCompressCU
\tffffffffffffffff [unknown]

  11.500000:
\t          480e95 fastpart::Policy::skip
\t          387444 EncCu::xCompressCU

  12.500000:
\t          480e95 memcpy
"""


def test_stacks_are_read_innermost_first():
    samples = list(stacks(SCRIPT.splitlines(keepends=True)))
    assert [moment for moment, _ in samples] == [10.5, 11.5, 12.5]
    assert samples[0][1][:2] == ["solveEqual", "InterSearch::xPredAffineInterSearch"]
    assert samples[2][1] == ["memcpy"]


@pytest.mark.parametrize(
    ("functions", "kind"),
    [
        (["x", "IntraSearch::estIntraPredChromaQT", "EncCu::xCheckRDCostIntra", "EncCu::xCompressCU"], "intra, chroma"),
        (["x", "EncCu::xCheckRDCostIntra", "EncCu::xCompressCU"], "intra, luma"),
        (["x", "InterSearch::xPredAffineInterSearch", "EncCu::xCheckRDCostInter"], "inter, affine"),
        (["x", "EncCu::xCheckRDCostInterAmvr", "EncCu::xCompressCU"], "inter, AMVR"),
        (["x", "EncCu::xCheckRDCostInter", "EncCu::xCompressCU"], "inter"),
        (["fastpart::Forest::walk", "EncCu::xCompressCU"], "predictor"),
        (["EncCu::xCompressCU", "EncCu::xCheckModeSplit"], "splits, bookkeeping"),
        (["EncAdaptiveLoopFilter::ALFProcess", "EncGOP::compressGOP"], "adaptive loop filter"),
        (["main"], OTHER),
        ([], OTHER),
    ],
)
def test_the_innermost_work_known_decides(functions, kind):
    assert kind_of(functions) == kind


def test_samples_belong_to_the_picture_under_way():
    counts = count_samples(stacks(SCRIPT.splitlines(keepends=True)), [10.6, 12.0], ["I", "TId 0"])
    assert counts == {"I": {"inter, affine": 1}, "TId 0": {"predictor": 1, OTHER: 1}}


PERF = """
import pathlib, subprocess, sys, time
if sys.argv[1] == "record":
    at = sys.argv.index("--")
    data = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
    start = time.clock_gettime(time.CLOCK_MONOTONIC)
    code = subprocess.run(sys.argv[at + 1:]).returncode
    data.write_text(str(start))
    sys.exit(code)
start = float(pathlib.Path(sys.argv[sys.argv.index("-i") + 1]).read_text())
for function in ("EncCu::xCheckRDCostIntra", "EncTemporalFilter::filter", "EncCu::xCheckRDCostIntra"):
    print(f"{start:.6f}:\\n\\t 1 {function}\\n\\t 2 main\\n")
"""


@pytest.fixture
def profile(tmp_path, stub_home, clip, ffmpeg, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    write_program(tools / "perf", PERF)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    ffmpeg("-f", "rawvideo", "-s", "64x64", "-r", "30", "-i", clip.path, tmp_path / "ramp.y4m")
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "cuts.toml").write_text(CUTS)

    def run(*arguments):
        return main([
            "timing", "profile", str(tmp_path / "plan.toml"), "--clips", str(tmp_path), "--out", str(tmp_path / "out"),
            "--vtm-home", str(stub_home), *arguments,
        ])

    return run


def test_the_command_prints_shares_and_goes_on_where_it_was(profile, tmp_path, capsys):
    assert profile("--only", "learned") == 0
    out, err = capsys.readouterr()
    assert "| | ramp QP 45 stock | ramp QP 45 learned |" in out
    assert "| intra, luma | 66.7 | 66.7 |" in out and "| temporal filter | 33.3 | 33.3 |" in out
    assert "| samples | 3 | 3 |" in out and err.count("3 samples") == 2
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    assert {record["variant"] for record in records} == {"stock", "learned"}
    assert profile("--only", "learned", "--qps", "45,50") == 0
    out, err = capsys.readouterr()
    assert err.count("3 samples") == 2 and out.count("QP 50") == 2


def test_without_perf_it_says_so(profile, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert profile() == 1
    assert "perf: not found" in capsys.readouterr().err
