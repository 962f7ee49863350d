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

from bench_apts.stats.expected_cost import check_bills, ert
from bench_apts.stats.intervals import ErtDraws, ert_draws
from bench_apts.stats.pairwise_comparison import Bill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.expected_cost import Floats
    from bench_apts.stats.intervals import Interval

ENOUGH = 8
"""Trainings on fresh seeds from which on a narrow interval is seldom narrow by luck."""

FEWEST = 5
"""Trainings on fresh seeds of either optimizer below which it is not claimed that tuning never
pays."""

_SEED = 47_110


def is_precise_enough(interval: Interval | None, seeds: int) -> bool:
    """Say whether a bill with this interval is shown as a number.

    Its limits are within a factor of 4, or of 2 with fewer seeds than ``ENOUGH``: of studies with
    few seeds, those that saw no failure by luck have the narrow intervals, and bills too low.

    Args:
        interval: Of the bill.
        seeds: Trainings on fresh seeds that it rests on.
    """
    return _narrow(interval, 4.0 if seeds >= ENOUGH else 2.0)


def _narrow(interval: Interval | None, widest: float) -> bool:
    return (interval is not None and math.isfinite(interval.high)
            and interval.high <= widest * interval.low)


@dataclass(frozen=True, eq=False)
class Trainings:
    """What R trainings of one optimizer cost, in one currency.

    Attributes:
        spent: What each training on a fresh seed was billed, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        tuning: What all tuning trials were billed together; None for an optimizer that is not
            tuned.
        found: Whether a tuning trial hit, which then is the first training.

    Raises:
        ValueError: Lengths differ, a number is unknown, or no training ran on a fresh seed.
    """

    spent: Sequence[float]
    cost: Sequence[float]
    tuning: float | None = None
    found: bool = True

    def __post_init__(self) -> None:
        check_bills(self.spent, self.cost)
        if not len(self.spent):
            raise ValueError("a bill needs trainings on fresh seeds")

    @property
    def again(self) -> float:
        """Expected cost of a training on a fresh seed, its ERT; infinite if none hit."""
        return ert(self.spent, self.cost).cost

    def bill(self, trainings: int) -> Bill:
        """Return the bill of R trainings.

        ``Σ tuning + (R − 1) · ERT`` of a tuned optimizer whose tuning hit, ``R · ERT`` of another.

        Raises:
            ValueError: R is below 1.
        """
        if trainings < 1:
            raise ValueError(f"trainings must be at least 1, got {trainings}")
        if self.tuning is None:
            return Bill(self.spent, self.cost, times=trainings)
        return Bill(self.spent, self.cost, self.tuning, trainings - self.found)

    def at(self, trainings: int) -> float:
        """Return the expected bill of R trainings, infinite where one is never reached."""
        return self.bill(trainings).value

    @cached_property
    def draws(self) -> ErtDraws:
        """Draws of what a training on a fresh seed costs; every R reads the same ones."""
        return ert_draws(self.spent, self.cost, seed=_SEED)

    def worth_a_number(self, trainings: int) -> bool:
        """Say whether the bill of R trainings is shown as a number, and not as limits alone."""
        return is_precise_enough(self.interval(trainings), len(self.spent))

    def interval(self, trainings: int) -> Interval | None:
        """Return the 95 % interval of the bill of R trainings; None where it is a fact."""
        bill = self.bill(trainings)
        return self.draws.scaled(bill.times, bill.fixed).interval() if bill.times else None


def tuned(spent: Sequence[float], cost: Sequence[float],
          again: tuple[Sequence[float], Sequence[float]]) -> Trainings:
    """Return the bills of an optimizer whose tuning trials have these bills and costs.

    Args:
        spent: What each tuning trial was billed, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        again: ``(spent, cost)`` of trainings with the frozen configuration on fresh seeds.
    """
    found = ert(spent, cost)
    return Trainings(*again, found.total, bool(found.hits))


class BreakEven(NamedTuple):
    """From how many trainings on a tuned optimizer costs no more than one without tuning.

    Attributes:
        trainings: R*, the least whole number of trainings at which the tuned bill does not exceed
            the other; infinite if it always does.
        interval: Its 95 % interval; limits may be infinite.
        seeds: Trainings on fresh seeds of the optimizer that has fewer.
    """

    trainings: float
    interval: Interval
    seeds: int

    @property
    def is_known(self) -> bool:
        """Whether R* is known well enough to be a number."""
        return self.seeds >= ENOUGH and _narrow(self.interval, 3.0)

    @property
    def never(self) -> bool:
        """Whether it may be claimed that tuning never pays: both limits say so."""
        return self.seeds >= FEWEST and math.isinf(self.interval.low)


def break_even(mine: Trainings, theirs: Trainings) -> BreakEven:
    """Find R*, with an interval from independent draws of what either's training costs.

    By hand: tuning for 10 and trainings of 3 against trainings of 5: 10 + 3 (R − 1) ≤ 5 R from
    R = 4 on.

    Args:
        mine: The bill of a tuned optimizer.
        theirs: The bill of an untuned optimizer.

    Raises:
        ValueError: It is the other way round.
    """
    if mine.tuning is None or theirs.tuning is not None:
        raise ValueError("a tuned optimizer is held against one that is not tuned")

    def least(again: Floats, price: Floats) -> Floats:
        assert mine.tuning is not None
        first = np.full(len(again), mine.tuning) if mine.found else mine.tuning + again
        return crossings(first, again, price)

    (found,) = least(np.array([mine.again]), np.array([theirs.again]))
    again, price = mine.draws, ert_draws(theirs.spent, theirs.cost, seed=_SEED + 1)
    # The dearer a training again is, and the cheaper one without tuning, the later tuning pays.
    interval = ErtDraws(least(again.low, price.high), least(again.high, price.low)).interval()
    return BreakEven(float(found), interval, min(len(mine.spent), len(theirs.spent)))


def crossings(first: Floats, again: Floats, price: Floats) -> Floats:
    """Return R* for many costs: the least whole R with a bill of at most R prices.

    Args:
        first: Bill of the first training, tuning included, shape ``(B,)``; infinite for never.
        again: Cost of each further training, shape ``(B,)``; infinite for never.
        price: Cost of each training without tuning, shape ``(B,)``.

    Returns:
        R*, shape ``(B,)``; infinite for never.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = price - again
        least = np.ceil((first - again) / gain)
        # Rounding must not put a whole crossing behind the next one.
        before = least - 1
        least = np.where(first + (before - 1) * again <= before * price, before, least)
        found: Floats = np.where(gain > 0, np.maximum(least, 2.0), np.inf)
    # An infinite price is more than any finite bill.
    return np.where(np.isfinite(first) & (first <= price), 1.0,
                    np.where(np.isfinite(first), found, np.inf))
