"""Comparing optimizers: ratios with intervals, Holm's correction, P(rank 1).

All statistics compare expected costs (ERT). Pairs are trials of the same repetition: they share
initial weights and the order of the data, so that the luck of a seed cancels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.bootstrap import (
    RESAMPLES,
    SEED,
    Interval,
    erts,
    percentiles,
    resampled,
)
from bench_apts.stats.checks import check_bills
from bench_apts.stats.tuning import ert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.stats.bootstrap import Floats

    Bills = tuple[Sequence[float], Sequence[float]]
    """What each trial spent, and its cost to the target, infinite for a miss."""


class Comparison(NamedTuple):
    """One optimizer's expected cost over another's.

    Attributes:
        ratio: Below 1 where the first is cheaper; 0 or infinite where only one ever hit, NaN
            where neither did.
        interval: Of the ratio; None for fewer than two trials of either.
        p: Two-sided p-value of equal costs, not yet corrected for the family; 1 without an
            interval.
    """

    ratio: float
    interval: Interval | None
    p: float

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1."""
        return self.interval is not None and not self.interval.low <= 1.0 <= self.interval.high


def compare(first: Bills, second: Bills, *, paired: bool, confidence: float = 0.95,
            resamples: int = RESAMPLES, seed: int = SEED) -> Comparison:
    """Bootstrap of the log ratio of two expected costs.

    Percentiles of the ratio are those of its logarithm. A resample in which neither hits says
    nothing: it counts as 0 for the lower limit, as infinite for the upper one and on both sides
    of 1. The p-value is twice the smaller share of resamples on either side of 1, but at least
    what exchanging labels could show: ``2^(1 − n)`` for n pairs, ``2/C(n1 + n2, n1)`` without.
    So five pairs or fewer never reach 5 %, however far apart they are.

    Args:
        first: Bills and costs of one optimizer, both of shape ``(n1,)``.
        second: Those of the other.
        paired: Whether the k-th trials of both are a pair, drawn together.
        confidence: Nominal coverage of the interval.
        resamples: Number of resamples.
        seed: Seed of the generator.

    Raises:
        ValueError: Pairs without a partner, or bills as in ``ert``.
    """
    point = _ratios(np.array([ert(*first).cost]), np.array([ert(*second).cost]))[0]
    one, other = _resampled_erts([first, second], paired, resamples, seed)
    if one is None or other is None:
        return Comparison(float(point), None, 1.0)
    return judged(float(point), one, other,
                  least_p(len(first[0]), len(second[0]), paired=paired), confidence)


def judged(ratio: float, first: Floats, second: Floats, least: float,
           confidence: float = 0.95) -> Comparison:
    """Makes a comparison of resampled values, of whatever quantity; see ``compare``.

    Args:
        ratio: The observed one.
        first: Values of one optimizer, shape ``(B,)``.
        second: Those of the other; equal places are a pair.
        least: The smallest p-value that so few trials can show.
        confidence: Nominal coverage of the interval.
    """
    values = _ratios(first, second)
    unknown = np.isnan(values)
    interval = Interval(percentiles(np.where(unknown, 0.0, values), confidence).low,
                        percentiles(np.where(unknown, np.inf, values), confidence).high)
    sides = ((values <= 1) | unknown).sum(), ((values >= 1) | unknown).sum()
    p = max(least, 2.0 * (1 + int(min(sides))) / (1 + len(values)))
    return Comparison(ratio, interval, min(1.0, p))


def least_p(first: int, second: int, *, paired: bool) -> float:
    """Smallest two-sided p-value that exchanging the labels of so many trials can give.

    ``2^(1 − n)`` for n pairs, ``2/C(n1 + n2, n1)`` without; 1 where either has fewer than two.
    """
    if min(first, second) < 2:
        return 1.0
    return 2.0 ** (1 - first) if paired else 2.0 / math.comb(first + second, first)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for a family of comparisons: Holm's step-down method.

    Comparisons whose adjusted value is at most α keep the chance of any false claim below α,
    however they depend on each other.

    Args:
        p_values: Of all comparisons that were made, shape ``(m,)``, each in 0 … 1.

    Returns:
        The adjusted values in the order given: the k-th smallest times ``m − k + 1``, made
        monotone, at most 1.

    Raises:
        ValueError: A value is out of its range.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must be in 0 … 1, got {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def stars(family: Sequence[Comparison], alpha: float = 0.05) -> list[bool]:
    """Which of a family's differences may be claimed: interval without 1, and Holm below α."""
    return [comparison.differs and p <= alpha for comparison, p in
            zip(family, holm([comparison.p for comparison in family]), strict=True)]


def first_ranks(pools: Mapping[str, Bills], *, paired: bool, resamples: int = RESAMPLES,
                seed: int = SEED) -> dict[str, float]:
    """P(rank 1): share of resamples in which an optimizer has the lowest expected cost.

    Args:
        pools: Bills and costs of each optimizer.
        paired: Whether the k-th trials of all belong together.
        resamples: Number of resamples.
        seed: Seed of the generator.

    Returns:
        Shares by optimizer. Ties share alike; where nobody hits, nobody is first, so that the
        shares may sum to less than 1. NaN for all if one has fewer than two trials.

    Raises:
        ValueError: As in ``compare``.
    """
    found = _resampled_erts(list(pools.values()), paired, resamples, seed)
    table = np.array([values for values in found if values is not None])
    if len(table) < len(pools):
        return dict.fromkeys(pools, math.nan)
    leads = (table == table.min(axis=0)) & np.isfinite(table)
    shares = np.where(leads, 1.0 / np.maximum(1, leads.sum(axis=0)), 0.0).mean(axis=1)
    return dict(zip(pools, shares.tolist(), strict=True))


def _resampled_erts(pools: Sequence[Bills], paired: bool, resamples: int,
                    seed: int) -> list[Floats | None]:
    for spent, cost in pools:
        check_bills(spent, cost)
    if paired and len({len(spent) for spent, _ in pools}) > 1:
        raise ValueError("paired trials must be equally many")
    found: list[Floats | None] = []
    for index, (spent, cost) in enumerate(pools):
        # The same seed draws the same repetitions, which is what makes them pairs.
        drawn = resampled(len(spent), None, resamples, seed if paired else seed + index)
        found.append(None if drawn is None else erts(spent, cost, drawn))
    return found


def _ratios(one: Floats, other: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = one / other
    return found
