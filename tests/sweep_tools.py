"""For the tests of sweeps: grids of quick real encodes, and drivers to kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import write_clip

from fastpart.media import ffmpeg_exe
from fastpart.timing.sweep.driver import load_sweep
from fastpart.timing.sweep.store import Store


def libvvenc_template(preset: str) -> str:
    """A command template: libvvenc of the bundled ffmpeg, one thread, with picture hashes."""
    return (
        f"{ffmpeg_exe()} -nostdin -v error -y -f rawvideo -video_size {{width}}x{{height}} "
        "-pixel_format yuv420p -framerate {fps} -i {input} -frames:v {frames} -pix_fmt yuv420p10le "
        f"-c:v libvvenc -threads 1 -preset {preset} -qp {{qp}} -qpa 0 "
        "-vvenc-params IntraPeriod={intra_period}:SEIDecodedPictureHash=md5:verbosity=0 "
        "-f vvc {bitstream}"
    )


def write_grid(
    folder: Path, encoders: str, *, clips=2, frames=3, qps=(22, 27, 32, 37), side=64, more=""
) -> Path:
    """A grid of small square clips, all in folder. encoders: TOML tables."""
    names = []
    for seed in range(clips):
        names.append(f"Ramp{seed}_{side}x{side}_30.yuv")
        write_clip(folder / names[-1], side, side, frames=frames, seed=seed)
    grid = folder / "grid.toml"
    grid.write_text(f"files = {json.dumps(names)}\nqps = {list(qps)}\n{more}\n{encoders}")
    return grid


def libvvenc_encoder(name: str = "vvenc", preset: str = "faster") -> str:
    return f"[encoder.{name}]\nbackend = \"command\"\ntemplate = '{libvvenc_template(preset)}'\n"


def sweep(*arguments, env=None, **kwargs) -> subprocess.CompletedProcess:
    """Run `fastpart sweep` to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "fastpart.cli", "sweep", *map(str, arguments)],
        check=False, capture_output=True, text=True, env=env, timeout=570, **kwargs,
    )


class Driver:
    """A driver at work in the background."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastpart.cli", "sweep", *map(str, arguments)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env,
            start_new_session=True,
        )

    def until(self, condition, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline, "it did not come so far"
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of the driver alone; its workers live on."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stderr.close()

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """Exit code and stderr."""
        _, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said


def records_of(out: Path) -> dict[tuple, dict]:
    """Records of a finished sweep by sequence, QP and encoder; all must be there."""
    found = load_sweep(out)
    store = Store(Path(found["store"]))
    records = {
        (point["sequence"], point["qp"], point["encoder"], point["repetition"]):
        store.load(point["key"]) for point in found["points"]
    }
    assert None not in records.values()
    return records


def done(out: Path) -> int:
    """How many records are there."""
    return len(list((out / "store").glob("??/*.json")))


def workers(out: Path) -> list[int]:
    """Process IDs of the workers at cells."""
    store = Store(out / "store")
    held = [store.holder(path.stem) for path in (out / "store").glob("??/*.lock")]
    return [one["pid"] for one in held if one and "pid" in one]


def results(out: Path) -> dict[tuple, tuple]:
    """What must not depend on how a sweep came to its end: key, streams, rates and PSNR."""
    found = {}
    for name, record in records_of(out).items():
        stream = (out / "store" / record["key"][:2] / f"{record['key']}.266").read_bytes()
        found[name] = (record["key"], stream, record["kbps_without_sei"], record["psnr"])
    return found
