"""The patched encoder against stock VTM: off means off, on is deterministic and conforms."""

import os
import subprocess

import numpy as np
import pytest
from conftest import SHALLOW, write_clip

from fastpart.errors import FastpartError
from fastpart.training.dataset import read_trace
from fastpart.vtm import encode_command, run_encoder

RANDOM_ACCESS = "encoder_randomaccess_vtm.cfg"


def encode(home, variant, clip, qp, folder, name, cfg=RANDOM_ACCESS, **options):
    """Encode and return (result, bitstream, reconstruction)."""
    folder.mkdir(exist_ok=True)
    bitstream, recon = folder / f"{name}.266", folder / f"{name}.yuv"
    argv = encode_command(
        home.encoder(variant), [home.cfg(cfg)], clip, qp, bitstream, recon,
        {"SEIDecodedPictureHash": 1, **options},
        intra_period={"encoder_intra_vtm.cfg": 1, "encoder_lowdelay_vtm.cfg": -1}.get(cfg, 32),
    )
    result = run_encoder(argv, folder / f"{name}.log")
    return result, bitstream.read_bytes(), recon.read_bytes()


@pytest.fixture
def textured(tmp_path):
    return write_clip(tmp_path / "Textured_96x64_30.yuv", 96, 64, frames=4)


@pytest.mark.parametrize(
    ("cfg", "qp"),
    [
        *((RANDOM_ACCESS, qp) for qp in (22, 27, 32, 37)),
        ("encoder_intra_vtm.cfg", 32),
        ("encoder_lowdelay_vtm.cfg", 32),
    ],
)
def test_off_is_identical_to_stock(patched_vtm, textured, tmp_path, cfg, qp):
    _, stock, stock_recon = encode(patched_vtm, "stock", textured, qp, tmp_path, "stock", cfg)
    off, bitstream, recon = encode(
        patched_vtm, "patched", textured, qp, tmp_path, "off", cfg, FastPart=0
    )
    assert bitstream == stock
    assert recon == stock_recon
    assert off.counters == {}


def test_a_trace_alone_changes_nothing(patched_vtm, textured, tmp_path):
    _, stock, _ = encode(patched_vtm, "stock", textured, 32, tmp_path, "stock")
    trace_file = tmp_path / "t.fpt"
    _, traced, _ = encode(
        patched_vtm, "patched", textured, 32, tmp_path, "traced", FastPartTrace=trace_file
    )
    assert traced == stock
    trace = read_trace(trace_file)
    assert trace.complete
    assert set(np.unique(trace.records["poc"])) == {0, 1, 2, 3}
    won = (trace.records["flags"] & 2) != 0
    assert 0 < won.mean() < 0.5
    assert (trace.records["regret"][won] >= 0).all()


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_on_is_deterministic_faster_and_conforms(patched_vtm, tmp_path, bit_depth):
    clip = write_clip(
        tmp_path / "Clip_128x128_30.yuv", 128, 128, frames=3, bit_depth=bit_depth
    )
    _, stock, _ = encode(patched_vtm, "stock", clip, 32, tmp_path, "stock")
    first, one, recon = encode(patched_vtm, "patched", clip, 32, tmp_path, "one", FastPart=1)
    _, two, _ = encode(patched_vtm, "patched", clip, 32, tmp_path, "two", FastPart=1)
    assert one == two
    assert one != stock
    assert first.counters["decisions"] > first.counters["skips"] > 0
    assert first.counters["split_qt.asked"] > 0

    decoded = tmp_path / "decoded.yuv"
    decoder = subprocess.run(
        [patched_vtm.decoder(), "-b", tmp_path / "one.266", "-o", decoded, "-d", "10"],
        capture_output=True, text=True, check=True,
    )
    assert decoder.stdout.count("(OK)") == 3
    assert decoded.read_bytes() == recon


def test_kappa_trades_speed(patched_vtm, tmp_path):
    clip = write_clip(tmp_path / "Clip_256x128_30.yuv", 256, 128, frames=2)

    def asked(kappa):
        result, *_ = encode(
            patched_vtm, "patched", clip, 32, tmp_path, f"k{kappa}", FastPart=1, FastPartTargetRatio=0,
            FastPartKappa=kappa,
        )
        return result.counters["decisions"]

    assert asked(10) < asked(0.001)


def test_target_ratio_trades_speed(patched_vtm, tmp_path):
    clip = write_clip(tmp_path / "Clip_128x128_30.yuv", 128, 128, frames=3)

    def run(target):
        result, *_ = encode(
            patched_vtm, "patched", clip, 32, tmp_path, f"t{target}", FastPart=1,
            FastPartTargetRatio=target,
        )
        assert {name for name in result.counters if name.startswith("intra.")} >= {"intra.search"}
        return result.counters["decisions"], result.counters["estimated_ratio"]

    slow, fast = run(0.9), run(0.3)
    assert fast[0] < slow[0]
    assert fast[1] < slow[1]


def test_large_pictures_have_a_target_of_their_own(patched_vtm, tmp_path):
    def skips(clip, **options):
        shallow = {"MaxMTTHierarchyDepthISliceL": 1, "MaxMTTHierarchyDepthISliceC": 1, "MIP": 0, "ISP": 0, "MTS": 0}
        result, *_ = encode(patched_vtm, "patched", clip, 55, tmp_path, "size", FastPart=1, **shallow, **options)
        return result.counters["skips"]

    small = write_clip(tmp_path / "Small_256x128_30.yuv", 256, 128, frames=1)
    assert skips(small, FastPartTargetRatio=0.4, FastPartTargetRatioHD=0.95) == skips(small, FastPartTargetRatio=0.4)
    large = write_clip(tmp_path / "Large_960x544_30.yuv", 960, 544, frames=1)
    assert skips(large, FastPartTargetRatio=0.4, FastPartTargetRatioHD=0.95) < skips(large, FastPartTargetRatio=0.4)


def test_luma_filters_are_non_linear_in_low_layers_alone(patched_vtm, tmp_path):
    clip = write_clip(tmp_path / "Layers_192x128_30.yuv", 192, 128, frames=9)

    def stream(**options):
        return encode(patched_vtm, "patched", clip, 32, tmp_path, "layers", **SHALLOW, **options)[1]

    linear, non_linear = stream(UseNonLinearAlfLuma=0), stream(UseNonLinearAlfLuma=1)
    assert linear != non_linear
    assert stream(UseNonLinearAlfLuma=1, FastPartNonLinearAlfLayers=0) == linear
    assert stream(UseNonLinearAlfLuma=0, FastPartNonLinearAlfLayers=7) == non_linear
    assert stream(FastPartNonLinearAlfLayers=1) not in (linear, non_linear)


def test_inter_pictures_split_deeper_in_low_layers_alone(patched_vtm, tmp_path):
    clip = write_clip(tmp_path / "Deeper_128x128_30.yuv", 128, 128, frames=9)
    trace_file = tmp_path / "t.fpt"
    _, _, recon = encode(
        patched_vtm, "patched", clip, 32, tmp_path, "deeper",
        **SHALLOW, FastPartDeeperLayers=5, FastPartTrace=trace_file,
    )
    trace = read_trace(trace_file)
    depth, left = (trace.records["features"][:, trace.features.index(name)] for name in ("mt_depth", "mt_left"))
    allowed = {poc: set((depth + left)[trace.records["poc"] == poc]) for poc in range(9)}
    highest_layer = (1, 3, 5, 7)
    assert allowed == {0: {1}} | dict.fromkeys((8, 4, 2, 6), {2}) | dict.fromkeys(highest_layer, {1})

    decoded = tmp_path / "decoded.yuv"
    decoder = subprocess.run(
        [patched_vtm.decoder(), "-b", tmp_path / "deeper.266", "-o", decoded, "-d", "10"],
        capture_output=True, text=True, check=True,
    )
    assert decoder.stdout.count("(OK)") == 9
    assert decoded.read_bytes() == recon


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"FastPart": 1, "FastPartModel": "{broken}"}, "broken.fpm"),
        ({"FastPart": 1, "FastPartModel": "/nonexistent.fpm"}, "/nonexistent.fpm"),
        ({"FastPart": 1, "FastPartKappa": -1}, "FastPartKappa"),
        ({"FastPart": 1, "FastPartTargetRatio": 1.5}, "FastPartTargetRatio is 1.5"),
        ({"FastPart": 1, "FastPartTargetRatioHD": 1.5}, "FastPartTargetRatioHD is 1.5"),
        ({"FastPartTrace": "/nonexistent/t.fpt"}, "/nonexistent/t.fpt"),
        ({"FastPartTrace": "/dev/null", "FastPartExploreSkip": 2}, "probability"),
        (
            {"FastPartDeeperLayers": 9, "AMaxBT": 0, "EnablePartitionConstraintsOverride": 0},
            "EnablePartitionConstraintsOverride",
        ),
    ],
)
def test_bad_options_end_the_encoder_with_a_message(patched_vtm, clip, tmp_path, options, words):
    broken = tmp_path / "broken.fpm"
    broken.write_bytes(b"FASTPART" + os.urandom(100))
    options = {k: broken if v == "{broken}" else v for k, v in options.items()}
    with pytest.raises(FastpartError, match="fastpart: .*" + words):
        encode(patched_vtm, "patched", clip, 40, tmp_path, "bad", **options)
