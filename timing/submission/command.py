"""`fastpart submit`: pack a submission from the records, and check one."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastpart.timing.conformance import Decoders
from fastpart.timing.edition import Edition, load_edition
from fastpart.timing.submission.check import problems_of
from fastpart.timing.submission.layout import MANIFEST, VERDICT, load_json
from fastpart.timing.submission.pack import pack
from fastpart.vtm import VtmHome

#: Exit code of a submission with problems.
NOT_VALID = 2


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `submit` to the command line."""
    parser = subparsers.add_parser(
        "submit",
        help="pack a submission of the challenge, and check one",
        description="Bitstreams, decoded pictures, checksums, RD tables, fact sheet and methodology "
        "in one folder, from what fastpart verify measured.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    packing = actions.add_parser("pack", help="pack the folder of fastpart verify")
    packing.set_defaults(run=run_pack)
    packing.add_argument("folder", type=Path, metavar="DIR", help="the --out of fastpart verify")
    packing.add_argument("--out", type=Path, metavar="DIR",
                         help="folder to make (default: DIR/submission)")
    checking = actions.add_parser(
        "check", help="check a packed submission as an organizer would",
        description=f"Exit code {NOT_VALID} with a line for each problem.",
    )
    checking.set_defaults(run=run_check)
    checking.add_argument("folder", type=Path, metavar="DIR", help="the --out of fastpart submit pack")
    checking.add_argument("--edition", metavar="NAME|FILE",
                          help="rules to check by (default: those that it names)")
    for one in (packing, checking):
        one.add_argument("--vtm-home", metavar="DIR", help="as for fastpart encode")


def _decoders(edition: Edition, vtm_home: str | None) -> Decoders:
    wanted = "vtm" in edition.decoders
    return Decoders.find(VtmHome.find(vtm_home, edition.vtm_version) if wanted else None)


def _edition(verdict: Path) -> Edition:
    return load_edition(load_json(verdict)["edition"]["source"])


def run_pack(args: argparse.Namespace) -> int:
    """Pack; returns 0."""
    edition = _edition(args.folder / VERDICT)
    out = args.out or args.folder / "submission"
    manifest = pack(args.folder, out, _decoders(edition, args.vtm_home), edition.bit_depth)
    size = sum(about["bytes"] for about in manifest["files"].values())
    print(f"{out}: {len(manifest['points'])} points, {len(manifest['files'])} files, {size / 1e6:.1f} MB; "
          f"fill in what factsheet.md and methodology.md leave open, and see fastpart submit check {out}")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Check; returns 0, or NOT_VALID."""
    load_json(args.folder / MANIFEST)
    edition = load_edition(args.edition) if args.edition else _edition(args.folder / VERDICT)
    problems = problems_of(args.folder, edition, _decoders(edition, args.vtm_home))
    for problem in problems:
        print(problem)
    print(f"{args.folder}: {len(problems)} problems" if problems else f"{args.folder}: complete and valid")
    return NOT_VALID if problems else 0
