"""Submissions: what is packed, and that a check finds what is missing, changed or out of the rules."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC
from pathlib import Path

import pytest
from conftest import write_clip
from sweep_tools import libvvenc_template

from fastpart import cli
from fastpart.record import sha256_file
from fastpart.timing.record import load_records
from fastpart.timing.submission.factsheet import factsheet, to_pdf

CORE = str(max(os.sched_getaffinity(0)))

#: The encoder-only rules without VTM.
EDITION = """\
title = "Rules of a test"
codec = "vvc"
qps = [22, 27, 32, 37]
[anchor]
backend = "vvenc"
[rate]
rule = "each"
low = 90
high = 110
[conformance]
decoders = ["ffmpeg"]
"""


@pytest.fixture(scope="module")
def verified(tmp_path_factory) -> Path:
    """What `fastpart verify` leaves of a small clip at four QPs, anchor and entry alike."""
    folder = tmp_path_factory.mktemp("verified")
    clip = write_clip(folder / "Ramp_64x64_30.yuv")
    edition = folder / "test.toml"
    edition.write_text(EDITION)
    template = libvvenc_template("faster")
    code = cli.main([
        "verify", str(clip.path), "--edition", str(edition), "--anchor", template, "--entry", template,
        "--cores", CORE, "--out", str(folder / "out"),
    ])
    assert code in (0, 3)
    return folder / "out"


@pytest.fixture
def packed(verified, tmp_path) -> Path:
    out = tmp_path / "submission"
    assert cli.main(["submit", "pack", str(verified), "--out", str(out)]) == 0
    return out


def check(folder: Path, capsys) -> tuple[int, str]:
    capsys.readouterr()
    return cli.main(["submit", "check", str(folder)]), capsys.readouterr().out


def test_a_packed_submission_is_valid_and_complete(packed, verified, capsys):
    assert check(packed, capsys) == (0, f"{packed}: complete and valid\n")
    verdict = json.loads((verified / "verdict.json").read_text())
    for point in verdict["points"]:
        stream = packed / "streams" / f"Ramp_64x64_30_qp{point['qp']}.266"
        assert 8 * stream.stat().st_size == point["entry"]["bits"]
        # 64x64 in 4:2:0, 10 bits in two bytes, 3 pictures.
        assert stream.with_suffix(".yuv").stat().st_size == 64 * 64 * 3 // 2 * 2 * 3
    sums = dict(line.split("  ")[::-1] for line in (packed / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {
        str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()
    } - {"SHA256SUMS", "submission.json"}
    assert all(sha256_file(packed / name) == digest for name, digest in sums.items())
    sheet = (packed / "factsheet.md").read_text()
    for point in verdict["points"]:
        assert f"| {point['qp']} | {point['qp']}.00 | - | {point['entry']['kbps']:.2f} |" in sheet
        assert f"{point['entry']['psnr']['weighted']:.3f}" in sheet
    assert verdict["machine"]["cpu"] in sheet
    assert (packed / "factsheet.pdf").read_bytes().startswith(b"%PDF")
    assert (packed / "methodology.pdf").read_bytes().startswith(b"%PDF")


def test_the_share_of_the_model_is_of_the_time_it_ran_in(verified):
    """Also where an encode waited for its core: the encoder's counters are of its CPU time."""
    verdict = json.loads((verified / "verdict.json").read_text())
    records = [record for record in load_records(verified).values() if record["variant"] == "entry"]
    for record in records:
        record["encode"]["counters"] = {
            "decisions": 100, "seconds": 0.3, "share": 0.006, "cycles_per_decision": 3000,
        }
    first = verdict["points"][0]
    first["matching"] = {"qp": 22.4, "target_ratio": 0.71, "trials": []}
    sheet = factsheet(verdict, records, None)
    assert f"| {first['qp']} | 22.40 | 0.710 | {first['entry']['kbps']:.2f} |" in sheet
    assert "| Share of the model in the entry's time T1 | 0.60 % |" in sheet
    assert "| Cycles of the model for each luma sample |" in sheet


def test_a_missing_stream_is_found(packed, capsys):
    (packed / "streams" / "Ramp_64x64_30_qp27.266").unlink()
    code, said = check(packed, capsys)
    assert code == 2
    assert "streams/Ramp_64x64_30_qp27.266: missing" in said


def test_a_wrong_checksum_is_found(packed, capsys):
    pictures = packed / "streams" / "Ramp_64x64_30_qp32.yuv"
    data = bytearray(pictures.read_bytes())
    data[5000] ^= 1
    pictures.write_bytes(data)
    code, said = check(packed, capsys)
    assert code == 2
    assert "streams/Ramp_64x64_30_qp32.yuv: SHA-256" in said
    # Were the checksum changed with it, the decoder would tell.
    relist(packed)
    code, said = check(packed, capsys)
    assert code == 2
    assert "streams/Ramp_64x64_30_qp32.yuv: differs from what the decoder gives in picture 0" in said


def test_a_rate_out_of_the_window_is_found(packed, capsys):
    for suffix in (".266", ".yuv"):
        shutil.copyfile(packed / "streams" / f"Ramp_64x64_30_qp22{suffix}",
                        packed / "streams" / f"Ramp_64x64_30_qp37{suffix}")
    relist(packed)
    code, said = check(packed, capsys)
    assert code == 2
    assert "streams/Ramp_64x64_30_qp37.266" in said and "% of the anchor's, wanted" in said
    assert "verdict.json says" in said


def test_points_that_the_edition_asks_for_are_missed(packed, tmp_path, capsys):
    edition = tmp_path / "more.toml"
    edition.write_text(EDITION.replace("[22,", "[17, 22,"))
    capsys.readouterr()
    assert cli.main(["submit", "check", str(packed), "--edition", str(edition)]) == 2
    assert "no points at QP 17" in capsys.readouterr().out


def test_a_stream_that_was_not_measured_is_not_packed(verified, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(verified, copy)
    stream = next(copy.glob("*_qp22_entry_r0.266"))
    stream.write_bytes(stream.read_bytes() + b"\0")
    assert cli.main(["submit", "pack", str(copy)]) == 1
    assert "not the stream that was measured" in capsys.readouterr().err
    assert not (copy / "submission").exists()


def test_a_pdf_depends_on_its_text_alone():
    from datetime import datetime

    when = datetime(2026, 1, 2, tzinfo=UTC)
    text = "# Title\n\n- point ≤ 5\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    assert to_pdf(text, when) == to_pdf(text, when) != to_pdf(text + "more", when)


def relist(folder: Path) -> None:
    """Write checksums that fit what is there."""
    manifest = json.loads((folder / "submission.json").read_text())
    for name, about in manifest["files"].items():
        about["sha256"] = sha256_file(folder / name)
    (folder / "submission.json").write_text(json.dumps(manifest))
    (folder / "SHA256SUMS").write_text("".join(
        f"{about['sha256']}  {name}\n" for name, about in sorted(manifest["files"].items())
    ))
