"""Shared fixtures: small clips, a stub of the VTM folder, and the user's real one if there."""

from __future__ import annotations

import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fastpart.errors import FastpartError
from fastpart.media import Clip, ffmpeg_exe
from fastpart.vtm import VERSION, VtmHome, binary_info, encode_command, run_encoder

MISSING = "MISSING: "


def pytest_terminal_summary(terminalreporter):
    """List what was not tested for want of something, so that it is not silently green."""
    lines = {
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and MISSING in report.longrepr[2]
    }
    if lines:
        terminalreporter.section("not tested")
        for line in sorted(lines):
            terminalreporter.write_line(line)


def _skip_missing(what: str, home: VtmHome, reason: str) -> None:
    pytest.skip(f"{MISSING}VTM-{VERSION} {what} under {home.root}; {reason}")


@pytest.fixture
def vtm_home() -> VtmHome:
    """The user's VTM folder with a stock EncoderApp, DecoderApp and cfg."""
    home = VtmHome.find()
    for what, get in (
        ("stock/EncoderApp", lambda: home.encoder("stock")),
        ("stock/DecoderApp", home.decoder),
        ("cfg", lambda: home.cfg("encoder_randomaccess_vtm.cfg")),
    ):
        try:
            get()
        except FastpartError as error:
            _skip_missing(what, home, str(error))
    return home


@pytest.fixture
def patched_vtm(vtm_home: VtmHome) -> VtmHome:
    """The same with a patched EncoderApp besides."""
    try:
        encoder = vtm_home.encoder("patched")
    except FastpartError as error:
        _skip_missing("patched/EncoderApp", vtm_home, str(error))
    if not binary_info(encoder).has_fastpart:
        _skip_missing("patched/EncoderApp", vtm_home, f"{encoder} does not know --FastPart")
    return vtm_home


def write_clip(path: Path, width=64, height=64, frames=3, bit_depth=8, fps=30, seed=1) -> Clip:
    """A raw clip with a gradient that moves and a little noise."""
    random = np.random.default_rng(seed)
    peak = (1 << bit_depth) - 1
    data = []
    for frame in range(frames):
        for plane, (w, h) in enumerate(((width, height), (width // 2, height // 2)) + (
            (width // 2, height // 2),
        )):
            y, x = np.mgrid[0:h, 0:w]
            ramp = ((x + 2 * frame) * (plane + 1) + y) % 64 / 64 * peak * 0.8
            noisy = np.clip(ramp + random.normal(0, peak / 100, (h, w)), 0, peak)
            data.append(noisy.astype("u1" if bit_depth == 8 else "<u2").tobytes())
    path.write_bytes(b"".join(data))
    return Clip(path, width, height, Fraction(fps), bit_depth, frames)


#: VTM options for quick encodes: splits one deep.
SHALLOW = {"MaxMTTHierarchyDepth": 1, "MaxMTTHierarchyDepthISliceL": 1, "MaxMTTHierarchyDepthISliceC": 1}


def encode_patched(home, clip, folder, name, qp=32, cfg="encoder_randomaccess_vtm.cfg", **options):
    """Bitstream and result of the patched encoder, which leaves NAME.266 and NAME.log in folder."""
    argv = encode_command(
        home.encoder("patched"), [home.cfg(cfg)], clip, qp, folder / f"{name}.266", None, options, intra_period=32,
    )
    result = run_encoder(argv, folder / f"{name}.log")
    return (folder / f"{name}.266").read_bytes(), result


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """3 frames of 64x64 at 30 Hz, 8 bits; the file name says so."""
    return write_clip(tmp_path / "Ramp_64x64_30.yuv")


@pytest.fixture
def ffmpeg():
    """Run the bundled ffmpeg with these arguments."""

    def call(*arguments) -> None:
        command = [ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
        subprocess.run(command, check=True)

    return call


# What VTM prints and does, as far as the back end looks at it. Modes through FAKE_VTM:
# fail (after one picture), hang (after one picture), silent (no summary).
_STUB = r'''
import os, sys, time
print("\nVVCSoftware: VTM Encoder Version 23.2 [Linux][GCC 12.2.0][64 bit] [SIMD=AVX2] ")
patched = __PATCHED__
if "--help" in sys.argv:
    print("  -c   configuration file name")
    if patched:
        print("       --FastPart   Learned partition decisions")
    sys.exit(1)
value = dict(zip(sys.argv, sys.argv[1:]))
mode = os.environ.get("FAKE_VTM", "")
frames = int(value["-f"])
header = b"\0\0\0\1\0\x79" + b"\x80" * 10
picture = b"\0\0\1\0\x09" + b"\x55" * 95
suffix_sei = b"\0\0\1\0\xc1" + b"\x11" * 15
with open(value["-b"], "wb") as stream:
    stream.write(header)
    for poc in range(frames):
        stream.write(picture)
        if "--SEIDecodedPictureHash=1" in sys.argv:
            stream.write(suffix_sei)
        kind = "IDR_N_LP, I" if poc == 0 else "TRAIL, b"
        print(f"POC {poc:4d} LId:  0 TId: {min(poc, 5)} ( {kind}-SLICE, QP {value['-q']} ) "
              f"{800:10d} bits [Y 40.0000 dB    U 42.0000 dB    V 44.0000 dB] [ET     1 ] "
              "[L0] [L1]", flush=True)
        if mode == "fail":
            print("ERROR: In function \"encode\": no memory left", file=sys.stderr)
            sys.exit(3)
        if mode == "hang":
            with open(os.environ["FAKE_VTM_PID"], "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
if mode != "silent":
    open(value["-o"], "wb").write(b"\0" * 10)
    print("\nLayerId  0\n\tTotal Frames |  Bitrate     Y-PSNR   U-PSNR   V-PSNR   YUV-PSNR ")
    print(f"\t{frames}    \t a  24.0000      40.0000  42.0000  44.0000  40.7000  ")
    print("\n Total Time:        1.500 sec. [user]        1.600 sec. [elapsed]")
    if "--FastPart=1" in sys.argv:
        print("fastpart: candidate=split_qt asked=70 skipped=67")
        print("fastpart: candidate=split_bv asked=30 skipped=3")
        print("fastpart: model=00123e45 decisions=12345 seconds=0.125 cycles_per_decision=2.1e3 "
              "share=-nan note=text")
'''


@pytest.fixture
def stub_home(tmp_path: Path) -> Path:
    """A VTM folder whose encoders only pretend."""
    home = tmp_path / "vtm-home"
    for variant in ("stock", "patched"):
        folder = home / VERSION / variant
        folder.mkdir(parents=True)
        program = folder / "EncoderApp"
        body = _STUB.replace("__PATCHED__", str(variant == "patched"))
        program.write_text(f"#!{sys.executable} -I\n{body}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    cfg = home / VERSION / "cfg"
    cfg.mkdir()
    (cfg / "encoder_randomaccess_vtm.cfg").write_text("GOPSize : 32\n")
    return home
