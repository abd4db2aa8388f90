"""Steering: the clock's fit, and whether an encode whose clip deviates still lands at its target."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from fastpart import _engine
from fastpart.errors import FastpartError
from fastpart.modelfile import STEERING
from fastpart.supervise import Usage
from fastpart.training.steer import LAYERS, Observation, errors, estimate, fit_steering, user_s_by_kind
from fastpart.vtm import EncodeResult, Picture

#: TId of the pictures of a GOP of 32 in coding order.
GOP = [0, 1, 2, 3, 4, 5, 5, 4, 5, 5, 3, 4, 5, 5, 4, 5, 5, 2, 3, 4, 5, 5, 4, 5, 5, 3, 4, 5, 5, 4, 5, 5]
TABLES = {
    "picture_time": [100.0], "sample_time": [0.01], "node_time": [0.4, 0.25], "filter_time_saved": [300.0],
    "split_scale": [1.5, 0.8], "split_scale_controls": [40.0, 40.0], "saved_scale": [0.6, 0.8],
    "skip_logit": [0.2, 0, 0.1, 0, -0.2, -0.01, -0.1, -0.02, 0, 0, 0.1, 0, -1.7, -0.02],
    "log_time": [-0.81, 0, -1.01, 0, -1.21, 0, -1.61, 0, -2.01, 0, -2.21, 0, -0.01, 0],
    "logit_slope": [1.4],
}
SAMPLES = 416 * 240


def flat(tables):
    return [value for name in STEERING for value in tables[name]]


def logistic(x):
    return 1 / (1 + math.exp(-x))


def plant(layer, log_kappa, deviation, time, bias=0.0, controls=0, samples=SAMPLES):
    """What the engine counts in a picture, all time in search and skipped splits; spent and saved time.

    The saved time is of splits and of filtering. bias: ln of what the estimates of splits are wrong by; so many
    controls show it.
    """
    intra = layer == 6
    share = logistic(TABLES["skip_logit"][2 * layer] + 1.4 * log_kappa + deviation)
    stock = time * samples * math.exp(TABLES["log_time"][2 * layer])
    spent, saved = stock * (1 - share), stock * share
    outside = 0.0 if intra else TABLES["picture_time"][0] + TABLES["sample_time"][0] * samples
    search = max(spent - outside, 0.0)
    spent = search + outside
    node_time = TABLES["node_time"][intra]
    unscaled = saved / TABLES["saved_scale"][intra]
    estimated = unscaled / TABLES["split_scale"][intra] * math.exp(bias)
    part = 0.001 * controls
    effort = {
        "samples": samples,
        "search": search / node_time,
        "skipped": [0.0, estimated, 0.0, 0.0] if intra else [estimated, 0.0, 0.0, 0.0],
        "control": [controls, part * estimated, part * unscaled / node_time],
    }
    return effort, spent, saved + TABLES["filter_time_saved"][0]


def encode(target, deviation, gops, qp=32, bias=0.0, controls=0, samples=SAMPLES):
    """Share of time that a steered encode takes, and the knob of each picture.

    deviation: of the clip's ln odds of saving. controls: of each picture.
    """
    steering = _engine.Steering(flat(TABLES), target)
    spent = stock = 0.0
    knobs = []
    for picture, tid in enumerate([0, *GOP * gops]):
        layer = 6 if picture == 0 else tid
        knob = steering.begin_picture(qp, tid, layer == 6, samples)
        knobs.append(knob)
        effort, time, saved = plant(layer, knob, deviation(picture, layer), 1.0, bias, controls, samples)
        steering.end_picture(**effort)
        spent += time
        stock += time + saved
    ratio = spent / stock
    if not bias:
        assert steering.share() == pytest.approx(ratio, abs=1e-5)
    return ratio, knobs


@pytest.mark.parametrize("target", [0.45, 0.55, 0.65, 0.75])
@pytest.mark.parametrize("offset", [-0.5, 0.0, 0.5])
def test_a_clip_that_deviates_lands_at_its_target(target, offset):
    ratio, _ = encode(target, lambda *_: offset, 1)
    assert ratio == pytest.approx(target, abs=0.01)
    ratio, _ = encode(target, lambda *_: offset, 8)
    assert ratio == pytest.approx(target, abs=0.003)


@pytest.mark.parametrize("size", [(256, 128), (832, 480), (1920, 1080)])
def test_pictures_of_any_size_land_at_the_target(size):
    """The first of two GOPs, too: what is known beforehand is time by sample."""
    for gops in (1, 2):
        ratio, knobs = encode(0.6, lambda *_: 0.2, gops, samples=size[0] * size[1])
        assert ratio == pytest.approx(0.6, abs=0.02)
        _, usual = encode(0.6, lambda *_: 0.2, gops)
        assert knobs[0] == pytest.approx(usual[0], abs=0.1)


def test_layers_that_deviate_apart_land_at_the_target():
    ratio, _ = encode(0.6, lambda _, layer: 0.5 * (layer % 3 - 1), 1)
    assert ratio == pytest.approx(0.6, abs=0.015)


def test_a_change_of_content_is_made_up():
    ratio, _ = encode(0.6, lambda picture, _: -0.5 if picture > 64 else 0.5, 8)
    assert ratio == pytest.approx(0.6, abs=0.01)


def test_controls_put_the_estimates_right():
    """Estimates wrong by a factor of 1.8 mislead, unless controls show it."""
    for bias in (-0.6, 0.6):
        misled, _ = encode(0.6, lambda *_: 0.0, 4, bias=bias)
        told, _ = encode(0.6, lambda *_: 0.0, 4, bias=bias, controls=20)
        assert abs(misled - 0.6) > 0.06
        assert told == pytest.approx(0.6, abs=0.025)


def test_an_incredible_picture_does_not_stop_the_others():
    _, usual = encode(0.6, lambda *_: 0.0, 1)
    _, misled = encode(0.6, lambda _, layer: 3.0 if layer == 6 else 0.0, 1)
    assert min(misled) > usual[0] - 0.8


def test_controls_get_rare_and_stand_for_all():
    """Of splits whose times spread over four decades, in intra and in inter pictures apart."""
    steering = _engine.Steering(flat(TABLES), 0.6)
    random = np.random.default_rng(1)
    for intra in (True, False):
        steering.begin_picture(32, 0, intra, SAMPLES)
        times = np.exp(random.normal(0, 1.5, 20000))
        weights = np.array([steering.control(time) for time in times])
        taken = weights > 0
        assert weights.sum() == pytest.approx(len(times), rel=0.15)
        assert weights @ times == pytest.approx(times.sum(), rel=0.15)
        assert 50 < taken[10000:].sum() < taken[:10000].sum() < 400
        assert times[taken].mean() > 1.5 * times.mean(), "what takes long teaches most"
        steering.end_picture(**plant(6 if intra else 0, 0.0, 0.0, 1.0)[0])


def test_the_knob_stays_calm():
    _, knobs = encode(0.65, lambda picture, layer: 0.3 * math.sin(7 * picture + layer), 4)
    assert np.std(knobs[33:]) < 0.5


def test_without_a_target_kappa_alone_decides():
    steering = _engine.Steering(flat(TABLES), 0.0)
    assert steering.begin_picture(30, 0, True, SAMPLES, 0.75) == 0.75
    steering.end_picture(**plant(6, 0.75, 0, 1.0)[0])
    assert steering.begin_picture(33, 0, False, SAMPLES, 0.75) == 0.75
    assert 0 < steering.share() < 1


def test_the_target_follows_the_size():
    small, middle, large = 832 * 480, 1280 * 720, 1920 * 1080
    of = _engine.target_of_size
    assert of(0.7, 0.9, 64 * 64) == of(0.7, 0.9, small) == 0.7 and of(0.7, 0.9, large) == of(0.7, 0.9, 4 * large) == 0.9
    assert of(0.7, 0.9, middle) == pytest.approx(0.7 + 0.2 * math.log(middle / small) / math.log(large / small))
    assert of(0.7, 0.0, large) == 0.7 and of(0.0, 0.9, large) == 0.0
    with pytest.raises(ValueError, match="FastPartTargetRatioHD is 1.1.*wanted 0 to below 1"):
        of(0.7, 1.1, small)


@pytest.mark.parametrize("tids", [[0] * 9, [0, 1, 2, 2] * 3], ids=["intra or low delay", "small GOP"])
def test_other_structures_are_steered_too(tids):
    steering = _engine.Steering(flat(TABLES), 0.6)
    for picture, tid in enumerate(tids * 8):
        layer = 6 if picture == 0 else tid
        effort, *_ = plant(layer, steering.begin_picture(32, tid, layer == 6, SAMPLES), 0.4, 1.0)
        steering.end_picture(**effort)
    assert steering.share() == pytest.approx(0.6, abs=0.02)


def observations():
    """Encodes of a world that follows TABLES, with noise in the times of encodes."""
    random = np.random.default_rng(1)
    found = []
    for clip in range(10):
        qp, common, bias = (19, 24, 29, 34)[clip % 4], random.normal(0, 0.3), random.normal(0, 0.4)
        times = np.exp(random.normal(0, 0.3, len(LAYERS)))
        samples = (SAMPLES, 4 * SAMPLES)[clip % 2]
        for kappa in (1.0, 0.5):
            efforts, stock_s, user_s = [], np.zeros(2), np.zeros(2)
            noise, drift = random.normal(0, 0.01, 2), random.normal(0, 0.01)
            for layer in range(len(LAYERS)):
                effort, time, skipped = plant(layer, math.log(kappa), common, times[layer], bias, 20, samples)
                efforts.append([1, samples, 1, effort["search"], *effort["control"], *effort["skipped"]])
                kind = int(layer == 6)
                stock_s[kind] += (time + skipped) * 3e-4 * (1 + drift)
                user_s[kind] += time * 3e-4 * (1 + drift) * (1 + noise[kind])
            found.append(Observation(
                f"c{clip}_{kappa}", f"c{clip}", kappa, qp, stock_s.tolist(), user_s.tolist(), efforts
            ))
    return found


def test_the_fit_finds_the_clock():
    world = observations()
    tables = fit_steering(world)
    assert {name: len(values) for name, values in tables.items()} == STEERING
    assert max(abs(estimate(one, tables) - one.ratio) for one in world) < 0.03
    assert np.sqrt(np.mean(np.square(errors(world)))) < 0.02
    assert tables["logit_slope"][0] == pytest.approx(1.4, abs=0.1)
    assert max(tables["split_scale_controls"]) <= 30, "controls tell all that differs between these clips"

    # The engine counts as the fit does: of a clip that deviates, it comes to what lies between.
    steering = _engine.Steering(flat(tables), 0.0)
    one = world[0]
    for layer in (6, 0, 1, 2, 3, 4, 5):
        _, samples, _, search, *rest = one.efforts[layer]
        steering.begin_picture(one.intra_qp, layer % 6, layer == 6, samples)
        steering.end_picture(samples, search, rest[3:], rest[:3])
    assert steering.share() == pytest.approx(estimate(one, tables), abs=1e-5)


def encoded(tmp_path, *pictures):
    """An encode of 20 user seconds whose pictures are these (slice type, whole seconds)."""
    usage = Usage(**{field.name: 20.0 if field.name == "user_s" else 0 for field in fields(Usage)})
    return EncodeResult((), tmp_path / "e.log", 0, usage, tuple(
        Picture(poc, 0, "TRAIL_N", kind, 30, 100, (40.0, 40.0, 40.0), seconds)
        for poc, (kind, seconds) in enumerate(pictures)
    ))


def test_pictures_below_a_second_have_a_share_of_the_time(tmp_path):
    assert user_s_by_kind(encoded(tmp_path, ("I", 9.0), ("B", 0.0))) == pytest.approx([1.0, 19.0])
    assert user_s_by_kind(encoded(tmp_path, ("I", 0.0), ("B", 0.0), ("b", 2.0))) == pytest.approx([17.142857, 2.857143])
    with pytest.raises(FastpartError, match="1 pictures, wanted intra and inter ones"):
        user_s_by_kind(encoded(tmp_path, ("I", 9.0)))


def test_too_few_observations_are_refused():
    with pytest.raises(FastpartError, match="2 clips, wanted at least 3"):
        fit_steering(observations()[:4])


def test_a_knob_that_does_the_opposite_is_refused():
    with pytest.raises(FastpartError, match="a greater kappa skipped no more .*take kappas further apart"):
        fit_steering([replace(one, kappa=1 / one.kappa) for one in observations()])
