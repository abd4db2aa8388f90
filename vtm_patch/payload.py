"""The files that fastpart adds to a VTM tree: engine, hook, and the default model compiled in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fastpart import __version__
from fastpart.errors import FastpartError
from fastpart.modelfile import DEFAULT_MODEL, describe
from fastpart.vtm_patch.layout import ENCODER_LIB, ENGINE

_ROW = 24

_ENGINE_SOURCE = """\
// VTM builds position-independent code, in which gcc inlines nothing that a shared library could
// replace. Hidden, the engine takes a third fewer cycles.
{system}
#pragma GCC visibility push(hidden)
{units}
#pragma GCC visibility pop
"""

_MODEL_SOURCE = """\
// The default model, {what}.
#include <cstddef>

namespace fastpart
{{
extern const unsigned char default_model_data[];
extern const std::size_t   default_model_size;

alignas( 16 ) const unsigned char default_model_data[] = {{
{rows}
}};
const std::size_t default_model_size = {size};
}}
"""


@dataclass(frozen=True)
class Payload:
    """`files`: contents by path in the tree. `model`: name, bytes, checksum, or None for none."""

    fastpart: str
    model: dict[str, Any] | None
    files: dict[str, bytes]


def build(model: Path | None = None) -> Payload:
    """The payload of the installed package, with its default model or with this one.

    Raises FastpartError if the model file is absent or damaged.
    """
    if model is None:
        model = DEFAULT_MODEL if DEFAULT_MODEL.exists() else None
    description, data = None, b""
    if model is not None:
        content = describe(model)
        description = {"name": model.name} | {key: content[key] for key in ("bytes", "checksum")}
        data = model.read_bytes()
    compiled_in = {f"{ENCODER_LIB}/FastpartModelData.cpp": _model_source(description, data)}
    return Payload(__version__, description, sources() | compiled_in)


def sources() -> dict[str, bytes]:
    """The payload of the installed package without the model, by path in the tree."""
    package = resources.files("fastpart")
    files = {
        f"{ENGINE}/{name}": source.replace(b'#include "engine/', b'#include "')
        for name, source in _read(package / "engine", (".hpp", ".cpp")).items()
    }
    for name, source in _read(package / "vtm_patch" / "hook", (".h", ".cpp")).items():
        files[f"{ENCODER_LIB}/{name}"] = source
    return files | {f"{ENCODER_LIB}/FastpartEngine.cpp": _engine_source(files)}


def _engine_source(files: dict[str, bytes]) -> bytes:
    """One translation unit of all the engine."""
    engine = {name: source for name, source in files.items() if name.startswith(f"{ENGINE}/")}
    # In front of the pragma, or the C library's functions would be hidden too.
    standard = re.compile(rb"^#include <(?!x86intrin).*>$", re.MULTILINE)
    system = b"\n".join(sorted(set(standard.findall(b"\n".join(engine.values())))))
    units = [
        f'#include "{name.removeprefix(ENCODER_LIB + "/")}"'
        for name in sorted(engine)
        if name.endswith(".cpp")
    ]
    return _ENGINE_SOURCE.format(system=system.decode(), units="\n".join(units)).encode()


def _read(folder, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    found = {
        entry.name: entry.read_bytes()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(suffixes)
    }
    if not found:
        raise FastpartError(
            f"{folder}: no {' or '.join(suffixes)} file, wanted the sources that come with "
            "fastpart; install it again"
        )
    return found


def _model_source(model: dict[str, Any] | None, data: bytes) -> bytes:
    what = f"checksum {model['checksum']}" if model else "none: FastPartModel must name a file"
    padded = data or b"\0"  # C++ has no empty array
    rows = ",\n".join(
        ",".join(map(str, padded[start : start + _ROW])) for start in range(0, len(padded), _ROW)
    )
    return _MODEL_SOURCE.format(what=what, rows=rows, size=len(data)).encode()
