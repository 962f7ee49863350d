"""Comparing two optimizers: ratios of bills, differences of means, numbers of hits.

Pairs are trials of the same repetition: they share initial weights and the order of the data, so
that the luck of a seed cancels. What may be claimed from a comparison: ``verdict``.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats import intervals
from bench_apts.stats.expected_cost import check_bills, ert
from bench_apts.stats.verdict import Evidence, least_p, permutation_p

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.stats.expected_cost import Floats


class Bill(NamedTuple):
    """``fixed + times · ERT`` of trials: an expected cost, or the bill of several trainings.

    Attributes:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        fixed: What was spent once, for instance on tuning.
        times: How many trainings follow at the ERT of the trials.
    """

    spent: Sequence[float]
    cost: Sequence[float]
    fixed: float = 0.0
    times: float = 1.0

    @property
    def value(self) -> float:
        """The bill; infinite if no trial hit and one training or more follows."""
        if not self.times:
            return self.fixed
        return self.fixed + self.times * ert(self.spent, self.cost).cost

    @property
    def always_hits(self) -> bool:
        """Whether every trial reached the target, for a positive cost."""
        return all(math.isfinite(value) for value in self.cost) and all(
            bill > 0 for bill in self.spent)


class Comparison(NamedTuple):
    """One optimizer's bill over another's.

    Attributes:
        ratio: Below 1 where the first is cheaper; 0 or infinite where only one ever hit, NaN
            where neither did.
        interval: Of the ratio; None for fewer than two trials of either.
        p: Two-sided p-value of equal bills, not yet corrected for the family; 1 without an
            interval.
        least: Smallest p-value that so many trials can have.
    """

    ratio: float
    interval: intervals.Interval | None
    p: float
    least: float

    def evidence(self, noise: float = 1.0) -> Evidence:
        """Return what ``verdict`` judges.

        Args:
            noise: Ratio by which means of as many equal trials differ.
        """
        return Evidence(self.ratio, self.interval, self.p, self.least, noise)


def compare(first: Bill, second: Bill, *, paired: bool) -> Comparison:
    """Compare two bills.

    The interval is read from ``ert_draws`` of both. Where all trials of both hit, no further
    failure is assumed, and pairs give the interval of the mean log ratio by Student's t.

    The p-value of two expected costs is that of exchanging labels (``permutation_p``) with the log
    ratio of ``mean spent / ((m + ½)/(n + ½))``, finite also without a hit, as its statistic. Bills
    with a fixed part have none; theirs is twice the share of draws on the less likely side of 1.

    Args:
        first: Of one optimizer.
        second: Of the other.
        paired: Whether the k-th trials of both are a pair.

    Raises:
        ValueError: Pairs lack a partner, or bills as in ``ert``.
    """
    for bill in (first, second):
        check_bills(bill.spent, bill.cost)
    if paired and len(first.spent) != len(second.spent):
        raise ValueError("paired trials must be equally many")
    ratio = _ratio(first.value, second.value)
    if min(len(first.spent), len(second.spent)) < 2:
        return Comparison(ratio, None, 1.0, 1.0)
    low, high = _ratio_draws(first, second, paired)
    interval = intervals.ErtDraws(low, high).interval()
    if first.fixed or second.fixed:
        sides = int((low <= 1).sum()), int((high >= 1).sum())
        least = 2.0 / (1 + intervals.DRAWS)
        return Comparison(ratio, interval, min(1.0, least * (1 + min(sides))), least)
    least = least_p(len(first.spent), len(second.spent), paired=paired)
    p = permutation_p(_counts(first), _counts(second), _log_ratio, paired=paired)
    return Comparison(ratio, interval, max(least, p), least)


def first_ranks(pools: Mapping[str, Bill], *, paired: bool,
                resamples: int = intervals.RESAMPLES) -> dict[str, float]:
    """Return the share of bootstrap resamples in which an optimizer has the lowest expected cost.

    It describes how the order depends on the trials that were drawn. It is not the probability of
    being the best: of two equal optimizers with 3 trials each, one leads in 95 % or more of the
    resamples in 4 studies of 10.

    Args:
        pools: Trials of each optimizer.
        paired: Whether the k-th trials of all belong together.
        resamples: Number of resamples.

    Returns:
        Shares by optimizer. Ties share alike; where none hits, none is first, so that the
        shares may sum to less than 1. NaN for all if one has fewer than two trials.

    Raises:
        ValueError: As in ``compare``.
    """
    for bill in pools.values():
        check_bills(bill.spent, bill.cost)
    if paired and len({len(bill.spent) for bill in pools.values()}) > 1:
        raise ValueError("paired trials must be equally many")
    found: list[Floats] = []
    for index, bill in enumerate(pools.values()):
        # The same seed draws the same repetitions, which is what makes them pairs.
        drawn = intervals.resampled(
            len(bill.spent), resamples, intervals.BOOTSTRAP_SEED + (0 if paired else index)
        )
        if drawn is None:
            return dict.fromkeys(pools, math.nan)
        found.append(intervals.erts(bill.spent, bill.cost, drawn))
    table = np.array(found)
    leads = (table == table.min(axis=0)) & np.isfinite(table)
    shares = np.where(leads, 1.0 / np.maximum(1, leads.sum(axis=0)), 0.0).mean(axis=1)
    return dict(zip(pools, shares.tolist(), strict=True))


def _ratio_draws(first: Bill, second: Bill, paired: bool) -> tuple[Floats, Floats]:
    """Draw the ratios that lower and upper limits are read from."""
    certain = first.always_hits and second.always_hits
    if certain and paired and not (first.fixed or second.fixed):
        ratios = (first.times / second.times) * _paired_ratios(
            np.asarray(first.spent, dtype=np.float64), np.asarray(second.spent, dtype=np.float64),
            np.random.default_rng(intervals.BOOTSTRAP_SEED))
        return ratios, ratios
    one, other = (_draws(bill, not certain, intervals.BOOTSTRAP_SEED + index)
                  for index, bill in enumerate((first, second)))
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = one.low / other.high, one.high / other.low
    return np.where(np.isnan(low), 0.0, low), np.where(np.isnan(high), np.inf, high)


def _draws(bill: Bill, failures: bool, seed: int) -> intervals.ErtDraws:
    return intervals.ert_draws(bill.spent, bill.cost, failures=failures, seed=seed).scaled(
        bill.times, bill.fixed)


def _paired_ratios(one: Floats, two: Floats, generator: np.random.Generator) -> Floats:
    """Draw ratios of the means of lognormal pairs (Cox's method, as modified by Olsson, 2005)."""
    logs = np.stack([np.log(one), np.log(two)])
    apart = logs[0] - logs[1]
    pairs, freedom = len(apart), len(apart) - 1
    (first, both), (_, second) = np.cov(logs)
    # Half the difference of the variances makes medians means; it is uncertain itself.
    centre = apart.mean() + (first - second) / 2
    squares = intervals.CERTAIN_PRIOR**2 + float(((apart - apart.mean()) ** 2).sum())
    error = math.sqrt(squares / pairs / freedom
                      + (first**2 + second**2 - 2 * both**2) / (2 * freedom))
    found: Floats = np.exp(centre + error * generator.standard_t(freedom, intervals.DRAWS))
    return found


def _counts(bill: Bill) -> list[tuple[float, float, float]]:
    return [(spent, float(math.isfinite(cost)), 1.0)
            for spent, cost in zip(bill.spent, bill.cost, strict=True)]


def _log_ratio(mine: Floats, theirs: Floats) -> Floats:
    """Return the log ratio of smoothed expected costs of sums ``(spent, hits, trials)``."""
    def cost(sums: Floats) -> Floats:
        spent, hits, trials = sums
        found: Floats = np.log(np.maximum(spent / trials, 1e-300)) - np.log(
            (hits + 0.5) / (trials + 0.5))
        return found

    return cost(mine) - cost(theirs)


def _ratio(one: float, other: float) -> float:
    if not other:
        return math.nan if not one else math.inf
    if math.isinf(one) and math.isinf(other):
        return math.nan
    return one / other


class Difference(NamedTuple):
    """One mean less another.

    Attributes:
        value: Mean of the first less that of the second.
        interval: Of the difference; None for fewer than two trials of either.
        p: Two-sided p-value of equal distributions, not yet corrected; 1 without an interval.
        least: Smallest p-value that so many trials can have.
    """

    value: float
    interval: intervals.Interval | None
    p: float
    least: float


def difference(first: Sequence[float], second: Sequence[float], *, paired: bool) -> Difference:
    """Compare two means: Student's 95 % interval of the difference, p-value by exchanging labels.

    Without pairs the interval is Welch's (1947), whose variances may differ.

    Args:
        first: A finite value of each trial, shape ``(n1,)``.
        second: Those of the other, shape ``(n2,)``.
        paired: Whether the k-th trials of both are a pair.

    Raises:
        ValueError: Either is empty, or pairs lack a partner.
    """
    if not first or not second or (paired and len(first) != len(second)):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be compared")
    value = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return Difference(value, None, 1.0, 1.0)
    least = least_p(len(first), len(second), paired=paired)
    p = permutation_p([(x, 1.0) for x in first], [(x, 1.0) for x in second], _means, paired=paired)
    half = _half_width(first, second, paired)
    return Difference(value, intervals.Interval(value - half, value + half), max(least, p), least)


def success_p(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the two-sided p-value of equal chances to hit: Fisher's exact test (1922).

    Args:
        first: Hits and trials of one.
        second: Hits and trials of the other.
    """
    if first[0] * second[1] == second[0] * first[1]:
        return 1.0  # no table of these sums is likelier; most studies import nothing more
    from scipy.stats import fisher_exact

    found = fisher_exact(np.array([[hits, trials - hits] for hits, trials in (first, second)]))
    return float(found.pvalue)


def _means(mine: Floats, theirs: Floats) -> Floats:
    found: Floats = mine[0] / mine[1] - theirs[0] / theirs[1]
    return found


def _half_width(first: Sequence[float], second: Sequence[float], paired: bool) -> float:
    from scipy.special import stdtrit

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
    return float(stdtrit(freedom, 0.975)) * math.sqrt(squared)
