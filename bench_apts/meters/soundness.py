"""Whether records can be believed: sums, clocks, identities, and what must be equal in pairs.

What a trial counted is checked in ``plausibility``.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core import store
from bench_apts.core.currencies import CURRENCIES
from bench_apts.core.files import UNREADABLE
from bench_apts.core.spec import canonical, digest
from bench_apts.core.trial_files import select_trials
from bench_apts.meters import plausibility
from bench_apts.stats import trial_origins

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from bench_apts.core.records import Communication, TrialRecord
    from bench_apts.core.store import StudyFile

TOLERANCE = 0.01
"""Share of the wall clock by which the parts of a ledger may miss it (docs/measurement.md, 2)."""

_CUMULATIVE = ("step", "epoch", "cpu_s", "forwards", "peak_memory_bytes",
               *(row.field for row in CURRENCIES.values() if row.field))


_OF_ATTEMPTS = ("build_s", "baseline_memory_bytes", "bound_cores")
"""Fields of ``start`` in which attempts at a trial may differ."""


def check(folder: Path) -> tuple[int, list[str]]:
    """Check every trial of a results folder.

    Returns:
        How many trials there are, and a line for each problem that begins with the file's path.

    Raises:
        UserError: It is not a results folder.
    """
    study = store.read_study(folder)
    found: list[str] = []
    alone: dict[str, list[str]] = {}

    def examine(path: Path) -> TrialRecord | None:
        record = store.read_trial(path)
        if record is not None:
            events = _written(path)
            alone[record.path] = [
                *_identity(record, events), *_resumed(record, events), *_alone(record),
                *plausibility.implausible(record)]
            if record.header.run_id == path.stem:  # else it is chosen among copies by its length
                _drop_measurements(record)
        return record

    with store.pause_gc():
        trials = select_trials(folder, examine, broken=lambda error: found.append(str(error)))
    unread = len(found) + len(trials.headless)
    found += (f"{path}: no header was written whole" for path in trials.headless)
    found += map(str, trials.copies)
    for record in trials.records:
        found += (f"{record.path}: {text}" for text in alone[record.path])
    found += [*_together(trials.records), *_unlike(folder, study, trials.records)]
    return len(trials.records) + unread, found


def _drop_measurements(record: TrialRecord) -> None:
    """Drop what only the checks of one trial read, so that one trial at most is in memory."""
    record.evals, record.checkpoints = [], []
    if record.end is not None:
        record.end = msgspec.structs.replace(record.end, comm={}, calls=None)


def ledger_gap(record: TrialRecord) -> float | None:
    """Return by what share the ledger's parts miss the wall clock; None within the tolerance.

    A trial that was ended from outside has no ledger, and so nothing that could be wrong.
    """
    if record.end is None or not record.end.ledger:
        return None
    wall, parts = record.end.wall_s, math.fsum(record.end.ledger.values())
    if abs(parts - wall) <= TOLERANCE * wall:
        return None
    return (parts - wall) / wall if wall else math.inf


def _written(path: Path) -> list[dict[str, Any]]:
    """Read the last attempt, and those that it resumed from, as written."""
    events: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            event = msgspec.json.decode(line)
        except UNREADABLE:
            continue
        if isinstance(event, dict):
            if event.get("event") == "header" and event.get("resumed") is None:
                events.clear()
            events.append(event)
    return events


def _identity(record: TrialRecord, events: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Recompute the content address from the trial as written, not as this version reads it.

    A field that later versions add would otherwise change the address of older records, where it
    also depends on the folder of a plug-in file.
    """
    header = record.header
    written = next(event["trial"] for event in reversed(events) if event.get("event") == "header")
    portable = written | {"plugin": PurePath(header.trial.plugin).name}
    address, older = (digest({"schema": header.schema, "trial": trial})[:12]
                      for trial in (portable, written))
    if header.run_id not in (address, older):
        yield f"run id {header.run_id}, but its trial has the address {address}"
    if Path(record.path).stem != header.run_id:
        yield f"the file holds the trial {header.run_id}"
    if header.configuration not in ("", header.trial.configuration):
        yield (f"configuration {header.configuration}, but its hyperparameters have the hash "
               f"{header.trial.configuration}")


def _resumed(record: TrialRecord, events: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Check what attempts must share of which one resumed from the other's checkpoint."""
    written = {event.samples: event for event in record.checkpoints if not event.skipped}
    for samples in dict.fromkeys([*record.resumed, record.header.resumed]):
        if samples is not None and samples not in written:
            yield f"it goes on from {samples} samples, where no checkpoint was written"
    for kind in ("trial", "start"):
        found = [event.get(kind) if kind == "trial" else
                 {key: value for key, value in event.items() if key not in _OF_ATTEMPTS}
                 for event in events
                 if event.get("event") == ("header" if kind == "trial" else kind)]
        if any(other != found[0] for other in found[1:]):
            yield f"the attempts that it was resumed in differ in their {kind}"
    for event in written.values():
        for evaluation in record.evals:
            before, after = sorted(
                ((event.samples, event.step), (evaluation.samples, evaluation.step)))
            if before[1] > after[1] or (before[0] == after[0]) != (before[1] == after[1]):
                yield (f"the checkpoint at {event.samples} samples has step {event.step}, the "
                       f"evaluation at {evaluation.samples} step {evaluation.step}")


def _alone(record: TrialRecord) -> Iterator[str]:
    """Check what a trial's last attempt must hold for itself."""
    for number in record.torn:
        yield f"line {number} is cut off: the writer was killed"
    gap = ledger_gap(record)
    if gap is not None:
        yield f"the ledger's parts miss the wall clock by {gap:+.1%}"
    for before, after in itertools.pairwise(record.evals):
        for name in _CUMULATIVE:
            first, second = getattr(before, name), getattr(after, name)
            if None not in (first, second) and second < first:
                yield f"{name} runs backwards at step {after.step}: {first:g}, then {second:g}"
        yield from _shrunk(before.comm, after.comm, f"at step {after.step}")
    for event in record.evals:
        if event.train_s > event.wall_s:
            yield (f"train_s is ahead of the wall clock at step {event.step}: "
                   f"{event.train_s:g} of {event.wall_s:g}")
    end = record.end
    if end is None:
        return
    if record.evals:
        last = record.evals[-1]
        for name in ("samples", "wall_s", "cpu_s"):
            first, second = getattr(last, name), getattr(end, name)
            if second < first:
                yield f"{name} runs backwards at the end: {first:g}, then {second:g}"
        yield from _shrunk(last.comm, end.comm, "at the end")
        train = end.ledger.get("train_s", last.train_s)
        if abs(train - last.train_s) > TOLERANCE * end.wall_s:
            yield (f"train_s of the ledger is {train:g}, of the last evaluation "
                   f"{last.train_s:g}")
    if end.test is not None and record.trial.stage != "report":
        yield "the test split was read in tuning"


def _shrunk(before: Communication, after: Communication, when: str) -> Iterator[str]:
    """Name the counters of the traffic that run backwards."""
    for phase, collectives in before.items():
        for collective, traffic in collectives.items():
            later = after.get(phase, {}).get(collective)
            for name in ("calls", "payload_bytes", "ideal_bytes", "actual_bytes"):
                first, second = getattr(traffic, name) or 0, getattr(later, name, 0) or 0
                if second < first:
                    yield (f"{name} of {collective} ({phase}) runs backwards {when}: "
                           f"{first:g}, then {second:g}")


def _together(records: Sequence[TrialRecord]) -> Iterator[str]:
    """Check what trials must share, whatever their optimizer and N, for a comparison in pairs."""
    records = [record for record in records if record.measures("seeds")]
    yield from _odd("seeds", records,
                    lambda r: (canonical(r.trial.suite), r.trial.stage, r.trial.repetition),
                    lambda r: (r.trial.seeds.data, r.trial.seeds.init))
    begun = [r for r in records if r.start]
    yield from _odd("order of the data", begun,
                    lambda r: (r.trial.data_sha256, canonical(r.trial.suite.data),
                               r.trial.seeds.data),
                    lambda r: r.start and r.start.data_order_sha256)
    # Null where no single rank held the weights.
    whole = [r for r in begun if r.start and r.start.initial_weights_sha256]
    yield from _odd("initial weights", whole,
                    lambda r: (r.trial.data_sha256, canonical(r.trial.suite.model),
                               r.trial.suite.code_sha256 or "",
                               r.trial.seeds.init),
                    lambda r: r.start and r.start.initial_weights_sha256)
    # On CPUs a trial repeats itself bit for bit, as far as processor and libraries are the same.
    ended = [r for r in records if r.finished and r.trial.stage == "report"
             and r.trial.device == "cpu" and r.end and r.end.final_weights_sha256]
    yield from _odd("final weights", ended,
                    lambda r: (canonical(msgspec.structs.replace(r.trial.portable, twin=False)),
                               r.header.environment.get("cpu"),
                               canonical(r.header.environment.get("versions"))),
                    lambda r: r.end and r.end.final_weights_sha256)
    tuned = {seed for r in records if r.trial.stage == "tune"
             for seed in (r.trial.seeds.data, r.trial.seeds.init)}
    for record in records:
        used = {record.trial.seeds.data, record.trial.seeds.init} & tuned
        if used and record.trial.stage == "report":
            yield f"{record.path}: a report-stage trial with seeds of tuning trials"


def _unlike(folder: Path, study: StudyFile, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Name what differs in the environments of one machine's trials that are compared."""
    wanted = {canonical(suite): suite.name for suite in study.study.suites}
    labels = {entry.label for entry in study.study.entries}
    groups: dict[tuple[bytes, int, str], list[TrialRecord]] = defaultdict(list)
    for record in records:
        trial, suite = record.trial, canonical(record.trial.suite)
        machine = record.header.environment.get("hostname")
        if (machine and suite in wanted and trial.label in labels
                and trial.ranks in study.study.ranks
                and trial.data_sha256 == study.data.get(trial.suite.data.name, trial.data_sha256)
                and trial.plugin_sha256 == study.code.get(trial.label, trial.plugin_sha256)
                and (trial.stage == "tune" or trial.configuration == study.untuned.get(
                    trial.label, trial.configuration))):
            groups[suite, trial.ranks, str(machine)].append(record)
    for (suite, ranks, machine), group in groups.items():
        found = trial_origins.origin_differences(trial_origins.origin_cards(group))
        if found:
            yield (f"{folder}: the trials of {wanted[suite]} at N = {ranks} on {machine} ran in "
                   f"unlike environments, so that their times do not compare: "
                   f"{trial_origins.count_origins(found)}")


def _odd(
    what: str, records: Sequence[TrialRecord], key: Callable[[TrialRecord], Hashable],
    value: Callable[[TrialRecord], Hashable],
) -> Iterator[str]:
    """Name the records that differ from most others with the same key."""
    groups: dict[Hashable, list[TrialRecord]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    for group in groups.values():
        usual, number = Counter(value(r) for r in group).most_common(1)[0]
        for record in group:
            if value(record) != usual:
                yield (f"{record.path}: {what} of {record.trial.label} at N = "
                       f"{record.trial.ranks} differ from {number} of the {len(group)} "
                       f"{record.trial.stage} trials number {record.trial.repetition}")
