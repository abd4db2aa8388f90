"""Patch, check and revert: byte for byte, all or nothing, and never over anyone's work."""

import argparse
import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpart.errors import FastpartError
from fastpart.modelfile import write_model
from fastpart.vtm_patch import command, layout, patchset, transaction, tree
from fastpart.vtm_patch import payload as payloads
from fastpart.vtm_patch.derive import derive, repeated_lines
from fastpart.vtm_patch.patchset import FilePatch, Insertion, PatchSet, digest
from fastpart.vtm_patch.tree import Kind

REAL_TREE = "FASTPART_VTM_TREE"

TOP, CRLF, OPEN, SAME = (
    f"source/{name}" for name in ("App/top.cpp", "App/crlf.h", "Lib/open.cpp", "Lib/same.cpp")
)
PRISTINE = {
    TOP: b"one\ntwo\n",
    CRLF: b"one\r\ntwo\r\nthree\r\n",
    OPEN: b"{\n}\n{\n}\nno line end",
    SAME: b"",
    layout.VERSION_FILE: b'#define VTM_VERSION "9.9"\n',
    layout.BUILD_FILE: b"file( GLOB )\n",
}
MODIFIED = PRISTINE | {
    TOP: b"at the top\none\ntwo\nat the end\nof it\n",
    CRLF: b"one\r\nin between\r\ntwo\r\nthree\r\n",
    OPEN: b"{\n}\n{\n  +++ odd\n\n}\nno line end",
}
HOOK = f"{layout.ENCODER_LIB}/FastpartHook.cpp"


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    """Contents by path, and an empty entry for each folder."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
    }


@pytest.fixture
def pristine(tmp_path):
    return write_tree(tmp_path / "vtm", PRISTINE)


@pytest.fixture
def before(pristine):
    return read_tree(pristine)


@pytest.fixture
def shipped(tmp_path):
    """The synthetic patch set, written to a folder and read again."""
    made = derive(write_tree(tmp_path / "a", PRISTINE), write_tree(tmp_path / "b", MODIFIED), "9.9")
    patchset.save(made, tmp_path / "sets")
    return [patchset.load(tmp_path / "sets" / "9.9")]


@pytest.fixture
def payload():
    return payloads.build()


@pytest.fixture
def patched(pristine, before, shipped, payload):
    tree.apply(pristine, shipped, payload)
    return pristine


def make_model(path: Path, recipe: str) -> Path:
    tables = {"qp_knots": [32], "log_kappa": [0], "log_layer_weight": [0] * 8}
    write_model(path, {}, tables, {"recipe": recipe}, ["width"])
    return path


def later(payload, **files):
    """The payload of a fastpart whose sources moved on; None drops a file."""
    contents = payload.files | {f"{layout.ENGINE}/{n}.cpp": data for n, data in files.items()}
    return payloads.Payload(
        "99", payload.model, {path: data for path, data in contents.items() if data is not None}
    )


def crash_at(number: int, action) -> bool:
    """Run `action` in a child that is killed just before this `os.replace`; whether it was."""
    child = os.fork()
    if child == 0:
        replace, calls = os.replace, iter(range(number))

        def dying(source, target):
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = dying
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


class TestPatchSet:
    def test_apply_gives_the_modified_tree_and_revert_the_pristine_one(
        self, pristine, before, shipped, payload
    ):
        tree.apply(pristine, shipped, payload)
        assert {path: (pristine / path).read_bytes() for path in MODIFIED} == MODIFIED
        for path, data in payload.files.items():
            assert (pristine / path).read_bytes() == data
        assert tree.revert(pristine, shipped)
        assert read_tree(pristine) == before

    def test_a_checkout_with_converted_line_ends_is_the_same_version(
        self, tmp_path, shipped, payload
    ):
        crlf = {
            path: data.replace(b"\r", b"").replace(b"\n", b"\r\n")
            for path, data in PRISTINE.items()
        }
        root = write_tree(tmp_path / "windows", crlf)
        before = read_tree(root)
        tree.apply(root, shipped, payload)
        assert (root / TOP).read_bytes() == MODIFIED[TOP].replace(b"\n", b"\r\n")
        tree.revert(root, shipped)
        assert read_tree(root) == before

    def test_the_insertions_hold_no_line_of_the_pristine_tree(self, shipped):
        text = shipped[0].insertions()
        assert b"one" not in text and b"three" not in text
        assert b"@@ -0,0 +1,1 @@\n+at the top\n@@ -2,0 +4,2 @@\n+at the end\n+of it\n" in text

    @pytest.mark.parametrize(
        "text",
        [
            b"--- a/x\n+++ b/y\n",
            b"@@ -1,0 +2,1 @@\n+x\n",
            b"--- a/x\n+++ b/x\n@@ -1,1 +1,1 @@\n+x\n",
            b"--- a/x\n+++ b/x\n@@ -1,0 +2,1 @@\n-x\n",
            b"--- a/x\n+++ b/x\n@@ -1,0 +2,2 @@\n+x\n",
            b"--- a/x\n+++ b/x\n@@ -1,0 +2,1 @@\n+x\n context\n",
            b"--- a/x\n+++ b/x\n@@ -1,0 +3,1 @@\n+x\n",
            b"--- a/x\n+++ b/x\n@@ -1,0 +2,1 @@ void f()\n+x\n",
            b"--- a/x\n+++ b/x\n@@ -5,0 +6,1 @@\n+x\n@@ -1,0 +3,1 @@\n+x\n",
        ],
    )
    def test_anything_but_insertions_is_refused(self, text):
        with pytest.raises(FastpartError, match="here, line"):
            patchset.parse_insertions(text, "here")

    def test_a_manifest_that_leaves_the_tree_is_refused(self):
        manifest = {"vtm": "9.9", "files": [{"path": "../x", "pristine": "", "patched": ""}]}
        with pytest.raises(FastpartError, match="leaves the tree"):
            PatchSet.from_parts(manifest, b"", "here")

    def test_a_damaged_patch_set_is_noticed(self):
        file = FilePatch("x", digest(b"a\n"), digest(b"a\nb\n"), (Insertion(1, (b"c",)),))
        with pytest.raises(FastpartError, match="damaged"):
            file.insert(b"a\n")

    def test_the_shipped_patch_sets_only_insert(self):
        allowed = re.compile(rb"--- a/\S+|\+\+\+ b/\S+|@@ -\d+,0 \+\d+,\d+ @@|\+.*")
        for patch_set in patchset.load_shipped():
            folder = patchset.SHIPPED / patch_set.vtm
            text = (folder / patchset.INSERTIONS).read_bytes()
            assert [line for line in text.splitlines() if not allowed.fullmatch(line)] == []
            assert text == patch_set.insertions()


class TestDerive:
    def test_removed_or_changed_lines_are_refused(self, tmp_path):
        a = write_tree(tmp_path / "a", PRISTINE)
        for text in (b"one\n", b"one\nTWO\nmore\n", b"two\none\n", b"one\n\ntwo"):
            b = write_tree(tmp_path / "b", PRISTINE | {TOP: text})
            with pytest.raises(FastpartError, match=f"{TOP}: line [12] of the pristine file"):
                derive(a, b, "9.9")

    def test_an_insertion_without_line_end_is_refused(self, tmp_path):
        a = write_tree(tmp_path / "a", PRISTINE)
        b = write_tree(tmp_path / "b", PRISTINE | {TOP: PRISTINE[TOP] + b"open"})
        with pytest.raises(FastpartError, match="no line end"):
            derive(a, b, "9.9")

    def test_an_insertion_with_other_line_ends_is_refused(self, tmp_path):
        a = write_tree(tmp_path / "a", PRISTINE)
        b = write_tree(tmp_path / "b", PRISTINE | {CRLF: PRISTINE[CRLF] + b"LF\n"})
        with pytest.raises(FastpartError, match=CRLF):
            derive(a, b, "9.9")

    def test_what_fastpart_adds_and_what_a_build_makes_is_left_out(self, tmp_path):
        a = write_tree(tmp_path / "a", PRISTINE)
        extra = {HOOK: b"", layout.RECORD: b"", "build/x": b"", "bin/y": b"", "lib/z": b""}
        b = write_tree(tmp_path / "b", MODIFIED | extra)
        assert set(derive(a, b, "9.9").files) == {TOP, CRLF, OPEN}
        write_tree(b, {"source/Lib/EncoderLib/Other.cpp": b""})
        with pytest.raises(FastpartError, match="Other.cpp in one tree only"):
            derive(a, b, "9.9")

    def test_equal_trees_are_refused(self, tmp_path):
        a, b = (write_tree(tmp_path / name, PRISTINE) for name in "ab")
        with pytest.raises(FastpartError, match="no file differs"):
            derive(a, b, "9.9")

    def test_a_repeated_line_is_pointed_out(self, tmp_path):
        line = b"  result = compute(argument);\n"
        a = write_tree(tmp_path / "a", {TOP: b"{\n" + line + b"}\n"})
        b = write_tree(tmp_path / "b", {TOP: b"{\n" + line + b"}\n{\n" + line + b"}\n"})
        assert repeated_lines(derive(a, b, "9.9"), a) == [f"{TOP}: result = compute(argument);"]

    def test_a_block_stays_whole(self, tmp_path):
        a = write_tree(tmp_path / "a", {TOP: b"{\nx\n}\n{\ny\n}\n"})
        b = write_tree(tmp_path / "b", {TOP: b"{\nx\n}\n{\nnew\n}\n{\ny\n}\n"})
        (insertion,) = derive(a, b, "9.9").files[TOP].insertions
        assert sorted(insertion.lines) == [b"new", b"{", b"}"]

    @given(
        st.lists(st.sampled_from([b"a", b"b", b"{", b"}"]), max_size=12),
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from([b"a", b"{", b"n"])), max_size=6),
    )
    def test_any_insertion_survives_the_round_trip(self, tmp_path_factory, lines, added):
        old = b"".join(line + b"\n" for line in lines)
        for position, line in added:
            lines.insert(position, line)
        new = b"".join(line + b"\n" for line in lines)
        folder = tmp_path_factory.mktemp("trees")
        a, b = write_tree(folder / "a", {TOP: old}), write_tree(folder / "b", {TOP: new})
        if old == new:
            return
        made = derive(a, b, "9.9")
        again = PatchSet.from_parts(made.manifest(), made.insertions(), "here")
        assert again == made
        assert again.files[TOP].insert(old) == new
        assert again.files[TOP].remove(new) == old


class TestApply:
    def test_again_changes_nothing(self, patched, shipped, payload):
        content = read_tree(patched)
        stamps = {path: os.stat(patched / path).st_mtime_ns for path in content}
        assert tree.apply(patched, shipped, payload) == []
        assert read_tree(patched) == content
        assert stamps == {path: os.stat(patched / path).st_mtime_ns for path in content}

    def test_file_modes_stay(self, pristine, shipped, payload):
        (pristine / TOP).chmod(0o640)
        tree.apply(pristine, shipped, payload)
        tree.revert(pristine, shipped)
        assert (pristine / TOP).stat().st_mode & 0o777 == 0o640

    def test_a_configured_build_looks_again_when_sources_come_or_go(
        self, pristine, shipped, payload
    ):
        build_file = pristine / layout.BUILD_FILE
        for step in (
            lambda: tree.apply(pristine, shipped, payload),
            lambda: tree.revert(pristine, shipped),
        ):
            os.utime(build_file, (1, 1))
            step()
            assert build_file.stat().st_mtime > 1

    def test_other_sources_are_updated_in_place(self, patched, before, shipped, payload):
        newer = later(payload, forest=b"// newer\n", extra=b"", policy=None)
        changed = tree.apply(patched, shipped, newer)
        assert sorted(changed) == [
            f"{layout.ENGINE}/{name}.cpp" for name in ("extra", "forest", "policy")
        ]
        assert not (patched / layout.ENGINE / "policy.cpp").exists()
        assert tree.inspect(patched, shipped).kind is Kind.PATCHED
        tree.revert(patched, shipped)
        assert read_tree(patched) == before

    def test_a_newer_patch_set_replaces_an_older_one(
        self, tmp_path, patched, before, shipped, payload
    ):
        changes = {TOP: b"one\nnew\ntwo\n", CRLF: PRISTINE[CRLF], SAME: b"x\n"}
        newer = [derive(tmp_path / "a", write_tree(tmp_path / "b", MODIFIED | changes), "9.9")]
        assert tree.inspect(patched, newer).kind is Kind.PATCHED
        tree.apply(patched, newer, payload)
        assert {path: (patched / path).read_bytes() for path in changes} == changes
        tree.revert(patched, newer)
        assert read_tree(patched) == before

    def test_reverts_what_another_patch_set_did(self, tmp_path, patched, before):
        other = [
            derive(
                tmp_path / "a", write_tree(tmp_path / "b", MODIFIED | {OPEN: PRISTINE[OPEN]}), "9.9"
            )
        ]
        tree.revert(patched, other)
        assert read_tree(patched) == before

    def test_another_folder(self, tmp_path, shipped, payload):
        for action in (
            lambda: tree.apply(tmp_path, shipped, payload),
            lambda: tree.revert(tmp_path / "nowhere", shipped),
        ):
            with pytest.raises(FastpartError, match="wanted the top folder of a VTM source tree"):
                action()

    def test_another_version(self, pristine, before, shipped, payload):
        write_tree(pristine, {TOP: b"other\n", layout.VERSION_FILE: b'#define VTM_VERSION "8"\n'})
        content = read_tree(pristine)
        with pytest.raises(FastpartError) as error:
            tree.apply(pristine, shipped, payload)
        message = str(error.value)
        assert "VTM-8, supported: VTM-9.9" in message
        assert f"{TOP}: SHA-256 {digest(b'other' + bytes([10]))}" in message
        assert f"wanted {digest(PRISTINE[TOP])} (VTM-9.9)" in message
        assert "check out tag VTM-9.9" in message
        assert CRLF not in message
        assert read_tree(pristine) == content
        assert tree.inspect(pristine, shipped).kind is Kind.FOREIGN

    def test_an_unknown_version_and_a_file_that_is_gone(self, pristine, shipped, payload):
        (pristine / TOP).unlink()
        (pristine / layout.VERSION_FILE).unlink()
        with pytest.raises(FastpartError, match=f"unknown version(.|\n)*{TOP}: not there"):
            tree.apply(pristine, shipped, payload)

    def test_a_changed_file(self, pristine, shipped, payload):
        write_tree(pristine, {CRLF: b"mine\r\n"})
        with pytest.raises(FastpartError, match=f"{CRLF}: SHA(.|\n)*restore these files"):
            tree.apply(pristine, shipped, payload)

    @pytest.mark.parametrize("back", [[TOP], [CRLF, OPEN]])
    def test_half_patched(self, patched, before, shipped, payload, back):
        write_tree(patched, {path: PRISTINE[path] for path in back})
        with pytest.raises(FastpartError) as error:
            tree.apply(patched, shipped, payload)
        there = ", ".join(sorted({TOP, CRLF, OPEN} - set(back)))
        assert f"patched: {there}\n  pristine: {', '.join(sorted(back))}\n" in str(error.value)
        assert "run: fastpart patch revert" in str(error.value)
        tree.revert(patched, shipped)
        assert read_tree(patched) == before

    def test_touched_files_alone(self, tmp_path, before, shipped):
        root = write_tree(tmp_path / "touched", MODIFIED)
        assert tree.inspect(root, shipped).kind is Kind.HALF
        tree.revert(root, shipped)
        assert read_tree(root) == before

    def test_an_added_file_that_is_gone(self, patched, before, shipped, payload):
        (patched / HOOK).unlink()
        with pytest.raises(FastpartError, match=f"added but gone: {HOOK}"):
            tree.apply(patched, shipped, payload)
        tree.revert(patched, shipped)
        assert read_tree(patched) == before

    @pytest.mark.parametrize("path", [HOOK, f"{layout.ENGINE}/forest.cpp"])
    def test_nobodys_work_is_overwritten_or_deleted(self, patched, before, shipped, payload, path):
        write_tree(patched, {path: b"mine\n"})
        content = read_tree(patched)
        for action in (
            lambda: tree.apply(patched, shipped, payload),
            lambda: tree.revert(patched, shipped),
        ):
            with pytest.raises(FastpartError, match=f"not as fastpart wrote it: {path}"):
                action()
        assert read_tree(patched) == content
        (patched / path).unlink()
        tree.revert(patched, shipped)
        assert read_tree(patched) == before

    def test_a_file_in_the_way(self, pristine, shipped, payload):
        write_tree(pristine, {HOOK: b"mine\n"})
        with pytest.raises(FastpartError, match=f"not as fastpart wrote it: {HOOK}"):
            tree.apply(pristine, shipped, payload)

    def test_a_change_after_patching(self, patched, shipped):
        write_tree(patched, {TOP: MODIFIED[TOP] + b"mine\n"})
        content = read_tree(patched)
        with pytest.raises(FastpartError, match=f"{TOP}: SHA-256"):
            tree.revert(patched, shipped)
        assert read_tree(patched) == content

    def test_a_damaged_record(self, patched, shipped):
        (patched / layout.RECORD).write_text("{}")
        with pytest.raises(FastpartError, match="wanted the record that fastpart wrote"):
            tree.revert(patched, shipped)

    def test_revert_of_a_pristine_tree(self, pristine, before, shipped):
        assert tree.revert(pristine, shipped) == []
        assert read_tree(pristine) == before


class TestTrouble:
    """A tree that cannot be written stays as it was; a killed process leaves what revert heals."""

    @pytest.fixture(params=["apply", "update", "revert"])
    def action(self, request, pristine, before, shipped, payload):
        if request.param == "apply":
            return lambda: tree.apply(pristine, shipped, payload)
        tree.apply(pristine, shipped, payload)
        if request.param == "revert":
            return lambda: tree.revert(pristine, shipped)
        newer = later(payload, forest=b"// newer\n", extra=b"", policy=None)
        return lambda: tree.apply(pristine, shipped, newer)

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_renaming_fails(self, monkeypatch, pristine, action, number):
        content = read_tree(pristine)
        replace, calls = os.replace, iter(range(number))
        failed = []

        def failing(source, target):
            if next(calls, None) is None and not failed:
                failed.append(target)
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(FastpartError, match="Read-only file system(.|\n)*as it was"):
            action()
        assert read_tree(pristine) == content

    @pytest.mark.parametrize("number", [0, 2])
    def test_the_disk_is_full(self, monkeypatch, pristine, action, number):
        content = read_tree(pristine)
        calls = iter(range(number))

        def full(_):
            if next(calls, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

        monkeypatch.setattr(transaction.os, "fsync", full)
        with pytest.raises(FastpartError, match="No space left(.|\n)*as it was"):
            action()
        assert read_tree(pristine) == content

    def test_a_backup_that_did_not_fit_is_not_restored(self, monkeypatch, pristine, action):
        content = read_tree(pristine)

        def truncating(source, target):
            Path(target).write_bytes(b"")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

        monkeypatch.setattr(shutil, "copy2", truncating)
        with pytest.raises(FastpartError, match="No space left"):
            action()
        assert read_tree(pristine) == content

    def test_undoing_fails_too(self, monkeypatch, pristine, before, shipped, action):
        replace, calls = os.replace, iter(range(2))

        def failing(source, target):
            if next(calls, None) is None:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing)
            with pytest.raises(FastpartError) as error:
                action()
        if "as it was" not in str(error.value):
            assert "run: fastpart patch revert" in str(error.value)
            assert tree.inspect(pristine, shipped).kind is Kind.HALF
        tree.revert(pristine, shipped)
        assert read_tree(pristine) == before

    def test_an_interrupt_is_undone(self, monkeypatch, pristine, action):
        content = read_tree(pristine)
        replace, calls = os.replace, iter(range(2))

        def interrupted(source, target):
            if next(calls, 2) == 1:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            action()
        assert read_tree(pristine) == content

    def test_killed_midway(self, tmp_path, pristine, before, shipped, action):
        start = shutil.copytree(pristine, tmp_path / "start")
        number = 0
        while crash_at(number, action):
            assert tree.inspect(pristine, shipped).kind is Kind.HALF
            tree.revert(pristine, shipped)
            assert read_tree(pristine) == before
            shutil.rmtree(pristine)
            shutil.copytree(start, pristine)
            number += 1
        assert number > 3


class TestPayload:
    def test_engine_sources_see_each_other(self, payload):
        names = {Path(path).name for path in payload.files if path.startswith(layout.ENGINE)}
        for path, data in payload.files.items():
            if path.startswith(layout.ENGINE):
                assert set(re.findall(r'#include "(.*)"', data.decode())) <= names

    def test_one_unit_compiles_the_engine(self, payload):
        unit = payload.files[f"{layout.ENCODER_LIB}/FastpartEngine.cpp"].decode()
        sources = [path for path in payload.files if re.search(r"/engine/\w+\.cpp$", path)]
        included = re.findall(r'#include "(.*)"', unit)
        assert [f"{layout.ENCODER_LIB}/{name}" for name in included] == sorted(sources)

    def test_the_model_is_compiled_in(self, tmp_path):
        model = make_model(tmp_path / "mine.fpm", "one")
        built = payloads.build(model)
        text = built.files[f"{layout.ENCODER_LIB}/FastpartModelData.cpp"].decode()
        numbers = text[text.index("= {") + 3 : text.index("};")]
        assert bytes(map(int, numbers.split(","))) == model.read_bytes()
        assert f"default_model_size = {model.stat().st_size};" in text
        assert built.model["name"] == "mine.fpm"

    def test_no_model(self, monkeypatch, tmp_path):
        monkeypatch.setattr(payloads, "DEFAULT_MODEL", tmp_path / "none.fpm")
        built = payloads.build()
        assert built.model is None
        text = built.files[f"{layout.ENCODER_LIB}/FastpartModelData.cpp"]
        assert b"= {\n0\n};" in text and b"default_model_size = 0;" in text

    def test_a_damaged_model(self, tmp_path):
        model = make_model(tmp_path / "mine.fpm", "one")
        model.write_bytes(model.read_bytes()[:-1])
        with pytest.raises(FastpartError, match="mine.fpm"):
            payloads.build(model)


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch, tmp_path, shipped):
        monkeypatch.setattr(patchset, "SHIPPED", tmp_path / "sets")
        monkeypatch.setattr(payloads, "DEFAULT_MODEL", make_model(tmp_path / "default.fpm", "d"))
        parser = argparse.ArgumentParser()
        command.add_commands(parser.add_subparsers())

        def call(*arguments):
            args = parser.parse_args(["patch", *map(str, arguments)])
            return args.run(args)

        return call

    def test_apply_check_revert(self, run, capsys, pristine, before):
        for arguments, words in (
            (["check"], "pristine VTM-9.9"),
            (["apply"], "now build the tree"),
            (["apply"], "nothing to do"),
            (["check"], "patched VTM-9.9, fastpart "),
            (["revert"], "pristine"),
            (["revert"], "0 files"),
        ):
            assert run(*arguments, pristine) == 0
            assert words in capsys.readouterr().out
        assert read_tree(pristine) == before

    def test_the_model_can_be_swapped(self, run, capsys, tmp_path, pristine):
        model = make_model(tmp_path / "mine.fpm", "other")
        checksums = []
        for arguments in ([], ["--model", model], []):
            run("apply", pristine, *arguments)
            capsys.readouterr()
            assert run("check", pristine) == 0
            out = capsys.readouterr().out
            assert "to update" not in out
            checksums.append(re.search(r"model (\S+), checksum ([0-9a-f]{8})", out).groups())
        assert [name for name, _ in checksums] == ["default.fpm", "mine.fpm", "default.fpm"]
        assert checksums[0] == checksums[2] and checksums[0][1] != checksums[1][1]

    def test_check_tells_that_an_update_is_there(self, run, capsys, pristine, shipped, payload):
        tree.apply(pristine, shipped, later(payload, forest=b"// older\n"))
        assert run("check", pristine) == 0
        assert "to update: fastpart patch apply" in capsys.readouterr().out

    def test_check_fails_for_other_trees(self, run, capsys, pristine):
        write_tree(pristine, {TOP: MODIFIED[TOP]})
        assert run("check", pristine) == 1
        assert f"half-patched\n  patched: {TOP}\n" in capsys.readouterr().out
        write_tree(pristine, {TOP: b"mine\n"})
        assert run("check", pristine) == 1
        assert f"foreign: VTM-9.9, supported: VTM-9.9\n  {TOP}: SHA" in capsys.readouterr().out

    def test_derive_writes_the_patch_set(self, run, capsys, tmp_path, shipped):
        arguments = ["derive", tmp_path / "a", tmp_path / "b", "--vtm-version", "9.9"]
        assert run(*arguments, "--output", tmp_path / "out") == 0
        assert "6 lines into 3 files" in capsys.readouterr().out
        assert patchset.load(tmp_path / "out" / "9.9") == shipped[0]
        with pytest.raises(FastpartError, match="no such folder"):
            run(*arguments, "--output", tmp_path / "nowhere" / "versions")

    def test_no_patch_set(self, run, monkeypatch, tmp_path, pristine):
        monkeypatch.setattr(patchset, "SHIPPED", tmp_path / "nowhere")
        with pytest.raises(FastpartError, match="no patch set"):
            run("check", pristine)


def test_the_record_is_one_readable_file(patched, shipped, payload):
    record = json.loads((patched / layout.RECORD).read_text())
    assert record["complete"] and record["fastpart"] == payload.fastpart
    assert set(record["added"]) == set(payload.files)
    assert record["patch_sets"][0]["manifest"] == shipped[0].manifest()


def test_round_trip_on_a_real_tree(tmp_path, payload):
    """The touched files of the user's own pristine tree, in a copy."""
    source = os.environ.get(REAL_TREE)
    if not source:
        pytest.skip(f"MISSING: pristine VTM tree; set {REAL_TREE} to its top folder")
    shipped = patchset.load_shipped()
    paths = {path for item in shipped for path in item.files}
    paths |= {layout.VERSION_FILE, layout.BUILD_FILE}
    copy = write_tree(
        tmp_path / "vtm",
        {
            path: (Path(source) / path).read_bytes()
            for path in paths
            if (Path(source) / path).exists()
        },
    )
    before = read_tree(copy)
    assert tree.inspect(copy, shipped).kind is Kind.PRISTINE
    tree.apply(copy, shipped, payload)
    assert tree.inspect(copy, shipped).kind is Kind.PATCHED
    tree.revert(copy, shipped)
    assert read_tree(copy) == before
