"""Percentile bootstrap intervals (MEASUREMENT, section 6).

Whole configurations are resampled, then the seeds within each: trials of one configuration are
alike and no independent witnesses. Percentiles are order statistics, which are the same on the
log scale, and the upper limit may be infinite. With few configurations intervals are too narrow:
a nominal 95 % interval covers less, and none is given for fewer than two.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_apts.stats.checks import check_bills, check_known
from bench_apts.stats.restart import simulate
from bench_apts.stats.tuning import best_weights

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

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


def ert_interval(spent: Sequence[float], cost: Sequence[float], *,
                 configurations: Sequence[Hashable] | None = None, confidence: float = 0.95,
                 resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """Interval of the expected cost to the target.

    A resample without a hit counts as infinite. Where no trial hit at all, the interval runs
    from ``Σ spent`` (the cost is known to be more) to infinity.

    Args:
        spent: What each trial cost, shape ``(n,)``, in any currency.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        configurations: What each trial ran, for instance its hash, shape ``(n,)``; without it,
            each trial is a configuration of its own.
        confidence: Nominal coverage, between 0 and 1.
        resamples: Number of resamples.
        seed: Seed of the generator; the same arguments give the same interval.

    Returns:
        The limits in the currency of ``spent``, or None for fewer than two configurations.

    Raises:
        ValueError: Lengths differ, or a number is unknown (NaN).
    """
    check_bills(spent, cost)
    drawn = resampled(len(spent), configurations, resamples, seed)
    if drawn is None:
        return None
    if not np.isfinite(cost).any():
        return Interval(float(np.sum(spent)), float("inf"))
    return percentiles(erts(spent, cost, drawn), confidence)


def restart_interval(spent: Sequence[float], cost: Sequence[float], share: float = 0.9, *,
                     configurations: Sequence[Hashable] | None = None, confidence: float = 0.95,
                     resamples: int = RESAMPLES, seed: int = SEED,
                     draws: int = 500) -> Interval | None:
    """Interval of ``restart_quantile``: the bill that suffices with probability ``share``.

    Each resample is a pool of its own, from which ``draws`` restarts are simulated; their noise
    makes the interval a little wider, never narrower. Other arguments, limits without a hit and
    errors are those of ``ert_interval``.
    """
    check_bills(spent, cost)
    drawn = resampled(len(spent), configurations, resamples, seed)
    if drawn is None:
        return None
    bills: Floats = np.asarray(spent, dtype=np.float64)
    hit = np.isfinite(cost)
    if not hit.any():
        return Interval(float(bills.sum()), float("inf"))
    generator = np.random.default_rng(seed + 1)
    place = max(0, int(np.ceil(share * draws)) - 1)
    values = np.array([simulate(bills[row], hit[row], draws, generator)[place]
                       for row in (row[row >= 0] for row in drawn)])
    return percentiles(values, confidence)


def median_interval(values: Sequence[float], *, confidence: float = 0.95,
                    resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """Interval of a median; infinite values (misses) are legal and stay in.

    Returns:
        The limits in the unit of ``values``, or None for fewer than two of them.

    Raises:
        ValueError: A value is unknown (NaN).
    """
    check_known(values)
    data: Floats = np.asarray(values, dtype=np.float64)
    indices = resampled(len(data), None, resamples, seed)
    if indices is None:
        return None
    drawn = np.sort(data[indices], axis=1)
    middle = len(data) // 2
    # The mean of the two middle ones by hand: numpy's median warns where both are infinite.
    medians: Floats = (drawn[:, middle] if len(data) % 2
                       else drawn[:, middle - 1] / 2 + drawn[:, middle] / 2)
    return percentiles(medians, confidence)


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
    drawn = resampled(len(cost), None, resamples, seed)
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


def resampled(count: int, configurations: Sequence[Hashable] | None, resamples: int,
              seed: int) -> Indices | None:
    """Draws trials with replacement: configurations first, then seeds within each.

    Args:
        count: Number of trials n.
        configurations: What each trial ran, shape ``(n,)``; None if all differ.
        resamples: Number of resamples B.
        seed: Seed of the generator.

    Returns:
        Indices of trials, shape ``(B, at most n · size of the largest configuration)``, with -1
        where a resample holds fewer; None for fewer than two configurations.

    Raises:
        ValueError: ``configurations`` has another length than ``count``.
    """
    if configurations is None:
        return _all_different(count, resamples, seed)
    if len(configurations) != count:
        raise ValueError(f"{count} trials but {len(configurations)} configurations")
    groups: dict[Hashable, list[int]] = {}
    for index, label in enumerate(configurations):
        groups.setdefault(label, []).append(index)
    if len(groups) < 2:
        return None
    generator = np.random.default_rng(seed)
    sizes = np.array([len(members) for members in groups.values()])
    largest = int(sizes.max())
    table = np.array([members + [-1] * (largest - len(members)) for members in groups.values()])
    chosen = generator.integers(0, len(groups), size=(resamples, len(groups)))
    if largest == 1:
        found: Indices = table[chosen, 0]
        return found
    size = sizes[chosen][:, :, None]
    within = generator.integers(0, size, size=(*chosen.shape, largest))
    found = np.where(np.arange(largest) < size, table[chosen[:, :, None], within], -1)
    return found.reshape(resamples, -1)


@functools.lru_cache(maxsize=4)
def _all_different(count: int, resamples: int, seed: int) -> Indices | None:
    """``resampled`` without configurations: a report asks for the same draws hundreds of times."""
    if count < 2:
        return None
    found: Indices = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    found.setflags(write=False)
    return found


def erts(spent: Sequence[float], cost: Sequence[float], drawn: Indices) -> Floats:
    """ERT of each resample of ``resampled``, shape ``(B,)``; infinite without a hit."""
    # The -1 of a missing trial reads this last entry: no bill, no hit.
    bills: Floats = np.append(np.asarray(spent, dtype=np.float64), 0.0)
    hit = np.append(np.isfinite(cost), False).astype(np.float64)
    hits = hit.take(drawn).sum(axis=1)
    values: Floats = np.full(len(drawn), np.inf)
    np.divide(bills.take(drawn).sum(axis=1), hits, out=values, where=hits > 0)
    return values


def percentiles(values: Floats, confidence: float) -> Interval:
    """Interval between the percentiles of resampled ``values``; infinite ones are legal."""
    tail = (1.0 - confidence) / 2.0
    # Order statistics, outwards: interpolating between a number and infinity means nothing.
    low = np.quantile(values, tail, method="lower")
    high = np.quantile(values, 1.0 - tail, method="higher")
    return Interval(float(low), float(high))
