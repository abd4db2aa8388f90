"""The subcommands `fastpart timing run`, `table`, `layers`, `profile` and `plot`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from fastpart.arguments import names, numbers
from fastpart.errors import FastpartError
from fastpart.files import write_bytes_atomic
from fastpart.timing import layers
from fastpart.timing.paired import SIDE_BY_SIDE, check_cores, run_plan
from fastpart.timing.plan import load_plan
from fastpart.timing.plot import COLUMNS, draw, other_points, table_points
from fastpart.timing.profile import profile_plan, to_markdown
from fastpart.timing.record import load_records
from fastpart.timing.table import FORMATS, build_table
from fastpart.vtm import VtmHome

#: Exit code of a run that finished, with a bitstream that does not conform.
NOT_CONFORMING = 3


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `timing` and its actions to the command line."""
    timing = subparsers.add_parser(
        "timing",
        help="measure encoder variants against stock VTM",
        description="Measure encoder variants in pairs, then make tables of the records.",
    )
    actions = timing.add_subparsers(dest="action", metavar="ACTION", required=True)

    run = actions.add_parser(
        "run",
        help="run a plan; a second start does what is missing",
        description="Run a plan: all variants of a point (cut, QP) one after the other on one "
        "core, each bitstream checked with two decoders. Writes a record (.json), a bitstream "
        f"(.266) and a log (.log) for each encode. Exit code {NOT_CONFORMING} if a bitstream does "
        "not conform.",
    )
    run.set_defaults(run=run_timing)
    _add_plan(run)
    run.add_argument("--cores", type=numbers, metavar="N,...",
                     help="CPUs that each take one point at a time (default: the first "
                     "this process may use); CPUs of one physical core disturb each other")
    run.add_argument("--repetitions", type=int, default=1, metavar="N",
                     help="times each point is measured, odd ones in reverse order (default: 1)")
    run.add_argument("--side-by-side", action="store_true", help=SIDE_BY_SIDE)

    profile = actions.add_parser(
        "profile",
        help="where the time of a plan's encodes goes; a second start does what is missing",
        description="Sample the call stacks of an encode of each cut, QP and variant with Linux's perf and print the "
        "shares of time by what the search tests and by temporal layer.",
    )
    profile.set_defaults(run=run_profile)
    _add_plan(profile)
    profile.add_argument("--core", type=int, metavar="N", help="CPU to encode on (default: the first it may use)")

    table = actions.add_parser(
        "table",
        help="tables of the records of a run",
        description="Print T, BD-rate, rates and conformance of the records in a folder.",
    )
    table.set_defaults(run=run_table)
    _add_records(table)
    table.add_argument("--format", choices=sorted(FORMATS), default="md",
                       help="md: for reading; tsv, json: for programs (default: md)")

    by_layer = actions.add_parser(
        "layers",
        help="where rate is lost or gained, by temporal layer",
        description="Print by temporal layer what the records of a folder lose: rate, PSNR, and rate at equal PSNR.",
    )
    by_layer.set_defaults(run=run_layers)
    _add_records(by_layer)

    plot = actions.add_parser(
        "plot",
        help="BD-rate over time of tables",
        description="Draw BD-rate over time of the variants of tables, and of points that others measured.",
    )
    plot.set_defaults(run=run_plot)
    plot.add_argument("tables", nargs="+", metavar="TABLE.tsv[:VARIANT,...]",
                      help="of fastpart timing table --format tsv; these of its variants (default: all)")
    plot.add_argument("--others", type=Path, metavar="FILE.tsv",
                      help=f"other points, with columns {', '.join(COLUMNS)}")
    plot.add_argument("--title", default="", metavar="TEXT")
    plot.add_argument("-o", "--out", type=Path, required=True, metavar="FIGURE.svg")


def _add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --out of fastpart timing run")
    parser.add_argument("--anchor", default="stock", metavar="VARIANT",
                        help="variant to relate the others to (default: stock)")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="plan file, or main: the one of this package")
    parser.add_argument("--clips", type=Path, required=True, metavar="DIR",
                        help="folder of the clips")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder for the records")
    parser.add_argument("--only", type=names, metavar="VARIANT,...",
                        help="these variants of the plan; the anchor always runs with them")
    parser.add_argument("--cuts", type=names, metavar="CUT,...",
                        help="these cuts instead of the plan's")
    parser.add_argument("--qps", type=numbers, metavar="QP,...",
                        help="these QPs instead of the plan's")
    parser.add_argument("--cuts-file", type=Path, metavar="FILE",
                        help="definitions of the cuts (default: cuts.toml of the clips folder)")
    parser.add_argument("--vtm-home", metavar="DIR", help="as for fastpart encode")


def run_timing(args: argparse.Namespace) -> int:
    """Run the plan; returns 0, or NOT_CONFORMING."""
    if args.repetitions < 1:
        raise FastpartError(f"--repetitions {args.repetitions}: wanted 1 or more")
    plan = load_plan(args.plan).restricted(cuts=args.cuts, qps=args.qps)
    records = run_plan(
        plan, args.clips, args.cuts_file or args.clips / "cuts.toml", args.out,
        VtmHome.find(args.vtm_home), args.cores or sorted(os.sched_getaffinity(0))[:1],
        args.repetitions, args.only, args.side_by_side,
    )
    failed = [path for path, record in records.items() if not record["conformance"]["conforms"]]
    for path in failed:
        print(f"{path}: does not conform", file=sys.stderr)
    print(f"{len(records)} records in {args.out}; next: fastpart timing table {args.out}")
    return NOT_CONFORMING if failed else 0


def run_profile(args: argparse.Namespace) -> int:
    """Print the shares; returns 0."""
    plan = load_plan(args.plan).restricted(cuts=args.cuts, qps=args.qps, variants=args.only)
    core = sorted(os.sched_getaffinity(0))[0] if args.core is None else args.core
    check_cores([core])
    records = profile_plan(
        plan, args.clips, args.cuts_file or args.clips / "cuts.toml", args.out, VtmHome.find(args.vtm_home), core,
    )
    print(to_markdown(records), end="")
    return 0


def run_table(args: argparse.Namespace) -> int:
    """Print the table; returns 0."""
    print(FORMATS[args.format](build_table(_records(args.folder), args.anchor)), end="")
    return 0


def run_layers(args: argparse.Namespace) -> int:
    """Print the table by layer; returns 0."""
    print(layers.to_markdown(layers.layer_rows(_records(args.folder), args.anchor), args.anchor), end="")
    return 0


def _records(folder: Path) -> list[dict[str, Any]]:
    records = load_records(folder)
    if not records:
        raise FastpartError(f"{folder}: no records in it, wanted those of fastpart timing run")
    return list(records.values())


def run_plot(args: argparse.Namespace) -> int:
    """Draw the figure; returns 0."""
    points = []
    for table in args.tables:
        path, _, chosen = table.partition(":")
        points += table_points(Path(path), names(chosen) if chosen else None)
    points += other_points(args.others) if args.others else []
    if not points:
        raise FastpartError(f"{', '.join(args.tables)}: no variant with a BD-rate, wanted one at least")
    write_bytes_atomic(args.out, draw(points, args.title))
    print(args.out)
    return 0
