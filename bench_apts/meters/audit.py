"""The kernel's count of bytes against the meter's: did all that was sent pass the hooks?

Linux counts the bytes of every TCP socket, and a process may ask for its own (``TCP_INFO``). With
gloo's algorithms modelled (``wire.gloo_bytes``) the two must agree to the byte; whatever
communicates behind the meter's back shows as a difference. Read only where training pauses. What
is not a TCP socket is for ``hidden_channels``.
Nothing here raises into the training: an audit that fails is skipped from then on, and says why.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from msgspec import convert, to_builtins

from bench_apts.core import wire
from bench_apts.core.errors import describe_error
from bench_apts.core.records import Audited, AuditPart
from bench_apts.meters import kernel_bytes, procfs
from bench_apts.meters.hidden_channels import HiddenChannels, SeenChannels
from bench_apts.meters.kernel_bytes import KernelBytes
from bench_apts.meters.procfs import SharedMappings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench_apts.meters.comm import CollectiveCounter
    from bench_apts.plugins.optimizer_contract import World

_REMEDY = "behind the meter's back: send it through torch.distributed"
_MAX_NAMES = 3
"""Most names in a line."""


class Audit:
    """Bills bytes, as the kernel counts and as the meter predicts them, to parts of a trial.

    Make it right after ``init_process_group``.

    Attributes:
        skipped: Why there is no audit; empty where there is one.
    """

    def __init__(self, meter: CollectiveCounter) -> None:
        self._meter = meter
        self._parts: dict[str, AuditPart] = {}
        self._unsure_before = 0
        self.skipped = ""
        self._guarded(self._begin)

    def _guarded(self, do: Callable[[], object]) -> None:
        """Do a part of the audit, unless it is skipped or does not succeed."""
        if self.skipped:
            return
        try:
            do()
        except Exception as error:
            self.skipped = describe_error(error)

    def _begin(self) -> None:
        self.skipped = kernel_bytes.obstacle(self._meter)
        if not self.skipped:
            self._kernel = KernelBytes(self._meter, self._guarded)
            self._channels = HiddenChannels(self._kernel.store_ports)

    def bill(self, part: str) -> None:
        """Bill what was sent since the last call; nothing may be under way on this rank."""
        self._guarded(lambda: self._bill(part))

    def _bill(self, part: str) -> None:
        listed = procfs.descriptors()
        found = self._kernel.since_last(listed)
        self._channels.look(part, found.predicted_bytes, self._meter.peers, listed)
        bill = self._parts.setdefault(part, AuditPart())
        bill.seen_bytes += found.seen_bytes
        bill.predicted_bytes += found.predicted_bytes
        bill.unsure_bytes = self._unsure_before + found.unsure_bytes

    def state(self) -> dict[str, Any]:
        """Return the parts billed so far as plain values."""
        found: dict[str, Any] = to_builtins(self._parts)
        return found

    def resume(self, state: dict[str, Any]) -> None:
        """Add the parts of the audit that ``state`` was read from: the sockets here are new."""
        before = convert(state, dict[str, AuditPart])
        self._unsure_before = max((part.unsure_bytes for part in before.values()), default=0)
        for name, part in before.items():
            bill = self._parts.setdefault(name, AuditPart())
            bill.predicted_bytes += part.predicted_bytes
            bill.seen_bytes += part.seen_bytes
            bill.unsure_bytes += part.unsure_bytes

    def result(self, rank: int) -> Audited:
        """Return this rank's parts for the record; skipped if not all calls were measured."""
        skipped = self.skipped or self._meter.unmeasured()
        unread = [] if self.skipped else sorted(self._channels.unread)
        return Audited(skipped, rank, self._parts, unread)

    def shared(self) -> SharedMappings:
        """Return what memory this rank may share with others."""
        return SharedMappings({}, set()) if self.skipped else self._channels.shared

    def reached(self) -> SeenChannels | None:
        """Return by what else this rank may exchange data with others; None if skipped."""
        return None if self.skipped else self._channels.seen()


def verdict(audit: Audit, meter: CollectiveCounter, world: World) -> tuple[Audited, str | None]:
    """Close the audit on all ranks together, when all is done.

    Returns:
        What ``complaints`` returns first; and, if this trial's bytes cannot be believed, why: the
        same line on every rank.
    """
    worst, uncounted, hidden = complaints(audit, meter, world)
    return worst, "; ".join(uncounted + hidden) or None


def complaints(
    audit: Audit, meter: CollectiveCounter, world: World
) -> tuple[Audited, list[str], list[str]]:
    """Close the audit on all ranks together, when all is done.

    Returns:
        The parts of the rank where prediction and kernel differ most, or of a rank that
        skipped its audit; lines on bytes that were not counted, and lines on other ways by which
        ranks exchanged data. All are the same on every rank.
    """
    unwatched = meter.unwatched_groups()
    result = audit.result(world.rank)
    own = result, wire.traffic_complaints(result) + unwatched, audit.shared(), audit.reached()
    every = [own] * world.size
    if world.size > 1:
        dist.all_gather_object(every, own)
    results, uncounted, shared, reached = zip(*every, strict=True)
    worst = max(results, key=lambda result: (bool(result.skipped), _largest_difference(result)))
    return (worst, list(dict.fromkeys(itertools.chain(*uncounted))),
            list(dict.fromkeys([*memory_complaints(shared), *channel_complaints(reached)])))


def _largest_difference(audited: Audited) -> int:
    return max((abs(part.difference) for part in audited.parts.values()), default=0)


def channel_complaints(ranks: Sequence[SeenChannels | None]) -> list[str]:
    """Return a line for each set of ranks that exchange data, and one for the store.

    Args:
        ranks: What each rank has seen, by rank; None for a rank that could not look.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    known = [(rank, seen) for rank, seen in enumerate(ranks) if seen is not None]
    for place in {seen.place for _, seen in known}:
        here = [(rank, seen) for rank, seen in known if seen.place == place]
        sent = set().union(*(seen.sent for _, seen in here))
        received = set().union(*(seen.received for _, seen in here))
        for name in sorted(sent & received):
            members = tuple(rank for rank, seen in here if name in seen.sent | seen.received)
            found.setdefault(members, []).append(name)
    lines = [f"{_named(members)} exchange data through {_first(names)}, {_REMEDY}"
             for members, names in found.items() if len(members) > 1]
    strained = [(rank, seen) for rank, seen in known if seen.store_bytes > seen.store_allowed]
    if strained:
        rank, most = max(strained, key=lambda item: item[1].store_bytes)
        lines.append(
            f"{_named(rank for rank, _ in strained)} exchange data through the store "
            f"({most.store_bytes} bytes of rank {rank} in training, allowed are "
            f"{most.store_allowed}), {_REMEDY}")
    return lines


def memory_complaints(ranks: Sequence[SharedMappings]) -> list[str]:
    """Return a line for each set of ranks that share memory which one of them may write.

    Args:
        ranks: What each rank has mapped, by rank.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    for segment in sorted(set().union(*(shared.writable for shared in ranks))):
        members = tuple(rank for rank, shared in enumerate(ranks) if segment in shared.mapped)
        found.setdefault(members, []).append(ranks[members[0]].mapped[segment])
    return [f"{_named(members)} share memory: {_first(names)}: bytes may have passed behind the "
            "meter's back" for members, names in found.items() if len(members) > 1]


def _named(ranks: Iterable[int]) -> str:
    return f"ranks {', '.join(map(str, ranks))}"


def _first(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
