"""From clips to a model: the rounds of a recipe, each with the model that it needs, the fit and the steering."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from fastpart import __version__
from fastpart.errors import FastpartError
from fastpart.record import sha256_file
from fastpart.training.collect import collect
from fastpart.training.recipe import Recipe
from fastpart.vtm import VtmHome


def train(recipe: Recipe, clips: Path, out: Path, home: VtmHome, model: Path, cores: Sequence[int]) -> None:
    """Collect the rounds that the fit wants, fit, and measure the steering; writes model and its reports.

    What a killed run has finished below `out` is not done again. Raises FastpartError when an encode fails and
    for a recipe with too few steering cells, and without the packages of the extra `train`.
    """
    try:
        from fastpart.training.steer import check_enough, steer
    except ImportError as error:
        raise _lacking(error) from error

    check_enough([(cell.cut["clip"], cell.qp, cell.kappa) for cell in recipe.steering_cells])
    for name in recipe.needed_rounds():
        round_ = recipe.round(name)
        first = None
        if round_.after:
            first = out / f"{name}.fpm"
            if not first.exists():
                fit_rounds(recipe, round_.after, out, first, first.with_suffix(".json"))
        collect(round_, clips, out, home, model=first, kappa=round_.kappa, cores=list(cores))
    unsteered = out / "unsteered.fpm"
    fit_rounds(recipe, recipe.fit_rounds, out, unsteered, model.with_suffix(".json"))
    steer(recipe, clips, out, home, unsteered, model, cores)


def fit_rounds(recipe: Recipe, rounds: Sequence[str], out: Path, model: Path, report: Path) -> None:
    """Fit a model to the traces of rounds that `collect` left below `out`; writes it and the report.

    A trace that is missing is left out, as stderr says. Raises FastpartError if all are, for fit options that the
    recipe should not have, and without the packages of the extra `train`.
    """
    try:
        from fastpart.training import dataset, fit
    except ImportError as error:
        raise _lacking(error) from error

    known = {field.name for field in fields(fit.FitOptions)} | {"off_path_share"}
    if unknown := set(recipe.fit) - known:
        raise FastpartError(
            f"{recipe.path}: found fit options {', '.join(sorted(unknown))}, wanted only {', '.join(sorted(known))}"
        )
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe.fit.items()}
    off_path_share = settings.pop("off_path_share", 0.25)
    tables = []
    for name in rounds:
        round_ = recipe.round(name)
        for cell in round_.cells:
            trace = out / name / f"{cell.name}.fpt"
            if not trace.exists():
                print(f"fastpart train: {trace} is missing, left out", file=sys.stderr)
                continue
            table = trace.with_suffix(".parquet")
            if not table.exists():
                keep = round_.explore_keep if round_.policy else 1.0
                dataset.convert(trace, table, explore_keep=keep, off_path_share=off_path_share, seed=cell.seed)
            tables.append(table)
    if not tables:
        raise FastpartError(f"{out}: found no trace of {', '.join(rounds)}; run fastpart train collect")
    metadata = {
        "fastpart": __version__,
        "recipe": recipe.path.name,
        "recipe_sha256": sha256_file(recipe.path),
        "rounds": list(rounds),
        "clips": sorted({cut["clip"] for cut in recipe.cuts}),
    }
    clips = {cut["name"]: cut["clip"] for cut in recipe.cuts}
    fit.fit(tables, clips, model, report, fit.FitOptions(**settings), metadata)


def _lacking(error: ImportError) -> FastpartError:
    return FastpartError(
        f"found no module {error.name}, wanted lightgbm, pyarrow and scipy; pip install 'fastpart[train]'"
    )
