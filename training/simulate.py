"""T and loss of a policy from traces of the full search, without encoding again.

A refused question saves the time of its test and loses the regret of its node; what would have been asked within that
test is not asked any more. How the rest of the search changes without the refused candidates is not simulated, nor what
later pictures inherit of the loss.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fastpart._engine import Model
from fastpart.at_once import SIDE_NICE, at_once
from fastpart.encode import DEFAULT_CFG
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import make_cut
from fastpart.modelfile import GROUPS
from fastpart.training.collect import INTRA_PERIOD, collect
from fastpart.training.dataset import GROUPS as CANDIDATES_OF
from fastpart.training.dataset import ON_PATH, Trace, read_trace
from fastpart.training.pool import each_on_a_core
from fastpart.training.recipe import Cell, Round
from fastpart.vtm import EncodeResult, VtmHome, encode_command, parse_picture, run_encoder

#: Of the tables of a model: luma of I pictures first, then TId 0 to 5, then chroma of I pictures.
_INTRA, _FIRST_TID, _LAST_TID, _INTRA_CHROMA = 0, 1, 6, 7

#: Growth of the rate that is worth a decibel of PSNR, percent: so loss is comparable at unequal PSNR.
PERCENT_PER_DB = 20.0

#: Ends of tests are known to so many parts of their length: cycles of a record are float32.
_CYCLES_PRECISION = 2.0**-23


@dataclass(frozen=True)
class Outcome:
    """ratio: T, user time against the same encode without skips. loss: percent of its rate at equal (6Y+U+V)/8 PSNR."""

    kappa: float
    ratio: float
    loss: float


def coded_bits(log: Path) -> int:
    """Bits of all pictures of an encode. Raises FastpartError for a log without pictures."""
    pictures = map(parse_picture, log.read_text(encoding="utf-8", errors="replace").splitlines())
    bits = sum(picture.bits for picture in pictures if picture)
    if not bits:
        raise FastpartError(f"{log}: found no picture, wanted the log of a traced encode")
    return bits


def log_kappas(trace: Trace, model: Model) -> np.ndarray:
    """ln of the kappa above which the policy refuses each question, float64 of shape (records,); NaN for a kind of
    candidate of which the model has no ensembles."""
    features = trace.records["features"]
    column = {name: features[:, index] for index, name in enumerate(trace.features)}
    intra = column["intra_slice"] > 0
    layer = np.where(intra, _INTRA, np.minimum(_FIRST_TID + column["temporal_id"], _LAST_TID)).astype(int)
    layer[column["chroma"] > 0] = _INTRA_CHROMA
    tables = model.tables
    threshold = np.interp(column["qp"], tables.qp_knots, tables.log_kappa) - np.array(tables.log_layer_weight)[layer]
    found = np.full(len(features), np.nan)
    for group in GROUPS:
        rows = np.isin(trace.records["candidate"], CANDIDATES_OF[group])
        if group.startswith("split"):
            rows &= intra == (group == "split_intra")
        if rows.any() and model.trees(group)[0]:
            loss, time = model.predict(group, np.ascontiguousarray(features[rows])).T
            found[rows] = loss - time - threshold[rows]
    return found


def simulate(trace: Trace, bits: int, model: Model, kappas: Sequence[float]) -> list[Outcome]:
    """Outcomes of the policy of a model, one for each kappa.

    trace: of an encode in which nothing was skipped, and that had `bits`. Time is what passed from its first question
    to its last answer. Raises FastpartError for a trace that was cut short or is empty.
    """
    if not trace.complete or not len(trace.records):
        raise FastpartError("found a trace that is empty or was cut short, wanted one to its end; collect it again")
    records = trace.records
    starts = (records["start"] - records["start"].min()).astype(np.float64)
    cycles = records["cycles"].astype(np.float64)
    ends = starts + cycles * (1 - _CYCLES_PRECISION)
    total = (starts + cycles).max()
    loss = np.where(records["flags"] & ON_PATH, np.minimum(records["regret"], records["cap"]), 0.0)
    loss[~np.isfinite(loss)] = 0   # the only candidate that a root has: the encoder does not ask about it
    critical = log_kappas(trace, model)
    order = np.argsort(starts, kind="stable")
    outcomes = []
    for kappa in kappas:
        saved, lost, busy_until = 0.0, 0.0, -1.0
        for index in order[critical[order] < math.log(kappa)]:
            if starts[index] >= busy_until:
                saved += cycles[index]
                lost += loss[index]
                busy_until = ends[index]
        outcomes.append(Outcome(kappa, 1 - saved / total, 100 * lost / bits))
    return outcomes


def study(
    round_: Round, clips_root: Path, out: Path, home: VtmHome, model: Path, kappas: Sequence[float],
    cores: Sequence[int], *, limit: int | None = None, measured: bool = False,
) -> dict[str, list[tuple[Outcome, Outcome | None]]]:
    """Simulated outcomes of the cells of a round, by name, and with `measured` those of real encodes beside them.

    Traces and records of encodes stay below OUT/ROUND-full, so a second start does what is missing. Raises
    FastpartError when an encode fails.
    """
    full = replace(round_, name=f"{round_.name}-full", policy=True, explore_skip=0.0, explore_keep=1.0)
    traces = collect(full, clips_root, out, home, model=model, cores=list(cores), limit=limit)
    parsed = Model(model.read_bytes())
    real: dict[str, list[Outcome]] = {}
    if measured:
        def run(cell: Cell, core: int) -> None:
            real[cell.name] = _measure(cell, full, clips_root, out, home, model, parsed.checksum, kappas, core)
            print(f"measured: {len(real)}/{len(traces)} {cell.name}", file=sys.stderr, flush=True)

        each_on_a_core(full.cells[:limit], cores, run)
    found = {}
    for cell, path in zip(full.cells[:limit], traces, strict=True):
        outcomes = simulate(read_trace(path), coded_bits(path.with_suffix(".log")), parsed, kappas)
        found[cell.name] = list(zip(outcomes, real.get(cell.name, [None] * len(outcomes)), strict=True))
    return found


def to_markdown(found: dict[str, list[tuple[Outcome, Outcome | None]]]) -> str:
    """A line for each cell and kappa, and the differences over all of them where there are measured ones."""
    lines = ["| cell | kappa | T simulated | measured | loss simulated | measured |", "|---|---|---|---|---|---|"]
    for name, outcomes in found.items():
        for outcome, real in outcomes:
            ratio, loss = (f"{real.ratio:.3f}", f"{real.loss:+.2f} %") if real else ("", "")
            lines.append(
                f"| {name} | {outcome.kappa:g} | {outcome.ratio:.3f} | {ratio} | {outcome.loss:+.2f} % | {loss} |"
            )
    pairs = [(outcome, real) for outcomes in found.values() for outcome, real in outcomes if real]
    if pairs:
        lines.append("")
        for name in ("ratio", "loss"):
            difference = np.array([getattr(outcome, name) - getattr(real, name) for outcome, real in pairs])
            lines.append(
                f"Simulated less measured {'T' if name == 'ratio' else 'loss'}: {difference.mean():+.3f} on average, "
                f"{np.sqrt((difference**2).mean()):.3f} rms, {np.abs(difference).max():.3f} at most."
            )
    return "\n".join(lines) + "\n"


def _measure(cell, full, clips_root, out, home, model, checksum, kappas, core) -> list[Outcome]:
    """Encodes side by side on one core: without skips and at each kappa."""
    path = out / full.name / f"{cell.name}.json"
    identity = {"model": checksum, "kappas": list(kappas)}
    record = json.loads(path.read_text()) if path.exists() else None
    if not record or record["identity"] != identity:
        clip = make_cut(cell.cut, clips_root, out / "cuts" / f"{cell.cut['name']}.yuv")
        jobs = []
        for index, kappa in enumerate([None, *kappas]):
            options = {
                "FastPart": 1, "FastPartModel": model, "FastPartTargetRatio": 0, "FastPartKappa": kappa or 1,
                "FastPartExploreKeep": int(kappa is None), **full.options,
            }
            argv = encode_command(
                home.encoder("patched"), [home.cfg(DEFAULT_CFG)], clip, cell.qp, os.devnull, None, options,
                intra_period=INTRA_PERIOD,
            )
            log = path.with_name(f"{cell.name}_{index}.log")
            jobs.append(partial(run_encoder, argv, log, core=core, share_nice=SIDE_NICE if kappa else 0))
        whole, *skipping = [job.result() for job in at_once(jobs)]
        outcomes = [
            Outcome(kappa, encode.usage.user_s / whole.usage.user_s, _loss(whole, encode))
            for kappa, encode in zip(kappas, skipping, strict=True)
        ]
        record = {"identity": identity, "outcomes": [asdict(outcome) for outcome in outcomes]}
        write_json_atomic(path, record)
    return [Outcome(**outcome) for outcome in record["outcomes"]]


def _loss(anchor: EncodeResult, test: EncodeResult) -> float:
    return 100 * math.log(test.kbps / anchor.kbps) - PERCENT_PER_DB * (test.psnr_611 - anchor.psnr_611)
