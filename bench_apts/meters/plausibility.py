"""Whether what a trial counted can be: its bytes, their audit, memory and operations."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from bench_apts.core import wire
from bench_apts.core.records import FINISHED
from bench_apts.meters import calls
from bench_apts.meters.clock import TOLERANCE, TOLERANCE_S
from bench_apts.meters.flops import Flops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.core.records import Audited, Communication, End, Start, Traffic, TrialRecord

_EXACT = 1e-9
"""Relative error of the same sum worked out again."""

_AUDITED_SINCE = (4, 19)
"""The first Linux that counts what the audit reads."""


def implausible(record: TrialRecord) -> Iterator[str]:
    """Name what a trial cannot have counted, and what it should have."""
    start, end = record.start, record.end
    if record.header.imported:
        return  # another program measured, and the record says what it did not
    if start is None:
        if end is not None and end.status in ("hit", "miss"):
            yield "it ended without a start event"
        return
    for event in record.evals:
        yield from _comm(event.comm, f"at step {event.step}", record.trial.ranks)
        if event.peak_memory_bytes <= 0:
            yield f"no memory was in use at step {event.step}"
        every, ranks = event.all_ranks_cpu_s, record.trial.ranks
        if every is not None and not (event.cpu_s <= every * (1 + _EXACT)
                                      and every <= ranks * event.cpu_s * (1 + _EXACT)):
            yield (f"all_ranks_cpu_s is {every:g} at step {event.step}, where the busiest of "
                   f"{ranks} ranks used {event.cpu_s:g}")
    yield from _operations(record, start)
    yield from _claims(record)
    if end is None:
        return
    yield from _comm(end.comm, "at the end", record.trial.ranks)
    if record.evals and end.ledger:
        last = record.evals[-1]
        if end.peak_memory_bytes != last.peak_memory_bytes:
            yield (f"peak_memory_bytes is {end.peak_memory_bytes} at the end, "
                   f"{last.peak_memory_bytes} at the last evaluation")
        for phase in ("train", "validate"):
            if end.comm.get(phase) != last.comm.get(phase):
                yield f"there was traffic of the phase {phase} after the last evaluation"
    if end.calls is not None:
        yield from calls.call_mismatches(end.calls, end.comm)
    if record.uncounted and not start.comm_meter.startswith("none"):
        yield f"not all of its bytes could be measured: {record.uncounted}"
        return
    unknown = [f"{collective} ({phase})" for phase, collectives in end.comm.items()
               for collective, traffic in collectives.items() if traffic.actual_bytes is None]
    if unknown and start.process_group == "gloo":
        yield f"actual_bytes is missing of {', '.join(unknown)}"
    if end.status in ("hit", "miss"):
        yield from _unaudited(record, start, end.audit)
    if end.status in FINISHED and end.audit is not None and not end.audit.skipped:
        yield from _audited(record, end, end.audit)


def _claims(record: TrialRecord) -> Iterator[str]:
    """Compare what steps reported with what the harness counted, where it did."""
    for event in record.evals:
        counted = event.counted
        if counted is None:
            continue
        for name in ("samples", "forwards", "backwards"):
            claimed, seen = getattr(event, name), getattr(counted, name)
            if claimed < seen:
                yield f"{name} at step {event.step} is {claimed}, {seen} were counted"
        if event.train_s < counted.steps_s * (1 - TOLERANCE) - TOLERANCE_S:
            yield (f"train_s at step {event.step} is {event.train_s:g}, the steps took "
                   f"{counted.steps_s:g} by a second clock")


def _comm(comm: Communication, when: str, ranks: int) -> Iterator[str]:
    """Check the traffic of all phases at one moment of a trial."""
    for phase, collectives in comm.items():
        for collective, traffic in collectives.items():
            for problem in _traffic(collective, traffic, ranks):
                yield f"{collective} ({phase}) {when}: {problem}"


def _traffic(collective: str, traffic: Traffic, ranks: int) -> Iterator[str]:
    payload, ideal, actual = traffic.payload_bytes, traffic.ideal_bytes, traffic.actual_bytes
    for name in ("calls", "payload_bytes", "ideal_bytes", "actual_bytes"):
        if (getattr(traffic, name) or 0) < 0:
            yield f"{name} is {getattr(traffic, name):g}"
    # Groups may be smaller than the world: of a gather, two ranks send most on average.
    most = max(wire.ideal_bytes(collective, payload, size) for size in (min(2, ranks), ranks))
    if ideal > most * (1 + _EXACT):
        yield f"ideal_bytes is {ideal:g}, more than the {most:g} of a payload of {payload}"
    if ranks == 1:
        if actual:
            yield f"actual_bytes is {actual} without another rank"
    elif actual == 0 and ideal > 0 and collective != "all_to_all":  # which may leave out a rank
        yield f"actual_bytes is 0, although {ideal:g} are needed"


def _operations(record: TrialRecord, start: Start) -> Iterator[str]:
    """Work the operations out again, from those of one sample."""
    if not start.forward_flops or not start.backward_flops:
        yield "no operations of a sample were counted"
        return
    one = Flops(start.forward_flops, start.backward_flops)
    for event in record.evals:
        expected = one.total(event.samples, event.forwards, event.backwards)
        if event.flops is None or not math.isclose(event.flops, expected, rel_tol=_EXACT):
            yield (f"flops at step {event.step} is {event.flops}, of its samples and passes "
                   f"{expected}")


def _unaudited(record: TrialRecord, start: Start, audit: Audited | None) -> Iterator[str]:
    """Ask for an audit wherever there could be one."""
    if start.process_group != "gloo" or start.comm_meter.startswith("none"):
        return
    if audit is None:
        yield "its bytes were not audited"
        return
    kernel = re.search(r"Linux (\d+)\.(\d+)", str(record.header.environment.get("os")))
    if audit.skipped and kernel and (int(kernel[1]), int(kernel[2])) >= _AUDITED_SINCE:
        yield f"the audit was skipped on {kernel[0]}: {audit.skipped}"


def _audited(record: TrialRecord, end: End, audit: Audited) -> Iterator[str]:
    """Check the audit's parts as at run time, and against the traffic."""
    ranks = record.trial.ranks
    if not 0 <= audit.rank < ranks:
        yield f"the audit is of rank {audit.rank} of {ranks}"
    trained = bool(record.evals) and record.evals[-1].step > 0
    missing = {"setup", "eval", *(["train"] if trained else [])} - audit.parts.keys()
    if missing:
        yield f"the audit lacks {', '.join(sorted(missing))}"
    for name, part in audit.parts.items():
        numbers = (part.predicted_bytes, part.seen_bytes, part.unsure_bytes)
        if min(numbers) < 0:
            yield f"the audit of {name} has negative bytes: {numbers}"
        elif ranks == 1 and any(numbers):
            yield f"the audit of {name} has bytes without another rank: {numbers}"
    yield from wire.traffic_complaints(audit)
    # The traffic on record is rank 0's.
    predicted = sum(part.predicted_bytes for part in audit.parts.values())
    actual = sum(traffic.actual_bytes or 0
                 for collectives in end.comm.values() for traffic in collectives.values())
    if audit.rank == 0 and predicted != actual:
        yield f"the audit predicts {predicted} bytes, actual_bytes of the traffic are {actual}"
