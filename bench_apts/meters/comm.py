"""Bytes on the network, counted at the one place that every collective passes.

All groups are registered through ``distributed_c10d._register_pg_in_world``; wrapping it before
``init_process_group`` gives every group a hook at its birth (``hooks.by_hook``, or in C++
``hooks.by_native``). Where torch lacks that hook, c10d's operators are overridden instead
(``hooks.by_dispatch``). Counting is host arithmetic on tensor sizes: nothing is synchronised.
What a call costs in bytes is worked out when somebody asks, once for each distinct call.
"""

from __future__ import annotations

import functools
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import convert, to_builtins
from msgspec.structs import replace

from bench_apts.errors import UserError, unknown
from bench_apts.meters import calls as distinct
from bench_apts.meters import hooks, native
from bench_apts.meters.wire import (
    HANDSHAKE,
    Call,
    gloo_bytes,
    ideal_bytes,
    payload_bytes,
    uncertainty,
)
from bench_apts.records import Communication, DistinctCall

if TYPE_CHECKING:
    from collections.abc import Callable

MECHANISM = "BENCH_APTS_COMM_METER"
"""Environment variable: ``dispatch`` forces what serves a torch without the hook, ``native`` asks
for the hook in C++."""

_NAMES = {"pre-hook": "c10d pre-hook", "native": "c10d pre-hook (native)",
          "dispatch": "c10d dispatcher"}


def mechanism() -> str:
    """Returns how collectives will be counted: ``pre-hook``, ``native`` or ``dispatch``.

    Raises:
        UserError: ``BENCH_APTS_COMM_METER`` asks for what does not exist or does not work here.
    """
    from torch.distributed import ProcessGroup

    asked = os.environ.get(MECHANISM)
    hookable = hasattr(ProcessGroup, "register_pre_hook")
    if not asked:
        return "pre-hook" if hookable else "dispatch"
    if asked not in ("dispatch", "native"):
        raise unknown(f"value of {MECHANISM},", asked, ("dispatch", "native"))
    if asked == "native" and not hookable:
        raise UserError(f"{MECHANISM}=native needs torch 2.14 or newer; unset it")
    return asked


def prepare() -> None:
    """Compiles what the ranks will need, so that they need not wait for it within a trial.

    Raises:
        UserError: ``BENCH_APTS_COMM_METER`` asks for what does not work here.
    """
    if mechanism() == "native":
        native.module()


@dataclass
class _Group:
    """A process group as seen from this rank, and what came by of it."""

    rank: int
    ranks: int
    backend: str
    take: Callable[[], hooks.Taken] | None = None
    calls: int = 0
    first: int = 0
    last: int = -1
    counts: dict[tuple[str, hooks.Fields], int] = field(default_factory=dict)


class CommMeter:
    """Counts the collectives of this process by phase.

    Attributes:
        name: How the counting is done, or ``none (reason)``; stands in the record.
    """

    def __init__(self) -> None:
        self._phase = "setup"
        self.name = "none (install() was not called)"
        self._groups: list[_Group] = []
        self._by_name: dict[str, _Group] = {}  # a reference would keep a destroyed group alive
        self._known: dict[_Key, DistinctCall] = {}
        self._before: list[DistinctCall] = []
        self._lock = threading.Lock()  # backward passes and hooks count from threads of their own
        self._overrides: Any = None

    def install(self) -> None:
        """Sees every process group made from now on; call before ``init_process_group``.

        Raises:
            UserError: ``BENCH_APTS_COMM_METER`` asks for what does not work here.
        """
        from torch.distributed import distributed_c10d

        chosen = mechanism()
        self.name = _NAMES[chosen]
        if chosen == "dispatch":
            self._overrides = hooks.by_dispatch(self._dispatched)
            return
        watch = self.watch
        if chosen == "native":
            native.module()
            watch = self.watch_natively
        register = distributed_c10d._register_pg_in_world

        def register_and_hook(group: Any, *args: Any, **kwargs: Any) -> None:
            register(group, *args, **kwargs)
            watch(group)

        setattr(distributed_c10d, register.__name__, register_and_hook)

    def watch(self, group: Any) -> None:
        """Counts the collectives of one process group."""
        hooks.by_hook(group, functools.partial(self._count, self._added(group)))

    def watch_natively(self, group: Any) -> None:
        """Counts the collectives of one process group without Python.

        Raises:
            UserError: The hook cannot be compiled.
        """
        take = hooks.by_native(group)
        self._added(group).take = take

    @property
    def phase(self) -> str:
        """What is being done now, a ``records.Phase``."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._collect()
        self._phase = phase

    def _collect(self) -> None:
        """Takes over what native hooks counted; they know no phases."""
        with self._lock:
            for seen in self._groups:
                if seen.take is None:
                    continue
                seen.calls, seen.first, seen.last, counts = seen.take()
                for call, calls in counts.items():
                    key = (self._phase, call)
                    seen.counts[key] = seen.counts.get(key, 0) + calls

    def _dispatched(self, group: Any, call: hooks.Fields) -> None:
        self._count(self._by_name.get(group.group_name) or self._added(group), call)

    def _count(self, seen: _Group, call: hooks.Fields, number: int = -1) -> None:
        """Counts a call; ``number`` is c10d's, −1 where it tells none."""
        key = (self._phase, call)
        with self._lock:
            if not seen.calls:
                seen.first = number
            if number > seen.last:
                seen.last = number
            seen.calls += 1
            seen.counts[key] = seen.counts.get(key, 0) + 1

    def _added(self, group: Any) -> _Group:
        seen = _Group(group.rank(), group.size(), group.name())
        self._groups.append(seen)
        self._by_name[group.group_name] = seen
        return seen

    def calls_by_phase(self) -> dict[str, int]:
        """Return how many collectives were seen in each phase, without pricing them."""
        self._collect()
        calls: dict[str, int] = {}
        with self._lock:
            for seen in self._groups:
                for (phase, _), number in seen.counts.items():
                    calls[phase] = calls.get(phase, 0) + number
        return calls

    @property
    def counting(self) -> bool:
        """Whether this meter sees anything at all."""
        return not self.name.startswith("none")

    def _items(self) -> list[tuple[str, _Key, int]]:
        self._collect()
        with self._lock:
            return [(phase, (Call(*call), seen.rank, seen.ranks, seen.backend), calls)
                    for seen in self._groups
                    for (phase, call), calls in seen.counts.items()]

    def _one(self, key: _Key) -> DistinctCall:
        """What a single call is and moves; without its phase and number."""
        known = self._known.get(key)
        if known is None:
            call, rank, ranks, backend = key
            payload = payload_bytes(call.collective, call.inputs, call.outputs, ranks)
            known = self._known[key] = DistinctCall(
                "", call.collective, ranks, call.operation,
                str(call.dtype).removeprefix("torch.") if call.dtype else None,
                call.root if call.root >= 0 else None, payload,
                ideal_bytes(call.collective, payload, ranks),
                gloo_bytes(call, rank, ranks) if backend == "gloo" else None, 0)
        return known

    def calls(self, most: int = distinct.MOST) -> list[DistinctCall]:
        """Returns the distinct calls so far, the rarest folded where there are more than ``most``.

        ``calls.totals`` of them is the snapshot of the same moment.
        """
        return distinct.folded(self._calls(), most)

    def _calls(self) -> list[DistinctCall]:
        seen = (replace(self._one(key), phase=phase, calls=calls)
                for phase, key, calls in self._items())
        return distinct.merged([*self._before, *seen])

    def state(self) -> list[dict[str, Any]]:
        """Returns all distinct calls so far as plain values."""
        found: list[dict[str, Any]] = to_builtins(self._calls())
        return found

    def resume(self, state: list[dict[str, Any]]) -> None:
        """Goes on from the meter that ``state`` was read from; ``predicted`` does not."""
        self._before = convert(state, list[DistinctCall])

    def snapshot(self) -> Communication:
        """Returns a copy of the counts so far, by phase and collective."""
        return distinct.totals(self._calls())

    def predicted(self) -> tuple[int, int]:
        """Returns the bytes that this process's gloo must have sent so far, and their uncertainty.

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

    def complaints(self) -> list[str]:
        """Probes every live process group; all ranks call it together, when all is done.

        The dispatcher knows no numbers of operations, and so finds no gap in them.

        Returns:
            A line for each group that this meter does not see, or did not see all the time.
        """
        import torch
        import torch.distributed as dist

        lines = []
        self._collect()
        for group in list(dist.distributed_c10d._world.pg_map):
            backend = dist.get_backend(group)
            seen = self._by_name.get(group.group_name)
            before = seen.calls if seen else 0
            # It passes all hooks and sends nothing.
            device = "cuda" if backend == "nccl" else "cpu"
            dist.all_reduce(torch.empty(0, device=device), group=group)
            self._collect()
            seen = self._by_name.get(group.group_name)
            where = f"process group {group.group_name} ({backend}, {group.size()} ranks)"
            if seen is None or seen.calls != before + 1:
                lines.append(f"{where} is not watched: its hook was removed or never set")
            elif seen.last >= 0 and seen.last - seen.first + 1 != seen.calls:
                lines.append(f"{where} was not watched all the time: "
                             f"{seen.last - seen.first + 1 - seen.calls} operations are missing")
        return lines


_Key = tuple[Call, int, int, str]
"""A call with rank, size and backend of its group."""
