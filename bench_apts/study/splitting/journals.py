"""Joins the storages of searches, so that a search goes on from the trials of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError
from bench_apts.trial import pruning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from optuna.trial import FrozenTrial


def merge(out: Path, journals: Sequence[Path]) -> None:
    """Writes a storage with every search of others; nothing if none of them exists.

    Searches of the same name are one: what several asked under a number must be the same, and
    an answer counts more than none.

    Args:
        out: The new storage, which does not exist.
        journals: Storages; those that do not exist are passed over.

    Raises:
        UserError: Two searches of one name went different ways, or a storage is broken.
    """
    found: dict[str, list[tuple[Path, list[FrozenTrial]]]] = {}
    for journal in journals:
        if journal.exists():
            for name, trials in _read(journal).items():
                found.setdefault(name, []).append((journal, trials))
    if not found:
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = pruning.storage(out)
    for name, searches in found.items():
        joined = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        joined.add_trials(_joined(name, searches))


def _read(journal: Path) -> dict[str, list[FrozenTrial]]:
    """Returns the trials of each search of a storage, by the search's name."""
    try:
        storage = pruning.storage(journal)
        return {study.study_name: storage.get_all_trials(study._study_id, deepcopy=False)
                for study in storage.get_all_studies()}
    except pruning.UNREADABLE as error:
        raise UserError(f"{journal} is broken ({error}); move it away: finished trials are told "
                        "to a new one") from error


def _joined(name: str, searches: Sequence[tuple[Path, list[FrozenTrial]]]) -> list[FrozenTrial]:
    """Returns the trials of one search by number, those that were told before those that not."""
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
