"""The recipe of a model: which cuts are encoded how, and how the ensembles are fitted."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.presets import preset_options

DEFAULT_RECIPE = Path(str(files("fastpart.training") / "recipes" / "default.toml"))


@dataclass(frozen=True)
class Cell:
    """One encode of a round."""

    cut: dict
    qp: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.cut['name']}_qp{self.qp}"


@dataclass(frozen=True)
class SteeringCell:
    """One measurement for the steering: a cut at a QP, skipped at a fixed kappa."""

    cut: dict
    qp: int
    kappa: float

    @property
    def name(self) -> str:
        return f"{self.cut['name']}_qp{self.qp}_kappa{self.kappa:g}"


@dataclass(frozen=True)
class Round:
    """Encodes that share a search: with or without the policy, with what exploration.

    after: rounds that the model of the policy is fitted to; none for the compiled-in one. kappa: its knob.
    """

    name: str
    policy: bool
    explore_skip: float
    explore_keep: float
    options: dict
    after: tuple[str, ...]
    kappa: float
    cells: list[Cell] = field(repr=False)


@dataclass(frozen=True)
class Recipe:
    path: Path
    cuts: list[dict]
    rounds: dict[str, Round]
    fit: dict
    fit_rounds: tuple[str, ...]
    steering_cells: list[SteeringCell]

    def round(self, name: str) -> Round:
        if name not in self.rounds:
            raise FastpartError(
                f"{self.path}: found no round {name!r}, wanted one of {', '.join(self.rounds)}"
            )
        return self.rounds[name]

    def needed_rounds(self) -> list[str]:
        """The rounds that the fit wants and those that these come after, in an order to run them in."""
        found: list[str] = []

        def need(names: Sequence[str], path: tuple[str, ...]) -> None:
            for name in names:
                if name in path:
                    raise FastpartError(f"{self.path}: round {name} comes after itself; correct its after")
                need(self.round(name).after, (*path, name))
                if name not in found:
                    found.append(name)

        need(self.fit_rounds, ())
        return found


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file. Its tables replace those of its `base`, another file or "default", and its `qps` those of
    the rounds. Raises FastpartError naming the key that is missing or wrong."""
    path = Path(path)
    data = _read(path)
    if "base" in data:
        base = DEFAULT_RECIPE if data["base"] == "default" else path.parent / data["base"]
        # Cuts and the cells that steer by them go together.
        data = {**{k: v for k, v in _read(base).items() if k not in ("cut_defaults", "cut", "steering")}, **data}
    try:
        cuts = [{**data["cut_defaults"], **cut} for cut in data["cut"]]
        steering_cells = [
            _steering_cell({**data["cut_defaults"], **data["steering"]["defaults"], **cell})
            for cell in data.get("steering", {"cell": []})["cell"]
        ]
        for cut in [*cuts, *(cell.cut for cell in steering_cells)]:
            if not cut["clip"].startswith("train/"):
                raise FastpartError(
                    f"{path}: cut {cut['name']} is from {cut['clip']}, wanted a clip of train/; "
                    "the others are for measuring only"
                )
        rounds = {}
        for number, entry in enumerate(data["round"]):
            qps = [[qp] for qp in data["qps"][number:] + data["qps"][:number]] if "qps" in data else entry["qps"]
            cells = [
                Cell(cut, qp, entry["seed"] + 100 * index)
                for index, cut in enumerate(cuts)
                for qp in qps[index % len(qps)]
            ]
            rounds[entry["name"]] = Round(
                entry["name"],
                entry["policy"],
                entry.get("explore_skip", 0.0),
                entry.get("explore_keep", 0.0),
                preset_options(entry["preset"]) if "preset" in entry else {},
                tuple(entry.get("after", ())),
                float(entry.get("kappa", 1)),
                cells,
            )
        fit = dict(data.get("fit", {}))
        fit_rounds = tuple(fit.pop("rounds", rounds))
    except KeyError as error:
        raise FastpartError(f"{path}: found no key {error}; a recipe needs it") from error
    return Recipe(path, cuts, rounds, fit, fit_rounds, steering_cells)


def _read(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise FastpartError(f"{path}: {error.strerror}; name a recipe file") from error
    except tomllib.TOMLDecodeError as error:
        raise FastpartError(f"{path}: not TOML ({error}); correct it") from error


def _steering_cell(cell: dict) -> SteeringCell:
    qp, kappa = cell.pop("qp"), float(cell.pop("kappa"))
    return SteeringCell(cell, qp, kappa)
