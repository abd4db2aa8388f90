"""An entry as a container image archive, run by podman or docker: the back end of `verify --image`.

The container has no network, a read-only root, no capabilities, a bound on memory, processes and
file sizes, the clip read-only, and one file to write: the bitstream. Under podman, which has no
daemon, it descends from the measured command and all of its time counts; a daemon's containers
do not, which the verdict finds out as time spent elsewhere.
"""

from __future__ import annotations

import re
import resource
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from fastpart.backend import Command
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.record import sha256_file

ENGINES = ("podman", "docker")

#: Arguments of the image's entry point when none are given: those of VTM's EncoderApp.
DEFAULT_ARGUMENTS = (
    "-i {input} -wdt {width} -hgt {height} -fr {fps} -f {frames} -q {qp} -b {bitstream} "
    "--InputBitDepth={bit_depth} --IntraPeriod={intra_period}"
)

#: Where the container finds the clip, under its own name, and writes the bitstream.
INSIDE_CLIPS, INSIDE_BITSTREAM = "/clip", "/out/bitstream.266"

_LIMITS = (
    "--network=none", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges",
    "--memory=8g", "--pids-limit=64", "--tmpfs=/tmp:rw,size=4g",
)

#: Limits of each process, within those that the runner sets and a host without privileges allows:
#: an engine may not be able to raise them.
_PROCESS_LIMITS = {"fsize": 1 << 30, "core": 0, "nofile": 1024, "nproc": 1024}


class Image:
    """A container image archive (docker or OCI layout, tar) as an encoder.

    arguments: template for the image's entry point, placeholders as for `Command`.
    Raises FastpartError when the archive cannot be read or no engine works here.
    """

    name = "container"
    fractional_qp = False

    def __init__(self, archive: Path, arguments: str = DEFAULT_ARGUMENTS):
        if not archive.is_file():
            raise FastpartError(f"{archive}: no such image archive; check --image")
        self.engine = _find_engine()
        self._arguments = arguments
        self._sha256 = sha256_file(archive)
        loaded = _call([self.engine, "load", "-i", str(archive)])
        found = re.findall(r"Loaded image(?:\(s\)| ID)?: *(\S+)", loaded.stdout)
        if loaded.returncode or not found:
            raise FastpartError(
                f"{archive}: {self.engine} does not load it: {loaded.stdout.strip()[-300:]}; "
                "wanted an archive of podman save or docker save"
            )
        self._image = found[-1]
        self._template = Command(shlex.join([self.engine]) + " " + arguments)
        self.label = f"container image {archive.name}"

    def command(
        self,
        clip: Clip,
        qp: int,
        bitstream: Path,
        *,
        intra_period: int,
        picture_hash: bool = True,
    ) -> list[str]:
        """As `Backend.command`; makes an empty bitstream, the one file the container may write."""
        place = f"{INSIDE_CLIPS}/{clip.path.name}"
        inside = Clip(Path(place), clip.width, clip.height, clip.fps, clip.bit_depth,
                      clip.frames, clip.start)
        arguments = self._template.command(
            inside, qp, Path(INSIDE_BITSTREAM), intra_period=intra_period
        )[1:]
        bitstream.touch()
        bitstream.chmod(0o666)
        return [
            self.engine, "run", "--rm", *_LIMITS, *_ulimits(),
            "-v", f"{clip.path.resolve()}:{place}:ro",
            "-v", f"{bitstream.resolve()}:{INSIDE_BITSTREAM}",
            self._image, *arguments,
        ]

    def identity(self) -> dict[str, Any]:
        """SHA-256 of the archive, and the arguments."""
        return {
            "encoder": self._sha256, "model": None, "cfg": None,
            "options": {"arguments": self._arguments, "engine": Path(self.engine).name},
        }


def _ulimits() -> list[str]:
    """Options for _PROCESS_LIMITS, none above what the host allows."""
    options = []
    for name, value in _PROCESS_LIMITS.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        options.append(f"--ulimit={name}={value}:{value}")
    return options


def _find_engine() -> str:
    said = []
    for name in ENGINES:
        path = shutil.which(name)
        if path is None:
            said.append(f"{name} is not installed")
            continue
        answer = _call([path, "info"])
        if answer.returncode == 0:
            return path
        last = (answer.stdout.strip().splitlines() or ["?"])[-1]
        said.append(f"{name} does not work here: {last}")
    raise FastpartError(
        f"--image: no container engine, wanted a working {' or '.join(ENGINES)}; "
        f"{'; '.join(said)}. Install podman, or unpack the image and name its program with --entry"
    )


def _call(command: list[str]) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=600,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, str(error), "")
