"""Stopping in order: all ranks agree on their last step, at no cost to the steps before.

A file asks for it, since the command may be the only process that gets a signal. A thread in each
rank watches for the file; when it appears, the ranks hold at their next step and exchange through
the store, not by a collective, how many steps they have begun. All then take as many as the
furthest has, up to a step after which they hold the same weights. Ranks of other nodes, which do
not see the file, find the request in the store.

SIGTERM may come from SLURM, which means all processes of a job and is left to the command; or
from torch's agent, which ends the ranks whose peer has failed. The file distinguishes them.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_REQUEST = "bench-apts/stop"
_TICK_S = 0.2
_GRACE_S = 1.0
"""How long after SIGTERM the file may still appear."""


class GracefulStop:
    """One rank's part in stopping. Use as a context manager, in the main thread.

    Args:
        flag: The file that asks for it.
        rank: This rank.
        size: Number of ranks.
        store: Where they exchange their steps.
    """

    def __init__(self, flag: Path, rank: int, size: int, store: Any) -> None:
        self._flag, self._rank, self._size, self._store = flag, rank, size, store
        self._lock, self._known, self._over = (
            threading.Lock(), threading.Event(), threading.Event())
        self._several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1  # nodes, to torch
        self._asked = False
        self._begun, self._last = 0, sys.maxsize

    def go_on(self, agreed: bool) -> bool:
        """Say whether to take another step; wait where the ranks have yet to agree on that.

        Args:
            agreed: Whether all ranks hold the same weights now.
        """
        with self._lock:
            if not self._asked:
                self._begun += 1
                return True
        self._known.wait()
        if self._begun >= self._last and agreed:
            return False
        self._begun += 1
        return True

    def __enter__(self) -> GracefulStop:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
        os.register_at_fork(after_in_child=self._release)
        # This way the thread sees signals also while the main one waits in a collective.
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        os.write(self._writer, b"\0")  # the thread need not wait for its tick
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _release(self) -> None:
        """Restore the signals of a process that this rank forks: they would wake our thread."""
        if not self._over.is_set():
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _listen(self) -> None:
        deadline = float("inf")
        while not self._over.is_set():
            ready, _, _ = select.select([self._reader], [], [], _TICK_S)
            if ready and signal.SIGTERM in os.read(self._reader, 64):
                deadline = min(deadline, time.monotonic() + _GRACE_S)
            if not self._asked and self._requested():
                self._agree()
            if not self._asked and time.monotonic() > deadline:
                os._exit(128 + signal.SIGTERM)

    def _requested(self) -> bool:
        if self._flag.exists():
            return True
        try:
            return self._several and bool(self._store.check([_REQUEST]))
        except RuntimeError:  # the store is gone, and with it the trial
            return False

    def _agree(self) -> None:
        with self._lock:
            self._asked = True
        keys = [f"{_REQUEST}/{rank}" for rank in range(self._size)]
        try:
            self._store.set(_REQUEST, "")
            self._store.set(keys[self._rank], str(self._begun))
            while not self._store.check(keys):
                if self._over.is_set():  # as the other ranks may be, without an answer
                    return
                time.sleep(_TICK_S / 10)
            self._last = max(int(self._store.get(key)) for key in keys)
        except RuntimeError:  # a rank has failed, and with it the trial
            self._last = sys.maxsize
        self._known.set()
