"""Matching a rate by QP and lambda, on curves and through `fastpart encode` with a pretended encoder."""

import json
import math

import pytest
from test_encode import fastpart_encode

from fastpart.backend import StockVtm
from fastpart.errors import FastpartError
from fastpart.ratematch import Trial, lambda_options, match_rate, matches, next_qp, settings
from fastpart.vtm import VtmHome


@pytest.mark.parametrize(
    ("qp", "whole", "factor"), [(32, 32, 1), (32.3, 32, 2**0.1), (31.7, 32, 2**-0.1), (-1, 0, 2 ** (-1 / 3))]
)
def test_between_qps_lambda_is_scaled(qp, whole, factor):
    assert settings(qp) == (whole, pytest.approx(factor, rel=1e-4))


def test_what_the_configuration_does_to_lambda_stays():
    assert lambda_options(1, {"LambdaModifier0": "1.15"}) == {}
    scaled = lambda_options(1.1, {"LambdaModifier0": "1.15", "QP": "32"})
    assert scaled.pop("LambdaModifier0") == pytest.approx(1.265)
    assert scaled == {f"LambdaModifier{layer}": 1.1 for layer in range(1, 7)}


@pytest.mark.parametrize("slope", [-0.06, -0.12, -0.2])
@pytest.mark.parametrize("bend", [0.0, 0.001])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.6])
def test_any_usual_curve_is_matched_in_five_trials(slope, bend, ratio):
    def rate(qp):
        return 1000 * math.exp(slope * (qp - 32) + bend * (qp - 32) ** 2)

    trials = match_rate(rate, 1000 * ratio, 32, 0.02, 5)
    assert matches(trials[-1], 1000 * ratio, 0.02)
    assert all(not matches(trial, 1000 * ratio, 0.02) for trial in trials[:-1])


def test_a_rate_that_jumps_ends_with_the_trials_spent():
    trials = match_rate(lambda qp: 2000.0 if qp < 30.2 else 500.0, 1000, 32, 0.02, 6)
    assert len(trials) == 6
    assert min(trial.qp for trial in trials) < 30.2 < max(trial.qp for trial in trials)


def test_a_rate_out_of_reach_ends_at_the_last_qp():
    trials = match_rate(lambda qp: 10.0, 1e6, 32, 0.02, 20)
    assert trials[-1].qp == 0 and len(trials) < 20


def test_the_next_trial_lies_between_those_above_and_below():
    assert 30 < next_qp([Trial(30, 1200), Trial(32, 900), Trial(40, 300)], 1000) < 32


def test_encode_keeps_the_nearest_trial_and_records_all(clip, stub_home, tmp_path, capsys):
    out = tmp_path / "a.266"
    plain = tmp_path / "plain.266"
    recon = tmp_path / "a.yuv"
    assert fastpart_encode(clip.path, "-o", plain, "--qp", 32, "--vtm-home", stub_home) == 0
    kbps = json.loads((tmp_path / "plain.266.json").read_text())["kbps_without_sei"]
    arguments = (clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home, "--keep-recon", recon)
    assert fastpart_encode(*arguments, "--match-rate", kbps * 1.01) == 0
    record = json.loads((tmp_path / "a.266.json").read_text())
    assert record["qp"] == 32 and not any("LambdaModifier" in word for word in record["argv"])
    assert [trial["qp"] for trial in record["rate_match"]["trials"]] == [32]
    assert out.read_bytes() == plain.read_bytes() and recon.exists()
    assert "rate_match" not in json.loads((tmp_path / "plain.266.json").read_text())

    # The pretended encoder has one rate, so a wanted one beside it is never met.
    halved = ("--option", "LambdaModifier0=0.5")
    assert fastpart_encode(*arguments, "--force", "--match-rate", kbps * 1.1, *halved) == 2
    record = json.loads((tmp_path / "a.266.json").read_text())
    assert 1 < len(record["rate_match"]["trials"]) <= 6
    assert [word for word in record["argv"] if "Lambda" in word] == ["--LambdaModifier0=0.5"]   # of QP 32, kept
    assert f"QP {record['qp']} )" in (tmp_path / "a.266.log").read_text()
    assert "is the nearest to" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".part") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--match-rate", 0), "wanted kbps and a percentage above 0"),
        (("--match-rate", 100, "--rate-tolerance", 0), "wanted kbps and a percentage above 0"),
    ],
)
def test_what_cannot_be_matched_is_said(clip, stub_home, tmp_path, arguments, said):
    with pytest.raises(FastpartError, match=said):
        fastpart_encode(clip.path, "-o", tmp_path / "a.266", "--qp", 32, "--vtm-home", stub_home, *arguments)


def test_the_back_ends_of_vtm_take_qps_between_whole_ones(stub_home, clip, tmp_path):
    lambdas = tmp_path / "lambdas.cfg"
    lambdas.write_text("LambdaModifier0 : 1.15\n")
    backend = StockVtm(VtmHome.find(stub_home), cfg=["encoder_randomaccess_vtm.cfg", lambdas])

    def words(qp):
        return backend.command(clip, qp, tmp_path / "a.266", intra_period=32)

    assert backend.fractional_qp
    assert [words(qp)[words(qp).index("-q") + 1] for qp in (32, 31.7, 31.4)] == ["32", "32", "31"]
    assert not any("Lambda" in word for word in words(32))
    assert "--LambdaModifier0=1.073" in words(31.7)          # 1.15 * 2^(-0.3 / 3)
    assert "--LambdaModifier6=0.933" in words(31.7)
