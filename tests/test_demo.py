"""The demo: its clip, and all of it on a very small one."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from conftest import write_clip

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.timing import demo
from fastpart.timing.edition import load_edition
from fastpart.timing.synthetic import make_clip
from fastpart.timing.verify import EXIT_CODES
from fastpart.vtm import VtmHome


def frames_of(clip: Clip) -> np.ndarray:
    """Luma, shape (frames, height, width)."""
    data = np.fromfile(clip.path, "u1").reshape(clip.frames, -1)
    return data[:, : clip.width * clip.height].reshape(-1, clip.height, clip.width).astype(float)


def test_synthetic_clip_moves_like_video(tmp_path):
    clip = make_clip(tmp_path / "new" / "a.yuv", 96, 64, 9)
    assert clip.path.stat().st_size == 9 * clip.frame_bytes
    again = make_clip(tmp_path / "b.yuv", 96, 64, 9)
    assert clip.path.read_bytes() == again.path.read_bytes()
    other = make_clip(tmp_path / "c.yuv", 96, 64, 9, seed=2)
    assert clip.path.read_bytes() != other.path.read_bytes()
    luma = frames_of(clip)
    assert luma.min() >= 16 and luma.max() <= 240 and luma.std() > 10
    # Neighbours are alike; 7 frames on, the ground is found again 3 samples right and down.
    assert abs(luma[1] - luma[0]).mean() < 0.7 * abs(luma[8] - luma[0]).mean()
    moved = np.median(abs(luma[7, :-3, :-3] - luma[0, 3:, 3:]))
    assert moved < 0.6 * np.median(abs(luma[7] - luma[0]))


def test_any_clip_is_made_small(tmp_path, ffmpeg):
    ten_bit = write_clip(tmp_path / "Ramp_96x64_30_10bit.yuv", 96, 64, 6, 10)
    small = demo.prepare_clip(str(ten_bit.path), (64, 64), 4, tmp_path)
    assert (small.width, small.height, small.frames, small.bit_depth) == (64, 64, 4, 10)
    assert small.path.stat().st_size == 4 * small.frame_bytes
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=160x90:rate=25:duration=1", "-pix_fmt", "yuv420p",
           tmp_path / "a.mp4")
    small = demo.prepare_clip(str(tmp_path / "a.mp4"), (64, 48), 5, tmp_path)
    assert (small.width, small.height, small.fps) == (64, 48, Fraction(25))
    assert frames_of(small).std() > 10
    with pytest.raises(FastpartError, match="99"):
        demo.prepare_clip(str(tmp_path / "a.mp4"), (64, 48), 99, tmp_path)
    assert not list(tmp_path.glob(".clip.*"))


@pytest.mark.parametrize("backend", sorted(demo.SCALES))
def test_demo_rules_are_those_of_the_challenge(backend):
    rules = load_edition(demo.SCALES[backend].edition)
    challenge = load_edition("iscas2026-encoder")
    for name in ("qps", "time_limit", "rate", "limit_intra_period", "psnr_weights"):
        assert getattr(rules, name) == getattr(challenge, name)
    assert "not a challenge result" in rules.title
    if backend == "vtm":
        assert (rules.anchor, rules.decoders) == (challenge.anchor, challenge.decoders)
        assert rules.single_thread and rules.entry == challenge.entry
    else:
        assert rules.decoders == ("ffmpeg",) and "not VTM" in rules.title


def test_demo_end_to_end(tmp_path, capsys):
    pytest.importorskip("bjontegaard")
    openpyxl = pytest.importorskip("openpyxl")
    arguments = ["demo", "--backend", "vvenc", "--out", str(tmp_path / "d"), "--size", "64x64",
                 "--frames", "2", "--repetitions", "1"]
    code = main(arguments)
    said = capsys.readouterr()
    verdict = json.loads((tmp_path / "d" / "vvenc" / "verdict.json").read_text())
    # The clip is too small for the time to mean anything; all else has to be right.
    assert code == EXIT_CODES[verdict["overall"]["status"]]
    assert verdict["edition"]["name"] == "demo-vvenc"
    assert [point["qp"] for point in verdict["points"]] == [22, 27, 32, 37]
    for point in verdict["points"]:
        assert point["conformance"]["status"] == "pass", point["conformance"]
        assert point["rate"]["status"] == "pass" and point["time"]["ratio"] > 0
        assert point["anchor"]["psnr"]["weighted"] > 25
    assert "learned depths" in verdict["entry"]["label"] and "not VTM" in verdict["entry"]["label"]
    assert "-m fastpart.vvenc" in verdict["entry"]["command"]
    assert verdict["commands"]["verify"].startswith("fastpart verify ")
    assert len(verdict["entry"]["identity"]["model"]) == 64
    page = (tmp_path / "d" / "report.html").read_text()
    assert "not VTM, not a challenge result" in page
    assert openpyxl.load_workbook(tmp_path / "d" / "report.xlsx").sheetnames[0] == "Summary"
    assert "[8/8]" in said.err and str(tmp_path / "d" / "report.html") in said.out
    assert main(arguments) == code
    assert "0 encodes to run" in capsys.readouterr().err


def test_demo_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, said in (
        (["--out", str(tmp_path / "file" / "d")], "cannot be written"),
        (["--size", "63x64"], "wanted even numbers from 64 on"),
        (["--frames", "0"], "at least one frame"),
        ([str(tmp_path / "none.mp4")], "none.mp4: cannot be read"),
        (["--backend", "vtm", "--vtm-home", str(tmp_path)], "EncoderApp"),
    ):
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "d")]
        assert main(["demo", "--backend", "vvenc", *arguments, *out]) == 1
        assert said in capsys.readouterr().err


def test_vtm_is_used_where_it_is_complete(stub_home):
    home = VtmHome.find(stub_home)
    assert not demo.has_vtm(home)
    decoder = stub_home / "23.2" / "stock" / "DecoderApp"
    decoder.write_text("#!/bin/sh\n")
    decoder.chmod(0o755)
    assert demo.has_vtm(home)
