"""What attempts at trials tell: how they ended, which optimizers to give up, where to resume.

A trial that fails before its first step, or hangs, costs a start or the time limit and has no
result. If two trials of one optimizer fail alike, the others would too: it is given up, and the
other optimizers go on. If two optimizers that share no source fail alike one after the other, the
cause is neither, and the study stops.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.records import End
from bench_apts.trial import checkpoint_files

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.launch.processes import ProcessOutcome
    from bench_apts.study.execution import TuningTask
    from bench_apts.study.plan import Plan

_MAX_ALIKE = 2
"""Failures for the same reason that give an optimizer up."""

_FAILED = ("error", "oom", "timeout")

_CHANCE = re.compile(r"\brank \d+|0x[0-9a-f]+|(?<=[\w\]]:)\d{4,5}\b")
"""What differs between equal failures: the first rank to fail, addresses, ports."""

_DECISIVE = ("cpu", "gpus", "python", "versions", "requires", "threads")
"""Keys of the environment card on which the last bit of a result may depend."""


class EnvironmentFailure(UserError):
    """The environment lets no trial start; finished ones are kept."""


class StartupFailures:
    """Which trials began, and which failed before their first step, in one command."""

    def __init__(self) -> None:
        self._began: set[Hashable] = set()
        self._failed: Counter[tuple[Hashable, str]] = Counter()
        self._suspected: tuple[str, str] | None = None

    def add(self, record: TrialRecord) -> str:
        """Add how a trial ended in this command, or meanwhile in another one.

        Returns:
            Why the optimizer's further trials are given up, if this trial decides it; else an
            empty text.

        Raises:
            EnvironmentFailure: The cause lies in no optimizer.
        """
        trial, reason = record.trial, _startup_failure(record)
        if reason is None:
            self.add_begun(record)
            return ""
        alike = _CHANCE.sub("", reason)
        last, self._suspected = self._suspected, (alike, trial.plugin_sha256)
        if last and last[0] == alike and last[1] != trial.plugin_sha256 and not record.evals:
            raise EnvironmentFailure(
                "the study stops, as two optimizers failed alike before their first step: "
                f"{reason}; finished trials are kept, the same command goes on from there")
        place = trial.label, trial.suite.name, trial.ranks
        before = self.given_up(*place)
        self._failed.update((key, alike) for key in _keys(*place))
        return reason if self.given_up(*place) and not before else ""

    def add_begun(self, record: TrialRecord) -> None:
        """Add whether a trial came to its first step, now or in an earlier command."""
        if record.evals:
            trial = record.trial
            self._began.update(_keys(trial.label, trial.suite.name, trial.ranks))
            self._suspected = None

    def given_up(self, label: str, suite: str, ranks: int) -> bool:
        """Whether a trial need not be run, as those like it failed alike and none began."""
        return any(number >= _MAX_ALIKE for key in _keys(label, suite, ranks)
                   if key not in self._began
                   for (other, _), number in self._failed.items() if other == key)


def _startup_failure(record: TrialRecord) -> str | None:
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


def was_tried(record: TrialRecord) -> bool:
    """Whether a trial has ended by itself, be it with an error."""
    return record.finished or (record.end is not None and record.end.status == "error")


def ran_to_its_end(record: TrialRecord) -> bool:
    """Whether a trial has a result, be it that it diverged or its time was up."""
    end = record.end
    return end is not None and (end.status in ("hit", "miss", "diverged", "pruned")
                                or (end.status == "timeout" and bool(end.ledger)))


def count_missing(plan: Plan, needed: Sequence[TuningTask], known: Sequence[TrialRecord]) -> int:
    """Count tuning trials without an answer; one that failed has been tried, and counts."""
    there = {(record.trial.repetition, place) for record in known if was_tried(record)
             for place, cell in enumerate(plan.cells) if plan.belongs(record, cell)}
    return sum((number, plan.cells.index(cell)) not in there for number, cell in needed)


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
        place = (cell.entry.label, cell.suite, cell.ranks,
                 plan.plugins[cell.entry.label].sha256)
        mine = [r for r in records if r.end and place == (
            r.trial.label, r.trial.suite, r.trial.ranks, r.trial.plugin_sha256)]
        failed = [r.end for r in mine if r.end and r.end.status in _FAILED]
        if failed and not any(ran_to_its_end(record) for record in mine):
            reason = failed[-1].reason or failed[-1].status
            found.setdefault((cell.entry.label, cell.suite.name, reason), []).append(
                str(cell.ranks))
    return [f"no trial of {label} on {suite} at N = {', '.join(ranks)} ran to an end: {reason}"
            for (label, suite, reason), ranks in found.items()]


def find_checkpoint(folder: Path, known: TrialRecord | None, card: Mapping[str, object]
                    ) -> tuple[int | None, list[str]]:
    """Find the checkpoint that a trial can resume from, and remove all others.

    Args:
        folder: The trial's folder of checkpoints.
        known: What is recorded of earlier attempts; None if there were none.
        card: The environment card of the attempt that is to resume.

    Returns:
        Samples of the checkpoint, None if the trial starts again; and what the user should know.
    """
    resume, notes = None, []
    for event in reversed(known.checkpoints if known else []):
        assert known is not None
        if not (folder / str(event.samples)).exists():
            continue  # older ones are removed as newer ones are written
        trouble = (_failed_after_resuming(known) or _other_environment(known, card)
                   or checkpoint_files.problem(folder, event.samples, event.sha256,
                                               known.trial.run_id, known.trial.ranks))
        if not trouble:
            resume = event.samples
            notes.append(f"goes on from its checkpoint at {resume} samples")
            break
        notes.append(f"its checkpoint cannot be used: {trouble}")
    checkpoint_files.sweep(folder, resume)
    return resume, notes


def _failed_after_resuming(known: TrialRecord) -> str | None:
    """Say why the last attempt got no further from its checkpoint, if it failed there."""
    if known.end is None or known.end.status != "error" or not known.resumed:
        return None
    further = any(event.samples > known.resumed[-1] for event in known.evals)
    return None if further else f"the attempt that went on from it failed: {known.end.reason}"


def _other_environment(known: TrialRecord, card: Mapping[str, object]) -> str | None:
    """Say in what the machine differs from that of earlier attempts, if results may differ."""
    before = known.header.environment
    changed = [name for name in _DECISIVE if before.get(name) != card.get(name)]
    return (f"it was written with another {' and '.join(changed)} in the environment card"
            if changed else None)


def close_record(path: Path, outcome: ProcessOutcome) -> tuple[TrialRecord, End]:
    """Read a trial's record; write the end that its ranks could not write themselves."""
    record = store.read_trial(path)
    assert record is not None
    if record.end is None:
        last = record.evals[-1] if record.evals else None
        record.end = End(
            outcome.status, store.now(), last.wall_s if last else 0.0,
            cpu_s=last.cpu_s if last else 0.0,
            peak_memory_bytes=last.peak_memory_bytes if last else 0,
            samples=last.samples if last else 0, comm=last.comm if last else {},
            reason=outcome.reason, traceback=outcome.traceback)
        store.append(path, record.end)
    return record, record.end
