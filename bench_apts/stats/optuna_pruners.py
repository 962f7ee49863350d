"""Optuna's own pruners, applied to recorded curves instead of running trainings.

Each arrival order is an Optuna study in memory, to which trials are reported as while tuning. A
replay has thousands of orders: to be fast, it calls successive halving only at its rungs. Tests
compare the decisions with those of a study whose pruner is called at each evaluation.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.pruners import BasePruner

    from bench_apts.core.spec import Pruner
    from bench_apts.stats.learning_curves import Curve, Direction

Kind = Literal["median", "asha", "hyperband"]
KINDS: tuple[Kind, ...] = ("median", "asha", "hyperband")

_FACTOR = {"asha": 4, "hyperband": 3}  # how much further each rung is than the one before


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
        self._factor = _FACTOR.get(kind)
        # Optuna guesses ASHA's first rung from the first trial that completes.
        self._first_rung = 1 if kind == "hyperband" else None

    def arrive(self, curve: Curve) -> int | None:
        """Let a trial run until it hits, is pruned or ends.

        Pruners see evaluations by number, from 1; not the untrained model's, which says nothing
        of a configuration, nor the one that hits: the search is over.

        Returns:
            Index of the evaluation at which it is pruned, or None.
        """
        first = bisect_right(curve.steps, 0)
        values = curve.values[first:curve.hit]
        candidates = self._candidates(len(values))
        trial = self._study.ask()
        # Optuna provides for values that are unknown or infinite, of which NumPy warns.
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            for number, value in enumerate(values, 1):
                trial.report(value, number)
                if number in candidates and trial.should_prune():
                    self._study.tell(trial, state=self._states.PRUNED)
                    return first + number - 1
        if self._first_rung is None and values:
            self._first_rung = max(1, len(values) // 100)
        self._study.tell(trial, 0.0)  # pruners read what was reported, not this value
        return None

    def _candidates(self, evaluations: int) -> Sequence[int]:
        """Return the evaluations of a trial, from 1, at which it may be pruned."""
        if self._factor is None:
            return range(1, evaluations + 1)
        found, rung = [], self._first_rung or evaluations + 1
        while rung <= evaluations:
            found.append(rung)
            rung *= self._factor
        return found
