"""The console command `fastpart`: finds the subcommands and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import sys

from fastpart import __version__
from fastpart.errors import FastpartError

#: Modules that each add their subcommands through `add_commands(subparsers)`.
#: A subcommand sets the default `run`, a function of the parsed arguments that returns the exit code.
COMMAND_MODULES = (
    "fastpart.vtm_patch.command",
    "fastpart.encode",
    "fastpart.doctor",
    "fastpart.training.command",
    "fastpart.timing.command",
    "fastpart.timing.verify",
    "fastpart.timing.sweep.command",
    "fastpart.timing.submission.command",
    "fastpart.timing.report",
    "fastpart.timing.demo",
)

DESCRIPTION = """\
Learned partition decisions that make the VVC reference encoder VTM-23.2 fast.

From a pristine VTM tree to a faster encode:
  1. fastpart doctor                        what is there, what is missing, how to get it
  2. fastpart patch apply VTM_TREE          then build the tree as its own README says
  3. fastpart encode IN -o OUT.266 --qp 32  encode with the learned predictor
Seeing it without VTM: fastpart demo.
Training your own predictor: fastpart train collect, then fastpart train fit.
Proving it: fastpart timing run, then fastpart timing table; as an organizer, fastpart verify.

Exit codes: 0 done, 1 could not run, 130 interrupted; others are those of a command, see its --help.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastpart",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastpart {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMAND_MODULES:
        importlib.import_module(name).add_commands(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Returns its exit code; 1 with a message on stderr for a `FastpartError`,
    130 after an interrupt.
    """
    args = build_parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return args.run(args)
    except FastpartError as error:
        print(f"fastpart {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fastpart {args.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
