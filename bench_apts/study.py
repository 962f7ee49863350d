"""Runs a study: prepares data, tunes, freezes, reports; finished trials are never run again."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from filelock import ReadWriteLock, Timeout

from bench_apts import environment, store
from bench_apts.errors import UserError
from bench_apts.launch.elastic import Launcher
from bench_apts.launch.job import GRACE_S
from bench_apts.launch.nodes.spread import SpreadLauncher
from bench_apts.meters import comm
from bench_apts.runner import Runner
from bench_apts.search import Search
from bench_apts.splitting import shards
from bench_apts.splitting.jobs import ALONE, Jobs, Work, helpers, wait
from bench_apts.splitting.shards import WHOLE, Shard, Task
from bench_apts.tryout import try_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_apts.launch.nodes.follower import Follower
    from bench_apts.launch.nodes.leader import Leader
    from bench_apts.plan import Cell, Plan
    from bench_apts.progress import Progress
    from bench_apts.spec import Study
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
        reports: bool = True, leader: Leader | None = None,
        checkpoint_every: int | None = None, grace_s: float = GRACE_S,
        shard: Shard = WHOLE, jobs: Jobs = ALONE) -> str:
    """Runs every trial of a plan that has no answer yet.

    Args:
        plan: The study's trials.
        folder: The results folder; see ``opened``.
        progress: Is told what happens.
        shared: Whether other commands work on the same study; each trial is run by one of them,
            and all return when all trials have their answers.
        reports: Whether the frozen configurations are to be reported, after tuning.
        leader: The other nodes that share the ranks, if there are any.
        checkpoint_every: Samples between two checkpoints of a trial; None for those alone that
            SIGTERM asks for.
        grace_s: How long SIGTERM leaves a trial to write one, in seconds.
        shard: The part of the study that is to be run.
        jobs: How many trials run side by side; for more than one, ``shared`` must be set.

    Returns:
        Empty if all that was asked for is there, else in a line what is missing, and the remedy.

    Raises:
        Interrupted: A signal asked to stop; the running trial is recorded as interrupted.
        UserError: A suite's data cannot be split, or its model not built, as it says.
    """
    study, prepared = plan.study, plan.prepared
    comm.prepare()
    if shared and not jobs.helper:
        jobs = msgspec.structs.replace(jobs, ended={
            record.header.run_id: record.attempts for record in store.read_trials(folder)
            if record.end})
    work = Work(study, {name: (str(found.folder), found.sha256, found.source)
                        for name, found in prepared.items()}, str(folder),
                (shard.index, shard.count), jobs, checkpoint_every, grace_s)
    with helpers(work) as started, _launcher(plan, leader) as launcher:
        for suite in study.suites:  # while the server starts
            try_out(study, suite, prepared[suite.data.name])
        card = environment.card()  # now that the launcher has set the thread variables
        if leader:
            card["nodes"] = leader.machines
        if not jobs.helper:
            store.write_json(folder / "study.json", store.StudyFile(
                study, ["bench-apts", *sys.argv[1:]], store.now(), card,
                data={name: found.sha256 for name, found in prepared.items()},
                code={label: plugin.sha256 for label, plugin in plan.plugins.items()},
                untuned=plan.untuned()))
        runner = Runner(folder, prepared, card, launcher, progress, shared, checkpoint_every,
                        jobs)
        launcher.grace_s = grace_s
        search = Search(plan, folder)

        def tune(task: Task) -> bool:
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
        last = shard.finals(plan) if reports else 0

        def further(paying: Sequence[Cell]) -> list[Task]:
            """The tuning trials after the first, which tell how many there will be."""
            found = [(number, cell) for number, cell in tunings if number and cell in paying]
            progress.study_started(
                len(shard.tuning(plan, first)) + len(shard.tuning(plan, found)) + last)
            return found

        further([cell for cell in plan.cells if not plan.leader(cell)])
        _until_all_are_done(tune, shard.tuning(plan, first))
        known = store.read_trials(folder)
        # Whether a competitor follows its leader may only be seen elsewhere, in another shard.
        rest = further([cell for cell in plan.cells if not plan.shared(cell, known)
                        and not (plan.leader(cell) and shards.missing(plan, [(0, cell)], known))])
        _until_all_are_done(tune, shard.tuning(plan, rest))
        if not jobs.timed:
            for words in wait(started):
                progress.note(words)
            runner.jobs = ALONE
        known = store.read_trials(folder)
        missing = shards.missing(plan, first + rest, known) if shard.count > 1 else 0
        if missing:
            return shards.what_next(shard, folder, missing, 0)
        if not reports:
            return ""
        finals = plan.reporting(known)
        _until_all_are_done(lambda trial: runner.run(trial) is not None,
                            shard.reporting(plan, finals))
        for words in wait(started) if jobs.timed else ():
            progress.note(words)
        if shard.count > 1:
            there = {r.header.run_id for r in store.read_trials(folder) if shards.tried(r)}
            missing = sum(trial.run_id not in there for trial in finals)
        return shards.what_next(shard, folder, 0, missing) if missing else ""


def follow(plan: Plan, follower: Follower, told: Callable[[str], None],
           grace_s: float = GRACE_S) -> int:
    """Runs this node's ranks of the trials that node 0 begins, until it has no more.

    Args:
        plan: The study's trials.
        follower: The connection to node 0.
        told: Is told of each trial in a line.
        grace_s: As in ``run``.

    Returns:
        The exit code that node 0 names.

    Raises:
        Interrupted: A signal asked to stop.
        UserError: Node 0 is gone, or ended by a mistake that the user can mend.
    """
    comm.prepare()
    return follower.serve(_packages(plan), told, grace_s)


def _launcher(plan: Plan, leader: Leader | None) -> Launcher:
    if leader is None:
        return Launcher(_packages(plan), plan.study.device)
    return SpreadLauncher(_packages(plan), plan.study.device, leader)


def _packages(plan: Plan) -> list[str]:
    """The modules that trials need and that are worth importing once."""
    packages = {name for plugin in plan.plugins.values() for name in plugin.backend.requires}
    if plan.study.pruner != "none":
        packages.add("optuna")
    return sorted(packages)


def _until_all_are_done(run: Callable[[T], bool], tasks: Sequence[T]) -> None:
    """Runs tasks in order; those that cannot run now, as others are at it, come again soon."""
    waiting: list[T] = []
    for task in tasks:
        if run(task):
            waiting = [other for other in waiting if not run(other)]
        else:
            waiting.append(task)
    while waiting:
        left = [task for task in waiting if not run(task)]
        if len(left) == len(waiting):
            time.sleep(_PATIENCE_S)
        waiting = left
