"""Runs trials one after another, each in fresh processes forked from a warm server."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import current_process, forkserver, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.errors import encodable
from bench_apts.launch import stacks, temporary
from bench_apts.launch.job import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType, TracebackType

    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from bench_apts.launch.job import Job
    from bench_apts.records import Status

PRELOAD = "BENCH_APTS_PRELOAD"
"""Environment variable for launch/preload.py: modules to import, separated by commas."""

_NO_MEMORY = re.compile(r"out ?of ?memory|can't allocate memory|^MemoryError", re.IGNORECASE)
"""How torch, its CPU allocator and Python say it."""

_HANDLED = ("SIGINT", "SIGHUP", "SIGQUIT", "SIGALRM")
"""Signals that end a trial at once. SIGTERM leaves it time, see ``GRACE_S``."""

_AT_ONCE_S = 1e-3
"""Stands for no time at all, as a timer that is set to 0 never rings."""


class Interrupted(Exception):
    """The user or the system asked the command to stop; the trial's ranks are gone."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Has SIGTERM and Ctrl-C end the block by ``Interrupted``."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(signal.SIGINT) from error
    finally:
        signal.signal(signal.SIGTERM, before)


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

    Attributes:
        grace_s: How long a trial may take to end in order when SIGTERM asks for it, in seconds.

    Raises:
        UserError: The path of the temporary folder is too long.
    """

    def __init__(
        self, preload: Sequence[str], device: str, start_method: str = "forkserver"
    ) -> None:
        self._preload, self._device, self._start_method = preload, device, start_method
        self.grace_s = GRACE_S
        self._logs, self._claim = temporary.claimed(start_method == "forkserver")
        self._sockets = _multiprocessing().get("tempdir")

    def __enter__(self) -> Launcher:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ["TORCH_DISTRIBUTED_DEBUG"] = "OFF"  # DETAIL communicates by itself
        os.environ["TORCH_MP_PARALLEL_START"] = "1"
        os.environ[PRELOAD] = ",".join(self._preload)
        if self._device == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if self._start_method == "forkserver":
            # Its sockets are swept with the logs: killed, it could not remove their folder itself.
            _multiprocessing()["tempdir"] = str(self._logs)
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
            _multiprocessing()["tempdir"] = self._sockets
        shutil.rmtree(self._logs, ignore_errors=True)
        self._claim.release()

    def ready(self) -> None:
        """Makes sure that a trial can run; on one machine it always can."""

    def run(self, job: Job, limit_s: float) -> Outcome:
        """Runs one trial and returns when all its processes are gone.

        Args:
            job: What the ranks are told.
            limit_s: Wall-clock seconds after which the trial is killed as ``timeout``.

        Raises:
            Interrupted: A signal asked the command to stop.
        """
        return self._launch(job, limit_s, {
            "min_nodes": 1, "max_nodes": 1, "nproc_per_node": job.trial.ranks,
            "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "127.0.0.1"})

    def _launch(self, job: Job, limit_s: float, place: dict[str, Any]) -> Outcome:
        """Runs this node's ranks; ``place`` says which of how many nodes it is, and who meets."""
        from torch.distributed import DistError
        from torch.distributed.elastic.multiprocessing import (
            DefaultLogsSpecs,
            SignalException,
            Std,
        )
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous import RendezvousError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        from bench_apts.launch.worker import work

        logs = self._logs / job.trial.run_id
        logs.mkdir(exist_ok=True)
        if "shutdown_timeout" in LaunchConfig.__dataclass_fields__:  # since torch 2.12
            place = place | {"shutdown_timeout": 3}
        config = LaunchConfig(
            **place,
            run_id=job.trial.run_id,
            max_restarts=0,
            monitor_interval=0.05,
            start_method=self._start_method,
            signals_to_handle=",".join(_HANDLED),
            logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
        )
        stop = logs / "stop"
        stop.unlink(missing_ok=True)
        payload = msgspec.json.encode(msgspec.structs.replace(job, stop=str(stop)))
        asked: list[int] = []
        with (_quiet(), temporary.within(self._logs),
              _signals(stop, asked, limit_s, self.grace_s)):
            try:
                results = elastic_launch(config, work)(payload)
            except SignalException as error:
                if error.sigval != signal.SIGALRM:
                    raise Interrupted(error.sigval) from error
                if not asked:
                    return Outcome("timeout", "; ".join(filter(None, (
                        f"killed after {limit_s:.0f} s", stacks.places(logs)))))
            except ChildFailedError as error:
                if not asked:
                    return _outcome(error.failures)
            except (DistError, RendezvousError) as error:
                if not asked:
                    return Outcome("error", f"the ranks could not meet ({type(error).__name__}: "
                                            f"{' '.join(str(error).split())[:300]})")
            except (EOFError, ConnectionError) as error:
                # No answer from the fork server; the next trial starts another.
                if not asked:
                    return Outcome("error", "the fork server ended before the ranks had begun "
                                            f"({type(error).__name__}: {error})")
        if asked:
            raise Interrupted(asked[0])
        return Outcome(next(iter(results.values())))  # the same from every rank


def _outcome(failures: dict[int, ProcessFailure]) -> Outcome:
    """Finds the root cause: the rank that failed first."""
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    data = first.error_file_data.get("message")
    if isinstance(data, dict):  # the rank could still tell
        message = encodable(str(data["message"]))
        memory = _NO_MEMORY.search(message)
        return Outcome("oom" if memory else "error",
                       f"rank {rank}: {' '.join(message.split())[:500]}",
                       encodable(str(data.get("extraInfo", {}).get("py_callstack", ""))))
    if first.exitcode >= 0:
        return Outcome("error", f"rank {rank} exited with code {first.exitcode}, saying nothing")
    killed = first.exitcode == -signal.SIGKILL
    return Outcome("error", f"rank {rank} was ended by {signal.Signals(-first.exitcode).name}" + (
        " (out of memory, or somebody killed it)" if killed else ""))


@contextmanager
def _signals(stop: Path, asked: list[int], limit_s: float, grace_s: float) -> Iterator[None]:
    """Arms the time limit, and the ranks' stop; afterwards disarms both.

    Args:
        stop: The file that asks the ranks to stop.
        asked: Gets the number of the signal that asked for it.
        limit_s: Seconds until the trial is killed.
        grace_s: Seconds from the signal until then.
    """
    from torch.distributed.elastic.multiprocessing import SignalException

    def ask(number: int, frame: FrameType | None) -> None:
        if not asked:  # SLURM may send it again
            asked.append(number)
            stop.touch()
            signal.setitimer(signal.ITIMER_REAL, max(grace_s, _AT_ONCE_S))

    def end(number: int, frame: FrameType | None) -> None:
        raise SignalException("time is up", signal.Signals(number))

    names = ("SIGTERM", *_HANDLED)
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in names}
    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGALRM, end)  # torch does the same, but not before the ranks start
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)


def _multiprocessing() -> dict[str, Any]:
    """The settings that multiprocessing keeps for this process, with its folder of sockets."""
    settings: dict[str, Any] = current_process()._config  # type: ignore[attr-defined]
    return settings


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
