"""`fastpart encode` and the VTM back end, with encoders that pretend and with the real one."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import MISSING

from fastpart import encode
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.record import SCHEMA
from fastpart.vtm import (
    HOME_VARIABLE,
    VtmHome,
    encode_command,
    intra_period_for,
    parse_counters,
    parse_picture,
    run_encoder,
    run_measured,
)


def fastpart_encode(*arguments) -> int:
    parser = argparse.ArgumentParser()
    encode.add_commands(parser.add_subparsers())
    args = parser.parse_args(["encode", *map(str, arguments)])
    return args.run(args)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "a.266"


def test_record_and_progress(clip, stub_home, out, capsys):
    model = out.parent.parent / "some.model"
    model.write_bytes(b"trees")
    assert fastpart_encode(
        clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home, "--kappa", 0.5, "--model", model,
        "--option", "MTS=4", "--hash", "--core", min(os.sched_getaffinity(0)), "--frames", 2,
        "--start", 1,
    ) == 0

    record = json.loads((out.parent / "a.266.json").read_text())
    assert record["schema"] == SCHEMA
    assert record["variant"] == "patched"
    options = [word for word in record["argv"] if word.startswith("--")]
    assert options[-6:] == [
        "--SEIDecodedPictureHash=1", "--FastPart=1", "--FastPartTargetRatio=0", "--FastPartKappa=0.5",
        f"--FastPartModel={model}", "--MTS=4",
    ]
    assert record["encoder"]["sha256"] == sha256(stub_home / "23.2" / "patched" / "EncoderApp")
    assert record["encoder"]["version"] == "23.2"
    assert record["model"] == {"path": str(model), "sha256": sha256(model)}
    assert record["source"] == {"path": str(clip.path), "sha256": sha256(clip.path)}
    assert record["bitstream"]["sha256"] == sha256(out)
    assert record["clip"] == {
        "width": 64, "height": 64, "fps": "30", "bit_depth": 8, "frames": 2, "start": 1,
    }
    assert (record["qp"], record["intra_period"]) == (32, 32)
    # The pretended stream: 16 bytes of header, 2 pictures of 100 bytes, 2 SEI of 20.
    assert record["bitstream"]["bits"] == 8 * 256
    assert record["bitstream"]["sei_bits"] == 8 * 40
    assert record["kbps"] == pytest.approx(8 * 256 * 15 / 1000)
    assert record["kbps_without_sei"] == pytest.approx(8 * 216 * 15 / 1000)
    assert record["psnr"] == {"y": 40, "u": 42, "v": 44, "weighted": 40.75}
    assert record["times"]["vtm_user_s"] == 1.5
    assert 0 < record["times"]["user_s"] <= record["times"]["wall_s"] * 2
    assert record["max_rss_kib"] > 1000
    assert record["counters"] == {
        "split_qt.asked": 70, "split_qt.skipped": 67, "split_bv.asked": 30, "split_bv.skipped": 3,
        "decisions": 12345, "seconds": 0.125, "cycles_per_decision": 2100.0,
    }
    assert record["model_checksum"] == "00123e45"
    assert [p["poc"] for p in record["pictures"]] == [0, 1]
    assert record["machine"]["threads"] >= 1

    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert lines[0].startswith("1/2  POC 0  TId 0  I  800 bits  0:00 elapsed, about ")
    assert lines[1].startswith("2/2  POC 1  TId 1  b  800 bits")
    assert "40.750 dB" in shown.out
    assert "decisions 12345" in shown.out
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.266", "a.266.json", "a.266.log"]


def test_stock_passes_no_predictor_options(clip, stub_home, out):
    assert fastpart_encode(clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home, "--stock") == 0
    record = json.loads((out.parent / "a.266.json").read_text())
    assert record["variant"] == "stock"
    assert not [word for word in record["argv"] if "FastPart" in word]
    assert record["counters"] == {}
    assert record["model_checksum"] is None
    with pytest.raises(FastpartError, match="leave out --target-ratio, --kappa"):
        fastpart_encode(clip.path, "-o", out, "--qp", 32, "--stock", "--kappa", 1)


def test_existing_files_are_kept(clip, stub_home, out):
    arguments = (clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home)
    out.write_bytes(b"precious")
    with pytest.raises(FastpartError, match=r"a\.266: exists already.*--force"):
        fastpart_encode(*arguments)
    assert out.read_bytes() == b"precious"
    assert fastpart_encode(*arguments, "--force") == 0
    assert out.read_bytes() != b"precious"
    with pytest.raises(FastpartError, match="must be different files"):
        fastpart_encode(clip.path, "-o", clip.path, "--qp", 32, "--vtm-home", stub_home, "--force")
    with pytest.raises(FastpartError, match="must be different files"):
        fastpart_encode(*arguments, "--force", "--keep-recon", out)
    assert clip.path.stat().st_size == 3 * clip.frame_bytes


@pytest.mark.parametrize("folder", ["nowhere", "a_file"])
def test_unwritable_folder_is_found_before_the_encode(clip, stub_home, tmp_path, folder, monkeypatch):
    (tmp_path / "a_file").write_text("")
    monkeypatch.setattr(encode, "run_encoder", lambda *a: pytest.fail("encoder was started"))
    with pytest.raises(FastpartError, match="its folder cannot be written"):
        fastpart_encode(clip.path, "-o", tmp_path / folder / "a.266", "--qp", 32,
                        "--vtm-home", stub_home)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fail", r"exit code 3, wanted 0; log .*a\.266\.log ends with(.|\n)*no memory left"),
        ("silent", "no summary in the log"),
    ],
)
def test_failure_leaves_the_log_alone(clip, stub_home, out, monkeypatch, mode, message):
    monkeypatch.setenv("FAKE_VTM", mode)
    with pytest.raises(FastpartError, match=message):
        fastpart_encode(clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home,
                        "--keep-recon", out.parent / "a.yuv")
    assert [p.name for p in out.parent.iterdir()] == ["a.266.log"]
    assert "POC    0" in (out.parent / "a.266.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--option", "MTS"), "--option MTS: wanted KEY=VALUE"),
        (("--option", "QP=22"), "is set by --qp"),
        (("--qp", "64"), "--qp 64: wanted 0 to 63"),
        (("--model", "no.model"), r"no\.model: no such model file"),
        (("--cfg", "no.cfg"), r"no\.cfg: no such configuration"),
        (("--core", "100000"), "core 100000: not available"),
        (("--size", "big"), "WIDTHxHEIGHT"),
    ],
)
def test_bad_arguments(clip, stub_home, out, arguments, message):
    with pytest.raises(FastpartError, match=message):
        fastpart_encode(clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home, *arguments)
    assert list(out.parent.iterdir()) == []


def test_missing_vtm_says_how_to_get_it(clip, out, tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(FastpartError) as caught:
        fastpart_encode(clip.path, "-o", out, "--qp", 32)
    message = str(caught.value)
    assert str(tmp_path / "nothing" / "23.2" / "patched" / "EncoderApp") in message
    assert f"${HOME_VARIABLE}" in message
    assert "fastpart patch apply" in message
    with pytest.raises(FastpartError, match="stock/EncoderApp") as caught:
        VtmHome.find().encoder("stock")
    assert "patch apply" not in str(caught.value)


def test_unpatched_build_in_the_patched_folder(clip, stub_home, out):
    program = stub_home / "23.2" / "patched" / "EncoderApp"
    program.write_bytes((stub_home / "23.2" / "stock" / "EncoderApp").read_bytes())
    with pytest.raises(FastpartError, match="does not know --FastPart.*patch apply"):
        fastpart_encode(clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_command_ends_the_encoder(clip, stub_home, out, tmp_path, number):
    pid_file = tmp_path / "pid"
    program = "import sys; from fastpart import cli; cli.COMMAND_MODULES = ('fastpart.encode',); " \
              "sys.exit(cli.main())"
    command = subprocess.Popen(
        [sys.executable, "-c", program, "encode", clip.path, "-o", out, "--qp", "32",
         "--vtm-home", stub_home],
        env={**os.environ, "FAKE_VTM": "hang", "FAKE_VTM_PID": str(pid_file)},
        stderr=subprocess.DEVNULL,
        # A shell makes its background jobs ignore interrupts; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid = None
    deadline = time.monotonic() + 30
    try:
        while pid is None and time.monotonic() < deadline:
            time.sleep(0.05)
            with contextlib.suppress(OSError, ValueError):
                pid = int(pid_file.read_text())
        assert pid, "the encoder never started"
        assert alive(pid)
        command.send_signal(number)
        code = command.wait(timeout=30)
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(pid)
    finally:
        command.kill()
        if pid and alive(pid):
            os.kill(pid, signal.SIGKILL)
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        assert not out.exists()
    else:
        assert code == 130
        assert list(out.parent.iterdir()) == []


def test_command_line_of_vtm(clip):
    argv = encode_command("Enc", ["a.cfg", "b.cfg"], clip, 32, "o.266", options={"MTS": 4, "X": True})
    assert argv[:5] == ["Enc", "-c", "a.cfg", "-c", "b.cfg"]
    value = dict(pairwise(argv))
    assert (value["-i"], value["-wdt"], value["-hgt"]) == (str(clip.path), "64", "64")
    assert (value["-fr"], value["-fs"], value["-f"], value["-q"]) == ("30:1", "0", "3", "32")
    assert (value["-b"], value["-o"]) == ("o.266", os.devnull)
    assert argv[-2:] == ["--MTS=4", "--X=1"]
    assert "--InputBitDepth=8" in argv
    assert "--IntraPeriod=32" in argv
    assert "--ConformanceWindowMode=1" not in argv
    odd = replace(clip, width=68, height=46, bit_depth=10, fps=Fraction(60000, 1001), start=7)
    argv = encode_command("Enc", ["a.cfg"], odd, 32, "o.266", "r.yuv", intra_period=96)
    assert {"--ConformanceWindowMode=1", "--InputBitDepth=10", "--IntraPeriod=96"} < set(argv)
    value = dict(pairwise(argv))
    assert (value["-fr"], value["-fs"], value["-o"]) == ("60000:1001", "7", "r.yuv")


@pytest.mark.parametrize(
    ("fps", "period"),
    [(10, 32), (24, 32), (25, 32), (Fraction(30000, 1001), 32), (30, 32), (50, 64),
     (Fraction(60000, 1001), 64), (60, 64), (100, 96), (120, 128)],
)
def test_intra_period(fps, period):
    assert intra_period_for(fps) == period


def test_picture_line():
    line = ("POC   12 LId:  0 TId: 3 ( TRAIL, B-SLICE, QP 38 )        632 bits [Y 36.1597 dB    "
            "U 47.9338 dB    V 48.7109 dB] [ET     1 ] [L0 8c 4 0] [L1 16 32] [MD5:ff8c]\n")
    picture = parse_picture(line)
    assert (picture.poc, picture.tid, picture.nal_type, picture.slice_type) == (12, 3, "TRAIL", "B")
    assert (picture.qp, picture.bits, picture.seconds) == (38, 632, 1.0)
    assert picture.psnr == (36.1597, 47.9338, 48.7109)
    assert parse_picture("POC is the picture order count") is None


def test_counter_line():
    assert parse_counters("fastpart: model=00123e45 skips=7 share=2.5e-3\n") == {
        "model": "00123e45", "skips": "7", "share": "2.5e-3",
    }
    assert parse_counters("fastpart: candidate=split_qt asked=9 skipped=4\n") == {
        "split_qt.asked": "9", "split_qt.skipped": "4",
    }
    assert parse_counters("not fastpart: a=1") == {}


def test_measures_the_child_alone(tmp_path):
    core = max(os.sched_getaffinity(0))
    burn = "import os; x = sum(range(20_000_000)); print(os.sched_getaffinity(0))"
    lines = []
    usage = run_measured([sys.executable, "-c", burn], tmp_path / "log", lines.append, core)
    assert lines == [f"{{{core}}}\n"]
    assert (tmp_path / "log").read_text() == lines[0]
    idle = run_measured(["true"], tmp_path / "log")
    assert 0.05 < usage.user_s < usage.wall_s + 0.05
    assert idle.user_s < 0.05 < usage.user_s
    assert usage.max_rss_kib > 5000


def test_program_that_cannot_be_run(tmp_path):
    with pytest.raises(FastpartError, match="cannot be run"):
        run_measured([tmp_path / "none"], tmp_path / "log")
    with pytest.raises(FastpartError, match="log: cannot be written"):
        run_measured(["true"], tmp_path / "none" / "log")
    with pytest.raises(FastpartError, match="signal SIGKILL"):
        run_measured(["sh", "-c", "kill -9 $$"], tmp_path / "log")
    with pytest.raises(FastpartError, match="0 pictures and no summary"):
        run_encoder(["true"], tmp_path / "log")


def test_json_appears_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(FastpartError, match="cannot be written"):
        write_json_atomic(tmp_path / "none" / "a.json", {})


def test_real_encode_decodes_to_its_reconstruction(clip, vtm_home, out):
    recon = out.parent / "recon.yuv"
    assert fastpart_encode(clip.path, "-o", out, "--qp", 45, "--stock", "--hash",
                           "--vtm-home", vtm_home.root, "--keep-recon", recon) == 0
    record = json.loads((out.parent / "a.266.json").read_text())
    summary = (out.parent / "a.266.log").read_text()
    assert f" {record['kbps_without_sei']:.4f} " in summary
    decoded = out.parent / "decoded.yuv"
    log = out.parent / "decoder.log"
    run_measured([vtm_home.decoder(), "-b", out, "-o", decoded, "-d", "10"], log)
    assert log.read_text().count("(OK)") == 3
    assert decoded.read_bytes() == recon.read_bytes()


def test_real_patched_encode(clip, patched_vtm, out):
    try:
        fastpart_encode(clip.path, "-o", out, "--qp", 45, "--vtm-home", patched_vtm.root)
    except FastpartError as error:
        if "no model compiled in" not in str(error):
            raise
        pytest.skip(f"{MISSING}a model compiled into {patched_vtm.encoder('patched')}")
    record = json.loads((out.parent / "a.266.json").read_text())
    assert record["variant"] == "patched"
    assert record["counters"], "the patched encoder reports no counters"
