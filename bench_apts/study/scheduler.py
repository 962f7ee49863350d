"""The stages of a study: tune, freeze, report.

Runs a study: prepares data, tunes, freezes, reports; finished trials are never run again.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import ReadWriteLock, Timeout
from msgspec import UNSET

from bench_apts.core import environment, process_limits, store
from bench_apts.core.errors import UserError
from bench_apts.core.files import require_utf8, write_json
from bench_apts.core.job import GRACE_S
from bench_apts.launch.elastic import Launcher
from bench_apts.launch.multi_node import SpreadLauncher
from bench_apts.meters import comm
from bench_apts.study import study_shards
from bench_apts.study.execution import (
    DEFAULT_EXECUTION,
    SERIAL,
    StudyJob,
    running_helpers,
    wait_for_helpers,
)
from bench_apts.study.optuna_search import Search
from bench_apts.study.preflight import preflight_suite, require_torch
from bench_apts.study.trial_runner import TrialRunner
from bench_apts.suites.suite_problem import SuiteProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench_apts.core.spec import Study, Suite, Trial
    from bench_apts.study.execution import Execution, Helper
    from bench_apts.study.node_follower import Follower
    from bench_apts.study.node_leader import Leader
    from bench_apts.study.plan import Plan, StudyCell
    from bench_apts.study.progress import StudyProgress
    from bench_apts.study.study_shards import Task
    from bench_apts.suites.data import Prepared

T = TypeVar("T")

_PATIENCE_S = 0.5
"""Pause before looking again at trials that other commands are running."""


class Stages:
    """Runs a study's trials in the order that they depend on each other.

    Args:
        plan: The study's trials.
        folder: The results folder.
        runner: Runs a trial.
        progress: Is told how many trials there will be.
        execution: Which part of the study is to be run.
    """

    def __init__(self, plan: Plan, folder: Path, runner: TrialRunner, progress: StudyProgress,
                 execution: Execution) -> None:
        self._plan, self._folder, self._runner = plan, folder, runner
        self._progress, self._shard = progress, execution.shard
        self._given_up = runner.startups.given_up
        self._search = Search(plan, folder)
        self._tunings = [
            (number, cell) for number in range(plan.study.trials) for cell in plan.cells
            if number < plan.tunings(cell)]
        self._first = [task for task in self._tunings if task[0] == 0]
        self._tuning = 0
        self._finals = self._shard.finals(plan) if execution.reports else 0

    def tune(self) -> int:
        """Runs the tuning trials of this part.

        Returns:
            How many of all parts' have no answer here.
        """
        self._further([cell for cell in self._plan.cells if not self._plan.leader(cell)])
        _run_until_done(self._tune, self._shard.tuning(self._plan, self._first))
        rest = self._further(self._paying())
        _run_until_done(self._tune, self._shard.tuning(self._plan, rest))
        if self._shard.count == 1:
            return 0
        return study_shards.count_missing(
            self._plan, [(number, cell) for number, cell in self._first + rest
                         if not self._given_up(cell.entry.label, cell.suite.name, cell.ranks)],
            store.read_trials(self._folder))

    def report(self) -> int:
        """Freezes configurations and runs the final trainings of this part.

        Returns:
            How many of all parts' have no answer here.
        """
        finals = self._plan.reporting(store.read_trials(self._folder))
        mine = self._shard.reporting(self._plan, finals)
        self._progress.study_started(self._tuning + len(mine))
        _run_until_done(self._report, mine)
        if self._shard.count == 1:
            return 0
        there = {record.header.run_id for record in store.read_trials(self._folder)
                 if study_shards.was_tried(record)}
        return sum(trial.run_id not in there and not self._given_up(
            trial.label, trial.suite.name, trial.ranks) for trial in finals)

    def _tune(self, task: Task) -> bool:
        number, cell = task
        leader = self._plan.leader(cell) if number == 0 else None
        trial, pruning = self._search.trial(leader or cell, number)
        if leader:
            trial, pruning = self._plan.following(cell, trial), None
        if self._skipped(trial):
            return True
        record = self._runner.run(trial, pruning)
        if record is not None and not leader:
            self._search.told(cell, record)
        return record is not None

    def _report(self, trial: Trial) -> bool:
        return self._skipped(trial) or self._runner.run(trial) is not None

    def _skipped(self, trial: Trial) -> bool:
        """Leaves out a trial of an optimizer that has been given up."""
        if not self._given_up(trial.label, trial.suite.name, trial.ranks):
            return False
        self._progress.trial_skipped()
        return True

    def _paying(self) -> list[StudyCell]:
        """Competitors with a search of their own, as far as the first trials have told.

        Whether one follows its leader may only be seen elsewhere, in another part.
        """
        plan, known = self._plan, store.read_trials(self._folder)
        return [
            cell
            for cell in plan.cells
            if not plan.shared(cell, known)
            and not (plan.leader(cell) and study_shards.count_missing(plan, [(0, cell)], known))
        ]

    def _further(self, paying: Sequence[StudyCell]) -> list[Task]:
        """The tuning trials after the first, which tell how many there will be."""
        found = [(number, cell) for number, cell in self._tunings if number and cell in paying]
        self._tuning = sum(len(self._shard.tuning(self._plan, tasks))
                           for tasks in (self._first, found))
        self._progress.study_started(self._finals + self._tuning)
        return found


def _run_until_done(run: Callable[[T], bool], tasks: Sequence[T]) -> None:
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


_NEEDED_BYTES = 64 * 2**20
"""Free space below which a study does not start: records are small, figures a few megabytes."""


def prepare_data(study: Study, data_dir: Path | None, offline: bool) -> dict[str, Prepared]:
    """Finds and decodes the data of all suites.

    Returns:
        The prepared data sets by name.

    Raises:
        UserError: They cannot be had, or two of one name differ.
    """
    from bench_apts.suites import data, user_data

    chosen: dict[str, Suite] = {}
    for suite in study.suites:
        other = chosen.setdefault(suite.data.name, suite)
        if other.data.contents != suite.data.contents:
            raise UserError(f"the suites {other.name} and {suite.name} have different data of the "
                            f"name '{suite.data.name}'; rename one of the suites")
    return {name: (user_data.prepare(suite, SuiteProblem(suite, study.folder(suite)), data_dir,
                               offline=offline)
                   if suite.data.source else data.prepare(name, data_dir, offline))
            for name, suite in chosen.items()}


@contextlib.contextmanager
def open_results_folder(folder: Path, shared: bool = False) -> Iterator[None]:
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


def run_study(
    plan: Plan,
    folder: Path,
    progress: StudyProgress,
    execution: Execution = DEFAULT_EXECUTION,
    leader: Leader | None = None,
) -> str:
    """Runs every trial of a plan that has no answer yet.

    Args:
        plan: The study's trials.
        folder: The results folder; see ``opened``.
        progress: Is told what happens.
        execution: How the trials are run, and which of them.
        leader: The other nodes that share the ranks, if there are any.

    Returns:
        Empty if all that was asked for is there, else in a line what is missing, and the remedy.

    Raises:
        Interrupted: A signal asked to stop; the running trial is recorded as interrupted.
        UserError: A suite's data cannot be split, or its model not built, as it says, or torch
            or the system lacks what the ranks need.
    """
    study, prepared = plan.study, plan.prepared
    _require_resources(study, len(leader.machines) if leader else 1)
    comm.prepare()
    if execution.shared and not execution.jobs.helper:
        execution = execution.beginning(store.read_trials(folder))
    shard, jobs = execution.shard, execution.jobs
    work = StudyJob(
        study,
        {
            name: (require_utf8("decoded data", found.folder), found.sha256, found.source)
            for name, found in prepared.items()
        },
        str(folder),
        execution,
    )
    with running_helpers(work) as started, _launcher(plan, leader) as launcher:
        require_torch(study.device)
        process_limits.require_address_space(process_limits.address_space())
        for suite in study.suites:  # while the server starts
            preflight_suite(study, suite, prepared[suite.data.name])
        card = environment.environment_card()  # now that the launcher has set the thread variables
        if leader:
            card["nodes"] = leader.machines
        if not jobs.helper:
            write_json(folder / "study.json", store.StudyFile(
                study, ["bench-apts", *sys.argv[1:]], store.now(), card,
                data={name: found.sha256 for name, found in prepared.items()},
                code={label: plugin.sha256 for label, plugin in plan.plugins.items()},
                untuned=plan.untuned(),
                unpublished=[name for name, found in prepared.items()
                             if not found.published] or UNSET))
        runner = TrialRunner(folder, prepared, card, launcher, progress, execution, {
            label: environment.versions(plugin.backend.requires)
            for label, plugin in plan.plugins.items()}, study.folders or {}, study.workers or {})
        launcher.grace_s = execution.grace_s
        stages = Stages(plan, folder, runner, progress, execution)
        missing = stages.tune()
        if not jobs.timed:
            _report_failed_helpers(started, progress)
            runner.jobs = SERIAL
        if missing:
            return study_shards.describe_next_step(shard, folder, missing, 0)
        if not execution.reports:
            return ""
        missing = stages.report()
        if jobs.timed:
            _report_failed_helpers(started, progress)
        return study_shards.describe_next_step(shard, folder, 0, missing) if missing else ""


def _report_failed_helpers(started: Sequence[Helper], progress: StudyProgress) -> None:
    """Waits for helpers to end, and says which could not do their part."""
    for words in wait_for_helpers(started):
        progress.note(words)


def follow_node_0(plan: Plan, follower: Follower, told: Callable[[str], None],
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
    _require_resources(plan.study, follower.nodes)
    comm.prepare()
    return follower.serve(_packages(plan), told, grace_s)


def _require_resources(study: Study, nodes: int) -> None:
    process_limits.require_resources(
        max(1, max(study.ranks) // nodes), process_limits.openmp_threads())


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
