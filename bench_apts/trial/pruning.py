"""Giving up hopeless tuning trials early, by one of Optuna's pruners and its shared storage."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError
from bench_apts.core.files import require_regular_file
from bench_apts.stats.optuna_pruners import make_pruner

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna
    from optuna.storages import JournalStorage

    from bench_apts.core.job import PruningJob
    from bench_apts.core.spec import Pruner

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""What Optuna raises at a file that it cannot understand."""


class TrialPruner:
    """Follows one trial on the rank that decides.

    Args:
        pruning: Which trial of which search, and by which rule.
    """

    def __init__(self, pruning: PruningJob) -> None:
        import optuna

        search = study(storage(Path(pruning.storage)), pruning.study, pruning.pruner,
                       pruning.evaluations)
        known = search.get_trials(deepcopy=False)[pruning.number]
        self._trial = optuna.trial.Trial(search, known._trial_id)

    def hopeless(self, evaluation: int, value: float) -> bool:
        """Report an evaluation and say whether the trial should be given up.

        Args:
            evaluation: Its number, from 1.
            value: The metric, signed so that more is better; NaN where there is none.
        """
        self._trial.report(value, evaluation)
        return self._trial.should_prune()


def storage(path: Path) -> JournalStorage:
    """Open or create a storage; what other processes add to its file is read when it is asked.

    Raises:
        UserError: The file is not a storage, or a full disk has torn a line of it.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if path.exists():
        require_regular_file(path, "move it away")
    with understood(path, UNREADABLE):
        return JournalStorage(JournalFileBackend(str(path)))


@contextlib.contextmanager
def understood(
    path: Path, errors: tuple[type[Exception], ...] = (json.JSONDecodeError, AssertionError)
) -> Iterator[None]:
    """Turn what Optuna raises at a broken storage in this block into one clear line.

    Raises:
        UserError: One of the ``errors`` was raised.
    """
    try:
        yield
    except errors as error:
        raise UserError(f"{path} is broken ({type(error).__name__}: {error}); move it away: "
                        "finished trials go into a new one") from error


def study(
    storage: JournalStorage, name: str, pruner: Pruner, evaluations: int,
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """Open or create a search in a storage.

    Args:
        storage: The storage.
        name: The search's name in it.
        pruner: Name of the rule.
        evaluations: How many a full trial has.
        sampler: Draws new trials.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True,
        sampler=sampler, pruner=make_pruner(pruner, evaluations))
