"""How sure a time ratio is: confidence bounds of paired measurements, and the verdict on a limit.

d_i = ln(entry_i / anchor_i) is the log ratio of pair i, of two encodes that ran one after the
other on one core, in alternating order. With mean d and standard deviation s of n pairs

    low, high = exp(d -+ t(0.95, n - 1) s / sqrt(n))

are the one-sided 95 % confidence bounds of the ratio, t(p, f) being the quantile of Student's
distribution with f degrees of freedom: a ratio at the limit passes in 5 % of the series. One
pair has no deviation of its own: it takes DEFAULT_SPREAD for s, and the normal quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95

#: Standard deviation of the log ratio of one pair, where only one was measured: that of five pairs
#: of stock VTM against itself beside other work was 0.018 (timing/results/verify_cases.md).
DEFAULT_SPREAD = 0.02

#: More repetitions than these are no advice.
MOST_REPETITIONS = 1000


@dataclass(frozen=True)
class Ratio:
    """Geometric mean of n paired ratios, and its one-sided 95 % confidence bounds.
    spread: standard deviation of the log ratios, DEFAULT_SPREAD for one."""

    value: float
    low: float
    high: float
    n: int
    spread: float


def paired_ratio(ratios: Sequence[float]) -> Ratio:
    """The ratio of paired measurements; ratios: positive, at least one."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, n = fmean(logs), len(logs)
    spread = stdev(logs) if n > 1 else DEFAULT_SPREAD
    margin = _margin(spread, n)
    return Ratio(math.exp(mean), math.exp(mean - margin), math.exp(mean + margin), n, spread)


def repetitions_to_settle(ratio: Ratio, limit: float) -> int | None:
    """How many pairs in all would settle whether the ratio is within the limit, if mean and
    spread stay; None when more than MOST_REPETITIONS."""
    distance = abs(math.log(ratio.value / limit))
    for n in range(max(2, ratio.n + 1), MOST_REPETITIONS + 1):
        if _margin(ratio.spread, n, several=True) <= distance:
            return n
    return None


def _margin(spread: float, n: int, several: bool = False) -> float:
    """Half width of the interval of the mean log ratio."""
    if n == 1 and not several:
        quantile = NormalDist().inv_cdf(CONFIDENCE)
    else:
        from scipy.special import stdtrit

        quantile = float(stdtrit(n - 1, CONFIDENCE))
    return quantile * spread / math.sqrt(n)
