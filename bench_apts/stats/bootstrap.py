"""Percentile bootstrap intervals (MEASUREMENT, section 6).

With few trials they are too narrow: a nominal 95 % interval covers less, and none is given for
fewer than two trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 2000
_SEED = 20240

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """Lower and upper limit; the upper one may be infinite."""

    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Says whether the two have a point in common."""
        return self.low <= other.high and other.low <= self.high


def ert_interval(spent: Sequence[float], cost: Sequence[float], *, confidence: float = 0.95,
                 resamples: int = RESAMPLES, seed: int = _SEED) -> Interval | None:
    """Interval of the expected cost to the target, resampling whole trials.

    Percentiles are order statistics, which are the same on the log scale; a resample without a
    hit counts as infinite. Where no trial hit at all, the interval runs from ``Σ spent`` (the
    cost is known to be more) to infinity.

    Args:
        spent: What each trial cost, shape ``(n,)``, in any currency.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        confidence: Nominal coverage, between 0 and 1.
        resamples: Number of resamples.
        seed: Seed of the generator; the same arguments give the same interval.

    Returns:
        The limits in the currency of ``spent``, or None for fewer than two trials.
    """
    if len(spent) != len(cost):
        raise ValueError(f"{len(spent)} bills but {len(cost)} costs")
    bills: Floats = np.asarray(spent, dtype=np.float64)
    hit = np.isfinite(np.asarray(cost, dtype=np.float64))
    if len(bills) < 2:
        return None
    if not hit.any():
        return Interval(float(bills.sum()), float("inf"))
    drawn = _indices(len(bills), resamples, seed)
    hits = hit[drawn].sum(axis=1)
    totals = bills[drawn].sum(axis=1)
    values: Floats = np.full(resamples, np.inf)
    np.divide(totals, hits, out=values, where=hits > 0)
    return _percentiles(values, confidence)


def median_interval(values: Sequence[float], *, confidence: float = 0.95,
                    resamples: int = RESAMPLES, seed: int = _SEED) -> Interval | None:
    """Interval of a median; infinite values (misses) are legal and stay in.

    Returns:
        The limits in the unit of ``values``, or None for fewer than two of them.
    """
    data: Floats = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return None
    drawn = np.sort(data[_indices(len(data), resamples, seed)], axis=1)
    middle = len(data) // 2
    # The mean of the two middle ones by hand: numpy's median warns where both are infinite.
    medians: Floats = (drawn[:, middle] if len(data) % 2
                       else drawn[:, middle - 1] / 2 + drawn[:, middle] / 2)
    return _percentiles(medians, confidence)


def _indices(count: int, resamples: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, size=(resamples, count))


def _percentiles(values: Floats, confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2.0
    # Order statistics, outwards: interpolating between a number and infinity means nothing.
    low = np.quantile(values, tail, method="lower")
    high = np.quantile(values, 1.0 - tail, method="higher")
    return Interval(float(low), float(high))
