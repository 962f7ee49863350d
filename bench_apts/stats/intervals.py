"""Intervals of expected costs from few trials, and the bootstrap where there is no closed form.

A percentile bootstrap of n trials never leaves what was seen, so that at 3 to 8 trials its nominal
95 % interval covers the truth in 54 to 91 % of studies. For an expected cost, draws of a
generalised pivot are used instead: its three unknowns are drawn, each from a distribution that
holds at any n. docs/statistics.md has the measured coverage.

Limits are order statistics, taken outwards: these are the same on the log scale, and interpolating
between a number and infinity, which is a legal upper limit, means nothing. ``spent`` and ``cost``
of n trials have the shape ``(n,)``, as in ``expected_cost``.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_apts.stats.expected_cost import best_weights, check_bills, check_known, miss_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.expected_cost import Floats

Indices = NDArray[np.int64]

RESAMPLES = 2000
BOOTSTRAP_SEED = 20_240
DRAWS = 4000

_TAIL = 0.025
"""Share of draws beyond either limit of an interval, so that it covers 95 %."""

PRIOR_SCATTER = 0.5
"""Standard deviation of the logarithm of costs that one observation is added for: two or three
trials alone say next to nothing of how far costs scatter."""

CERTAIN_PRIOR = 0.1
"""The same where costs of hits alone are compared, which exchanging labels judges as well."""

_FARTHEST = 1e6
"""Largest ratio of a limit to what it is a limit of, or the reverse."""

_EXPONENT = 700.0
"""Largest exponent that is not infinite in float64."""


class Interval(NamedTuple):
    """Lower and upper limit; the upper one may be infinite."""

    low: float
    high: float


class ErtDraws(NamedTuple):
    """Expected costs that the trials are compatible with, shape ``(draws,)`` each.

    The share of hits is a count, so that its lower and its upper limit come from different
    distributions (as those of Clopper and Pearson, 1934, do).

    Attributes:
        low: What lower limits are read from.
        high: What upper limits are read from; infinite if the target was never reached.
    """

    low: Floats
    high: Floats

    def scaled(self, times: float, more: float = 0.0) -> ErtDraws:
        """Return ``more + times · cost``, for ``times`` of 0 or more."""
        if not times:  # 0 · ∞ would be NaN
            return ErtDraws(np.full_like(self.low, more), np.full_like(self.high, more))
        return ErtDraws(more + times * self.low, more + times * self.high)

    def interval(self) -> Interval:
        """Return the limits between which the expected cost lies, with 95 % confidence.

        One that is ``_FARTHEST`` times off the median of the draws, as a single hit can give, is
        0 or infinite: it says that there is no limit, not where it is.
        """
        low, high = _limits(*self)
        if low * _FARTHEST < np.median(self.low) < math.inf:
            low = 0.0
        if high > _FARTHEST * np.median(self.high):
            high = math.inf
        return Interval(low, high)


def _limits(low: Floats, high: Floats) -> Interval:
    return Interval(float(np.quantile(low, _TAIL, method="lower")),
                    float(np.quantile(high, 1.0 - _TAIL, method="higher")))


def ert_interval(spent: Sequence[float], cost: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the expected cost to the target, from ``ert_draws``.

    Returns:
        Limits in the currency of ``spent``, the upper one infinite where no trial hit, or None
        for fewer than two trials.

    Raises:
        ValueError: As in ``ert_draws``.
    """
    check_bills(spent, cost)
    return ert_draws(spent, cost).interval() if len(spent) > 1 else None


def ert_draws(spent: Sequence[float], cost: Sequence[float], *, failures: bool = True,
              seed: int = BOOTSTRAP_SEED) -> ErtDraws:
    """Draw expected costs to the target that trials are compatible with.

    ``ERT = a + c (1 − p)/p``. The mean cost of a hit a is that of a lognormal distribution, by the
    generalised pivot of Krishnamoorthy and Mathew, "Inferences on the means of lognormal
    distributions using generalized p-values and generalized confidence intervals" (2003), with one
    observation of ``PRIOR_SCATTER`` added to the variance (``CERTAIN_PRIOR`` without failures).
    The share of hits p is drawn from Beta(m + 1, n − m) for lower limits of the cost, and from
    Jeffreys' posterior Beta(m + 1/2, n − m + 1/2) for upper ones. The cost of a miss c is the mean
    of the misses, or the largest bill where none missed.

    Without a hit, ``low`` is the cost at the share of hits that n misses in a row leave possible
    with 95 % confidence, ``mean spent / (1 − 0.05^(1/n))``, and ``high`` is infinite.

    Args:
        spent: What each trial cost.
        cost: Its cost to the target, infinite for a miss.
        failures: Whether more failures than were seen are possible. False, which all trials must
            have hit for, draws a alone.
        seed: Seed of the generator.

    Raises:
        ValueError: Lengths differ, a number is unknown (NaN), no trial is given, or a trial missed
            although ``failures`` is False.
    """
    check_bills(spent, cost)
    bills: Floats = np.asarray(spent, dtype=np.float64)
    hit = np.isfinite(np.asarray(cost, dtype=np.float64))
    trials, hits = len(bills), int(hit.sum())
    if not trials:
        raise ValueError("no trial, no cost")
    generator = np.random.default_rng(seed)
    if not hits:
        least = float(bills.mean()) / miss_limit(trials)
        return ErtDraws(np.full(DRAWS, least), np.full(DRAWS, np.inf))
    # a: the mean cost of a hit.
    reached = _means(bills[hit], PRIOR_SCATTER if failures else CERTAIN_PRIOR, generator)
    if not failures:
        if hits < trials:
            raise ValueError(f"{trials - hits} of {trials} trials missed")
        return ErtDraws(reached, reached)
    # c, the cost of a miss, and the share of hits p, once for either limit.
    miss = float(bills[~hit].mean()) if hits < trials else float(bills.max())
    likely = (generator.beta(hits + 1, trials - hits, DRAWS) if hits < trials
              else np.ones(DRAWS))
    unlikely = np.maximum(generator.beta(hits + 0.5, trials - hits + 0.5, DRAWS), 1e-300)
    return ErtDraws(reached + miss * (1 - likely) / likely,
                    reached + miss * (1 - unlikely) / unlikely)


def _means(values: Floats, prior: float, generator: np.random.Generator) -> Floats:
    """Draw means of lognormal distributions that positive ``values`` are compatible with."""
    if not (values > 0).all():
        # Nothing was spent, for instance by the untrained model, which has no scatter either.
        return np.full(DRAWS, values.mean())
    logs = np.log(values)
    centre = logs.mean()
    # The mean is exp(μ + σ²/2): σ² is drawn as squares/χ², then μ given σ².
    squares = prior**2 + float(((logs - centre) ** 2).sum())
    # One observation was added, so that there are as many degrees of freedom as values.
    variance = squares / generator.chisquare(len(logs), DRAWS)
    drawn = centre + np.sqrt(variance / len(logs)) * generator.standard_normal(DRAWS)
    found: Floats = np.exp(np.minimum(drawn + variance / 2, _EXPONENT))
    return found


def best_of_intervals(cost: Sequence[float], most: int) -> list[Interval] | None:
    """Return 95 % bootstrap intervals of ``best_of`` for K = 1 … ``most``; limits may be infinite.

    Args:
        cost: What the least is taken of, shape ``(n,)``; infinite where there is none.
        most: Largest number of draws K, 1 … n.

    Returns:
        An interval for each K, or None for fewer than two trials.

    Raises:
        ValueError: ``most`` is out of its range, or a value is unknown (NaN).
    """
    check_known(cost)
    best_weights(len(cost), most)
    drawn = resampled(len(cost))
    if drawn is None:
        return None
    ordered = np.sort(np.asarray(cost, dtype=np.float64)[drawn], axis=1)
    return [percentiles(column) for column in _expected_best(ordered, most).T]


def _expected_best(ordered: Floats, most: int) -> Floats:
    """Return ``Σ_i C(n − i, K − 1)/C(n, K) · ordered_i`` for K = 1 … ``most``, ``(B, most)``."""
    trials = ordered.shape[1]
    weights = np.array([best_weights(trials, draws) for draws in range(1, most + 1)])
    infinite = np.isinf(ordered)
    # No BLAS: the order of the sum, and so its rounding, must not depend on the machine's load.
    found: Floats = np.einsum("bi,ki->bk", np.where(infinite, 0.0, ordered), weights)
    place = np.where(infinite.any(axis=1), infinite.argmax(axis=1), trials)
    # The value at place i (from 0) comes first in some set of K if i + K ≤ n.
    found[place[:, None] + np.arange(1, most + 1) <= trials] = np.inf
    return found


@functools.lru_cache(maxsize=8)
def resampled(count: int, resamples: int = RESAMPLES,
              seed: int = BOOTSTRAP_SEED) -> Indices | None:
    """Draw trials with replacement; a report asks for the same draws hundreds of times.

    Args:
        count: Number of trials n.
        resamples: Number of resamples B.
        seed: Seed of the generator.

    Returns:
        Indices of trials, shape ``(B, n)``; None for fewer than two trials.
    """
    if count < 2:
        return None
    found: Indices = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    found.setflags(write=False)
    return found


def erts(spent: Sequence[float], cost: Sequence[float], drawn: Indices) -> Floats:
    """Return the ERT of each resample of ``resampled``, shape ``(B,)``; infinite without a hit."""
    hits = np.isfinite(cost).astype(np.float64)[drawn].sum(axis=1)
    values: Floats = np.full(len(drawn), np.inf)
    np.divide(np.asarray(spent, dtype=np.float64)[drawn].sum(axis=1), hits, out=values,
              where=hits > 0)
    return values


def percentiles(values: Floats) -> Interval:
    """Return the interval that holds 95 % of resampled ``values``, shape ``(B,)``."""
    return _limits(values, values)
