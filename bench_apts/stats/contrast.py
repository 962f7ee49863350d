"""Comparing what is no cost: values that may be differences apart, and how many trials hit."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.bootstrap import RESAMPLES, SEED, Interval, percentiles, resampled
from bench_apts.stats.comparison import least_p

if TYPE_CHECKING:
    from collections.abc import Sequence


class Difference(NamedTuple):
    """One mean less another.

    Attributes:
        value: Mean of the first less that of the second.
        interval: Of the difference; None for fewer than two trials of either.
        p: Two-sided p-value of equal means, not yet corrected; 1 without an interval.
    """

    value: float
    interval: Interval | None
    p: float


def difference(first: Sequence[float], second: Sequence[float], *, paired: bool,
               confidence: float = 0.95, resamples: int = RESAMPLES,
               seed: int = SEED) -> Difference:
    """Bootstrap of the difference of two means, with intervals and p-values as in ``compare``.

    Args:
        first: A finite value of each trial, shape ``(n1,)``.
        second: Those of the other, shape ``(n2,)``.
        paired: Whether the k-th trials of both are a pair, drawn together.
        confidence: Nominal coverage of the interval.
        resamples: Number of resamples.
        seed: Seed of the generator.

    Raises:
        ValueError: Either is empty, or pairs lack a partner.
    """
    if not first or not second or (paired and len(first) != len(second)):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be compared")
    point = statistics.fmean(first) - statistics.fmean(second)
    one = resampled(len(first), None, resamples, seed)
    # The same seed draws the same repetitions, which is what makes them pairs.
    other = resampled(len(second), None, resamples, seed if paired else seed + 1)
    if one is None or other is None:
        return Difference(point, None, 1.0)
    values = np.asarray(first)[one].mean(axis=1) - np.asarray(second)[other].mean(axis=1)
    sides = (values <= 0).sum(), (values >= 0).sum()
    p = max(least_p(len(first), len(second), paired=paired),
            2.0 * (1 + int(min(sides))) / (1 + resamples))
    return Difference(point, percentiles(values, confidence), min(1.0, p))


def success_p(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Two-sided p-value of equal chances to hit: Fisher's exact test (1922).

    Args:
        first: Hits and trials of one.
        second: Hits and trials of the other.
    """
    from scipy.stats import fisher_exact

    found = fisher_exact(np.array([[hits, trials - hits] for hits, trials in (first, second)]))
    return float(found.pvalue)
