"""The clock: every second of a trial is billed to exactly one part of a ledger."""

from __future__ import annotations

import time
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTS = ("setup", "compile", "warmup", "train", "data", "eval", "log", "checkpoint")
"""``data`` is what a rank waits for streamed samples while it trains."""

_others = itemgetter(*(part for part in PARTS if part not in ("train", "data")))

TOLERANCE, TOLERANCE_S = 0.01, 1e-3
"""Share, and seconds, by which two clocks may differ over the same steps."""


class Clock:
    """Bills wall-clock and CPU seconds to the parts of a ledger.

    The clock synchronises (barrier, then device) only where the part changes, never per step,
    so that work queued on a device is billed to the part that queued it (docs/measurement.md, 2).

    Args:
        synchronize: Waits for all ranks and for the device; a no-op by default.
        now: A monotonic clock in seconds.
        cpu: The process's CPU time in seconds.
    """

    def __init__(
        self,
        synchronize: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.synchronize = synchronize
        self._now, self._cpu = now, cpu
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._cpu_seconds = dict.fromkeys(PARTS, 0.0)
        self._part = "setup"
        self._start = self._since = now()
        self._cpu_since = cpu()

    @property
    def part(self) -> str:
        """The part that is being billed."""
        return self._part

    def switch(self, part: str, in_step: bool = False) -> None:
        """Bill the time up to now to the present part and go on with ``part``.

        Args:
            part: What is billed from now on.
            in_step: Whether a collective has just made all ranks wait for each other and for
                their devices, so that to synchronise again would add nothing.
        """
        if part not in self._seconds:
            raise ValueError(f"unknown part of the ledger: {part}")
        if not in_step:
            self.synchronize()
        self._bill()
        self._part = part

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Bill a block to ``part``, then return to the part before."""
        before = self._part
        self.switch(part)
        try:
            yield
        finally:
            self.switch(before)

    @contextmanager
    def aside(self, part: str) -> Iterator[None]:
        """Bill a block of training to ``part`` by this rank's clock, without synchronising.

        In other parts nothing is billed aside: all that is done belongs to them.
        """
        if self._part != "train":
            yield
            return
        self._bill()
        self._part = part
        try:
            yield
        finally:
            self._bill()
            self._part = "train"

    def state(self) -> dict[str, dict[str, float]]:
        """Return the seconds billed so far, up to now."""
        self._bill()
        return {"seconds": dict(self._seconds), "cpu_seconds": dict(self._cpu_seconds)}

    def resume(self, state: dict[str, dict[str, float]]) -> None:
        """Add what the clock had billed that ``state`` was read from."""
        for part, seconds in state["seconds"].items():
            self._seconds[part] += seconds
            self._start -= seconds
        for part, seconds in state["cpu_seconds"].items():
            self._cpu_seconds[part] += seconds

    def seconds(self, part: str) -> float:
        """Return the seconds billed to ``part`` so far, the running stretch included."""
        running = self._now() - self._since if part == self._part else 0.0
        return self._seconds[part] + running

    def cpu_seconds(self, part: str) -> float:
        """Return the CPU seconds of this process billed to ``part`` so far."""
        running = self._cpu() - self._cpu_since if part == self._part else 0.0
        return self._cpu_seconds[part] + running

    @property
    def wall(self) -> float:
        """Seconds since the clock was made, and what was resumed."""
        return self._now() - self._start

    def ledger(self) -> dict[str, float]:
        """Return the seconds of each part as ``<part>_s``, up to now.

        ``data_s`` is left out where nothing was streamed.
        """
        self._bill()
        return {f"{part}_s": seconds for part, seconds in self._seconds.items()
                if seconds or part != "data"}

    def training(self) -> tuple[float, float]:
        """Return the seconds of training up to now, and those of other parts, without ``data``.

        For calls in training: what runs in another part is not billed for it.
        """
        return self.seconds("train"), sum(_others(self._seconds))

    def closed(self) -> tuple[float, dict[str, float]]:
        """Return the wall clock in seconds and the ledger, both of the same instant."""
        ledger = self.ledger()
        return self._since - self._start, ledger

    def _bill(self) -> None:
        now, cpu = self._now(), self._cpu()
        self._seconds[self._part] += now - self._since
        self._cpu_seconds[self._part] += cpu - self._cpu_since
        self._since, self._cpu_since = now, cpu
