"""`fastpart patch`: puts the predictor into the user's own VTM tree, and takes it out again."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.vtm_patch import patchset, tree
from fastpart.vtm_patch import payload as payloads
from fastpart.vtm_patch.derive import derive, repeated_lines
from fastpart.vtm_patch.patchset import PatchSet, digest
from fastpart.vtm_patch.record import Record
from fastpart.vtm_patch.tree import Kind, TreeState

_DESCRIPTION = """\
Put the predictor into your own VTM tree, and take it out again. Only insertions are made, only into
files whose SHA-256 is known, all or nothing; build the tree as its own README says.
"""


def add_commands(subparsers) -> None:
    """Add `patch` with `apply`, `check`, `revert` and, for maintainers, `derive`."""
    patch = subparsers.add_parser(
        "patch",
        help="put the predictor into a VTM tree, check it, take it out",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = patch.add_subparsers(dest="action", metavar="ACTION", required=True)

    apply = _tree_command(actions, "apply", "patch a pristine tree, or update a patched one")
    apply.add_argument(
        "--model", type=Path, metavar="FILE", help="model to compile in instead of the default one"
    )
    apply.set_defaults(run=_apply)

    check = _tree_command(
        actions, "check", "tell the state of a tree; exit code 0 if pristine or patched, else 1"
    )
    check.set_defaults(run=_check)

    revert = _tree_command(actions, "revert", "make the tree pristine again, byte for byte")
    revert.set_defaults(run=_revert)

    make = actions.add_parser("derive", help="maintainers: make a patch set from two trees")
    make.add_argument("pristine", type=Path, metavar="PRISTINE_TREE")
    make.add_argument("modified", type=Path, metavar="MODIFIED_TREE")
    make.add_argument("--vtm-version", required=True, metavar="VERSION", help="such as 23.2")
    make.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=Path("vtm_patch/versions"),
        help="folder of the patch sets (default: %(default)s, from the repository root)",
    )
    make.set_defaults(run=_derive)


def _tree_command(actions, name: str, help_text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("tree", type=Path, metavar="VTM_TREE", help="top folder of the VTM sources")
    return parser


def _apply(args: argparse.Namespace) -> int:
    shipped = patchset.load_shipped()
    payload = payloads.build(args.model)
    changed = tree.apply(args.tree, shipped, payload)
    print(_describe(tree.inspect(args.tree, shipped)))
    if changed:
        print(f"{len(changed)} files written or deleted; now build the tree as its README says")
    else:
        print("nothing to do: it was up to date")
    return 0


def _check(args: argparse.Namespace) -> int:
    shipped = patchset.load_shipped()
    state = tree.inspect(args.tree, shipped)
    if state.kind is Kind.FOREIGN:
        print(f"{state.root}: foreign: {tree.mismatch(state, shipped)}")
    else:
        print(_describe(state))
    if state.kind is Kind.PATCHED and _outdated(state.record, shipped):
        print("the installed fastpart has other sources; to update: fastpart patch apply")
    return 0 if state.kind in (Kind.PRISTINE, Kind.PATCHED) else 1


def _revert(args: argparse.Namespace) -> int:
    changed = tree.revert(args.tree, patchset.load_shipped())
    print(f"{args.tree}: pristine, {len(changed)} files restored or deleted")
    return 0


def _derive(args: argparse.Namespace) -> int:
    if not args.output.parent.is_dir():
        raise FastpartError(
            f"{args.output.parent}: no such folder, wanted the one that holds the patch sets; "
            "run this from the repository root or give --output"
        )
    patch_set = derive(args.pristine, args.modified, args.vtm_version)
    folder = patchset.save(patch_set, args.output)
    lines = sum(
        len(insertion.lines) for file in patch_set.files.values() for insertion in file.insertions
    )
    print(f"{folder}: {lines} lines into {len(patch_set.files)} files")
    for repeated in repeated_lines(patch_set, args.pristine):
        print(f"warning: this inserted line stands in VTM too: {repeated}")
    return 0


def _describe(state: TreeState) -> str:
    if state.kind is Kind.PRISTINE:
        return f"{state.root}: pristine VTM-{state.base.vtm}"
    if state.kind is Kind.PATCHED:
        model = state.record.model
        what = f"{model['name']}, checksum {model['checksum']}" if model else "none"
        return (
            f"{state.root}: patched VTM-{state.base.vtm}, fastpart {state.record.fastpart}, "
            f"model {what}"
        )
    return "\n  ".join((f"{state.root}: half-patched", *state.details()))


def _outdated(record: Record, shipped: list[PatchSet]) -> bool:
    """Whether an update would change more than the model."""
    return record.patch_sets[0] not in shipped or any(
        record.added.get(path) != (digest(data),) for path, data in payloads.sources().items()
    )
