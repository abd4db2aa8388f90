"""The recipe of a model: which cuts are encoded how, and how the ensembles are fitted."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from fastpart.errors import FastpartError
from fastpart.presets import preset_options


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
    """Encodes that share a search: with or without the policy, with what exploration."""

    name: str
    policy: bool
    explore_skip: float
    explore_keep: float
    options: dict
    cells: list[Cell] = field(repr=False)


@dataclass(frozen=True)
class Recipe:
    path: Path
    cuts: list[dict]
    rounds: dict[str, Round]
    fit: dict
    steering_cells: list[SteeringCell]

    def round(self, name: str) -> Round:
        if name not in self.rounds:
            raise FastpartError(
                f"{self.path}: found no round {name!r}, wanted one of {', '.join(self.rounds)}"
            )
        return self.rounds[name]


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file. Raises FastpartError naming the key that is missing or wrong."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise FastpartError(f"{path}: {error.strerror}; name a recipe file") from error
    except tomllib.TOMLDecodeError as error:
        raise FastpartError(f"{path}: not TOML ({error}); correct it") from error
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
        for entry in data["round"]:
            cells = [
                Cell(cut, qp, entry["seed"] + 100 * index)
                for index, cut in enumerate(cuts)
                for qp in entry["qps"][index % len(entry["qps"])]
            ]
            rounds[entry["name"]] = Round(
                entry["name"],
                entry["policy"],
                entry.get("explore_skip", 0.0),
                entry.get("explore_keep", 0.0),
                preset_options(entry["preset"]) if "preset" in entry else {},
                cells,
            )
    except KeyError as error:
        raise FastpartError(f"{path}: found no key {error}; a recipe needs it") from error
    return Recipe(path, cuts, rounds, data.get("fit", {}), steering_cells)


def _steering_cell(cell: dict) -> SteeringCell:
    qp, kappa = cell.pop("qp"), float(cell.pop("kappa"))
    return SteeringCell(cell, qp, kappa)
