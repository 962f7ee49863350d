"""Trials that stop at a known step, run by the real runner on real ranks."""

import checkpoint_ranks
import msgspec
from harness_ranks import run_ranks
from rich.console import Console

from bench_apts.core import environment, store
from bench_apts.core.interrupts import Interrupted
from bench_apts.core.spec import Entry, Study
from bench_apts.launch.processes import ProcessOutcome
from bench_apts.study.execution import Execution
from bench_apts.study.plan import Plan
from bench_apts.study.progress import StudyProgress
from bench_apts.study.scheduler import Scheduler


class Ranks:
    """A launcher whose ranks stop, or fail, by themselves after ``steps``."""

    def __init__(self, steps=None, fail=False):
        self.steps, self.fail, self.job = steps, fail, None

    def ready(self):
        """Nothing is to be waited for."""

    def run(self, job, limit_s):
        self.job = job
        try:
            statuses = run_ranks(checkpoint_ranks.train, job.trial.ranks, msgspec.json.encode(job),
                             self.steps, self.fail, patience_s=limit_s)
        except AssertionError as error:
            return ProcessOutcome("error", str(error))
        assert len(set(statuses)) == 1
        if statuses[0] == "interrupted":
            raise Interrupted(15)
        return ProcessOutcome(statuses[0])


class Nobody(Ranks):
    """A launcher that only takes down what it was to run."""

    def run(self, job, limit_s):
        self.job = job
        return ProcessOutcome("error", "nobody ran it")


class Folder:
    """A results folder and the runs in it."""

    def __init__(self, path, prepared):
        self.path, self.prepared, self.card = path, prepared, environment.environment_card()
        self.notes = path / "notes"

    def run(self, trial, launcher=None, every=None):
        """Runs a trial; returns its record, also of one that was stopped."""
        (self.path / "trials").mkdir(parents=True, exist_ok=True)
        with self.notes.open("a") as notes:
            scheduler = Scheduler(
                self.plan(trial), self.path, self.card, launcher or Ranks(),
                StudyProgress(Console(file=notes, soft_wrap=True)),
                Execution(checkpoint_every=every))
            try:
                return scheduler.run(trial)
            except Interrupted:
                return self.record(trial)

    def plan(self, trial):
        """The study of this trial alone."""
        optimizer = trial.plugin if trial.plugin.endswith(".py") else trial.optimizer
        entry = Entry(trial.label, optimizer, trial.hyperparameters)
        return Plan(Study((trial.suite,), (entry,), (trial.ranks,), 0, 1, 0, "cpu"),
                    {"digits": self.prepared})

    def events(self, trial):
        """The file of a trial's events."""
        return self.path / "trials" / f"{trial.run_id}.jsonl"

    def record(self, trial):
        return store.read_trial(self.events(trial))

    def checkpoint(self, trial, samples):
        return self.path / "checkpoints" / trial.run_id / str(samples)
