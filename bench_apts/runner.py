"""Runs single trials and sees to it that each leaves a record with an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bench_apts import store
from bench_apts.launch.elastic import Interrupted, Launcher, Outcome
from bench_apts.launch.job import Job
from bench_apts.records import End, Header, TrialRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench_apts.launch.job import Pruning
    from bench_apts.progress import Progress
    from bench_apts.spec import Trial
    from bench_apts.suites.data import Prepared

_GRACE_S = 120.0
"""Seconds a trial may take beyond twice its budget, for setup and evaluations."""


class Runner:
    """Runs single trials and sees to it that each leaves a record with an end."""

    def __init__(
        self,
        folder: Path,
        prepared: Mapping[str, Prepared],
        card: dict[str, object],
        launcher: Launcher,
        progress: Progress,
        shared: bool,
    ) -> None:
        self._folder, self._prepared, self._card = folder, prepared, card
        self._launcher, self._progress, self._shared = launcher, progress, shared
        if shared:
            (folder / ".claims").mkdir(exist_ok=True)

    def run(self, trial: Trial, pruning: Pruning | None = None) -> TrialRecord | None:
        """Returns the trial's record when it has ended, or None if another command is at it."""
        if not self._shared:
            return self._run(trial, pruning)
        claim = FileLock(self._folder / ".claims" / trial.run_id)
        try:
            with claim.acquire(timeout=0):
                return self._run(trial, pruning)
        except Timeout:
            return None

    def _run(self, trial: Trial, pruning: Pruning | None) -> TrialRecord:
        path = self._folder / "trials" / f"{trial.run_id}.jsonl"
        known = store.read_trial(path) if path.exists() else None
        if known is not None and known.finished:
            self._progress.trial_kept(known)
            return known
        header = Header(
            trial.run_id, store.now(), trial, self._card, configuration=trial.configuration)
        store.append(path, header)
        job = Job(trial, str(self._prepared[trial.suite.data.name].folder), str(path), pruning)
        with self._progress.trial(trial, path):
            try:
                outcome = self._launcher.run(job, 2 * trial.suite.budget.seconds + _GRACE_S)
            except Interrupted:
                self._close(path, Outcome("interrupted", "stopped by a signal"))
                raise
        record = self._close(path, outcome)
        self._progress.trial_finished(record)
        return record

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
