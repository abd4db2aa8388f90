"""`fastpart sweep`: run, status, resume, cancel and export of a grid of encodes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fastpart.arguments import numbers
from fastpart.errors import FastpartError
from fastpart.timing.conformance import Decoders
from fastpart.timing.paired import check_cores
from fastpart.timing.sweep.analysis import write_analysis
from fastpart.timing.sweep.driver import (
    drive,
    driver_of,
    driving,
    load_sweep,
    write_sweep,
)
from fastpart.timing.sweep.executor import Local, Slurm, load_jobs, local_workers, memory_of
from fastpart.timing.sweep.export import rows_of, state_of, write_export
from fastpart.timing.sweep.grid import Grid, load_grid
from fastpart.timing.sweep.layout import Layout, lay_out
from fastpart.timing.sweep.store import Store
from fastpart.vtm import VtmHome

#: Exit code of a sweep with cells that failed.
CELLS_FAILED = 2

#: How long cancelled workers may take to end, seconds.
_CANCEL_S = 15.0


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `sweep` to the command line."""
    parser = subparsers.add_parser(
        "sweep",
        help="a grid of encodes on this machine or on Slurm, stoppable at any time",
        description="Sequences x QPs x encoders, a record for each. Whatever ends it, started again "
        "it does what is missing. The grid's keys: fastpart.timing.sweep.grid.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    run = actions.add_parser(
        "run",
        help="run a grid",
        description="Run what a grid asks for and has no record yet. Writes sweep.json to --out and "
        f"records, bitstreams and logs to the store. Exit code {CELLS_FAILED} if cells failed.",
    )
    run.set_defaults(run=run_sweep)
    run.add_argument("grid", type=Path, metavar="GRID.toml")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the sweep")
    run.add_argument("--store", type=Path, metavar="DIR",
                     help="folder of the records, which sweeps may share (default: OUT/store)")
    run.add_argument("--vtm-home", metavar="DIR", help="as for fastpart encode")
    _add_executor(run)

    resume = actions.add_parser("resume", help="run what is missing of a sweep, failed cells again")
    resume.set_defaults(run=resume_sweep)
    resume.add_argument("out", type=Path, metavar="DIR", help="the --out of fastpart sweep run")
    _add_executor(resume)

    status = actions.add_parser("status", help="how far a sweep is")
    status.set_defaults(run=show_status)
    status.add_argument("out", type=Path, metavar="DIR")
    status.add_argument("--json", action="store_true", help="print one JSON object instead")

    cancel = actions.add_parser("cancel", help="end the driver and the workers of a sweep")
    cancel.set_defaults(run=cancel_sweep)
    cancel.add_argument("out", type=Path, metavar="DIR")

    export = actions.add_parser("export", help="the results as a table")
    export.set_defaults(run=export_sweep)
    export.add_argument("out", type=Path, metavar="DIR")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE",
                        help="to write: .csv or .parquet")


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--executor", choices=("local", "slurm"),
                        help="where cells run (default: local; of resume: as before)")
    parser.add_argument("--workers", type=int, metavar="N",
                        help="local: cells at a time (default: as cores and memory allow)")
    parser.add_argument("--cores", type=numbers, metavar="N,...",
                        help="local: CPUs to use (default: all that this process may)")
    parser.add_argument("--retries", type=int, metavar="N",
                        help="further attempts at a failed cell (default: 2)")


def run_sweep(args: argparse.Namespace) -> int:
    """Run a grid; returns 0, or CELLS_FAILED."""
    options = {
        "executor": args.executor or "local", "workers": args.workers, "cores": args.cores,
        "retries": 2 if args.retries is None else args.retries,
        "vtm_home": args.vtm_home and str(Path(args.vtm_home).resolve()),
    }
    return _run(load_grid(args.grid), args.out, args.store or args.out / "store", options)


def resume_sweep(args: argparse.Namespace) -> int:
    """Run what is missing; returns 0, or CELLS_FAILED."""
    sweep = load_sweep(args.out)
    given = {name: getattr(args, name) for name in ("executor", "workers", "cores", "retries")}
    options = {**sweep["run"], **{key: value for key, value in given.items() if value is not None}}
    grid = load_grid(Path(sweep["grid"]["path"]), sweep["grid"]["text"])
    return _run(grid, args.out, Path(sweep["store"]), options)


def _run(grid: Grid, out: Path, root: Path, options: dict[str, Any]) -> int:
    home = VtmHome.find(options["vtm_home"])
    local = options["executor"] == "local"
    cores = options["cores"] or sorted(os.sched_getaffinity(0))
    if local:
        check_cores(cores)
    for name in ("workers", "retries"):
        if options[name] is not None and options[name] < (name == "workers"):
            raise FastpartError(f"--{name} {options[name]}: wanted {int(name == 'workers')} or more")
    with driving(out):
        store = Store(root)
        store.create()
        needs_vtm = any(entry["backend"].startswith("vtm") for entry in grid.encoders.values())
        decoders = Decoders.find(home if needs_vtm or _has_decoder(home) else None)
        layout = lay_out(grid, store, home, decoders, tuple(cores) if local else None)
        options["command"] = shlex.join(["fastpart", *sys.argv[1:]])
        write_sweep(out, grid, layout, store, options)
        if local:
            executor = Local(out / "jobs", _workers(layout, cores, options["workers"]))
        else:
            executor = Slurm(
                out.resolve() / "jobs", grid.slurm, exclusive=grid.purpose == "time",
                mem_bytes=max(memory_of(cell.source.clip.width, cell.source.clip.height)
                              for task in layout.tasks for cell in task.cells),
            )
        failures = drive(layout.tasks, store, executor, options["retries"], str(out))
    done = sum(store.load(point.key) is not None for point in layout.points)
    print(f"{out}: {done} of {len(layout.points)} points done; next: fastpart sweep export {out}")
    if failures:
        print(f"{out}: {len(failures)} tasks failed, as said above and by fastpart sweep status {out}",
              file=sys.stderr)
    return CELLS_FAILED if failures else 0


def _workers(layout: Layout, cores: list[int], asked: int | None) -> int:
    possible = local_workers(layout.tasks, cores)
    if asked is not None and asked > possible:
        print(
            f"--workers {asked}: {len(cores)} cores and the free memory are enough for {possible}; "
            f"{min(asked, len(cores))} run", file=sys.stderr,
        )
    # One core a worker, whatever was asked for.
    return possible if asked is None else min(asked, len(cores))


def _has_decoder(home: VtmHome) -> bool:
    try:
        return bool(home.decoder())
    except FastpartError:
        return False


def show_status(args: argparse.Namespace) -> int:
    """Print how far a sweep is; returns 0."""
    sweep = load_sweep(args.out)
    store = Store(Path(sweep["store"]))
    keys = {key: point for point in sweep["points"] for key in point["cells"]}
    states = {key: state_of(key, store) for key in keys}
    failed = [
        {"key": key, "sequence": keys[key]["sequence"], "qp": keys[key]["qp"],
         "encoder": keys[key]["encoder"], **(store.failure(key) or {})}
        for key, state in states.items() if state == "failed"
    ]
    running = [
        {"key": key, "sequence": keys[key]["sequence"], "qp": keys[key]["qp"],
         "encoder": keys[key]["encoder"], **(store.holder(key) or {}),
         **(store.progress(key) or {})}
        for key, state in states.items() if state == "running"
    ]
    counts = Counter(states.values())
    driver = driver_of(args.out)
    if args.json:
        print(json.dumps({"driver": driver, "cells": len(states), **counts, "running_cells": running,
                          "failed_cells": failed}, indent=1))
        return 0
    at_work = f"driver {driver['pid']} on {driver['host']}" if driver else "no driver at work"
    print(f"{args.out}: {len(states)} cells: " + ", ".join(
        f"{counts[state]} {state}" for state in ("done", "running", "failed", "missing")
    ) + f"; {at_work}")
    for one in running:
        far = f"{one['pictures']}/{one['of']} pictures" if "pictures" in one else "started"
        print(f"  running: {one['sequence']} QP {one['qp']} {one['encoder']}: {far}, "
              f"process {one.get('pid')} on {one.get('host')}")
    for one in failed:
        print(f"  failed: {one['sequence']} QP {one['qp']} {one['encoder']}: {one.get('error')}; "
              f"log {one.get('log')}")
    return 0


def cancel_sweep(args: argparse.Namespace) -> int:
    """End a sweep's driver, workers and jobs; returns 0, or 1 if some are left."""
    sweep = load_sweep(args.out)
    store = Store(Path(sweep["store"]))
    keys = {key for point in sweep["points"] for key in point["cells"]}
    here = socket.gethostname()

    def left() -> list[tuple[dict[str, Any], int]]:
        """Who is at work, and the signal that ends it."""
        driver = driver_of(args.out)
        if driver:
            return [(driver, signal.SIGTERM)]
        return [(holder, signal.SIGINT) for key in keys if (holder := store.holder(key))]

    deadline = time.monotonic() + _CANCEL_S
    told: set[int] = set()
    while (at_work := left()) and time.monotonic() < deadline:
        for one, number in at_work:
            if one.get("host") == here and one["pid"] not in told:
                told.add(one["pid"])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one["pid"], number)
        if (jobs := load_jobs(args.out / "jobs" / "jobs.json")) and not driver_of(args.out):
            with contextlib.suppress(OSError):
                subprocess.run(["scancel", *jobs], check=False, capture_output=True)
        time.sleep(0.1)
    if jobs := load_jobs(args.out / "jobs" / "jobs.json"):
        with contextlib.suppress(OSError):
            subprocess.run(["scancel", *jobs], check=False, capture_output=True)
    for one, _ in at_work:
        print(f"{args.out}: process {one.get('pid')} on {one.get('host')} is still at work",
              file=sys.stderr)
    print(f"{args.out}: cancelled; fastpart sweep resume {args.out} goes on with it")
    return 1 if at_work else 0


def export_sweep(args: argparse.Namespace) -> int:
    """Write the table; returns 0."""
    sweep = load_sweep(args.out)
    rows = rows_of(sweep, Store(Path(sweep["store"])))
    write_export(rows, args.output)
    print(f"{args.output}: {len(rows)} points, {sum(r['status'] == 'done' for r in rows)} done")
    return 0


def report_sweeps(folders: list[Path], anchor: str | None, out: Path) -> int:
    """Write the analysis of one sweep or several; returns 0. Of several, the encoders get the name
    of their folder in front."""
    rows = []
    for folder in folders:
        sweep = load_sweep(folder)
        found = rows_of(sweep, Store(Path(sweep["store"])))
        prefix = f"{folder.resolve().name}/" if len(folders) > 1 else ""
        rows += [{**row, "encoder": prefix + row["encoder"]} for row in found]
    for path in write_analysis(rows, anchor or rows[0]["encoder"], out):
        print(path)
    return 0
