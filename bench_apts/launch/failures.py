"""How a trial's processes ended, in a status and a line, from what torch's launcher tells."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts.core.errors import encodable
from bench_apts.launch import blame
from bench_apts.launch.server import last_words

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from bench_apts.core.records import Status
    from bench_apts.launch.server import Server

_NO_MEMORY = re.compile(
    r"out ?of ?memory|can't allocate memory|cannot allocate memory|\bMemoryError|bad_alloc",
    re.IGNORECASE)
"""How torch, its CPU allocator, Python, the C library and C++ say it."""

_NATIVE = re.compile(r"\s*(Exception raised from|C\+\+ CapturedTraceback|frame #\d+:).*",
                     re.DOTALL)
"""Where torch begins to list what was called in C++."""


@dataclass(frozen=True)
class Outcome:
    """How a trial's processes ended; ``reason`` and ``traceback`` only where one failed."""

    status: Status
    reason: str | None = None
    traceback: str | None = None


def of_ranks(failures: dict[int, ProcessFailure], server: Server) -> Outcome:
    """Find the root cause: the rank that failed first."""
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    data = first.error_file_data.get("message")
    if isinstance(data, dict):  # the rank could still tell
        stack = encodable(str(data.get("extraInfo", {}).get("py_callstack", "")))
        where = blame.place(stack)
        return _failed(f"rank {rank}: {plain(str(data['message']))}"
                       + (f" ({where})" if where else ""), stack)
    words = last_words(Path(first.error_file).with_name("stderr.log")) or server.last_words()
    if first.exitcode >= 0:
        return _failed(f"rank {rank} exited with code {first.exitcode}, " + (
            f"and the last that it wrote was: {words}" if words else "saying nothing"))
    killed = first.exitcode == -signal.SIGKILL
    return _failed(f"rank {rank} was ended by {signal.Signals(-first.exitcode).name}" + (
        " (out of memory, or somebody killed it)" if killed else f" ({words})" if words else ""),
        memory=not killed)


def of_server(error: Exception, server: Server) -> Outcome:
    """Say why the fork server gave no answer."""
    words = server.last_words()
    return _failed("the fork server ended before the ranks had begun: "
                   + (words or f"{type(error).__name__}: {plain(str(error))}; it wrote nothing"))


def of_start(error: Exception) -> Outcome:
    """Say why ranks could not be started, or not meet."""
    return _failed("the ranks could not be started, or not meet "
                   f"({type(error).__name__}: {plain(str(error))})")


def plain(message: str) -> str:
    """Return an error's message in one line of bounded length, without C++ functions."""
    return " ".join(_NATIVE.sub("", encodable(message)).split())[:500]


def _failed(reason: str, traceback: str | None = None, memory: bool = True) -> Outcome:
    status: Status = "oom" if memory and _NO_MEMORY.search(reason) else "error"
    return Outcome(status, reason, traceback)
