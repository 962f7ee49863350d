"""A command's processes: its temporary folder, the server that forks ranks, how ranks ended."""

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

_PREFIX, _LOCK = "apts-logs-", ".claim"
_MAX_SOCKET_PATH = 107
"""Bytes, without the one that ends it."""

_MAX_TEMPORARY_PATH = _MAX_SOCKET_PATH - len(f"/{_PREFIX}12345678/listener-12345678")
"""Bytes of the folder in which Python makes ours, and in that a socket, with names so long."""

_FRESH_S = 60.0
"""Younger folders stay: their owner may be about to lock them."""


def create_command_folder(sockets: bool) -> tuple[Path, FileLock]:
    """Make the command's temporary folder, and remove those of commands that were killed.

    Args:
        sockets: Whether it will hold sockets.

    Returns:
        The folder, and the lock that shows that its owner is alive.

    Raises:
        UserError: Its path would be too long for sockets, or is not valid UTF-8.
    """
    parent = Path(tempfile.gettempdir())
    length = len(require_utf8("the temporary folder", parent).encode())
    if sockets and length > _MAX_TEMPORARY_PATH:
        raise UserError(f"the path of the temporary folder {parent} has {length} bytes, and the "
                        f"names of sockets leave it {_MAX_TEMPORARY_PATH}; set TMPDIR to a "
                        "shorter one")
    for stale in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):  # another user's, removed meanwhile, or its owner lives
            if time.time() - stale.stat().st_mtime > _FRESH_S:
                with FileLock(stale / _LOCK).acquire(timeout=0):
                    shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = FileLock(folder / _LOCK)
    lock.acquire()
    return folder, lock


@contextmanager
def use_temporary_folder(folder: Path) -> Iterator[None]:
    """Let libraries make temporary files in a folder that a later command removes."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


_END_S = 5.0
"""How long killed processes may take to disappear, in seconds."""


class ForkServer:
    """Python's fork server, of one command: the warm process that ranks are forked from.

    Args:
        folder: The folder for its sockets and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._log = folder, folder / "server.log"
        self._pid: int | None = None
        self._written = 0
        self._usual_tempdir = _settings().get("tempdir")

    def start(self) -> None:
        """Start the server unless it runs.

        Raises:
            OSError: No process can be started.
        """
        # In our folder, as a server that is killed cannot remove one of its own.
        _settings()["tempdir"] = str(self._folder)
        get_context("forkserver").set_forkserver_preload(["bench_apts.launch.preload"])
        written = self._log.stat().st_size if self._log.exists() else 0
        with _stderr_to(self._log):
            type(_server()).ensure_running(_server())
        # Python would start another one for the next rank, whose output would miss the log.
        _server().ensure_running = lambda: None
        if self._pid != _server()._forkserver_pid:
            self._pid, self._written = _server()._forkserver_pid, written

    def last_output(self) -> str:
        """Return the last line of this server, or of a rank before it had a log."""
        return last_log_line(self._log, self._written)

    def end_ranks(self) -> None:
        """Kill the remaining ranks, also those that were being forked."""
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
        """End the server and the remaining ranks."""
        pid = _server()._forkserver_pid
        if pid is not None:
            # Asked to stop it would wait for its ranks. They get SIGKILL at its death (worker.py).
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError, FileNotFoundError):
                _server()._stop()
        vars(_server()).pop("ensure_running", None)
        _settings()["tempdir"] = self._usual_tempdir


_TAIL_BYTES = 16_384
_TRACEBACK_LINE = re.compile(r'^\s*File "([^"]*)", line (\d+)', re.MULTILINE)
_NOISE = re.compile(r"frame #\d+|Fatal Python error|\s*$")


def last_log_line(log: Path, offset: int = 0) -> str:
    """Return the last line that a process wrote to its log, with the location of a traceback.

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
    lines = [line.strip() for line in text.splitlines() if not _NOISE.match(line)]
    if not lines:
        return ""
    places = _TRACEBACK_LINE.findall(text.rpartition("Traceback (most recent call last)")[2])
    where = f" ({os.path.basename(places[-1][0])}:{places[-1][1]})" if places else ""
    return lines[-1][:300] + where


def _server() -> Any:
    return forkserver._forkserver


def _settings() -> dict[str, Any]:
    """Return multiprocessing's settings of this process, with its folder of sockets."""
    settings: dict[str, Any] = current_process()._config  # type: ignore[attr-defined]
    return settings


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Redirect file descriptor 2 to a file, for processes started meanwhile."""
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
"""What torch, its CPU allocator, Python, the C library and C++ write when memory runs out."""

_NATIVE = re.compile(r"\s*(Exception raised from|C\+\+ CapturedTraceback|frame #\d+:).*",
                     re.DOTALL)
"""Where torch begins to list the callers in C++."""


@dataclass(frozen=True)
class ProcessOutcome:
    """How a trial's processes ended; ``reason`` and ``traceback`` are set if one failed."""

    status: Status
    reason: str | None = None
    traceback: str | None = None


def rank_failure(failures: dict[int, ProcessFailure], server: ForkServer) -> ProcessOutcome:
    """Return the outcome of the rank that failed first, which is the root cause."""
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    data = first.error_file_data.get("message")
    if isinstance(data, dict):  # an exception, which the rank could still write down
        stack = escape_non_utf8(str(data.get("extraInfo", {}).get("py_callstack", "")))
        where = worker.attached_location(stack)
        return _failed(f"rank {rank}: {plain_message(str(data['message']))}"
                       + (f" ({where})" if where else ""), stack)
    last = last_log_line(Path(first.error_file).with_name("stderr.log")) or server.last_output()
    if first.exitcode >= 0:
        return _failed(f"rank {rank} exited with code {first.exitcode}, " + (
            f"and the last that it wrote was: {last}" if last else "saying nothing"))
    killed = first.exitcode == -signal.SIGKILL
    return _failed(f"rank {rank} was ended by {signal.Signals(-first.exitcode).name}" + (
        " (out of memory, or somebody killed it)" if killed else f" ({last})" if last else ""),
        memory=not killed)


def server_failure(error: Exception, server: ForkServer) -> ProcessOutcome:
    """Return the outcome of a trial whose fork server gave no answer."""
    said = (server.last_output()
            or f"{type(error).__name__}: {plain_message(str(error))}; it wrote nothing")
    return _failed(f"the fork server ended before the ranks had begun: {said}")


def start_failure(error: Exception) -> ProcessOutcome:
    """Return the outcome of ranks that could not be started, or not meet."""
    return _failed("the ranks could not be started, or not meet "
                   f"({type(error).__name__}: {plain_message(str(error))})")


def plain_message(message: str) -> str:
    """Return an error's message in one line of bounded length, without C++ functions."""
    return " ".join(_NATIVE.sub("", escape_non_utf8(message)).split())[:500]


def _failed(reason: str, traceback: str | None = None, memory: bool = True) -> ProcessOutcome:
    status: Status = "oom" if memory and _NO_MEMORY.search(reason) else "error"
    return ProcessOutcome(status, reason, traceback)
