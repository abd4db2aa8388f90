"""The plan of a measurement: which variants of the encoder on which cuts at which QPs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastpart.encode import OWN_OPTIONS
from fastpart.errors import FastpartError
from fastpart.presets import preset_options
from fastpart.vtm import ALL_SIZES, VARIANTS

#: Plans that come with the package, named without their suffix.
PLANS_FOLDER = Path(__file__).with_name("plans")

#: VTM options that a measurement sets itself, and the key of the plan to use instead, if any.
RESERVED_OPTIONS = {
    **dict.fromkeys(OWN_OPTIONS, None),
    "QP": "qps",
    "IntraPeriod": "intra_period",
    "FastPartKappa": "kappa",
    "FastPartTargetRatio": "target_ratio",
    "FastPartModel": "model",
    "SEIDecodedPictureHash": None,
    "OutputBitDepth": None,
}
del RESERVED_OPTIONS["FastPart"]

_PLAN_KEYS = {"cuts", "qps", "intra_period", "anchor", "variant"}
_VARIANT_KEYS = {"binary", "base", "preset", "options", "model", "kappa", "target_ratio"}


@dataclass(frozen=True)
class Variant:
    """One encoder with its settings.

    binary: `stock` or `patched`. options: VTM options, name to value.
    model: model file, None for the one compiled in. target_ratio: share of the time without skips
    that the encoder steers for, None for its default; kappa: the fixed knob instead, None for none.
    """

    name: str
    binary: str
    options: dict[str, str | int | float]
    model: Path | None = None
    kappa: float | None = None
    target_ratio: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure. cuts: names in a cuts file. intra_period: pictures, None for each cut's
    own. anchor: the variant that every pairing contains. variants: by name, in running order."""

    path: Path
    cuts: tuple[str, ...]
    qps: tuple[int, ...]
    anchor: str
    variants: dict[str, Variant]
    intra_period: int | None = None

    def restricted(
        self,
        *,
        cuts: Sequence[str] | None = None,
        qps: Sequence[int] | None = None,
        variants: Sequence[str] | None = None,
    ) -> Plan:
        """The part of the plan with these cuts, QPs and variants, None for all; the anchor stays.

        Cuts and QPs need not be the plan's. Raises FastpartError for an unknown variant.
        """
        unknown = [name for name in variants or () if name not in self.variants]
        if unknown:
            raise FastpartError(
                f"{self.path}: no variant {', '.join(unknown)}, wanted some of "
                f"{', '.join(self.variants)}"
            )
        kept = {
            name: variant
            for name, variant in self.variants.items()
            if variants is None or name in variants or name == self.anchor
        }
        plan = replace(
            self,
            cuts=tuple(dict.fromkeys(cuts or self.cuts)),
            qps=tuple(dict.fromkeys(qps or self.qps)),
            variants=kept,
        )
        _check_qps(self.path, plan.qps)
        return plan


def load_plan(path: str | Path) -> Plan:
    """Read a plan file, or the plan of that name that comes with the package (`main`).

    Raises FastpartError naming the key that is missing, unknown or wrong.
    """
    try:
        import tomllib
    except ModuleNotFoundError:
        import tomli as tomllib

    path = _plan_path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FastpartError(f"{path}: cannot be read as TOML: {error}") from error
    _check_keys(path, "the plan", data, _PLAN_KEYS, {"cuts", "qps", "anchor", "variant"})
    for key, kind, example in (
        ("cuts", str, '["juggle_416x240_24"]'), ("qps", int, "[22, 27, 32, 37]"),
    ):
        values = data[key]
        if not isinstance(values, list) or not values or not all(type(v) is kind for v in values):
            raise FastpartError(f"{path}: {key} = {values!r}, wanted a list such as {example}")
    _check_qps(path, data["qps"])
    intra_period = data.get("intra_period")
    if intra_period is not None and (type(intra_period) is not int or intra_period < 1):
        raise FastpartError(f"{path}: intra_period = {intra_period!r}, wanted a number of pictures")
    variants: dict[str, Variant] = {}
    for name, entry in data["variant"].items():
        variants[name] = _variant(path, name, entry, variants)
    if data["anchor"] not in variants:
        raise FastpartError(
            f"{path}: anchor = {data['anchor']!r}, wanted one of the variants {', '.join(variants)}"
        )
    return Plan(
        path,
        tuple(dict.fromkeys(data["cuts"])),
        tuple(dict.fromkeys(data["qps"])),
        data["anchor"],
        variants,
        intra_period,
    )


def _plan_path(path: str | Path) -> Path:
    bundled = PLANS_FOLDER / f"{path}.toml"
    if Path(path).is_file() or not bundled.is_file():
        return Path(path)
    return bundled


def _check_qps(path: Path, qps: Sequence[int]) -> None:
    if wrong := [qp for qp in qps if not 0 <= qp <= 63]:
        raise FastpartError(f"{path}: QP {wrong[0]}, wanted 0 to 63")


def _check_keys(path: Path, what: str, found: dict, known: set[str], needed: set[str]) -> None:
    if missing := sorted(needed - set(found)):
        raise FastpartError(f"{path}: {what} lacks {', '.join(missing)}")
    if unknown := sorted(set(found) - known):
        raise FastpartError(
            f"{path}: {what} has {', '.join(unknown)}, wanted only {', '.join(sorted(known))}"
        )


def _variant(path: Path, name: str, entry: dict, before: dict[str, Variant]) -> Variant:
    what = f"variant {name}"
    # The name becomes part of file names, between underscores.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", name):
        raise FastpartError(f"{path}: {what}: wanted a name of letters, digits, '.', '+' and '-'")
    _check_keys(path, what, entry, _VARIANT_KEYS, {"binary"})
    binary, base = entry["binary"], entry.get("base")
    if binary not in VARIANTS:
        raise FastpartError(f"{path}: {what}: binary = {binary!r}, wanted {' or '.join(VARIANTS)}")
    if base is not None and base not in before:
        raise FastpartError(f"{path}: {what}: base = {base!r}, wanted a variant above it")
    preset = preset_options(entry["preset"]) if "preset" in entry else {}
    # Its knob is the variant's, unless that has its own.
    knobs = {
        RESERVED_OPTIONS[option]: float(preset.pop(option))
        for option in ("FastPartKappa", "FastPartTargetRatio") if option in preset
    }
    options = {**(before[base].options if base else {}), **preset}
    if "target_ratio" in entry:
        options = {option: value for option, value in options.items() if option not in ALL_SIZES}
    options |= entry.get("options", {})
    for option, value in options.items():
        if option in RESERVED_OPTIONS:
            instead = RESERVED_OPTIONS[option]
            raise FastpartError(
                f"{path}: {what}: option {option} is set by the measurement; "
                + (f"use the key {instead}" if instead else "leave it out")
            )
        if not isinstance(value, (str, int, float)):
            raise FastpartError(f"{path}: {what}: {option} = {value!r}, wanted a number or a text")
    model, kappa, target = (entry.get(key) for key in ("model", "kappa", "target_ratio"))
    if (kappa, target) == (None, None):
        kappa, target = (knobs.get(key) for key in ("kappa", "target_ratio"))
    learned = bool(model) or (kappa, target) != (None, None) or any(
        name.startswith("FastPart") for name in options
    )
    if binary == "stock" and learned:
        raise FastpartError(
            f"{path}: {what}: the stock encoder has no model, kappa, target_ratio or FastPart options; "
            'set binary = "patched" or leave them out'
        )
    for key, value in (("kappa", kappa), ("target_ratio", target)):
        if value is not None and type(value) not in (int, float):
            raise FastpartError(f"{path}: {what}: {key} = {value!r}, wanted a number")
    if kappa is not None and target is not None:
        raise FastpartError(f"{path}: {what}: kappa and target_ratio, wanted one of them")
    if model is not None:
        model = path.parent / model
        if not model.is_file():
            raise FastpartError(f"{path}: {what}: model {model}: no such file")
    return Variant(name, binary, options, model, kappa, target)
