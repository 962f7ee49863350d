"""Comparing what is no cost: values that may be differences apart, and how many trials hit."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.bootstrap import Interval
from bench_apts.stats.exchange import exchange_p, least_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.bootstrap import Floats


class Difference(NamedTuple):
    """One mean less another.

    Attributes:
        value: Mean of the first less that of the second.
        interval: Of the difference; None for fewer than two trials of either.
        p: Two-sided p-value of equal distributions, not yet corrected; 1 without an interval.
        least: Smallest p-value that so many trials can have.
    """

    value: float
    interval: Interval | None
    p: float
    least: float


def difference(first: Sequence[float], second: Sequence[float], *, paired: bool,
               confidence: float = 0.95) -> Difference:
    """Compare two means: Student's interval of the difference, p-value by exchanging labels.

    Without pairs the interval is Welch's (1947), whose variances may differ.

    Args:
        first: A finite value of each trial, shape ``(n1,)``.
        second: Those of the other, shape ``(n2,)``.
        paired: Whether the k-th trials of both are a pair.
        confidence: Nominal coverage of the interval.

    Raises:
        ValueError: Either is empty, or pairs lack a partner.
    """
    if not first or not second or (paired and len(first) != len(second)):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be compared")
    value = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return Difference(value, None, 1.0, 1.0)
    least = least_p(len(first), len(second), paired=paired)
    p = exchange_p([(x, 1.0) for x in first], [(x, 1.0) for x in second], _means, paired=paired)
    half = _half_width(first, second, paired, confidence)
    return Difference(value, Interval(value - half, value + half), max(least, p), least)


def success_p(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the two-sided p-value of equal chances to hit: Fisher's exact test (1922).

    Args:
        first: Hits and trials of one.
        second: Hits and trials of the other.
    """
    from scipy.stats import fisher_exact

    found = fisher_exact(np.array([[hits, trials - hits] for hits, trials in (first, second)]))
    return float(found.pvalue)


def _means(mine: Floats, theirs: Floats) -> Floats:
    found: Floats = mine[0] / mine[1] - theirs[0] / theirs[1]
    return found


def _half_width(first: Sequence[float], second: Sequence[float], paired: bool,
                confidence: float) -> float:
    from scipy.stats import t

    if paired:
        error = statistics.variance([a - b for a, b in zip(first, second, strict=True)])
        freedom = float(len(first) - 1)
        squared = error / len(first)
    else:
        parts = [statistics.variance(side) / len(side) for side in (first, second)]
        squared = sum(parts)
        weights = [part**2 / (len(side) - 1) for part, side in zip(parts, (first, second),
                                                                   strict=True)]
        freedom = squared**2 / sum(weights) if sum(weights) else 1.0
    return float(t.ppf((1.0 + confidence) / 2.0, freedom)) * math.sqrt(squared)
