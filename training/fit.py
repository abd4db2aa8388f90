"""Fits the ensembles of a model to labelled questions and writes the model file and its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pyarrow.parquet as pq

from fastpart.errors import FastpartError
from fastpart.modelfile import write_model
from fastpart.training.dataset import CANDIDATES, GROUPS

#: Cycles in the unit of the time regressor; only the scale of kappa depends on it.
CYCLES_PER_UNIT = 1e6


@dataclass(frozen=True)
class FitOptions:
    """Settings of the regressors and of the policy.

    log_group_weight: ln of the worth of a bit lost to each group of `GROUPS`, log_layer_weight: the same by
    layer (engine/model.hpp), log_kappa: ln of the skip threshold in bits per million cycles at qp_knots. All
    three come from measured rate and PSNR of training clips.
    """

    loss_trees: int = 20
    time_trees: int = 4
    leaves: int = 32
    learning_rate: float = 0.35
    time_learning_rate: float = 0.5
    min_rows_in_leaf: int = 300
    tweedie_power: float = 1.5
    max_rows: int = 1_200_000
    holdout: tuple[str, ...] = ()
    seed: int = 1
    threads: int = 2
    qp_knots: tuple[float, ...] = (22.0, 27.0, 32.0, 37.0)
    log_kappa: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    log_group_weight: tuple[float, ...] = (0.0,) * 4
    log_layer_weight: tuple[float, ...] = (0.0,) * 8


@dataclass
class Rows:
    """Questions of one group: features (n, f) float32; the rest (n,)."""

    features: np.ndarray
    loss: np.ndarray
    cycles: np.ndarray
    weight: np.ndarray
    cut: np.ndarray
    candidate: np.ndarray
    columns: list[str] = field(repr=False)

    def where(self, mask: np.ndarray) -> Rows:
        return Rows(
            self.features[mask], self.loss[mask], self.cycles[mask], self.weight[mask],
            self.cut[mask], self.candidate[mask], self.columns,
        )


LABELS = {"candidate_id", "on_path", "won", "policy_skip", "loss", "cycles", "weight", "poc"}


def load_group(paths: list[Path], group: str, options: FitOptions) -> Rows:
    """Rows of one group from Parquet files named CUT_qpQP.parquet, thinned to max_rows."""
    parts, share = [], 1.0
    total = sum(_count(path, group) for path in paths)
    if total > options.max_rows:
        share = options.max_rows / total
    random = np.random.default_rng(options.seed)
    columns: list[str] = []
    for path in paths:
        table = pq.read_table(path, filters=_filter(group))
        if share < 1:
            table = table.filter(random.random(len(table)) < share)
        columns = [name for name in table.column_names if name not in LABELS]
        features = np.column_stack([table[name].to_numpy() for name in columns])
        parts.append(
            (
                features.astype(np.float32), table["loss"].to_numpy(), table["cycles"].to_numpy(),
                table["weight"].to_numpy(), np.full(len(table), path.stem.split("_qp")[0]),
                table["candidate_id"].to_numpy(),
            )
        )
    if not parts:
        raise FastpartError("found no Parquet file, wanted at least one; run fastpart train collect")
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)), columns)


def _filter(group: str) -> list[tuple]:
    conditions: list[tuple] = [("candidate_id", "in", list(GROUPS[group]))]
    if group == "split_inter":
        conditions.append(("intra_slice", "==", 0.0))
    elif group == "split_intra":
        conditions.append(("intra_slice", "==", 1.0))
    return conditions


def _count(path: Path, group: str) -> int:
    return len(pq.read_table(path, filters=_filter(group), columns=["candidate_id"]))


def fit_group(rows: Rows, options: FitOptions) -> tuple[lgb.Booster, lgb.Booster]:
    """The loss regressor (bits, Tweedie, log link) and the regressor of ln time.

    Raises FastpartError when no row has a loss: there is nothing to learn from.
    """
    if not (rows.loss > 0).any():
        raise FastpartError(
            f"found {len(rows.loss)} rows of {', '.join(np.unique(rows.cut)) or 'no cut'} without any "
            "loss, wanted some of every group of candidates; collect more cells"
        )
    common = {
        "num_leaves": options.leaves,
        "min_data_in_leaf": options.min_rows_in_leaf,
        "max_bin": 127,
        "num_threads": options.threads,
        "deterministic": True,
        "force_row_wise": True,
        "seed": options.seed,
        "verbosity": -1,
    }
    data = lgb.Dataset(rows.features, rows.loss, weight=rows.weight, feature_name=rows.columns)
    loss = lgb.train(
        common
        | {
            "objective": "tweedie",
            "tweedie_variance_power": options.tweedie_power,
            "learning_rate": options.learning_rate,
            "feature_fraction": 0.7,
        },
        data,
        options.loss_trees,
    )
    data = lgb.Dataset(
        rows.features, np.log(rows.cycles / CYCLES_PER_UNIT), weight=rows.weight,
        feature_name=rows.columns,
    )
    time = lgb.train(
        common
        | {
            "objective": "regression",
            "learning_rate": options.time_learning_rate,
        },
        data,
        options.time_trees,
    )
    return loss, time


def predict(rows: Rows, loss: lgb.Booster, time: lgb.Booster) -> np.ndarray:
    """ln of expected loss (bits) and of expected time (`CYCLES_PER_UNIT`) of each row: shape (2, n)."""
    return np.stack([booster.predict(rows.features, raw_score=True) for booster in (loss, time)])


def predict_unseen(rows: Rows, clips: Mapping[str, str], options: FitOptions) -> np.ndarray | None:
    """As `predict`, by ensembles that have not seen the row's clip: two folds of clips. None for a single clip.

    clips: the clip of each cut.
    """
    cuts = np.unique(rows.cut)
    names = sorted({clips[cut] for cut in cuts})
    if len(names) < 2:
        return None
    predicted = np.empty((2, len(rows.loss)))
    for fold in (names[::2], names[1::2]):
        unseen = np.isin(rows.cut, [cut for cut in cuts if clips[cut] in fold])
        predicted[:, unseen] = predict(rows.where(unseen), *fit_group(rows.where(~unseen), options))
    return predicted


def loss_bias(rows: Rows, raw_loss: np.ndarray) -> float:
    """ln of actual over predicted loss.

    Taken over the nine tenths of the questions with the lowest predictions, which are those that the
    policy may skip; the rare large losses of the last tenth would outweigh them all.
    """
    low = raw_loss <= np.quantile(raw_loss, 0.9)
    predicted = float(np.sum(np.exp(raw_loss[low]) * rows.weight[low]))
    actual = float(np.sum(rows.loss[low] * rows.weight[low]))
    return float(np.log(actual / predicted)) if actual > 0 else 0.0


def add_bias(booster: lgb.Booster, bias: float) -> None:
    """Shift the raw score of every row, through the leaves of the first tree."""
    for leaf in range(booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"]):
        booster.set_leaf_output(0, leaf, booster.get_leaf_output(0, leaf) + bias)


def evaluate(rows: Rows, predicted: np.ndarray) -> dict:
    """How well the ranking loss/time trades: calibration and the share of time that can go at a share of the loss.

    predicted: as `predict` gives it.

    `time_at_loss[s]`: share of all testing time in the questions with the lowest predicted loss per time that
    together hold the share s of all loss. Times nest, so it ranks models and does not predict a ratio.
    """
    raw_loss, raw_time = predicted
    order = np.argsort(raw_loss - raw_time)
    lost = np.cumsum((rows.loss * rows.weight)[order])
    spent = np.cumsum((rows.cycles * rows.weight)[order].astype(np.float64))
    shares = {}
    for share in (0.005, 0.01, 0.02, 0.05, 0.1):
        index = int(np.searchsorted(lost, share * lost[-1]))
        shares[str(share)] = round(float(spent[min(index, len(spent) - 1)] / spent[-1]), 4)
    bins = []
    for part in np.array_split(np.argsort(raw_loss), 10):
        weight = rows.weight[part]
        bins.append(
            [
                float(f"{np.average(np.exp(raw_loss[part]), weights=weight):.4g}"),
                float(f"{np.average(rows.loss[part], weights=weight):.4g}"),
            ]
        )
    residual = np.log(rows.cycles / CYCLES_PER_UNIT) - raw_time
    return {
        "rows": len(rows.loss),
        "predicted_over_actual_loss": round(
            float(np.sum(np.exp(raw_loss) * rows.weight) / max(1e-9, lost[-1])), 4
        ),
        "calibration_predicted_actual_bits": bins,
        "ln_time_rmse": round(float(np.sqrt(np.average(residual**2, weights=rows.weight))), 4),
        "time_at_loss": shares,
    }


def fit(
    paths: list[Path], clips: Mapping[str, str], model_path: Path, report_path: Path, options: FitOptions,
    metadata: dict,
) -> dict:
    """Fit every group, write the model and its report; returns the report.

    clips: the clip of each cut. Cuts in options.holdout take no part in the fit; the report evaluates on them
    too. Its evaluation of unseen clips is by two folds; the ensembles written are fitted to both.
    """
    boosters, report = {}, {"options": asdict(options), "files": [str(p.name) for p in paths], "groups": {}}
    columns: list[str] = []
    for group, weight in zip(GROUPS, options.log_group_weight, strict=True):
        rows = load_group(paths, group, options)
        columns = rows.columns
        held = np.isin(rows.cut, options.holdout)
        training = rows.where(~held)
        boosters[group] = fit_group(training, options)
        unseen = predict_unseen(training, clips, options)
        bias = 0.0 if unseen is None else loss_bias(training, unseen[0])
        add_bias(boosters[group][0], bias + weight)
        entry = {
            "training_rows": len(training.loss), "out_of_fold_bias": round(bias, 4),
            "training": evaluate(training, predict(training, *boosters[group])),
        }
        if unseen is not None:
            entry["unseen_clips"] = evaluate(training, unseen + [[bias + weight], [0]])
        if held.any():
            holdout = rows.where(held)
            entry["holdout"] = evaluate(holdout, predict(holdout, *boosters[group]))
        gains = boosters[group][0].feature_importance("gain")
        top = np.argsort(-gains)[:20]
        entry["importance"] = {columns[i]: round(float(gains[i] / gains.sum()), 4) for i in top}
        entry["loss_by_candidate"] = {
            CANDIDATES[c]: float(f"{np.sum((training.loss * training.weight)[training.candidate == c]):.5g}")
            for c in GROUPS[group]
        }
        report["groups"][group] = entry
        shown = entry.get("holdout") or entry.get("unseen_clips") or entry["training"]
        print(f"{group}: {len(training.loss)} rows, bias {bias:.2f}, time at loss {shown['time_at_loss']}, "
              f"predicted/actual {shown['predicted_over_actual_loss']}", file=sys.stderr, flush=True)
    tables = {
        "qp_knots": options.qp_knots,
        "log_kappa": options.log_kappa,
        "log_layer_weight": options.log_layer_weight,
    }
    report["checksum"] = f"{write_model(model_path, boosters, tables, metadata, columns):08x}"
    report_path.write_text(json.dumps(report, indent=1) + "\n")
    return report
