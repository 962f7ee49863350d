"""Optuna's own pruners, asked about recorded curves instead of running trainings.

Each arrival order is an Optuna study in memory, to which trials are reported as while tuning. A
replay has thousands of orders: to be fast, it asks a pruner only at evaluations at which that may
say yes. Tests compare the decisions with those of a study that is asked at each.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optuna.pruners import BasePruner

    from bench_apts.core.spec import Pruner
    from bench_apts.stats.learning_curves import Curve, Direction

Kind = Literal["median", "asha", "hyperband"]
KINDS: tuple[Kind, ...] = ("median", "asha", "hyperband")

_STARTUP = 5  # completed trials that the median rule waits for
_FACTOR = {"asha": 4, "hyperband": 3}  # of so many trials in a rung, one goes on


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
    return max((sum(step > 0 for step in curve.steps) for curve in curves), default=0)


class Arrivals:
    """A study to which recorded trials arrive one after the other.

    Args:
        kind: Which pruner.
        length: How many evaluations a full trial has after its first step.
        direction: Of the metric: whether it is maximised.
        name: Name of the study, from which Hyperband draws the brackets.
    """

    def __init__(self, kind: Kind, length: int, direction: Direction, name: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._states = optuna.trial.TrialState
        self._study = optuna.create_study(
            study_name=name, pruner=make_pruner(kind, length),
            direction="maximize" if direction == "max" else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0))
        self._undecided: _Median | _Rungs = (
            _Median(direction) if kind == "median"
            else _Rungs(_FACTOR[kind], None if kind == "asha" else 1))

    def arrive(self, curve: Curve) -> int | None:
        """Let a trial run until it hits, is pruned or ends.

        Pruners see evaluations by number, from 1; not the untrained model's, which says nothing
        of a configuration, nor the one that hits: the search is over.

        Returns:
            Index of the evaluation at which it is pruned, or None.
        """
        first = bisect_right(curve.steps, 0)
        values = curve.values[first:curve.hit]
        asked = set(self._undecided.numbers(values))
        trial = self._study.ask()
        # Optuna provides for values that are unknown or infinite, of which NumPy warns.
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            for number, value in enumerate(values, 1):
                trial.report(value, number)
                if number in asked and trial.should_prune():
                    self._study.tell(trial, state=self._states.PRUNED)
                    return first + number - 1
        self._undecided.completed(values)
        self._study.tell(trial, 0.0)  # pruners read what was reported, not this value
        return None


class _Median:
    """Where the median rule may prune: below the upper median of the completed trials."""

    def __init__(self, direction: Direction) -> None:
        self._sign = 1.0 if direction == "max" else -1.0
        self._trials = 0
        self._values: list[list[float]] = []

    def numbers(self, values: Sequence[float]) -> Iterator[int]:
        """Yield the evaluations of a trial, from 1, at which the pruner has to be asked."""
        if self._trials < _STARTUP:
            return
        best = math.nan
        for index, value in enumerate(values):
            # A comparison with NaN is false, which leaves the first known value as the best.
            if math.isnan(best) or self._sign * value > best:
                best = self._sign * value
            others = self._values[index] if index < len(self._values) else []
            if math.isnan(best) or (others and best < others[len(others) // 2]):
                yield index + 1

    def completed(self, values: Sequence[float]) -> None:
        """Remember a trial that was not pruned."""
        self._trials += 1
        self._values += [[] for _ in range(len(values) - len(self._values))]
        for others, value in zip(self._values, values, strict=False):
            if not math.isnan(value):
                insort(others, self._sign * value)


class _Rungs:
    """Where successive halving may prune: at rungs, be they of one bracket or of several.

    Args:
        factor: How much further each rung is than the one before.
        resource: Evaluations before the first rung; None if Optuna guesses them from the first
            trial that completes, before which it prunes nothing.
    """

    def __init__(self, factor: int, resource: int | None) -> None:
        self._factor, self._resource = factor, resource

    def numbers(self, values: Sequence[float]) -> Iterator[int]:
        """Yield the evaluations of a trial, from 1, at which the pruner has to be asked."""
        number = self._resource or len(values) + 1
        while number <= len(values):
            yield number
            number *= self._factor

    def completed(self, values: Sequence[float]) -> None:
        """Learn from the first trial that was not pruned how long trials are."""
        if self._resource is None and values:
            self._resource = max(1, len(values) // 100)
