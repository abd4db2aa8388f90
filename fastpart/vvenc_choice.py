"""Chooses libvvenc's partition depth by temporal layer for a clip and a QP, from cheap features.

What is chosen is a setting: `MaxMTTDepthI`, the digits of `MaxMTTDepth` (TId 0 to 5), and
whether flat blocks are split no further (`ContentBasedFastQtbt`), which still clips at high QPs
need besides. The model is a JSON file: for each of these a linear response of log time and of
loss to the steps away from preset slower, the response itself linear in the clip's features. All
settings are tried in the model; the one with the least predicted loss among those whose
predicted time ratio meets the target is chosen.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastpart.errors import FastpartError
from fastpart.media import Clip

MODEL_SCHEMA = "fastpart.vvenc-choice/1"
DEFAULT_MODEL = Path(__file__).parent / "models" / "vvenc.json"

#: What a setting holds: the depth of I pictures (luma and chroma) and of TId 0 to 5, and 1 where
#: flat blocks are split no further, else 0.
PARTS = ("I", "TId 0", "TId 1", "TId 2", "TId 3", "TId 4", "TId 5", "flat")

#: The setting that is preset slower.
FULL = (3, 3, 3, 3, 3, 3, 2, 0)

#: Names of the features, in the order of `feature_vector`.
FEATURES = ("qp", "texture", "change")

#: At most so many pairs of pictures are looked at.
_PAIRS = 5
_BLOCK = 16
#: Motion is looked for so many samples in each direction.
_REACH = 3


@dataclass(frozen=True)
class Choice:
    """setting: as PARTS. time, loss: predicted, ratio and percent."""

    setting: tuple[int, ...]
    time: float
    loss: float

    @property
    def options(self) -> dict[str, str]:
        """What to tell libvvenc."""
        return setting_options(self.setting)

    def __str__(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{options} (predicted: T {self.time:.3f}, loss {self.loss:+.2f} %)"


def setting_options(setting: Sequence[int]) -> dict[str, str]:
    """The libvvenc options of a setting; MaxMTTDepth has a digit for each TId, the lowest first."""
    return {
        "MaxMTTDepth": "".join(map(str, setting[1:7])),
        "MaxMTTDepthI": str(setting[0]),
        "ContentBasedFastQtbt": str(setting[7]),
    }


def steps(settings: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Depths taken away and switches set, against FULL; of the shape of settings."""
    return np.abs(np.array(FULL) - settings)


def clip_features(clip: Clip, qp: int) -> dict[str, float]:
    """What a raw clip has for the encoder to code at a QP, from the luma of a few pictures.

    Means over 16x16 blocks of log2(1 + a / step), with the quantiser step 2^((QP - 4) / 6) on the
    8-bit scale. texture: a is the block's standard deviation. change: a is twice its mean
    absolute difference from the next picture, at the best displacement of up to 3 samples.
    Raises FastpartError when the file is too short.
    """
    last = max(0, clip.frames - 2)
    starts = sorted({round(last * index / (_PAIRS - 1)) for index in range(_PAIRS)})
    step = 2 ** ((qp - 4) / 6)
    texture, change = [], []
    with _opened(clip) as file:
        for start in starts:
            picture = _luma(file, clip, start)
            texture.append(_blocks(picture).std(axis=(1, 3)).ravel())
            if clip.frames > 1:
                change.append(_change(picture, _luma(file, clip, start + 1)).ravel())
    return {
        "texture": float(np.log2(1 + np.concatenate(texture) / step).mean()),
        "change": float(np.log2(1 + 2 * np.concatenate(change) / step).mean()) if change else 0.0,
    }


def _change(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each block from another picture, at its best displacement."""
    height, width = picture.shape
    padded = np.pad(other, _REACH, mode="edge")
    offsets = range(2 * _REACH + 1)
    return np.minimum.reduce([
        _blocks(np.abs(picture - padded[y : y + height, x : x + width])).mean(axis=(1, 3))
        for y in offsets for x in offsets
    ])


def feature_vector(features: Mapping[str, float], qp: int) -> np.ndarray:
    """float64, in the order of FEATURES."""
    return np.array([{**features, "qp": qp}[name] for name in FEATURES], float)


def load_model(path: Path | None = None) -> dict[str, Any]:
    """Read a model file, the one of this package when None.

    Raises FastpartError when it is unreadable, of another kind or of other features.
    """
    path = Path(path or DEFAULT_MODEL)
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FastpartError(f"{path}: cannot be read ({error.strerror}); check --model") from error
    except ValueError as error:
        raise FastpartError(f"{path}: not JSON ({error}); train it again") from error
    found = model.get("schema") if isinstance(model, dict) else None
    if found != MODEL_SCHEMA:
        raise FastpartError(f"{path}: schema {found!r}, wanted {MODEL_SCHEMA!r}; train it again")
    shapes = {"mean": (len(FEATURES),), "scale": (len(FEATURES),),
              "time": (len(PARTS), 1 + len(FEATURES)), "loss": (len(PARTS), 1 + len(FEATURES))}
    for key, wanted in shapes.items():
        shape = np.shape(model.get(key))
        if shape != wanted:
            raise FastpartError(f"{path}: {key} has shape {shape}, wanted {wanted}; train it again")
    if model.get("features") != list(FEATURES):
        raise FastpartError(
            f"{path}: features {model.get('features')}, wanted {list(FEATURES)}; train it again"
        )
    if not isinstance(model.get("target"), float):
        raise FastpartError(
            f"{path}: target {model.get('target')!r}, wanted a ratio; train it again"
        )
    return model


def predict(model: Mapping[str, Any], x: np.ndarray, moved: np.ndarray) -> tuple[Any, Any]:
    """Predicted time ratio and loss (percent) of settings.

    x: a feature vector. moved: `steps` of the settings, shape (n, parts) or (parts,).
    """
    z = np.concatenate(([1.0], (x - model["mean"]) / np.array(model["scale"])))
    log_time, loss = (moved @ (np.array(model[key]) @ z) for key in ("time", "loss"))
    return np.exp(log_time), loss


def choose(model: Mapping[str, Any], features: Mapping[str, float], qp: int) -> Choice:
    """The setting for a clip; the fastest of all when none meets the model's target."""
    settings = candidates()
    time, loss = predict(model, feature_vector(features, qp), steps(settings))
    meets = np.flatnonzero(time <= model["target"])
    best = meets[np.argmin(loss[meets])] if len(meets) else int(np.argmin(time))
    return Choice(tuple(int(v) for v in settings[best]), float(time[best]), float(loss[best]))


def candidates() -> np.ndarray:
    """All settings to choose from: depths from 1 to the full one, not rising with the TId.

    TId 0 and 1 have one depth, as short clips hardly have pictures of both.
    """
    inter = itertools.product(*(range(1, full + 1) for full in FULL[2:7]))
    falling = [d for d in inter if all(a >= b for a, b in itertools.pairwise(d))]
    return np.array([
        (intra, d[0], *d, flat)
        for flat in (0, 1) for intra in range(1, FULL[0] + 1) for d in falling
    ])


def _opened(clip: Clip):
    try:
        return clip.path.open("rb")
    except OSError as error:
        raise FastpartError(f"{clip.path}: cannot be read ({error.strerror})") from error


def _luma(file, clip: Clip, index: int) -> np.ndarray:
    """Luma of one frame as float32 of shape (height, width), scaled to 0-255."""
    count = clip.width * clip.height
    width = 1 if clip.bit_depth == 8 else 2
    file.seek((clip.start + index) * clip.frame_bytes)
    data = file.read(count * width)
    if len(data) != count * width:
        raise FastpartError(
            f"{clip.path}: ends in frame {clip.start + index}, wanted {clip.frames} frames from "
            f"{clip.start} on; lower --frames"
        )
    samples = np.frombuffer(data, np.uint8 if width == 1 else np.dtype("<u2"))
    return samples.reshape(clip.height, clip.width).astype(np.float32) / 2 ** (clip.bit_depth - 8)


def _blocks(picture: np.ndarray) -> np.ndarray:
    """Whole blocks of a picture: shape (rows, 16, columns, 16); a small picture is one block."""
    height, width = picture.shape
    rows, columns = height // _BLOCK, width // _BLOCK
    if not rows or not columns:
        return picture[None, :, None, :]
    return picture[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
