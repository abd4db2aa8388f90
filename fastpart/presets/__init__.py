"""Presets: VTM configuration files of measured operating points, applied after the configuration they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastpart.errors import FastpartError

FOLDER = Path(__file__).parent


def preset_file(name: str) -> Path:
    """The file of a preset. Raises FastpartError for an unknown name."""
    path = FOLDER / f"{name}.cfg"
    names = sorted(known.stem for known in FOLDER.glob("*.cfg"))
    if name not in names:
        raise FastpartError(f"preset {name}: not known, wanted one of {', '.join(names)}")
    return path


def preset_options(name: str) -> dict[str, str]:
    """VTM options of a preset, name to value. Raises FastpartError for an unknown name."""
    return read_cfg(preset_file(name))


def require_stock(name: str) -> None:
    """Raises FastpartError for a preset that the stock encoder cannot run."""
    if any(option.startswith("FastPart") for option in preset_options(name)):
        raise FastpartError(f"preset {name}: wants the predictor, which the stock encoder lacks; leave out one of them")


def read_cfg(path: str | Path) -> dict[str, str]:
    """Options of a VTM configuration file, name to value; of one that is given twice, the last.

    Raises FastpartError for a line that is no `Name : value`.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FastpartError(f"{path}: cannot be read ({error.strerror}); check --cfg") from error
    options = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, colon, value = (part.strip() for part in text.partition(":"))
        if not colon or not name or " " in name:
            raise FastpartError(f"{path}, line {number}: found {text!r}, wanted Name : value")
        options[name] = value
    return options


def resulting(cfg_files: Sequence[str | Path], options: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Name, value and origin of each option that configuration files and then the command line set.

    The last that sets an option decides; the others of VTM have their defaults.
    """
    found: dict[str, tuple[str, str]] = {}
    for path in cfg_files:
        found |= {name: (value, Path(path).name) for name, value in read_cfg(path).items()}
    found |= {name: (str(value), "command line") for name, value in options.items()}
    return [(name, value, origin) for name, (value, origin) in found.items()]


def configured(cfg_files: Sequence[str | Path], options: Mapping[str, object]) -> dict[str, str]:
    """Values of what `resulting` lists, by name."""
    return {name: value for name, value, _ in resulting(cfg_files, options)}
