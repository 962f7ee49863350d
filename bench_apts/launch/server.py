"""The warm process that ranks are forked from: its start, its log, and its end with all ranks."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from multiprocessing import current_process, forkserver, get_context
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import encodable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TAIL_BYTES = 16_384
_END_S = 5.0
"""How long killed processes may take to be gone, in seconds."""

_PLACE = re.compile(r'^\s*File "([^"]*)", line (\d+)', re.MULTILINE)
_FRAME = re.compile(r"frame #\d+|Fatal Python error|\s*$")


class Server:
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
        return last_words(self._log, self._written)

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


def last_words(log: Path, offset: int = 0) -> str:
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
            text = encodable(file.read().decode(errors="replace"))
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
