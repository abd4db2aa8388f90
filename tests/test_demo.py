"""The demo: its clip, and all of it on a very small one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import write_clip

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.timing import demo
from fastpart.timing.edition import load_edition
from fastpart.timing.synthetic import make_clip


def frames_of(clip: Clip) -> np.ndarray:
    """Luma, shape (frames, height, width)."""
    data = np.fromfile(clip.path, "u1").reshape(clip.frames, -1)
    return data[:, : clip.width * clip.height].reshape(-1, clip.height, clip.width).astype(float)


def test_synthetic_clip_moves_like_video(tmp_path):
    clip = make_clip(tmp_path / "new" / "a.yuv", 96, 64, 9)
    assert clip.path.stat().st_size == 9 * clip.frame_bytes
    again = make_clip(tmp_path / "b.yuv", 96, 64, 9)
    assert clip.path.read_bytes() == again.path.read_bytes()
    other = make_clip(tmp_path / "c.yuv", 96, 64, 9, seed=2)
    assert clip.path.read_bytes() != other.path.read_bytes()
    luma = frames_of(clip)
    assert luma.min() >= 16 and luma.max() <= 240 and luma.std() > 10
    # Neighbours are alike; 7 frames on, the ground is found again 3 samples right and down.
    assert abs(luma[1] - luma[0]).mean() < 0.7 * abs(luma[8] - luma[0]).mean()
    moved = np.median(abs(luma[7, :-3, :-3] - luma[0, 3:, 3:]))
    assert moved < 0.6 * np.median(abs(luma[7] - luma[0]))


def test_any_clip_is_made_small(tmp_path, ffmpeg):
    ten_bit = write_clip(tmp_path / "Ramp_96x64_30_10bit.yuv", 96, 64, 6, 10)
    small = demo.prepare_clip(str(ten_bit.path), (64, 64), 4, tmp_path)
    assert (small.width, small.height, small.frames, small.bit_depth) == (64, 64, 4, 10)
    assert small.path.stat().st_size == 4 * small.frame_bytes
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=160x90:rate=25:duration=1", "-pix_fmt", "yuv420p",
           tmp_path / "a.mp4")
    small = demo.prepare_clip(str(tmp_path / "a.mp4"), (64, 48), 5, tmp_path)
    assert (small.width, small.height, small.fps) == (64, 48, Fraction(25))
    assert frames_of(small).std() > 10
    with pytest.raises(FastpartError, match="99"):
        demo.prepare_clip(str(tmp_path / "a.mp4"), (64, 48), 99, tmp_path)
    assert not list(tmp_path.glob(".clip.*"))


def test_demo_rules_are_those_of_the_challenge_but_for_the_encoder():
    rules, challenge = load_edition("demo-vvenc"), load_edition("iscas2026-encoder")
    for name in ("qps", "time_limit", "single_thread", "rate", "limit_intra_period", "psnr_weights"):
        assert getattr(rules, name) == getattr(challenge, name)
    assert rules.decoders == ("ffmpeg",)
    assert "not VTM" in rules.title and "not a challenge result" in rules.title
