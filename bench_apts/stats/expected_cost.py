"""What every estimator asks of the bills and costs that it is given.

What finding a working configuration costs, in closed form (docs/measurement.md, 5).

All functions take n trials that were drawn independently: what each ``spent`` and its ``cost``
to the target, infinite for a miss. Costs are in any one currency, and so are the results. A cost
that is unknown (NaN) is refused with a ValueError, as everywhere in this package. Formulas,
sources and examples: docs/statistics.md.

Racing K trials: all start at once, and the first to hit the target ends them all.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

def check_bills(spent: Sequence[float], cost: Sequence[float]) -> None:
    """Refuses what no estimator can answer for.

    Args:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.

    Raises:
        ValueError: The two differ in length, a bill is not finite, or a cost is unknown (NaN):
            taken along, it would pass for a miss.
    """
    if len(spent) != len(cost):
        raise ValueError(f"{len(spent)} bills but {len(cost)} costs")
    for index, bill in enumerate(spent):
        if not math.isfinite(bill):
            raise ValueError(f"the bill of trial {index} is {bill}, so that no sum is known")
    check_known(cost)


def check_known(cost: Sequence[float]) -> None:
    """Refuses costs that are unknown (NaN); infinite ones are misses and legal.

    Raises:
        ValueError: One is NaN.
    """
    for index, value in enumerate(cost):
        if math.isnan(value):
            raise ValueError(f"the cost of trial {index} is unknown (NaN), which is no miss")


class Ert(NamedTuple):
    """Expected running time to the target, drawing fresh configurations until one hits.

    Attributes:
        cost: ``Σ spent / hits``; infinite where nothing hit.
        total: ``Σ spent``.
        hits: Trials that reached the target, m.
        trials: All trials, n.
    """

    cost: float
    total: float
    hits: int
    trials: int

    @property
    def success(self) -> float:
        """Share of trials that hit, m/n; NaN without trials."""
        return self.hits / self.trials if self.trials else math.nan

    @property
    def bound(self) -> float:
        """What the cost exceeds with 95 % confidence where nothing hit.

        The mean bill over ``miss_limit``, the largest chance to hit that so many misses leave.
        """
        return self.total / self.trials / miss_limit(self.trials) if self.trials else 0.0

    @property
    def success_limit(self) -> float:
        """One-sided 95 % upper limit of P(success) where nothing hit, else 1."""
        return miss_limit(self.trials) if self.hits == 0 else 1.0


def ert(spent: Sequence[float], cost: Sequence[float]) -> Ert:
    """Expected cost to the target, ``Σ spent / hits`` (section 5, estimator 1; COCO's ERT).

    Args:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.

    Raises:
        ValueError: The two differ in length, or a number is unknown.
    """
    check_bills(spent, cost)
    total = math.fsum(spent)
    hits = count_hits(cost)
    return Ert(total / hits if hits else math.inf, total, hits, len(cost))


def miss_limit(trials: int) -> float:
    """Upper 95 % limit of P(success) after ``trials`` misses in a row: ``1 − 0.05^(1/n)``."""
    return 1.0 - 0.05 ** (1.0 / trials) if trials else 1.0


def sequential_bill(spent: Sequence[float], cost: Sequence[float]) -> float:
    """Expected bill of trying this pool in random order until the first hit (estimator 2).

    ``mean spent of hits + mean spent of misses · (n − m) / (m + 1)``, exact over all orders;
    infinite where nothing hit.
    """
    check_bills(spent, cost)
    hits = [bill for bill, value in zip(spent, cost, strict=True) if math.isfinite(value)]
    misses = [bill for bill, value in zip(spent, cost, strict=True) if not math.isfinite(value)]
    if not hits:
        return math.inf
    return math.fsum(hits) / len(hits) + math.fsum(misses) / (len(hits) + 1)


def hit_probability(trials: int, hits: int, draws: int) -> float:
    """P(at least one hit among ``draws`` of ``trials``), drawn without replacement (3).

    ``1 − C(n − m, K) / C(n, K)``.

    Raises:
        ValueError: More draws than trials, or more hits than trials.
    """
    _check_draws(trials, draws)
    if not 0 <= hits <= trials:
        raise ValueError(f"{hits} hits of {trials} trials")
    return 1.0 - math.comb(trials - hits, draws) / math.comb(trials, draws)


def best_of(cost: Sequence[float], draws: int) -> float:
    """Expected cost of the best of ``draws`` trials, drawn without replacement (estimator 3).

    ``Σ_i h_(i) · C(n − i, K − 1) / C(n, K)`` over the sorted costs: the exact mean over all
    subsets. Infinite if any subset misses altogether. Reports show it up to K = n/2, beyond
    which few subsets differ and the estimate is noisy.

    Raises:
        ValueError: ``draws`` is not in 1 … n.
    """
    check_known(cost)
    weights = best_weights(len(cost), draws)
    # A weight of zero times an infinite cost is no cost at all, not NaN.
    return math.fsum(w * h for w, h in zip(weights, sorted(cost), strict=True) if w > 0)


def count_hits(cost: Sequence[float]) -> int:
    """Number of trials that reached the target, m."""
    return sum(math.isfinite(value) for value in cost)


def _check_draws(trials: int, draws: int) -> None:
    if not 1 <= draws <= trials:
        raise ValueError(f"draws must be in 1 … {trials}, got {draws}")


@cache
def best_weights(trials: int, draws: int) -> tuple[float, ...]:
    """P(the i-th smallest of n is the smallest of K drawn), for i = 1 … n.

    Raises:
        ValueError: ``draws`` is not in 1 … n.
    """
    _check_draws(trials, draws)
    subsets = math.comb(trials, draws)
    return tuple(math.comb(trials - i, draws - 1) / subsets for i in range(1, trials + 1))


class Race(NamedTuple):
    """What racing costs until a race has a winner.

    Attributes:
        draws: Trials K that start at once, each on N ranks of its own.
        bill: Expected bill of all K, of races without a winner too.
        elapsed: Expected duration, as one trial would be billed for it: what a watch shows where
            the currency is seconds.
        success: P(a race has a winner).
    """

    draws: int
    bill: float
    elapsed: float
    success: float


def race(spent: Sequence[float], cost: Sequence[float], draws: int) -> Race:
    """Expected bill and duration of races of K trials drawn without replacement.

    A race of the set S ends at its first hit, ``h = min over S of h_i``, or with its last trial
    if none hits. Each trial is billed ``min(s_i, h)``: K·h if all are still running, less if
    some diverged before. A race without a winner is billed whole and followed by another with a
    fresh set; so both results are the exact means over all C(n, K) sets divided by
    ``P_K = 1 − C(n − m, K)/C(n, K)``. A race of one is the ERT.

    Args:
        spent: What each trial cost, shape ``(n,)``, in a currency that runs equally fast in all
            trials: ``train_s``, ``wall_s``, or ``core_seconds`` at one N.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        draws: Trials K in a race, 1 … n.

    Raises:
        ValueError: ``draws`` is out of its range, or as in ``ert``.
    """
    check_bills(spent, cost)
    trials = len(cost)
    weights = best_weights(trials, draws)
    success = hit_probability(trials, count_hits(cost), draws)
    if success == 0:
        return Race(draws, math.inf, math.inf, 0.0)
    pool = sorted(zip(cost, spent, strict=True))
    # P(the i-th of n leads and a given later one is drawn too).
    subsets = math.comb(trials, draws)
    beside = [math.comb(trials - i - 1, draws - 2) / subsets if draws > 1 and i < trials else 0.0
              for i in range(1, trials + 1)]
    bill = math.fsum(
        weights[lead] * min(pool[lead][1], hit)
        + beside[lead] * math.fsum(min(bill, hit) for _, bill in pool[lead + 1:])
        for lead, (hit, _) in enumerate(pool) if weights[lead] > 0)
    elapsed = math.fsum(weight * hit for weight, (hit, _) in zip(weights, pool, strict=True)
                        if weight > 0 and math.isfinite(hit))
    elapsed += _longest(sorted(bill for hit, bill in pool if math.isinf(hit)), draws) / subsets
    return Race(draws, bill / success, elapsed / success, success)


def _longest(bills: Sequence[float], draws: int) -> float:
    """Sum of the largest over all sets of ``draws`` sorted bills; zero if there are too few."""
    return math.fsum(bill * math.comb(index, draws - 1) for index, bill in enumerate(bills))
