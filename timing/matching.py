"""Chooses, point by point, the QP at which an entry has the anchor's rate.

rate_match.json, beside the records, holds the trials, so that a killed run goes on from them:
schema          "fastpart.rate_match/1"
points          list: cut, qp; identity: what the trials depend on, as of a timing record; trials: list: qp (of the
                entry), kbps, percent of the anchor's, user_s. The encode that stays is no trial but a timing record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastpart.files import write_json_atomic
from fastpart.ratematch import Trial, matches, next_qp, settings
from fastpart.timing.paired import Point, Runner, say
from fastpart.timing.record import load_records

SCHEMA = "fastpart.rate_match/1"

#: Encodes of a point at most, the one that stays among them.
MOST_ENCODES = 5


class RateMatch:
    """Runs the points of a runner until the entry's rates are near the anchor's.

    entry: its name among the runner's encoders. tolerance: ratio, 0.08 for 8 %. rate: key of the run record that the
    rule looks at. Entries whose back end has no fractional QPs get whole ones.
    """

    def __init__(self, runner: Runner, entry: str, tolerance: float, rate: str):
        self._runner, self._entry, self._tolerance, self._rate = runner, entry, tolerance, rate
        self._path = runner.out / "rate_match.json"
        self._done: dict[tuple[str, int], dict[str, Any]] = {}

    def run(self, points: Sequence[Point], cores: Sequence[int]) -> None:
        """One pair of each point at the QP that matches; sets the runner's `entry_qps`."""
        known = _load(self._path)
        for point in points:
            identity = self._runner.identity(point, self._entry)
            done = known.get(_key(point), {})
            if done.get("identity") != identity:
                done = {"cut": point.cut["name"], "qp": point.qp, "identity": identity, "trials": []}
            self._done[_key(point)] = done
            if done["trials"]:
                self._set(point, self._next_qp(done["trials"]))
        asked = list(points)
        for left in reversed(range(MOST_ENCODES)):
            self._runner.run(asked, cores, 1)
            asked = [point for point in asked if left and self._moves(point)]
            if not asked:
                return

    def describe(self, point: Point) -> dict[str, Any]:
        """The QP of the entry's encode that stays, and its trials."""
        return {"qp": self._runner.qp(point, self._entry), "trials": self._done[_key(point)]["trials"]}

    def _moves(self, point: Point) -> bool:
        """Whether the point has to be encoded again, at the QP that it then has."""
        encodes = {
            record["variant"]: record["encode"] for record in load_records(self._runner.out).values()
            if (record["cut"], record["qp"], record["rep"]) == (*_key(point), 0)
            and record["variant"] in self._runner.encoders
            and record["identity"] == self._runner.identity(point, record["variant"])
        }
        if self._entry not in encodes:
            return False                       # it failed
        here, entry, anchor = self._runner.qp(point, self._entry), encodes[self._entry], encodes[self._runner.anchor]
        kbps, wanted = entry[self._rate], anchor[self._rate]
        if matches(Trial(here, kbps), wanted, self._tolerance):
            return False
        done = self._done[_key(point)]
        percent = 100 * kbps / wanted
        trials = [*done["trials"], {"qp": here, "kbps": kbps, "percent": percent, "user_s": entry["times"]["user_s"]}]
        qp = self._next_qp(trials)
        if any(settings(qp) == settings(trial["qp"]) for trial in trials):
            return False
        done["trials"] = trials
        self._set(point, qp)
        points = [one for one in self._done.values() if one["trials"]]
        write_json_atomic(self._path, {"schema": SCHEMA, "points": points})
        say(f"{point.name}: {percent:.1f} % of the anchor's rate; again at QP {qp:.2f}")
        return True

    def _next_qp(self, trials: Sequence[dict[str, Any]]) -> float:
        """Where trials, of which there is one or more, lead to."""
        qp = next_qp([Trial(trial["qp"], trial["percent"]) for trial in trials], wanted=100)
        return round(qp, 3) if self._runner.encoders[self._entry].backend.fractional_qp else math.floor(qp + 0.5)

    def _set(self, point: Point, qp: float) -> None:
        self._runner.entry_qps[*_key(point), self._entry] = qp


def _key(point: Point) -> tuple[str, int]:
    return point.cut["name"], point.qp


def _load(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The points of an earlier start; none if the file is not there or of another kind."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {(one["cut"], one["qp"]): one for one in data["points"]} if data["schema"] == SCHEMA else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
