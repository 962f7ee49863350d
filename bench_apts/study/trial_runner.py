"""Trials that fail before their first step, or hang: twice alike, and the others would, too.

Each of them would cost a start, or the time limit, and none would have a result. If all trials of
one optimizer fail alike, it is given up and the others go on. If two optimizers that share no
source fail alike one after the other, the cause is neither, and the study stops.

Runs single trials and sees to it that each leaves a record with an end.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bench_apts.core import environment, store
from bench_apts.core.errors import UserError
from bench_apts.core.job import CheckpointJob, RankJob
from bench_apts.core.records import End, Header, TrialRecord
from bench_apts.launch.elastic import Interrupted, Launcher
from bench_apts.launch.processes import ProcessOutcome
from bench_apts.study.execution import DEFAULT_EXECUTION, CoreSlots
from bench_apts.study.progress import describe_trial
from bench_apts.trial import checkpoint_files

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from bench_apts.core.job import PruningJob
    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial
    from bench_apts.study.execution import Execution
    from bench_apts.study.plan import Plan
    from bench_apts.study.progress import StudyProgress
    from bench_apts.suites.data import Prepared

_ALIKE_FAILURES = 2
"""Failures for the same reason."""

_FAILED = ("error", "oom", "timeout")

_CHANCE = re.compile(r"\brank \d+|0x[0-9a-f]+|(?<=[\w\]]:)\d{4,5}\b")
"""What differs between equal failures: the first rank to fail, addresses, ports."""


class EnvironmentFailure(UserError):
    """The environment lets no trial start; finished ones are kept."""


class StartupFailures:
    """What is known of trials' beginnings in one command."""

    def __init__(self) -> None:
        self._began: set[Hashable] = set()
        self._failed: Counter[tuple[Hashable, str]] = Counter()
        self._suspected: tuple[str, str] | None = None

    def told(self, record: TrialRecord) -> str:
        """Take in how a trial ended in this command, or beside it.

        Returns:
            Why the optimizer's further trials are given up, if it is this trial that decides it;
            else an empty text.

        Raises:
            Stopped: The cause lies in no optimizer.
        """
        trial, reason = record.trial, _failure(record)
        if reason is None:
            self.began(record)
            return ""
        alike = _CHANCE.sub("", reason)
        last, self._suspected = self._suspected, (alike, trial.plugin_sha256)
        if last and last[0] == alike and last[1] != trial.plugin_sha256 and not record.evals:
            raise EnvironmentFailure(
                "the study stops, as two optimizers failed alike before their first "
                f"step: {reason}; finished trials are kept, the same command goes on "
                "from there"
            )
        place = trial.label, trial.suite.name, trial.ranks
        before = self.given_up(*place)
        self._failed.update((key, alike) for key in _keys(*place))
        return reason if self.given_up(*place) and not before else ""

    def began(self, record: TrialRecord) -> None:
        """Take in that a trial came to its first step, now or in an earlier command."""
        if record.evals:
            trial = record.trial
            self._began.update(_keys(trial.label, trial.suite.name, trial.ranks))
            self._suspected = None

    def given_up(self, label: str, suite: str, ranks: int) -> bool:
        """Whether a trial need not be run, as those like it failed alike and none began."""
        return any(number >= _ALIKE_FAILURES for key in _keys(label, suite, ranks)
                   if key not in self._began
                   for (other, _), number in self._failed.items() if other == key)


def optimizers_without_result(plan: Plan, records: Sequence[TrialRecord]) -> list[str]:
    """Name the optimizers of which trials failed and none ran to an end.

    Args:
        plan: The study's trials.
        records: Those of its folder.

    Returns:
        A line for each optimizer, suite and reason, for instance ``"no trial of mine on digits at
        N = 1, 2 ran to an end: rank 0: …"``.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell in plan.cells:
        sha256 = plan.plugins[cell.entry.label].sha256
        mine = [r for r in records if r.end and (
            r.trial.label, r.trial.suite, r.trial.ranks, r.trial.plugin_sha256) == (
            cell.entry.label, cell.suite, cell.ranks, sha256)]
        failed = [r.end for r in mine if r.end and r.end.status in _FAILED]
        if failed and not any(ran_to_its_end(record) for record in mine):
            reason = failed[-1].reason or failed[-1].status
            found.setdefault((cell.entry.label, cell.suite.name, reason), []).append(
                str(cell.ranks))
    return [f"no trial of {label} on {suite} at N = {', '.join(ranks)} ran to an end: {reason}"
            for (label, suite, reason), ranks in found.items()]


def ran_to_its_end(record: TrialRecord) -> bool:
    """Whether a trial came to an end by itself, be it that it diverged or its time was up."""
    end = record.end
    return end is not None and (end.status in ("hit", "miss", "diverged", "pruned")
                                or (end.status == "timeout" and bool(end.ledger)))


def _failure(record: TrialRecord) -> str | None:
    """Return why a trial failed before its first step, or was killed at its time limit."""
    end = record.end
    if end is None or end.status not in _FAILED:
        return None
    if record.evals and (end.status != "timeout" or end.ledger):  # what was killed has no ledger
        return None
    return end.reason or end.status


def _keys(label: str, suite: str, ranks: int) -> Iterator[Hashable]:
    """Yield an optimizer, and the optimizer on its suite at its N: one may work, another not."""
    yield label
    yield label, suite, ranks


_TRIAL_MARGIN_S = 120.0
"""Seconds a trial may take beyond twice its budget, for setup and evaluations."""

_DECISIVE = ("cpu", "gpus", "python", "versions", "requires", "threads")
"""Fields of the environment card on which the last bit of a result may depend."""


class TrialRunner:
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
        progress: StudyProgress,
        execution: Execution = DEFAULT_EXECUTION,
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
        self.startups = StartupFailures()
        self._slots = CoreSlots(folder, environment.cores()) if self.jobs.count > 1 else None
        if self._shared:
            (folder / ".claims").mkdir(exist_ok=True)

    def run(self, trial: Trial, pruning: PruningJob | None = None) -> TrialRecord | None:
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

    def _run(self, trial: Trial, pruning: PruningJob | None) -> TrialRecord | None:
        path = self._folder / "trials" / f"{trial.run_id}.jsonl"
        known = store.read_trial(path) if path.exists() else None
        if known is not None:
            meanwhile = self._ended_meanwhile(known)
            # What has just failed elsewhere would fail here.
            if known.finished or (meanwhile and known.end and known.end.status == "error"):
                if known.finished:  # a command that was killed may have left its checkpoints
                    checkpoint_files.sweep(self._folder / checkpoint_files.FOLDER / trial.run_id)
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
               pruning: PruningJob | None) -> TrialRecord:
        saving = self._saving(trial, known)
        header = Header(
            trial.run_id, store.now(), trial, self._machine(trial),
            configuration=trial.configuration, resumed=saving.resume)
        self._launcher.ready()
        store.append(path, header)
        job = RankJob(trial, str(self._prepared[trial.suite.data.name].folder), str(path), pruning,
                  saving, folder=self._suites.get(trial.suite.name, ""),
                  workers=self._workers.get(trial.suite.name, 0))
        with self._progress.trial(trial, path):
            try:
                outcome = self._launcher.run(job, 2 * trial.suite.budget.seconds + _TRIAL_MARGIN_S)
            except Interrupted:
                self._close(path, ProcessOutcome("interrupted", "stopped by a signal"))
                raise
        record = self._close(path, outcome)
        for event in record.checkpoints:
            if event.skipped:
                self._note(trial, f"no checkpoint at {event.samples} samples: {event.skipped}")
        assert record.end is not None
        # An error that the ranks found when all was done would be found again.
        if record.finished or record.end.audit is not None:
            checkpoint_files.sweep(Path(saving.folder))
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

    def _saving(self, trial: Trial, known: TrialRecord | None) -> CheckpointJob:
        """Finds the checkpoint that a trial can go on from, and removes all others."""
        folder = self._folder / checkpoint_files.FOLDER / trial.run_id
        resume = None
        for event in reversed(known.checkpoints if known else []):
            if resume is not None or not (folder / str(event.samples)).exists():
                continue  # older ones are removed as newer ones are written
            trouble = (
                _failed_after_resuming(known)
                or self._moved(known)
                or checkpoint_files.problem(
                    folder, event.samples, event.sha256, trial.run_id, trial.ranks
                )
            )
            if trouble:
                self._note(trial, f"its checkpoint cannot be used: {trouble}")
            else:
                resume = event.samples
        if resume is not None:
            self._note(trial, f"goes on from its checkpoint at {resume} samples")
        checkpoint_files.sweep(folder, resume)
        return CheckpointJob(str(folder), self._every, resume)

    def _moved(self, known: TrialRecord | None) -> str | None:
        """Says why an earlier attempt would not go on alike on this machine, if it would not."""
        if known is None:
            return None
        before, here = known.header.environment, self._machine(known.trial)
        changed = [name for name in _DECISIVE if before.get(name) != here.get(name)]
        return (f"it was written with another {' and '.join(changed)} in the environment card"
                if changed else None)

    def _note(self, trial: Trial, text: str) -> None:
        self._progress.note(f"{describe_trial(trial)}: {text}")

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
    def _close(path: Path, outcome: ProcessOutcome) -> TrialRecord:
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


def _failed_after_resuming(known: TrialRecord | None) -> str | None:
    """Says why the last attempt got no further from its checkpoint, if it failed there."""
    if known is None or known.end is None or known.end.status != "error" or not known.resumed:
        return None
    further = any(event.samples > known.resumed[-1] for event in known.evals)
    return None if further else f"the attempt that went on from it failed: {known.end.reason}"
