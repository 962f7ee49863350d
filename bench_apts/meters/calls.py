"""Collectives as they are counted in a group, and the distinct calls of a record.

The list of distinct calls is bounded and sums to the record's traffic. Sums are integers until the
very end, where the ideal bytes follow from the payload of each group size: they are linear in it.
So neither order nor folding changes a sum in its last bit.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import asdict, replace

from bench_apts.core.errors import describe_error
from bench_apts.core.records import DistinctCall, Traffic
from bench_apts.core.wire import COLLECTIVES, Call, gloo_bytes, ideal_bytes, payload_bytes
from bench_apts.meters import collective_hooks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench_apts.core.records import Communication

MAX_DISTINCT_CALLS = 256
"""Distinct calls that a record lists; training repeats a few, so that more are an exception."""

_READ = len(Call._fields) - 1
"""Fields of a call that was read; where one could not be, the field after them says why."""

_MAX_REASONS = 20


@dataclass
class MeteredGroup:
    """A process group and what was seen of it; nothing here raises.

    Attributes:
        rank: This process's number in the group.
        ranks: Size of the group.
        backend: The group's.
        name: c10d's name for it.
        members: Ranks of the world that form it; empty where they are not known.
        calls: Collectives so far.
        first: Number that c10d gave the first of them, −1 where it gives none.
        last: Highest number so far.
        counts: How often each was issued, by phase, as the one number of a list.
        lost: Whether not all that the group does can be seen; why stands among the counts.
    """

    rank: int
    ranks: int
    backend: str
    name: str = ""
    members: tuple[int, ...] = ()
    calls: int = 0
    first: int = 0
    last: int = -1
    counts: dict[tuple[str, collective_hooks.Fields], list[int]] = field(default_factory=dict)
    lost: bool = False
    # Backward passes and communication hooks count from threads of their own.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reasons: set[str] = field(default_factory=set)

    def add(self, phase: str, call: collective_hooks.Fields, number: int = -1) -> None:
        """Count a call; ``number`` is c10d's, −1 where there is none."""
        try:
            with self._lock:
                key = (phase, self._bounded(call) if len(call) > _READ else call)
                count = self.counts.get(key)  # the one time that the key is hashed
                if count is None:
                    count = self.counts[key] = [0]
                count[0] += 1
                if not self.calls:
                    self.first = number
                if number > self.last:
                    self.last = number
                self.calls += 1
        except TypeError as error:  # of fields that cannot be hashed or compared
            self.add(phase, collective_hooks.unread("UNKNOWN", (), (), error))

    def _bounded(self, call: collective_hooks.Fields) -> collective_hooks.Fields:
        """Return a call that could not be read; reasons may be endless, so that some are kept."""
        if call[_READ] not in self._reasons and len(self._reasons) >= _MAX_REASONS:
            return (*call[:_READ], "other reasons")
        self._reasons.add(call[_READ])
        return call

    def listed(self) -> list[tuple[str, Call, int]]:
        """Return the distinct calls so far with phase and number."""
        with self._lock:
            return [(phase, Call(*call), count[0])
                    for (phase, call), count in self.counts.items()]

    def calls_outside(self, phase: str) -> int:
        """Return how many calls so far were made in other phases."""
        with self._lock:
            total = 0
            for (made_in, _), count in self.counts.items():
                if made_in != phase:
                    total += count[0]
            return total


def describe_call(call: Call, rank: int, ranks: int, backend: str) -> DistinctCall:
    """Return what one call is and moves, without its phase and number; never raises.

    What cannot be worked out is ``unmeasured``, and so is all of an operation that is not known:
    its payload stays, if its tensors are known.

    Args:
        call: The collective as issued here.
        rank: This process's number in the group.
        ranks: Size of the group.
        backend: The group's, ``"gloo"`` where its bytes can be predicted.
    """
    payload, ideal, actual, reason = 0, 0.0, None, call.unmeasured
    try:
        payload = payload_bytes(call.collective, call.inputs, call.outputs, ranks)
        ideal = ideal_bytes(call.collective, payload, ranks)
        if not reason and call.operation not in COLLECTIVES:
            reason = "the operation is not known"
        if not reason and backend == "gloo":
            actual = gloo_bytes(call, rank, ranks)
    except Exception as error:  # raised on, it would end the training
        reason = describe_error(error)
    return DistinctCall(
        "", call.collective, ranks, call.operation,
        str(call.dtype).removeprefix("torch.") if call.dtype else None,
        call.root if isinstance(call.root, int) and call.root >= 0 else None,
        payload, ideal, actual, 0,
        unmeasured=f"{call.operation}: {reason}" if reason else UNSET)


def merge_calls(calls: Iterable[DistinctCall]) -> list[DistinctCall]:
    """Return the calls sorted, those that differ in their number alone as one."""
    numbers: Counter[DistinctCall] = Counter()
    for call in calls:
        numbers[replace(call, calls=0)] += call.calls
    return sorted((replace(call, calls=number) for call, number in numbers.items()), key=_order)


def fold_calls(
    calls: Iterable[DistinctCall], most: int = MAX_DISTINCT_CALLS
) -> list[DistinctCall]:
    """Bound a list of distinct calls without losing a byte.

    The ``most`` that were issued most often stay. The others become one entry for each phase,
    collective and group size, with the bytes of all together.

    Args:
        calls: Distinct calls, none of them folded.
        most: How many to keep.

    Returns:
        The list, sorted.
    """
    ranked = sorted(calls, key=lambda call: (-call.calls, -call.payload_bytes, _order(call)))
    rare: defaultdict[tuple[str, str, int], list[DistinctCall]] = defaultdict(list)
    for call in ranked[most:]:
        rare[call.phase, call.collective, call.ranks].append(call)
    return sorted(ranked[:most] + [_fold(group) for group in rare.values()], key=_order)


def sum_calls(calls: Iterable[DistinctCall]) -> Communication:
    """Sum calls by phase and collective, folded ones too.

    The actual bytes are None as soon as those of one call are; reasons are kept.
    """
    sums: dict[str, dict[str, Traffic]] = {}
    payloads: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    reasons: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for call in sorted(calls, key=_order):
        total = sums.setdefault(call.phase, {}).setdefault(
            call.collective, Traffic(actual_bytes=0))
        times = 1 if call.folded else call.calls
        total.calls += call.calls
        total.payload_bytes += times * call.payload_bytes
        total.actual_bytes = (None if total.actual_bytes is None or call.actual_bytes is None
                              else total.actual_bytes + times * call.actual_bytes)
        payloads[call.phase, call.collective][call.ranks] += times * call.payload_bytes
        if call.unmeasured:
            reasons[call.phase, call.collective].update(call.unmeasured.split("; "))
    for (phase, collective), why in reasons.items():
        sums[phase][collective].unmeasured = "; ".join(sorted(why))
    for (phase, collective), by_ranks in payloads.items():
        sums[phase][collective].ideal_bytes = math.fsum(
            ideal_bytes(collective, payload, ranks) for ranks, payload in by_ranks.items())
    return sums


def call_mismatches(calls: Iterable[DistinctCall], comm: Communication) -> Iterator[str]:
    """Name what the distinct calls of a record do not sum up to, to the byte."""
    listed = list(calls)
    for call in listed:
        ideal = ideal_bytes(call.collective, call.payload_bytes, call.ranks)
        if call.ideal_bytes != ideal:
            yield (f"a call of {call.collective} ({call.phase}) has {call.ideal_bytes:g} ideal "
                   f"bytes, its payload makes {ideal:g}")
    sums = sum_calls(listed)
    for phase in sorted({*sums, *comm}):
        ours, theirs = sums.get(phase, {}), comm.get(phase, {})
        for collective in sorted({*ours, *theirs}):
            listed_sum = asdict(ours.get(collective, Traffic()))
            for name, value in asdict(theirs.get(collective, Traffic())).items():
                if listed_sum[name] != value:
                    yield (f"{name} of {collective} ({phase}) are {value}, the distinct calls "
                           f"sum to {listed_sum[name]}")


def _fold(calls: list[DistinctCall]) -> DistinctCall:
    """Return one entry for calls of one phase, collective and group size; a single one stays."""
    first = calls[0]
    if len(calls) == 1:
        return first
    total = sum_calls(calls)[first.phase][first.collective]
    return DistinctCall(
        first.phase, first.collective, first.ranks, None, None, None, total.payload_bytes,
        total.ideal_bytes, total.actual_bytes, total.calls, folded=len(calls),
        unmeasured=total.unmeasured)


def _order(call: DistinctCall) -> tuple[str | int, ...]:
    return (call.phase, call.collective, call.ranks, call.folded, call.operation or "",
            call.dtype or "", -1 if call.root is None else call.root, call.payload_bytes,
            call.actual_bytes or 0, call.unmeasured or "")
