"""The image of the executable scheme: what is in it, that it is reproducible, and that it encodes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import MISSING, write_clip

from fastpart.backend import PatchedVtm

DOCKER = Path(__file__).parents[1] / "docker"
CORE = max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The archive, the list of its files, and what the builder said; built twice."""
    from fastpart.errors import FastpartError
    from fastpart.vtm import VtmHome

    try:
        PatchedVtm(VtmHome.find())
    except FastpartError as error:
        pytest.skip(f"{MISSING}a patched VTM for the image: {error}")
    if not (shutil.which("buildah") or shutil.which("podman")):
        pytest.skip(f"{MISSING}buildah or podman, to build the image")
    folder = tmp_path_factory.mktemp("image")
    said = []
    for name in ("first.tar", "second.tar"):
        built = subprocess.run(
            [sys.executable, "-P", DOCKER / "build.py", "--out", folder / name, "--preset", "win", "--list"],
            check=False, capture_output=True, text=True, cwd=folder,
        )
        assert built.returncode == 0, built.stderr
        said.append(built.stdout.splitlines())
    return folder, said


def test_the_same_inputs_give_the_same_image(image):
    folder, (first, second) = image
    assert first[-1].split("digest ")[1] == second[-1].split("digest ")[1]
    assert (folder / "first.tar").read_bytes() == (folder / "second.tar").read_bytes()


def test_the_image_holds_the_scheme_and_nothing_else(image):
    folder, (listed, _) = image
    files = {line.split(None, 1)[1] for line in listed[:-1]}
    assert {"/vtm/23.2/patched/EncoderApp", "/vtm/23.2/cfg/encoder_randomaccess_vtm.cfg",
            "/usr/bin/python", "/usr/lib/fastpart/entry.py", "/usr/lib/fastpart/fastpart/presets/win.cfg",
            "/vtm/scheme.json"} <= files
    for word in ("site-packages", "numpy", "ffmpeg", "DecoderApp", "/stock/", "/bin/sh", "unittest", "/pip"):
        assert not [name for name in files if word in name], word
    with tarfile.open(folder / "first.tar") as tar:
        index = json.load(tar.extractfile("index.json"))
        blob = "blobs/sha256/" + index["manifests"][0]["digest"].removeprefix("sha256:")
        manifest = json.load(tar.extractfile(blob))
        config = json.load(
            tar.extractfile("blobs/sha256/" + manifest["config"]["digest"].removeprefix("sha256:"))
        )
        assert config["config"]["User"] == "65532:65532"
        (layer,) = manifest["layers"]
        blob = tar.extractfile("blobs/sha256/" + layer["digest"].removeprefix("sha256:"))
        with tarfile.open(fileobj=blob) as inside:
            found = inside.getmembers()
    assert {f"/{member.name}" for member in found if member.isfile()} == files
    assert all((member.uid, member.gid, member.mtime) == (0, 0, 0) for member in found)
    assert not [member.name for member in found if member.mode & 0o022 and member.name != "tmp"]


def module(name):
    """A program of the folder, as a module."""
    spec = importlib.util.spec_from_file_location(f"docker_{name}", DOCKER / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_image_encodes_as_the_verdict_was_reached(patched_vtm, tmp_path, monkeypatch):
    from fastpart.cli import main
    from fastpart.encode import configuration
    from fastpart.errors import FastpartError
    from fastpart.presets import FOLDER
    from fastpart.timing.synthetic import make_clip

    pytest.importorskip("bjontegaard")
    build, entry = module("build"), module("entry")
    clip = make_clip(tmp_path / "Noise_128x128_30.yuv", 128, 128, frames=2)
    verify = ["verify", str(clip.path), "--preset", "win", "--qps", "37", "--vtm-home", str(patched_vtm.root),
              "--side-by-side", "--out"]
    cfg_files = configuration(patched_vtm, None, "win")
    assert main([*verify, str(tmp_path / "plain")]) in (0, 2, 3)
    backend = PatchedVtm(patched_vtm, preset="win")
    with pytest.raises(FastpartError, match="wanted some of --match-rate or"):
        build.matched_points(tmp_path / "plain", backend)
    with pytest.raises(FastpartError, match="is on .*preset win, wanted .*preset t70, the same encoder"):
        build.matched_points(tmp_path / "plain", PatchedVtm(patched_vtm, preset="t70"))
    assert main([*verify, str(tmp_path / "out"), "--match-rate", "0.5", "--match-time", "0.5"]) in (0, 2, 3)
    points = build.matched_points(tmp_path / "out", backend)
    verdict = json.loads((tmp_path / "out/verdict.json").read_text())
    assert any(point["matching"]["trials"] for point in verdict["points"]), "nothing to match: the test shows nothing"

    scheme = {"preset": "win", "points": points}
    (tmp_path / "scheme.json").write_text(json.dumps(scheme))
    for name, value in {
        "ENCODER": str(patched_vtm.encoder("patched")), "CFG": str(cfg_files[0]), "PRESETS": str(FOLDER),
        "SCHEME": tmp_path / "scheme.json", "MODEL": tmp_path / "none.fpm",
    }.items():
        monkeypatch.setattr(entry, name, value)
    monkeypatch.setenv("FASTPART_VTM_HOME", str(patched_vtm.root))
    for point in verdict["points"]:
        qp, period = str(point["qp"]), str(point["intra_period"])
        measured = (tmp_path / f"out/Noise_128x128_30_qp{qp}_entry_r0.266").read_bytes()
        # As `fastpart verify --image` calls it, and `fastpart encode` in it.
        subprocess.run(
            entry.vtm_command(scheme, [
                "-i", str(clip.path), "-wdt", "128", "-hgt", "128", "-fr", "30", "-f", "2", "-q", qp,
                "-b", str(tmp_path / "vtm.266"), "--InputBitDepth=8", f"--IntraPeriod={period}",
                "--SEIDecodedPictureHash=1",
            ]), check=True, capture_output=True,
        )
        assert (tmp_path / "vtm.266").read_bytes() == measured
        assert entry.encode([str(clip.path), "-o", str(tmp_path / "encode.266"), "--qp", qp, "--intra-period", period,
                             "--hash", "--force"]) == 0
        assert (tmp_path / "encode.266").read_bytes() == measured
    assert entry.vtm_command(scheme, ["-i", "/clip/Other_128x128_30.yuv", "-q", "37"])[-4:] == [
        "-i", "/clip/Other_128x128_30.yuv", "-q", "37"]


def test_no_file_here_obtains_a_program():
    for path in DOCKER.iterdir():
        text = path.read_text().lower()
        for word in ("http://", "https://", "git clone", "curl ", "wget ", "cmake", "apt-get", "pip install"):
            assert word not in text, f"{path.name}: {word}"


def test_the_container_encodes_what_the_encoder_does(image, tmp_path):
    engine = shutil.which("podman") or shutil.which("docker")
    works = engine and subprocess.run(
        [engine, "load", "-i", image[0] / "first.tar"], check=False, capture_output=True, text=True
    )
    if not works or works.returncode:
        pytest.skip(f"{MISSING}a container engine that works here: "
                    f"{works.stderr.strip()[-200:] if works else 'neither podman nor docker'}")
    clips, out = tmp_path / "in", tmp_path / "out"
    clips.mkdir()
    out.mkdir()
    out.chmod(0o777)
    clip = write_clip(clips / "Ramp_64x64_30.yuv", frames=2)
    # Its own limits: an engine's defaults may be more than this host lets it set.
    run = [engine, "run", "--rm", "--read-only", "--network=none", "--cap-drop=all",
           "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "-v", f"{clips}:/in:ro",
           "-v", f"{out}:/out", "-e", "QPS=37", "fastpart-scheme"]
    ended = subprocess.run(run, check=False, capture_output=True, text=True)
    if "OCI runtime" in ended.stderr or "crun:" in ended.stderr or "runc" in ended.stderr:
        pytest.skip(f"{MISSING}a container engine that works here: {ended.stderr.strip()[-200:]}")
    assert ended.returncode == 0, ended.stderr
    stream = out / "Ramp_64x64_30_qp37.266"
    record = json.loads((out / "Ramp_64x64_30_qp37.266.json").read_text())
    from fastpart.vtm import VtmHome, run_encoder

    backend = PatchedVtm(VtmHome.find(), preset="win")
    command = backend.command(clip, 37, tmp_path / "direct.266", intra_period=record["intra_period"],
                              picture_hash=False)
    run_encoder(command, tmp_path / "direct.log", core=CORE)
    assert stream.read_bytes() == (tmp_path / "direct.266").read_bytes()
    assert stream.stat().st_uid == 65532
    # The arguments of `fastpart verify --image`.
    (out / "one.266").touch()
    (out / "one.266").chmod(0o666)
    one = [*run, "-i", "/in/Ramp_64x64_30.yuv", "-wdt", "64", "-hgt", "64", "-fr", "30", "-f", "2",
           "-q", "37", "-b", "/out/one.266", "--InputBitDepth=8",
           f"--IntraPeriod={record['intra_period']}"]
    assert subprocess.run(one, check=False, capture_output=True).returncode == 0
    assert (out / "one.266").read_bytes() == stream.read_bytes()
    # What is done is left alone.
    before = stream.stat().st_mtime_ns
    again = subprocess.run(run, check=False, capture_output=True, text=True)
    assert again.returncode == 0
    assert stream.stat().st_mtime_ns == before
