"""Bytes on the network, counted at the one place that every collective passes.

All groups are registered through ``distributed_c10d._register_pg_in_world``; wrapping it before
``init_process_group`` gives every group a hook at its birth. Where torch lacks that hook, c10d's
operators are overridden instead (``collective_hooks``). Counting is arithmetic on tensor sizes:
nothing is synchronised. The bytes of each distinct call are worked out once, when asked for.

Once it is installed, nothing here raises into the training: what cannot be accounted for is
counted as a call that is ``unmeasured``, with the reason.
"""

from __future__ import annotations

import functools
import itertools
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import convert, to_builtins
from msgspec.structs import replace

from bench_apts.core.errors import describe_error, unknown
from bench_apts.core.records import Communication, DistinctCall
from bench_apts.core.wire import HANDSHAKE, Call, uncertainty
from bench_apts.meters import calls as distinct
from bench_apts.meters import collective_hooks
from bench_apts.meters.calls import MeteredGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench_apts.meters.collective_hooks import Finish

MECHANISM = "BENCH_APTS_COMM_METER"
"""Environment variable: ``dispatch`` forces what serves a torch without the pre-hook."""

_Key = tuple[Call, int, int, str]
"""A call with rank, size and backend of its group."""

_NAMES = {"pre-hook": "c10d pre-hook", "dispatch": "c10d dispatcher"}


def mechanism() -> str:
    """Return how collectives will be counted: ``pre-hook`` or ``dispatch``.

    Raises:
        UserError: ``BENCH_APTS_COMM_METER`` asks for what does not exist.
    """
    from torch.distributed import ProcessGroup

    asked = os.environ.get(MECHANISM)
    if asked and asked != "dispatch":
        raise unknown(f"value of {MECHANISM},", asked, ("dispatch",))
    return "pre-hook" if not asked and hasattr(ProcessGroup, "register_pre_hook") else "dispatch"


class CollectiveCounter:
    """Counts the collectives of this process by phase.

    Args:
        phase_now: Says what is being done now, if not ``phase`` does.
        begin: Called before a collective is issued; returns what to call when it is complete.

    Attributes:
        phase: What is being done now, in trials a ``records.Phase``.
        name: How the counting is done, or ``none (reason)``; stands in the record.
        hook_id: The number of its hooks in process groups.
    """

    def __init__(
        self, phase_now: Callable[[], str] | None = None,
        begin: Callable[[MeteredGroup, str, str], Finish] | None = None,
    ) -> None:
        self.phase = "setup"
        self.name = "none (install() was not called)"
        self.hook_id = collective_hooks.new_hook_id()
        self._phase_now, self._begin = phase_now, begin
        self._stray = MeteredGroup(0, 1, "unknown", lost=True)  # for groups that cannot be read
        self._groups = [self._stray]
        # By name, as a reference would keep a destroyed group alive.
        self._by_name: dict[str, MeteredGroup] = {}
        self._known: dict[_Key, DistinctCall] = {}
        self._before: list[DistinctCall] = []
        self._uninstall: Callable[[], None] | None = None

    def install(self) -> None:
        """Watch every process group made from now on; call before ``init_process_group``.

        Raises:
            UserError: ``BENCH_APTS_COMM_METER`` asks for what does not exist.
        """
        from torch.distributed import distributed_c10d

        chosen = mechanism()
        try:
            if chosen == "dispatch":
                self._uninstall = collective_hooks.by_dispatch(self._dispatched)
            else:
                register = distributed_c10d._register_pg_in_world

                @functools.wraps(register)
                def register_and_hook(group: Any, *args: Any, **kwargs: Any) -> None:
                    register(group, *args, **kwargs)
                    if self._uninstall:
                        self.watch(group)

                def restore() -> None:
                    # Another counter may have wrapped it since; it goes on by this one.
                    if distributed_c10d._register_pg_in_world is register_and_hook:
                        setattr(distributed_c10d, register.__name__, register)
                    collective_hooks.remove_hooks(
                        list(distributed_c10d._world.pg_map), self.hook_id)

                self._uninstall = restore
                setattr(distributed_c10d, register.__name__, register_and_hook)
        except Exception as error:  # whatever this torch lacks, training can do without
            self.name = f"none ({describe_error(error)})"
        else:
            self.name = _NAMES[chosen]

    def watch_existing(self) -> None:
        """Watch the process groups that there are; for a counter that was installed late."""
        from torch.distributed import distributed_c10d

        if self.name == _NAMES["pre-hook"]:
            for group in list(distributed_c10d._world.pg_map):
                self.watch(group)

    def uninstall(self) -> None:
        """End the counting; what was counted stays."""
        if self._uninstall:
            self._uninstall()
            self._uninstall = None

    def watch(self, group: Any) -> None:
        """Count the collectives of one process group."""
        try:
            collective_hooks.by_hook(group, functools.partial(self._count, self._added(group)),
                                     self.hook_id, timed=self._begin is not None)
        except Exception as error:
            self._lose(group, error)

    def _dispatched(self, group: Any, call: collective_hooks.Fields) -> Finish:
        try:
            seen = self._by_name.get(group.group_name) or self._added(group)
        except Exception as error:
            self._lose(group, error)
            return None
        return self._count(seen, call)

    def _count(self, seen: MeteredGroup, call: collective_hooks.Fields, number: int = -1
               ) -> Finish:
        phase = self._phase_now() if self._phase_now else self.phase
        if not seen.calls:
            seen.members = _members(seen.name)
        seen.add(phase, call, number)
        return self._begin(seen, phase, call[0]) if self._begin else None

    def _added(self, group: Any) -> MeteredGroup:
        seen = MeteredGroup(group.rank(), group.size(), group.name(), group.group_name)
        self._groups.append(seen)
        self._by_name[group.group_name] = seen
        return seen

    def _lose(self, group: Any, error: Exception) -> None:
        """Count as unmeasured that a group cannot be watched."""
        with suppress(Exception):
            self._by_name[group.group_name] = self._stray
        self._count(self._stray, collective_hooks.unread("UNKNOWN", (), (), error))

    @property
    def counting(self) -> bool:
        """Whether this meter sees anything at all."""
        return not self.name.startswith("none")

    def calls_outside(self, phase: str) -> int:
        """Return how many collectives were seen in other phases, without pricing them."""
        total = 0
        for seen in self._groups:
            total += seen.calls_outside(phase)
        return total

    def calls_by_group(self) -> list[tuple[MeteredGroup, list[DistinctCall]]]:
        """Return each process group with its distinct calls so far, those without any left out."""
        return [(seen, [replace(self._one((call, seen.rank, seen.ranks, seen.backend)),
                                phase=phase, calls=calls) for phase, call, calls in listed])
                for seen in list(self._groups) if (listed := seen.listed())]

    def calls(self) -> list[DistinctCall]:
        """Return the distinct calls so far, the rarest folded where there are very many.

        ``calls.sum_calls`` of them is the snapshot of the same moment.
        """
        return distinct.fold_calls(self._calls())

    def _calls(self) -> list[DistinctCall]:
        return distinct.merge_calls([*self._before, *itertools.chain.from_iterable(
            calls for _, calls in self.calls_by_group())])

    def _items(self) -> list[tuple[str, _Key, int]]:
        return [(phase, (call, seen.rank, seen.ranks, seen.backend), calls)
                for seen in self._groups for phase, call, calls in seen.listed()]

    def _one(self, key: _Key) -> DistinctCall:
        """Return what a single call is and moves; without its phase and number."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = distinct.describe_call(*key)
        return known

    def state(self) -> list[dict[str, Any]]:
        """Return all distinct calls so far as plain values."""
        found: list[dict[str, Any]] = to_builtins(self._calls())
        return found

    def resume(self, state: list[dict[str, Any]]) -> None:
        """Go on from the meter that ``state`` was read from; ``predicted`` does not."""
        self._before = convert(state, list[DistinctCall])

    def snapshot(self) -> Communication:
        """Return a copy of the counts so far, by phase and collective."""
        return distinct.sum_calls(self._calls())

    def predicted(self) -> tuple[int, int]:
        """Return the bytes that this process's gloo must have sent so far, and their uncertainty.

        The second counts what no arithmetic knows: who opened a connection, and the splits of an
        uneven all-to-all.
        """
        sent = unsure = 0
        for _, key, calls in self._items():
            sent += calls * (self._one(key).actual_bytes or 0)
            unsure += calls * uncertainty(key[0], key[2])
        return sent, unsure + HANDSHAKE * sum(seen.ranks - 1 for seen in self._groups)

    @property
    def peers(self) -> int:
        """Sum of the sizes of all process groups so far, those destroyed included."""
        return sum(seen.ranks for seen in self._groups)

    def unwatched_groups(self) -> list[str]:
        """Probe every live process group; all ranks call it together, when all is done.

        The dispatcher knows no numbers of operations, and so finds no gap in them.

        Returns:
            A line for each group that this meter does not see, or did not see all the time.
        """
        from torch.distributed import distributed_c10d

        lines: list[str] = []
        group = None
        try:
            for group in list(distributed_c10d._world.pg_map):
                lines += self._probe(group)
        except Exception as error:
            self._lose(group, error)
        return lines

    def _probe(self, group: Any) -> Iterator[str]:
        import torch
        import torch.distributed as dist

        backend = dist.get_backend(group)
        seen = self._by_name.get(group.group_name)
        before = seen.calls if seen else 0
        # It passes all hooks and sends nothing.
        device = "cuda" if backend == "nccl" else "cpu"
        dist.all_reduce(torch.empty(0, device=device), group=group)
        seen = self._by_name.get(group.group_name)
        where = f"process group {group.group_name} ({backend}, {group.size()} ranks)"
        if seen is not None and seen.lost:
            return
        if seen is None or seen.calls != before + 1:
            yield f"{where} is not watched: its hook was removed or never set"
        elif seen.last >= 0 and seen.last - seen.first + 1 != seen.calls:
            yield (f"{where} was not watched all the time: "
                   f"{seen.last - seen.first + 1 - seen.calls} operations are missing")

    def unmeasured(self) -> str:
        """Return why calls so far could not be accounted for; empty if all could."""
        reasons = {reason for call in self._calls() if call.unmeasured
                   for reason in str(call.unmeasured).split("; ")}
        return "; ".join(sorted(reasons))


def _members(name: str) -> tuple[int, ...]:
    """Return the ranks of the world that form a process group; none where c10d does not say.

    It says so only after it has registered the group.
    """
    with suppress(Exception):
        from torch.distributed.distributed_c10d import _world

        for group, known in _world.pg_names.items():
            if known == name:
                return tuple(sorted(_world.pg_group_ranks[group]))
    return ()
