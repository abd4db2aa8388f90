"""Presets, and what a configuration comes to."""

import json

import pytest
from test_encode import fastpart_encode

from fastpart import presets
from fastpart.backend import PatchedVtm, StockVtm
from fastpart.errors import FastpartError
from fastpart.vtm import VtmHome


def test_the_last_that_sets_an_option_decides(tmp_path):
    first, second = tmp_path / "a.cfg", tmp_path / "b.cfg"
    first.write_text("# head\nQP : 32 # of the base\n\nMTS: 1\nPath : a:b\nEmpty :\nMTS : 3\n")
    second.write_text("QP:37\n")
    assert presets.read_cfg(first) == {"QP": "32", "MTS": "3", "Path": "a:b", "Empty": ""}
    assert presets.resulting([first, second], {"Empty": 5}) == [
        ("QP", "37", "b.cfg"), ("MTS", "3", "a.cfg"), ("Path", "a:b", "a.cfg"), ("Empty", "5", "command line"),
    ]


def test_a_line_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("QP : 32\n--QP=37\n")
    with pytest.raises(FastpartError, match="a.cfg, line 2: found '--QP=37', wanted Name : value"):
        presets.read_cfg(path)
    with pytest.raises(FastpartError, match="absent.cfg: cannot be read"):
        presets.read_cfg(tmp_path / "absent.cfg")


def test_unknown_preset_is_refused():
    with pytest.raises(FastpartError, match="preset slow: not known, wanted one of .*reduced"):
        presets.preset_file("slow")


def test_print_config_needs_no_clip(stub_home, capsys):
    def printed(*arguments):
        assert fastpart_encode("--print-config", "--vtm-home", stub_home, *arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split(":")[0].strip(): line.partition(":")[2].split("#") for line in lines}

    plain, preset = printed(), printed("--preset", "reduced", "--option", "MTS=2")
    assert [text.strip() for text in plain["FastPart"]] == ["1", "command line"]
    assert [text.strip() for text in preset["MaxMTTHierarchyDepth"]] == ["2", "reduced.cfg"]
    assert [text.strip() for text in preset["MTS"]] == ["2", "command line"]
    assert "FastPart" not in preset
    assert "FastPart" in printed("--preset", "reduced", "--target-ratio", 0.75)


def test_the_encoder_gets_the_preset_last(clip, stub_home, tmp_path):
    out = tmp_path / "a.266"
    assert fastpart_encode(clip.path, "-o", out, "--qp", 32, "--vtm-home", stub_home, "--preset", "reduced") == 0
    argv = json.loads((tmp_path / "a.266.json").read_text())["argv"]
    files = [argv[i + 1] for i, word in enumerate(argv) if word == "-c"]
    assert [file.rpartition("/")[2] for file in files] == ["encoder_randomaccess_vtm.cfg", "reduced.cfg"]
    assert not any(word.startswith("--FastPart") for word in argv)


def test_a_learned_preset_is_not_for_the_stock_encoder(stub_home, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    (tmp_path / "learned.cfg").write_text("FastPart : 1\n")
    with pytest.raises(FastpartError, match="preset learned: wants the predictor, which the stock encoder lacks"):
        fastpart_encode("--print-config", "--vtm-home", stub_home, "--preset", "learned", "--stock")
    with pytest.raises(FastpartError, match="preset learned: wants the predictor, which the stock encoder lacks"):
        StockVtm(VtmHome.find(stub_home), preset="learned")


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"FastPart": 1}),
        ({"preset": "reduced"}, {}),
        ({"preset": "reduced", "target_ratio": 0.75},
         {"FastPart": 1, "FastPartTargetRatio": 0.75, "FastPartTargetRatioHD": 0}),
    ],
)
def test_a_back_end_takes_a_preset_as_encode_does(clip, stub_home, tmp_path, settings, options):
    backend = PatchedVtm(VtmHome.find(stub_home), {"MTS": 2}, **settings)
    argv = backend.command(clip, 32, tmp_path / "a.266", intra_period=64, picture_hash=False)
    files = [argv[i + 1].rpartition("/")[2] for i, word in enumerate(argv) if word == "-c"]
    assert files == ["encoder_randomaccess_vtm.cfg"] + ["reduced.cfg"] * ("preset" in settings)
    assert backend.options == {"MTS": 2, **options}
    assert ("preset reduced" in backend.label) == ("preset" in settings)
    assert PatchedVtm(VtmHome.find(stub_home), {"FastPart": 0}, **settings).options["FastPart"] == 0


def test_what_is_wanted_to_encode_is_said(stub_home):
    with pytest.raises(FastpartError, match="INPUT, -o OUT.266 and --qp are wanted"):
        fastpart_encode("--vtm-home", stub_home)
