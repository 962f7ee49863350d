"""The folder in which a command keeps its ranks' logs and the sockets of its fork server.

The warm process that ranks are forked from: its start, its log, and its end with all ranks.

How a trial's processes ended, in a status and a line, from what torch's launcher tells.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import current_process, forkserver, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from bench_apts.core.errors import UserError, escape_non_utf8
from bench_apts.core.files import require_utf8
from bench_apts.launch import worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from bench_apts.core.records import Status

_LOGS, _CLAIM = "apts-logs-", ".claim"
_SOCKET_BYTES = 107
"""Of the path of a socket at most, without the byte that ends it."""

_LONGEST = _SOCKET_BYTES - len(f"/{_LOGS}12345678/listener-12345678")
"""Bytes of the path in which the folder is made, with names as long as Python makes them."""

_FRESH_S = 60.0
"""Younger folders are left alone: their owner may be about to lock them."""


def create_command_folder(sockets: bool) -> tuple[Path, FileLock]:
    """Makes a folder of our own, having removed those of commands that were killed.

    Args:
        sockets: Whether it is to hold sockets.

    Returns:
        The folder, and the lock that says that its owner lives.

    Raises:
        UserError: Its path would be too long for sockets, or is no text.
    """
    place = tempfile.gettempdir()
    length = len(require_utf8("the temporary folder", Path(place)).encode())
    if sockets and length > _LONGEST:
        raise UserError(f"the path of the temporary folder {place} has {length} bytes, and the "
                        f"names of sockets leave it {_LONGEST}; set TMPDIR to a shorter one")
    _remove_stale_folders(Path(place))
    folder = Path(tempfile.mkdtemp(prefix=_LOGS))
    claim = FileLock(folder / _CLAIM)
    claim.acquire()
    return folder, claim


@contextmanager
def use_temporary_folder(folder: Path) -> Iterator[None]:
    """Has libraries make their temporary files in a folder, where a later command sweeps them."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _remove_stale_folders(place: Path) -> None:
    """Removes the folders of commands that were killed; those of living ones are locked."""
    for folder in place.glob(f"{_LOGS}*"):
        with suppress(OSError, Timeout):  # another's, or gone meanwhile
            if time.time() - folder.stat().st_mtime > _FRESH_S:
                with FileLock(folder / _CLAIM).acquire(timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


_TAIL_BYTES = 16_384
_END_S = 5.0
"""How long killed processes may take to be gone, in seconds."""

_PLACE = re.compile(r'^\s*File "([^"]*)", line (\d+)', re.MULTILINE)
_FRAME = re.compile(r"frame #\d+|Fatal Python error|\s*$")


class ForkServer:
    """Python's fork server for one command.

    Args:
        folder: Where its sockets and its log lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._log = folder, folder / "server.log"
        self._pid: int | None = None
        self._written = 0
        self._sockets = _settings().get("tempdir")

    def start(self) -> None:
        """Start it, unless it runs.

        Raises:
            OSError: No process can be started.
        """
        # Killed, the server could not remove a folder of its own.
        _settings()["tempdir"] = str(self._folder)
        get_context("forkserver").set_forkserver_preload(["bench_apts.launch.preload"])
        written = self._log.stat().st_size if self._log.exists() else 0
        with _stderr_to(self._log):
            type(_server()).ensure_running(_server())
        # Python would start another whenever a rank is to be forked, past the log.
        _server().ensure_running = lambda: None
        if self._pid != _server()._forkserver_pid:
            self._pid, self._written = _server()._forkserver_pid, written

    def last_words(self) -> str:
        """Return what the present server, or a rank before it had a log, wrote last."""
        return last_log_line(self._log, self._written)

    def end_ranks(self) -> None:
        """Kill the ranks that are left, also those that were being forked."""
        import psutil

        pids = {process.pid for process in multiprocessing.active_children()}
        with suppress(psutil.NoSuchProcess):
            pids |= {p.pid for p in psutil.Process(self._pid).children()} if self._pid else set()
        left = []
        for pid in filter(None, pids):
            with suppress(psutil.NoSuchProcess):
                left.append(psutil.Process(pid))
                left[-1].kill()
        psutil.wait_procs(left, _END_S)

    def stop(self) -> None:
        """End it, and with it the ranks that are left."""
        pid = _server()._forkserver_pid
        if pid is not None:
            # It would wait for its ranks. They ask for SIGKILL at its end, see worker.py.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError, FileNotFoundError):
                _server()._stop()
        vars(_server()).pop("ensure_running", None)
        _settings()["tempdir"] = self._sockets


def last_log_line(log: Path, offset: int = 0) -> str:
    """Return the last line that a process wrote to its log, with the place of a traceback.

    Args:
        log: The file, which need not exist.
        offset: Bytes at its beginning that others wrote.

    Returns:
        For instance ``"RuntimeError: no luck (mine.py:3)"``; empty if it wrote nothing.
    """
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(offset, end - _TAIL_BYTES))
            text = escape_non_utf8(file.read().decode(errors="replace"))
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if not _FRAME.match(line)]
    if not lines:
        return ""
    places = _PLACE.findall(text.rpartition("Traceback (most recent call last)")[2])
    where = f" ({os.path.basename(places[-1][0])}:{places[-1][1]})" if places else ""
    return lines[-1][:300] + where


def _server() -> Any:
    return forkserver._forkserver


def _settings() -> dict[str, Any]:
    """The settings that multiprocessing keeps for this process, with its folder of sockets."""
    settings: dict[str, Any] = current_process()._config  # type: ignore[attr-defined]
    return settings


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Send file descriptor 2 to a file, for processes that are started meanwhile."""
    if sys.stderr is not None:
        sys.stderr.flush()
    saved = os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


_NO_MEMORY = re.compile(
    r"out ?of ?memory|can't allocate memory|cannot allocate memory|\bMemoryError|bad_alloc",
    re.IGNORECASE)
"""How torch, its CPU allocator, Python, the C library and C++ say it."""

_NATIVE = re.compile(r"\s*(Exception raised from|C\+\+ CapturedTraceback|frame #\d+:).*",
                     re.DOTALL)
"""Where torch begins to list what was called in C++."""


@dataclass(frozen=True)
class ProcessOutcome:
    """How a trial's processes ended; ``reason`` and ``traceback`` only where one failed."""

    status: Status
    reason: str | None = None
    traceback: str | None = None


def rank_failure(failures: dict[int, ProcessFailure], server: ForkServer) -> ProcessOutcome:
    """Find the root cause: the rank that failed first."""
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    data = first.error_file_data.get("message")
    if isinstance(data, dict):  # the rank could still tell
        stack = escape_non_utf8(str(data.get("extraInfo", {}).get("py_callstack", "")))
        where = worker.attached_location(stack)
        return _failed(f"rank {rank}: {plain_message(str(data['message']))}"
                       + (f" ({where})" if where else ""), stack)
    words = last_log_line(Path(first.error_file).with_name("stderr.log")) or server.last_words()
    if first.exitcode >= 0:
        return _failed(f"rank {rank} exited with code {first.exitcode}, " + (
            f"and the last that it wrote was: {words}" if words else "saying nothing"))
    killed = first.exitcode == -signal.SIGKILL
    return _failed(f"rank {rank} was ended by {signal.Signals(-first.exitcode).name}" + (
        " (out of memory, or somebody killed it)" if killed else f" ({words})" if words else ""),
        memory=not killed)


def server_failure(error: Exception, server: ForkServer) -> ProcessOutcome:
    """Say why the fork server gave no answer."""
    words = server.last_words()
    return _failed(
        "the fork server ended before the ranks had begun: "
        + (words or f"{type(error).__name__}: {plain_message(str(error))}; it wrote nothing")
    )


def start_failure(error: Exception) -> ProcessOutcome:
    """Say why ranks could not be started, or not meet."""
    return _failed("the ranks could not be started, or not meet "
                   f"({type(error).__name__}: {plain_message(str(error))})")


def plain_message(message: str) -> str:
    """Return an error's message in one line of bounded length, without C++ functions."""
    return " ".join(_NATIVE.sub("", escape_non_utf8(message)).split())[:500]


def _failed(reason: str, traceback: str | None = None, memory: bool = True) -> ProcessOutcome:
    status: Status = "oom" if memory and _NO_MEMORY.search(reason) else "error"
    return ProcessOutcome(status, reason, traceback)
