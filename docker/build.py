#!/usr/bin/env python3
"""Builds the image of the executable scheme from what the user has built and installed.

    python docker/build.py --out scheme.tar

Staged into a root file system, file by file, and nothing else:
  /vtm        patched EncoderApp and random-access configuration of the VTM folder, the model file
              if one is named (else the one compiled in), and scheme.json: the preset, and with what
              the points of a verdict were encoded (entry.py describes it)
  /usr        entry.py; the modules of fastpart, psutil and the standard library that `fastpart
              encode` imports, of the Python that runs this program, and its interpreter
  /lib, ...   the shared libraries that those name (ldd)
Then buildah (or podman) packs it as Containerfile says. Times, owners and modes are fixed: the
same inputs give the same image digest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from modulefinder import ModuleFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastpart.backend import PatchedVtm

HERE = Path(__file__).parent

#: Packages that encode's raw input does without.
LEFT_OUT = (
    "imageio_ffmpeg", "bjontegaard", "numpy", "tkinter", "unittest", "doctest", "pdb", "pydoc",
    "test", "setuptools", "pip", "ssl", "_ssl", "asyncio", "multiprocessing", "_hashlib", "readline",
    "http", "xml", "ftplib", "urllib.request", "lzma", "bz2",
)

#: Started by path, not imported.
PROGRAMS = ("_supervisor.py",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="ARCHIVE.tar",
                        help="OCI image archive to write")
    parser.add_argument("--vtm-home", metavar="DIR", help="as for fastpart encode")
    parser.add_argument("--model", type=Path, metavar="FILE", help="model file (default: compiled in)")
    parser.add_argument("--preset", metavar="NAME", help="encode with it (default: the predictor alone)")
    parser.add_argument("--verdict", type=Path, metavar="DIR", help="of fastpart verify with --match-rate or "
                        "--match-time: encode its sequences with the QPs and targets that it found")
    parser.add_argument("--list", action="store_true", help="print the files of the image with their sizes")
    args = parser.parse_args()
    from fastpart.errors import FastpartError

    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "root"
            stage(root, args.vtm_home, args.model, args.preset, args.verdict)
            if args.list:
                for path in sorted(path for path in root.rglob("*") if path.is_file()):
                    print(f"{path.stat().st_size:10} /{path.relative_to(root)}")
            digest = pack(root.parent, args.out)
    except FastpartError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, image digest {digest}")
    return 0


def stage(
    root: Path, vtm_home: str | None, model: Path | None, preset: str | None = None, verdict: Path | None = None
) -> None:
    """Put everything of the image into the folder root. Raises FastpartError for what is missing."""
    import fastpart
    from fastpart.backend import PatchedVtm
    from fastpart.encode import DEFAULT_CFG
    from fastpart.errors import FastpartError
    from fastpart.presets import preset_file
    from fastpart.vtm import VERSION, VtmHome, binary_info

    home = VtmHome.find(vtm_home)
    encoder, cfg = home.encoder("patched"), home.cfg(DEFAULT_CFG)
    binary_info(encoder).require_fastpart()
    if model and not model.is_file():
        raise FastpartError(f"{model}: no such model file; check --model")
    binaries = [_put(encoder, root / "vtm" / VERSION / "patched" / "EncoderApp")]
    _put(cfg, root / "vtm" / VERSION / "cfg" / DEFAULT_CFG)
    if model:
        _put(model, root / "vtm" / "model.fpm")
    site = root / "usr" / "lib" / "fastpart"
    if preset:
        _put(preset_file(preset), site / "fastpart" / "presets" / f"{preset}.cfg")
    points = matched_points(verdict, PatchedVtm(home, preset=preset, model=model)) if verdict else {}
    scheme = json.dumps({"preset": preset, "points": points}, indent=1, sort_keys=True)
    (root / "vtm" / "scheme.json").write_text(scheme + "\n")

    python = root / "usr" / "lib" / f"python{sysconfig.get_python_version()}"
    binaries.append(_put(Path(sys.executable).resolve(), root / "usr" / "bin" / "python"))
    _put(HERE / "entry.py", site / "entry.py")
    library = Path(sysconfig.get_path("stdlib"))
    for path in modules():
        found = _place(path, library, python, site)
        _put(path, found)
        if path.suffix == ".so":
            binaries.append(found)
    # What the interpreter looks for to find its home.
    _put(library / "os.py", python / "os.py")
    for name in PROGRAMS:
        _put(Path(fastpart.__file__).parent / name, site / "fastpart" / name)
    # The one thing that the package asks of its own installation: its version.
    about = site / f"fastpart-{fastpart.__version__}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: fastpart\nVersion: {fastpart.__version__}\n")
    for path in shared_libraries(binaries):
        _put(path, root / str(path).lstrip("/"))
    for name in ("in", "out", "tmp", "proc", "dev"):
        (root / name).mkdir(exist_ok=True)
    for path in [root, *root.rglob("*")]:
        program = path.is_dir() or os.access(path, os.X_OK)
        path.chmod(0o755 if program else 0o644)
    (root / "tmp").chmod(0o1777)


def matched_points(verdict: Path, backend: PatchedVtm) -> dict[str, dict[str, dict]]:
    """With what a verdict's entry was encoded, by sequence and QP; backend: what the image has.

    Raises FastpartError for another file, a verdict on another entry and one without matching.
    """
    from fastpart.errors import FastpartError
    from fastpart.presets import configured
    from fastpart.ratematch import lambda_options, settings
    from fastpart.timing.report import VERDICT_NAME, load_verdict
    from fastpart.vtm import target_options

    path = verdict / VERDICT_NAME
    found = load_verdict(path)
    if found["entry"]["identity"] != backend.identity():
        raise FastpartError(
            f"{path}: is on {found['entry']['label']}, wanted {backend.label}, the same encoder, configuration and "
            "model; give the --preset and --model that were verified, or verify again"
        )
    if not all(point.get("matching") for point in found["points"]):
        raise FastpartError(f"{path}: has no QPs and targets of points, wanted some of --match-rate or --match-time")
    points: dict[str, dict[str, dict]] = {}
    for point in found["points"]:
        qp, target = point["matching"]["qp"], point["matching"]["target_ratio"]
        whole, factor = settings(qp)
        options = lambda_options(factor, configured(backend.cfg_files, {}))
        if target is not None:
            options |= target_options(target)
        points.setdefault(point["sequence"], {})[str(point["qp"])] = {"qp": whole, "options": options}
    return points


def modules() -> list[Path]:
    """Files of all modules that the entry point may import."""
    # zoneinfo data, encodings: what the interpreter itself imports as it starts.
    finder = ModuleFinder(excludes=list(LEFT_OUT))
    finder.run_script(str(HERE / "entry.py"))
    for name in ("fastpart.encode", "encodings.utf_8", "encodings.ascii", "encodings.latin_1",
                 "encodings.idna", "codecs", "io", "site", "ctypes", "json"):
        finder.import_hook(name)
    files = {Path(module.__file__) for module in finder.modules.values() if module.__file__}
    return sorted(path for path in files if path != HERE / "entry.py")


def _place(path: Path, library: Path, inside: Path, site: Path) -> Path:
    """Where a module's file goes in the image."""
    text = str(path)
    if text.startswith(f"{library}{os.sep}") and "site-packages" not in text:
        return inside / path.relative_to(library)
    for folder in sys.path:
        if folder and text.startswith(f"{folder}{os.sep}"):
            return site / path.relative_to(folder)
    raise ValueError(path)


def shared_libraries(binaries: list[Path]) -> list[Path]:
    """Shared libraries and the loader that binaries need, as ldd finds them here."""
    found = set()
    for binary in binaries:
        said = subprocess.run(["ldd", str(binary)], check=False, capture_output=True, text=True)
        for line in said.stdout.splitlines():
            if match := re.match(r"\s*(?:\S+ => )?(/\S+) \(0x", line):
                found.add(Path(match[1]))
            elif "not found" in line:
                from fastpart.errors import FastpartError

                raise FastpartError(f"{binary}: {line.strip()}; install it, or build it again here")
    return sorted(found)


def pack(folder: Path, out: Path) -> str:
    """Pack folder/root as an OCI archive; returns the digest of the image's manifest."""
    from fastpart.errors import FastpartError

    builder = shutil.which("buildah") or shutil.which("podman")
    if builder is None:
        raise FastpartError("neither buildah nor podman is installed, wanted one to pack the image")
    shutil.copy(HERE / "Containerfile", folder / "Containerfile")
    name = "fastpart-scheme"
    tail = ["--isolation", "chroot"] if Path(builder).name == "buildah" else []
    _call([builder, "build", *tail, "--timestamp", "0", "--format", "oci", "-q",
           "-t", name, "-f", str(folder / "Containerfile"), str(folder)])
    layout = folder / "layout"
    _call([builder, "push", "-q", name, f"oci:{layout}:{name}"])
    digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    archive(layout, out)
    return digest


def archive(layout: Path, out: Path) -> None:
    """A tar of an OCI layout whose bytes depend on its files alone."""
    import tarfile

    from fastpart.files import appearing

    def fixed(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    with appearing(out) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(layout.rglob("*")):
            tar.add(path, path.relative_to(layout), recursive=False, filter=fixed)


def _call(command: list[str]) -> None:
    from fastpart.errors import FastpartError

    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise FastpartError(
            f"{Path(command[0]).name}: exit code {done.returncode}, wanted 0: "
            f"{done.stdout.strip()[-500:]}"
        )


def _put(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(stat.S_IMODE(source.stat().st_mode) | stat.S_IWUSR)
    return target


if __name__ == "__main__":
    sys.exit(main())
