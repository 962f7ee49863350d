"""Optuna's pruners at its defaults, asked about recorded curves instead of running trainings.

The rules are written out here because a replay asks them millions of times: sorted values take a
hundredth of the time of Optuna's studies. A test compares the decisions with those of
``study.ask`` and ``study.tell``.
"""

from __future__ import annotations

import math
from binascii import crc32
from bisect import insort
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.curves import Curve, Direction

Kind = Literal["median", "asha", "hyperband"]
KINDS: tuple[Kind, ...] = ("median", "asha", "hyperband")

_STARTUP = 5  # completed trials that the median rule waits for
_ONE_OF = {"asha": 4, "hyperband": 3}  # of so many trials in a rung, one goes on


class Arrivals:
    """A study to which recorded trials arrive one after the other.

    Args:
        kind: Which pruner.
        length: How many evaluations a full trial has after its first step.
        direction: Of the metric: whether it is maximised.
        name: Name of the study, from which Hyperband draws the brackets.
    """

    def __init__(self, kind: Kind, length: int, direction: Direction, name: str) -> None:
        self._sign = 1.0 if direction == "max" else -1.0
        self._rule: _Median | _Halving = (
            _Median() if kind == "median"
            else _Halving(_ONE_OF[kind], None if kind == "asha" else _Brackets(length, name)))

    def arrive(self, curve: Curve) -> int | None:
        """Lets a trial run until it hits, is pruned or ends.

        Pruners see evaluations by number, from 1; not the untrained model's, which says nothing
        of a configuration, nor the one that hits: the search is over.

        Returns:
            Index of the evaluation at which it is pruned, or None.
        """
        seen: list[float] = []
        self._rule.begin()
        for index in range(len(curve.steps) if curve.hit is None else curve.hit):
            if curve.steps[index] <= 0:
                continue
            seen.append(self._sign * curve.values[index])
            if self._rule.hopeless(len(seen), seen[-1]):
                return index
        self._rule.completed(seen)
        return None


def evaluations(curves: Sequence[Curve]) -> int:
    """Returns how many evaluations the longest trial has, the untrained model's left out."""
    return max((sum(step > 0 for step in curve.steps) for curve in curves), default=0)


class _Median:
    """Prunes below the median of the completed trials at the same evaluation."""

    def __init__(self) -> None:
        self._trials = 0
        self._values: list[list[float]] = []
        self._best = math.nan

    def begin(self) -> None:
        """Forgets the trial before."""
        self._best = math.nan

    def hopeless(self, number: int, value: float) -> bool:
        """Says whether the trial goes no further than evaluation ``number``, from 1."""
        # A comparison with NaN is false, which leaves the first known value as the best.
        if math.isnan(self._best) or value > self._best:
            self._best = value
        if self._trials < _STARTUP:
            return False
        if math.isnan(self._best):
            return True
        others = self._values[number - 1] if number <= len(self._values) else []
        if not others:
            return False
        upper, lower = others[len(others) // 2], others[(len(others) - 1) // 2]
        return self._best < upper - (upper - lower) / 2

    def completed(self, values: Sequence[float]) -> None:
        """Remembers a trial that was not pruned."""
        self._trials += 1
        self._values += [[] for _ in range(len(values) - len(self._values))]
        for others, value in zip(self._values, values, strict=False):
            if not math.isnan(value):
                insort(others, value)


class _Halving:
    """Asynchronous successive halving; in Hyperband, within each bracket.

    Args:
        factor: Of so many trials in a rung, one goes on.
        brackets: Of Hyperband, else None.
    """

    def __init__(self, factor: int, brackets: _Brackets | None) -> None:
        self._factor, self._brackets = factor, brackets
        # Evaluations before the first rung; ASHA guesses them from the first trial that ends.
        self._resource: int | None = 1 if brackets else None
        self._rungs: dict[tuple[int, int], list[float]] = {}
        self._arrived = self._bracket = self._rung = 0

    def begin(self) -> None:
        """Starts a trial, in a bracket of its own."""
        self._bracket = self._brackets.of(self._arrived) if self._brackets else 0
        self._arrived += 1
        self._rung = 0

    def hopeless(self, number: int, value: float) -> bool:
        """Says whether the trial goes no further than evaluation ``number``, from 1."""
        if (self._resource is None
                or number < self._resource * self._factor ** (self._bracket + self._rung)):
            return False
        if math.isnan(value):
            return True
        rivals = self._rungs.setdefault((self._bracket, self._rung), [])
        insort(rivals, value)
        self._rung += 1
        return value < rivals[-max(1, len(rivals) // self._factor)]

    def completed(self, values: Sequence[float]) -> None:
        """Learns from the first trial that was not pruned how long trials are."""
        if self._resource is None and values:
            self._resource = max(1, len(values) // 100)


class _Brackets:
    """Which of Hyperband's brackets each trial of a study is in.

    Args:
        length: How many evaluations a full trial has.
        name: Name of the study.
    """

    def __init__(self, length: int, name: str) -> None:
        factor = _ONE_OF["hyperband"]
        count = math.floor(math.log(max(1, length), factor)) + 1
        self._shares = [math.ceil(count * factor**left / (left + 1))
                        for left in reversed(range(count))]
        self._total, self._name = sum(self._shares), name

    def of(self, number: int) -> int:
        """Returns the bracket of a trial by its number, from 0."""
        place = crc32(f"{self._name}_{number}".encode()) % self._total
        for bracket, share in enumerate(self._shares):
            place -= share
            if place < 0:
                return bracket
        raise AssertionError("shares sum to the total")
