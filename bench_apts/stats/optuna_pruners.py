"""Optuna's own pruners, asked about recorded curves instead of running trainings.

What prunes is ``optuna.pruners``, set up by the same rules as while tuning, on Optuna's own
studies and frozen trials. What is ours is for speed: a storage that holds one study without locks
and copies, and that a pruner is asked only at evaluations at which it may say yes.
Tests compare the decisions with those of ``study.ask`` and ``study.tell``, asked at each
evaluation.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right, insort
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from optuna.pruners import BasePruner, HyperbandPruner
    from optuna.study import Study, StudyDirection
    from optuna.trial import FrozenTrial, TrialState

    from bench_apts.core.spec import Pruner
    from bench_apts.stats.learning_curves import Curve, Direction

Kind = Literal["median", "asha", "hyperband"]
KINDS: tuple[Kind, ...] = ("median", "asha", "hyperband")

_STARTUP = 5  # completed trials that the median rule waits for
_FACTOR = {"asha": 4, "hyperband": 3}  # of so many trials in a rung, one goes on


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

        self._frozen, self._states = optuna.trial.FrozenTrial, optuna.trial.TrialState
        self._storage = _storage()(direction)
        self._pruner = make_pruner(kind, length)
        if isinstance(self._pruner, optuna.pruners.HyperbandPruner):
            _remember(self._pruner)
        # Its name is in no storage, hence not from create_study.
        self._study = optuna.study.Study(name, self._storage, _sampler(), self._pruner)
        self._undecided: _Median | _Rungs = (
            _Median(direction) if kind == "median"
            else _Rungs(_FACTOR[kind], None if kind == "asha" else 1))

    def arrive(self, curve: Curve) -> int | None:
        """Lets a trial run until it hits, is pruned or ends.

        Pruners see evaluations by number, from 1; not the untrained model's, which says nothing
        of a configuration, nor the one that hits: the search is over.

        Returns:
            Index of the evaluation at which it is pruned, or None.
        """
        first = bisect_right(curve.steps, 0)
        values = curve.values[first:curve.hit]
        place = len(self._storage.ended)
        trial = self._frozen(
            number=place, state=self._states.RUNNING, value=None, datetime_start=None,
            datetime_complete=None, params={}, distributions={}, user_attrs={}, system_attrs={},
            intermediate_values={}, trial_id=place)
        self._storage.running = trial
        number = self._pruned(trial, values)
        if number is None:
            trial.state = self._states.COMPLETE
            trial.intermediate_values = dict(enumerate(values, 1))
            self._undecided.completed(values)
        else:
            trial.state = self._states.PRUNED
        self._storage.ended.append(trial)
        return None if number is None else first + number - 1

    def _pruned(self, trial: FrozenTrial, values: Sequence[float]) -> int | None:
        # NumPy's median of two infinities is unknown, which Optuna provides for as well.
        with (np.errstate(invalid="ignore"),
              _quiet() if values and math.isnan(values[0]) else nullcontext()):
            for number in self._undecided.numbers(values):
                trial.intermediate_values = dict(enumerate(values[:number], 1))
                if self._pruner.prune(self._study, trial):
                    return number
        return None


def count_evaluations(curves: Sequence[Curve]) -> int:
    """Returns how many evaluations the longest trial has, the untrained model's left out."""
    return max((sum(step > 0 for step in curve.steps) for curve in curves), default=0)


class _Median:
    """Where the median rule may prune: below the upper median of the completed trials.

    Args:
        direction: Of the metric.
    """

    def __init__(self, direction: Direction) -> None:
        self._sign = 1.0 if direction == "max" else -1.0
        self._trials = 0
        self._values: list[list[float]] = []

    def numbers(self, values: Sequence[float]) -> Iterator[int]:
        """Yields the evaluations of a trial, from 1, at which the pruner has to be asked."""
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
        """Remembers a trial that was not pruned."""
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
        """Yields the evaluations of a trial, from 1, at which the pruner has to be asked."""
        number = self._resource or len(values) + 1
        while number <= len(values):
            yield number
            number *= self._factor

    def completed(self, values: Sequence[float]) -> None:
        """Learns from the first trial that was not pruned how long trials are."""
        if self._resource is None and values:
            self._resource = max(1, len(values) // 100)


@contextmanager
def _quiet() -> Iterator[None]:
    """Mutes NumPy on trials of which no value is known yet, which Optuna provides for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        yield


def _remember(pruner: HyperbandPruner) -> None:
    """Lets Hyperband draw each trial's bracket, and make each bracket's study, only once."""
    draw = pruner._get_bracket_id
    drawn: dict[int, int] = {}

    def bracket(study: Study, trial: FrozenTrial) -> int:
        number = trial.number
        if number not in drawn:
            drawn[number] = draw(study, trial)
        return drawn[number]

    pruner._get_bracket_id = bracket  # type: ignore[method-assign]
    pruner._create_bracket_study = cache(pruner._create_bracket_study)  # type: ignore[method-assign]


@cache
def _sampler() -> Any:
    """Returns a sampler that nobody asks; a study would make one of its own."""
    import optuna

    return optuna.samplers.RandomSampler(seed=0)


@cache
def _storage() -> type[Any]:
    """Returns the storage's class; Optuna is imported only where something is replayed."""
    from optuna.storages import InMemoryStorage
    from optuna.study import StudyDirection

    directions = {"max": [StudyDirection.MAXIMIZE], "min": [StudyDirection.MINIMIZE]}

    class Arrived(InMemoryStorage):
        """Holds one study's trials that have ended, numbered from zero, and the running one."""

        def __init__(self, direction: Direction) -> None:
            super().__init__()
            self._directions = directions[direction]
            self.ended: list[FrozenTrial] = []
            self.running: FrozenTrial

        def get_study_id_from_name(self, study_name: str) -> int:
            return 0

        def get_study_directions(self, study_id: int) -> list[StudyDirection]:
            return self._directions

        def get_all_trials(self, study_id: int, deepcopy: bool = True,
                           states: Container[TrialState] | None = None) -> list[FrozenTrial]:
            """Returns what the running trial is compared with: the others, uncopied."""
            return [t for t in self.ended if states is None or t.state in states]

        def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
            """Notes on the running trial that it has reached a rung, with what value."""
            self.running.system_attrs[key] = value

    return Arrived

def make_pruner(pruner: Pruner, evaluations: int) -> BasePruner:
    """Return one of Optuna's pruners, at its defaults but for the length of a trial."""
    import optuna

    if pruner == "median":
        return optuna.pruners.MedianPruner()
    if pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner()
    if pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=max(1, evaluations))
    return optuna.pruners.NopPruner()
