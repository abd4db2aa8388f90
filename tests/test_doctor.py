"""`fastpart doctor`: what it finds, and its exit code."""

from __future__ import annotations

import argparse
import importlib.metadata
import json

import pytest

from fastpart import doctor


@pytest.fixture
def examine(capsys):
    """Run the command; returns its exit code and output."""

    def call(*arguments):
        parser = argparse.ArgumentParser()
        doctor.add_commands(parser.add_subparsers())
        args = parser.parse_args(["doctor", *map(str, arguments)])
        code = args.run(args)
        return code, capsys.readouterr().out

    return call


def findings(text):
    return {check["name"]: check for check in json.loads(text)["checks"]}


def test_ready(stub_home, examine):
    code, text = examine("--vtm-home", stub_home)
    assert code == 0
    assert "MISSING" not in text
    assert "fastpart encode can run" in text
    code, text = examine("--vtm-home", stub_home, "--json")
    assert code == 0
    assert json.loads(text)["ready"] is True
    found = findings(text)
    assert found["VTM patched EncoderApp"]["detail"].startswith("23.2 at ")
    assert found["ffmpeg"]["ok"]
    assert found["numpy"]["detail"] == importlib.metadata.version("numpy")
    assert found["trial encode"]["detail"].startswith("one picture in ")
    assert not found["VTM parcat"]["ok"], "the stub has none"
    assert not found["VTM parcat"]["needed"]


def test_nothing_there(tmp_path, examine):
    code, text = examine("--vtm-home", tmp_path / "none")
    assert code == 1
    assert "MISSING VTM patched EncoderApp" in text
    assert "fastpart patch apply" in text
    assert "cannot run" in text
    code, text = examine("--vtm-home", tmp_path / "none", "--json")
    assert code == 1
    assert json.loads(text)["ready"] is False
    assert not findings(text)["VTM cfg"]["ok"]


def test_unpatched_binary(stub_home, examine):
    folder = stub_home / "23.2"
    (folder / "patched" / "EncoderApp").write_bytes((folder / "stock" / "EncoderApp").read_bytes())
    code, text = examine("--vtm-home", stub_home, "--json")
    assert code == 1
    assert "does not know --FastPart" in findings(text)["VTM patched EncoderApp"]["detail"]
    assert findings(text)["VTM stock EncoderApp"]["ok"]


def test_encoder_that_fails(stub_home, examine, monkeypatch):
    monkeypatch.setenv("FAKE_VTM", "fail")
    code, text = examine("--vtm-home", stub_home)
    assert code == 1
    assert "MISSING trial encode: the patched encoder fails" in text
    assert "no memory left" in text


def test_another_version(stub_home, examine):
    for variant in ("stock", "patched"):
        program = stub_home / "23.2" / variant / "EncoderApp"
        program.write_text(program.read_text().replace("Version 23.2", "Version 22.0"))
    code, text = examine("--vtm-home", stub_home, "--json")
    assert code == 1
    detail = findings(text)["VTM stock EncoderApp"]["detail"]
    assert "calls itself VTM 22.0, wanted 23.2" in detail


def test_binary_that_does_not_run(stub_home, examine):
    (stub_home / "23.2" / "patched" / "EncoderApp").write_text("#!/no/such/interpreter\n")
    code, text = examine("--vtm-home", stub_home, "--json")
    assert code == 1
    assert "cannot be run" in findings(text)["VTM patched EncoderApp"]["detail"]


def test_missing_package_names_its_extra(stub_home, examine, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("lightgbm", "numpy"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code, text = examine("--vtm-home", stub_home, "--json")
    assert code == 1
    found = findings(text)
    assert "pip install 'fastpart[train]'" in found["lightgbm"]["detail"]
    assert not found["lightgbm"]["needed"]
    assert found["numpy"]["detail"] == "not installed; pip install numpy"


def test_real_home(vtm_home, examine):
    _, text = examine("--vtm-home", vtm_home.root, "--json")
    found = findings(text)
    for name in ("VTM stock EncoderApp", "VTM DecoderApp", "VTM parcat"):
        assert found[name]["detail"].startswith("23.2 at "), found[name]
