"""Encoder back ends: what turns a raw clip into a bitstream, as a command line that can be measured.

A back end says how to encode and what its output depends on; running, pinning and measuring
are the caller's. Everything that the command starts counts as the encoder.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any, Protocol

from fastpart.encode import configuration
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.presets import configured, require_stock
from fastpart.ratematch import lambda_options, settings
from fastpart.record import sha256_file
from fastpart.vtm import VtmHome, binary_info, encode_command, predictor_options

#: What a command template may name in braces.
PLACEHOLDERS = (
    "input", "width", "height", "fps", "frames", "bit_depth", "qp", "bitstream", "intra_period",
)

#: What it must name.
NEEDED_PLACEHOLDERS = ("input", "qp", "bitstream")


class Backend(Protocol):
    """An encoder with its settings.

    name: `vtm-stock`, `vtm-patched`, `vvenc`, `command`. label: for people, says what it is
    (`VTM-23.2 stock`, `libvvenc 1.13 slower (not VTM)`). fractional_qp: whether it takes QPs that are not whole.
    """

    name: str
    label: str
    fractional_qp: bool

    def command(
        self,
        clip: Clip,
        qp: float,
        bitstream: Path,
        *,
        intra_period: int,
        picture_hash: bool = True,
    ) -> list[str]:
        """The arguments that encode the raw clip to an H.266 byte stream.

        qp: base QP. intra_period: pictures. picture_hash: write the decoded picture hash SEI
        messages, where the encoder can.
        """

    def identity(self) -> dict[str, Any]:
        """Hashes, versions and options of all that determines the output."""


class Vtm:
    """An EncoderApp of VTM, whose log and reconstruction can be read.

    encoder: the binary. cfg_files: configuration files, in order. options: further VTM options,
    which override them. model: of the learned predictor; None for the encoder's own.
    version: what the binary calls itself.
    Raises FastpartError when a file is missing or the binary is no VTM.
    """

    name = "vtm"
    fractional_qp = True

    def __init__(
        self,
        encoder: Path,
        cfg_files: Sequence[Path],
        options: Mapping[str, Any] | None = None,
        *,
        model: Path | None = None,
    ):
        self.encoder = Path(encoder)
        self.cfg_files = [Path(path) for path in cfg_files]
        self.options = dict(options or {})
        self.model = None if model is None else Path(model)
        if self.model and not self.model.is_file():
            raise FastpartError(f"{self.model}: no such model file; check --model")
        self.info = binary_info(self.encoder)
        self.version = self.info.version
        if self.version is None:
            raise FastpartError(
                f"{self.encoder}: does not print a VTM version, wanted an EncoderApp; "
                "build it again and copy it there"
            )
        self.label = f"VTM-{self.version}"

    def command(
        self,
        clip: Clip,
        qp: float,
        bitstream: Path,
        *,
        intra_period: int,
        picture_hash: bool = True,
        recon: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """As `Backend.command`, between whole QPs as `fastpart.ratematch` has it; recon: file for the
        reconstruction, 10 bits a sample; options: over the back end's own."""
        options = {"SEIDecodedPictureHash": int(picture_hash), **self.options, **(options or {})}
        if self.model:
            options["FastPartModel"] = self.model
        whole, factor = settings(qp)
        if factor != 1:
            options |= lambda_options(factor, configured(self.cfg_files, options))
        return encode_command(
            self.encoder, self.cfg_files, clip, whole, bitstream, recon, options,
            intra_period=intra_period,
        )

    def identity(self) -> dict[str, Any]:
        """SHA-256 of encoder, model (or None) and configurations, and the options."""
        cfg = [sha256_file(path) for path in self.cfg_files]
        return {
            "encoder": sha256_file(self.encoder),
            "model": sha256_file(self.model) if self.model else None,
            "cfg": cfg[0] if len(cfg) == 1 else cfg,
            "options": dict(self.options),
        }


class StockVtm(Vtm):
    """The stock encoder of the user's VTM folder. cfg: configurations instead of random access, preset: of
    `fastpart.presets`, after these."""

    name = "vtm-stock"

    def __init__(
        self,
        home: VtmHome,
        options: Mapping[str, Any] | None = None,
        *,
        cfg: Sequence[str | Path] | None = None,
        preset: str | None = None,
    ):
        if preset:
            require_stock(preset)
        super().__init__(home.encoder("stock"), configuration(home, cfg, preset), options)
        self.label = f"VTM-{self.version} stock" + _settings_text(preset, self.options)


class PatchedVtm(Vtm):
    """The patched encoder of the user's VTM folder, with the predictor on; cfg and preset as of `StockVtm`, kappa
    and target_ratio as in `fastpart.vtm.predictor_options`."""

    name = "vtm-patched"

    def __init__(
        self,
        home: VtmHome,
        options: Mapping[str, Any] | None = None,
        *,
        cfg: Sequence[str | Path] | None = None,
        preset: str | None = None,
        model: Path | None = None,
        kappa: float | None = None,
        target_ratio: float | None = None,
    ):
        predictor = predictor_options(kappa, target_ratio, preset)
        super().__init__(
            home.encoder("patched"), configuration(home, cfg, preset), {**predictor, **(options or {})}, model=model,
        )
        self.info.require_fastpart()
        shown = {name: value for name, value in self.options.items() if name != "FastPart"}
        self.label = f"VTM-{self.version} with fastpart" + _settings_text(preset, shown)


class Command:
    """Any encoder, as a command template without a shell.

    template: `prog -i {input} -q {qp} -b {bitstream}`; PLACEHOLDERS lists what may stand in
    braces, `{{` and `}}` are braces. fps is `60` or `30000/1001`, bit_depth that of the input.
    The picture hash is the command's own affair.
    Raises FastpartError for an unknown or missing placeholder and for a program that is not
    there.
    """

    name = "command"
    fractional_qp = False

    def __init__(self, template: str, label: str | None = None):
        self.template = template
        try:
            self._words = shlex.split(template)
            found = {
                field for word in self._words
                for _, field, _, _ in Formatter().parse(word) if field is not None
            }
        except ValueError as error:
            raise FastpartError(f"command {template!r}: cannot be read: {error}") from error
        if unknown := sorted(found - set(PLACEHOLDERS)):
            raise FastpartError(
                f"command {template!r}: has {{{unknown[0]}}}, wanted only "
                + ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            )
        if missing := [name for name in NEEDED_PLACEHOLDERS if name not in found]:
            raise FastpartError(
                f"command {template!r}: lacks {{{missing[0]}}}; write it where the encoder "
                "takes the value"
            )
        program = shutil.which(self._words[0])
        if program is None:
            raise FastpartError(
                f"command {template!r}: no program {self._words[0]}; give its path, "
                "and make it executable"
            )
        # Not resolved: an interpreter of a virtual environment is a link.
        self.program = Path(os.path.abspath(program))
        # The command runs in a folder of its own: relative paths are those of here and now.
        self._words = [str(self.program)] + [
            os.path.abspath(word) if "{" not in word and os.path.isfile(word) else word
            for word in self._words[1:]
        ]
        self.label = label or f"command {Path(self._words[0]).name}"

    def command(
        self,
        clip: Clip,
        qp: int,
        bitstream: Path,
        *,
        intra_period: int,
        picture_hash: bool = True,
    ) -> list[str]:
        """As `Backend.command`. Raises FastpartError for a clip that does not start at 0."""
        if clip.start:
            raise FastpartError(
                f"{clip.path}: starts at frame {clip.start}, wanted 0 for a command; cut it first"
            )
        values = {
            "input": clip.path, "width": clip.width, "height": clip.height, "fps": clip.fps,
            "frames": clip.frames, "bit_depth": clip.bit_depth, "qp": qp, "bitstream": bitstream,
            "intra_period": intra_period,
        }
        return [word.format_map(values) for word in self._words]

    def identity(self) -> dict[str, Any]:
        """The words, and SHA-256 of the program and of each file that they name."""
        files = [word for word in self._words[1:] if "{" not in word and os.path.isfile(word)]
        return {
            "encoder": sha256_file(self.program),
            "model": None,
            "cfg": None,
            "options": {
                "command": shlex.join(self._words),
                "files": {word: sha256_file(word) for word in files},
            },
        }


def _settings_text(preset: str | None, options: Mapping[str, Any]) -> str:
    return (f", preset {preset}" if preset else "") + "".join(f" {name}={value}" for name, value in options.items())
