"""Seconds of collectives, from the moment they are issued to the moment they are complete.

On CUDA both ends are events on streams: nothing waits for the device until the sums are asked for.
On CPUs a thread of the backend calls back at the end. The seconds of collectives that run at the
same time, or behind a backward pass, overlap: their sum may exceed the time that they cost.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.wire import COLLECTIVES

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_apts.meters.calls import MeteredGroup

_MAX_EVENTS = 1000
"""Pairs of CUDA events that wait to be read; with more, those that are complete are read."""


class TimeSum(NamedTuple):
    """Seconds, and how many calls took them."""

    seconds: float
    calls: int


class CollectiveTimes:
    """Adds up the seconds of collectives by process group, phase and collective."""

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[int, str, str], list[float]] = defaultdict(list)
        self._events: list[tuple[tuple[int, str, str], Any, Any]] = []
        self._lock = threading.Lock()  # backends complete in threads of their own

    def begin(self, group: MeteredGroup, phase: str, operation: str) -> Callable[[], None]:
        """Note that a collective is issued; return what to call when it is complete."""
        key = (id(group), phase, COLLECTIVES.get(operation, operation.lower()))
        if "nccl" in group.backend:
            began = _recorded_event()
            return lambda: self._add_events(key, began, _recorded_event())
        start = time.perf_counter()
        return lambda: self._add(key, time.perf_counter() - start)

    def _add(self, key: tuple[int, str, str], seconds: float) -> None:
        with self._lock:
            found = self._sums[key] or [0.0, 0]
            self._sums[key] = [found[0] + seconds, found[1] + 1]

    def _add_events(self, key: tuple[int, str, str], began: Any, ended: Any) -> None:
        with self._lock:
            self._events.append((key, began, ended))
            many = len(self._events) > _MAX_EVENTS
        if many:
            self._read_events(wait=False)

    def _read_events(self, wait: bool) -> None:
        with self._lock:
            events, self._events = self._events, []
        for key, began, ended in events:
            with contextlib.suppress(RuntimeError):  # of a failed device, or within a CUDA graph
                if wait:
                    ended.synchronize()
                if wait or ended.query():
                    self._add(key, began.elapsed_time(ended) / 1000)
                    continue
                with self._lock:
                    self._events.append((key, began, ended))

    def sums(self, wait: bool = True) -> dict[tuple[int, str, str], TimeSum]:
        """Return the seconds so far, by ``id`` of the group, phase and collective.

        Args:
            wait: Whether to wait for what runs on a device.
        """
        self._read_events(wait)
        with self._lock:
            return {key: TimeSum(found[0], int(found[1])) for key, found in self._sums.items()}


def _recorded_event() -> Any:
    """Return a CUDA event at the present end of the present stream."""
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
