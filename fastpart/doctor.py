"""`fastpart doctor`: what is there, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from fastpart import __version__
from fastpart.encode import DEFAULT_CFG
from fastpart.errors import FastpartError
from fastpart.media import Clip, ffmpeg_exe, frame_bytes
from fastpart.modelfile import DEFAULT_MODEL, describe
from fastpart.vtm import VERSION, VtmHome, binary_info, encode_command, run_encoder

#: Distribution, and the extra that brings it; None: required.
PACKAGES = {
    "numpy": None,
    "imageio-ffmpeg": None,
    "psutil": None,
    "lightgbm": "train",
    "pyarrow": "train",
    "bjontegaard": "report",
    "openpyxl": "report",
    "fpdf2": "report",
    "markdown": "report",
    "submitit": "sweep",
}


@dataclass(frozen=True)
class Check:
    """One finding. needed: `fastpart encode` cannot run without it. detail: what was found,
    or what is missing and the way out."""

    name: str
    ok: bool
    needed: bool
    detail: str


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `doctor` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="what is there, what is missing, how to get it",
        description="Check everything fastpart needs. Exit code 0 if fastpart encode can run, else 1.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--vtm-home", metavar="DIR", help="as for fastpart encode")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace) -> int:
    """Print the findings; returns 0 if all that is needed is there, else 1."""
    checks = examine(VtmHome.find(args.vtm_home))
    ready = all(check.ok for check in checks if check.needed)
    if args.json:
        print(json.dumps(
            {"fastpart": __version__, "ready": ready, "checks": [asdict(c) for c in checks]}, indent=1
        ))
        return 0 if ready else 1
    print(f"fastpart {__version__}")
    for check in checks:
        state = "ok" if check.ok else "MISSING" if check.needed else "absent"
        print(f"  {state:8}{check.name}: {check.detail}")
    print("fastpart encode can run" if ready else "fastpart encode cannot run: mend what is MISSING")
    return 0 if ready else 1


def examine(home: VtmHome) -> list[Check]:
    """All findings, in the order of a first set-up."""
    checks = [Check("Python", True, True, platform.python_version())]
    checks += [_package(name, extra) for name, extra in PACKAGES.items()]
    checks += [
        _check("ffmpeg", True, _ffmpeg),
        _check("engine binding", False, _engine_binding),
        _check("default model", False, _default_model),
        _check("VTM cfg", True, lambda: str(home.cfg(DEFAULT_CFG))),
        _check("VTM stock EncoderApp", False, lambda: _vtm(home.encoder("stock"))),
        _check("VTM DecoderApp", False, lambda: _vtm(home.decoder())),
        _check("VTM parcat", False, lambda: _vtm(home.parcat())),
        _check("VTM patched EncoderApp", True, lambda: _vtm(home.encoder("patched"), patched=True)),
    ]
    if all(check.ok for check in checks if check.needed):
        checks.append(_check("trial encode", True, lambda: _trial(home)))
    return checks


def _check(name: str, needed: bool, find: Callable[[], str]) -> Check:
    try:
        return Check(name, True, needed, find())
    except FastpartError as error:
        return Check(name, False, needed, str(error))


def _package(name: str, extra: str | None) -> Check:
    try:
        return Check(name, True, extra is None, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        wanted = f"'fastpart[{extra}]'" if extra else name
        return Check(name, False, extra is None, f"not installed; pip install {wanted}")


def _ffmpeg() -> str:
    exe = ffmpeg_exe()
    done = subprocess.run([exe, "-version"], check=False, capture_output=True, text=True)
    version = re.match(r"ffmpeg version (\S+)", done.stdout)
    if not version:
        raise FastpartError(f"{exe}: does not run; pip install --force-reinstall imageio-ffmpeg")
    return f"{version[1]} at {exe}"


def _engine_binding() -> str:
    try:
        return str(importlib.import_module("fastpart._engine").__file__)
    except ImportError as error:
        raise FastpartError(
            f"{error}; training needs it: pip install fastpart again, with a C++17 compiler"
        ) from error


def _default_model() -> str:
    if not DEFAULT_MODEL.is_file():
        raise FastpartError(
            f"no file {DEFAULT_MODEL}; train one with fastpart train, and name it with --model"
        )
    describe(DEFAULT_MODEL)
    return str(DEFAULT_MODEL)


def _vtm(binary: Path, patched: bool = False) -> str:
    info = binary_info(binary)
    if patched:
        info.require_fastpart()
    if info.version != VERSION:
        raise FastpartError(
            f"{binary}: calls itself VTM {info.version}, wanted {VERSION}; build the tag VTM-{VERSION}"
        )
    return f"{info.version} at {binary}"


def _trial(home: VtmHome) -> str:
    """One grey picture through the patched encoder with the predictor on."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "grey.yuv"
        raw.write_bytes(b"\x80" * frame_bytes(64, 64, 8))
        command = encode_command(
            home.encoder("patched"), [home.cfg(DEFAULT_CFG)],
            Clip(raw, 64, 64, Fraction(30), 8, 1), 37, Path(folder) / "grey.266",
            options={"FastPart": 1},
        )
        try:
            result = run_encoder(command, Path(folder) / "log")
        except FastpartError as error:
            said = str(error).splitlines()[-1].strip()
            raise FastpartError(
                f"the patched encoder fails on one grey picture, saying: {said}; "
                "run fastpart patch apply on a fresh tree and build it again"
            ) from error
    return f"one picture in {result.usage.wall_s:.1f} s"
