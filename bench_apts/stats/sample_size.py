"""How many trials it takes to tell two optimizers apart, by simulating studies.

The simulated trials go through ``pairwise_comparison`` and ``verdict`` themselves, so that the
answer is that of the rule by which a report will judge.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.intervals import BOOTSTRAP_SEED
from bench_apts.stats.pairwise_comparison import Bill, compare
from bench_apts.stats.verdict import RULE, decide, least_p

if TYPE_CHECKING:
    from collections.abc import Sequence

ENOUGH = 0.8
"""Share of studies that tell a difference from which on its size is called sufficient."""

SIZES = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 40, 60, 100)
"""Numbers of trials that are tried."""

ROUNDS = 200


class Spread(NamedTuple):
    """How the costs of trials scatter.

    Attributes:
        scatter: Standard deviation of the logarithm of a hit's cost, about its relative scatter.
        failures: Share of trials that miss the target, below 1.
        miss: What a miss costs, in mean costs of a hit.
    """

    scatter: float
    failures: float = 0.0
    miss: float = 3.0

    def draw(self, trials: int, factor: float, generator: np.random.Generator) -> Bill:
        """Return simulated trials whose expected cost is ``factor``."""
        hits = generator.lognormal(-self.scatter**2 / 2, self.scatter, trials)
        missed = generator.random(trials) < self.failures
        truth = 1.0 + self.failures / (1.0 - self.failures) * self.miss
        spent = np.where(missed, self.miss, hits) * (factor / truth)
        return Bill(spent.tolist(), np.where(missed, math.inf, spent).tolist())


def spread(spent: Sequence[float], cost: Sequence[float]) -> Spread | None:
    """Estimate how recorded trials scatter; None for fewer than two that hit.

    Args:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
    """
    hits = [value for value in cost if math.isfinite(value) and value > 0]
    if len(hits) < 2:
        return None
    missed = [bill for bill, value in zip(spent, cost, strict=True) if math.isinf(value)]
    mean = statistics.fmean(hits)
    return Spread(statistics.stdev(math.log(value) for value in hits), len(missed) / len(cost),
                  statistics.fmean(missed) / mean if missed else max(spent) / mean)


def power(first: Spread, second: Spread, trials: tuple[int, int], factor: float, *, paired: bool,
          rivals: int = 1, rounds: int = ROUNDS) -> float:
    """Return the share of studies that tell an optimizer from one that costs less.

    Args:
        first: Of the dearer one.
        second: Of the cheaper one.
        trials: How many of either.
        factor: How much dearer it is, above 1.
        paired: Whether they share their seeds.
        rivals: How many such optimizers are compared with the cheaper one, as one family.
        rounds: Number of simulated studies.
    """
    if least_p(*trials, paired=paired) * rivals > RULE.alpha:
        return 0.0
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    decided = 0
    for _ in range(rounds):
        base = second.draw(trials[1], 1.0, generator)
        family = [compare(first.draw(trials[0], factor, generator), base, paired=paired).evidence()
                  for _ in range(rivals)]
        decided += decide(family)[0].verdict == "more"
    return decided / rounds


def needed(first: Spread, second: Spread, factor: float, *, rivals: int = 1,
           fixed: int | None = None) -> int | None:
    """Return the least of ``SIZES`` that detects a factor in ``ENOUGH`` of studies.

    Args:
        first: Of the dearer one.
        second: Of the cheaper one.
        factor: How much dearer it is.
        rivals: As in ``power``.
        fixed: Number of trials of the dearer one, whose trials then share no seeds with the
            other's; None for pairs.

    Returns:
        The number of trials of the cheaper one (and of pairs), or None if the largest is too few.
    """
    low, high = 0, len(SIZES)
    while low < high:  # power grows with the number of trials
        middle = (low + high) // 2
        size = SIZES[middle]
        trials = (size if fixed is None else fixed, size)
        if power(first, second, trials, factor, paired=fixed is None, rivals=rivals) >= ENOUGH:
            high = middle
        else:
            low = middle + 1
    return SIZES[low] if low < len(SIZES) else None
