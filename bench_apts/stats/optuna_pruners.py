"""Optuna's pruners: built to follow a search, and their decisions on recorded curves.

A replay has thousands of arrival orders, for which Optuna's studies would take minutes. It applies
the same rules directly; tests compare each decision with that of an Optuna study, whatever the
curves are.
"""

from __future__ import annotations

import binascii
import math
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.pruners import BasePruner

    from bench_apts.core.spec import Pruner
    from bench_apts.stats.learning_curves import Curve, Direction

Kind = Literal["median", "asha", "hyperband"]
KINDS: tuple[Kind, ...] = ("median", "asha", "hyperband")

# Optuna's defaults.
_STARTUP = 5  # trials that complete before the median rule judges
_ASHA_FACTOR, _HYPERBAND_FACTOR = 4, 3  # how much further each rung is than the one before
_ASHA_SHARE = 100  # of the first trial that completes comes ASHA's first rung


def make_pruner(pruner: Pruner, evaluations: int) -> BasePruner:
    """Return one of Optuna's pruners, at its defaults except for the length of a trial."""
    import optuna

    if pruner == "median":
        return optuna.pruners.MedianPruner()
    if pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner()
    if pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=max(1, evaluations))
    return optuna.pruners.NopPruner()


def count_evaluations(curves: Sequence[Curve]) -> int:
    """Return how many evaluations the longest trial has, the untrained model's left out."""
    return max((len(curve.steps) - bisect_right(curve.steps, 0) for curve in curves), default=0)


class Arrivals:
    """A search to which recorded trials arrive one after the other.

    Args:
        kind: Which pruner.
        length: How many evaluations a full trial has after its first step.
        direction: Of the metric: whether it is maximised.
        name: Name of the study, from which Hyperband draws the brackets.
    """

    def __init__(self, kind: Kind, length: int, direction: Direction, name: str) -> None:
        self._rule: _Rule
        if kind == "median":
            self._rule = _Median(direction == "max")
        elif kind == "asha":
            self._rule = _Halving(_ASHA_FACTOR, None, direction == "max")
        else:
            self._rule = _Hyperband(max(1, length), direction == "max", name)

    def arrive(self, curve: Curve) -> int | None:
        """Let a trial run until it hits, is pruned or ends.

        Pruners see evaluations by number, from 1; not the untrained model's, which says nothing
        of a configuration, nor the one that hits: the search is over.

        Returns:
            Index of the evaluation at which it is pruned, or None.
        """
        first = bisect_right(curve.steps, 0)
        stopped = self._rule.follow(curve.values[first:curve.hit])
        return None if stopped is None else first + stopped


class _Rule(Protocol):
    """When the trials of a search are stopped."""

    def follow(self, values: Sequence[float]) -> int | None:
        """Report the next trial's evaluations; return the index of the one that stops it."""


class _Median:
    """Stop a trial whose best value is worse than the median of completed ones at that step.

    Golovin et al. (2017), "Google Vizier", section 3.2.2, as Optuna's ``MedianPruner`` does it.
    """

    def __init__(self, maximised: bool) -> None:
        self._maximised = maximised
        self._completed: list[Sequence[float]] = []
        self._medians: dict[int, float] = {}  # of the completed, by evaluation

    def follow(self, values: Sequence[float]) -> int | None:
        if len(self._completed) >= _STARTUP:
            maximised, isnan = self._maximised, math.isnan
            best: float | None = None
            for index, value in enumerate(values):
                if not isnan(value):
                    if best is None or (value > best if maximised else value < best):
                        best = value
                elif best is None:
                    return index
                middle = self._median(index)
                if best < middle if maximised else best > middle:
                    return index
        self._completed.append(values)
        self._medians.clear()
        return None

    def _median(self, index: int) -> float:
        # When it is asked for: most searches hit before any trial is judged.
        if index not in self._medians:
            self._medians[index] = _median(sorted(
                values[index] for values in self._completed
                if index < len(values) and not math.isnan(values[index])))
        return self._medians[index]


class _Halving:
    """Stop a trial that is not among the best of those that came as far, at each rung.

    Asynchronous successive halving (Li et al., 2020, algorithm 2), as Optuna's
    ``SuccessiveHalvingPruner`` does it: a trial goes on if it is among the best 1/η there.

    Args:
        factor: η, how much further each rung is than the one before.
        first: Evaluation of the first rung, from 1; None to take a hundredth of the first trial
            that completes, before which none is stopped.
        maximised: Whether more is better.
    """

    def __init__(self, factor: int, first: int | None, maximised: bool) -> None:
        self._factor, self._first = factor, first
        self._sign = 1.0 if maximised else -1.0
        self._rungs: dict[int, list[float]] = {}  # values there, ascending

    def follow(self, values: Sequence[float]) -> int | None:
        if self._first is None:
            if values:
                self._first = max(1, len(values) // _ASHA_SHARE)
            return None
        rung = self._first
        while rung <= len(values):
            value = self._sign * values[rung - 1]
            if math.isnan(value):
                return rung - 1
            there = self._rungs.setdefault(rung, [])
            insort(there, value)
            if value < there[-max(1, len(there) // self._factor)]:
                return rung - 1
            rung *= self._factor
        return None


class _Hyperband:
    """Divide trials among brackets of successive halving whose first rungs are ever later.

    Li et al. (2018), "Hyperband", as Optuna's ``HyperbandPruner`` does it: a bracket is drawn by
    a hash of the study's name and the trial's number.
    """

    def __init__(self, length: int, maximised: bool, name: str) -> None:
        count = math.floor(math.log(length, _HYPERBAND_FACTOR)) + 1
        self._brackets = [_Halving(_HYPERBAND_FACTOR, _HYPERBAND_FACTOR**bracket, maximised)
                          for bracket in range(count)]
        self._shares = [math.ceil(count * _HYPERBAND_FACTOR**left / (left + 1))
                        for left in reversed(range(count))]
        self._name, self._arrived = name, 0

    def follow(self, values: Sequence[float]) -> int | None:
        drawn = binascii.crc32(f"{self._name}_{self._arrived}".encode()) % sum(self._shares)
        self._arrived += 1
        bracket = 0
        while drawn >= self._shares[bracket]:
            drawn -= self._shares[bracket]
            bracket += 1
        return self._brackets[bracket].follow(values)


def _median(values: Sequence[float]) -> float:
    """Return the median of ascending values as NumPy interpolates it; NaN of none."""
    if not values:
        return math.nan
    if math.isinf(values[0]) or math.isinf(values[-1]):
        with np.errstate(invalid="ignore"):
            return float(np.percentile(values, 50))
    low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
    return high - (high - low) * 0.5
