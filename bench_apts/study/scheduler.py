"""Runs the trials of a study: tunes, freezes, reports. Finished trials are never run again.

What is run is a :class:`~bench_apts.study.plan.Plan` in a results folder; how, an
:class:`~bench_apts.study.execution.Execution`. As a program, this module is a helper command.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from filelock import FileLock, Timeout
from rich.console import Console

from bench_apts.core import environment, store
from bench_apts.core.errors import UserError
from bench_apts.core.interrupts import Interrupted, interruptible
from bench_apts.core.job import CheckpointJob, RankJob
from bench_apts.core.records import Header
from bench_apts.launch.elastic import Launcher
from bench_apts.launch.multi_node import SpreadLauncher
from bench_apts.launch.processes import ProcessOutcome
from bench_apts.study import attempts, preflight, shared_folder
from bench_apts.study.execution import DEFAULT_EXECUTION, processors, trials_beside
from bench_apts.study.optuna_search import Search
from bench_apts.study.plan import Plan
from bench_apts.study.progress import StudyProgress, describe_trial
from bench_apts.suites.data import Prepared
from bench_apts.trial import checkpoint_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.core.job import PruningJob
    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial
    from bench_apts.study.execution import Execution, TuningTask
    from bench_apts.study.node_leader import Leader
    from bench_apts.study.plan import StudyCell
    from bench_apts.study.shared_folder import Helper

T = TypeVar("T")

_WAIT_S = 0.5
"""Pause before looking again at trials that other commands are running."""

TRIAL_MARGIN_S = 120.0
"""Seconds a trial may take beyond twice its budget, for setup and evaluations."""


def run_study(plan: Plan, folder: Path, progress: StudyProgress,
              execution: Execution = DEFAULT_EXECUTION, leader: Leader | None = None) -> str:
    """Run every trial of a plan that has no answer yet.

    Args:
        plan: The study's trials.
        folder: The results folder, which ``open_results_folder`` holds.
        progress: Shows what happens.
        execution: How the trials are run, and which of them.
        leader: The other nodes that share the ranks, if there are any.

    Returns:
        Empty if all that was asked for is there, else in a line what is missing, and the remedy.

    Raises:
        Interrupted: A signal asked to stop; the running trial is recorded as interrupted.
        UserError: A suite's data cannot be split, or its model not built, as it says, or torch
            or the system lacks what the ranks need.
    """
    preflight.require_resources(plan, len(leader.machines) if leader else 1)
    if execution.shared and not execution.helper:
        execution = execution.beginning(store.read_trials(folder))
    with (shared_folder.running_helpers(plan, folder, execution) as helpers,
          _launcher(plan, leader) as launcher):
        # While the server starts.
        preflight.preflight_study(plan, len(leader.machines) if leader else 1)
        card = environment.environment_card()  # now that the launcher has set the thread variables
        if leader:
            card["nodes"] = leader.machines
        if not execution.helper:
            shared_folder.write_study(plan, folder, card)
        launcher.grace_s, launcher.note = execution.grace_s, progress.note
        scheduler = Scheduler(plan, folder, card, launcher, progress, execution)
        missing = scheduler.tune()
        if not execution.jobs_timed:
            _report_failed_helpers(helpers, progress)
        if missing or not execution.reports:
            return missing
        missing = scheduler.report()
        if execution.jobs_timed:
            _report_failed_helpers(helpers, progress)
        return missing


def _launcher(plan: Plan, leader: Leader | None) -> Launcher:
    if leader is None:
        return Launcher(plan.packages(), plan.study.device)
    return SpreadLauncher(plan.packages(), plan.study.device, leader)


def _report_failed_helpers(helpers: Sequence[Helper], progress: StudyProgress) -> None:
    for line in shared_folder.wait_for_helpers(helpers):
        progress.note(line)


class Scheduler:
    """Runs a study's trials in the order in which they depend on each other.

    Args:
        plan: The study's trials.
        folder: The results folder.
        card: The environment card.
        launcher: Runs the ranks.
        progress: Shows what happens.
        execution: How the trials are run, and which of them.
    """

    def __init__(self, plan: Plan, folder: Path, card: dict[str, object], launcher: Launcher,
                 progress: StudyProgress, execution: Execution = DEFAULT_EXECUTION) -> None:
        self._plan, self._folder, self._card = plan, folder, card
        self._launcher, self._progress, self._execution = launcher, progress, execution
        self._startups = attempts.StartupFailures()
        self._jobs, self._tunings_planned = execution.jobs, 0
        device = plan.study.device
        self._slots = (shared_folder.ProcessorSlots(folder, device, processors(device))
                       if execution.jobs > 1 else None)
        if execution.shared:
            (folder / ".claims").mkdir(exist_ok=True)

    def tune(self) -> str:
        """Run the tuning trials of this shard.

        Returns:
            Empty, or in a line how many trials of the other shards have no answer here.
        """
        plan, shard = self._plan, self._execution.shard
        search = Search(plan, self._folder)

        def run(task: TuningTask) -> bool:
            return self._tune(search, *task)

        first = [(0, cell) for cell in plan.cells if plan.tunings(cell)]
        self._later_tunings(first, [cell for cell in plan.cells if not plan.search_owner(cell)])
        _run_until_done(run, shard.tuning(plan, first))
        later = self._later_tunings(first, self._searching())
        _run_until_done(run, shard.tuning(plan, later))
        if shard.count == 1:
            return ""
        needed = [(number, cell) for number, cell in first + later
                  if not self._startups.given_up(cell.entry.label, cell.suite.name, cell.ranks)]
        missing = attempts.count_missing(plan, needed, store.read_trials(self._folder))
        return shard.next_step(self._folder, missing, "tuning trial") if missing else ""

    def report(self) -> str:
        """Freeze configurations and run the final trainings of this shard.

        Returns:
            As ``tune`` does.
        """
        shard = self._execution.shard
        self._jobs = self._jobs if self._execution.jobs_timed else 1
        finals = self._plan.reporting(store.read_trials(self._folder))
        mine = shard.reporting(self._plan, finals)
        self._progress.study_started(self._tunings_planned + len(mine))
        _run_until_done(lambda trial: self._skip(trial) or self.run(trial) is not None, mine)
        if shard.count == 1:
            return ""
        there = {record.header.run_id for record in store.read_trials(self._folder)
                 if attempts.was_tried(record)}
        missing = sum(trial.run_id not in there and not self._startups.given_up(
            trial.label, trial.suite.name, trial.ranks) for trial in finals)
        return shard.next_step(self._folder, missing, "final training") if missing else ""

    def run(self, trial: Trial, pruning: PruningJob | None = None) -> TrialRecord | None:
        """Return the trial's record when it has ended.

        None if another command is running it, or runs others that leave it no cores or GPUs.

        Raises:
            Interrupted: A signal asked the command to stop.
            EnvironmentFailure: The environment lets no trial start.
        """
        if not self._execution.shared:
            return self._answer(trial, pruning)
        try:
            with FileLock(self._folder / ".claims" / trial.run_id).acquire(timeout=0):
                return self._answer(trial, pruning)
        except Timeout:
            return None

    def _tune(self, search: Search, number: int, cell: StudyCell) -> bool:
        """Run a tuning trial; return whether it has an answer, or needs none."""
        owner = self._plan.search_owner(cell) if number == 0 else None
        trial, pruning = search.trial(owner or cell, number)
        if owner:
            trial, pruning = self._plan.sharing_trial(cell, trial), None
        if self._skip(trial):
            return True
        record = self.run(trial, pruning)
        if record is not None and not owner:
            search.add_result(cell, record)
        return record is not None

    def _skip(self, trial: Trial) -> bool:
        """Skip a trial of an optimizer that has been given up."""
        if not self._startups.given_up(trial.label, trial.suite.name, trial.ranks):
            return False
        self._progress.trial_skipped()
        return True

    def _searching(self) -> list[StudyCell]:
        """Return the cells with a search of their own, as far as the first trials tell.

        Whether a cell shares another's search may only be seen elsewhere, in another shard.
        """
        plan, known = self._plan, store.read_trials(self._folder)
        return [cell for cell in plan.cells if not plan.shares_search(cell, known) and not (
            plan.search_owner(cell) and attempts.count_missing(plan, [(0, cell)], known))]

    def _later_tunings(self, first: Sequence[TuningTask], cells: Sequence[StudyCell]
                       ) -> list[TuningTask]:
        """Return the tuning trials of some cells after the first; show how many there will be."""
        plan, shard = self._plan, self._execution.shard
        later = [(number, cell) for number in range(1, plan.study.trials) for cell in plan.cells
                 if number < plan.tunings(cell) and cell in cells]
        self._tunings_planned = sum(len(shard.tuning(plan, tasks)) for tasks in (first, later))
        self._progress.study_started(self._tunings_planned + (
            shard.finals(plan) if self._execution.reports else 0))
        return later

    def _answer(self, trial: Trial, pruning: PruningJob | None) -> TrialRecord | None:
        """Return the record that is there, or run the trial if cores or GPUs are free."""
        path = self._folder / "trials" / f"{trial.run_id}.jsonl"
        known = store.read_trial(path) if path.exists() else None
        if known is not None and known.end is not None:
            # Whether its last attempt ended since this command began, so in another one.
            meanwhile = self._execution.shared and known.attempts > self._execution.attempts.get(
                known.header.run_id, 0)
            # What has just failed elsewhere would fail here.
            if known.finished or (meanwhile and known.end.status == "error"):
                if known.finished:  # a command that was killed may have left its checkpoints
                    checkpoint_files.sweep(self._folder / checkpoint_files.FOLDER / trial.run_id)
                self._progress.trial_kept(known, meanwhile)
                if meanwhile:
                    self._judge_startup(known)
                else:
                    self._startups.add_begun(known)
                return known
        if self._slots is None or self._jobs == 1:
            return self._start(path, trial, known, pruning)
        with self._slots.reserve(trial.ranks) as held:
            return self._start(path, trial, known, pruning, held) if held else None

    def _start(self, path: Path, trial: Trial, known: TrialRecord | None,
               pruning: PruningJob | None, held: tuple[str, ...] = ()) -> TrialRecord:
        """Run a trial on its ranks, from its header to its end; on GPUs on those ``held``."""
        study, prepared = self._plan.study, self._plan.prepared[trial.suite.data.name]
        card = self._trial_card(trial)
        checkpoints = self._folder / checkpoint_files.FOLDER / trial.run_id
        resume, notes = attempts.find_checkpoint(checkpoints, known, card)
        for note in notes:
            self._note(trial, note)
        self._launcher.ready()
        store.append(path, Header(trial.run_id, store.now(), trial, card,
                                  configuration=trial.configuration, resumed=resume))
        job = RankJob(trial, str(prepared.folder), str(path), pruning,
                      CheckpointJob(str(checkpoints), self._execution.checkpoint_every, resume),
                      folder=study.folder(trial.suite),
                      workers=(study.workers or {}).get(trial.suite.name, 0),
                      gpus=held if trial.device == "cuda" else ())
        with self._progress.trial(trial, path):
            try:
                outcome = self._launcher.run(job, 2 * trial.suite.budget.seconds + TRIAL_MARGIN_S)
            except Interrupted:
                attempts.close_record(path, ProcessOutcome("interrupted", "stopped by a signal"))
                raise
        record, end = attempts.close_record(path, outcome)
        for event in record.checkpoints:
            if event.skipped:
                self._note(trial, f"no checkpoint at {event.samples} samples: {event.skipped}")
        # An error that the ranks found when all was done would be found again.
        if record.finished or end.audit is not None:
            checkpoint_files.sweep(checkpoints)
        self._progress.trial_finished(record)
        if outcome.status == "error":
            self._launcher.ready()  # a node that is gone ends the study, even in its last trial
        self._judge_startup(record)
        return record

    def _trial_card(self, trial: Trial) -> dict[str, object]:
        """Return the environment card; a single rank runs on the first of several nodes."""
        card = self._card | {"beside": trials_beside(self._jobs, trial.device, trial.ranks)}
        if requires := self._plan.requires(trial.label):
            card["requires"] = requires
        nodes = card.get("nodes")
        if isinstance(nodes, list) and trial.ranks == 1:
            card["nodes"] = nodes[:1]
        return card

    def _judge_startup(self, record: TrialRecord) -> None:
        """Say so where the optimizer's other trials would fail as this one has."""
        if reason := self._startups.add(record):
            trial = record.trial
            self._progress.note(f"{trial.label} (last at N = {trial.ranks}) failed alike before "
                                f"its first step, or hung, so it is given up: {reason}")

    def _note(self, trial: Trial, text: str) -> None:
        self._progress.note(f"{describe_trial(trial)}: {text}")


def _run_until_done(run: Callable[[T], bool], tasks: Sequence[T]) -> None:
    """Run tasks in order; those that another command is running are looked at again soon."""
    waiting: list[T] = []
    for task in tasks:
        if run(task):
            waiting = [other for other in waiting if not run(other)]
        else:
            waiting.append(task)
    while waiting:
        left = [task for task in waiting if not run(task)]
        if len(left) == len(waiting):
            time.sleep(_WAIT_S)
        waiting = left


def main() -> int:
    """Run trials for another command: a ``HelperJob`` comes from standard input.

    Ends when standard input is closed, as it is when the other command is gone.

    Returns:
        The exit code; standard error says why it is not 0.
    """
    def end_with_parent() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        with interruptible():
            job = msgspec.json.decode(sys.stdin.readline(), type=shared_folder.HelperJob)
            threading.Thread(target=end_with_parent, daemon=True).start()
            folder = Path(job.folder)
            plan = Plan(job.study, {name: Prepared(name, Path(place), sha256, source)
                                    for name, (place, sha256, source) in job.prepared.items()})
            with (open(os.devnull, "w", encoding="utf-8") as nowhere,
                  shared_folder.open_results_folder(folder, shared=True)):
                run_study(plan, folder, StudyProgress(Console(file=nowhere)), job.execution)
    except Interrupted as error:
        return 128 + error.number
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
