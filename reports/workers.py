"""Processes that do a part of a report's work in parallel, and end with this one."""

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


def start_workers(stack: contextlib.ExitStack, count: int, *, forked: bool = False
                  ) -> ProcessPoolExecutor:
    """Return an executor whose processes end as soon as ``stack`` closes, or this process.

    Args:
        stack: Ends them, whatever they are doing.
        count: How many processes.
        forked: Whether they have all that this process has; else they import what they need.

    Raises:
        OSError: No process can be started.
    """
    context = multiprocessing.get_context("fork" if forked else "spawn")
    reader, writer = context.Pipe(duplex=False)
    stack.callback(reader.close)
    # A forked worker has a copy of the other end too, which would keep the pipe open.
    workers = ProcessPoolExecutor(
        count, context, _end_with_report, (reader, writer if forked else None))
    # Closing the pipe ends a job that is running, which an executor alone would wait for.
    stack.callback(workers.shutdown, cancel_futures=True)
    stack.callback(writer.close)
    return workers


@contextlib.contextmanager
def worker_environment() -> Iterator[None]:
    """Set what a worker inherits: no Ctrl-C, and no modules from the working folder."""
    path = os.environ.get("PYTHONSAFEPATH")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if path is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = path
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


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
        with contextlib.ExitStack() as stack, worker_environment(), contextlib.suppress(
                BrokenProcessPool, OSError):
            workers = start_workers(stack, cores, forked=True)
            for figure, rendered in zip(rest, workers.map(_render, range(len(rest))), strict=True):
                figure.__dict__["rendered"] = rendered
    finally:
        _figures.clear()


def _render(index: int) -> tuple[str, str]:
    return _figures[index].rendered


def _end_with_report(reader: Connection, writer: Connection | None) -> None:
    """End this worker once the report closes its end of the pipe or is killed."""
    if writer is not None:
        writer.close()

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            reader.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
