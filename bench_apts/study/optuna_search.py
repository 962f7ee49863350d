"""The search for hyperparameters by Optuna, whose storage lies in the study's folder.

What was asked keeps its number and its values, so a killed search goes on where it stood, several
commands may share one, and storages of several folders can be joined.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from filelock import FileLock

from bench_apts.core import job
from bench_apts.core.errors import UserError
from bench_apts.core.job import PruningJob
from bench_apts.stats.trial_costs import best_metric, hit_bracket
from bench_apts.study import search_space
from bench_apts.trial import pruning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial
    from bench_apts.study.plan import Plan, StudyCell

STORAGE = "optuna.journal"
"""Name of the storage in the study's folder; optuna-dashboard can show it."""


class Search:
    """The configurations of a plan's tuning trials, in a results folder."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._path = plan, folder / STORAGE
        self._storage = pruning.storage(self._path)
        self._lock = FileLock(folder / f".{STORAGE}.lock")

    def trial(self, cell: StudyCell, number: int) -> tuple[Trial, PruningJob | None]:
        """Return a cell's tuning trial of a number below ``Plan.tunings``, and its pruning."""
        plan = self._plan
        # Between asking for two trials no other command may ask. A line that was torn is found
        # once another follows it.
        with self._lock, pruning.understood(self._path):
            study = self._study(cell, number)
            for k in range(len(study.get_trials(deepcopy=False)), number + 1):
                if not plan.adaptive(cell):
                    study.enqueue_trial(plan.asked(cell, k))
                study.ask(plan.distributions(cell))
            params = study.get_trials(deepcopy=False)[number].params
        given_up = None if plan.study.pruner == "none" else PruningJob(
            str(self._path), study.study_name, number, plan.study.pruner,
            plan.evaluations(cell))
        return plan.tuned_trial(cell, number, params), given_up

    def add_result(self, cell: StudyCell, record: TrialRecord) -> None:
        """Tell Optuna how a trial ended; trials that will be re-run are skipped."""
        import optuna

        if record.end is None or not record.finished:
            return
        states, score = optuna.trial.TrialState, search_score(record)
        if record.end.status == "pruned":  # what it reported stands in the storage
            state, value = states.PRUNED, None
        elif math.isfinite(score):
            state, value = states.COMPLETE, score
        else:
            state, value = states.FAIL, None
        with self._lock, pruning.understood(self._path):
            self._study(cell, 0).tell(
                record.trial.repetition, value, state=state, skip_if_finished=True)

    def _study(self, cell: StudyCell, number: int) -> optuna.Study:
        plan, name = self._plan, self._plan.search(cell)
        seed = job.derive_seed(plan.study.base_seed, f"sampler-{name}", cell.suite.name, number)
        return pruning.study(self._storage, name, plan.study.pruner, plan.evaluations(cell),
                             search_space.sampler_of(plan.study.sampler, seed))


def search_score(record: TrialRecord) -> float:
    """Return what a search maximises: a hit with samples to spare, else the best metric.

    Hits lie above all misses of an accuracy or a (negative) loss: 1 to 2, the less they took the
    more. −inf without a number to compare.
    """
    found = hit_bracket(record)
    if found is None:
        return best_metric(record)
    return 2.0 - record.evals[found[1]].samples / record.trial.suite.budget.samples


def merge_storages(out: Path, journals: Sequence[Path]) -> None:
    """Write a storage ``out`` with every search of others; nothing if none of them exists.

    Searches of the same name are one: what several asked under a number must be the same, and
    an answer counts more than none.

    Raises:
        UserError: Two searches of one name went different ways, or a storage is broken.
    """
    found: dict[str, list[tuple[Path, list[FrozenTrial]]]] = {}
    for journal in journals:
        if journal.exists():
            for name, trials in _read_searches(journal).items():
                found.setdefault(name, []).append((journal, trials))
    if not found:
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = pruning.storage(out)
    for name, searches in found.items():
        joined = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        joined.add_trials(_join_searches(name, searches))


def _read_searches(journal: Path) -> dict[str, list[FrozenTrial]]:
    """Return the trials of each search of a storage, by the search's name."""
    try:
        storage = pruning.storage(journal)
        return {study.study_name: storage.get_all_trials(study._study_id, deepcopy=False)
                for study in storage.get_all_studies()}
    except pruning.UNREADABLE as error:
        raise UserError(f"{journal} is broken ({error}); move it away: finished trials are added "
                        "to a new one") from error


def _join_searches(
    name: str, searches: Sequence[tuple[Path, list[FrozenTrial]]]
) -> list[FrozenTrial]:
    """Return the trials of one search by number, preferring those with an answer."""
    joined: list[tuple[Path, FrozenTrial]] = []
    for journal, trials in searches:
        joined += [(journal, trial) for trial in trials[len(joined):]]
        for number, trial in enumerate(trials):
            where, known = joined[number]
            if known.params != trial.params:
                raise UserError(
                    f"the search '{name}' went two ways: trial {number} is {known.params} in "
                    f"{where} and {trial.params} in {journal}; merge one of the two alone")
            if trial.state.is_finished() and not known.state.is_finished():
                joined[number] = journal, trial
    return [trial for _, trial in joined]
