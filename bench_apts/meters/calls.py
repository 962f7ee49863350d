"""The distinct calls of a record: a list of bounded length that sums to the record's traffic.

Sums are integers until the very end, where the ideal bytes follow from the payload of each group
size: they are linear in it. So neither order nor folding changes a sum in its last bit.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import asdict, replace

from bench_apts.core.errors import brief
from bench_apts.core.records import DistinctCall, Traffic
from bench_apts.core.wire import COLLECTIVES, gloo_bytes, ideal_bytes, payload_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench_apts.core.records import Communication
    from bench_apts.core.wire import Call

MOST = 256
"""Distinct calls that a record lists; training repeats a few, so that more are an exception."""


def priced(call: Call, rank: int, ranks: int, backend: str) -> DistinctCall:
    """Returns what one call is and moves, without its phase and number; never raises.

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
        reason = brief(error)
    return DistinctCall(
        "", call.collective, ranks, call.operation,
        str(call.dtype).removeprefix("torch.") if call.dtype else None,
        call.root if isinstance(call.root, int) and call.root >= 0 else None,
        payload, ideal, actual, 0,
        unmeasured=f"{call.operation}: {reason}" if reason else UNSET)


def merged(calls: Iterable[DistinctCall]) -> list[DistinctCall]:
    """Returns the calls sorted, those that differ in their number alone as one."""
    numbers: Counter[DistinctCall] = Counter()
    for call in calls:
        numbers[replace(call, calls=0)] += call.calls
    return sorted((replace(call, calls=number) for call, number in numbers.items()), key=_order)


def folded(calls: Iterable[DistinctCall], most: int = MOST) -> list[DistinctCall]:
    """Bounds a list of distinct calls without losing a byte.

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


def totals(calls: Iterable[DistinctCall]) -> Communication:
    """Sums calls by phase and collective, folded ones too.

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


def mismatches(calls: Iterable[DistinctCall], comm: Communication) -> Iterator[str]:
    """Names what the distinct calls of a record do not sum up to, to the byte."""
    listed = list(calls)
    for call in listed:
        ideal = ideal_bytes(call.collective, call.payload_bytes, call.ranks)
        if call.ideal_bytes != ideal:
            yield (f"a call of {call.collective} ({call.phase}) has {call.ideal_bytes:g} ideal "
                   f"bytes, its payload makes {ideal:g}")
    sums = totals(listed)
    for phase in sorted({*sums, *comm}):
        ours, theirs = sums.get(phase, {}), comm.get(phase, {})
        for collective in sorted({*ours, *theirs}):
            listed_sum = asdict(ours.get(collective, Traffic()))
            for name, value in asdict(theirs.get(collective, Traffic())).items():
                if listed_sum[name] != value:
                    yield (f"{name} of {collective} ({phase}) are {value}, the distinct calls "
                           f"sum to {listed_sum[name]}")


def _fold(calls: list[DistinctCall]) -> DistinctCall:
    """One entry for distinct calls of a phase, collective and group size; a single one stays."""
    first = calls[0]
    if len(calls) == 1:
        return first
    total = totals(calls)[first.phase][first.collective]
    return DistinctCall(
        first.phase, first.collective, first.ranks, None, None, None, total.payload_bytes,
        total.ideal_bytes, total.actual_bytes, total.calls, folded=len(calls),
        unmeasured=total.unmeasured)


def _order(call: DistinctCall) -> tuple[str | int, ...]:
    return (call.phase, call.collective, call.ranks, call.folded, call.operation or "",
            call.dtype or "", -1 if call.root is None else call.root, call.payload_bytes,
            call.actual_bytes or 0, call.unmeasured or "")
