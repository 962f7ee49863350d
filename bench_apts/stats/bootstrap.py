"""Bootstrap of trials, for what has no interval in closed form (docs/measurement.md, 6).

Percentiles are order statistics, which are the same on the log scale, and the upper limit may be
infinite. Of few trials they are too narrow: intervals of expected costs come from ``ert_draws``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_apts.stats.checks import check_known
from bench_apts.stats.tuning import best_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 2000
SEED = 20_240

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Interval(NamedTuple):
    """Lower and upper limit; the upper one may be infinite."""

    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Says whether the two have a point in common."""
        return self.low <= other.high and other.low <= self.high


def best_of_intervals(cost: Sequence[float], most: int, *, confidence: float = 0.95,
                      resamples: int = RESAMPLES, seed: int = SEED) -> list[Interval] | None:
    """Intervals of ``best_of`` for K = 1 … ``most``; infinite limits are legal.

    Args:
        cost: What the least is taken of, shape ``(n,)``; infinite where there is none.
        most: Largest number of draws K, 1 … n.
        confidence: Nominal coverage.
        resamples: Number of resamples.
        seed: Seed of the generator.

    Returns:
        An interval for each K, or None for fewer than two trials.

    Raises:
        ValueError: ``most`` is out of its range, or a value is unknown (NaN).
    """
    check_known(cost)
    best_weights(len(cost), most)
    drawn = resampled(len(cost), resamples, seed)
    if drawn is None:
        return None
    ordered = np.sort(np.asarray(cost, dtype=np.float64)[drawn], axis=1)
    return [percentiles(column, confidence) for column in expected_best(ordered, most).T]


def expected_best(ordered: Floats, most: int) -> Floats:
    """Mean over all sets of K of the value that comes first in a set, for K = 1 … ``most``.

    Args:
        ordered: Values of each resample in order of preference, shape ``(B, n)``.
        most: Largest number of draws K, 1 … n.

    Returns:
        ``Σ_i C(n − i, K − 1)/C(n, K) · ordered_i``, shape ``(B, most)``; infinite where an
        infinite value comes first in some set.
    """
    trials = ordered.shape[1]
    weights = np.array([best_weights(trials, draws) for draws in range(1, most + 1)])
    infinite = np.isinf(ordered)
    # No BLAS: the order of the sum, and so its rounding, must not depend on the machine's load.
    found: Floats = np.einsum("bi,ki->bk", np.where(infinite, 0.0, ordered), weights)
    place = np.where(infinite.any(axis=1), infinite.argmax(axis=1), trials)
    # The value at place i (from 0) comes first in some set of K if i + K ≤ n.
    found[place[:, None] + np.arange(1, most + 1) <= trials] = np.inf
    return found


@functools.lru_cache(maxsize=8)
def resampled(count: int, resamples: int, seed: int) -> Indices | None:
    """Draw trials with replacement; a report asks for the same draws hundreds of times.

    Args:
        count: Number of trials n.
        resamples: Number of resamples B.
        seed: Seed of the generator.

    Returns:
        Indices of trials, shape ``(B, n)``; None for fewer than two trials.
    """
    if count < 2:
        return None
    found: Indices = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    found.setflags(write=False)
    return found


def erts(spent: Sequence[float], cost: Sequence[float], drawn: Indices) -> Floats:
    """ERT of each resample of ``resampled``, shape ``(B,)``; infinite without a hit."""
    hits = np.isfinite(cost).astype(np.float64)[drawn].sum(axis=1)
    values: Floats = np.full(len(drawn), np.inf)
    np.divide(np.asarray(spent, dtype=np.float64)[drawn].sum(axis=1), hits, out=values,
              where=hits > 0)
    return values


def percentiles(values: Floats, confidence: float) -> Interval:
    """Interval between the percentiles of resampled ``values``; infinite ones are legal."""
    tail = (1.0 - confidence) / 2.0
    # Order statistics, outwards: interpolating between a number and infinity means nothing.
    low = np.quantile(values, tail, method="lower")
    high = np.quantile(values, 1.0 - tail, method="higher")
    return Interval(float(low), float(high))
