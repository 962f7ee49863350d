"""Runs trials one after another, each in fresh processes forked from a warm server."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from bench_apts.launch.job import Job
    from bench_apts.records import Status

PRELOAD = "BENCH_APTS_PRELOAD"
"""Environment variable for launch/preload.py: modules to import, separated by commas."""

_HANDLED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGALRM")


class Interrupted(Exception):
    """The user or the system asked the command to stop; the trial's ranks are gone."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Outcome:
    """How a trial's processes ended; ``reason`` and ``traceback`` only where one failed."""

    status: Status
    reason: str | None = None
    traceback: str | None = None


class Launcher:
    """Owns the warm server. Use as a context manager; one trial at a time.

    Args:
        preload: Modules that the trials will need, imported once in the server.
        device: ``"cpu"`` or ``"cuda"``.
        start_method: ``"forkserver"``, or ``"spawn"`` where forking is no choice.
    """

    def __init__(
        self, preload: Sequence[str], device: str, start_method: str = "forkserver"
    ) -> None:
        self._preload, self._device, self._start_method = preload, device, start_method
        self._logs = Path(tempfile.mkdtemp(prefix="bench-apts-logs-"))

    def __enter__(self) -> Launcher:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ["TORCH_DISTRIBUTED_DEBUG"] = "OFF"  # DETAIL communicates by itself
        os.environ["TORCH_MP_PARALLEL_START"] = "1"
        os.environ[PRELOAD] = ",".join(self._preload)
        if self._device == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if self._start_method == "forkserver":
            get_context("forkserver").set_forkserver_preload(["bench_apts.launch.preload"])
            with _stderr_to(self._logs / "server.log"):
                forkserver.ensure_running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._start_method == "forkserver":
            forkserver._forkserver._stop()  # type: ignore[attr-defined]
        shutil.rmtree(self._logs, ignore_errors=True)

    def run(self, job: Job, limit_s: float) -> Outcome:
        """Runs one trial and returns when all its processes are gone.

        Args:
            job: What the ranks are told.
            limit_s: Wall-clock seconds after which the trial is killed as ``timeout``.

        Raises:
            Interrupted: A signal asked the command to stop.
        """
        from torch.distributed.elastic.multiprocessing import (
            DefaultLogsSpecs,
            SignalException,
            Std,
        )
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        from bench_apts.launch.worker import work

        logs = self._logs / job.trial.run_id
        logs.mkdir(exist_ok=True)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=job.trial.ranks,
            run_id=job.trial.run_id,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.05,
            start_method=self._start_method,
            shutdown_timeout=3,
            signals_to_handle=",".join(_HANDLED),
            logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
        )
        with _quiet(), _signals_restored(limit_s):
            try:
                results = elastic_launch(config, work)(msgspec.json.encode(job))
            except SignalException as error:
                if error.sigval == signal.SIGALRM:
                    return Outcome("timeout", f"killed after {limit_s:.0f} s")
                raise Interrupted(error.sigval) from error
            except ChildFailedError as error:
                return _outcome(error.failures)
        return Outcome(results[0])


def _outcome(failures: dict[int, ProcessFailure]) -> Outcome:
    """Finds the root cause: the rank that failed first."""
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    data = first.error_file_data.get("message")
    if isinstance(data, dict):  # the rank could still tell
        message = str(data["message"])
        memory = "OutOfMemory" in message or "out of memory" in message.lower()
        return Outcome("oom" if memory else "error",
                       f"rank {rank}: {' '.join(message.split())[:500]}",
                       data.get("extraInfo", {}).get("py_callstack"))
    if first.exitcode >= 0:
        return Outcome("error", f"rank {rank} exited with code {first.exitcode}, saying nothing")
    killed = first.exitcode == -signal.SIGKILL
    return Outcome("error", f"rank {rank} was ended by {signal.Signals(-first.exitcode).name}" + (
        " (out of memory, or somebody killed it)" if killed else ""))


@contextmanager
def _signals_restored(limit_s: float) -> Iterator[None]:
    """Arms the time limit; afterwards disarms it and gives the signals back."""
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in _HANDLED}
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the agent's log: its failures come back as outcomes."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Sends file descriptor 2 to a file, for processes that are started meanwhile."""
    sys.stderr.flush()
    saved = os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
