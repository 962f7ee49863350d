"""One process group as seen from this rank: its collectives, counted by phase."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench_apts.core.wire import Call
from bench_apts.meters import hooks

if TYPE_CHECKING:
    from collections.abc import Callable

_READ = len(Call._fields) - 1
"""Fields of a call that was read; where one could not be, the field after them says why."""

_MOST_REASONS = 20


@dataclass
class Watched:
    """A process group and what was seen of it; nothing here raises.

    Attributes:
        rank: This process's number in the group.
        ranks: Size of the group.
        backend: The group's.
        take: Takes what a native hook counted; None where each call is reported.
        calls: Collectives so far.
        first: Number that c10d gave the first of them, −1 where it gives none.
        last: Highest number so far.
        counts: How often each was issued, by phase.
        lost: Whether not all that the group does can be seen; why stands among the counts.
    """

    rank: int
    ranks: int
    backend: str
    take: Callable[[], hooks.Taken] | None = None
    calls: int = 0
    first: int = 0
    last: int = -1
    counts: dict[tuple[str, hooks.Fields], int] = field(default_factory=dict)
    lost: bool = False
    # Backward passes and communication hooks count from threads of their own.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reasons: set[str] = field(default_factory=set)

    def add(self, phase: str, call: hooks.Fields, number: int = -1) -> None:
        """Counts a call; ``number`` is c10d's, −1 where it tells none."""
        try:
            with self._lock:
                key = (phase, self._bounded(call) if len(call) > _READ else call)
                self.counts[key] = self.counts.get(key, 0) + 1
                if not self.calls:
                    self.first = number
                if number > self.last:
                    self.last = number
                self.calls += 1
        except TypeError as error:  # of fields that cannot be hashed or compared
            self.add(phase, hooks.unread("UNKNOWN", (), (), error))

    def _bounded(self, call: hooks.Fields) -> hooks.Fields:
        """A call that could not be read; reasons may differ in every call, so some are kept."""
        if call[_READ] not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            return (*call[:_READ], "other reasons")
        self._reasons.add(call[_READ])
        return call

    def collect(self, phase: str) -> None:
        """Takes over what a native hook counted in a phase; it knows none."""
        if self.take is None:
            return
        try:
            with self._lock:
                self.calls, self.first, self.last, counts = self.take()
                for call, calls in counts.items():
                    key = (phase, self._bounded(call) if len(call) > _READ else call)
                    self.counts[key] = self.counts.get(key, 0) + calls
        except Exception as error:
            self.take, self.lost = None, True
            self.add(phase, hooks.unread("UNKNOWN", (), (), error))

    def listed(self) -> list[tuple[str, Call, int]]:
        """Returns the distinct calls so far with phase and number."""
        with self._lock:
            return [(phase, Call(*call), calls) for (phase, call), calls in self.counts.items()]
