"""Writes a trial's events while it goes on: ranks do not wait for the disk."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from bench_apts.core import store
from bench_apts.core.records import Event

if TYPE_CHECKING:
    from pathlib import Path


class EventWriter:
    """Appends events in order; a thread waits until each is on the disk.

    Other programs see an event at once, and a killed process loses none. One that a machine's
    failure could lose is the latest of a trial that has not ended: before an event is written, the
    one before it is on the disk.

    Args:
        path: The trial's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "events")
        self._latest: Future[None] | None = None

    def write(self, event: Event) -> None:
        """Append an event.

        Raises:
            OSError: It cannot be written, or the one before it could not be brought to the disk.
            msgspec.ValidationError: No reader could read it.
        """
        msgspec.json.decode(msgspec.json.encode(event), type=Event)
        self.settle()
        self._latest = self._thread.submit(_sync, store.write(self._path, event))

    def settle(self) -> None:
        """Wait until all events are on the disk.

        Raises:
            OSError: One could not be brought there.
        """
        latest, self._latest = self._latest, None
        if latest is not None:
            latest.result()


def _sync(file: BinaryIO) -> None:
    with file:
        os.fsync(file.fileno())
