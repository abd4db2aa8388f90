"""Sweeps: grids, keys, records whatever is killed, full disks, segments, timing, Slurm, tables."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import slurm_cluster
from conftest import MISSING, write_clip
from sweep_tools import (
    Driver,
    done,
    libvvenc_encoder,
    records_of,
    results,
    sweep,
    workers,
    write_grid,
)

from fastpart import cli
from fastpart.bitstream import bitstream_bits
from fastpart.errors import FastpartError
from fastpart.media import load_cuts, open_clip
from fastpart.record import sha256_file
from fastpart.timing.conformance import Decoders
from fastpart.timing.plot import pareto_front
from fastpart.timing.sweep.analysis import analyse
from fastpart.timing.sweep.cell import digest
from fastpart.timing.sweep.driver import load_sweep
from fastpart.timing.sweep.executor import local_workers, memory_of
from fastpart.timing.sweep.grid import load_grid, make_backend
from fastpart.timing.sweep.layout import lay_out
from fastpart.timing.sweep.segments import difference, split, trial_clip
from fastpart.timing.sweep.store import Store
from fastpart.vtm import VtmHome

CORE = str(max(os.sched_getaffinity(0)))


def test_a_grid_is_the_product_of_what_varies(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'files = ["a_64x64_30.yuv"]\nqps = [22, 37]\n'
        '[encoder.fast]\nbackend = "vtm-patched"\nkappa = 1.0\noptions = {MTS = 4}\n'
        "vary = {kappa = [0.5, 2.0], MaxMTTHierarchyDepth = [2, 3]}\n"
    )
    grid = load_grid(path)
    assert list(grid.encoders) == [
        f"fast-kappa={kappa}-MaxMTTHierarchyDepth={depth}" for kappa in (0.5, 2.0) for depth in (2, 3)
    ]
    assert grid.encoders["fast-kappa=2.0-MaxMTTHierarchyDepth=3"] == {
        "backend": "vtm-patched", "kappa": 2.0, "options": {"MTS": 4, "MaxMTTHierarchyDepth": 3},
    }
    assert grid.files == (tmp_path / "a_64x64_30.yuv",)


def test_the_grids_of_the_repository_are_sound():
    folder = Path(__file__).parents[1] / "timing/sweep/grids"
    grids = [path for path in folder.glob("*.toml") if not path.stem.endswith("_cuts")]
    assert grids
    for path in grids:
        grid = load_grid(path)
        assert grid.encoders and set(grid.cuts) <= set(load_cuts(grid.cuts_file))


def test_configurations_may_lie_beside_the_grid(tmp_path, stub_home):
    (tmp_path / "own.cfg").write_text("MTS : 4\n")
    home = VtmHome.find(stub_home)
    entry = {"backend": "vtm-stock", "cfg": ["encoder_randomaccess_vtm.cfg", "own.cfg"]}
    backend = make_backend(entry, home, tmp_path)
    assert backend.cfg_files == [home.cfg("encoder_randomaccess_vtm.cfg"), tmp_path / "own.cfg"]
    with pytest.raises(FastpartError, match="other.cfg: no such configuration"):
        make_backend({**entry, "cfg": ["other.cfg"]}, home, tmp_path)


@pytest.mark.parametrize(("text", "said"), [
    ("qps = [22]", "neither cuts nor files"),
    ('files = ["a"]\nqps = [64]', "QPs from 0 to 63"),
    ('files = ["a"]\nqps = [22]', r"no \[encoder.NAME\]"),
    ('files = ["a"]\nqps = [22]\nqp = 3', "has qp"),
    ('files = ["a"]\nqps = [22]\n[encoder.x]\nbackend = "x265"', "wanted one of vtm-stock"),
    ('files = ["a"]\nqps = [22]\npurpose = "time"\nsegments = true', "times are of whole runs"),
    ('files = ["a"]\nqps = [22]\n[encoder.x]\nbackend = "vtm-stock"\nkappa = 1.0', "has kappa"),
    ('files = ["a"]\nqps = [22]\n[encoder."a/b"]\nbackend = "vtm-stock"', "wanted letters"),
    ('cuts = ["a"]\nqps = [22]', "wanted the folder of their clips"),
])
def test_a_wrong_grid_is_refused_by_its_key(tmp_path, text, said):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(FastpartError, match=said):
        load_grid(path)


def test_the_key_of_a_cell_is_that_of_its_settings_alone():
    assert digest({"a": 1, "b": [True, None]}) == digest({"b": (1, None), "a": "1"})
    assert digest({"a": 1}) != digest({"a": 2})


def test_workers_are_as_many_as_memory_allows(tmp_path, monkeypatch):
    class Memory:
        available = 10 * memory_of(416, 240)

    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)

    class FakeTask:
        def __init__(self, clip):
            source = type("Source", (), {"clip": clip})
            self.cells = [type("Cell", (), {"source": source})]

    small = FakeTask(write_clip(tmp_path / "a_64x64_30.yuv"))
    large = FakeTask(type("Clip", (), {"width": 1920, "height": 1080}))
    assert local_workers([small], range(8)) == 8
    assert local_workers([small, large], range(8)) == max(
        1, int(0.9 * Memory.available / memory_of(1920, 1080))
    ) < 8


def test_a_second_sweep_shares_the_cells_of_the_first(tmp_path):
    store = tmp_path / "store"
    grid = write_grid(tmp_path, libvvenc_encoder(), clips=1, qps=(32, 37))
    first = sweep("run", grid, "--out", tmp_path / "a", "--store", store, "--cores", CORE)
    assert first.returncode == 0, first.stderr
    ended = {key: record["job"] for key, record in records_of(tmp_path / "a").items()}
    # The same encoder under another name, one QP more.
    (tmp_path / "b").mkdir()
    other = write_grid(tmp_path / "b", libvvenc_encoder("other"), clips=1, qps=(27, 32, 37))
    second = sweep("run", other, "--out", tmp_path / "b", "--store", store, "--cores", CORE)
    assert second.returncode == 0, second.stderr
    assert "[3/3] Ramp0_64x64_30 QP 27 other" in second.stderr
    assert "QP 37" not in second.stderr
    shared = {name[:2]: record["job"] for name, record in records_of(tmp_path / "b").items()}
    for (sequence, qp, _, _), job in ended.items():
        assert shared[sequence, qp] == job


def test_export_and_status_show_all_points(tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet", reason=f"{MISSING}pyarrow")
    grid = write_grid(tmp_path, libvvenc_encoder(), clips=1, qps=(32, 37))
    out = tmp_path / "out"
    assert sweep("run", grid, "--out", out, "--cores", CORE).returncode == 0
    for name in ("table.csv", "table.parquet"):
        assert sweep("export", out, "-o", tmp_path / name).returncode == 0
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = pyarrow.read_table(tmp_path / "table.parquet").to_pylist()
    records = records_of(out)
    assert len(rows) == len(table) == len(records) == 2
    for row, typed in zip(rows, table, strict=True):
        record = records[row["sequence"], int(row["qp"]), row["encoder"], 0]
        stream = out / "store" / record["key"][:2] / f"{record['key']}.266"
        assert int(row["bits"]) == typed["bits"] == bitstream_bits(stream)["total"]
        assert typed["psnr_weighted"] == float(row["psnr_weighted"]) == record["psnr"]["weighted"]
        assert typed["status"] == "done"
        # 64x64 of 3 pictures at 30 Hz.
        assert typed["kbps"] == pytest.approx(typed["bits"] * 30 / 3 / 1000)
    status = json.loads(sweep("status", out, "--json").stdout)
    assert (status["cells"], status["done"], status["driver"]) == (2, 2, None)
    # A record whose bitstream is gone counts for nothing.
    next(out.glob("store/??/*.266")).unlink()
    status = json.loads(sweep("status", out, "--json").stdout)
    assert (status["done"], status["missing"]) == (1, 1)
    assert sweep("resume", out).returncode == 0
    assert len(list(out.glob("store/??/*.266"))) == 2


def test_whatever_is_killed_the_records_are_those_of_a_quiet_run(tmp_path):
    grid = write_grid(tmp_path, libvvenc_encoder(), clips=2, qps=(32, 37))
    out, quiet = tmp_path / "out", tmp_path / "quiet"
    driver = Driver("run", grid, "--out", out, "--cores", CORE)
    driver.until(lambda: done(out) >= 1 and workers(out))
    driver.kill()
    driver = Driver("resume", out)
    driver.until(lambda: done(out) >= 2 and workers(out))
    os.kill(workers(out)[0], signal.SIGKILL)
    code, said = driver.end()
    assert code == 0, said
    assert sweep("run", grid, "--out", quiet, "--cores", CORE).returncode == 0
    assert len(results(out)) == 4
    assert results(out) == results(quiet)
    assert not any((out / "store" / "work").iterdir())


def test_what_a_killed_copy_leaves_is_swept_by_the_next(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"program")
    store = Store(tmp_path / "store")
    store.create()
    left = store.root / "work" / sha256_file(program) / "program"
    left.parent.mkdir()
    left.write_bytes(b"pro")
    kept = store.keep(program)
    assert kept.read_bytes() == b"program" and kept.is_relative_to(store.root / "files")
    assert not any((store.root / "work").iterdir())
    assert store.keep(program) == kept


def test_two_sweeps_that_make_the_same_clip_at_once_do_not_disturb_each_other(tmp_path):
    grid = load_grid(write_grid(tmp_path, libvvenc_encoder(), clips=1))
    store = Store(tmp_path / "store")
    store.create()

    def laid_out():
        return lay_out(grid, store, VtmHome.find(tmp_path), Decoders.find(None), None)

    first = laid_out().tasks[0].cells[0].source
    (about,) = (store.root / "clips").glob("*.json")
    about.unlink()                        # as if the first had not got so far yet
    laid_out()
    first.check()
    first.clip.path.write_bytes(b"another clip")
    with pytest.raises(FastpartError, match="changed since the sweep began"):
        first.check()


def test_a_failing_cell_is_tried_again_its_log_kept_and_the_rest_done(tmp_path):
    script = tmp_path / "encoder.py"
    good = libvvenc_encoder("good")
    script.write_text("import sys; print('no such QP'); sys.exit(7)\n")
    bad = (f"[encoder.bad]\nbackend = \"command\"\n"
           f"template = '{sys.executable} {script} {{input}} {{qp}} {{bitstream}}'\n")
    grid = write_grid(tmp_path, bad + good, clips=1, qps=(37,))
    out = tmp_path / "out"
    ended = sweep("run", grid, "--out", out, "--cores", CORE, "--retries", 1)
    assert ended.returncode == 2
    assert "attempt 1 failed, again: Ramp0_64x64_30 QP 37 bad: python" in ended.stderr
    assert "FAILED: Ramp0_64x64_30 QP 37 bad" in ended.stderr and "exit code 7" in ended.stderr
    assert done(out) == 1
    status = json.loads(sweep("status", out, "--json").stdout)
    (failed,) = status["failed_cells"]
    assert (failed["encoder"], failed["attempts"]) == ("bad", 2)
    assert "no such QP" in Path(failed["log"]).read_text()
    assert len(list((out / "store" / "failed").glob("*.log"))) == 2


def test_a_truncated_stream_is_no_result(tmp_path):
    script = tmp_path / "encoder.py"
    script.write_text(
        "import subprocess, sys\n"
        "subprocess.run(sys.argv[2:], check=True)\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "open(sys.argv[1], 'wb').write(data[:len(data) // 2])\n"
    )
    template = libvvenc_encoder().split("template = '")[1].strip().rstrip("'")
    grid = write_grid(
        tmp_path, f"[encoder.cut]\nbackend = \"command\"\n"
        f"template = '{sys.executable} {script} {{bitstream}} {template}'\n", clips=1, qps=(37,),
    )
    ended = sweep("run", grid, "--out", tmp_path / "out", "--cores", CORE, "--retries", 0)
    assert ended.returncode == 2
    assert "does not conform" in ended.stderr
    assert done(tmp_path / "out") == 0


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of so many MB, with further options, on a folder."""
    mounted = []

    def mount(megabytes: int, options: str = "") -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m{options}", "tmpfs", str(folder)],
            check=False, capture_output=True, text=True,
        )
        if made.returncode:
            pytest.skip(f"{MISSING}permission to mount a small file system ({made.stderr.strip()})")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_ends_the_sweep_with_what_to_do(tmp_path, small_disk):
    grid = write_grid(tmp_path, libvvenc_encoder(), clips=1, qps=(37,))
    disk = small_disk(8)
    ended = sweep("run", grid, "--out", disk / "out", "--cores", CORE)
    assert ended.returncode == 1
    assert "MB free, wanted" in ended.stderr and "make room" in ended.stderr
    assert "Traceback" not in ended.stderr
    ballast = os.open(disk / "ballast", os.O_CREAT | os.O_WRONLY)
    with pytest.raises(OSError, match="No space"):
        while True:
            os.write(ballast, bytes(4096))
    os.close(ballast)
    ended = sweep("run", grid, "--out", disk / "out", "--cores", CORE)
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr and "Traceback" not in ended.stderr
    # Room made, it goes on.
    (disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert sweep("run", grid, "--out", disk / "out", "--cores", CORE).returncode == 0
    assert done(disk / "out") == 1


def test_a_read_only_output_is_said(tmp_path, small_disk):
    grid = write_grid(tmp_path, libvvenc_encoder(), clips=1, qps=(37,))
    disk = small_disk(8, ",ro")
    for arguments in (("--out", disk / "out"), ("--out", tmp_path / "out", "--store", disk / "store")):
        ended = sweep("run", grid, *arguments, "--cores", CORE)
        assert ended.returncode == 1
        assert "cannot be written (Read-only file system)" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_cancel_ends_driver_and_workers(tmp_path):
    grid = write_grid(tmp_path, libvvenc_encoder(preset="slower"), clips=2, frames=9)
    out = tmp_path / "out"
    driver = Driver("run", grid, "--out", out, "--cores", CORE)
    driver.until(lambda: workers(out))
    again = sweep("run", grid, "--out", out)
    assert again.returncode == 1 and "another fastpart sweep is at work" in again.stderr
    cancelled = sweep("cancel", out)
    assert cancelled.returncode == 0, cancelled.stderr
    assert driver.end()[0] == 130
    assert not workers(out)
    assert done(out) < 8


def test_times_are_measured_in_series_on_one_core(tmp_path):
    encoders = libvvenc_encoder("a") + libvvenc_encoder("b", "fast")
    grid = write_grid(tmp_path, encoders, clips=1, qps=(37,), more='purpose = "time"\nrepetitions = 2')
    out = tmp_path / "out"
    ended = sweep("run", grid, "--out", out, "--cores", CORE)
    assert ended.returncode == 0, ended.stderr
    found = records_of(out)
    assert len(found) == 4
    order = {}
    for (_, _, encoder, repetition), record in found.items():
        order.setdefault(repetition, {})[encoder] = record
    for repetition, pair in order.items():
        assert pair["a"]["pairing"] == pair["b"]["pairing"] is not None
        assert pair["a"]["job"]["core"] == pair["b"]["job"]["core"] == int(CORE)
        first = min(pair, key=lambda name: pair[name]["job"]["seconds"])
        assert first == ("a", "b")[repetition % 2]
    # A pair of which one is lost is measured again as a whole.
    (out / "store" / order[0]["a"]["key"][:2] / f"{order[0]['a']['key']}.json").unlink()
    assert sweep("resume", out).returncode == 0
    again = records_of(out)
    assert again["Ramp0_64x64_30", 37, "b", 0]["pairing"] != order[0]["b"]["pairing"]
    assert again["Ramp0_64x64_30", 37, "b", 1]["pairing"] == order[1]["b"]["pairing"]


@pytest.mark.parametrize(("frames", "parts"), [
    (1, [(0, 1)]), (33, [(0, 33)]), (34, [(0, 33), (32, 2)]), (65, [(0, 33), (32, 33)]),
    (70, [(0, 33), (32, 33), (64, 6)]),
])
def test_segments_overlap_in_their_intra_pictures(frames, parts):
    assert split(frames, 32) == parts


def test_the_trial_clip_is_the_middle_of_the_first_periods(tmp_path):
    clip = open_clip(write_clip(tmp_path / "a_256x192_30.yuv", 256, 192, frames=7).path, workdir=tmp_path)
    small = trial_clip(clip, 2, tmp_path / "small.yuv")
    assert (small.width, small.height, small.frames) == (128, 128, 5)
    import numpy as np

    whole = np.fromfile(clip.path, "u1").reshape(7, -1)[4]
    luma = whole[: 256 * 192].reshape(192, 256)[32:160, 64:192]
    v = whole[256 * 192 * 5 // 4 :].reshape(96, 128)[16:80, 32:96]
    found = np.fromfile(small.path, "u1").reshape(5, -1)[4]
    assert (found[: 128 * 128] == luma.ravel()).all()
    assert (found[-64 * 64 :] == v.ravel()).all()


#: VTM with a group of 16 pictures and few choices, for speed.
QUICK_VTM = (
    '[encoder.{name}]\nbackend = "vtm-{kind}"\ncfg = ["encoder_randomaccess_vtm_gop16.cfg"]\n'
    "options = {{MaxMTTHierarchyDepth = 1, MaxMTTHierarchyDepthISliceL = 1, MTS = 0, LFNST = 0, "
    "ISP = 0, MIP = 0, Affine = 0, Geo = 0, CIIP = 0, BCW = 0, SMVD = 0, "
    "MMVD = 0{more}}}\n"
)


def test_joined_segments_are_the_whole_run(tmp_path, patched_vtm):
    encoders = QUICK_VTM.format(name="fast", kind="patched", more="")
    found = {}
    for segments in ("true", "false"):
        folder = tmp_path / segments
        folder.mkdir()
        grid = write_grid(folder, encoders, clips=1, frames=18, qps=(37,), side=32,
                          more=f"intra_period = 16\nsegments = {segments}")
        out = folder / "out"
        ended = sweep("run", grid, "--out", out, "--store", tmp_path / "store", "--cores", CORE)
        assert ended.returncode == 0, ended.stderr
        found[segments] = records_of(out)
    for name, record in found["true"].items():
        whole = found["false"][name]
        assert len(record["segments"]) == 2
        assert record["bitstream"]["sha256"] == whole["bitstream"]["sha256"]
        assert record["kbps_without_sei"] == whole["kbps_without_sei"]
        assert record["psnr"] == whole["psnr"]
        assert record["key"] != whole["key"]


def test_segments_that_would_change_the_result_are_refused_with_evidence(tmp_path, vtm_home):
    # Rate control knows at an intra picture what was spent before it.
    encoder = QUICK_VTM.format(name="stock", kind="stock", more=", RateControl = 1, TargetBitrate = 20000")
    grid = write_grid(tmp_path, encoder, clips=1, frames=18, qps=(37,), side=32,
                      more="intra_period = 16\nsegments = true")
    ended = sweep("run", grid, "--out", tmp_path / "out", "--cores", CORE, "--retries", 0)
    assert ended.returncode == 2
    assert "first different in NAL unit" in ended.stderr
    assert "carries something over intra pictures" in ended.stderr
    assert "which failed" in ended.stderr
    assert not records_exist(tmp_path / "out")


def records_exist(out: Path) -> bool:
    sweep_of = load_sweep(out)
    store = Store(Path(sweep_of["store"]))
    return any(store.load(point["key"]) for point in sweep_of["points"])


def test_the_first_difference_of_streams_is_named(tmp_path):
    first, second = tmp_path / "a.266", tmp_path / "b.266"
    first.write_bytes(b"\0\0\0\1\0\x79abc" + b"\0\0\1\0\x09picture")
    second.write_bytes(b"\0\0\0\1\0\x79abc" + b"\0\0\1\0\x09pictures")
    assert difference(first, first) is None
    assert "NAL unit 1 (type 1, 9 bytes" in difference(first, second)


@pytest.fixture
def slurm():
    """A Slurm of this host, of its own."""
    if reason := slurm_cluster.missing():
        pytest.skip(f"{MISSING}a Slurm to start: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = slurm_cluster.Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


def test_slurm_gives_the_bitstreams_of_the_local_run_though_all_is_killed(tmp_path, slurm):
    # Enough cells that some are left after the controller's absence, in which those under way end.
    grid = write_grid(tmp_path, libvvenc_encoder(), clips=3,
                      more='[slurm]\npartition = "test"\nconstraint = "timing"\nmem_gb = 0.1\nparallel = 1\n')
    out, local = tmp_path / "out", tmp_path / "local"
    driver = Driver("run", grid, "--out", out, "--executor", "slurm", env=slurm.env)
    driver.until(lambda: done(out) >= 1 and workers(out))
    slurm.kill_controller()
    driver.kill()
    slurm.start_controller()
    driver = Driver("resume", out, env=slurm.env)
    driver.until(lambda: workers(out))
    os.kill(workers(out)[0], signal.SIGKILL)
    code, said = driver.end()
    assert code == 0, said
    assert sweep("run", grid, "--out", local, "--cores", CORE).returncode == 0
    assert len(results(out)) == 12
    assert results(out) == results(local)


def test_slurm_measures_times_on_nodes_of_their_own_and_cancels(tmp_path, slurm):
    encoders = libvvenc_encoder("a", "slow") + libvvenc_encoder("b")
    grid = write_grid(tmp_path, encoders, clips=2, frames=9, qps=(22, 27, 32, 37),
                      more='purpose = "time"\n[slurm]\npartition = "test"\nmem_gb = 0.1\n')
    out = tmp_path / "out"

    def queue(state: str) -> list[str]:
        return subprocess.run(["squeue", "--noheader", "--array", f"--states={state}", "--format=%h"],
                              check=True, capture_output=True, text=True, env=slurm.env).stdout.split()

    driver = Driver("run", grid, "--out", out, "--executor", "slurm", env=slurm.env)
    driver.until(lambda: done(out) >= 2)
    driver.until(lambda: queue("running") and queue("pending"))
    # A point is one job; the node has more cores than one.
    assert queue("running") == ["NO"], "not shared with another job"
    cancelled = sweep("cancel", out, env=slurm.env)
    assert cancelled.returncode == 0, cancelled.stderr
    assert driver.end()[0] == 130
    until = time.monotonic() + 60
    while queue("running,pending,completing") and time.monotonic() < until:
        time.sleep(0.2)
    assert not queue("running,pending,completing") and not workers(out)
    assert done(out) < 16

    resumed = sweep("resume", out, env=slurm.env)
    assert resumed.returncode == 0, resumed.stderr
    pairs = {}
    for (sequence, qp, encoder, _), record in records_of(out).items():
        pairs.setdefault((sequence, qp), {})[encoder] = record["pairing"]
    assert len(pairs) == 8
    assert all(pair["a"] == pair["b"] is not None for pair in pairs.values())


def test_no_slurm_is_said(tmp_path):
    grid = write_grid(tmp_path, libvvenc_encoder(), clips=1, qps=(37,))
    env = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    ended = sweep("run", grid, "--out", tmp_path / "out", "--executor", "slurm", env=env)
    assert ended.returncode == 1
    assert "no sbatch here" in ended.stderr


def _row(sequence, encoder, qp, kbps, psnr, time_s, pairing=None):
    planes = dict.fromkeys(("psnr_y", "psnr_u", "psnr_v", "psnr_weighted"), psnr)
    return {"sequence": sequence, "class": "C", "encoder": encoder, "label": encoder, "qp": qp,
            "repetition": 0, "status": "done", "kbps_without_sei": kbps, "time_s": time_s,
            "pairing": pairing, **planes}


def test_the_analysis_finds_rates_times_and_the_front():
    points = [(22, 800.0, 40.0), (27, 400.0, 37.0), (32, 200.0, 34.0), (37, 100.0, 31.0)]
    rows = []
    for sequence in ("a", "b"):
        for qp, kbps, psnr in points:
            rows.append(_row(sequence, "stock", qp, kbps, psnr, 10.0, f"{sequence}{qp}"))
            rows.append(_row(sequence, "fast", qp, kbps * 1.1, psnr, 5.0, f"{sequence}{qp}"))
    found = analyse(rows, "stock")
    assert [row["scope"] for row in found] == ["sequence", "sequence", "class", "overall"]
    for row in found:
        # Ten percent more rate at the same quality.
        assert row["bd_rate_weighted"] == pytest.approx(10.0)
        assert row["time_ratio"] == pytest.approx(0.5)
        assert row["paired"] is True
    rows[-1]["status"] = "failed"
    found = {row["sequence"]: row for row in analyse(rows, "stock") if row["scope"] == "sequence"}
    assert found["b"]["bd_rate_weighted"] is None and "wanted at least 4" in found["b"]["note"]
    with pytest.raises(FastpartError, match="wanted one of stock, fast"):
        analyse(rows, "other")
    assert pareto_front([(1.0, 0.0), (0.5, 2.0), (0.6, 2.5), (0.3, 4.0), (0.5, 3.0)]) == [3, 1, 0]


def test_report_shows_a_sweep(tmp_path):
    pytest.importorskip("matplotlib", reason=f"{MISSING}matplotlib")
    grid = write_grid(tmp_path, libvvenc_encoder("a") + libvvenc_encoder("b", "fast"), clips=1, qps=(37,))
    out = tmp_path / "out"
    assert sweep("run", grid, "--out", out, "--cores", CORE).returncode == 0
    assert cli.main(["report", str(out)]) == 0
    for name in ("analysis.csv", "analysis.xlsx", "analysis.html", "pareto.pdf", "pareto.png",
                 "rd_Ramp0_64x64_30.pdf", "rd_Ramp0_64x64_30.png"):
        assert (out / name).stat().st_size > 100
    with (out / "analysis.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["scope"], row["encoder"]) for row in rows] == [
        ("sequence", "b"), ("class", "b"), ("overall", "b"),
    ]
    assert "wanted at least 4" in rows[0]["note"]
