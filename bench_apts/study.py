"""Runs a study: prepares data, tunes, freezes, reports; finished trials are never run again."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import ReadWriteLock, Timeout

from bench_apts import environment, store
from bench_apts.errors import UserError
from bench_apts.launch.elastic import Launcher
from bench_apts.meters import comm
from bench_apts.runner import Runner
from bench_apts.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_apts.plan import Cell, Plan
    from bench_apts.progress import Progress
    from bench_apts.spec import Study, Suite
    from bench_apts.suites.data import Prepared

T = TypeVar("T")

_NEEDED_BYTES = 64 * 2**20
"""Free space below which a study does not start: records are small, figures a few megabytes."""

_PATIENCE_S = 0.5
"""Pause before looking again at trials that other commands are running."""


def prepare(study: Study, data_dir: Path | None, offline: bool) -> dict[str, Prepared]:
    """Finds and decodes the data of all suites.

    Returns:
        The prepared data sets by name.
    """
    from bench_apts.suites import data

    names = dict.fromkeys(suite.data.name for suite in study.suites)
    return {name: data.prepare(name, data_dir, offline) for name in names}


@contextlib.contextmanager
def opened(folder: Path, shared: bool = False) -> Iterator[None]:
    """Makes a results folder and holds it against other commands.

    Args:
        folder: The results folder.
        shared: Lets others in that share it too.

    Raises:
        UserError: It cannot be written, has too little space, or another command holds it.
    """
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        lock = ReadWriteLock(folder / ".lock.db", timeout=0, blocking=False)
        (lock.acquire_read if shared else lock.acquire_write)()
    except Timeout as error:
        raise UserError(f"another bench-apts is working in {folder}; wait for it, share the work "
                        "by giving both commands --shared, or name another folder with --out or "
                        "--study") from error
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot write to {folder}: {why}; choose another folder with --out"
                        ) from error
    try:
        free = shutil.disk_usage(folder).free
        if free < _NEEDED_BYTES:
            raise UserError(f"{folder} has {free / 2**20:.0f} MiB free, at least "
                            f"{_NEEDED_BYTES / 2**20:.0f} MiB are needed; choose another folder "
                            "with --out")
        yield
    finally:
        lock.release()


def run(plan: Plan, folder: Path, progress: Progress, shared: bool = False,
        reports: bool = True) -> None:
    """Runs every trial of a plan that has no answer yet.

    Args:
        plan: The study's trials.
        folder: The results folder; see ``opened``.
        progress: Is told what happens.
        shared: Whether other commands work on the same study; each trial is run by one of them,
            and all return when all trials have their answers.
        reports: Whether the frozen configurations are to be reported, after tuning.

    Raises:
        Interrupted: A signal asked to stop; the running trial is recorded as interrupted.
        UserError: A suite's data cannot be split, or its model not built, as it says.
    """
    study, prepared = plan.study, plan.prepared
    packages = {name for plugin in plan.plugins.values() for name in plugin.backend.requires}
    if study.pruner != "none":
        packages.add("optuna")
    comm.prepare()
    with Launcher(sorted(packages), study.device) as launcher:
        for suite in study.suites:  # while the server starts
            _try_out(suite, prepared[suite.data.name])
        card = environment.card()  # now that the launcher has set the thread variables
        store.write_json(folder / "study.json",
                         store.StudyFile(study, ["bench-apts", *sys.argv[1:]], store.now(), card))
        runner = Runner(folder, prepared, card, launcher, progress, shared)
        search = Search(plan, folder)

        def tune(task: tuple[int, Cell]) -> bool:
            number, cell = task
            leader = plan.leader(cell) if number == 0 else None
            trial, pruning = search.trial(leader or cell, number)
            if leader:
                trial, pruning = plan.following(cell, trial), None
            record = runner.run(trial, pruning)
            if record is not None and not leader:
                search.told(cell, record)
            return record is not None

        tunings = [(number, cell) for number in range(study.trials) for cell in plan.cells
                   if number < plan.tunings(cell)]
        first = [task for task in tunings if task[0] == 0]
        last = sum(map(plan.reports, plan.cells)) if reports else 0

        def further(paying: Sequence[Cell]) -> list[tuple[int, Cell]]:
            """The tuning trials after the first, which tell how many there will be."""
            found = [(number, cell) for number, cell in tunings if number and cell in paying]
            progress.study_started(len(first) + len(found) + last)
            return found

        further([cell for cell in plan.cells if not plan.leader(cell)])
        _until_all_are_done(tune, first)
        known = store.read_trials(folder)
        _until_all_are_done(
            tune, further([cell for cell in plan.cells if not plan.shared(cell, known)]))
        if reports:
            _until_all_are_done(lambda trial: runner.run(trial) is not None,
                                plan.reporting(store.read_trials(folder)))


def _until_all_are_done(run: Callable[[T], bool], tasks: Sequence[T]) -> None:
    """Runs tasks in order; those that another command is at come again when the rest is done."""
    while tasks:
        left = [task for task in tasks if not run(task)]
        if len(left) == len(tasks):
            time.sleep(_PATIENCE_S)
        tasks = left


def _try_out(suite: Suite, prepared: Prepared) -> None:
    """Does once what every rank will do, so that a mistake shows before the first trial."""
    import torch

    from bench_apts.suites import data, models

    try:
        dataset = data.load(prepared.folder)
        data.split(dataset.train_targets, suite.data.validation, suite.data.name)
        if suite.memory_format == "channels_last" and len(dataset.input_shape) != 3:
            raise UserError("key 'memory_format': channels_last is for images, and "
                            f"{suite.data.name} has none")
        with torch.device("meta"):
            models.build(suite.model.name, suite.model.options, dataset.input_shape,
                         dataset.classes)
    except UserError as error:
        raise UserError(f"suite {suite.name}: {error}") from error
