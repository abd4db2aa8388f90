"""The grid of a sweep: which sequences at which QPs with which encoders, as a TOML file.

cuts            names in the cuts file of the clips folder
clips           folder of the clips of the cuts, relative to this file
cuts_file       optional; default: cuts.toml of the clips folder
files           besides or instead of cuts: videos, relative to this file; the name of a raw .yuv tells
                its format (Name_416x240_24.yuv), the stem names the sequence
frames          of each of the files; optional, default: all
qps             base QPs
intra_period    pictures; optional: each cut's own, or the multiple of 32 nearest to one second
purpose         "quality" (default), or "time": all encoders of a point run one after the other on one
                core, so that their times may be compared
repetitions     of a point whose time is measured; default 1
segments        true: cells split at intra periods, joined with parcat; for quality only

[encoder.NAME]  backend: "vtm-stock", "vtm-patched", "vvenc" or "command"
                VTM: cfg (list of configurations: of the VTM tree's cfg folder, or files relative to this
                one; default: random access), preset (after these), options (table);
                patched besides: model (file, relative to this file), kappa or target_ratio
                vvenc: preset, accelerate, options; command: template, as of `fastpart verify --entry`
                vary: table of lists; an encoder for each combination, NAME-KEY=VALUE. A key is one of
                the encoder's own (kappa, target_ratio, preset, ...) or else an option

[slurm]         partition, account, qos, constraint, exclusive, timeout_min, mem_gb, parallel (jobs at
                a time); all optional
"""

from __future__ import annotations

import importlib
import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastpart.backend import Backend, Command, PatchedVtm, StockVtm
from fastpart.errors import FastpartError
from fastpart.vtm import VtmHome

PURPOSES = ("quality", "time")

_KEYS = {
    "cuts": list, "clips": str, "cuts_file": str, "files": list, "frames": int, "qps": list,
    "intra_period": int, "purpose": str, "repetitions": int, "segments": bool, "encoder": dict,
    "slurm": dict,
}

#: Keys of an encoder by back end, besides backend and vary.
_ENCODER_KEYS = {
    "vtm-stock": {"cfg": list, "preset": str, "options": dict},
    "vtm-patched": {"cfg": list, "preset": str, "options": dict, "model": str, "kappa": (int, float),
                    "target_ratio": (int, float)},
    "vvenc": {"preset": str, "accelerate": bool, "options": dict, "model": str},
    "command": {"template": str},
}

SLURM_KEYS = {
    "partition": str, "account": str, "qos": str, "constraint": str, "exclusive": bool,
    "timeout_min": int, "mem_gb": (int, float), "parallel": int,
}


@dataclass(frozen=True)
class Grid:
    """A grid file; the fields are its keys, paths resolved. encoders: entries by name, varied.
    text: the file itself."""

    path: Path
    text: str
    qps: tuple[int, ...]
    encoders: dict[str, dict[str, Any]]
    cuts: tuple[str, ...] = ()
    clips: Path | None = None
    cuts_file: Path | None = None
    files: tuple[Path, ...] = ()
    frames: int | None = None
    intra_period: int | None = None
    purpose: str = "quality"
    repetitions: int = 1
    segments: bool = False
    slurm: dict[str, Any] = field(default_factory=dict)


def load_grid(path: Path, text: str | None = None) -> Grid:
    """Read a grid file. text: what it held, where it is no longer there.

    Raises FastpartError naming the key that is missing, unknown or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8") if text is None else text
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FastpartError(f"{path}: cannot be read as TOML: {error}") from error
    _check_table(path, "the grid", data, _KEYS)
    if not data.get("cuts") and not data.get("files"):
        raise FastpartError(f"{path}: neither cuts nor files, wanted sequences")
    if data.get("cuts") and "clips" not in data:
        raise FastpartError(f"{path}: cuts without clips, wanted the folder of their clips")
    qps = data.get("qps", [])
    if not qps or len(set(qps)) < len(qps) or not all(type(q) is int and 0 <= q <= 63 for q in qps):
        raise FastpartError(f"{path}: qps = {qps!r}, wanted distinct QPs from 0 to 63")
    purpose = data.get("purpose", "quality")
    if purpose not in PURPOSES:
        raise FastpartError(f"{path}: purpose = {purpose!r}, wanted {' or '.join(PURPOSES)}")
    if purpose == "time" and data.get("segments"):
        raise FastpartError(f"{path}: segments with purpose time: times are of whole runs; leave it out")
    for key in ("frames", "intra_period", "repetitions"):
        if data.get(key, 1) < 1:
            raise FastpartError(f"{path}: {key} = {data[key]}, wanted 1 or more")
    if purpose == "quality" and data.get("repetitions", 1) > 1:
        raise FastpartError(f"{path}: repetitions with purpose quality: they would give the same; "
                            'leave them out, or set purpose = "time"')
    encoders: dict[str, dict[str, Any]] = {}
    for name, entry in data.get("encoder", {}).items():
        for varied, one in _vary(path, name, entry):
            encoders[varied] = one
    if not encoders:
        raise FastpartError(f"{path}: no [encoder.NAME], wanted one or more")
    slurm = data.get("slurm", {})
    _check_table(path, "[slurm]", slurm, SLURM_KEYS)
    folder = path.parent
    return Grid(
        path, text, tuple(qps), encoders,
        cuts=tuple(dict.fromkeys(data.get("cuts", ()))),
        clips=folder / data["clips"] if "clips" in data else None,
        cuts_file=folder / data["cuts_file"] if "cuts_file" in data else None,
        files=tuple(folder / name for name in dict.fromkeys(data.get("files", ()))),
        purpose=purpose, slurm=slurm,
        **{key: data[key] for key in ("frames", "intra_period", "repetitions", "segments")
           if key in data},
    )


def make_backend(entry: Mapping[str, Any], home: VtmHome, folder: Path) -> Backend:
    """The back end of an encoder's entry. folder: that relative paths start from.

    Raises FastpartError for what cannot be made.
    """
    kind = entry["backend"]
    settings = {key: value for key, value in entry.items() if key not in ("backend", "vary")}
    if "model" in settings:
        settings["model"] = folder / settings["model"]
    if "cfg" in settings:
        settings["cfg"] = [folder / name if (folder / name).is_file() else name for name in settings["cfg"]]
    if kind == "command":
        return Command(settings["template"])
    if kind == "vvenc":
        try:
            vvenc = importlib.import_module("fastpart.vvenc")
        except ModuleNotFoundError as error:
            raise FastpartError(f"back end vvenc: cannot be made ({error})") from error
        return vvenc.Vvenc(**settings)
    return (StockVtm if kind == "vtm-stock" else PatchedVtm)(home, **settings)


def _check_table(path: Path, what: str, found: Any, known: Mapping[str, Any]) -> None:
    if not isinstance(found, dict):
        raise FastpartError(f"{path}: {what}: wanted a table")
    for key, value in found.items():
        if key not in known:
            raise FastpartError(f"{path}: {what} has {key}, wanted only {', '.join(known)}")
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        if type(value) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise FastpartError(f"{path}: {what}: {key} = {value!r}, wanted {wanted}")


def _vary(path: Path, name: str, entry: Any):
    """(name, entry) of each combination that an encoder's entry asks for."""
    what = f"[encoder.{name}]"
    backend = entry.get("backend") if isinstance(entry, dict) else None
    if backend not in _ENCODER_KEYS:
        raise FastpartError(
            f"{path}: {what}: backend = {backend!r}, wanted one of {', '.join(_ENCODER_KEYS)}"
        )
    known = _ENCODER_KEYS[backend]
    _check_table(path, what, entry, {"backend": str, "vary": dict, **known})
    if backend == "command" and "template" not in entry:
        raise FastpartError(f"{path}: {what}: lacks template")
    vary = entry.get("vary", {})
    for key, values in vary.items():
        if not isinstance(values, list) or not values:
            raise FastpartError(f"{path}: {what}: vary.{key} = {values!r}, wanted a list of values")
        if key not in known and "options" not in known:
            raise FastpartError(f"{path}: {what}: vary.{key}: wanted one of {', '.join(known)}")
    for values in itertools.product(*vary.values()):
        one = {key: value for key, value in entry.items() if key != "vary"}
        for key, value in zip(vary, values, strict=True):
            if key in known:
                one[key] = value
            else:
                one["options"] = {**one.get("options", {}), key: value}
        _check_table(path, what, one, {"backend": str, **known})
        varied = "-".join([name, *(f"{k}={v}" for k, v in zip(vary, values, strict=True))])
        # The name becomes part of file names.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+=-]*", varied):
            raise FastpartError(
                f"{path}: {what}: name {varied}, wanted letters, digits, '.', '+', '=' and '-'"
            )
        yield varied, one
