"""Chooses, point by point, with what an entry is encoded so that it has a wanted rate and takes a wanted time.

matching.json, beside the records, holds the trials, so that a killed run goes on from them:
schema          "fastpart.matching/1"
points          list: cut, qp; identity: what the trials depend on, as of a timing record; trials: list: qp and
                target_ratio of the entry (null: its own), kbps, percent of the anchor's; t: ratio of CPU times;
                estimated_ratio: share of the time without skips, by the encoder's clock, null if it tells none. The
                encode that stays is no trial but a timing record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpart.errors import FastpartError
from fastpart.files import write_json_atomic
from fastpart.ratematch import Trial, matches, next_qp, settings
from fastpart.timing.paired import Change, Point, Runner, say
from fastpart.timing.record import cpu_s, load_records
from fastpart.vtm import target_options

SCHEMA = "fastpart.matching/1"

#: Encodes of a point at most, the one that stays among them.
MOST_ENCODES = 5

#: How far below the wanted T one may lie: two pairs of one encode differ by about as much.
TIME_BAND = 0.03

#: Targets that the encoder is given.
LEAST_TARGET, GREATEST_TARGET = 0.05, 0.99


@dataclass(frozen=True)
class Wanted:
    """What the encodes of an entry shall have. tolerance: of the anchor's rate, 0.08 for 8 %; rate: key of the run
    record that it is about. time: T at most, and TIME_BAND less at least, as `expected_time` has it. None: whatever it
    is."""

    tolerance: float | None
    rate: str
    time: float | None

    def rate_fits(self, trial: dict[str, Any]) -> bool:
        return self.tolerance is None or matches(Trial(trial["qp"], trial["percent"]), 100, self.tolerance)

    def time_fits(self, trials: Sequence[dict[str, Any]]) -> bool:
        return self.time is None or self.time - TIME_BAND <= expected_time(trials) <= self.time

    def next_qp(self, trials: Sequence[dict[str, Any]]) -> float:
        """Where trials, of which there is one or more, lead to."""
        if self.rate_fits(trials[-1]):
            return trials[-1]["qp"]
        return round(next_qp([Trial(trial["qp"], trial["percent"]) for trial in trials], wanted=100), 3)

    def next_target(self, trials: Sequence[dict[str, Any]]) -> float | None:
        """Where trials, of which there is one or more, lead to."""
        if self.time_fits(trials):
            return trials[-1]["target_ratio"]
        # The encoder need not reach its target; its own one is not known here.
        last = trials[-1]["target_ratio"] or trials[-1]["estimated_ratio"]
        target = last * (self.time - TIME_BAND / 2) / expected_time(trials)
        return round(min(max(target, LEAST_TARGET), GREATEST_TARGET), 3)


def expected_time(trials: Sequence[dict[str, Any]]) -> float:
    """T that the last trial takes, as all of them say together: T is taken for proportional to the share of the time
    without skips, and the factor for that of the clip, so that what pairs differ by averages out.

    Raises FastpartError when the encoder does not tell that share.
    """
    if any(trial["estimated_ratio"] is None for trial in trials):
        raise FastpartError("--match-time: the encoder's log has no estimated_ratio, wanted one with FastPart=1")
    factor = math.exp(math.fsum(math.log(trial["t"] / trial["estimated_ratio"]) for trial in trials) / len(trials))
    return factor * trials[-1]["estimated_ratio"]


class Matching:
    """Runs the points of a runner until the entry has what is wanted.

    entry: its name among the runner's encoders; the patched encoder where a time is wanted. Entries whose back end
    has no fractional QPs get whole ones.
    """

    def __init__(self, runner: Runner, entry: str, wanted: Wanted):
        self._runner, self._entry, self._wanted = runner, entry, wanted
        self._path = runner.out / "matching.json"
        self._known: dict[tuple[str, int], dict[str, Any]] = {}   # of earlier starts, of other points too
        self._done: dict[tuple[str, int], dict[str, Any]] = {}

    def run(self, points: Sequence[Point], cores: Sequence[int]) -> None:
        """One pair of each point with what matches; sets the runner's `changes`."""
        self._known = _load(self._path)
        for point in points:
            identity = self._runner.identity(point, self._entry)
            done = self._known.get(_key(point), {})
            if done.get("identity") != identity:
                done = {"cut": point.cut["name"], "qp": point.qp, "identity": identity, "trials": []}
            self._done[_key(point)] = done
            if done["trials"]:
                self._set(point, *self._next(done["trials"]))
        asked = list(points)
        for left in reversed(range(MOST_ENCODES)):
            self._runner.run(asked, cores, 1)
            asked = [point for point in asked if left and self._moves(point)]
            if not asked:
                return

    def describe(self, point: Point) -> dict[str, Any]:
        """QP and target of the entry's encode that stays, and the trials before it."""
        qp, target = self._setting(point)
        return {"qp": qp, "target_ratio": target, "trials": self._done[_key(point)]["trials"]}

    def _moves(self, point: Point) -> bool:
        """Whether the point has to be encoded again, with what it then has."""
        trial = self._trial(point)
        if trial is None:
            return False
        done = self._done[_key(point)]
        trials = [*done["trials"], trial]
        if self._wanted.rate_fits(trial) and self._wanted.time_fits(trials):
            return False
        qp, target = self._next(trials)
        if any((settings(qp), target) == (settings(one["qp"]), one["target_ratio"]) for one in trials):
            return False
        done["trials"] = trials
        self._set(point, qp, target)
        found = {**self._known, **self._done}
        write_json_atomic(
            self._path, {"schema": SCHEMA, "points": [one for one in found.values() if one["trials"]]}
        )
        steered = "" if target is None else f", steered for {target:.3f}"
        say(f"{point.name}: {trial['percent']:.1f} % of the anchor's rate, T {trial['t']:.3f}; "
            f"again at QP {qp:.2f}{steered}")
        return True

    def _trial(self, point: Point) -> dict[str, Any] | None:
        """What the point's encode came to; None if it failed."""
        encodes = {
            record["variant"]: record["encode"] for record in load_records(self._runner.out).values()
            if (record["cut"], record["qp"], record["rep"]) == (*_key(point), 0)
            and record["variant"] in self._runner.encoders
            and record["identity"] == self._runner.identity(point, record["variant"])
        }
        if self._entry not in encodes:
            return None
        entry, anchor = encodes[self._entry], encodes[self._runner.anchor]
        qp, target = self._setting(point)
        return {
            "qp": qp, "target_ratio": target, "kbps": entry[self._wanted.rate],
            "percent": 100 * entry[self._wanted.rate] / anchor[self._wanted.rate],
            "t": cpu_s(entry) / cpu_s(anchor),
            "estimated_ratio": entry.get("counters", {}).get("estimated_ratio"),
        }

    def _next(self, trials: Sequence[dict[str, Any]]) -> tuple[float, float | None]:
        """QP and target that trials, of which there is one or more, lead to."""
        qp = self._wanted.next_qp(trials)
        fractional = self._runner.encoders[self._entry].backend.fractional_qp
        return qp if fractional else math.floor(qp + 0.5), self._wanted.next_target(trials)

    def _setting(self, point: Point) -> tuple[float, float | None]:
        change = self._runner.change(point, self._entry)
        return change.qp, change.options.get("FastPartTargetRatio")

    def _set(self, point: Point, qp: float, target: float | None) -> None:
        options = {} if target is None else target_options(target)
        self._runner.changes[*_key(point), self._entry] = Change(qp, options)


def _key(point: Point) -> tuple[str, int]:
    return point.cut["name"], point.qp


def _load(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The points of an earlier start; none if the file is not there or of another kind."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {(one["cut"], one["qp"]): one for one in data["points"]} if data["schema"] == SCHEMA else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
