"""A clip made on the spot, with what natural video has: texture, edges, motion, occlusion, noise.

A textured ground pans by fractions of a sample, patches of other textures move across it on
curved paths, and every frame carries its own sensor noise. Equal arguments give equal bytes.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from fastpart.files import write_bytes_atomic
from fastpart.media import Clip

_PATCHES = 4
_NOISE = 0.8


def make_clip(
    path: Path, width: int = 208, height: int = 120, frames: int = 33, fps: int = 30, seed: int = 1
) -> Clip:
    """Write the clip, 8-bit 4:2:0, to path. width and height in luma samples, even.

    Raises FastpartError when it cannot be written.
    """
    random = np.random.default_rng(seed)
    margin = 48
    ground = _scene(random, width + 2 * margin, height + 2 * margin)
    patches = [
        {
            "scene": _scene(random, width, height),
            "radius": random.uniform(0.12, 0.24) * height,
            "stretch": random.uniform(0.7, 1.6),
            "start": random.uniform((0.1, 0.1), (0.9, 0.9)) * (width, height),
            "speed": random.uniform(-1.6, 1.6, 2),
            "curve": random.uniform(-0.02, 0.02, 2),
        }
        for _ in range(_PATCHES)
    ]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    data = []
    for frame in range(frames):
        picture = _sample(
            ground, x + margin + 0.43 * frame, y + margin + 6 * np.sin(2 * np.pi * frame / 90)
        )
        for patch in patches:
            cx, cy = patch["start"] + patch["speed"] * frame + patch["curve"] * frame**2
            distance = np.hypot((x - cx) / patch["stretch"], y - cy)
            cover = np.clip(patch["radius"] - distance + 0.5, 0, 1)[..., None]
            moved = _sample(patch["scene"], (x - cx) % (width - 2), (y - cy) % (height - 2))
            picture = picture * (1 - cover) + moved * cover
        picture = picture + random.normal(0, _NOISE, picture.shape)
        chroma = picture[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
        for plane in (picture[..., 0], chroma[..., 0], chroma[..., 1]):
            data.append(np.clip(np.rint(plane), 16, 240).astype(np.uint8).tobytes())
    write_bytes_atomic(path, b"".join(data), parents=True)
    return Clip(path, width, height, Fraction(fps), 8, frames)


def _scene(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Y, U and V of regions with sharp edges, each of its own tone and texture, float32."""
    shape = _smooth(random, width, height, 2.4)
    region = np.digitize(shape, np.quantile(shape, [0.2, 0.45, 0.7, 0.88]))
    tones = random.uniform((50, 114, 114), (200, 142, 142), (5, 3))
    strengths = random.uniform(3, 16, 5)
    texture = _smooth(random, width, height, random.uniform(0.9, 1.3))
    picture = tones[region] + 6 * _smooth(random, width, height, 2.0)[..., None]
    picture[..., 0] += strengths[region] * texture
    return picture.astype(np.float32)


def _smooth(random: np.random.Generator, width: int, height: int, slope: float) -> np.ndarray:
    """Noise whose amplitude falls with the frequency to the power of slope; unit variance."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.normal(size=(height, width))) / frequency**slope
    field = np.fft.irfft2(spectrum, (height, width))
    return field / field.std()


def _sample(scene: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear samples of a scene at positions inside it."""
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    above = scene[y0, x0] * (1 - fx) + scene[y0, x0 + 1] * fx
    below = scene[y0 + 1, x0] * (1 - fx) + scene[y0 + 1, x0 + 1] * fx
    return above * (1 - fy) + below * fy
