"""What finding a working configuration costs, in closed form (docs/measurement.md, 5).

All functions take n trials that were drawn independently: what each ``spent`` and its ``cost``
to the target, infinite for a miss. Costs are in any one currency, and so are the results. A cost
that is unknown (NaN) is refused with a ValueError, as everywhere in this package. Formulas,
sources and examples: docs/statistics.md.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.stats.checks import check_bills, check_known

if TYPE_CHECKING:
    from collections.abc import Sequence


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
