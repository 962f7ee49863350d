"""What ``bench-apts meter`` does in a process of the metered command: a JSON line per interval.

docs/meter.md describes the lines. Nothing here ends the training: what fails is printed once.
"""

from __future__ import annotations

import atexit
import os
import platform
import socket
import sys
import threading
import time
from multiprocessing import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core.errors import describe_error
from bench_apts.meters.comm_meter import CommMeter
from bench_apts.meters.meter_lines import (
    SETTINGS,
    MeterHeader,
    MeterInterval,
    MeterSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_LINE_S = 1.0
"""The first intervals are 1, 2, 4 … s, so that what dies early leaves lines too."""

_THREAD = "bench-apts meter"

_PATIENCE_S = 10.0
"""How long the end of a process waits for a line that is being written."""


class _Writer:
    """Meters this process and writes its lines."""

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self._began, self._time = time.perf_counter(), time.time()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._file: int | None = None
        self.ended = threading.Event()
        self.meter = CommMeter(time=settings.timed, automatic_steps=True)
        self.meter.__enter__()
        self._thread = threading.Thread(target=self._write_lines, name=_THREAD, daemon=True)
        self._thread.start()

    def _write_lines(self) -> None:
        wait = min(_FIRST_LINE_S, self._settings.interval_s)
        while not self.ended.wait(wait):
            self._guarded(self._write, self._line())
            wait = min(2 * wait, self._settings.interval_s)

    def _guarded(self, do: Callable[..., object], *arguments: Any) -> None:
        try:
            do(*arguments)
        except Exception as error:
            self.ended.set()
            print(f"bench-apts meter: no more lines of rank {self.meter.place[0]}: "
                  f"{describe_error(error)}", file=sys.stderr)

    def _line(self, **more: Any) -> MeterInterval:
        meter = self.meter
        return MeterInterval(meter.place[0], time.perf_counter() - self._began, meter.steps,
                             meter.step_seconds, meter.rows(wait=False), **more)

    def _write(self, line: MeterHeader | MeterInterval) -> None:
        with self._lock:
            if self._file is None:
                self._file = _new_file(Path(self._settings.folder), self.meter.place[0])
                self._append(self._header())
            self._append(line)

    def _append(self, line: MeterHeader | MeterInterval) -> None:
        assert self._file is not None
        os.write(self._file, msgspec.json.encode(line) + b"\n")

    def _header(self) -> MeterHeader:
        import torch
        import torch.distributed as dist

        meter = self.meter
        return MeterHeader(
            *meter.place, self._time, self._process, socket.gethostname(),
            list(sys.orig_argv), platform.python_version(), str(torch.__version__),
            meter.mechanism, str(dist.get_backend()) if dist.is_initialized() else "unknown")

    def finish(self) -> None:
        """Write the last line, when the interpreter ends."""
        if os.getpid() != self._process:
            return
        error = getattr(sys, "last_value", None)
        self.meter.__exit__(type(error) if error else None, error)
        if not self.ended.is_set():
            self.ended.set()
            # An interpreter that ends while a thread is in torch's code aborts the process.
            self._thread.join(_PATIENCE_S)
            self._guarded(lambda: self._write(self._line(
                end=True, error=describe_error(error) if error else "",
                audit=self.meter.audit())))


def begin(again: Callable[[], None]) -> None:
    """Begin to meter this process, whose first process group has just been made.

    Args:
        again: Has this function called in a process that is forked from here, and makes a group.
    """
    writer = _Writer(msgspec.json.decode(os.environ[SETTINGS], type=MeterSettings))
    atexit.register(writer.finish)
    util.Finalize(None, writer.finish, exitpriority=0)  # a rank that was forked ends without it

    def start_over() -> None:
        if not writer.ended.is_set():
            writer.ended.set()
            writer.meter.detach()
            again()

    os.register_at_fork(after_in_child=start_over)


def _new_file(folder: Path, rank: int) -> int:
    """Make a file for a process: a rank that was started again gets another one."""
    number = 1
    while True:
        name = f"rank-{rank}.jsonl" if number == 1 else f"rank-{rank}-{number}.jsonl"
        try:
            return os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND,
                           0o644)
        except FileExistsError:
            number += 1
