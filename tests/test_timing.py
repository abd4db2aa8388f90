"""Timing: plans, paired runs with pretended encoders and the real one, conformance, tables."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.presets import preset_options
from fastpart.timing.conformance import Decoders, check
from fastpart.timing.paired import run_plan
from fastpart.timing.plan import PLANS_FOLDER, load_plan
from fastpart.timing.record import SCHEMA, load_records
from fastpart.timing.table import RATE_WINDOW, Row, build_table, to_json, to_markdown, to_tsv
from fastpart.training.command import DEFAULT_RECIPE
from fastpart.training.recipe import load_recipe
from fastpart.vtm import VERSION, VtmHome

PLAN = """
cuts = ["ramp"]
qps = [45]
intra_period = 64
anchor = "stock"
[variant.stock]
binary = "stock"
[variant.mtt1]
binary = "stock"
options = { MaxMTTHierarchyDepth = 1 }
[variant.learned]
base = "mtt1"
binary = "patched"
kappa = 2.0
options = { FastPart = 1 }
"""

CUTS = """
[[cut]]
name = "ramp"
clip = "ramp.y4m"
size = [64, 64]
start = 0
frames = 3
fps = 30
"""

# What the pretended encoder calls first, and what it does besides: leaves a stream and a
# reconstruction that belong together, notes that it ran, may kill who called it, and may wait
# until so many have been called.
_WRAPPER = r'''
import os, signal, subprocess, sys, time
if "--help" not in sys.argv:
    with open({calls!r}, "a") as file:
        file.write(os.path.basename(sys.argv[sys.argv.index("-b") + 1]) + "\n")
    if len(open({calls!r}).readlines()) == int(os.environ.get("KILL_AT_CALL", "0")):
        # Above the encoder is its supervisor, above that the run.
        with open(f"/proc/{{os.getppid()}}/stat") as file:
            os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
    until = time.monotonic() + 5
    while len(open({calls!r}).readlines()) < int(os.environ.get("MEET", "0")):
        if time.monotonic() > until:
            sys.exit("nobody else came")
        time.sleep(0.01)
done = subprocess.run([{stub!r}] + sys.argv[1:])
if done.returncode == 0 and "--help" not in sys.argv:
    value = dict(zip(sys.argv, sys.argv[1:]))
    open(value["-b"], "wb").write(open({stream!r}, "rb").read())
    open(value["-o"], "wb").write(open({recon!r}, "rb").read())
sys.exit(done.returncode)
'''

# A decoder that gives the prepared pictures and reports their hashes.
_DECODER = r'''
import sys
print("VVCSoftware: VTM Decoder Version 23.2 [Linux]")
if "--help" not in sys.argv:
    value = dict(zip(sys.argv, sys.argv[1:]))
    assert value["-d"] == "10"
    for poc in (0, 2, 1):
        print(f"POC    {{poc}} LId:  0 TId: 0 ( TRAIL, B-SLICE, QP 45 ) [MD5:0123,(OK)] ")
    open(value["-o"], "wb").write(open({recon!r}, "rb").read())
'''


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable} -I\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def clips(tmp_path, clip, ffmpeg) -> Path:
    """A clips folder with one cut of 3 pictures of 64x64, and a plan beside its cuts file."""
    folder = tmp_path / "clips"
    folder.mkdir()
    ffmpeg("-f", "rawvideo", "-s", "64x64", "-r", "30", "-i", clip.path, folder / "ramp.y4m")
    (folder / "cuts.toml").write_text(CUTS)
    (folder / "plan.toml").write_text(PLAN)
    return folder


@pytest.fixture
def pretended(tmp_path, stub_home, clip, ffmpeg) -> VtmHome:
    """A VTM home whose encoders give a small real stream, made with libvvenc.

    calls.txt beside it lists the bitstreams that were asked for."""
    stream, recon = tmp_path / "prepared.266", tmp_path / "prepared.yuv"
    ffmpeg("-f", "rawvideo", "-s", "64x64", "-r", "30", "-i", clip.path, "-c:v", "libvvenc",
           "-preset", "faster", "-qp", "45", "-pix_fmt", "yuv420p10le", "-f", "vvc", stream)
    ffmpeg("-c:v", "vvc", "-strict", "-2", "-i", stream, "-fps_mode", "passthrough",
           "-pix_fmt", "yuv420p10le", "-f", "rawvideo", recon)
    files = {"calls": str(tmp_path / "calls.txt"), "stream": str(stream), "recon": str(recon)}
    for variant in ("stock", "patched"):
        encoder = stub_home / VERSION / variant / "EncoderApp"
        stub = encoder.rename(encoder.with_name("stub"))
        write_program(encoder, _WRAPPER.format(stub=str(stub), **files))
    write_program(stub_home / VERSION / "stock" / "DecoderApp", _DECODER.format(**files))
    return VtmHome.find(stub_home)


@pytest.fixture
def core() -> int:
    return min(os.sched_getaffinity(0))


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls.txt").read_text().split()


def run(clips: Path, out: Path, home: VtmHome, core: int, **more) -> dict[Path, dict]:
    plan = load_plan(clips / "plan.toml")
    return run_plan(plan, clips, clips / "cuts.toml", out, home, [core], **more)


# Plans


def test_the_bundled_plan_is_the_configuration_front_and_the_predictor():
    plan = load_plan("main")
    assert plan.path == PLANS_FOLDER / "main.toml"
    assert list(plan.variants) == [
        "stock", "mtt2", "reduced", "fastpart", "t70", "t50", "t35", "t20", "fastpart-reduced",
    ]
    assert len(plan.cuts) == 3 and plan.qps == (22, 27, 32, 37)
    reduced = plan.variants["reduced"].options
    assert plan.variants["fastpart-reduced"].options == {**reduced, "FastPart": 1}
    assert plan.variants["fastpart"].options == {"FastPart": 1}
    for name in ("t70", "t50", "t35", "t20"):
        options = preset_options(name)
        assert plan.variants[name].target_ratio == float(options.pop("FastPartTargetRatio")) < 1
        assert plan.variants[name].options == options


def test_the_bundled_plans_are_sound():
    paths = [path for path in PLANS_FOLDER.glob("*.toml") if not path.stem.endswith("cuts")]
    assert {path.stem for path in paths} == {"main", "base", "engine", "hd", "sizes"}
    for path in paths:
        assert load_plan(path).anchor == "stock"
    sizes = load_plan("sizes").variants
    assert "FastPartTargetRatioHD" in sizes["win"].options
    assert "FastPartTargetRatioHD" not in sizes["win-98"].options, "a target of its own holds at every size"
    reduced, steered = load_plan("main").variants["reduced"], load_plan("base").variants["reduced"]
    assert steered.options == {"FastPart": 1, **reduced.options}


def test_the_bundled_plan_measures_what_the_recipe_trains_for():
    recipe = load_recipe(DEFAULT_RECIPE)
    assert load_plan("main").variants["reduced"].options == recipe.round("policy-reduced").options
    assert recipe.round("policy-reduced").options["MTS"] == "4"
    assert recipe.round("random").options == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("qps = [45]", "qps = [64]"), "QP 64, wanted 0 to 63"),
        (("qps = [45]", 'qps = ["45"]'), "qps = ['45'], wanted a list"),
        (('anchor = "stock"', 'anchor = "other"'), "wanted one of the variants stock, mtt1"),
        (('base = "mtt1"', 'base = "none"'), "wanted a variant above it"),
        (("kappa = 2.0", "speed = 2.0"), "has speed, wanted only"),
        (("MaxMTTHierarchyDepth = 1", "QP = 1"), "QP is set by the measurement; use the key qps"),
        (("MaxMTTHierarchyDepth = 1", "FastPart = 1"), "the stock encoder has no model"),
        (("[variant.mtt1]", '[variant."mtt_1"]'), "wanted a name of letters"),
        (("kappa = 2.0", 'model = "none.model"'), "no such file"),
        (("kappa = 2.0", "kappa = 2.0\ntarget_ratio = 0.5"), "wanted one of them"),
    ],
)
def test_a_wrong_plan_is_named(tmp_path, change, says):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace(*change))
    with pytest.raises(FastpartError) as error:
        load_plan(path)
    assert says in str(error.value) and str(path) in str(error.value)


def test_the_anchor_stays_in_a_restricted_plan(clips):
    plan = load_plan(clips / "plan.toml").restricted(qps=[40, 50], variants=["learned"])
    assert list(plan.variants) == ["stock", "learned"] and plan.qps == (40, 50)
    with pytest.raises(FastpartError, match="no variant fast, wanted some of stock, mtt1, learned"):
        load_plan(clips / "plan.toml").restricted(variants=["fast"])


# Runs


def test_a_run_leaves_one_record_an_encode(tmp_path, clips, pretended, core, capfd):
    out = tmp_path / "out"
    records = run(clips, out, pretended, core)
    assert [path.name for path in records] == [
        f"ramp_qp45_{name}_r0.json" for name in ("learned", "mtt1", "stock")
    ]
    assert {path.suffix for path in out.iterdir()} == {".json", ".266", ".log", ""}
    by_name = {record["variant"]: record for record in records.values()}
    learned, stock = by_name["learned"], by_name["stock"]
    assert learned["schema"] == SCHEMA
    assert learned["identity"]["options"] == {
        "SEIDecodedPictureHash": 1, "MaxMTTHierarchyDepth": 1, "FastPart": 1, "FastPartTargetRatio": 0,
        "FastPartKappa": 2.0,
    }
    assert "--FastPartKappa=2.0" in learned["encode"]["argv"]
    assert "--IntraPeriod=64" in stock["encode"]["argv"]
    assert learned["encode"]["counters"]["decisions"] == 12345
    assert learned["encode"]["core"] == core
    assert learned["encode"]["encoder"]["path"] == str(pretended.encoder("patched"))
    assert stock["conformance"] == {
        "conforms": True, "pictures": 3, "pictures_ok": 3, "reconstruction_equal": True,
        "ffmpeg_equal": True, "problems": [], "reference": "reconstruction", "hashes": "verified",
        "decode_s": stock["conformance"]["decode_s"],
        "decoder": stock["conformance"]["decoder"], "ffmpeg": stock["conformance"]["ffmpeg"],
    }
    y, u, v = (stock["psnr"][plane] for plane in "yuv")
    assert 15 < y < 60
    assert stock["psnr"]["weighted"] == pytest.approx((6 * y + u + v) / 8)
    assert len({record["pairing"]["id"] for record in records.values()}) == 1
    assert "[3/3] ramp QP 45 learned r0" in capfd.readouterr().err


def test_odd_repetitions_run_in_reverse(tmp_path, clips, pretended, core):
    records = run(clips, tmp_path / "out", pretended, core, repetitions=2, only=["mtt1"])
    assert calls(tmp_path) == [
        "ramp_qp45_stock_r0.266", "ramp_qp45_mtt1_r0.266",
        "ramp_qp45_mtt1_r1.266", "ramp_qp45_stock_r1.266",
    ]
    assert len({record["pairing"]["id"] for record in records.values()}) == 2


def test_side_by_side_encodes_of_a_pairing_run_at_the_same_time(tmp_path, clips, pretended, core, monkeypatch):
    monkeypatch.setenv("MEET", "3")
    records = run(clips, tmp_path / "out", pretended, core, side_by_side=True)
    assert len(records) == 3 == len(calls(tmp_path))
    assert all(record["pairing"]["side_by_side"] and record["conformance"]["conforms"] for record in records.values())
    assert {record["encode"]["core"] for record in records.values()} == {core}
    monkeypatch.setenv("MEET", "6")
    with pytest.raises(FastpartError, match="nobody else came"):
        run(clips, tmp_path / "alone", pretended, core)


def test_finished_encodes_are_not_run_again(tmp_path, clips, pretended, core):
    out = tmp_path / "out"
    first = run(clips, out, pretended, core)
    assert run(clips, out, pretended, core) == first
    assert len(calls(tmp_path)) == 3


def test_a_new_build_runs_again_beside_the_anchor(tmp_path, clips, pretended, core):
    out = tmp_path / "out"
    first = run(clips, out, pretended, core)
    with pretended.encoder("patched").open("a") as file:
        file.write("# rebuilt\n")
    records = {path.stem: record for path, record in run(clips, out, pretended, core).items()}
    assert calls(tmp_path)[3:] == ["ramp_qp45_stock_r0_p2.266", "ramp_qp45_learned_r0.266"]
    # The first anchor still serves the variant that did not change.
    assert records["ramp_qp45_mtt1_r0"] == first[out / "ramp_qp45_mtt1_r0.json"]
    assert records["ramp_qp45_stock_r0"] == first[out / "ramp_qp45_stock_r0.json"]
    again, anchor = records["ramp_qp45_learned_r0"], records["ramp_qp45_stock_r0_p2"]
    assert again["pairing"]["id"] == anchor["pairing"]["id"] != first[
        out / "ramp_qp45_mtt1_r0.json"]["pairing"]["id"]
    assert again["pairing"]["resumed"] and anchor["pairing"]["resumed"]
    assert all(row.t is not None for row in build_table(list(records.values())).rows)


@pytest.mark.parametrize(
    ("kill_at", "left", "run_again"),
    [
        (2, ["stock_r0"], ["stock_r0", "mtt1_r0", "learned_r0"]),
        (3, ["mtt1_r0", "stock_r0"], ["stock_r0_p2", "learned_r0"]),
    ],
)
def test_a_killed_run_resumes_in_pairs(tmp_path, clips, pretended, core, kill_at, left, run_again):
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "fastpart.cli", "timing", "run", str(clips / "plan.toml"), "--clips",
        str(clips), "--out", str(out), "--cores", str(core), "--vtm-home", str(pretended.root),
    ]
    killed = subprocess.run(
        command, check=False, env={**os.environ, "KILL_AT_CALL": str(kill_at)}, cwd=tmp_path,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.stem for path in load_records(out)] == [f"ramp_qp45_{name}" for name in left]
    records = run(clips, out, pretended, core)
    assert calls(tmp_path)[kill_at:] == [f"ramp_qp45_{name}.266" for name in run_again]
    assert not list(out.glob(".session-*"))
    for path, record in records.items():
        assert record["pairing"]["resumed"] == (path.stem.removeprefix("ramp_qp45_") in run_again)
    assert {row.variant for row in build_table(list(records.values())).rows if row.t} == {
        "stock", "mtt1", "learned",
    }


def test_a_failed_encode_stops_the_run_and_keeps_its_log(
    tmp_path, clips, pretended, core, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setenv("FAKE_VTM", "fail")
    with pytest.raises(FastpartError, match=r"ramp QP 45, stock: EncoderApp: exit code 3"):
        run(clips, out, pretended, core)
    assert "no memory left" in (out / "ramp_qp45_stock_r0.failed.log").read_text()
    assert not load_records(out)


def test_two_runs_do_not_share_a_folder(tmp_path, clips, pretended, core):
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FastpartError, match="another fastpart timing run is at work there"):
            run(clips, out, pretended, core)


@pytest.mark.parametrize("cores", [[], [100_000], "twice"])
def test_cores_must_be_there(tmp_path, clips, pretended, core, cores):
    with pytest.raises(FastpartError, match="wanted distinct ones of"):
        run_plan(load_plan(clips / "plan.toml"), clips, clips / "cuts.toml", tmp_path / "out",
                 pretended, [core, core] if cores == "twice" else cores)


def test_an_unknown_cut_is_named(tmp_path, clips, pretended, core):
    plan = load_plan(clips / "plan.toml").restricted(cuts=["rump"])
    with pytest.raises(FastpartError, match=r"no cut rump in .*cuts.toml, wanted some of ramp"):
        run_plan(plan, clips, clips / "cuts.toml", tmp_path / "out", pretended, [core])


def test_a_missing_decoder_is_said_before_anything_runs(tmp_path, clips, pretended, core):
    pretended.decoder().unlink()
    with pytest.raises(FastpartError, match=r"stock/DecoderApp: wanted at .*there is no such file"):
        run(clips, tmp_path / "out", pretended, core)
    assert not (tmp_path / "calls.txt").exists()


def test_something_else_in_place_of_the_decoder(tmp_path, clips, pretended, core):
    write_program(pretended.decoder(), "print('hello')")
    with pytest.raises(FastpartError, match="does not print a VTM version"):
        run(clips, tmp_path / "out", pretended, core)


def test_an_ffmpeg_without_vvc_is_said(tmp_path, clips, pretended, core, monkeypatch):
    fake = tmp_path / "ffmpeg"
    write_program(fake, "print(\"Codec 'vvc' is not recognized by FFmpeg.\")")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    with pytest.raises(FastpartError, match="has no VVC decoder, wanted for the conformance check"):
        run(clips, tmp_path / "out", pretended, core)


# Conformance


def recon_of(path: Path) -> Clip:
    return Clip(path, 64, 64, Fraction(30), 10, 3)


def test_what_the_decoders_disagree_on_is_named(tmp_path, pretended):
    """The stream decodes to other pictures than the encoder's reconstruction."""
    recon = recon_of(tmp_path / "recon.yuv")
    data = bytearray((tmp_path / "prepared.yuv").read_bytes())
    # Row 5, column 3 of V of picture 1.
    data[recon.frame_bytes + 2 * (64 * 64 + 32 * 32 + 5 * 32 + 3)] ^= 1
    recon.path.write_bytes(data)
    found = check(tmp_path / "prepared.266", recon, Decoders.find(pretended), tmp_path / "decoded",
                  tmp_path / "log")
    where = "output differs from the reconstruction in picture 1, V sample (3, 5)"
    assert not found.conforms and not found.reconstruction_equal and not found.ffmpeg_equal
    assert found.pictures_ok == 3
    assert found.problems == (
        f"prepared.266: the stock decoder's {where}", f"prepared.266: ffmpeg's {where}",
    )


def test_a_short_reconstruction_is_named(tmp_path, pretended):
    recon = recon_of(tmp_path / "recon.yuv")
    recon.path.write_bytes((tmp_path / "prepared.yuv").read_bytes()[: recon.frame_bytes])
    found = check(tmp_path / "prepared.266", recon, Decoders.find(pretended), tmp_path / "decoded",
                  tmp_path / "log")
    assert "reconstruction has 1 pictures, wanted 3" in found.problems[0]


def test_a_stream_that_does_not_conform_fails_the_command(tmp_path, clips, pretended, core, capsys):
    stream = tmp_path / "prepared.266"
    data = stream.read_bytes()
    stream.write_bytes(data[: data.rindex(b"\0\0\1")])
    out = tmp_path / "out"
    code = main(["timing", "run", str(clips / "plan.toml"), "--clips", str(clips),
                 "--out", str(out), "--only", "mtt1", "--cores", str(core),
                 "--vtm-home", str(pretended.root)])
    assert code == 3
    record = load_records(out)[out / "ramp_qp45_mtt1_r0.json"]["conformance"]
    assert not record["conforms"] and record["reconstruction_equal"] and not record["ffmpeg_equal"]
    assert record["problems"][0].startswith("ramp_qp45_mtt1_r0.266: ffmpeg's output ")
    assert "DOES NOT CONFORM" in capsys.readouterr().err
    assert main(["timing", "table", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| 0/1 |" in text and record["problems"][0] in text


# The real encoder


def test_a_real_point(tmp_path, clips, vtm_home, core):
    records = run(clips, tmp_path / "out", vtm_home, core, only=["mtt1"])
    by_name = {record["variant"]: record for record in records.values()}
    for record in by_name.values():
        assert record["conformance"]["conforms"], record["conformance"]["problems"]
        assert record["conformance"]["pictures_ok"] == 3
        coded, decoded = record["encode"]["psnr"], record["psnr"]
        assert decoded["weighted"] == pytest.approx(coded["weighted"], abs=1e-4)
    t = by_name["mtt1"]["encode"]["times"]["user_s"] / by_name["stock"]["encode"]["times"]["user_s"]
    row = next(r for r in build_table(list(records.values())).scope("all") if r.variant == "mtt1")
    assert row.t == pytest.approx(t) and row.conforming == row.encodes == 1


def test_a_corrupted_real_stream_names_the_picture(tmp_path, clips, vtm_home, core):
    out = tmp_path / "out"
    run(clips, out, vtm_home, core, only=["stock"])
    stream = out / "ramp_qp45_stock_r0.266"
    decoders = Decoders.find(vtm_home)
    recon = recon_of(tmp_path / "recon.yuv")
    subprocess.run([decoders.decoder, "-b", stream, "-o", recon.path, "-d", "10"], check=True,
                   stdout=subprocess.DEVNULL)
    files = (decoders, tmp_path / "decoded", tmp_path / "log")
    assert check(stream, recon, *files).conforms

    data = bytearray(stream.read_bytes())
    # The last SEI NAL unit is the hash of the picture coded last, POC 1: change a byte of it.
    at = data.rindex(b"\0\0\1")
    data[at + 10] ^= 1
    broken = tmp_path / "broken.266"
    broken.write_bytes(data)
    found = check(broken, recon, *files)
    assert not found.conforms and found.pictures_ok == 2
    assert found.problems[0].startswith("broken.266: picture POC 1: the hash")
    assert found.problems[0].endswith("in Y")

    broken.write_bytes(data[:at // 2])
    found = check(broken, recon, *files)
    assert not found.conforms and not found.reconstruction_equal and not found.ffmpeg_equal


# Tables


def record(variant, qp, user_s, kbps, quality, *, cut="a", rep=0, pairing="p", **more) -> dict:
    """As much of a record as the tables look at."""
    return {
        "schema": SCHEMA, "cut": cut, "qp": qp, "variant": variant, "rep": rep,
        "pairing": {"id": f"{cut}{qp}{rep}{pairing}", "order": [], "position": 0, "resumed": False},
        "identity": {"encoder": variant, "model": None, "cfg": "c", "options": {}},
        "encode": {
            "times": {"user_s": user_s, "system_s": 0.0, "wall_s": user_s},
            "kbps": kbps + 1, "kbps_without_sei": kbps,
            "bitstream": {"sha256": f"{variant}{cut}{qp}"},
            "counters": more.get("counters", {}),
        },
        "psnr": {"weighted": quality},
        "conformance": {
            "conforms": more.get("conforms", True), "problems": more.get("problems", []),
        },
    }


ANCHOR = [(22, 400.0, 1000.0, 42.0), (27, 200.0, 500.0, 39.0), (32, 120.0, 250.0, 36.0),
          (37, 80.0, 125.0, 33.0)]


def anchor_records(**more) -> list[dict]:
    return [record("stock", *point, **more) for point in ANCHOR]


def scaled(variant, time, rate=1.0, **more) -> list[dict]:
    """The anchor's points with the times and rates multiplied."""
    return [record(variant, qp, s * time, kbps * rate, db, **more) for qp, s, kbps, db in ANCHOR]


def row_of(table, scope, variant, **keys) -> Row:
    rows = [row for row in table.scope(scope) if row.variant == variant
            and all(getattr(row, key) == value for key, value in keys.items())]
    assert len(rows) == 1
    return rows[0]


def test_a_shared_core_disturbs_no_one():
    records = [*anchor_records(), *scaled("fast", 0.5, counters={"share": 0.01, "cycles_per_decision": 900})]
    for one in records:
        one["encode"]["times"]["wall_s"] *= 2
    assert any("disturbed" in note for note in build_table(records).notes)
    for one in records:
        one["pairing"]["side_by_side"] = True
    table = build_table(records)
    point = row_of(table, "point", "fast", qp=27)
    assert point.engine_share == 0.01 and point.cycles_per_decision == 900
    assert table.notes == []


def test_table_of_two_repetitions():
    records = [
        *anchor_records(), *anchor_records(rep=1),
        *scaled("fast", 0.5, counters={"share": 0.01, "cycles_per_decision": 900}),
        *scaled("fast", 0.72, rep=1, counters={"share": 0.03}),
    ]
    table = build_table(records)
    point = row_of(table, "point", "fast", qp=27)
    assert point.t == pytest.approx(0.6)  # sqrt(0.5 * 0.72)
    assert point.user_s == pytest.approx(120.0)  # sqrt(100 * 144)
    assert point.engine_share == pytest.approx(0.02) and point.cycles_per_decision == 900
    assert row_of(table, "all", "fast").t == pytest.approx(0.6)
    assert row_of(table, "all", "fast").encodes == 8
    assert row_of(table, "all", "stock").t == 1
    assert table.notes == []


def test_bd_rate_and_means():
    """A curve at k times the rate has a BD-rate of k - 1 wherever the curves lie."""
    pytest.importorskip("bjontegaard")
    ratios = {22: 0.5, 27: 0.6, 32: 0.7, 37: 0.8}
    records = []
    for cut, k in (("a", 1.02), ("b", 0.97)):
        records += anchor_records(cut=cut)
        records += [record("fast", qp, s * ratios[qp], kbps * k, db, cut=cut)
                    for qp, s, kbps, db in ANCHOR]
    table = build_table(records)
    assert row_of(table, "cut", "fast", cut="a").bd_rate == pytest.approx(2.0, abs=1e-3)
    assert row_of(table, "cut", "fast", cut="b").bd_rate == pytest.approx(-3.0, abs=1e-3)
    every = row_of(table, "all", "fast")
    assert every.bd_rate == pytest.approx(-0.5, abs=1e-3)
    assert every.t == pytest.approx((0.5 * 0.6 * 0.7 * 0.8) ** 0.25)
    assert every.t_worst == pytest.approx(0.8)
    assert (every.rate_low, every.rate_high) == (pytest.approx(97), pytest.approx(102))
    assert row_of(table, "all", "stock").bd_rate is None


@pytest.mark.parametrize(
    ("percent", "ok"), [(89.9, False), (90.1, True), (109.9, True), (110.1, False)]
)
def test_rate_window(percent, ok):
    assert RATE_WINDOW == (90, 110)
    table = build_table([record("stock", 37, 80, 200, 33), record("fast", 37, 40, 2 * percent, 33)])
    assert row_of(table, "point", "fast").rate_ok is ok
    assert row_of(table, "all", "fast").rate_ok is ok
    assert (" % !" in to_markdown(table)) is not ok


def test_times_are_compared_within_a_pairing_only():
    table = build_table([
        record("stock", 37, 80, 200, 33), record("late", 37, 40, 200, 33, pairing="q"),
        record("stock", 37, 160, 200, 33, pairing="q"),
        record("alone", 37, 40, 200, 33, pairing="x"),
    ])
    assert row_of(table, "point", "late").t == pytest.approx(0.25)
    assert row_of(table, "point", "alone").t is None and row_of(table, "all", "alone").t is None
    assert "No T, as stock did not run in the same series: alone at a QP 37." in table.notes


def test_another_anchor():
    records = [*anchor_records(), *scaled("reduced", 0.4), *scaled("fast", 0.3, 1.01)]
    table = build_table(records, "reduced")
    assert row_of(table, "all", "fast").t == pytest.approx(0.75)
    assert row_of(table, "all", "stock").t == pytest.approx(2.5)
    assert row_of(table, "all", "fast").bd_rate == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(FastpartError, match="anchor slow: no record of it, wanted one of fast"):
        build_table(records, "slow")


def test_too_few_points_and_undecoded_ones_have_no_bd_rate():
    records = [*anchor_records(), *scaled("fast", 1)]
    records[-1]["psnr"] = None
    table = build_table(records)
    assert row_of(table, "cut", "fast").bd_rate is None
    assert row_of(table, "point", "fast", qp=37).psnr_611 is None
    assert "No BD-rate without 4 decoded points of both curves: fast on a." in table.notes


def test_notes_on_what_limits_the_numbers():
    records = [record("stock", 37, 80, 200, 33), record("fast", 37, 40, 200, 33, conforms=False,
               problems=["a.266: picture POC 4: wrong"]), record("stock", 37, 80, 200, 33, rep=1),
               record("fast", 37, 40, 200, 33, rep=1)]
    records[0]["encode"]["times"]["wall_s"] = 120.0
    records[1]["identity"]["encoder"] = "older"
    records[2]["encode"]["bitstream"]["sha256"] = "other"
    records[3]["pairing"]["resumed"] = True
    table = build_table(records)
    assert row_of(table, "point", "fast").conforming == 1
    notes = "\n".join(table.notes)
    assert "a.266: picture POC 4: wrong" in notes
    assert "fast: records of 2 different builds" in notes
    assert "stock: repetitions gave different bitstreams at a QP 37." in notes
    assert "1 of 4 encodes had their core for less than 95%" in notes
    assert "1 of 4 encodes ran in a later series" in notes


def test_the_formats_are_views_of_the_same_rows():
    table = build_table([*anchor_records(), *scaled("fast", 0.5)])
    lines = to_tsv(table).splitlines()
    assert len(lines) == 1 + len(table.rows) == 1 + 2 * (1 + 1 + 4)
    assert lines[0].startswith("scope\tcut\tqp\tvariant\tt\t")
    data = json.loads(to_json(table))
    assert data["anchor"] == "stock" and len(data["rows"]) == len(table.rows)
    assert math.isclose(data["rows"][1]["t"], 0.5)
    text = to_markdown(table)
    assert "| fast | 0.500 | 0.500 | +0.00 % | 100.0 % | - | - | 4/4 |" in text
    assert "| a | 37 | fast | 40.0 | 0.500 | 125.00 | 100.0 % | 33.000 | - | - | 1/1 |" in text


def test_the_table_says_what_it_cannot_read(tmp_path):
    with pytest.raises(FastpartError, match="no such folder"):
        load_records(tmp_path / "none")
    (tmp_path / "other.json").write_text('{"schema": "something/1"}')
    assert main(["timing", "table", str(tmp_path)]) == 1
    (tmp_path / "new.json").write_text('{"schema": "fastpart.timing/9"}')
    with pytest.raises(FastpartError, match=r"schema fastpart.timing/9, wanted fastpart.timing/1"):
        load_records(tmp_path)
    (tmp_path / "new.json").write_text("{")
    with pytest.raises(FastpartError, match="cannot be read as a record"):
        load_records(tmp_path)
