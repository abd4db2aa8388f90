"""Runs the patched encoder over the cells of a round and keeps their traces."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from fastpart.encode import DEFAULT_CFG
from fastpart.files import appearing
from fastpart.media import Clip, make_cut
from fastpart.training.pool import each_on_a_core
from fastpart.training.recipe import Cell, Round
from fastpart.vtm import VtmHome, encode_command, run_encoder

#: One intra picture per cut, as in a long random-access run.
INTRA_PERIOD = 64


def collect(
    round_: Round,
    clips_root: Path,
    out: Path,
    home: VtmHome,
    *,
    model: Path | None = None,
    kappa: float = 1.0,
    cores: list[int] | None = None,
    limit: int | None = None,
) -> list[Path]:
    """Encode every cell that has no trace yet; returns the traces of the round.

    Traces appear as OUT/ROUND/CUT_qpQP.fpt only when complete, so a second start does what is
    missing. One encode runs pinned on each of `cores` (default: all that this process may use).
    Raises FastpartError when an encode fails; finished traces stay.
    """
    cells = round_.cells[:limit]
    folder = out / round_.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{cell.name}.fpt" for cell in cells]
    todo: list[tuple[Cell, Path]] = []
    clips: dict[str, Clip] = {}
    for cell, path in zip(cells, paths, strict=True):
        if path.exists():
            continue
        name = cell.cut["name"]
        if name not in clips:
            clips[name] = make_cut(cell.cut, clips_root, out / "cuts" / f"{name}.yuv")
        todo.append((cell, path))
    done = len(paths) - len(todo)
    lock = threading.Lock()

    def run(job: tuple[Cell, Path], core: int) -> None:
        nonlocal done
        cell, path = job
        started = time.monotonic()
        _encode(cell, clips[cell.cut["name"]], path, round_, home, model, kappa, core)
        with lock:
            done += 1
            print(
                f"{round_.name}: {done}/{len(paths)} {cell.name} "
                f"{time.monotonic() - started:.0f} s, {path.stat().st_size / 1e6:.0f} MB",
                file=sys.stderr,
                flush=True,
            )

    each_on_a_core(todo, cores or sorted(os.sched_getaffinity(0)), run)
    return paths


def _encode(cell, clip, path, round_, home, model, kappa, core) -> None:
    options = {
        "FastPart": int(round_.policy),
        "FastPartExploreSkip": round_.explore_skip,
        "FastPartExploreKeep": round_.explore_keep,
        "FastPartSeed": cell.seed,
        "FastPartTargetRatio": 0,
        "FastPartKappa": kappa,
        **round_.options,
    }
    if model:
        options["FastPartModel"] = model
    with appearing(path) as trace:
        argv = encode_command(
            home.encoder("patched"), [home.cfg(DEFAULT_CFG)], clip, cell.qp,
            os.devnull, None, {**options, "FastPartTrace": trace}, intra_period=INTRA_PERIOD,
        )
        run_encoder(argv, path.with_suffix(".log"), core=core)
