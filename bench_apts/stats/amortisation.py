"""When tuning pays: bills of R trainings, with all tuning trials counted in.

The tuning that finds a configuration is the first training; each further one costs what fresh
seeds of that configuration cost. Nothing that was not run on fresh seeds is counted on, so that
what a trial was chosen for, its luck, enters no bill. What tuning cost is a fact of the record and
has no interval; a bill is uncertain by what training again costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.bootstrap import Interval, percentiles
from bench_apts.stats.checks import check_bills
from bench_apts.stats.ert_draws import ert_draws
from bench_apts.stats.tuning import ert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.bootstrap import Floats

WIDEST = 4.0
"""Largest ratio of the limits of an interval whose estimate is worth a number."""

FEWEST = 5
"""Trainings on fresh seeds of either optimizer below which no break-even is claimed."""

_CONFIDENCE = 0.95
_SEED = 47_110


def worth_a_number(interval: Interval | None) -> bool:
    """Whether an estimate with this interval is shown as a number: a finite and narrow one."""
    return (interval is not None and math.isfinite(interval.high)
            and interval.high <= WIDEST * interval.low)


@dataclass(frozen=True, eq=False)
class Bill:
    """What R trainings of one optimizer cost, in one currency.

    Attributes:
        spent: What each training on a fresh seed was billed, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        tuning: What all tuning trials were billed together, the first training among them;
            infinite if none of them hit, None for an optimizer that is not tuned.

    Raises:
        ValueError: Lengths differ, there is no training on a fresh seed, or a number is unknown.
    """

    spent: Sequence[float]
    cost: Sequence[float]
    tuning: float | None = None

    def __post_init__(self) -> None:
        check_bills(self.spent, self.cost)
        if not len(self.spent):
            raise ValueError("a bill needs trainings on fresh seeds")

    @property
    def again(self) -> float:
        """Expected bill of a training on a fresh seed, its ERT."""
        return ert(self.spent, self.cost).cost

    def at(self, trainings: int) -> float:
        """Return the expected bill of R trainings, infinite where one is never reached.

        ``Σ tuning + (R − 1) · ERT`` of a tuned optimizer, ``R · ERT`` of another.

        Raises:
            ValueError: R is below 1.
        """
        first, more = self._counts(trainings)
        return first + more * self.again if more else first

    def drawn(self, trainings: int, seed: int = _SEED) -> Floats:
        """Return draws of the bill of R trainings, shape ``(draws,)``.

        Args:
            trainings: R, at least 1.
            seed: Of the generator; bills that are compared need different ones.
        """
        first, more = self._counts(trainings)
        return first + more * self.prices(seed) if more else np.full(1, first)

    def prices(self, seed: int = _SEED) -> Floats:
        """Return draws of what a training on a fresh seed costs, shape ``(draws,)``."""
        return ert_draws(self.spent, self.cost, seed=seed)

    def interval(self, trainings: int) -> Interval | None:
        """Return the 95 % interval of the bill of R trainings; None where it is a fact.

        Without a hit among the fresh seeds it has no upper limit.
        """
        _, more = self._counts(trainings)
        if not more:
            return None
        low, high = percentiles(self.drawn(trainings), _CONFIDENCE)
        return Interval(low, high if self.hit else math.inf)

    @cached_property
    def hit(self) -> bool:
        """Whether a training on a fresh seed reached the target."""
        return math.isfinite(self.again)

    def _counts(self, trainings: int) -> tuple[float, int]:
        """Split R trainings into what was billed already and how many further ones there are."""
        if trainings < 1:
            raise ValueError(f"trainings must be at least 1, got {trainings}")
        return (0.0, trainings) if self.tuning is None else (self.tuning, trainings - 1)


def tuned(spent: Sequence[float], cost: Sequence[float],
          again: tuple[Sequence[float], Sequence[float]]) -> Bill:
    """Return the bill of an optimizer that is tuned.

    Args:
        spent: What each tuning trial was billed, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        again: ``(spent, cost)`` of trainings with the frozen configuration on fresh seeds.

    Raises:
        ValueError: As in ``Bill``.
    """
    found = ert(spent, cost)
    return Bill(*again, found.total if found.hits else math.inf)


class BreakEven(NamedTuple):
    """From how many trainings on a tuned optimizer costs no more than one without tuning.

    Attributes:
        trainings: R*, the least whole number of trainings for which the tuned bill is no more
            than the other; infinite for never.
        interval: Its 95 % interval; limits may be infinite.
        seeds: Trainings on fresh seeds of the optimizer that has fewer.
    """

    trainings: float
    interval: Interval
    seeds: int

    @property
    def told(self) -> bool:
        """Whether R* is known well enough to be a number."""
        return self.seeds >= FEWEST and worth_a_number(self.interval)

    @property
    def never(self) -> bool:
        """Whether it may be claimed that tuning never pays: both limits say so."""
        return self.seeds >= FEWEST and math.isinf(self.interval.low)


def break_even(mine: Bill, theirs: Bill) -> BreakEven:
    """Find R*, with an interval from independent draws of what either's training costs.

    By hand: tuning for 10 and trainings of 3 against trainings of 5: 10 + 3 (R − 1) ≤ 5 R from
    R = 4 on.

    Args:
        mine: Of an optimizer that is tuned.
        theirs: Of one that is not.

    Raises:
        ValueError: It is the other way round.
    """
    if mine.tuning is None or theirs.tuning is not None:
        raise ValueError("a tuned optimizer is held against one that is not tuned")
    (found,) = crossings(mine.tuning, np.array([mine.again]), np.array([theirs.again]))
    low, high = percentiles(crossings(mine.tuning, mine.prices(), theirs.prices(_SEED + 1)),
                            _CONFIDENCE)
    # Draws of a cost that nothing hit are of its lower bound.
    return BreakEven(float(found), Interval(low if theirs.hit else 1.0,
                                            high if mine.hit else math.inf),
                     min(len(mine.spent), len(theirs.spent)))


def crossings(tuning: float, again: Floats, price: Floats) -> Floats:
    """Return R* for many costs of trainings: the least whole R with a bill of at most R prices.

    Args:
        tuning: What tuning cost, the first training included; infinite if it found nothing.
        again: Cost of each further training, shape ``(B,)``; infinite for never.
        price: Cost of each training without tuning, shape ``(B,)``.

    Returns:
        R*, shape ``(B,)``; infinite for never.
    """
    if math.isinf(tuning):
        return np.full(len(again), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = price - again
        least = np.ceil((tuning - again) / gain)
        # Rounding must not put a whole crossing behind the next one.
        before = least - 1
        least = np.where(tuning + (before - 1) * again <= before * price, before, least)
        found: Floats = np.where(gain > 0, np.maximum(least, 2.0), np.inf)
    # An infinite price is more than any bill; the first training costs nothing but the tuning.
    return np.where((tuning <= price) | np.isinf(price), 1.0, found)
