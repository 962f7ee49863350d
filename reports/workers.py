"""Processes that draw a report's figures in parallel, and end with this one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from bench_apts.core import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

    from bench_apts.reports.canvas import Figure

_WORTH_A_WORKER = 8
"""Fewer figures are drawn sooner than another process starts."""

_figures: list[Figure] = []
"""What forked workers draw: a figure's function cannot be sent to another process."""


def draw_side_by_side(figures: Sequence[Figure]) -> None:
    """Draw figures on all cores, as matplotlib uses one; each then has its SVG.

    Where processes cannot be forked, or one ends, figures are drawn when they are asked for.
    """
    cores = environment.cores()
    if len(figures) < _WORTH_A_WORKER or cores < 2 or sys.platform != "linux":
        return
    first, *rest = figures
    _ = first.rendered  # imports what all need, before the workers are forked
    _figures[:] = rest
    try:
        with contextlib.suppress(BrokenProcessPool, OSError), _workers(cores) as workers:
            # Workers are forked here, and inherit that Ctrl-C is blocked: this process ends them.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                drawn = workers.map(_render, range(len(rest)))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for figure, rendered in zip(rest, drawn, strict=True):
                figure.__dict__["rendered"] = rendered
    finally:
        _figures.clear()


@contextlib.contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Start workers that end with this block, whatever they are doing, or with this process."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    with contextlib.ExitStack() as stack:
        stack.callback(reader.close)
        workers = ProcessPoolExecutor(count, context, _end_with_report, (reader, writer))
        # Closing the pipe ends a job that is running, which an executor alone would wait for.
        stack.callback(workers.shutdown, cancel_futures=True)
        stack.callback(writer.close)
        yield workers


def _render(index: int) -> tuple[str, str]:
    return _figures[index].rendered


def _end_with_report(reader: Connection, writer: Connection) -> None:
    """End this worker once the report closes its end of the pipe or is killed."""
    writer.close()  # a forked worker's copy, which would keep the pipe open

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            reader.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
