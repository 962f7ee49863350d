"""Run trials one after another, each in fresh processes forked from a warm server.

How a trial is stopped::

    SIGTERM ── ask() touches the file ``stop`` and sets the alarm to ``grace_s``
                 │  ranks see the file at their next step, write a checkpoint and return
                 │  "interrupted"; the launcher raises ``Interrupted``
                 ▼
    SIGALRM ── end() raises SignalException: grace or time limit is over. The ranks get SIGALRM
                 too: each dumps its stack into its log and dies (worker.py)

    SIGINT, SIGHUP, SIGQUIT ── end() raises SignalException; the ranks get the same signal

A second SIGTERM changes nothing. What is left of the ranks, also those that were being forked
when a signal came, is killed before the launcher returns.

Ranks are started and polled by ``torch.distributed.elastic.multiprocessing``. torchrun's agent
above it is not used: it numbers nodes by their addresses, but node 0 must have rank 0, which
writes the records; or it waits in C++ calls that no signal ends.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench_apts.core import process_limits
from bench_apts.core.errors import UserError
from bench_apts.core.interrupts import Interrupted
from bench_apts.core.job import GRACE_S
from bench_apts.launch import late_imports, processes, worker
from bench_apts.launch.processes import ForkServer, ProcessOutcome
from bench_apts.launch.rendezvous import NodePlace, host_store, rank_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType, TracebackType

    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from bench_apts.core.job import RankJob
    from bench_apts.core.records import Status

PRELOAD, LATE = "BENCH_APTS_PRELOAD", "BENCH_APTS_PRELOAD_LATE"
"""Environment variables for launch/preload.py: modules to import, separated by commas; those of
``LATE`` only where the server stays fit to fork."""

CUDA_USER = "BENCH_APTS_PRELOAD_CUDA_USER"
"""Environment variable for launch/preload.py where ranks use GPUs: the file in which it names a
module that uses CUDA when it is imported. No rank forked after that could use CUDA."""

_ENDING_SIGNALS = ("SIGINT", "SIGHUP", "SIGQUIT", "SIGALRM")
"""Signals that end a trial at once."""

_MIN_TIMER_S = 1e-3
"""Stands for no time at all, as a timer that is set to 0 never expires."""

_END_S = 3
"""How long ranks may take to end on a signal, in seconds."""


class Launcher:
    """Runs one trial at a time; a context manager, as it owns the warm server.

    Args:
        preload: Modules that the trials will need, imported once in the server.
        device: ``"cpu"`` or ``"cuda"``.
        start_method: ``"forkserver"``, or ``"spawn"`` where forking is impossible.

    Attributes:
        grace_s: How long a trial may take to end in order after SIGTERM, in seconds.
        note: Called with what the user should know.

    Raises:
        UserError: The path of the temporary folder is too long, or no process can be started.
    """

    def __init__(
        self, preload: Sequence[str], device: str, start_method: str = "forkserver"
    ) -> None:
        self._preload, self._device, self._start_method = preload, device, start_method
        self.grace_s = GRACE_S
        self.note: Callable[[str], None] = lambda _: None
        self._logs, self._claim = processes.create_command_folder(start_method == "forkserver")
        self._server = ForkServer(self._logs)
        self._late: dict[str, list[str]] = {}  # modules by the optimizer that imports them late
        self._imported: list[str] = []  # those of them that the server has imported

    def __enter__(self) -> Launcher:
        process_limits.openmp_threads()
        os.environ["TORCH_DISTRIBUTED_DEBUG"] = "OFF"  # DETAIL communicates by itself
        os.environ["TORCH_MP_PARALLEL_START"] = "1"
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(_ENDING_SIGNALS)
        os.environ[PRELOAD], os.environ[LATE] = ",".join(self._preload), ""
        # Files of the working directory must not shadow modules of the same name.
        os.environ["PYTHONSAFEPATH"] = "1"
        os.environ["DS_ACCELERATOR"] = self._device
        os.environ.pop(CUDA_USER, None)
        if self._device == "cpu":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        else:
            os.environ[CUDA_USER] = str(self._logs / "cuda-user")
            # Lets packages ask for GPUs without CUDA, which a fork server must not touch.
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
            # The order of the numbers in CUDA_VISIBLE_DEVICES that nvidia-smi shows.
            os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        try:
            self._start_server()
        except OSError as error:
            self.__exit__(type(error), error, None)
            raise UserError(f"no process can be started: {error.strerror}; see `ulimit -a`"
                            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop()
        shutil.rmtree(self._logs, ignore_errors=True)
        self._claim.release()

    def ready(self) -> None:
        """Make sure that a trial can run; on one machine it always can."""

    def run(self, job: RankJob, limit_s: float) -> ProcessOutcome:
        """Run one trial, and return when all its processes have ended.

        Args:
            job: What the ranks run.
            limit_s: Wall-clock seconds after which the trial is killed as ``timeout``.

        Raises:
            Interrupted: A signal asked the command to stop.
        """
        return self._launch(job, limit_s, lambda: NodePlace(1, 0, host_store()))

    def _start_server(self, optimizer: str = "") -> None:
        """Make sure that a server runs which has imported what an optimizer is known to import."""
        if self._start_method != "forkserver":
            return
        late = self._late.get(optimizer, [])
        if not set(late) <= set(self._imported):
            self._imported = list(dict.fromkeys([*self._imported, *late]))
            os.environ[LATE] = ",".join(self._imported)
            self._server.stop()
        self._server.start()

    def _forget_late_imports(self) -> bool:
        """Let servers import no more than the first one; return whether the last one did."""
        had = bool(self._imported)
        self._imported, self._late = [], {key: [] for key in self._late}
        os.environ[LATE] = ""
        return had

    def _spawn_instead(self) -> bool:
        """Start ranks without a server from now on, if a package used CUDA in it; say so."""
        named = Path(os.environ.get(CUDA_USER, os.devnull))
        if self._start_method != "forkserver" or not named.is_file():
            return False
        self._server.stop()
        self._start_method = "spawn"
        self.note(f"{named.read_text(encoding='utf-8')} uses CUDA when it is imported, so that "
                  "ranks cannot be forked and import everything themselves: each trial starts "
                  "some seconds later")
        return True

    def _launch(
        self, job: RankJob, limit_s: float, begin: Callable[[], NodePlace]
    ) -> ProcessOutcome:
        """Run this node's ranks; ``begin`` returns its place among the nodes."""
        from torch.distributed import DistError
        from torch.distributed.elastic.multiprocessing import SignalException

        logs = self._logs / job.trial.run_id
        logs.mkdir(exist_ok=True)
        stop = logs / "stop"
        stop.unlink(missing_ok=True)
        payload = msgspec.json.encode(
            msgspec.structs.replace(job, stop=str(stop), limit_s=limit_s))
        asked: list[int] = []  # the number of the SIGTERM that asked the trial to stop
        with (_silenced_logging(), processes.use_temporary_folder(self._logs),
              _signal_handlers(stop, asked, limit_s, self.grace_s)):
            try:
                statuses, failures = self._run(job, logs, begin, payload)
                if failures and not asked:
                    return processes.rank_failure(failures, self._server)
            except SignalException as error:
                if error.sigval != signal.SIGALRM:
                    raise Interrupted(error.sigval) from error
                if not asked:
                    return ProcessOutcome("timeout", "; ".join(filter(None, (
                        f"killed after {limit_s:.0f} s", worker.stack_locations(logs)))))
            except worker.SilentExit as error:
                if not asked:
                    return ProcessOutcome("error", str(error))
            except (EOFError, ConnectionError) as error:
                # No answer from the fork server; the next trial starts another.
                if not asked and (self._forget_late_imports() or self._spawn_instead()):
                    return self._launch(job, limit_s, begin)
                if not asked:
                    return processes.server_failure(error, self._server)
            except (DistError, OSError, RuntimeError, MemoryError) as error:
                if not asked:
                    return processes.start_failure(error)
        if asked:
            raise Interrupted(asked[0])
        return ProcessOutcome(statuses[0])  # the same from every rank

    def _run(self, job: RankJob, logs: Path, begin: Callable[[], NodePlace], payload: bytes
             ) -> tuple[list[Status], dict[int, ProcessFailure]]:
        """Return the ranks' answers, or failures by rank; however it ends, no rank is left."""
        from torch.distributed.elastic.multiprocessing import (
            DefaultLogsSpecs,
            Std,
            start_processes,
        )

        context = watch = None
        try:
            self._start_server(job.trial.optimizer)
            place = begin()
            ranks = job.trial.ranks // place.nodes
            watch = worker.RankWatch(logs, ranks)
            context = start_processes(
                "trial", worker.run_rank, dict.fromkeys(range(ranks), (payload,)),
                {local: rank_environment(job, place, ranks, local) for local in range(ranks)},
                DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
                start_method=self._start_method)
            while (result := context.wait(0)) is None:
                place.watch()
                watch.look()
                watch.wait()
            if job.trial.optimizer not in self._late:
                self._late[job.trial.optimizer] = late_imports.read(logs)
            return (list(result.return_values.values()),
                    {place.rank * ranks + local: failure
                     for local, failure in result.failures.items()})
        except BaseException as error:
            try:
                if context is not None:
                    context.close(getattr(error, "sigval", signal.SIGTERM), _END_S)
            finally:
                # A signal may have come while ranks were being forked: they are in no context, and
                # wait for each other.
                self._server.end_ranks()
            raise
        finally:
            if watch is not None:
                watch.close()


@contextmanager
def _signal_handlers(stop: Path, asked: list[int], limit_s: float, grace_s: float
                     ) -> Iterator[None]:
    """Install SIGTERM's and the time limit's handlers for the block, see the module's diagram.

    Args:
        stop: The file that asks the ranks to stop.
        asked: Receives the number of the signal that asked for it.
        limit_s: Seconds until the trial is killed.
        grace_s: Seconds from SIGTERM until then.
    """
    from torch.distributed.elastic.multiprocessing import SignalException

    def ask(number: int, frame: FrameType | None) -> None:
        if not asked:  # SLURM may send it again
            asked.append(number)
            stop.touch()
            signal.setitimer(signal.ITIMER_REAL, max(grace_s, _MIN_TIMER_S))

    def end(number: int, frame: FrameType | None) -> None:
        raise SignalException("the trial must end", signal.Signals(number))

    names = ("SIGTERM", *_ENDING_SIGNALS)
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in names}
    signal.signal(signal.SIGTERM, ask)
    for name in _ENDING_SIGNALS:  # torch does the same, but not before the ranks start
        signal.signal(getattr(signal, name), end)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def _silenced_logging() -> Iterator[None]:
    """Silence torch's log: failures are returned as outcomes."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

