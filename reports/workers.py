"""Processes that draw a report's figures while it is composed, and end with this one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec

from bench_apts.core import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

    from bench_apts.reports.canvas import Figure

_WORTH_A_WORKER = 8
"""Fewer figures are drawn sooner than another process starts."""

_Drawn = tuple[tuple[str, str], str]
"""A figure's ``rendered`` and ``inline``."""


class _Worker(NamedTuple):
    """A process that draws.

    Attributes:
        process: It, forked: a figure's function cannot be sent to another process.
        figures: What it draws.
        results: File that it writes to. A pipe would stop it until this process reads.
    """

    process: ForkProcess
    figures: Sequence[Figure]
    results: IO[bytes]


class Workers:
    """Processes that draw: all cores but one of a report that is composed, all in the end.

    Where none can be forked, or one ends, figures are drawn when they are asked for.

    Args:
        cores: How many cores there are; with fewer than two nothing is drawn here.
        pipe: Both ends of a pipe; once the second is closed, all of these processes end.
    """

    def __init__(self, cores: int, pipe: tuple[Connection, Connection]) -> None:
        self._cores, self._pipe = cores, pipe
        self._waiting: list[Figure] = []
        self._running: list[_Worker] = []
        self._files = contextlib.ExitStack()

    def draw(self, figures: Iterable[Figure]) -> None:
        """Draw figures, beside what this process does next."""
        self._waiting += figures
        for worker in [each for each in self._running if not each.process.is_alive()]:
            self._collect(worker)
        if len(self._waiting) >= _WORTH_A_WORKER and len(self._running) < self._cores - 1:
            self._fork([self._waiting])

    def finish(self) -> None:
        """Draw what is left on all cores; all that was drawn then has its SVG."""
        if len(self._waiting) >= _WORTH_A_WORKER and self._cores > 1:
            self._fork([self._waiting[start::self._cores] for start in range(self._cores)])
        for worker in [*self._running]:
            worker.process.join()
            self._collect(worker)

    def _fork(self, shares: Iterable[Sequence[Figure]]) -> None:
        """Let a process draw each share of what is waiting."""
        _ = self._waiting[0].rendered  # imports what all need, before workers are forked
        self._waiting = []
        # Workers inherit that Ctrl-C is blocked: this process ends them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for figures in shares:
                results = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
                process = multiprocessing.get_context("fork").Process(
                    target=_draw, args=(figures, results, *self._pipe))
                with contextlib.suppress(OSError):
                    process.start()
                    self._running.append(_Worker(process, figures, results))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _collect(self, worker: _Worker) -> None:
        """Give the figures of a process that has ended what it drew."""
        self._running.remove(worker)
        if worker.process.exitcode == 0:
            worker.results.seek(0)
            results = msgspec.msgpack.decode(worker.results.read(), type=list[_Drawn])
            for figure, drawn in zip(worker.figures, results, strict=True):
                figure.__dict__["rendered"], figure.__dict__["inline"] = drawn

    def end(self) -> None:
        """Wait for processes whose pipe was closed."""
        for worker in self._running:
            worker.process.join()
        self._files.close()


@contextlib.contextmanager
def start_workers(wanted: bool = True) -> Iterator[Workers]:
    """Yield what draws figures, with processes that end with this block, or with this process.

    Args:
        wanted: Whether there is anything to draw.
    """
    cores = environment.cores() if wanted and sys.platform == "linux" else 0
    reader, writer = multiprocessing.Pipe(duplex=False)
    workers = Workers(cores, (reader, writer))
    try:
        yield workers
    finally:
        writer.close()
        workers.end()
        reader.close()


def _draw(figures: Sequence[Figure], results: IO[bytes], reader: Connection,
          writer: Connection) -> None:
    _end_with_report(reader, writer)
    try:
        results.write(msgspec.msgpack.encode(
            [(figure.rendered, figure.inline) for figure in figures]))
        results.flush()
    except Exception:  # the report meets it again, and says what it is
        os._exit(1)


def _end_with_report(reader: Connection, writer: Connection) -> None:
    """End this worker once the report closes its end of the pipe or is killed."""
    writer.close()  # a forked worker's copy, which would keep the pipe open

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            reader.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
