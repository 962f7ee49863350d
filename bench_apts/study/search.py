"""The search for hyperparameters: Optuna asks, and its storage lies in the study's folder.

What was asked keeps its number and its values, so a killed search goes on where it stood, and
several commands may share one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from filelock import FileLock

from bench_apts.core import seeds
from bench_apts.core.job import Pruning
from bench_apts.stats.costs import hit_bracket
from bench_apts.stats.selection import best_metric
from bench_apts.study import tuning
from bench_apts.trial import pruning

if TYPE_CHECKING:
    from pathlib import Path

    import optuna

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial
    from bench_apts.study.plan import Cell, Plan

STORAGE = "optuna.journal"
"""Name of the storage in the study's folder; optuna-dashboard can show it."""


class Search:
    """Asks for the configurations of a plan's tuning trials, and tells how they fared.

    Args:
        plan: The study.
        folder: Its results folder.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._path = plan, folder / STORAGE
        self._storage = pruning.storage(self._path)
        self._lock = FileLock(folder / f".{STORAGE}.lock")

    def trial(self, cell: Cell, number: int) -> tuple[Trial, Pruning | None]:
        """Returns a tuning trial, and what may give it up early.

        Args:
            cell: Whose trial.
            number: From 0; below ``Plan.tunings``.
        """
        plan = self._plan
        # A line that was torn is found once another follows it.
        # Between asking for two trials nobody else may ask.
        with self._lock, pruning.understood(self._path):
            study = self._study(cell, number)
            for k in range(len(study.get_trials(deepcopy=False)), number + 1):
                if not plan.adaptive(cell):
                    study.enqueue_trial(plan.asked(cell, k))
                study.ask(plan.distributions(cell))
            params = study.get_trials(deepcopy=False)[number].params
        given_up = None if plan.study.pruner == "none" else Pruning(
            str(self._path), study.study_name, number, plan.study.pruner,
            plan.evaluations(cell))
        return plan.tuned_trial(cell, number, params), given_up

    def told(self, cell: Cell, record: TrialRecord) -> None:
        """Tells Optuna how a trial ended; of one that is to run again it hears nothing."""
        import optuna

        if record.end is None or not record.finished:
            return
        states = optuna.trial.TrialState
        value = score(record)
        if record.end.status == "pruned":  # what it reported stands in the storage
            state, told = states.PRUNED, None
        elif math.isfinite(value):
            state, told = states.COMPLETE, value
        else:
            state, told = states.FAIL, None
        with self._lock, pruning.understood(self._path):
            self._study(cell, 0).tell(
                record.trial.repetition, told, state=state, skip_if_finished=True)

    def _study(self, cell: Cell, number: int) -> optuna.Study:
        plan, name = self._plan, self._plan.search(cell)
        seed = seeds.derive(plan.study.base_seed, f"sampler-{name}", cell.suite.name, number)
        return pruning.study(self._storage, name, plan.study.pruner, plan.evaluations(cell),
                             tuning.sampler_of(plan.study.sampler, seed))


def score(record: TrialRecord) -> float:
    """Returns what a search maximises: a hit with samples to spare, else the best metric.

    Hits lie above all misses of an accuracy or a (negative) loss: 1 to 2, the less they took the
    more. −inf without a number to compare.
    """
    found = hit_bracket(record)
    if found is None:
        return best_metric(record)
    return 2.0 - record.evals[found[1]].samples / record.trial.suite.budget.samples
