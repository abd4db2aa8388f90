"""Chooses QP and lambda so that an encode has a wanted rate.

Between whole QPs all lambdas are scaled: that of QP + r is 2^(r/3) times that of QP (H.266 doubles the
quantiser step every 6 QPs, and lambda grows with its square).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: ln of rate per QP in random access, before two trials of the clip itself tell better.
USUAL_SLOPE = -0.12

#: What a slope may be; one of two trials close together can be anything.
STEEPEST, FLATTEST = -0.3, -0.04

#: Temporal layers that VTM has a modifier of lambda for; intra pictures follow that of theirs.
LAMBDA_OPTIONS = tuple(f"LambdaModifier{layer}" for layer in range(7))

LEAST_QP, GREATEST_QP = 0, 63


@dataclass(frozen=True)
class Trial:
    """An encode at a QP, which need not be whole, and its rate in kbps."""

    qp: float
    kbps: float


def settings(qp: float) -> tuple[int, float]:
    """The whole QP, and the factor on all lambdas, that make an encode at `qp`."""
    whole = min(max(math.floor(qp + 0.5), LEAST_QP), GREATEST_QP)
    return whole, round(2 ** ((qp - whole) / 3), 4)


def lambda_options(factor: float, configured: Mapping[str, str]) -> dict[str, float]:
    """The VTM options that scale all lambdas of a configuration (values by option) by this factor; none for 1."""
    if factor == 1:
        return {}
    return {name: round(float(configured.get(name, 1)) * factor, 4) for name in LAMBDA_OPTIONS}


def miss(trial: Trial, wanted: float) -> float:
    """ln of a trial's rate over the wanted one."""
    return math.log(trial.kbps / wanted)


def next_qp(trials: list[Trial], wanted: float) -> float:
    """Where the wanted rate (kbps) is expected after these trials, of which there is one or more.

    ln rate is taken for linear in QP: between the nearest trials above and below the wanted rate, else through
    the last two, else with the usual slope.
    """
    above = min((t for t in trials if t.kbps >= wanted), key=lambda t: (t.kbps, -t.qp), default=None)
    below = max((t for t in trials if t.kbps < wanted), key=lambda t: (t.kbps, -t.qp), default=None)
    if above and below:
        return above.qp + (below.qp - above.qp) * miss(above, wanted) / (miss(above, wanted) - miss(below, wanted))
    *before, last = trials
    slope = USUAL_SLOPE
    if before and before[-1].qp != last.qp:
        slope = math.log(last.kbps / before[-1].kbps) / (last.qp - before[-1].qp)
        slope = min(max(slope, STEEPEST), FLATTEST)
    return min(max(last.qp - miss(last, wanted) / slope, LEAST_QP), GREATEST_QP)


def match_rate(
    encode: Callable[[float], float], wanted: float, start_qp: float, tolerance: float, most: int
) -> list[Trial]:
    """Trials until one is within the tolerance of the wanted rate, at most so many.

    encode: makes the encode at a QP as `settings` has it and returns its rate in kbps. wanted: kbps.
    tolerance: ratio, 0.02 for 2 %. Ends early where the next trial would repeat one.
    """
    trials: list[Trial] = []
    qp = start_qp
    while len(trials) < most and all(settings(qp) != settings(trial.qp) for trial in trials):
        trials.append(Trial(qp, encode(qp)))
        if matches(trials[-1], wanted, tolerance):
            break
        qp = next_qp(trials, wanted)
    return trials


def matches(trial: Trial, wanted: float, tolerance: float) -> bool:
    """Whether a trial's rate is within the tolerance of the wanted one."""
    return abs(miss(trial, wanted)) <= math.log1p(tolerance)
