"""The run record: the one result of an encode, of which every table and report is a view.

`encode_record` builds it; it is stored as JSON. Units are in the names: `_s` seconds,
`_kib` KiB, `kbps` 1000 bits a second, `psnr` dB. Keys a reader does not know are to be ignored.

schema          "fastpart.encode/1"; the number rises when a key changes its meaning
fastpart        version of this package
variant         "stock" or "patched", or the name of another back end
argv            command line of the encoder as it ran, with the temporary names of its files
encoder         path, sha256 and version of the encoder binary, version null for another than VTM;
                compiler: what built it, as far as the binary says
cfg             list of path and sha256, in the order given
model           path and sha256 of the model file; null when none was named: the patched
                encoder then uses the model compiled into it, the stock one none
source          path and sha256 of the input as the user named it
clip            width, height (luma samples), fps ("30000/1001"), bit_depth of the input,
                frames, start (first frame of the input that was coded)
qp              base quantisation parameter
intra_period    pictures
rate_match      only of an encode with a wanted rate: wanted_kbps; trials: list of qp (not whole where lambda
                was scaled), kbps_without_sei and user_s of each, this one among them
bitstream       path, sha256, bits and sei_bits (part of bits; with start codes, H.266 Annex B)
kbps            bitrate of the whole bitstream at the clip's frame rate
kbps_without_sei  the same without SEI NAL units; equals VTM's own summary
psnr            y, u, v: averages over the pictures of VTM's values (internal bit depth);
                weighted: (6y + u + v) / 8; null for another encoder than VTM
times           user_s, system_s, wall_s of the encoder and all that it started; vtm_user_s: the
                [user] time it prints; started: UTC, ISO 8601
process         what was seen of the process tree: run_delay_s, second_thread_s, cpus, adopted,
                left_running, accounting (see fastpart.supervise.Usage)
max_rss_kib     peak resident memory of the encoder
involuntary_switches  context switches that took the core away; many mean a disturbed time
core            CPU the encoder was pinned to, or null
model_checksum  of the model the engine ran with, as it reports it; null for stock
counters        numbers from the engine's "fastpart:" log lines, those of one candidate as
                "candidate.name"; empty for stock
pictures        list in coding order: poc, tid, nal_type, slice_type, qp, bits (SEI not
                counted), psnr [Y, U, V], seconds (VTM's own, rounded)
machine         see `describe_machine`
"""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import re
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from fastpart import __version__
from fastpart.bitstream import bitstream_bits
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.vtm import EncodeResult, binary_info

SCHEMA = "fastpart.encode/1"


def encode_record(
    result: EncodeResult,
    *,
    variant: str,
    clip: Clip,
    source: str | os.PathLike,
    cfg_files: list[Path],
    qp: int,
    intra_period: int,
    bitstream: str | os.PathLike,
    bitstream_name: str | os.PathLike,
    started: datetime,
    model: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """The record of one finished encode; the keys are described at the top of this file.

    bitstream: the file as it is now; bitstream_name: the path to record for it.
    Raises FastpartError when a file cannot be read or the bitstream is none.
    """
    encoder = Path(result.argv[0])
    bits = bitstream_bits(bitstream)
    kbps_of_a_bit = float(clip.fps / clip.frames / 1000)
    y, u, v = result.psnr or (None, None, None)
    return {
        "schema": SCHEMA,
        "fastpart": __version__,
        "variant": variant,
        "argv": list(result.argv),
        "encoder": {
            **file_identity(encoder),
            "version": binary_info(encoder).version if result.pictures else None,
            "compiler": compiler_of(encoder),
        },
        "cfg": [file_identity(path) for path in cfg_files],
        "model": file_identity(model) if model else None,
        "source": file_identity(source),
        "clip": {
            "width": clip.width,
            "height": clip.height,
            "fps": str(clip.fps),
            "bit_depth": clip.bit_depth,
            "frames": clip.frames,
            "start": clip.start,
        },
        "qp": qp,
        "intra_period": intra_period,
        "bitstream": {
            "path": str(bitstream_name),
            "sha256": sha256_file(bitstream),
            "bits": bits["total"],
            "sei_bits": bits["sei"],
        },
        "kbps": bits["total"] * kbps_of_a_bit,
        "kbps_without_sei": (bits["total"] - bits["sei"]) * kbps_of_a_bit,
        "psnr": {"y": y, "u": u, "v": v, "weighted": result.psnr_611} if result.psnr else None,
        "times": {
            "user_s": result.usage.user_s,
            "system_s": result.usage.system_s,
            "wall_s": result.usage.wall_s,
            "vtm_user_s": result.vtm_user_s,
            "started": started.isoformat(timespec="seconds"),
        },
        "process": {
            name: getattr(result.usage, name)
            for name in ("run_delay_s", "second_thread_s", "adopted", "left_running", "accounting")
        } | {"cpus": list(result.usage.cpus)},
        "max_rss_kib": result.usage.max_rss_kib,
        "involuntary_switches": result.usage.involuntary_switches,
        "core": result.core,
        "model_checksum": result.model_checksum,
        "counters": result.counters,
        "pictures": [asdict(picture) for picture in result.pictures],
        "machine": describe_machine(result.core),
    }


def file_identity(path: str | os.PathLike) -> dict[str, str]:
    """Path and sha256 of a file."""
    return {"path": str(path), "sha256": sha256_file(path)}


def sha256_file(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks. Raises FastpartError if unreadable."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise FastpartError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def compiler_of(binary: str | os.PathLike) -> str | None:
    """What a binary names as its compiler (section .comment); None where it names none."""
    try:
        with Path(binary).open("rb") as file, mmap.mmap(
            file.fileno(), 0, access=mmap.ACCESS_READ
        ) as data:
            # Found first, matched then: the expression alone takes seconds on a large binary.
            marks = [at for at in map(data.find, (b"GCC: (", b"clang version ")) if at >= 0]
            if not marks:
                return None
            around = data[max(0, min(marks) - 20) : min(marks) + 120]
            found = re.search(rb"(?:GCC: \(|(?:\w+ )?clang version )[ -~]{3,100}", around)
            return found[0].decode() if found else None
    except (OSError, ValueError):
        return None


def describe_machine(core: int | None = None) -> dict[str, Any]:
    """What a time depends on.

    cpu: model name. cores, threads: physical and logical. memory_bytes. system: kernel name
    and release. python: version. governor: frequency governor of `core` (else of CPU 0), turbo:
    whether the clock may be raised; null where the system does not say. load: averages over 1, 5
    and 15 minutes, now. affinity: CPUs that this thread may use. kernel: its version.
    """
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "governor": _governor(core or 0),
        "turbo": _turbo(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "kernel": platform.version(),
        "load": [round(value, 2) for value in psutil.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _turbo() -> bool | None:
    for path, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        try:
            text = Path("/sys/devices/system/cpu", path).read_text(encoding="utf-8")
            return text.strip() == on
        except OSError:
            continue
    return None


def _governor(core: int) -> str | None:
    path = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
