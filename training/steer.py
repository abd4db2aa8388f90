"""Steering tables of a model: how the engine's virtual clock relates to the time that encodes take.

Each cell is encoded without skips and at some fixed kappas, side by side on one core. The efforts
that the engine counts (fastpart/engine/steering.hpp) and the user times say what share of time is really
saved when the clock shows one, what share each layer saves on average, and how far control CTUs are to be
believed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastpart.at_once import at_once
from fastpart.encode import DEFAULT_CFG
from fastpart.errors import FastpartError
from fastpart.media import make_cut
from fastpart.modelfile import GROUPS, describe, write_tables
from fastpart.record import write_json_atomic
from fastpart.training.collect import INTRA_PERIOD
from fastpart.training.pool import each_on_a_core
from fastpart.training.recipe import Cell, Recipe
from fastpart.vtm import VtmHome, encode_command, run_encoder

#: Layers in the order of the tables.
LAYERS = ("tid0", "tid1", "tid2", "tid3", "tid4", "tid5", "intra")
REFERENCE_QP = 32
#: The clock's constants in the time ensembles' unit, a million cycles, from time stamps in encodes of training
#: clips. Of a picture outside the search, nearly all of it the filter design of ALF, whatever the size; of the
#: tests of a node about which nobody asks: constant, and for each luma sample, inter and intra; of a mode over its
#: estimate, which is the mean of a logarithm.
PICTURE_TIME = 1100.0
NODE_TIME = (0.30, 0.25)
AREA_TIME = (0.0010, 0.0041)
KEPT_SCALE = 1.3

_EFFORT = (
    "pictures", "nodes", "area", "kept", "controls", "control_estimated", "control_measured",
    *(f"skipped_{group}" for group in GROUPS),
)
_CONTROLS = slice(4, 7)
#: Inter and intra layers.
_KINDS = (slice(0, 6), slice(6, 7))
_SPLITS = [len(_EFFORT) - len(GROUPS) + i for i, group in enumerate(GROUPS) if group != "mode"]
_MODE = _EFFORT.index("skipped_mode")

#: Tables of a model whose own are yet to be found: with them the engine counts and has control CTUs.
NEUTRAL = {
    "picture_time": [PICTURE_TIME], "node_time": [*NODE_TIME], "area_time": [*AREA_TIME],
    "kept_scale": [KEPT_SCALE], "split_scale": [1.0, 1.0], "split_scale_controls": [1.0, 1.0],
    "skip_logit": [0.0] * 14, "log_time": [0.0] * 14, "logit_slope": [1.0], "calibration": [0.0, 0.0, 1.0],
}
#: Candidates for `split_scale_controls`; the last one is as good as no control CTUs.
_BELIEFS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 1000.0)


@dataclass(frozen=True)
class Observation:
    """A cell at one kappa. ratio: user time against the same encode without skips.

    stock_s: that encode's user seconds. intra_qp: slice QP of the first picture. efforts: for each of
    `LAYERS` the counts `_EFFORT` of the run, zeros for a layer without pictures.
    """

    cell: str
    kappa: float
    intra_qp: int
    stock_s: float
    ratio: float
    efforts: list[list[float]]


def observe(
    recipe: Recipe, clips_root: Path, out: Path, home: VtmHome, model: Path, cores: Sequence[int]
) -> list[Observation]:
    """Run the recipe's steering cells that have no record yet; returns all observations.

    A record is OUT/steering/CELL.json; it appears when all encodes of the cell are done. Raises
    FastpartError when an encode fails; finished records stay.
    """
    folder = out / "steering"
    folder.mkdir(parents=True, exist_ok=True)
    counting = folder / "model.fpm"
    write_tables(model, counting, {**describe(model)["tables"], "steering": NEUTRAL})
    checksum = describe(counting)["checksum"]
    lock = threading.Lock()
    found: dict[str, list[Observation]] = {}

    def run(cell: Cell, core: int) -> None:
        path = folder / f"{cell.name}.json"
        record = json.loads(path.read_text()) if path.exists() else None
        identity = {"model": checksum, "side_by_side": True, "kappas": recipe.steering_kappas, "cut": cell.cut}
        if not record or record["identity"] != identity:
            observations = _observe_cell(cell, recipe, clips_root, out, home, counting, core)
            record = {"identity": identity, "observations": [asdict(one) for one in observations]}
            write_json_atomic(path, record)
        with lock:
            found[cell.name] = [Observation(**one) for one in record["observations"]]
            ratios = ", ".join(f"{one.kappa:g}: {one.ratio:.3f}" for one in found[cell.name])
            print(f"steering: {len(found)}/{len(recipe.steering_cells)} {cell.name} T at kappa {ratios}",
                  file=sys.stderr, flush=True)

    each_on_a_core(recipe.steering_cells, cores or sorted(os.sched_getaffinity(0)), run)
    return [one for cell in recipe.steering_cells for one in found[cell.name]]


def _observe_cell(cell, recipe, clips_root, out, home, model, core) -> list[Observation]:
    clip = make_cut(cell.cut, clips_root, out / "cuts" / f"{cell.cut['name']}.yuv")
    encodes = []
    for kappa in (None, *recipe.steering_kappas):
        options = {} if kappa is None else {
            "FastPart": 1, "FastPartModel": model, "FastPartTargetRatio": 0, "FastPartKappa": kappa,
        }
        argv = encode_command(
            home.encoder("patched"), [home.cfg(DEFAULT_CFG)], clip, cell.qp, os.devnull, None, options,
            intra_period=INTRA_PERIOD,
        )
        log = out / "steering" / f"{cell.name}_{kappa or 0:g}.log"
        encodes.append(partial(run_encoder, argv, log, core=core, share_nice=0))
    # Side by side, so that a machine whose speed drifts meets them alike.
    stock, *others = [encode.result() for encode in at_once(encodes)]
    return [
        Observation(
            cell.name, kappa, stock.pictures[0].qp, stock.usage.user_s,
            one.usage.user_s / stock.usage.user_s,
            [[one.counters.get(f"{layer}.{name}", 0.0) for name in _EFFORT] for layer in LAYERS],
        )
        for kappa, one in zip(recipe.steering_kappas, others, strict=True)
    ]


def fit_steering(
    observations: Sequence[Observation], beliefs: tuple[float, float] | None = None
) -> dict[str, list[float]]:
    """The tables `fastpart.modelfile.STEERING` from observations of several cells, kappas and QPs.

    beliefs: `split_scale_controls`; by default those of `_BELIEFS` with the least error of the ratio on
    cells left out. Raises FastpartError when there are too few observations to determine the tables.
    """
    cells = {one.cell for one in observations}
    qps = {one.intra_qp for one in observations}
    kappas = {one.kappa for one in observations}
    if len(cells) < 3 or len(qps) < 2 or len(kappas) < 2:
        raise FastpartError(
            f"steering: observations of {len(cells)} cells, {len(qps)} QPs and {len(kappas)} kappas, "
            "wanted at least 3, 2 and 2; add cells to the recipe"
        )
    if beliefs is None:
        beliefs = min(
            itertools.product(_BELIEFS, _BELIEFS),
            key=lambda pair: np.square(_left_out(observations, lambda some: _clock_tables(some, pair))).sum(),
        )
    tables = _clock_tables(observations, beliefs)

    # By layer: share saved and time of a picture, both lines over QP; one slope over ln kappa for all.
    efforts = np.array([one.efforts for one in observations])
    qp = _relative_qp(observations)
    times = np.array([
        [clock_times(effort, tables, [layer]) for layer in range(len(LAYERS))] for effort in efforts
    ])
    used = times.sum(2) > 0
    shares = _logit(np.clip(times[..., 1] / np.where(used, times.sum(2), 1), 0.01, 0.99))
    log_kappa = np.log([one.kappa for one in observations])
    columns, target = [], []
    for index, layer in zip(*np.nonzero(used), strict=True):
        column = np.zeros(2 * len(LAYERS) + 1)
        column[2 * layer : 2 * layer + 2] = 1, qp[index]
        column[-1] = log_kappa[index]
        columns.append(column)
        target.append(shares[index, layer])
    *lines, slope = np.linalg.lstsq(np.array(columns), np.array(target), rcond=None)[0].tolist()
    tables["skip_logit"], tables["logit_slope"] = lines, [slope]
    tables["log_time"] = []
    for layer in range(len(LAYERS)):
        mine = used[:, layer]
        picture = np.log(times[mine, layer].sum(1) / efforts[mine, layer, 0])
        line = np.polyfit(qp[mine], picture, 1) if mine.sum() > 1 else (0.0, 0.0)
        tables["log_time"] += [float(line[1]), float(line[0])]
    return tables


def _clock_tables(
    observations: Sequence[Observation], beliefs: tuple[float, float]
) -> dict[str, list[float]]:
    """The tables that say what share of time is really saved when the clock shows one."""
    efforts = np.array([one.efforts for one in observations])
    tables = {**NEUTRAL, "split_scale_controls": list(beliefs)}
    tables["split_scale"] = []
    for rows in _KINDS:
        _, estimated, measured = efforts[:, rows].sum(1)[:, _CONTROLS].T
        seen = (estimated > 0) & (measured > 0)
        found = np.log(measured[seen] / estimated[seen])
        tables["split_scale"].append(float(np.exp(found.mean())) if seen.any() else 1.0)
    qp = _relative_qp(observations)
    clock = _logit(np.array([saved_share(effort, tables) for effort in efforts]))
    really = _logit(np.array([1 - one.ratio for one in observations]))
    design = np.stack([np.ones_like(qp), qp, clock], 1)
    return {**tables, "calibration": np.linalg.lstsq(design, really, rcond=None)[0].tolist()}


def _relative_qp(observations: Sequence[Observation]) -> np.ndarray:
    return np.array([one.intra_qp - REFERENCE_QP for one in observations], float)


def estimate(one: Observation, tables: dict[str, list[float]]) -> float:
    """The ratio of an observation as the engine estimates it (Steering::share)."""
    constant, slope, factor = tables["calibration"]
    clock = _logit(saved_share(np.array(one.efforts), tables))
    return 1 / (1 + math.exp(constant + slope * (one.intra_qp - REFERENCE_QP) + factor * clock))


def errors(observations: Sequence[Observation]) -> list[float]:
    """Estimated less true ratio of each observation, by tables fitted without its cell."""
    return _left_out(observations, fit_steering)


def _left_out(
    observations: Sequence[Observation],
    fit: Callable[[Sequence[Observation]], dict[str, list[float]]],
) -> list[float]:
    tables = {
        cell: fit([one for one in observations if one.cell != cell])
        for cell in sorted({one.cell for one in observations})
    }
    return [estimate(one, tables[one.cell]) - one.ratio for one in observations]


def saved_share(efforts: np.ndarray, tables: dict[str, list[float]]) -> float:
    """Saved share of the virtual clock; efforts: (layers, counts)."""
    spent, saved = clock_times(efforts, tables, range(len(LAYERS)))
    return saved / (spent + saved)


def clock_times(
    efforts: np.ndarray, tables: dict[str, list[float]], layers: Sequence[int]
) -> tuple[float, float]:
    """Spent and saved time of some layers, as Steering::spent and Steering::saved.

    efforts: (layers, counts) of the whole encode, whose control CTUs count for all its layers.
    """
    spent = saved = 0.0
    for intra, rows in enumerate(_KINDS):
        mine = efforts[[layer for layer in layers if layer in range(len(LAYERS))[rows]]].sum(0)
        pictures, nodes, area, kept = mine[:4]
        spent += (
            tables["picture_time"][0] * pictures + tables["node_time"][intra] * nodes
            + tables["area_time"][intra] * area + tables["kept_scale"][0] * kept
        )
        scale = tables["split_scale"][intra]
        controls, estimated, measured = efforts[rows].sum(0)[_CONTROLS]
        if estimated > 0 and measured > 0:
            weight = controls / (controls + tables["split_scale_controls"][intra])
            scale *= (measured / (scale * estimated)) ** weight
        saved += scale * mine[_SPLITS].sum() + tables["kept_scale"][0] * mine[_MODE]
    return float(spent), float(saved)


def _logit(share: Any) -> Any:
    return np.log(share / (1 - share))


def steer(
    recipe: Recipe, clips_root: Path, out: Path, home: VtmHome, model: Path, new_model: Path,
    cores: Sequence[int],
) -> dict[str, Any]:
    """Write `model` with steering tables to `new_model` and what they come from beside it.

    Returns the report, which is also NEW_MODEL.steering.json: observations, tables, and the estimate's
    error for each observation when its cell takes no part in the fit.
    """
    observations = observe(recipe, clips_root, out, home, model, cores)
    tables = fit_steering(observations)
    left_out = errors(observations)
    report = {
        "tables": tables,
        "left_out_error_rms": float(np.sqrt(np.mean(np.square(left_out)))),
        "observations": [
            asdict(one) | {"left_out_error": round(error, 4)}
            for one, error in zip(observations, left_out, strict=True)
        ],
    }
    description = describe(model)
    write_tables(model, new_model, {**description["tables"], "steering": tables})
    write_json_atomic(new_model.with_suffix(".steering.json"), report)
    return report
