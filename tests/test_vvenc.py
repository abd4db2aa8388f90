"""The libvvenc back end and its learned partition depths."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import write_clip

from fastpart import vvenc
from fastpart.bitstream import bitstream_bits
from fastpart.errors import FastpartError
from fastpart.media import Clip
from fastpart.quality import psnr
from fastpart.vvenc import Ffmpeg, Vvenc, encode_command
from fastpart.vvenc_choice import (
    DEFAULT_MODEL,
    FEATURES,
    FULL,
    MODEL_SCHEMA,
    PARTS,
    candidates,
    choose,
    clip_features,
    feature_vector,
    load_model,
    predict,
    setting_options,
    steps,
)


def pictures(bitstream: Path) -> list[tuple[int, int]]:
    """(nal_unit_type, TemporalId) of each coded picture (H.266 clause 7.3.1.2)."""
    data = bitstream.read_bytes()
    found, at = [], data.find(b"\0\0\1")
    while at >= 0:
        if data[at + 4] >> 3 < 12:
            found.append((data[at + 4] >> 3, (data[at + 4] & 7) - 1))
        at = data.find(b"\0\0\1", at + 3)
    return found


def decode(bitstream: Path, clip: Clip, out: Path) -> Clip:
    subprocess.run(
        [Ffmpeg.find().path, "-nostdin", "-v", "error", "-y", "-f", "vvc", "-i", bitstream,
         "-fps_mode", "passthrough", "-pix_fmt", "yuv420p10le", "-f", "rawvideo", out], check=True,
    )
    return replace(clip, path=out, bit_depth=10, start=0)


def encode(clip: Clip, out: Path, **settings) -> Path:
    settings = {"intra_period": 32, "preset": "faster", **settings}
    subprocess.run(encode_command(Ffmpeg.find().path, clip, 37, out, **settings), check=True)
    return out


def test_the_bundled_ffmpeg_has_what_is_needed():
    found = Ffmpeg.find()
    assert found.path.is_file() and found.version and found.libvvenc[0].isdigit()


def test_structure_is_that_of_random_access(tmp_path):
    clip = write_clip(tmp_path / "a.yuv", 64, 64, 65)
    one = pictures(encode(clip, tmp_path / "a.266", intra_period=64))
    # IDR at POC 0, then POC 32 of TId 0, 16 of TId 1, 8 of TId 2 ...; a CRA (type 9) at POC 64.
    assert [tid for _, tid in one[:7]] == [0, 0, 1, 2, 3, 4, 5]
    assert one[0][0] in (7, 8) and [kind for kind, _ in one].count(9) == 1
    two = pictures(encode(clip, tmp_path / "b.266", intra_period=32))
    assert [kind for kind, _ in two].count(9) == 2
    assert len(one) == len(two) == 65


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_encodes_the_frames_asked_for(tmp_path, bit_depth):
    whole = write_clip(tmp_path / "a.yuv", 64, 64, 5, bit_depth)
    part = replace(whole, start=2, frames=3)
    decoded = decode(encode(part, tmp_path / "a.266"), part, tmp_path / "d.yuv")
    right = psnr(part, decoded).psnr_611
    wrong = psnr(replace(part, start=0), decoded).psnr_611
    assert right > 30 and right > wrong + 3


def test_eight_bits_are_moved_up_without_change(tmp_path):
    path = tmp_path / "ramp.yuv"
    path.write_bytes(bytes(range(256)) * 24)
    clip = Clip(path, 64, 64, Fraction(30), 8, 1)
    argv = encode_command(Ffmpeg.find().path, clip, 30, tmp_path / "o", intra_period=32)
    codec = argv.index("-c:v")
    raw = tmp_path / "raw.yuv"
    subprocess.run([*argv[:codec], "-f", "rawvideo", str(raw)], check=True)
    assert (np.fromfile(raw, "<u2") == np.fromfile(path, "u1").astype(int) << 2).all()


def test_picture_hash_is_an_sei(tmp_path, clip):
    with_hash = bitstream_bits(encode(clip, tmp_path / "a.266", picture_hash=True))
    without = bitstream_bits(encode(clip, tmp_path / "b.266", picture_hash=False))
    assert with_hash["total"] - with_hash["sei"] == without["total"] - without["sei"]
    assert with_hash["sei"] > without["sei"]


def test_output_does_not_depend_on_the_run(tmp_path, clip):
    first, second = (encode(clip, tmp_path / f"{n}.266").read_bytes() for n in "ab")
    assert first == second


def test_command_and_identity(tmp_path, clip):
    backend = Vvenc("slow", options={"MaxMTTDepth": 222222})
    argv = backend.command(clip, 32, tmp_path / "o.266", intra_period=64)
    said = " ".join(argv)
    assert argv[0] == str(Ffmpeg.find().path) and argv[-1] == str(tmp_path / "o.266")
    for words in ("-threads 1 ", "-preset slow -qp 32 -qpa 0 ", ":IntraPeriod=64:", "GOPSize=32:",
                  ":SEIDecodedPictureHash=md5:", ":MaxMTTDepth=222222 "):
        assert words in said
    assert "SEIDecodedPictureHash=off" in " ".join(
        backend.command(clip, 32, tmp_path / "o.266", intra_period=64, picture_hash=False)
    )
    identity = backend.identity()
    assert len(identity["encoder"]) == 64 and identity["model"] is None
    assert identity["options"]["preset"] == "slow"
    assert identity["options"]["MaxMTTDepth"] == "222222"
    assert "not VTM" in backend.label and "slow MaxMTTDepth=222222" in backend.label
    json.dumps(identity)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"preset": "slowest"}, "preset slowest: wanted one of faster, fast"),
        ({"options": {"IntraPeriod": 32}}, "option IntraPeriod: is set by intra_period"),
        ({"options": {"QP": "3:verbosity=6"}}, "wanted a name and a value without `:`"),
        ({"accelerate": True, "preset": "slow"}, "starts from preset slower"),
        ({"accelerate": True, "model": Path("/none.json")}, "/none.json: cannot be read"),
    ],
)
def test_settings_that_cannot_be(arguments, said):
    with pytest.raises(FastpartError, match=said.replace("(", r"\(")):
        Vvenc(**arguments)


def fake_ffmpeg(folder: Path, body: str) -> Path:
    path = folder / "ffmpeg"
    path.write_text(f"#!{sys.executable} -I\nimport sys\nargv = ' '.join(sys.argv)\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("print('ffmpeg version 4')", "has no encoder libvvenc, wanted an ffmpeg with it; pip"),
        ("print('Encoder libvvenc [x]:')", "has no decoder vvc"),
        ("print('Encoder libvvenc [x]:\\nDecoder vvc [x]:\\nbroken')",
         "libvvenc does not encode a picture(.|\n)*broken"),
    ],
)
def test_ffmpeg_that_lacks_something(tmp_path, monkeypatch, body, said):
    path = fake_ffmpeg(tmp_path, body)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))
    with pytest.raises(FastpartError, match=said) as error:
        Vvenc()
    assert str(path) in str(error.value)


def test_features_are_plain_and_deterministic(tmp_path):
    clip = write_clip(tmp_path / "a.yuv", 64, 48, 2)
    features = clip_features(clip, 34)
    assert features == clip_features(clip, 34)
    assert set(features) | {"qp"} == set(FEATURES)
    first, second = np.fromfile(clip.path, "u1").reshape(2, -1)[:, : 64 * 48].reshape(2, 48, 64).astype(float)
    texture, change = [], []
    for y in range(0, 48, 16):
        for x in range(0, 64, 16):
            block = first[y : y + 16, x : x + 16]
            texture.append(block.std())
            rows, columns = (
                [np.clip(np.arange(16) + at + d, 0, size - 1) for d in range(-3, 4)]
                for at, size in ((y, 48), (x, 64))
            )
            change.append(min(abs(block - second[np.ix_(r, c)]).mean() for r in rows for c in columns))
    for name, values in (("texture", texture), ("change", 2 * np.array(change))):
        assert features[name] == pytest.approx(np.log2(1 + np.array(values) / 32).mean(), rel=1e-4)
    assert feature_vector(features, 34)[FEATURES.index("qp")] == 34


def test_features_do_not_depend_on_depth_or_place_in_the_file(tmp_path):
    clip = write_clip(tmp_path / "a.yuv", 64, 64, 6)
    ten = tmp_path / "b.yuv"
    padding = np.zeros(64 * 64 * 3 // 2 * 2, "<u2")
    (np.fromfile(clip.path, "u1").astype("<u2") << 2).tofile(ten)
    ten.write_bytes(padding.tobytes() + ten.read_bytes())
    moved = replace(clip, path=ten, bit_depth=10, start=2)
    assert clip_features(moved, 27) == clip_features(clip, 27)


def test_features_of_still_and_of_short_clips(tmp_path):
    path = tmp_path / "still.yuv"
    path.write_bytes(bytes([90]) * (64 * 64 * 3 // 2) * 4)
    assert clip_features(Clip(path, 64, 64, Fraction(30), 8, 4), 22) == {"texture": 0, "change": 0}
    assert clip_features(Clip(path, 64, 64, Fraction(30), 8, 1), 22)["change"] == 0
    small = clip_features(Clip(path, 8, 8, Fraction(30), 8, 2), 37)
    assert all(np.isfinite(value) for value in small.values())
    with pytest.raises(FastpartError, match="ends in frame 4, wanted 5 frames"):
        clip_features(Clip(path, 64, 64, Fraction(30), 8, 5), 22)


def model_of(time: np.ndarray, loss: np.ndarray, target: float = 0.7) -> dict:
    columns = 1 + len(FEATURES)
    return {
        "schema": MODEL_SCHEMA, "features": list(FEATURES), "parts": list(PARTS),
        "mean": [0.0] * len(FEATURES), "scale": [1.0] * len(FEATURES),
        "time": np.pad(time[:, None], ((0, 0), (0, columns - 1))).tolist(),
        "loss": np.pad(loss[:, None], ((0, 0), (0, columns - 1))).tolist(), "target": target,
    }


def test_choice_is_the_least_loss_within_the_target():
    random = np.random.default_rng(5)
    features = dict.fromkeys(FEATURES, 1.0)
    vectors = candidates()
    for _ in range(20):
        time, loss = -random.uniform(0, 0.15, len(PARTS)), random.uniform(0, 1, len(PARTS))
        model = model_of(time, loss)
        found = choose(model, features, 32)
        every = [(np.exp(sum(time * r)), sum(loss * r)) for r in steps(vectors)]
        within = [loss for t, loss in every if t <= 0.7]
        if within:
            assert found.loss == pytest.approx(min(within)) and found.time <= 0.7
        else:
            assert found.time == pytest.approx(min(t for t, _ in every))
        assert predict(model, feature_vector(features, 32), np.zeros(len(PARTS))) == (1, 0)


def test_candidates_fall_with_the_layer_and_keep_a_split():
    vectors = candidates()
    assert len({tuple(v) for v in vectors}) == len(vectors)
    assert tuple(FULL) in {tuple(v) for v in vectors}
    depths = vectors[:, :-1]
    assert (np.diff(depths[:, 1:], axis=1) <= 0).all()
    assert depths.min() == 1 and (depths <= FULL[:-1]).all()
    assert set(vectors[:, -1]) == {0, 1}


def test_depths_act_on_their_own_layer(tmp_path):
    """One digit for each TId, the lowest first; I pictures have an option of their own."""
    clip = write_clip(tmp_path / "a.yuv", 64, 64, 1)
    one = {}
    for name, setting in (("full", FULL), ("inter", (3, 1, 1, 1, 1, 1, 1, 0)), ("I", (0, *FULL[1:]))):
        out = encode(clip, tmp_path / f"{name}.266", options=setting_options(setting))
        one[name] = decode(out, clip, tmp_path / f"{name}.yuv").path.read_bytes()
    assert one["full"] == one["inter"] != one["I"]


def test_committed_model_can_be_used():
    model = load_model()
    assert DEFAULT_MODEL.stat().st_size < 20_000
    assert model["parts"] == list(PARTS)
    vector = candidates()
    for qp in (22, 27, 32, 37):
        found = choose(model, {"texture": 1.0, "change": 0.6}, qp)
        assert found.loss < 10 and found.time < 1
        assert found.setting in {tuple(v) for v in vector}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "x"}, "schema 'x', wanted"),
        ({"features": ["qp"]}, "features \\['qp'\\], wanted"),
        ({"time": [[1.0]]}, "time has shape \\(1, 1\\), wanted \\(8, 4\\)"),
        ({"target": None}, "target None, wanted a ratio"),
    ],
)
def test_model_file_round_trip_and_errors(tmp_path, change, said):
    model = model_of(np.zeros(len(PARTS)), np.zeros(len(PARTS)))
    path = tmp_path / "m.json"
    path.write_text(json.dumps(model))
    assert load_model(path) == model
    path.write_text(json.dumps({**model, **change}))
    with pytest.raises(FastpartError, match=said) as error:
        load_model(path)
    assert str(path) in str(error.value)


def test_model_file_that_is_no_json(tmp_path):
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(FastpartError, match="m.json: not JSON"):
        load_model(tmp_path / "m.json")


def test_accelerated_encode_is_one_process(tmp_path, clip, monkeypatch):
    """It becomes ffmpeg: the argument list it runs is that of the choice."""
    backend = Vvenc(accelerate=True)
    argv = backend.command(clip, 32, tmp_path / "o.266", intra_period=64)
    assert argv[:3] == [sys.executable, "-m", "fastpart.vvenc"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chosen = choose(load_model(), clip_features(clip, 32), 32)
    assert f"MaxMTTDepth={chosen.options['MaxMTTDepth']} " in done.stderr
    subprocess.run(encode_command(Ffmpeg.find().path, clip, 32, tmp_path / "p.266", intra_period=64,
                                  options=chosen.options), check=True)
    assert (tmp_path / "o.266").read_bytes() == (tmp_path / "p.266").read_bytes()
    ran = []
    monkeypatch.setattr(os, "execv", lambda path, words: ran.append((path, words)))
    vvenc.main(argv[3:])
    assert ran[0][0] == ran[0][1][0] == str(Ffmpeg.find().path)
    assert backend.identity()["model"] and "learned depths" in backend.label


def test_accelerated_encode_tells_what_is_wrong(tmp_path, clip, capsys):
    argv = Vvenc(accelerate=True).command(
        replace(clip, frames=99), 32, tmp_path / "o.266", intra_period=64
    )
    assert vvenc.main(argv[3:]) == 1
    assert f"{clip.path}: ends in frame" in capsys.readouterr().err
    argv = Vvenc(accelerate=True).command(clip, 32, tmp_path / "o.266", intra_period=64)
    argv[argv.index("--ffmpeg") + 1] = str(tmp_path / "none")
    assert vvenc.main(argv[3:]) == 1
    assert "cannot be run" in capsys.readouterr().err
