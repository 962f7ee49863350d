"""Restart cost: how the bill of drawing trials until one hits scatters around its mean, the ERT.

Draws are with replacement, as if the pool of trials were the whole search space.

What the expected cost would be, had every trial been stopped at a cap.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_apts.stats.expected_cost import Ert, check_bills, ert

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAWS = 20_000
_SEED = 31_415
_ATOMS = 100_000

Floats = NDArray[np.float64]


def simulate(spent: Floats, hit: NDArray[np.bool_], draws: int,
             generator: np.random.Generator) -> Floats:
    """Draws restart costs: bills of misses up to the first hit, and the bill of that hit.

    Args:
        spent: What each trial cost, shape ``(n,)``.
        hit: Whether it reached the target, shape ``(n,)``.
        draws: How many restart costs.
        generator: Source of randomness.

    Returns:
        Sorted costs, shape ``(draws,)``; infinite where nothing hit.
    """
    hits, misses = spent[hit], spent[~hit]
    if not len(hits):
        return np.full(draws, np.inf)
    found: Floats = generator.choice(hits, draws)
    if len(misses):
        failures = generator.geometric(len(hits) / len(spent), draws) - 1
        bills = generator.choice(misses, int(failures.sum()))
        owner = np.repeat(np.arange(draws), failures)
        found = found + np.bincount(owner, weights=bills, minlength=draws)
    return np.sort(found)


def restart_costs(spent: Sequence[float], cost: Sequence[float], *, draws: int = DRAWS,
                  seed: int = _SEED) -> Floats:
    """Simulated restart costs of a pool of trials, whose mean is the ERT.

    Args:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        draws: How many restart costs to draw.
        seed: Seed of the generator; the same arguments give the same costs.

    Returns:
        Sorted costs, shape ``(draws,)``: their ECDF climbs by ``1/draws`` at each. Infinite
        where nothing hit.

    Raises:
        ValueError: As in ``ert``.
    """
    check_bills(spent, cost)
    return simulate(np.asarray(spent, dtype=np.float64), np.isfinite(cost), draws,
                    np.random.default_rng(seed))


def ecdf(costs: Floats, at: Sequence[float]) -> Floats:
    """Share of ``costs``, sorted, that are at most each value of ``at``; the shape of ``at``."""
    found: Floats = np.searchsorted(costs, np.asarray(at), side="right") / len(costs)
    return found


def restart_quantile(spent: Sequence[float], cost: Sequence[float],
                     share: float = 0.9) -> float:
    """Bill that suffices to reach the target with probability ``share``.

    Exact where all misses cost the same, as they do in samples, or where there are none; else
    from ``restart_costs``, whose share of restarts below the quantile has a standard error of
    ``sqrt(share·(1 − share)/20 000)``: 0.2 % at 90 %.

    Args:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        share: Probability, more than 0 and less than 1.

    Returns:
        The smallest cost that at least that share of restarts does not exceed; infinite where
        nothing hit.

    Raises:
        ValueError: ``share`` is out of its range, or as in ``ert``.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    check_bills(spent, cost)
    hits = sorted(bill for bill, value in zip(spent, cost, strict=True) if math.isfinite(value))
    misses = {bill for bill, value in zip(spent, cost, strict=True) if not math.isfinite(value)}
    if not hits:
        return math.inf
    failure = 1.0 - len(hits) / len(spent)
    # Failures beyond these, and beyond what one hit can cost, lie behind the quantile.
    failures = math.ceil(math.log(1 - share) / math.log(failure)) if failure else 0
    miss = max(misses, default=0.0)
    if miss > 0:
        failures += math.ceil(hits[-1] / miss)
    if len(misses) > 1 or failures * len(hits) > _ATOMS:
        costs = restart_costs(spent, cost)
        return float(np.quantile(costs, share, method="inverted_cdf"))
    atoms = sorted((count * miss + hit, failure**count * (1 - failure) / len(hits))
                   for count in range(failures + 1) for hit in hits)
    reached = itertools.accumulate(weight for _, weight in atoms)
    # Rounding must not put a quantile that falls on an atom behind it.
    return next(value for (value, _), chance in zip(atoms, reached, strict=True)
                if chance >= share - 1e-12)


class Cutoff(NamedTuple):
    """Expected cost to the target if every trial ends at ``cap``, in the cap's currency."""

    cap: float
    ert: Ert


def ert_at(spent: Sequence[float], cost: Sequence[float], cap: float) -> Ert:
    """Expected cost if no trial may spend more than ``cap``.

    ``ERT(c) = Σ min(s_i, c) / #{h_i ≤ c}``: a trial that hits later is a miss that cost c.

    Args:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        cap: Where trials end, positive; infinite for the plain ERT.

    Raises:
        ValueError: The cap is not positive, or as in ``ert``.
    """
    if not cap > 0:
        raise ValueError(f"cap must be positive, got {cap}")
    check_bills(spent, cost)
    return ert([min(bill, cap) for bill in spent],
               [value if value <= cap else math.inf for value in cost])


def cutoff_curve(spent: Sequence[float], cost: Sequence[float]) -> tuple[Cutoff, ...]:
    """Expected cost at each cap that could be the best one.

    Between two hits the bills grow with the cap and the hits do not, so that each minimum lies
    at the cost of a hit. The lowest point was chosen with hindsight: it is what a good cap would
    have saved in these trials, on average too low for others. It holds for hyperparameters that
    do not know the budget; a schedule made for a shorter one is another trial.

    Returns:
        A point for each distinct positive cost of a hit, in order; empty where nothing hit.

    Raises:
        ValueError: As in ``ert``.
    """
    check_bills(spent, cost)
    caps = sorted({value for value in cost if 0 < value < math.inf})
    return tuple(Cutoff(cap, ert_at(spent, cost, cap)) for cap in caps)
