"""`fastpart verify`: rules, bounds, the verdict, and entries that cheat, with pretended encoders."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_clip

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.timing.edition import edition_names, load_edition
from fastpart.timing.matching import Wanted
from fastpart.timing.record import load_records
from fastpart.timing.statistics import DEFAULT_SPREAD, paired_ratio, repetitions_to_settle
from fastpart.timing.verdict import judge_time, to_text
from fastpart.vtm import VERSION

pytest.importorskip("bjontegaard")

QPS = (22, 27, 32, 37)

# ffmpeg is the one decoder, so that no VTM is needed.
EDITION = """
title = "A test of the rules"
codec = "vvc"
qps = [22, 27, 32, 37]
[anchor]
backend = "vtm-stock"
[time]
limit = 0.70
single_thread = true
[rate]
rule = "each"
low = 90
high = 110
[conformance]
decoders = ["ffmpeg"]
intra_period = true
"""

# Takes so much CPU time, then gives a prepared stream; and what a cheat does besides.
_ENCODER = r'''
import os, shutil, subprocess, sys, time
qp, out, seconds, cheat = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
with open({calls!r}, "a") as file:
    file.write(os.path.basename(out) + "\n")
if cheat == "thread":
    pid = os.fork()
    burn(seconds)
    if pid == 0: os._exit(0)
    os.wait()
elif cheat == "child":
    if os.fork() == 0:
        burn(seconds)
        os._exit(0)
    os.wait()
elif cheat == "daemon":
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            burn(seconds)
        os._exit(0)
    os.wait()
elif cheat == "sleep":
    burn(seconds)
    time.sleep(0.45)
elif cheat == "crash":
    sys.exit("no memory left")
else:
    burn(seconds)
at = qp
if cheat == "finer":
    at = min((22, 24, 27, 32, 37), key=lambda other: abs(other - (qp - 5)))
data = open(os.path.join({streams!r}, f"{{at}}.266"), "rb").read()
if cheat == "rate" and qp == 27:
    data = open(os.path.join({streams!r}, "24.266"), "rb").read()
if cheat == "truncated":
    data = data[:-20]
if cheat == "flipped":
    data = data[:-20] + bytes([data[-20] ^ 0x55]) + data[-19:]
open(out, "wb").write(data)
'''


@pytest.fixture(scope="session")
def streams(tmp_path_factory):
    """A clip of 9 pictures of 64x64, and its streams by QP, made with libvvenc."""
    from fastpart.media import ffmpeg_exe

    folder = tmp_path_factory.mktemp("streams")
    clip = write_clip(folder / "Ramp_64x64_30.yuv", frames=9)
    for qp in (*QPS, 24):
        subprocess.run(
            [ffmpeg_exe(), "-nostdin", "-v", "error", "-y", "-f", "rawvideo", "-s", "64x64",
             "-r", "30", "-i", clip.path, "-c:v", "libvvenc", "-preset", "faster", "-qp", str(qp),
             "-pix_fmt", "yuv420p10le", "-f", "vvc", folder / f"{qp}.266"],
            check=True,
        )
    return folder


@pytest.fixture
def bench(tmp_path, streams):
    """Runs `fastpart verify` with an entry that takes `seconds` and cheats in some way."""
    return Bench(tmp_path, streams)


class Bench:
    def __init__(self, tmp_path: Path, streams: Path):
        self.tmp_path, self.streams = tmp_path, streams
        self.out = tmp_path / "out"
        self.calls_file = tmp_path / "calls.txt"
        self.program = tmp_path / "encoder.py"
        self.program.write_text(_ENCODER.format(calls=str(self.calls_file), streams=str(streams)))
        self.edition = tmp_path / "test.toml"
        self.edition.write_text(EDITION)

    def encoder(self, seconds: float, cheat: str = "none") -> str:
        return f"{sys.executable} -I -S {self.program} {{qp}} {{bitstream}} {seconds} {cheat} {{input}}"

    def arguments(self, *more, entry=None, qps=(37,), anchor_s=0.25) -> list[str]:
        arguments = ["verify", str(self.streams / "Ramp_64x64_30.yuv"), "--edition",
                     str(self.edition), "--anchor", self.encoder(anchor_s), "--out", str(self.out),
                     "--qps", ",".join(map(str, qps)), "--intra-period", "32", *map(str, more)]
        return arguments + (["--entry", entry] if entry else [])

    def run(self, *more, **keys) -> tuple[int, dict]:
        (self.out / "verdict.json").unlink(missing_ok=True)
        code = main(self.arguments(*more, **keys))
        return code, json.loads((self.out / "verdict.json").read_text())

    def submission(self, qps=QPS) -> Path:
        folder = self.tmp_path / "submission"
        folder.mkdir()
        for qp in qps:
            shutil.copy(self.streams / f"{qp}.266", folder / f"Ramp_64x64_30_qp{qp}.266")
        return folder

    def calls(self) -> list[str]:
        return self.calls_file.read_text().split() if self.calls_file.exists() else []


# Editions


def test_the_editions_of_this_package():
    assert set(edition_names()) >= {
        f"iscas{year}-{track}" for year in (2024, 2026)
        for track in ("encoder", "hybrid", "end-to-end")
    }
    for year, version in (("2024", "20.2"), ("2026", "23.2")):
        edition = load_edition(f"iscas{year}-encoder")
        assert (edition.vtm_version, edition.qps, edition.time_limit) == (version, QPS, 0.70)
        assert (edition.rate.rule, edition.rate.low, edition.rate.high) == ("each", 90, 110)
        assert edition.weighted((40.0, 42.0, 44.0)) == (6 * 40 + 42 + 44) / 8
        assert edition.decoders == ("vtm", "ffmpeg") and edition.single_thread


ANCHOR_RATES = {22: 800.0, 27: 400.0, 32: 200.0, 37: 100.0}


@pytest.mark.parametrize("track", ["hybrid", "end-to-end"])
def test_rate_rules_of_the_other_tracks(track):
    first = load_edition(f"iscas2024-{track}").rate.windows(ANCHOR_RATES)
    assert all(window == (pytest.approx(80), pytest.approx(960)) for window in first.values())
    second = load_edition(f"iscas2026-{track}").rate.windows(ANCHOR_RATES)
    assert second[37] == (pytest.approx(80), pytest.approx(120))
    assert second[22] == (pytest.approx(640), pytest.approx(960))
    assert second[27] == second[32] == (0, math.inf)


def test_rate_rule_of_the_encoder_track():
    windows = load_edition("iscas2026-encoder").rate.windows(ANCHOR_RATES)
    assert windows[27] == (pytest.approx(360), pytest.approx(440))


@pytest.mark.parametrize(("change", "says"), [
    (('rule = "each"', 'rule = "some"'), "rule = 'some', wanted one of each, span, ends"),
    (("low = 90", "low = 120"), "low = 120, high = 110, wanted percent"),
    (("limit = 0.70", "limit = 0"), "limit = 0, wanted a positive ratio"),
    (("limit = 0.70", "limt = 0.70"), "has limt, wanted only limit, single_thread"),
    (('codec = "vvc"', 'codec = "any"'), "codec 'any' with decoders ['ffmpeg']"),
    (('backend = "vtm-stock"', 'backend = "x265"'), "backend = 'x265', wanted one of vtm-stock"),
    (('["ffmpeg"]', '["vlc"]'), "decoders = ['vlc']"),
    (("qps = [22, 27, 32, 37]", "qps = [99]"), "qps = [99], wanted distinct QPs"),
    (("title =", "name ="), "lacks title"),
])
def test_a_wrong_edition_is_named(tmp_path, change, says):
    path = tmp_path / "wrong.toml"
    path.write_text(EDITION.replace(*change))
    with pytest.raises(FastpartError) as error:
        load_edition(path)
    assert says in str(error.value) and str(path) in str(error.value)


def test_an_unknown_edition_could_not_run(bench, capsys):
    assert main(["verify", "a.yuv", "--edition", "iscas1999", "--out", str(bench.out)]) == 1
    said = capsys.readouterr().err
    assert "edition iscas1999" in said and "iscas2026-encoder" in said


def test_a_wrong_command_line_could_not_run(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--frames", "x"])
    assert ended.value.code == 1


# Bounds


def test_bounds_are_those_of_student():
    stats = pytest.importorskip("scipy.stats")
    ratios = [0.60, 0.62, 0.59, 0.63, 0.61]
    found = paired_ratio(ratios)
    logs = [math.log(ratio) for ratio in ratios]
    # Two one-sided bounds of 95 % are the ends of a two-sided interval of 90 %.
    low, high = stats.t.interval(0.90, 4, loc=sum(logs) / 5, scale=stats.sem(logs))
    assert (found.low, found.high) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))
    assert found.value == pytest.approx(math.exp(sum(logs) / 5)) and found.n == 5


def test_one_pair_takes_the_default_spread():
    found = paired_ratio([0.5])
    assert found.spread == DEFAULT_SPREAD
    assert found.high == pytest.approx(0.5 * math.exp(1.6448536 * DEFAULT_SPREAD))


def test_repetitions_to_settle():
    ratio = paired_ratio([0.69, 0.71, 0.68])
    more = repetitions_to_settle(ratio, 0.70)
    assert more > 3

    def settles(n: int) -> bool:
        scipy = pytest.importorskip("scipy.special")
        margin = scipy.stdtrit(n - 1, 0.95) * ratio.spread / math.sqrt(n)
        return margin <= abs(math.log(ratio.value / 0.70))

    assert settles(more) and not settles(more - 1)
    assert repetitions_to_settle(paired_ratio([0.7, 0.7000001]), 0.7) is not None
    assert repetitions_to_settle(paired_ratio([0.69, 0.7101]), 0.7) is None


def encode(cpu_s, wall_s=None, *, thread=0.0, cpus=(0,), delay=0.0, left=False, accounting="rusage"):
    """As much of an encode record as the time is judged by."""
    return {
        "times": {"user_s": cpu_s, "system_s": 0.0, "wall_s": wall_s or cpu_s}, "core": 0,
        "process": {"second_thread_s": thread, "cpus": list(cpus), "run_delay_s": delay,
                    "left_running": left, "accounting": accounting},
    }


@pytest.mark.parametrize(("ratios", "status"), [
    ([0.6], "pass"), ([0.8], "fail"), ([0.695], "inconclusive"), ([0.705], "inconclusive"),
    ([0.69, 0.6901, 0.6899], "pass"), ([0.71, 0.7101, 0.7099], "fail"),
    ([0.6, 0.7, 0.8], "inconclusive"),
])
def test_time_by_bounds(ratios, status):
    found = judge_time([(encode(100), encode(100 * ratio)) for ratio in ratios], 0.70)
    assert found["status"] == status, found["reason"]
    assert found["low"] < found["ratio"] < found["high"]
    assert ("would settle it" in found["reason"] or "too close" in found["reason"]) == (
        status == "inconclusive"
    )


@pytest.mark.parametrize(("entry", "status", "says"), [
    (encode(50, thread=10), "fail", "a second thread: 10.0 of 50.0 s"),
    (encode(50, thread=0.05), "pass", "T 0.500"),
    (encode(50, cpus=(0, 3)), "fail", "a second core"),
    (encode(50, left=True), "fail", "left processes running"),
    (encode(30, 60), "inconclusive", "not believable: 30.0 of 60.0 s"),
    (encode(30, 90), "fail", "not believable"),
    (encode(50, 90, delay=39), "pass", "other work held the core"),
    (encode(50, accounting="sampled"), "inconclusive", "hides processes"),
])
def test_time_of_a_cheat(entry, status, says):
    found = judge_time([(encode(100), entry)], 0.70)
    assert found["status"] == status and says in found["reason"]
    assert found["basis"] == ("wall" if "believable" in says else "cpu")


def test_waiting_for_the_other_side_is_no_disturbance():
    found = judge_time([(encode(100, 150, delay=50), encode(60, 120, delay=60))], 0.70, side_by_side=True)
    assert found["status"] == "pass" and found["reason"].startswith("T 0.600")
    assert "side by side" in found["reason"] and "other work" not in found["reason"]
    asleep = judge_time([(encode(100, 150, delay=50), encode(50, 120, delay=40))], 0.70, side_by_side=True)
    assert asleep["status"] != "pass" and "not believable: 30.0 of 120.0 s" in asleep["reason"]


# Entries


def test_an_honest_entry_passes(bench, capsys):
    code, verdict = bench.run(entry=bench.encoder(0.05), qps=QPS, anchor_s=0.2)
    assert code == 0, verdict["overall"]["reasons"]
    assert verdict["schema"] == "fastpart.verdict/1"
    assert verdict["overall"]["status"] == "pass"
    assert verdict["commands"]["verify"].startswith("fastpart verify ")
    assert [point["qp"] for point in verdict["points"]] == list(QPS)
    for point in verdict["points"]:
        assert point["time"]["ratio"] < 0.7 and point["time"]["repetitions"] == 1
        assert point["rate"]["percent"] == 100 and point["entry"]["runs"] == 1
        assert point["entry"]["bits"] == 8 * (bench.streams / f"{point['qp']}.266").stat().st_size
        psnr = point["entry"]["psnr"]
        assert psnr["weighted"] == pytest.approx((6 * psnr["y"] + psnr["u"] + psnr["v"]) / 8)
        assert "one decoder" in point["conformance"]["reason"]
    (sequence,) = verdict["sequences"]
    assert sequence["bd_rate"]["weighted"] == pytest.approx(0, abs=1e-9)
    assert sequence["bd_rate_akima"]["y"] == pytest.approx(0, abs=1e-9)
    assert verdict["classes"] == [{
        "class": "64x64", "sequences": 1, "bd_rate": sequence["bd_rate"],
        "time_ratio": pytest.approx(sequence["time_ratio"]),
    }]
    assert {"cpu", "governor", "turbo", "load", "affinity", "kernel", "compilers"} <= set(
        verdict["machine"])
    assert "verdict: PASS" in capsys.readouterr().out


@pytest.mark.parametrize(("cheat", "seconds", "says"), [
    ("child", 0.25, "time: T "),
    ("daemon", 0.25, "time: T "),
    ("thread", 0.25, "a second thread"),
])
def test_hidden_time_fails(bench, cheat, seconds, says):
    code, verdict = bench.run(entry=bench.encoder(seconds, cheat))
    (point,) = verdict["points"]
    assert code == 2 and point["time"]["status"] == "fail"
    assert point["time"]["ratio"] > 0.8
    assert any(says in reason for reason in point["reasons"])
    assert point["rate"]["status"] == point["conformance"]["status"] == "pass"


def test_a_sleeping_entry_is_not_believed(bench):
    code, verdict = bench.run(entry=bench.encoder(0.05, "sleep"), anchor_s=1.2)
    (point,) = verdict["points"]
    assert code == 3 and point["time"]["status"] == "inconclusive"
    assert point["time"]["basis"] == "wall" and "not believable" in point["time"]["reason"]
    code, verdict = bench.run(entry=bench.encoder(0.05, "sleep"), anchor_s=0.3)
    assert code == 2 and "judged by wall time" in verdict["points"][0]["time"]["reason"]


def test_a_rate_out_of_its_window_fails_at_its_point(bench):
    code, verdict = bench.run(entry=bench.encoder(0.05, "rate"), qps=QPS, anchor_s=0.3)
    assert code == 2
    status = {point["qp"]: point["rate"]["status"] for point in verdict["points"]}
    assert status == {22: "pass", 27: "fail", 32: "pass", 37: "pass"}
    assert verdict["points"][1]["rate"]["percent"] > 110
    assert verdict["points"][1]["time"]["status"] == "pass"
    assert verdict["overall"]["bd_rate"]["weighted"] is not None


def test_rates_are_matched_point_by_point(bench, capfd):
    arguments = bench.arguments(
        "--match-rate", 8, entry=bench.encoder(0.05, "finer"), qps=(27, 32), anchor_s=0.3)
    assert main(arguments) == 0
    verdict = json.loads((bench.out / "verdict.json").read_text())
    for point in verdict["points"]:
        matched = point["matching"]
        assert point["rate"]["percent"] == pytest.approx(100) and point["entry"]["runs"] == 1
        assert matched["qp"] > point["qp"] and matched["qp"] == int(matched["qp"])
        assert matched["trials"][0]["qp"] == point["qp"] and matched["trials"][0]["percent"] > 108
        assert all(trial["t"] > 0 for trial in matched["trials"])
        assert any(f"QP {point['qp']}: encoded at QP {matched['qp']:.2f}" in reason
                   for reason in verdict["overall"]["reasons"])
    calls = bench.calls_file.read_text()
    assert main(arguments) == 0
    assert bench.calls_file.read_text() == calls
    assert main([*arguments, "--submission", str(bench.streams)]) == 1
    assert "no --submission" in capfd.readouterr().err


def test_points_matched_one_after_the_other_stay_matched(bench):
    entry = bench.encoder(0.05, "finer")
    for qps in ((27,), (32,), (27,)):
        assert main(bench.arguments("--match-rate", 8, entry=entry, qps=qps, anchor_s=0.3)) == 0
    calls = bench.calls_file.read_text()
    assert main(bench.arguments("--match-rate", 8, entry=entry, qps=(27, 32), anchor_s=0.3)) == 0
    assert bench.calls_file.read_text() == calls
    verdict = json.loads((bench.out / "verdict.json").read_text())
    assert all(point["matching"]["qp"] > point["qp"] for point in verdict["points"])


def test_trials_of_one_point_share_their_noise():
    """With times that are off by 4 %, a point is left alone where all its trials together say that it fits."""
    noise, wanted, first, later = random.Random(1), Wanted(None, "kbps", 0.67), [], []
    for _ in range(300):
        factor, share, target, trials = noise.uniform(0.65, 0.9), 0.74, None, []
        for _ in range(5):
            t = factor * share * math.exp(noise.gauss(0, 0.04))
            trials.append({"qp": 37, "percent": 100, "t": t, "estimated_ratio": share, "target_ratio": target})
            if wanted.time_fits(trials):
                break
            target = wanted.next_target(trials)
            share = 0.74 + 0.8 * (target - 0.74)         # the encoder falls short of what it is asked for
        first.append(factor * 0.74 / 0.655)
        later.append(factor * trials[-1]["estimated_ratio"] / 0.655)
    spread = [math.sqrt(sum(math.log(one) ** 2 for one in some) / len(some)) for some in (first, later)]
    assert spread[1] < 0.035 < 0.1 < spread[0], spread


# Takes 0.8 times its target of a second, with the target for its clock, then gives a prepared stream.
_STEERED = r'''
import shutil
target = next((float(word.partition("=")[2]) for word in sys.argv if "TargetRatio" in word), 0.5)
while time.process_time() < 0.8 * target: pass
if "--FastPart=1" in sys.argv: print("fastpart: estimated_ratio", target, sep="=")
shutil.copyfile(os.path.join({streams!r}, value["-q"] + ".266"), value["-b"])
'''


def test_times_are_matched_point_by_point(bench, stub_home, capfd):
    encoder = stub_home / VERSION / "patched/EncoderApp"
    encoder.write_text(encoder.read_text() + _STEERED.format(streams=str(bench.streams)))
    arguments = bench.arguments("--match-time", 0.6, "--vtm-home", stub_home, anchor_s=1)
    assert main(arguments) == 0, capfd.readouterr().err
    verdict = json.loads((bench.out / "verdict.json").read_text())
    (point,) = verdict["points"]
    matched = point["matching"]
    first, *_, last = [*matched["trials"], {**matched, "t": point["time"]["ratio"]}]
    assert first["target_ratio"] is None and first["t"] < 0.55 and first["estimated_ratio"] == 0.5
    assert last["target_ratio"] > 0.6 and 0.55 <= last["t"] <= 0.62 and last["qp"] == 37
    assert point["entry"]["runs"] == 1
    assert any(f"steered for {last['target_ratio']:g} of" in reason for reason in verdict["overall"]["reasons"])
    created = {path: path.stat().st_mtime_ns for path in bench.out.glob("*.266")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in bench.out.glob("*.266")} == created   # nothing was encoded again

    encoder.write_text(encoder.read_text().replace("estimated_ratio", "other"))
    assert main(arguments) == 1
    assert "no estimated_ratio, wanted one with FastPart=1" in capfd.readouterr().err
    assert main([*arguments, "--entry", bench.encoder(0.1)]) == 1
    assert "wanted the patched encoder" in capfd.readouterr().err
    assert main([*arguments, "--kappa", "1"]) == 1
    assert "no --kappa" in capfd.readouterr().err


@pytest.mark.parametrize("cheat", ["truncated", "flipped"])
def test_a_damaged_stream_names_stream_and_picture(bench, cheat):
    code, verdict = bench.run(entry=bench.encoder(0.05, cheat))
    (point,) = verdict["points"]
    assert code == 2 and point["conformance"]["status"] == "fail"
    problem = point["conformance"]["problems"][0]
    assert problem.startswith("Ramp_64x64_30_qp37_entry_r0.266: ffmpeg") and "picture" in problem


def test_an_entry_that_crashes_fails(bench):
    code, verdict = bench.run(entry=bench.encoder(0.1, "crash"))
    (point,) = verdict["points"]
    assert code == 2 and point["entry"] is None and point["anchor"]["runs"] == 1
    assert "no memory left" in point["reasons"][0]


def test_an_anchor_that_crashes_could_not_run(bench, capsys):
    arguments = bench.arguments(entry=bench.encoder(0.05))
    arguments[arguments.index("--anchor") + 1] = bench.encoder(0.1, "crash")
    assert main(arguments) == 1
    assert "no memory left" in capsys.readouterr().err


def test_json_is_one_record_a_line(bench, capsys):
    bench.run("--json", entry=bench.encoder(0.05))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ["point", "sequence", "class", "overall"]
    assert lines[-1]["status"] == "pass"


def test_reading_the_verdict(bench):
    _, verdict = bench.run(entry=bench.encoder(0.05, "rate"), qps=(27, 37))
    text = to_text(verdict)
    assert "verdict: FAIL" in text and "QP 22, 32 of the edition were not asked for" in text
    assert "Ramp_64x64_30 QP 27: rate: " in text


@pytest.mark.parametrize("template", ["prog {input} {qp} {bitstream} {kappa}", "prog {input} {qp}",
                                      "no-such-program {input} {qp} {bitstream}", "'prog {input}"])
def test_wrong_templates_are_named(bench, capsys, template):
    assert main(bench.arguments(entry=template)) == 1
    assert f"command {template!r}" in capsys.readouterr().err


# Resuming


def test_kills_at_any_moment_lose_at_most_the_running_pair(bench):
    arguments = bench.arguments("--repetitions", 2, entry=bench.encoder(0.05), qps=(32, 37),
                                anchor_s=0.3)
    wait = random.Random(1)
    kills = 10
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-m", "fastpart.cli", *arguments],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # At some moment of one of the next encodes, or of what follows it.
        wanted = len(bench.calls()) + wait.randint(1, 2)
        while len(bench.calls()) < wanted and process.poll() is None:
            time.sleep(0.01)
        time.sleep(wait.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)
    code, verdict = bench.run("--repetitions", 2, entry=bench.encoder(0.05), qps=(32, 37), anchor_s=0.3)
    assert code in (0, 3), verdict["overall"]["reasons"]         # 3: other work held the core
    records = load_records(bench.out)
    runs = sorted((r["qp"], r["rep"], r["variant"]) for r in records.values())
    assert runs == [(qp, rep, name) for qp in (32, 37) for rep in (0, 1)
                    for name in ("anchor", "entry")]
    pairs = {}
    for record in records.values():
        pairs.setdefault(record["pairing"]["id"], []).append(record["variant"])
    assert sorted(map(sorted, pairs.values())) == [["anchor", "entry"]] * 4
    assert not list(bench.out.glob(".*.part")) and not list(bench.out.glob(".session-*"))
    # Each kill cost at most the pair at work: 2 encodes.
    assert 8 <= len(bench.calls()) <= 8 + 2 * kills

    (bench.tmp_path / "whole").mkdir()
    whole = Bench(bench.tmp_path / "whole", bench.streams)
    _, uninterrupted = whole.run("--repetitions", 2, entry=whole.encoder(0.1), qps=(32, 37),
                                 anchor_s=0.3)
    # ABBA: the second pair in reverse.
    assert [name.removeprefix("Ramp_64x64_30_qp").removesuffix(".266") for name in whole.calls()] == [
        f"{qp}_{run}" for qp in (32, 37) for run in ("anchor_r0", "entry_r0", "entry_r1", "anchor_r1")
    ]
    for one, other in zip(verdict["points"], uninterrupted["points"], strict=True):
        assert {k: one[k] for k in ("sequence", "qp", "rate", "conformance")} == {
            k: other[k] for k in ("sequence", "qp", "rate", "conformance")}
        # What is said of the time depends on what else the machine does.
        timeless = [[reason for reason in point["reasons"] if not reason.startswith("time:")]
                    for point in (one, other)]
        assert timeless[0] == timeless[1]
        for side in ("anchor", "entry"):
            assert {**one[side], "encode_s": 0, "decode_s": 0} == {
                **other[side], "encode_s": 0, "decode_s": 0}


def test_a_second_start_runs_nothing_again(bench):
    _, first = bench.run(entry=bench.encoder(0.05))
    count = len(bench.calls())
    _, second = bench.run(entry=bench.encoder(0.05))
    assert len(bench.calls()) == count and second["points"] == first["points"]
    # What was not asked for before is measured from the streams that are there.
    _, third = bench.run("--vmaf", entry=bench.encoder(0.05))
    assert len(bench.calls()) == count and first["points"][0]["entry"]["vmaf"] is None
    assert third["points"][0]["entry"]["vmaf"] > 0


def test_frames_are_not_of_cuts(bench, capfd):
    code = main(["verify", "--cuts", "a", "--clips", str(bench.streams), "--frames", "3", "--out", str(bench.out)])
    assert code == 1
    assert "--frames is of each CLIP, a cut has its own" in capfd.readouterr().err


def test_a_part_of_a_clip_is_all_that_the_encoder_sees(bench, capfd):
    """The pretended encoder codes 9 pictures; asked for 3 of them, the stream has too many."""
    program = "import os; print('size', os.path.getsize('{input}'))"
    size = f"{sys.executable} -I -c \"{program}\" {{qp}} {{bitstream}}"
    code, verdict = bench.run("--frames", 3, entry=size)
    log = next(bench.out.glob("*_entry_r0.failed.log")).read_text()
    assert code == 2 and log == f"size {3 * 64 * 64 * 3 // 2}\n"
    assert "cannot be read as a bitstream" in verdict["points"][0]["reasons"][0]


# Submissions


def test_a_good_submission(bench):
    folder = bench.submission()
    code, verdict = bench.run("--submission", folder, "--vmaf", qps=QPS, anchor_s=0.05)
    assert code == 0, verdict["overall"]["reasons"]
    assert {point["time"]["status"] for point in verdict["points"]} == {"not_measured"}
    assert all(80 < point["entry"]["vmaf"] <= 100 for point in verdict["points"][:2])
    assert any("time was not measured" in reason for reason in verdict["overall"]["reasons"])
    # Ready streams as anchor too: nothing is encoded.
    count = len(bench.calls())
    arguments = bench.arguments("--submission", folder, qps=QPS)
    arguments[arguments.index("--anchor") + 1] = str(folder)
    assert main(arguments) == 0 and len(bench.calls()) == count


def test_a_missing_stream_is_named(bench):
    code, verdict = bench.run("--submission", bench.submission((22, 27, 37)), qps=QPS, anchor_s=0.05)
    assert code == 2
    assert [point["status"] for point in verdict["points"]] == ["pass", "pass", "fail", "pass"]
    assert "Ramp_64x64_30_qp32.266: no such bitstream" in verdict["points"][2]["reasons"][0]


def test_a_link_is_no_stream(bench):
    folder = bench.submission((37,))
    stream = folder / "Ramp_64x64_30_qp37.266"
    stream.unlink()
    stream.symlink_to(bench.streams / "37.266")
    code, _ = bench.run("--submission", folder, anchor_s=0.05)
    assert code == 2


def test_submitted_pictures_are_compared(bench, ffmpeg):
    folder = bench.submission((37,))
    yuv = folder / "Ramp_64x64_30_qp37.yuv"
    ffmpeg("-c:v", "vvc", "-strict", "-2", "-i", bench.streams / "37.266", "-fps_mode", "passthrough",
           "-pix_fmt", "yuv420p10le", "-f", "rawvideo", yuv)
    assert bench.run("--submission", folder, anchor_s=0.05)[0] == 0
    data = bytearray(yuv.read_bytes())
    one = 64 * 64 * 3
    data[4 * one + 2 * 64 * 64 + 6] ^= 1  # picture 4, U, column 3
    yuv.write_bytes(data)
    code, verdict = bench.run("--submission", folder, anchor_s=0.05)
    assert code == 2
    assert "Ramp_64x64_30_qp37.yuv: the submitted file differs from what the decoder gives in " \
           "picture 4, U sample (3, 0)" in verdict["points"][0]["conformance"]["problems"]


def test_a_codec_of_its_own(bench, ffmpeg):
    """Rate is the size of the file, PSNR that of the submitted pictures."""
    bench.edition.write_text(
        EDITION.replace('codec = "vvc"', 'codec = "any"').split("[time]")[0]
        + "[rate]\nrule = \"ends\"\nlow = 80\nhigh = 120\ncount_sei = true\n"
        "[conformance]\ndecoders = []\n"
    )
    folder = bench.submission()
    arguments = bench.arguments("--submission", folder, qps=QPS)
    arguments[arguments.index("--anchor") + 1] = str(folder)
    for qp in QPS:
        ffmpeg("-c:v", "vvc", "-strict", "-2", "-i", bench.streams / f"{qp}.266", "-fps_mode",
               "passthrough", "-pix_fmt", "yuv420p10le", "-f", "rawvideo",
               folder / f"Ramp_64x64_30_qp{qp}.yuv")
    home = bench.tmp_path / "home" / VERSION / "stock"
    home.mkdir(parents=True)
    decoder = home / "DecoderApp"
    decoder.write_text(f"#!{sys.executable} -I\nprint('VTM Decoder Version {VERSION}')\n")
    decoder.chmod(0o755)
    assert main([*arguments, "--vtm-home", str(bench.tmp_path / "home")]) == 0
    verdict = json.loads((bench.out / "verdict.json").read_text())
    assert {point["conformance"]["status"] for point in verdict["points"]} == {"not_measured"}
    assert verdict["points"][1]["rate"]["high"] is None
    anchor = shutil.copytree(folder, bench.tmp_path / "anchor")
    arguments[arguments.index("--anchor") + 1] = str(anchor)
    with (folder / "Ramp_64x64_30_qp22.266").open("ab") as file:
        file.write(bytes(10_000))
    assert main([*arguments, "--vtm-home", str(bench.tmp_path / "home")]) == 2
    verdict = json.loads((bench.out / "verdict.json").read_text())
    assert verdict["points"][0]["rate"]["status"] == "fail"


# Decoders


def test_a_hanging_decoder_ends(bench, streams, monkeypatch):
    """A stock decoder that never ends on a stream is a problem of the stream."""
    from fastpart.supervise import Limits
    from fastpart.timing import conformance

    home = bench.tmp_path / "home" / VERSION / "stock"
    home.mkdir(parents=True)
    decoder = home / "DecoderApp"
    decoder.write_text(
        f"#!{sys.executable} -I\nimport sys, time\nprint('VTM Decoder Version {VERSION}')\n"
        "if '--help' not in sys.argv:\n    time.sleep(600)\n"
    )
    decoder.chmod(0o755)
    limits = conformance.decoding_limits
    monkeypatch.setattr(
        conformance, "decoding_limits", lambda clip: Limits(**{**vars(limits(clip)), "wall_s": 1.0})
    )
    bench.edition.write_text(EDITION.replace('["ffmpeg"]', '["vtm", "ffmpeg"]'))
    start = time.monotonic()
    code, verdict = bench.run("--vtm-home", home.parents[1], "--submission", bench.submission((37,)),
                              anchor_s=0.05)
    assert code == 2 and time.monotonic() - start < 30
    problems = verdict["points"][0]["conformance"]["problems"]
    assert any("had not ended after 1 s and was killed" in problem for problem in problems)


def test_a_decoder_that_fills_the_disk_is_stopped(bench):
    """A stream of more pictures than the point has gets no room for them."""
    folder = bench.submission((37,))
    stream = folder / "Ramp_64x64_30_qp37.266"
    stream.write_bytes(stream.read_bytes() * 40)
    code, verdict = bench.run("--submission", folder, anchor_s=0.05)
    assert code == 2 and verdict["points"][0]["conformance"]["status"] == "fail"


def test_a_larger_intra_period_fails(bench):
    code, verdict = bench.run("--submission", bench.submission((37,)), "--intra-period", 4,
                              anchor_s=0.05)
    assert code == 2
    assert re.search(
        r"\d pictures without an intra random access picture, from picture \d on, wanted 4",
        verdict["points"][0]["conformance"]["problems"][0],
    )


# Container images

_ENGINE = r'''
import os, subprocess, sys
if sys.argv[1] == "info":
    sys.exit(0 if {works} else "cannot connect to the daemon")
if sys.argv[1] == "load":
    print("Loaded image: localhost/entry:latest")
elif sys.argv[1] == "run":
    for wanted in ("--network=none", "--read-only", "--pids-limit=64", "--memory=8g"):
        assert wanted in sys.argv, wanted
    mounts = dict(reversed(word.removesuffix(":ro").rsplit(":", 1))
                  for flag, word in zip(sys.argv, sys.argv[1:]) if flag == "-v")
    words = sys.argv[sys.argv.index("localhost/entry:latest") + 1:]
    value = dict(zip(words, words[1:]))
    sys.exit(subprocess.run([sys.executable, {program!r}, value["-q"], mounts[value["-b"]], "0.1",
                             "none"]).returncode)
'''


@pytest.mark.parametrize("works", [True, False])
def test_a_container_image(bench, monkeypatch, capsys, works):
    folder = bench.tmp_path / "bin"
    folder.mkdir()
    for name in ("podman", "docker"):
        engine = folder / name
        body = _ENGINE.format(works=works, program=str(bench.program))
        engine.write_text(f"#!{sys.executable} -I\n{body}")
        engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    archive = bench.tmp_path / "entry.tar"
    archive.write_bytes(b"layers")
    if works:
        code, verdict = bench.run("--image", archive)
        assert code == 0, verdict["overall"]["reasons"]
        assert verdict["entry"]["name"] == "container"
    else:
        assert main(bench.arguments("--image", archive)) == 1
        said = capsys.readouterr().err
        assert "no container engine" in said and "cannot connect to the daemon" in said


# The real encoder


def test_stock_against_itself_and_damaged(bench, vtm_home):
    """T near 1 fails the limit; the rest passes, with hashes and both decoders."""
    clip = bench.streams / "Ramp_64x64_30.yuv"
    code = main(["verify", str(clip), "--frames", "3", "--qps", "37", "--out", str(bench.out),
                 "--intra-period", "32", "--entry",
                 f"{vtm_home.encoder('stock')} -c {vtm_home.cfg('encoder_randomaccess_vtm.cfg')} "
                 "-i {input} -wdt {width} -hgt {height} -fr {fps} -f {frames} -q {qp} -b {bitstream} "
                 "--InputBitDepth={bit_depth} --IntraPeriod={intra_period} -o /dev/null"])
    verdict = json.loads((bench.out / "verdict.json").read_text())
    (point,) = verdict["points"]
    assert code == 2 and point["time"]["status"] == "fail"
    assert 0.7 < point["time"]["ratio"] < 1.4
    # The entry writes no hashes; without SEI the streams are the same.
    assert point["rate"]["percent"] == 100 and point["entry"]["sei_bits"] == 0
    assert point["anchor"]["sei_bits"] > 0
    assert point["entry"]["psnr"] == point["anchor"]["psnr"]
    assert point["conformance"]["status"] == "pass"
    assert "no picture hashes" in point["conformance"]["reason"]
    # The decoded PSNR is what VTM printed, to its 4 decimals.
    anchor = json.loads((bench.out / "Ramp_64x64_30_qp37_anchor_r0.json").read_text())
    assert anchor["encode"]["psnr"]["weighted"] == pytest.approx(
        point["anchor"]["psnr"]["weighted"], abs=1e-4)
    assert anchor["conformance"]["hashes"] == "verified"

    # A flipped byte and a cut end, in a stream with hashes, name the picture.
    common = [str(clip), "--frames", "3", "--qps", "37", "--intra-period", "32"]
    good = bench.tmp_path / "good"
    good.mkdir()
    stream = (bench.out / "Ramp_64x64_30_qp37_anchor_r0.266").read_bytes()
    (good / "Ramp_64x64_30_qp37.266").write_bytes(stream)
    for name, data in (("cut", stream[:-100]),
                       ("flip", stream[:-100] + bytes([stream[-100] ^ 0xFF]) + stream[-99:])):
        folder, out = bench.tmp_path / name, bench.tmp_path / f"out-{name}"
        folder.mkdir()
        (folder / "Ramp_64x64_30_qp37.266").write_bytes(data)
        code = main(["verify", *common, "--out", str(out), "--anchor", str(good),
                     "--submission", str(folder)])
        (point,) = json.loads((out / "verdict.json").read_text())["points"]
        problems = point["conformance"]["problems"]
        assert code == 2 and problems and "Ramp_64x64_30_qp37.266" in problems[0]
        assert any("picture" in problem for problem in problems)
    assert main(["verify", *common, "--out", str(bench.tmp_path / "out-good"), "--anchor", str(good),
                 "--submission", str(good)]) == 0


def test_the_patched_encoder_is_the_default_entry(bench, patched_vtm):
    code = main(["verify", str(bench.streams / "Ramp_64x64_30.yuv"), "--frames", "1", "--qps", "37",
                 "--out", str(bench.out)])
    verdict = json.loads((bench.out / "verdict.json").read_text())
    assert code in (0, 2, 3) and verdict["entry"]["name"] == "vtm-patched"
    assert verdict["points"][0]["conformance"]["status"] == "pass"
    assert "picture hashes verified" in verdict["points"][0]["conformance"]["reason"]
