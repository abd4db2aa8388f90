"""From folders of clips to a recipe, and from a recipe to a model."""

import json
from fractions import Fraction

import numpy as np
import pytest
from conftest import write_clip

from fastpart.cli import main
from fastpart.errors import FastpartError
from fastpart.media import Facts, make_cut, probe
from fastpart.modelfile import describe
from fastpart.timing.synthetic import make_clip
from fastpart.training.clips import FRAMES, Source, choose_cuts, data_sheet, find_sources, recipe_text
from fastpart.training.recipe import DEFAULT_RECIPE, load_recipe

MANIFEST = "file\tsource_repository\tlicence\ntrain/own.mkv\tsomeone/clips\tMIT\n"


@pytest.fixture
def clips(tmp_path, ffmpeg):
    """A clip of UVG as unpacked, one of CDVL as downloaded, one of ours, one without an origin."""
    root = tmp_path / "clips"
    for folder in ("uvg", "cdvl"):
        (root / "train" / folder).mkdir(parents=True)
    write_clip(root / "train/uvg/Beauty_416x240_120fps_420_10bit_YUV.yuv", 416, 240, frames=70, bit_depth=10)
    for name, form, frames in (
        ("cdvl/Crowd_run.avi", "yuv422p", 40), ("own.mkv", "yuv420p", 34), ("other.mkv", "yuv420p", 33),
    ):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=432x240:r=25", "-frames:v", frames, "-pix_fmt", form,
               "-c:v", "ffv1", root / "train" / name)
    (root / "train/uvg/Jockey_1920x1080_120fps_420_8bit_YUV_RAW.7z").write_bytes(b"7z")
    (root / "MANIFEST.tsv").write_text(MANIFEST)
    return root


def test_sources_are_those_of_every_layout(clips, capsys):
    found = {source.clip: source for source in find_sources(clips)}
    beauty = found["train/uvg/Beauty_416x240_120fps_420_10bit_YUV.yuv"]
    assert beauty.facts == Facts(416, 240, Fraction(120), 10, 70) and "ultravideo.fi" in beauty.origin
    crowd = found["train/cdvl/Crowd_run.avi"]
    assert crowd.facts == Facts(432, 240, Fraction(25), 8, 40) and "cdvl.org/license" in crowd.licence
    assert (found["train/own.mkv"].origin, found["train/own.mkv"].licence) == ("someone/clips", "MIT")
    said = capsys.readouterr().err
    assert "Jockey_1920x1080_120fps_420_8bit_YUV_RAW.7z is packed" in said
    assert "other.mkv: origin unknown" in said and "own.mkv" not in said


def test_a_recipe_of_a_folder_can_be_cut(clips, tmp_path, capsys):
    out = tmp_path / "mine.toml"
    assert main(["train", "recipe", "--clips", str(clips), "--out", str(out), "--qps", "17,42"]) == 0
    recipe, default = load_recipe(out), load_recipe(DEFAULT_RECIPE)
    assert {cut["clip"] for cut in recipe.cuts} == {source.clip for source in find_sources(clips)}
    assert list(recipe.rounds) == list(default.rounds) and recipe.fit == default.fit
    assert {cell.qp for cell in recipe.round("random").cells} == {17, 42}
    assert {cell.cut["clip"] for cell in recipe.steering_cells} == {
        "train/uvg/Beauty_416x240_120fps_420_10bit_YUV.yuv"      # the only one with pictures left
    }
    for cut in recipe.cuts:
        made = make_cut(cut, clips, tmp_path / f"{cut['name']}.yuv")
        assert (made.width, made.height, made.frames) == (256, 128, FRAMES)
        assert made.bit_depth == (10 if "Beauty" in cut["clip"] else 8)
    sheet = out.with_suffix(".tsv").read_text().splitlines()
    assert len(sheet) == 1 + len(recipe.cuts) and sheet[0].startswith("clip\tresolution\tfps")
    assert any(line.startswith("train/own.mkv\t432x240\t25\t8\t34\t0-32\tsomeone/clips\tMIT") for line in sheet)


def test_a_raw_source_is_cut_as_it_is(clips, tmp_path):
    path = clips / "train/uvg/Beauty_416x240_120fps_420_10bit_YUV.yuv"
    cut = {"name": "x", "clip": str(path.relative_to(clips)), "size": [416, 240], "start": 3, "frames": 2, "fps": 120}
    made = make_cut(cut, clips, tmp_path / "x.yuv")
    one = made.frame_bytes
    assert made.path.read_bytes() == path.read_bytes()[3 * one : 5 * one]


def source(name, frames, width=1920, height=1080):
    return Source(f"train/{name}.mp4", Facts(width, height, Fraction(30), 8, frames), "o", "l")


def test_cuts_do_not_overlap_and_follow_the_seed():
    sources = [source("long", 1000), source("middle", 150), source("short", 40), source("small", 300, 640, 360)]
    cuts = choose_cuts(sources, 1)
    assert cuts == choose_cuts(sources, 1) != choose_cuts(sources, 2)
    for one in sources:
        starts = sorted(cut.start for cut in cuts if cut.source == one)
        assert starts[-1] + FRAMES <= one.facts.frames and (np.diff(starts) >= FRAMES).all()
    roles = [(cut.source.clip, cut.role) for cut in cuts]
    counts = [roles.count((one.clip, "training")) for one in sources]
    assert counts == [3, 1, 1, 3]
    assert ("train/long.mp4", "steering") in roles and ("train/short.mp4", "steering") not in roles
    assert len({cut.cover for cut in cuts if cut.source.clip == "train/long.mp4"}) == 3
    assert {cut.cover for cut in cuts if cut.source.clip == "train/small.mp4"} == {(416, 240)}
    assert "train/long.mp4\t1920x1080\t30\t8\t1000\t" in data_sheet(cuts)
    assert recipe_text(cuts, [22, 37], 1).count("[[cut]]") == 8


def test_clips_that_cannot_be_used_are_named(tmp_path, capsys):
    with pytest.raises(FastpartError, match=r"train: no clips in it"):
        find_sources(tmp_path)
    with pytest.raises(FastpartError, match="long and large enough"):
        choose_cuts([source("tiny", 100, 320, 180), source("short", 20)], 1)
    said = capsys.readouterr().err
    assert "train/tiny.mp4: 100 frames of 320x180, wanted 33 of 416x240" in said
    assert "train/short.mp4: 20 frames" in said


def test_probe_refuses_what_is_no_video(tmp_path, ffmpeg):
    path = tmp_path / "a.avi"
    path.write_bytes(b"no video")
    with pytest.raises(FastpartError, match="finds no video"):
        probe(path)
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25", "-frames:v", 2, "-pix_fmt", "rgb24", "-c:v", "ffv1", path)
    with pytest.raises(FastpartError, match="wanted luma and chroma"):
        probe(path)


ROUND = '[[round]]\nname = "{}"\npolicy = {}\nseed = 1\nqps = [[32]]\nafter = {}\n'


def recipe_of(path, *rounds, fit='["c"]', more=""):
    path.write_text(
        '[cut_defaults]\nframes = 3\nstart = 0\nfps = 30\nsize = [128, 128]\n'
        '[[cut]]\nname = "x"\nclip = "train/x_128x128_30.yuv"\n[[cut]]\nname = "y"\nclip = "train/y_128x128_30.yuv"\n'
        + "".join(ROUND.format(name, str(bool(after)).lower(), json.dumps(after)) for name, after in rounds)
        + f"[fit]\nrounds = {fit}\nmin_rows_in_leaf = 5\n" + more
    )
    return path


def test_rounds_run_after_those_they_need(tmp_path):
    recipe = load_recipe(recipe_of(tmp_path / "r.toml", ("c", ["a", "b"]), ("unused", []), ("b", ["a"]), ("a", [])))
    assert recipe.needed_rounds() == ["a", "b", "c"]
    looped = load_recipe(recipe_of(tmp_path / "r.toml", ("c", ["a"]), ("a", ["c"])))
    with pytest.raises(FastpartError, match=r"r\.toml: round c comes after itself"):
        looped.needed_rounds()
    assert load_recipe(DEFAULT_RECIPE).needed_rounds() == ["random", "policy", "policy-2", "policy-reduced"]


STEERING = "[steering.defaults]\nstart = 3\n" + "".join(
    f'[[steering.cell]]\nname = "{clip}_s"\nclip = "train/{clip}_128x128_30.yuv"\nqp = {qp}\nkappa = {kappa}\n'
    for clip, qp, kappa in (("x", 27, 1e-5), ("x", 27, 100.0), ("y", 32, 1.0), ("z", 32, 1.0))
)


def test_one_command_makes_a_model_of_clips(patched_vtm, tmp_path, capfd):
    (tmp_path / "train").mkdir()
    for seed, name in enumerate("xyz"):
        make_clip(tmp_path / f"train/{name}_128x128_30.yuv", 128, 128, frames=6, seed=seed)
    recipe = recipe_of(tmp_path / "r.toml", ("a", []), ("c", ["a"]), fit='["a", "c"]', more=STEERING)
    argv = ["train", "run", "--recipe", str(recipe), "--clips", str(tmp_path), "--out", str(tmp_path / "work"),
            "--model", str(tmp_path / "new.fpm"), "--vtm-home", str(patched_vtm.root)]
    recipe.write_text(recipe.read_text().replace("/z_", "/y_"))
    assert main(argv) == 1 and not (tmp_path / "work").exists()
    assert "observations of 2 clips, wanted at least 3" in capfd.readouterr().err
    recipe.write_text(recipe.read_text().replace('"z_s"\nclip = "train/y_', '"z_s"\nclip = "train/z_'))
    assert main(argv) == 0, capfd.readouterr().err
    made = describe(tmp_path / "new.fpm")
    assert made["metadata"]["rounds"] == ["a", "c"] and made["tables"]["steering"]
    traces = sorted((tmp_path / "work").glob("*/*.fpt"))
    assert [path.name for path in traces] == ["x_qp32.fpt", "y_qp32.fpt"] * 2
    times = [path.stat().st_mtime_ns for path in traces]
    (tmp_path / "new.fpm").unlink()
    assert main(argv) == 0 and describe(tmp_path / "new.fpm")["checksum"] == made["checksum"]
    assert [path.stat().st_mtime_ns for path in traces] == times      # nothing was encoded again
