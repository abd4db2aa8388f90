"""The VTM-23.2 back end: finds the user's binaries, runs one encode, reads what it reports."""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.quality import weighted_psnr
from fastpart.supervise import Limits, Usage, run_measured

VERSION = "23.2"
HOME_VARIABLE = "FASTPART_VTM_HOME"
DEFAULT_HOME = "~/.cache/fastpart/vtm"
VARIANTS = ("stock", "patched")

#: Bit depth of reconstructions: the depth in which VTM's configurations code and measure.
RECON_BIT_DEPTH = 10

_PICTURE = re.compile(
    r"^POC\s+(?P<poc>-?\d+)\s+LId:\s*(?P<lid>\d+)\s+TId:\s*(?P<tid>\d+)\s+"
    r"\(\s*(?P<nal>\w+),\s*(?P<slice>\w)-SLICE,\s*QP\s*(?P<qp>-?\d+)\s*\)\s+(?P<bits>\d+) bits\s+"
    r"\[Y\s+(?P<y>\S+) dB\s+U\s+(?P<u>\S+) dB\s+V\s+(?P<v>\S+) dB\]"
    r"(?:.*?\[ET\s+(?P<et>[\d.]+)\s*\])?"
)
_SUMMARY = re.compile(r"^\s+(\d+)\s+a\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)")
_TOTAL_TIME = re.compile(r"^\s*Total Time:\s+(\S+) sec\. \[user\]")
_COUNTERS = "fastpart:"


@dataclass(frozen=True)
class VtmHome:
    """Folder of the user's own VTM: `23.2/stock`, `23.2/patched` (EncoderApp, DecoderApp,
    parcat) and `23.2/cfg`, the cfg folder of the VTM tree. version: another one than 23.2."""

    root: Path
    origin: str
    version: str = VERSION

    @classmethod
    def find(cls, path: str | os.PathLike | None = None, version: str = VERSION) -> VtmHome:
        """The folder given, else $FASTPART_VTM_HOME, else ~/.cache/fastpart/vtm.

        It need not exist: what is missing is reported by the file that is asked for.
        """
        if path is not None:
            return cls(Path(path).expanduser(), "--vtm-home", version)
        if os.environ.get(HOME_VARIABLE):
            return cls(Path(os.environ[HOME_VARIABLE]).expanduser(), f"${HOME_VARIABLE}", version)
        return cls(
            Path(DEFAULT_HOME).expanduser(), f"the default, as ${HOME_VARIABLE} is not set", version
        )

    def encoder(self, variant: str) -> Path:
        """EncoderApp of a variant, `stock` or `patched`. Raises FastpartError when absent."""
        return self._binary(variant, "EncoderApp")

    def decoder(self) -> Path:
        """DecoderApp of the stock build. Raises FastpartError when absent."""
        return self._binary("stock", "DecoderApp")

    def parcat(self) -> Path:
        """parcat of the stock build, which joins bitstreams. Raises FastpartError when absent."""
        return self._binary("stock", "parcat")

    def cfg(self, name: str | os.PathLike) -> Path:
        """A configuration file: its name in the tree's cfg folder, or else a path.

        Raises FastpartError when neither exists.
        """
        in_tree = self.root / self.version / "cfg" / name
        for candidate in (in_tree, Path(name)):
            if candidate.is_file():
                return candidate
        raise FastpartError(
            f"{name}: no such configuration, neither {in_tree} nor a file of that path; copy the "
            f"cfg folder of the VTM-{self.version} tree to {self.root / self.version / 'cfg'} "
            f"(VTM home from {self.origin})"
        )

    def _binary(self, variant: str, name: str) -> Path:
        path = self.root / self.version / variant / name
        if path.is_file() and os.access(path, os.X_OK):
            return path
        found = "it is not executable (chmod +x)" if path.is_file() else "there is no such file"
        first = "run fastpart patch apply on the tree, then " if variant == "patched" else ""
        raise FastpartError(
            f"VTM-{self.version} {variant}/{name}: wanted at {path}, {found} (VTM home from "
            f"{self.origin}); {first}build VTM-{self.version} as its README says and copy EncoderApp, "
            f"DecoderApp and parcat to {path.parent}, or name another folder with "
            f"--vtm-home or ${HOME_VARIABLE}"
        )


@dataclass(frozen=True)
class Picture:
    """What VTM prints for one coded picture.

    poc: display order. tid: temporal layer. slice_type: `I`, `P`, `B`, lower case when
    not used for reference. qp: of its slices. bits: coded, SEI not counted.
    psnr: (Y, U, V) in dB at the internal bit depth; 999.99 where lossless.
    seconds: VTM's own time for it, rounded down to whole seconds.
    """

    poc: int
    tid: int
    nal_type: str
    slice_type: str
    qp: int
    bits: int
    psnr: tuple[float, float, float]
    seconds: float | None


@dataclass(frozen=True)
class EncodeResult:
    """One finished encode.

    kbps: VTM's summary bitrate, without SEI, at the frame rate of the command.
    psnr: averages over the pictures of (Y, U, V), dB. vtm_yuv_psnr: VTM's own combined value.
    vtm_user_s: the `[user]` time VTM prints, its process's CPU time.
    counters: numbers from the engine's `fastpart:` log lines by name; empty for stock.
    model_checksum: hexadecimal, of the model the engine ran with; None for stock.
    Of another encoder than VTM only argv, log_path, core and usage are known.
    """

    argv: tuple[str, ...]
    log_path: Path
    core: int | None
    usage: Usage
    pictures: tuple[Picture, ...] = ()
    kbps: float | None = None
    psnr: tuple[float, float, float] | None = None
    vtm_yuv_psnr: float | None = None
    vtm_user_s: float | None = None
    counters: dict[str, float] = field(default_factory=dict)
    model_checksum: str | None = None

    @property
    def psnr_611(self) -> float | None:
        """(6Y + U + V) / 8 of the averages, dB."""
        return None if self.psnr is None else weighted_psnr(*self.psnr)


@dataclass(frozen=True)
class BinaryInfo:
    """What a VTM binary says of itself. version: `23.2`; None when it is no VTM.
    has_fastpart: it knows the options that the patch adds."""

    binary: Path
    version: str | None
    has_fastpart: bool

    def require_fastpart(self) -> None:
        """Raises FastpartError when the encoder has no predictor."""
        if not self.has_fastpart:
            raise FastpartError(
                f"{self.binary}: does not know --FastPart, wanted a build of the patched tree; "
                "run fastpart patch apply on the VTM tree, build it again and copy it here"
            )


def binary_info(binary: str | os.PathLike) -> BinaryInfo:
    """Ask a VTM binary for its help text. Raises FastpartError when it cannot be run."""
    try:
        done = subprocess.run(
            [str(binary), "--help"], check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FastpartError(
            f"{binary}: cannot be run ({error}); build it on this machine"
        ) from error
    text = done.stdout.decode("utf-8", "replace")
    version = re.search(r"VTM (?:\w+ )?Version (\S+)|version VTM (\S+)", text)
    return BinaryInfo(
        binary=Path(binary),
        version=(version[1] or version[2]) if version else None,
        has_fastpart="--FastPart" in text,
    )


def intra_period_for(fps: Fraction | float) -> int:
    """Intra period in pictures for random access: the multiple of 32 nearest to one second.

    Source: JVET-T2010, VTM common test conditions (24-30 fps: 32, 50-60 fps: 64).
    """
    return max(32, 32 * math.floor(fps / 32 + Fraction(1, 2)))


def encode_command(
    encoder: str | os.PathLike,
    cfg_files: Iterable[str | os.PathLike],
    clip: Clip,
    qp: int,
    bitstream: str | os.PathLike,
    recon: str | os.PathLike | None = None,
    options: Mapping[str, object] | None = None,
    *,
    intra_period: int | None = None,
) -> list[str]:
    """The argument list of one encode.

    options: further VTM options, name to value; they come last and so override.
    recon: file for the reconstruction, RECON_BIT_DEPTH bits a sample; none is written
    when None. intra_period: in pictures, `intra_period_for` the clip's rate when None.
    """
    # VTM reads the rate as NUM:DEN with integers, and "29.97" as 29.
    rate = f"{clip.fps.numerator}:{clip.fps.denominator}"
    argv = [str(encoder)]
    for cfg in cfg_files:
        argv += ["-c", str(cfg)]
    argv += [
        "-i", str(clip.path),
        "-wdt", str(clip.width),
        "-hgt", str(clip.height),
        "-fr", rate,
        "-fs", str(clip.start),
        "-f", str(clip.frames),
        "-q", str(qp),
        "-b", str(bitstream),
        "-o", str(recon) if recon is not None else os.devnull,
        "--InputChromaFormat=420",
        f"--InputBitDepth={clip.bit_depth}",
        f"--OutputBitDepth={RECON_BIT_DEPTH}",
        f"--IntraPeriod={intra_period or intra_period_for(clip.fps)}",
    ]
    if clip.width % 8 or clip.height % 8:
        # Pad to the minimum CU size and signal the window (H.266 clause 7.4.3.5).
        argv.append("--ConformanceWindowMode=1")
    for name, value in (options or {}).items():
        argv.append(f"--{name}={int(value) if isinstance(value, bool) else value}")
    return argv


def parse_picture(line: str) -> Picture | None:
    """Read VTM's line for one picture; None for any other line."""
    match = _PICTURE.match(line)
    if not match:
        return None
    return Picture(
        poc=int(match["poc"]),
        tid=int(match["tid"]),
        nal_type=match["nal"],
        slice_type=match["slice"],
        qp=int(match["qp"]),
        bits=int(match["bits"]),
        psnr=(float(match["y"]), float(match["u"]), float(match["v"])),
        seconds=float(match["et"]) if match["et"] else None,
    )


#: Besides FastPartTargetRatio: that at all picture sizes, whatever a preset has for large ones.
ALL_SIZES = {"FastPartTargetRatioHD": 0}


def target_options(target_ratio: float) -> dict[str, float]:
    """Options of the patched encoder that make it follow a target at all picture sizes."""
    return {"FastPartTargetRatio": target_ratio, **ALL_SIZES}


def speed_options(kappa: float | None, target_ratio: float | None) -> dict[str, float]:
    """Options of the patched encoder that make it follow a fixed knob or a target share of the time
    without skips. Raises FastpartError when both are given."""
    if kappa is not None and target_ratio is not None:
        raise FastpartError("kappa and target ratio are both given, wanted one of them")
    if kappa is not None:
        return {"FastPartTargetRatio": 0, "FastPartKappa": kappa}
    return {} if target_ratio is None else {"FastPartTargetRatio": target_ratio}


def predictor_options(
    kappa: float | None = None, target_ratio: float | None = None, preset: str | None = None
) -> dict[str, float]:
    """Options that switch the predictor on, at a speed as in `speed_options`. With a preset, that alone decides
    whether it runs, unless a speed is given."""
    speed = speed_options(kappa, target_ratio)
    if preset and target_ratio is not None:
        speed = target_options(target_ratio)
    return {"FastPart": 1, **speed} if speed or not preset else {}


def parse_counters(line: str) -> dict[str, str]:
    """Fields of a `fastpart: key=value key=value` line; empty for any other line.

    A line that begins with `candidate=NAME` or `layer=NAME` counts for that alone: its other
    fields get the name in front, `NAME.key`.
    """
    if not line.startswith(_COUNTERS):
        return {}
    fields = dict(re.findall(r"(\w+)=(\S+)", line))
    name = fields.pop("candidate", None) or fields.pop("layer", None)
    return {f"{name}.{key}": value for key, value in fields.items()} if name else fields


def _numbers(fields: Mapping[str, str]) -> dict[str, float]:
    """The fields that are finite numbers."""
    numbers: dict[str, float] = {}
    for key, text in fields.items():
        with contextlib.suppress(ValueError):
            value = float(text)
            if math.isfinite(value):
                numbers[key] = int(text) if re.fullmatch(r"-?\d+", text) else value
    return numbers


def run_encoder(
    argv: Sequence[str | os.PathLike],
    log_path: str | os.PathLike,
    on_picture: Callable[[Picture], None] | None = None,
    core: int | None = None,
    limits: Limits = Limits(),
    share_nice: int | None = None,
) -> EncodeResult:
    """Run EncoderApp to its end and read its log.

    on_picture is called after each coded picture, in coding order; core pins the encoder;
    limits: what it may take; share_nice: see `run_measured`.
    Raises FastpartError when it fails or ends without a summary.
    """
    pictures: list[Picture] = []
    summary: list[float] = []
    counters: dict[str, str] = {}
    vtm_user_s: float | None = None

    def read(line: str) -> None:
        nonlocal vtm_user_s
        if picture := parse_picture(line):
            pictures.append(picture)
            if on_picture:
                on_picture(picture)
        elif found := _SUMMARY.match(line):
            summary[:] = map(float, found.groups())
        elif found := _TOTAL_TIME.match(line):
            vtm_user_s = float(found[1])
        else:
            counters.update(parse_counters(line))

    usage = run_measured(argv, log_path, read, core, limits, share_nice=share_nice)
    if not summary or not pictures:
        raise FastpartError(
            f"{log_path}: {len(pictures)} pictures and {'a' if summary else 'no'} summary in the "
            f"log, wanted both; is {argv[0]} the EncoderApp of VTM-{VERSION}?"
        )
    _, kbps, y, u, v, yuv = summary
    model_checksum = counters.pop("model", None)
    return EncodeResult(
        argv=tuple(map(str, argv)),
        log_path=Path(log_path),
        core=core,
        usage=usage,
        pictures=tuple(pictures),
        kbps=kbps,
        psnr=(y, u, v),
        vtm_yuv_psnr=yuv,
        vtm_user_s=vtm_user_s,
        counters=_numbers(counters),
        model_checksum=model_checksum,
    )
