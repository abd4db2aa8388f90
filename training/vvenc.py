"""Trains the learned choice of libvvenc's partition depths (`fastpart.vvenc_choice`).

Every cell of the recipe (a cut at a QP) is encoded by the anchor and with some settings. Two linear
models then learn log time and loss as functions of the steps away from the anchor: time by
ridge regression, each step's effect depending on the clip; loss, which is small and noisy, by
non-negative least squares drawn towards the same loss for every step, and for every clip.
Records (one line an encode, tab separated, see COLUMNS) are appended as they come, so a second
start does what is missing.
"""

from __future__ import annotations

import csv
import math
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastpart import __version__
from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.media import Clip, make_cut
from fastpart.quality import bd_rate, psnr, weighted_psnr
from fastpart.record import sha256_file
from fastpart.supervise import run_measured
from fastpart.vvenc import Ffmpeg, Vvenc, encode_command
from fastpart.vvenc_choice import (
    FEATURES,
    MODEL_SCHEMA,
    PARTS,
    candidates,
    clip_features,
    feature_vector,
    setting_options,
    steps,
)

#: One intra picture per cut, as in a long random-access run.
INTRA_PERIOD = 64

ANCHOR = "anchor"

#: Of a record: cut, QP, setting (`anchor`, `parts:3,3,2,...`, or a name of the recipe), user
#: seconds, bits of the bitstream, PSNR averages in dB, features of the clip at the QP.
COLUMNS = (
    "cut", "qp", "setting", "user_s", "bits", "y", "u", "v",
    *(name for name in FEATURES if name != "qp"),
)


@dataclass(frozen=True)
class Recipe:
    """cuts: of train/, to learn from. tests: cuts to measure on, by no means of train/.
    fixed: settings to compare with, by name: preset and options. fit: designs (settings a cell
    that split flat blocks, and that do not), depths (fewest and most depths taken away in one),
    seed, ridge and ridge_loss (penalties to choose from), limit (of the time ratio), margin (to
    keep from it, in standard errors on a clip that was left out)."""

    path: Path
    cuts: list[dict]
    tests: list[dict]
    test_qps: list[int]
    fixed: dict[str, dict]
    fit: dict[str, Any]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises FastpartError naming the key that is missing or wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise FastpartError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        cuts = [{**data["cut_defaults"], **cut} for cut in data["cut"]]
        tests = [{**data["cut_defaults"], **cut} for cut in data["test"]]
        recipe = Recipe(
            path, cuts, tests, data["test_qps"], data["fixed"], data["fit"],
        )
    except KeyError as error:
        raise FastpartError(f"{path}: found no key {error}; a recipe needs it") from error
    for cut in cuts + tests:
        if cut["clip"].startswith("train/") != (cut in cuts):
            raise FastpartError(
                f"{path}: cut {cut['name']} is from {cut['clip']}, wanted train/ in [[cut]] and "
                "anything else in [[test]]: what is learned from cannot be measured on"
            )
    return recipe


def designs(recipe: Recipe) -> list[tuple[dict, int, str]]:
    """(cut, QP, setting) of each training encode, the anchor of a cell first.

    The settings are drawn from all that may be chosen, seeded by the recipe, with equal
    probability for each number of depths taken away: first those that split flat blocks, for
    all cells, then those that do not.
    """
    random = np.random.default_rng(recipe.fit["seed"])
    settings = candidates()
    fewest, most = recipe.fit["depths"]
    found = []
    for flat, count in enumerate(recipe.fit["designs"]):
        drawn = settings[settings[:, -1] == flat]
        away = steps(drawn)[:, :-1].sum(axis=1)
        totals = [total for total in np.unique(away) if fewest <= total <= most]
        for cut in recipe.cuts:
            for qp in cut["qps"]:
                if not flat:
                    found.append((cut, qp, ANCHOR))
                for total in random.choice(totals, count, replace=False):
                    setting = drawn[random.choice(np.flatnonzero(away == total))]
                    found.append((cut, qp, "parts:" + ",".join(map(str, setting))))
    return found


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a file, none if there is no file. A last line that was cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if reader.fieldnames != list(COLUMNS):
            raise FastpartError(
                f"{path}: columns {reader.fieldnames}, wanted {list(COLUMNS)}; choose another file"
            )
        rows = [row for row in reader if all(row[name] for name in COLUMNS)]
    kinds = {"cut": str, "setting": str, "qp": int, "bits": int}
    return [{name: kinds.get(name, float)(text) for name, text in row.items()} for row in rows]


def collect(
    wanted: Iterable[tuple[dict, int, str]],
    records: Path,
    clips_root: Path,
    work: Path,
    argv: Callable[[Clip, int, str, Path], list[str]],
    *,
    core: int | None = None,
    limit: int | None = None,
) -> int:
    """Make the records that are missing, at most `limit`; returns how many still are.

    argv gives the command of an encode from clip, QP, setting and bitstream.
    """
    wanted = list(wanted)
    done = {(r["cut"], r["qp"], r["setting"]) for r in read_records(records)}
    todo = [(cut, qp, s) for cut, qp, s in wanted if (cut["name"], qp, s) not in done]
    records.parent.mkdir(parents=True, exist_ok=True)
    if not records.exists():
        records.write_text("\t".join(COLUMNS) + "\n", encoding="utf-8")
    # A line that was cut short makes room for a whole one.
    whole = records.read_bytes().rpartition(b"\n")
    records.write_bytes(whole[0] + whole[1])
    clips: dict[str, Clip] = {}
    for index, (cut, qp, setting) in enumerate(todo[:limit]):
        name = cut["name"]
        if name not in clips:
            clips[name] = make_cut(cut, clips_root, work / "cuts" / f"{name}.yuv")
        clip = clips[name]
        row = {"cut": name, "qp": qp, "setting": setting, **clip_features(clip, qp)}
        row |= _encode(clip, partial(argv, clip, qp, setting), work, core)
        with records.open("a", encoding="utf-8") as file:
            file.write("\t".join(_text(row[column]) for column in COLUMNS) + "\n")
        print(
            f"{len(wanted) - len(todo) + index + 1}/{len(wanted)} {name} QP {qp} {setting} "
            f"{row['user_s']:.1f} s", file=sys.stderr, flush=True,
        )
    return max(0, len(todo) - (len(todo) if limit is None else limit))


def _encode(clip: Clip, argv: Callable[[Path], list[str]], work: Path, core: int | None) -> dict:
    with tempfile.TemporaryDirectory(prefix=".encode.", dir=work) as folder:
        bitstream, decoded = Path(folder, "out.266"), Path(folder, "out.yuv")
        usage = run_measured(argv(bitstream), Path(folder, "log"), core=core)
        run_measured(
            [Ffmpeg.find().path, "-nostdin", "-v", "error", "-threads", "1", "-f", "vvc",
             "-i", bitstream, "-fps_mode", "passthrough", "-pix_fmt", "yuv420p10le",
             "-f", "rawvideo", decoded],
            Path(folder, "log2"), core=core,
        )
        y, u, v = psnr(
            clip, Clip(decoded, clip.width, clip.height, clip.fps, 10, clip.frames)
        ).planes
        bits = 8 * bitstream.stat().st_size
        return {"user_s": usage.user_s, "bits": bits, "y": y, "u": u, "v": v}


def _parts(setting: str) -> list[int]:
    return [int(value) for value in setting.removeprefix("parts:").split(",")]


def training_argv() -> Callable[[Clip, int, str, Path], list[str]]:
    """Command of a training encode."""
    ffmpeg = Ffmpeg.find().path

    def argv(clip: Clip, qp: int, setting: str, bitstream: Path) -> list[str]:
        options: Mapping[str, str] = {}
        if setting != ANCHOR:
            options = setting_options(_parts(setting))
        return encode_command(
            ffmpeg, clip, qp, bitstream, intra_period=INTRA_PERIOD, picture_hash=False,
            options=options,
        )

    return argv


def test_argv(recipe: Recipe, model: Path) -> Callable[[Clip, int, str, Path], list[str]]:
    """Command of a measured encode: the anchor, the learned choice, or a fixed setting."""
    encoders = {ANCHOR: Vvenc(), "learned": Vvenc(accelerate=True, model=model)}
    for name, entry in recipe.fixed.items():
        encoders[name] = Vvenc(entry["preset"], options=entry.get("options", {}))

    def argv(clip: Clip, qp: int, setting: str, bitstream: Path) -> list[str]:
        return encoders[setting].command(
            clip, qp, bitstream, intra_period=INTRA_PERIOD, picture_hash=False
        )

    return argv


@dataclass(frozen=True)
class Samples:
    """Training encodes, one row each but for anchors. x: features, not scaled. moved: `steps` of
    the settings, shape (n, parts). log_time: of the ratio to the anchor. loss: percent of rate at
    equal (6Y+U+V)/8 PSNR. cut: name of each row's cut."""

    x: np.ndarray
    moved: np.ndarray
    log_time: np.ndarray
    loss: np.ndarray
    cut: np.ndarray


def psnr_611(record: Mapping[str, float]) -> float:
    """(6Y + U + V) / 8 of a record, dB."""
    return weighted_psnr(record["y"], record["u"], record["v"])


def samples(records: Sequence[Mapping[str, Any]]) -> Samples:
    """Relate each training encode to the anchor of its cell.

    The loss turns a difference of PSNR into rate by the slope of the cut's own anchors.
    Raises FastpartError when a cut has fewer than two anchors.
    """
    anchors = {(r["cut"], r["qp"]): r for r in records if r["setting"] == ANCHOR}
    by_cut = defaultdict(list)
    for (cut, _), record in anchors.items():
        by_cut[cut].append((psnr_611(record), math.log(record["bits"])))
    rows = []
    for record in records:
        if not record["setting"].startswith("parts:"):
            continue
        anchor = anchors.get((record["cut"], record["qp"]))
        points = sorted(by_cut[record["cut"]])
        if anchor is None or len(points) < 2:
            raise FastpartError(
                f"cut {record['cut']}: {len(points)} anchors, wanted one at each of two QPs; "
                "collect to the end"
            )
        (low_db, low_rate), (high_db, high_rate) = points[0], points[-1]
        slope = (high_rate - low_rate) / (high_db - low_db)
        rows.append((
            feature_vector({k: record[k] for k in FEATURES if k != "qp"}, record["qp"]),
            steps(_parts(record["setting"])),
            math.log(record["user_s"] / anchor["user_s"]),
            100 * (math.log(record["bits"] / anchor["bits"])
                   - slope * (psnr_611(record) - psnr_611(anchor))),
            record["cut"],
        ))
    return Samples(*(np.array(column) for column in zip(*rows, strict=True)))


def _design(z: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Part by part, steps x (1, scaled features); no step changes nothing."""
    terms = moved[:, :, None] * np.column_stack((np.ones(len(z)), z))[:, None, :]
    return terms.reshape(len(z), -1)


def fit_time(z: np.ndarray, moved: np.ndarray, y: np.ndarray, ridge: Sequence[float]) -> np.ndarray:
    """Ridge regression of log time: weights of shape (parts, 1 + features).

    ridge: penalties of what all clips share, and of what features change; infinity takes the
    features out.
    """
    parts, features = moved.shape[1], z.shape[1]
    design = _design(z, moved)
    penalty = np.tile([ridge[0], *[ridge[1]] * features], parts)
    used = np.isfinite(penalty)
    a = design[:, used]
    weights = np.zeros(design.shape[1])
    weights[used] = np.linalg.solve(a.T @ a + np.diag(penalty[used]), a.T @ y)
    return weights.reshape(parts, 1 + features)


def fit_loss(z: np.ndarray, moved: np.ndarray, y: np.ndarray, ridge: Sequence[float]) -> np.ndarray:
    """Loss of each part's step, none below 0: weights of shape (parts, 1 + features).

    ridge: one penalty, on the distance from the mean loss of a step; features get no weight.
    """
    from scipy.optimize import nnls

    parts = moved.shape[1]
    mean = max(0.0, y.sum() / moved.sum())
    pull = math.sqrt(ridge[0])
    weights, _ = nnls(
        np.vstack((moved, pull * np.eye(parts))), np.concatenate((y, np.full(parts, pull * mean)))
    )
    return np.column_stack((weights, np.zeros((parts, z.shape[1]))))


def cross_validate(
    data: Samples, target: str, fit_weights: Callable[..., np.ndarray],
    ridges: Iterable[tuple[float, ...]],
) -> dict[tuple[float, ...], float]:
    """Root mean square error on cuts left out in turn, for each penalty."""
    errors = {}
    y = getattr(data, target)
    for ridge in ridges:
        residuals = []
        for cut in np.unique(data.cut):
            out = data.cut == cut
            mean, scale = _scaling(data.x[~out])
            weights = fit_weights(
                (data.x[~out] - mean) / scale, data.moved[~out], y[~out], ridge
            )
            design = _design((data.x[out] - mean) / scale, data.moved[out])
            residuals.append(y[out] - design @ weights.ravel())
        errors[ridge] = float(np.sqrt(np.mean(np.concatenate(residuals) ** 2)))
    return errors


def _scaling(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = x.std(axis=0)
    return x.mean(axis=0), np.where(scale > 0, scale, 1.0)


def fit(recipe: Recipe, records: Path, model_path: Path) -> dict[str, Any]:
    """Fit the model to the records and write it; returns it. Penalties by cross-validation."""
    data = samples(read_records(records))
    mean, scale = _scaling(data.x)
    z = (data.x - mean) / scale
    penalties = recipe.fit["ridge"]
    pairs = [(a, b) for a in penalties for b in (*penalties, math.inf) if b >= a]
    times = cross_validate(data, "log_time", fit_time, pairs)
    losses = cross_validate(data, "loss", fit_loss, [(a,) for a in recipe.fit["ridge_loss"]])
    best_time, best_loss = min(times, key=times.get), min(losses, key=losses.get)
    model = {
        "schema": MODEL_SCHEMA,
        "features": list(FEATURES),
        "parts": list(PARTS),
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "time": fit_time(z, data.moved, data.log_time, best_time).tolist(),
        "loss": fit_loss(z, data.moved, data.loss, best_loss).tolist(),
        "target": recipe.fit["limit"] * math.exp(-recipe.fit["margin"] * times[best_time]),
        "training": {
            "fastpart": __version__,
            "libvvenc": Ffmpeg.find().libvvenc,
            "recipe_sha256": sha256_file(recipe.path),
            "records_sha256": sha256_file(records),
            "encodes": len(data.cut),
            "cuts": sorted(set(data.cut.tolist())),
            "cross_validation": {
                "log_time": times[best_time],
                "log_time_without_features": min(e for k, e in times.items() if math.isinf(k[1])),
                "log_time_spread": float(data.log_time.std()),
                "loss": losses[best_loss],
                "loss_spread": float(data.loss.std()),
                "ridge_time": [None if math.isinf(value) else value for value in best_time],
                "ridge_loss": best_loss[0],
            },
        },
    }
    write_json_atomic(model_path, model)
    return model


def test_cells(recipe: Recipe) -> list[tuple[dict, int, str]]:
    """(cut, QP, setting) of each measured encode; those of a point one after the other."""
    return [
        (cut, qp, setting)
        for cut in recipe.tests
        for qp in recipe.test_qps
        for setting in (ANCHOR, "learned", *recipe.fixed)
    ]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Settings against the anchor, as Markdown: T, largest T, rates, BD-rate by cut and mean.

    Raises FastpartError without the `bjontegaard` package or for a point without its anchor.
    """
    by_setting: dict[str, dict[str, dict[int, Mapping]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        by_setting[record["setting"]][record["cut"]][record["qp"]] = record
    anchors = by_setting.pop(ANCHOR, {})
    cuts = list(anchors)
    lines = [
        "| setting | T, mean | T, worst | rate | BD-rate, mean | " + " | ".join(cuts) + " |",
        "|---" * (5 + len(cuts)) + "|",
    ]
    for setting, found in by_setting.items():
        ratios, rates, losses = [], [], []
        for cut in cuts:
            points, base = found.get(cut, {}), anchors[cut]
            if set(points) != set(base):
                raise FastpartError(
                    f"{setting} on {cut}: QPs {sorted(points)}, wanted {sorted(base)} as of the "
                    "anchor; measure to the end"
                )
            ratios += [points[qp]["user_s"] / base[qp]["user_s"] for qp in base]
            rates += [100 * points[qp]["bits"] / base[qp]["bits"] for qp in base]
            losses.append(bd_rate(*(
                [(r["bits"], psnr_611(r)) for r in curve.values()] for curve in (base, points)
            )))
        mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
        cells = [f"{mean:.3f}", f"{max(ratios):.3f}", f"{min(rates):.1f}-{max(rates):.1f} %",
                 f"{np.mean(losses):+.2f} %", *(f"{loss:+.2f} %" for loss in losses)]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
