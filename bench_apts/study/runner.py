"""Runs single trials and sees to it that each leaves a record with an end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bench_apts.core import environment, store
from bench_apts.core.job import Job, Saving
from bench_apts.core.records import End, Header, TrialRecord
from bench_apts.launch.elastic import Interrupted, Launcher
from bench_apts.launch.failures import Outcome
from bench_apts.study.execution import WHOLLY
from bench_apts.study.progress import describe
from bench_apts.study.splitting.jobs import Slots
from bench_apts.study.startups import Startups
from bench_apts.trial.checkpoints import checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench_apts.core.job import Pruning
    from bench_apts.core.spec import Trial
    from bench_apts.study.execution import Execution
    from bench_apts.study.progress import Progress
    from bench_apts.suites.data import Prepared

_GRACE_S = 120.0
"""Seconds a trial may take beyond twice its budget, for setup and evaluations."""

_DECISIVE = ("cpu", "gpus", "python", "versions", "requires", "threads")
"""Fields of the environment card on which the last bit of a result may depend."""


class Runner:
    """Runs single trials and sees to it that each leaves a record with an end.

    Args:
        folder: The study's folder.
        prepared: Data sets by name.
        card: The environment card.
        launcher: Runs the ranks.
        progress: Is told what happens.
        execution: How trials are run.
        requires: Versions of what each competitor's plug-in requires, by label and package.
        suites: Folders of suites that name Python files, by the suite's name.
        workers: Processes that read streamed data for each rank, likewise.

    Attributes:
        jobs: How many trials run side by side; may be set between trials.
        startups: Which optimizers fail before their first step.
    """

    def __init__(
        self,
        folder: Path,
        prepared: Mapping[str, Prepared],
        card: dict[str, object],
        launcher: Launcher,
        progress: Progress,
        execution: Execution = WHOLLY,
        requires: Mapping[str, Mapping[str, str]] | None = None,
        suites: Mapping[str, str] | None = None,
        workers: Mapping[str, int] | None = None,
    ) -> None:
        self._suites, self._workers = suites or {}, workers or {}
        self._requires = requires or {}
        self._folder, self._prepared, self._card = folder, prepared, card
        self._launcher, self._progress = launcher, progress
        self._shared, self._every = execution.shared, execution.checkpoint_every
        self.jobs, self._ended = execution.jobs, execution.jobs.ended
        self.startups = Startups()
        self._slots = Slots(folder, environment.cores()) if self.jobs.count > 1 else None
        if self._shared:
            (folder / ".claims").mkdir(exist_ok=True)

    def run(self, trial: Trial, pruning: Pruning | None = None) -> TrialRecord | None:
        """Returns the trial's record when it has ended.

        None if another command is at it, or at others that leave no cores for it.

        Raises:
            Interrupted: A signal asked the command to stop.
            Stopped: The environment lets no trial start.
        """
        if not self._shared:
            return self._run(trial, pruning)
        claim = FileLock(self._folder / ".claims" / trial.run_id)
        try:
            with claim.acquire(timeout=0):
                return self._run(trial, pruning)
        except Timeout:
            return None

    def _run(self, trial: Trial, pruning: Pruning | None) -> TrialRecord | None:
        path = self._folder / "trials" / f"{trial.run_id}.jsonl"
        known = store.read_trial(path) if path.exists() else None
        if known is not None:
            meanwhile = self._ended_meanwhile(known)
            # What has just failed elsewhere would fail here.
            if known.finished or (meanwhile and known.end and known.end.status == "error"):
                if known.finished:  # a command that was killed may have left its checkpoints
                    checkpoint.sweep(self._folder / checkpoint.FOLDER / trial.run_id)
                self._progress.trial_kept(known, meanwhile)
                if meanwhile:
                    self._judge(known)
                else:
                    self.startups.began(known)
                return known
        if self._slots is None or self.jobs.count == 1 or trial.device == "cuda":
            return self._begin(path, trial, known, pruning)
        with self._slots.taken(trial.ranks) as free:
            return self._begin(path, trial, known, pruning) if free else None

    def _ended_meanwhile(self, known: TrialRecord) -> bool:
        """Whether the trial's last attempt ended since this command began, so in another one."""
        return (self._shared and known.end is not None
                and known.attempts > self._ended.get(known.header.run_id, 0))

    def _begin(self, path: Path, trial: Trial, known: TrialRecord | None,
               pruning: Pruning | None) -> TrialRecord:
        saving = self._saving(trial, known)
        header = Header(
            trial.run_id, store.now(), trial, self._machine(trial),
            configuration=trial.configuration, resumed=saving.resume)
        self._launcher.ready()
        store.append(path, header)
        job = Job(trial, str(self._prepared[trial.suite.data.name].folder), str(path), pruning,
                  saving, folder=self._suites.get(trial.suite.name, ""),
                  workers=self._workers.get(trial.suite.name, 0))
        with self._progress.trial(trial, path):
            try:
                outcome = self._launcher.run(job, 2 * trial.suite.budget.seconds + _GRACE_S)
            except Interrupted:
                self._close(path, Outcome("interrupted", "stopped by a signal"))
                raise
        record = self._close(path, outcome)
        for event in record.checkpoints:
            if event.skipped:
                self._note(trial, f"no checkpoint at {event.samples} samples: {event.skipped}")
        assert record.end is not None
        # An error that the ranks found when all was done would be found again.
        if record.finished or record.end.audit is not None:
            checkpoint.sweep(Path(saving.folder))
        self._progress.trial_finished(record)
        if outcome.status == "error":
            self._launcher.ready()  # a node that is gone ends the study, even in its last trial
        self._judge(record)
        return record

    def _judge(self, record: TrialRecord) -> None:
        """Says so where the optimizer's other trials would fail as this one has."""
        if reason := self.startups.told(record):
            trial = record.trial
            self._progress.note(f"{trial.label} (last at N = {trial.ranks}) failed alike before "
                                f"its first step, or hung, so it is given up: {reason}")

    def _saving(self, trial: Trial, known: TrialRecord | None) -> Saving:
        """Finds the checkpoint that a trial can go on from, and removes all others."""
        folder = self._folder / checkpoint.FOLDER / trial.run_id
        resume = None
        for event in reversed(known.checkpoints if known else []):
            if resume is not None or not (folder / str(event.samples)).exists():
                continue  # older ones are removed as newer ones are written
            trouble = _spoilt(known) or self._moved(known) or checkpoint.problem(
                folder, event.samples, event.sha256, trial.run_id, trial.ranks)
            if trouble:
                self._note(trial, f"its checkpoint cannot be used: {trouble}")
            else:
                resume = event.samples
        if resume is not None:
            self._note(trial, f"goes on from its checkpoint at {resume} samples")
        checkpoint.sweep(folder, resume)
        return Saving(str(folder), self._every, resume)

    def _moved(self, known: TrialRecord | None) -> str | None:
        """Says why an earlier attempt would not go on alike on this machine, if it would not."""
        if known is None:
            return None
        before, here = known.header.environment, self._machine(known.trial)
        changed = [name for name in _DECISIVE if before.get(name) != here.get(name)]
        return (f"it was written with another {' and '.join(changed)} in the environment card"
                if changed else None)

    def _note(self, trial: Trial, text: str) -> None:
        self._progress.note(f"{describe(trial)}: {text}")

    def _machine(self, trial: Trial) -> dict[str, object]:
        """The environment card; a single rank runs on the first of several nodes."""
        card = self._card | {"beside": self.jobs.beside(trial.device, trial.ranks)}
        if requires := self._requires.get(trial.label):
            card["requires"] = dict(requires)
        nodes = card.get("nodes")
        if not isinstance(nodes, list) or trial.ranks > 1:
            return card
        return card | {"nodes": nodes[:1]}

    @staticmethod
    def _close(path: Path, outcome: Outcome) -> TrialRecord:
        """Adds the end that the ranks could not write themselves."""
        record = store.read_trial(path)
        assert record is not None
        if record.end is None:
            last = record.evals[-1] if record.evals else None
            record.end = End(
                outcome.status, store.now(), last.wall_s if last else 0.0,
                cpu_s=last.cpu_s if last else 0.0,
                peak_memory_bytes=last.peak_memory_bytes if last else 0,
                samples=last.samples if last else 0,
                comm=last.comm if last else {},
                reason=outcome.reason, traceback=outcome.traceback)
            store.append(path, record.end)
        return record


def _spoilt(known: TrialRecord | None) -> str | None:
    """Says why the last attempt got no further from its checkpoint, if it failed there."""
    if known is None or known.end is None or known.end.status != "error" or not known.resumed:
        return None
    further = any(event.samples > known.resumed[-1] for event in known.evals)
    return None if further else f"the attempt that went on from it failed: {known.end.reason}"
