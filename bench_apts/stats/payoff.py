"""Bootstrap intervals of when tuning pays: of C(K, R), of its envelope, of the break-even R*.

Two stages are resampled: tuning trials, each a configuration, then for each one drawn the reruns
of its configuration, from which its expected cost of training again comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench_apts.stats.amortisation import Line, break_even
from bench_apts.stats.bootstrap import (
    RESAMPLES,
    SEED,
    erts,
    expected_best,
    percentiles,
    resampled,
)
from bench_apts.stats.checks import check_bills
from bench_apts.stats.tuning import best_weights, ert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench_apts.stats.bootstrap import Floats, Indices, Interval


@dataclass(frozen=True)
class Tuning:
    """The tuning trials of one optimizer, and what training again cost.

    Attributes:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        reruns: For each trial, ``(spent, cost)`` of every training with its configuration on
            fresh seeds, shape ``(n, any)``. Trials that hit need one at least.

    Raises:
        ValueError: Lengths differ, a number is unknown, or a trial that hit was not rerun.
    """

    spent: Sequence[float]
    cost: Sequence[float]
    reruns: Sequence[Sequence[tuple[float, float]]]

    def __post_init__(self) -> None:
        check_bills(self.spent, self.cost)
        if len(self.reruns) != len(self.cost):
            raise ValueError(f"{len(self.cost)} trials but {len(self.reruns)} lists of reruns")
        for index, (value, again) in enumerate(zip(self.cost, self.reruns, strict=True)):
            check_bills([bill for bill, _ in again], [target for _, target in again])
            if math.isfinite(value) and not again:
                raise ValueError(f"trial {index} hit, but its configuration was never rerun")

    @cached_property
    def rerun(self) -> list[float]:
        """ERT of each trial's reruns, shape ``(n,)``; infinite without a hit among them."""
        return [ert([bill for bill, _ in again], [target for _, target in again]).cost
                for again in self.reruns]

    def lines(self, most: int, resamples: int, seed: int) -> tuple[Floats, Floats] | None:
        """Lines of every K up to ``most``, once for each resample.

        Returns:
            First bills and bills of each further training (``Line``), both of shape
            ``(resamples, most)``; None for fewer than two trials.
        """
        # One resampling serves the envelope at every R and the break-even with everybody.
        key = most, resamples, seed
        if key not in self._lines:
            self._lines[key] = self._resampled_lines(*key)
        return self._lines[key]

    @cached_property
    def _lines(self) -> dict[tuple[int, int, int], tuple[Floats, Floats] | None]:
        return {}

    def _resampled_lines(self, most: int, resamples: int,
                         seed: int) -> tuple[Floats, Floats] | None:
        drawn = resampled(len(self.cost), resamples, seed)
        if drawn is None:
            return None
        cost: Floats = np.asarray(self.cost, dtype=np.float64)
        drawn = np.take_along_axis(drawn, np.argsort(cost[drawn], axis=1, kind="stable"), axis=1)
        hit = np.isfinite(cost)[drawn]
        again = self._drawn_reruns(drawn, np.random.default_rng(seed + 1))
        mean = np.asarray(self.spent, dtype=np.float64)[drawn].mean(axis=1)
        weights = np.array([best_weights(len(cost), draws) for draws in range(1, most + 1)])
        # P(at least one hit) of K draws: that the best of them is among the first m of n.
        chances = np.concatenate([np.zeros((most, 1)), weights.cumsum(axis=1)], axis=1)
        chance = chances.T[hit.sum(axis=1)]
        # Misses come last, and are not trained again.
        products = expected_best(np.where(hit, again, 0.0), most)
        with np.errstate(divide="ignore", invalid="ignore"):
            firsts = np.where(chance > 0, np.outer(mean, np.arange(1, most + 1)) / chance, np.inf)
            further = np.where(chance > 0, products / chance, np.inf)
        return firsts, further

    def _drawn_reruns(self, drawn: Indices, generator: np.random.Generator) -> Floats:
        """ERT of freshly drawn reruns for each trial in each resample, shape of ``drawn``."""
        # A single rerun is drawn whatever the generator says, and nearly all trials have but one.
        single = np.array([again[0][0] if len(again) == 1 and math.isfinite(again[0][1])
                           else np.inf for again in self.reruns])
        found: Floats = single[drawn]
        for trial, again in enumerate(self.reruns):
            if len(again) < 2:
                continue
            mask = drawn == trial
            if not mask.any():
                continue
            bills = np.array([bill for bill, _ in again], dtype=np.float64)
            hit = np.array([math.isfinite(target) for _, target in again])
            seeds = generator.integers(0, len(again), size=(int(mask.sum()), len(again)))
            hits = hit[seeds].sum(axis=1)
            values = np.full(len(seeds), np.inf)
            np.divide(bills[seeds].sum(axis=1), hits, out=values, where=hits > 0)
            found[mask] = values
        return found


def amortised_interval(tuning: Tuning, draws: int, trainings: int, *, confidence: float = 0.95,
                       resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """Interval of C(K, R); None for fewer than two trials.

    Raises:
        ValueError: K or R is out of its range.
    """
    if not 1 <= draws <= max(1, len(tuning.cost)):
        raise ValueError(f"draws must be in 1 … {len(tuning.cost)}, got {draws}")
    found = tuning.lines(draws, resamples, seed)
    return None if found is None else percentiles(
        _at(found[0][:, -1], found[1][:, -1], trainings), confidence)


def envelope_interval(tuning: Tuning, trainings: int, *, confidence: float = 0.95,
                      resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """Interval of the least C(K, R) over K ≤ n/2; K is chosen anew in each resample."""
    found = tuning.lines(max(1, len(tuning.cost) // 2), resamples, seed)
    return None if found is None else percentiles(
        _at(*found, trainings).min(axis=1), confidence)


def break_even_interval(mine: Tuning, theirs: Tuning | tuple[Sequence[float], Sequence[float]],
                        *, confidence: float = 0.95, resamples: int = RESAMPLES,
                        seed: int = SEED) -> Interval | None:
    """Interval of R*, from which number of trainings on tuning pays; infinite for never.

    Args:
        mine: The optimizer that is tuned.
        theirs: The other one: tuned too, or ``(spent, cost)`` of trainings without tuning,
            whose bill is ``R · ERT``.
        confidence: Nominal coverage.
        resamples: Number of resamples; those of the two are independent.
        seed: Seed of the generator.

    Returns:
        Limits of R*, or None where either has fewer than two trials.
    """
    ours = mine.lines(max(1, len(mine.cost) // 2), resamples, seed)
    if ours is None:
        return None
    if not isinstance(theirs, Tuning):
        check_bills(*theirs)
        drawn = resampled(len(theirs[0]), resamples, seed + 2)
        return None if drawn is None else percentiles(
            break_evens(*ours, erts(*theirs, drawn)), confidence)
    other = theirs.lines(max(1, len(theirs.cost) // 2), resamples, seed + 2)
    if other is None:
        return None
    found = [break_even(_lines(*pair[:2]), _lines(*pair[2:])).trainings
             for pair in zip(*ours, *other, strict=True)]
    return percentiles(np.array(found), confidence)


def break_evens(first: Floats, again: Floats, price: Floats) -> Floats:
    """R* of many sets of lines, each against a price of every training: ``break_even`` at once.

    A line that is steeper than the price is no dearer up to some R, one that is less steep from
    some R on. So R* is the least R of the latter, or 1 where the former reach as far as that.

    Args:
        first: Bills up to the first training, shape ``(sets, lines)``; infinite for none.
        again: Bills of each further training, in the same shape.
        price: Of a training without tuning, shape ``(sets,)``.

    Returns:
        R* of each set, shape ``(sets,)``; infinite for never.
    """
    paid = np.broadcast_to(price[:, None], first.shape)

    def cheap(trainings: Floats) -> NDArray[np.bool_]:
        bill, theirs = (np.where(trainings > 1, one + (trainings - 1) * more, one)
                        for one, more in ((first, again), (paid, paid)))
        return (trainings >= 1) & np.isfinite(bill) & (bill <= theirs)

    with np.errstate(divide="ignore", invalid="ignore"):
        gain = paid - again
        crossing = np.maximum(1.0, np.floor(1 + (first - paid) / gain))
        # Neighbours too, lest rounding puts a whole crossing on the wrong side.
        near = [crossing + step for step in (-1, 0, 1, 2)]
        begins = np.min([np.where(cheap(r), r, np.inf) for r in near], axis=0)
        ends = np.max([np.where(cheap(r), r, 0.0) for r in near], axis=0)
        always = (gain == 0) & (first <= paid) & np.isfinite(first)
        begins = np.where(gain > 0, begins, np.where(always, 1.0, np.inf)).min(axis=1)
        ends = np.where(gain < 0, ends, 0.0).max(axis=1)
    found: Floats = np.where(begins - 1 <= ends, 1.0, begins)
    # Any bill is less than that of an optimizer that never reached the target.
    usable = (np.isfinite(first) & np.isfinite(again)).any(axis=1)
    return np.where(np.isfinite(price), found, np.where(usable, 1.0, np.inf))


def _lines(first: Floats, again: Floats) -> tuple[Line, ...]:
    return tuple(Line(index, *pair) for index, pair in
                 enumerate(zip(first.tolist(), again.tolist(), strict=True), 1))


def _at(first: Floats, again: Floats, trainings: int) -> Floats:
    if trainings < 1:
        raise ValueError(f"trainings must be at least 1, got {trainings}")
    return first + (trainings - 1) * again if trainings > 1 else first
