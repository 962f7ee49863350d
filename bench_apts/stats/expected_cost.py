"""What finding a working configuration costs, and how that scatters (docs/measurement.md, 5).

All functions take n trials that were drawn independently: what each ``spent``, shape ``(n,)``,
and its ``cost`` to the target, infinite for a miss, shape ``(n,)``. Costs are in any one currency,
and so are the results. A cost that is unknown (NaN) is refused with a ValueError, as everywhere in
this package. Formulas, sources and examples: docs/statistics.md.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]

DRAWS = 20_000
_SEED = 31_415
_ATOMS = 100_000  # sums of bills up to which a quantile is exact


def check_bills(spent: Sequence[float], cost: Sequence[float]) -> None:
    """Refuse what no estimator can answer for.

    Raises:
        ValueError: The two differ in length, a bill is not finite, or a cost is unknown (NaN).
    """
    if len(spent) != len(cost):
        raise ValueError(f"{len(spent)} bills but {len(cost)} costs")
    if not all(map(math.isfinite, spent)):
        index, bill = next((index, bill) for index, bill in enumerate(spent)
                           if not math.isfinite(bill))
        raise ValueError(f"the bill of trial {index} is {bill}, so that no sum is known")
    check_known(cost)


def check_known(cost: Sequence[float]) -> None:
    """Refuse costs that are unknown (NaN) with a ValueError; infinite ones are misses."""
    if any(map(math.isnan, cost)):
        index = next(index for index, value in enumerate(cost) if math.isnan(value))
        raise ValueError(f"the cost of trial {index} is unknown (NaN); a miss costs infinity")


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
    """Return the expected cost to the target, ``Σ spent / hits`` (estimator 1; COCO's ERT).

    Raises:
        ValueError: As in ``check_bills``.
    """
    check_bills(spent, cost)
    total = math.fsum(spent)
    hits = sum(map(math.isfinite, cost))
    return Ert(total / hits if hits else math.inf, total, hits, len(cost))


def miss_limit(trials: int) -> float:
    """Return the upper 95 % limit of P(success) after that many misses: ``1 − 0.05^(1/n)``."""
    return 1.0 - 0.05 ** (1.0 / trials) if trials else 1.0


def sequential_bill(spent: Sequence[float], cost: Sequence[float]) -> float:
    """Return the expected bill of trying this pool in random order until one hits (estimator 2).

    ``mean spent of hits + mean spent of misses · (n − m) / (m + 1)``, exact over all orders;
    infinite where nothing hit.
    """
    hits, misses = _bills(spent, cost)
    if not hits:
        return math.inf
    # Each of the n − m misses comes before the first of m hits in one order of m + 1.
    return math.fsum(hits) / len(hits) + math.fsum(misses) / (len(hits) + 1)


def hit_probability(trials: int, hits: int, draws: int) -> float:
    """Return P(at least one hit among ``draws`` of ``trials``), drawn without replacement.

    ``1 − C(n − m, K) / C(n, K)``.

    Raises:
        ValueError: More draws than trials, or more hits than trials.
    """
    _check_draws(trials, draws)
    if not 0 <= hits <= trials:
        raise ValueError(f"{hits} hits of {trials} trials")
    return 1.0 - math.comb(trials - hits, draws) / math.comb(trials, draws)


def best_of(cost: Sequence[float], draws: int) -> float:
    """Return the expected cost of the best of K trials, drawn without replacement (estimator 3).

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


@cache
def best_weights(trials: int, draws: int) -> tuple[float, ...]:
    """Return P(the i-th smallest of n is the smallest of K drawn), for i = 1 … n.

    Raises:
        ValueError: ``draws`` is not in 1 … n.
    """
    _check_draws(trials, draws)
    subsets = math.comb(trials, draws)
    # Of these, C(n − i, K − 1) hold the i-th smallest and otherwise larger ones only.
    return tuple(math.comb(trials - i, draws - 1) / subsets for i in range(1, trials + 1))


def restart_costs(spent: Sequence[float], cost: Sequence[float], *,
                  draws: int = DRAWS) -> Floats:
    """Simulate restart costs: bills of drawing trials, with replacement, until one hits.

    Returns:
        Sorted costs, shape ``(draws,)``, whose mean is the ERT; infinite where nothing hit.

    Raises:
        ValueError: As in ``check_bills``.
    """
    hits, misses = (np.asarray(bills, dtype=np.float64) for bills in _bills(spent, cost))
    if not len(hits):
        return np.full(draws, np.inf)
    generator = np.random.default_rng(_SEED)
    found: Floats = generator.choice(hits, draws)
    if len(misses):
        # The misses before each hit are geometric in number; their bills are drawn in one go.
        failures = generator.geometric(len(hits) / len(spent), draws) - 1
        bills = generator.choice(misses, int(failures.sum()))
        owner = np.repeat(np.arange(draws), failures)
        found = found + np.bincount(owner, weights=bills, minlength=draws)
    return np.sort(found)


def restart_quantile(spent: Sequence[float], cost: Sequence[float], share: float = 0.9) -> float:
    """Return the bill that suffices to reach the target with probability ``share``.

    Exact where all misses cost the same, as they do in samples, or where there are none; else
    from ``restart_costs``, whose share of restarts below the quantile has a standard error of
    ``sqrt(share·(1 − share)/20 000)``: 0.2 % at 90 %.

    Returns:
        The smallest cost that at least that share of restarts does not exceed; infinite where
        nothing hit.

    Raises:
        ValueError: ``share`` is not more than 0 and less than 1, or as in ``check_bills``.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    hits, misses = _bills(spent, cost)
    if not hits:
        return math.inf
    failure = 1.0 - len(hits) / len(spent)
    # More failures than these, plus what one hit can cost, lie beyond the quantile.
    failures = math.ceil(math.log(1 - share) / math.log(failure)) if failure else 0
    miss = max(misses, default=0.0)
    if miss > 0:
        failures += math.ceil(max(hits) / miss)
    if len(set(misses)) > 1 or failures * len(hits) > _ATOMS:
        costs = restart_costs(spent, cost)
        return float(np.quantile(costs, share, method="inverted_cdf"))
    # After j misses the bill is j·miss + hit, with probability failure^j·(1 − failure)/m.
    atoms = sorted((count * miss + hit, failure**count * (1 - failure) / len(hits))
                   for count in range(failures + 1) for hit in hits)
    reached = itertools.accumulate(weight for _, weight in atoms)
    # Rounding must not put a quantile that falls on an atom behind it.
    return next(value for (value, _), chance in zip(atoms, reached, strict=True)
                if chance >= share - 1e-12)


def _bills(spent: Sequence[float], cost: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the bills of trials that hit and of those that missed, in the order given."""
    check_bills(spent, cost)
    pairs = list(zip(spent, cost, strict=True))
    return ([bill for bill, value in pairs if math.isfinite(value)],
            [bill for bill, value in pairs if not math.isfinite(value)])


def _check_draws(trials: int, draws: int) -> None:
    if not 1 <= draws <= trials:
        raise ValueError(f"draws must be in 1 … {trials}, got {draws}")
