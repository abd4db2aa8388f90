"""Steering tables of a model: how the engine's virtual clock relates to the time that encodes take.

Each cell is encoded without skips and at its fixed kappa, side by side on one core. The efforts that the
engine counts (fastpart/engine/steering.hpp) and the user times say what the search takes, what share of it is
really saved when the clock shows one, what share each layer saves on average, and how far controls are
to be believed.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from fastpart.at_once import SIDE_NICE, at_once
from fastpart.encode import DEFAULT_CFG
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import make_cut
from fastpart.modelfile import GROUPS, describe, write_tables
from fastpart.training.collect import INTRA_PERIOD
from fastpart.training.pool import each_on_a_core
from fastpart.training.recipe import Recipe, SteeringCell
from fastpart.vtm import EncodeResult, VtmHome, encode_command, run_encoder

#: Layers in the order of the tables.
LAYERS = ("tid0", "tid1", "tid2", "tid3", "tid4", "tid5", "intra")
REFERENCE_QP = 32

_EFFORT = (
    "pictures", "samples", "filtered", "search", "controls", "control_estimated", "control_search",
    *(f"skipped_{group}" for group in GROUPS),
)
#: VTM-23.2 shows a picture's time without its fraction of a second, whatever `PrintHighPrecEncTime` asks for.
_ROUNDED_OFF_S = 0.5
#: Layers and splits of inter and of intra pictures.
_INTER, _INTRA = range(6), range(6, 7)
_SPLITS = ("skipped_split_inter", "skipped_split_intra")

#: Tables of a model whose own are yet to be found: with them the engine counts and has controls.
NEUTRAL = {
    "picture_time": [0.0], "sample_time": [0.0], "node_time": [1.0] * 2, "filter_time_saved": [0.0],
    "split_scale": [1.0] * 2, "split_scale_controls": [1.0] * 2, "saved_scale": [1.0] * 2,
    "skip_logit": [0.0] * 14, "log_time": [0.0] * 14, "logit_slope": [1.0],
}
#: Candidates for `split_scale_controls`, of which the last is as good as no controls.
_CONTROLS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 1e6)


@dataclass(frozen=True)
class Observation:
    """A cell at its kappa.

    clip: of the cell's cut. intra_qp: slice QP of the first picture. stock_s, user_s: user seconds of inter and
    of intra pictures, without skips and at kappa. efforts: for each of `LAYERS` the counts `_EFFORT`, zeros
    for a layer without pictures.
    """

    cell: str
    clip: str
    kappa: float
    intra_qp: int
    stock_s: list[float]
    user_s: list[float]
    efforts: list[list[float]]

    @property
    def ratio(self) -> float:
        return sum(self.user_s) / sum(self.stock_s)

    @property
    def qp(self) -> float:
        return self.intra_qp - REFERENCE_QP

    def count(self, name: str, layers: Sequence[int]) -> float:
        """Sum of a count over layers."""
        return sum(self.efforts[layer][_EFFORT.index(name)] for layer in layers)


def observe(
    recipe: Recipe, clips_root: Path, out: Path, home: VtmHome, model: Path, cores: Sequence[int]
) -> list[Observation]:
    """Run the recipe's steering cells that have no record yet; returns all observations.

    A record is OUT/steering/CELL.json; it appears when both encodes of the cell are done. Raises
    FastpartError when an encode fails; finished records stay.
    """
    folder = out / "steering"
    folder.mkdir(parents=True, exist_ok=True)
    counting = folder / "model.fpm"
    write_tables(model, counting, {**describe(model)["tables"], "steering": NEUTRAL})
    checksum = describe(counting)["checksum"]
    lock = threading.Lock()
    found: dict[str, Observation] = {}

    def run(cell: SteeringCell, core: int) -> None:
        path = folder / f"{cell.name}.json"
        record = json.loads(path.read_text()) if path.exists() else None
        identity = {"model": checksum, "kappa": cell.kappa, "qp": cell.qp, "cut": cell.cut}
        if not record or record["identity"] != identity:
            observation = _observe_cell(cell, clips_root, out, home, counting, core)
            record = {"identity": identity, "observation": asdict(observation)}
            write_json_atomic(path, record)
        with lock:
            found[cell.name] = Observation(**record["observation"])
            print(f"steering: {len(found)}/{len(recipe.steering_cells)} {cell.name} T {found[cell.name].ratio:.3f}",
                  file=sys.stderr, flush=True)

    each_on_a_core(recipe.steering_cells, cores or sorted(os.sched_getaffinity(0)), run)
    return [found[cell.name] for cell in recipe.steering_cells]


def _observe_cell(cell, clips_root, out, home, model, core) -> Observation:
    clip = make_cut(cell.cut, clips_root, out / "cuts" / f"{cell.cut['name']}.yuv")
    skipping = {"FastPart": 1, "FastPartModel": model, "FastPartTargetRatio": 0, "FastPartKappa": cell.kappa}
    encodes = []
    for name, options, nice in (("stock", {}, 0), ("skipping", skipping, SIDE_NICE)):
        argv = encode_command(
            home.encoder("patched"), [home.cfg(DEFAULT_CFG)], clip, cell.qp, os.devnull, None, options,
            intra_period=INTRA_PERIOD,
        )
        log = out / "steering" / f"{cell.name}_{name}.log"
        encodes.append(partial(run_encoder, argv, log, core=core, share_nice=nice))
    # Side by side, so that a machine whose speed drifts meets them alike.
    stock, one = [encode.result() for encode in at_once(encodes)]
    return Observation(
        cell.name, cell.cut["clip"], cell.kappa, stock.pictures[0].qp, user_s_by_kind(stock), user_s_by_kind(one),
        [[one.counters.get(f"{layer}.{name}", 0.0) for name in _EFFORT] for layer in LAYERS],
    )


def user_s_by_kind(encode: EncodeResult) -> list[float]:
    """User seconds of inter and intra pictures, shared out by the encoder's own wall times: its share of the
    core is the same all the time. Raises FastpartError when there are none of a kind."""
    seconds = {True: 0.0, False: 0.0}
    for picture in encode.pictures:
        seconds[picture.slice_type == "I"] += picture.seconds + _ROUNDED_OFF_S
    if not (seconds[True] and seconds[False]):
        raise FastpartError(
            f"steering: {len(encode.pictures)} pictures, wanted intra and inter ones; give the cells more frames"
        )
    share = seconds[True] / sum(seconds.values())
    return [encode.usage.user_s * (1 - share), encode.usage.user_s * share]


def check_enough(observed: Collection[tuple[str, int, float]]) -> None:
    """Raises FastpartError when observations of these clips, QPs and kappas cannot determine the tables."""
    for name, found, wanted in (
        ("clips", {clip for clip, _, _ in observed}, 3), ("QPs", {qp for _, qp, _ in observed}, 2),
    ):
        if len(found) < wanted:
            raise FastpartError(
                f"steering: observations of {len(found)} {name}, wanted at least {wanted}; add cells to the recipe"
            )
    if len(set(observed)) == len({(clip, qp) for clip, qp, _ in observed}):
        raise FastpartError("steering: no clip observed at one QP and two kappas, wanted one; add cells to the recipe")


def fit_steering(observations: Sequence[Observation]) -> dict[str, list[float]]:
    """The tables `fastpart.modelfile.STEERING` from observations of several clips, kappas and QPs.

    Raises FastpartError when there are too few observations to determine the tables, or they say that skips do not grow
    with kappa.
    """
    check_enough([(one.clip, one.intra_qp, one.kappa) for one in observations])
    tables = _fit_clock(observations)
    log_kappa = np.log([one.kappa for one in observations])
    qp = np.array([one.qp for one in observations])
    samples = np.array([[one.count("samples", [layer]) for layer in range(len(LAYERS))] for one in observations])
    times = np.array([[clock_times(one, tables, [layer]) for layer in range(len(LAYERS))] for one in observations])
    with np.errstate(invalid="ignore", divide="ignore"):
        saved = _logit(np.clip(times[..., 1] / times.sum(2), 0.01, 0.99))
        log_time = np.log(times.sum(2) / samples)

    # Over ln kappa one slope for all layers, from encodes that differ in nothing else.
    inputs: dict[tuple[str, int], list[int]] = {}
    for index, one in enumerate(observations):
        inputs.setdefault((one.clip, one.intra_qp), []).append(index)
    moved, rose = log_kappa.copy(), saved.copy()
    for same in inputs.values():
        moved[same] -= moved[same].mean()
        rose[same] -= rose[same].mean(0)
    known = np.isfinite(rose)
    x, y = np.broadcast_to(moved[:, None], rose.shape)[known], rose[known]
    slope = float(x @ y / (x @ x))
    if not slope > 0:
        raise FastpartError(
            f"steering: cells at a greater kappa skipped no more (slope of the logit {slope:.3g}, wanted above 0); "
            "take kappas further apart, or larger cuts, in the recipe"
        )
    tables["logit_slope"] = [slope]
    for name, values in (("skip_logit", saved - slope * log_kappa[:, None]), ("log_time", log_time)):
        tables[name] = []
        for layer in range(len(LAYERS)):
            known = np.isfinite(values[:, layer])
            line = np.polyfit(qp[known], values[known, layer], 1) if known.sum() > 1 else (0.0, 0.0)
            tables[name] += [float(line[1]), float(line[0])]
    return tables


def _fit_clock(observations: Sequence[Observation]) -> dict[str, list[float]]:
    """The clock's tables; the others of `NEUTRAL`.

    `split_scale_controls` are those of `_CONTROLS` with the least error of the ratio on clips left out.
    """
    searches = {clip: _search_tables(some) for clip, some in _others(observations).items()}
    controls = min(
        itertools.product(_CONTROLS, repeat=2),
        key=lambda controls: np.square(_left_out(
            observations, lambda some, clip: _clock_tables(some, searches[clip], controls)
        )).sum(),
    )
    return _clock_tables(observations, _search_tables(observations), controls)


def _search_tables(observations: Sequence[Observation]) -> dict[str, list[float]]:
    """What pictures, their samples and the search take: least squares of the relative error of the user times."""
    inter, intra = np.array([one.user_s for one in observations]).T
    names = ("pictures", "samples", "search")
    columns = np.array([[one.count(name, _INTER) for name in names] for one in observations])
    scale = columns.max(0)
    found, _ = nnls(columns / scale / inter[:, None], np.ones(len(inter)))
    picture_time, sample_time, node_time = (found / scale).tolist()
    search = np.array([one.count("search", _INTRA) for one in observations])
    return {
        "picture_time": [picture_time],
        "sample_time": [sample_time],
        "node_time": [node_time, float(np.exp(np.log(intra / search).mean()))],
    }


def _clock_tables(
    observations: Sequence[Observation], search: dict[str, list[float]], controls: Sequence[float]
) -> dict[str, list[float]]:
    """The tables that say what is saved: with scales of 1, what the clock shows, then what is really.

    Least squares of the error of the ratio. What filtering saves is found in inter pictures, of which there are more.
    """
    tables = {name: list(values) for name, values in {**NEUTRAL, **search, "split_scale_controls": controls}.items()}
    for kind in range(2):
        found = [scale for one in observations if (scale := _shown_by_controls(one, tables, kind))]
        if found:
            tables["split_scale"][kind] = float(np.exp(np.log(found).mean()))
    for kind, layers in enumerate((_INTER, _INTRA)):
        spent, saved = np.array([clock_times(one, tables, layers) for one in observations]).T
        pictures = np.array([one.count("filtered", layers) for one in observations])
        ratio = np.array([one.user_s[kind] / one.stock_s[kind] for one in observations])
        stock = spent / ratio
        if kind == 0:
            (scale, filtering), _ = nnls(np.stack([saved, pictures], 1) / stock[:, None], 1 - ratio)
            tables["filter_time_saved"] = [float(filtering)]
        else:
            share = saved / stock
            scale = share @ (1 - ratio - tables["filter_time_saved"][0] * pictures / stock) / (share @ share)
        tables["saved_scale"][kind] = float(max(scale, 1e-6))
    return tables


def estimate(one: Observation, tables: dict[str, list[float]]) -> float:
    """The ratio of an observation as the engine estimates it (Steering::share)."""
    spent, saved = clock_times(one, tables, range(len(LAYERS)))
    filtering = tables["filter_time_saved"][0] * one.count("filtered", range(len(LAYERS)))
    return spent / (spent + saved + filtering)


def errors(observations: Sequence[Observation]) -> list[float]:
    """Estimated less true ratio of each observation, by tables fitted without its clip."""
    return _left_out(observations, lambda some, _: _fit_clock(some))


def _left_out(
    observations: Sequence[Observation],
    fit: Callable[[Sequence[Observation], str], dict[str, list[float]]],
) -> list[float]:
    tables = {clip: fit(some, clip) for clip, some in _others(observations).items()}
    return [estimate(one, tables[one.clip]) - one.ratio for one in observations]


def _others(observations: Sequence[Observation]) -> dict[str, list[Observation]]:
    """For each clip the observations of all others."""
    return {
        clip: [one for one in observations if one.clip != clip]
        for clip in sorted({one.clip for one in observations})
    }


def clock_times(one: Observation, tables: dict[str, list[float]], layers: Sequence[int]) -> tuple[float, float]:
    """Spent and saved time of some layers, as Steering::spent and Steering::saved."""
    spent = saved = 0.0
    for kind, all_layers in enumerate((_INTER, _INTRA)):
        some = sorted(set(all_layers) & set(layers))
        spent += tables["node_time"][kind] * one.count("search", some)
        saved += tables["saved_scale"][kind] * _split_scale(one, tables, kind) * one.count(_SPLITS[kind], some)
        if kind == 0:
            spent += tables["picture_time"][0] * one.count("pictures", some)
            spent += tables["sample_time"][0] * one.count("samples", some)
    return float(spent), float(saved)


def _split_scale(one: Observation, tables: dict[str, list[float]], kind: int) -> float:
    """As Steering::split_scale. kind: 0 inter, 1 intra."""
    usual, shown = tables["split_scale"][kind], _shown_by_controls(one, tables, kind)
    controls = one.count("controls", (_INTER, _INTRA)[kind])
    return usual * (shown / usual) ** (controls / (controls + tables["split_scale_controls"][kind])) if shown else usual


def _shown_by_controls(one: Observation, tables: dict[str, list[float]], kind: int) -> float:
    """Measured over estimated time of the splits that the controls stand for; 0 without controls."""
    layers = (_INTER, _INTRA)[kind]
    estimated = one.count("control_estimated", layers)
    return tables["node_time"][kind] * one.count("control_search", layers) / estimated if estimated > 0 else 0.0


def _logit(share: Any) -> Any:
    return np.log(share / (1 - share))


def steer(
    recipe: Recipe, clips_root: Path, out: Path, home: VtmHome, model: Path, new_model: Path,
    cores: Sequence[int],
) -> dict[str, Any]:
    """Write `model` with steering tables to `new_model` and what they come from beside it.

    Returns the report, which is also NEW_MODEL.steering.json: observations, tables, and the estimate's
    error for each observation when its clip takes no part in the fit.
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
