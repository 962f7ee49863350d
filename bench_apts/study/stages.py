"""The stages of a study: tune, freeze, report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from bench_apts.core import store
from bench_apts.study.search import Search
from bench_apts.study.splitting import shards

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench_apts.core.spec import Trial
    from bench_apts.study.execution import Execution
    from bench_apts.study.plan import Cell, Plan
    from bench_apts.study.progress import Progress
    from bench_apts.study.runner import Runner
    from bench_apts.study.splitting.shards import Task

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

    def __init__(self, plan: Plan, folder: Path, runner: Runner, progress: Progress,
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
        _until_all_are_done(self._tune, self._shard.tuning(self._plan, self._first))
        rest = self._further(self._paying())
        _until_all_are_done(self._tune, self._shard.tuning(self._plan, rest))
        if self._shard.count == 1:
            return 0
        return shards.missing(
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
        _until_all_are_done(self._report, mine)
        if self._shard.count == 1:
            return 0
        there = {record.header.run_id for record in store.read_trials(self._folder)
                 if shards.tried(record)}
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

    def _paying(self) -> list[Cell]:
        """Competitors with a search of their own, as far as the first trials have told.

        Whether one follows its leader may only be seen elsewhere, in another part.
        """
        plan, known = self._plan, store.read_trials(self._folder)
        return [cell for cell in plan.cells if not plan.shared(cell, known)
                and not (plan.leader(cell) and shards.missing(plan, [(0, cell)], known))]

    def _further(self, paying: Sequence[Cell]) -> list[Task]:
        """The tuning trials after the first, which tell how many there will be."""
        found = [(number, cell) for number, cell in self._tunings if number and cell in paying]
        self._tuning = sum(len(self._shard.tuning(self._plan, tasks))
                           for tasks in (self._first, found))
        self._progress.study_started(self._finals + self._tuning)
        return found


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
