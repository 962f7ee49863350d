"""The function that each rank runs, with what must hold before torch is used."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pkgutil
import re
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from bench_apts.core import threads
from bench_apts.core.job import Job
from bench_apts.launch import blame, silent, stacks

TRIAL = "bench_apts.trial.run:main"
"""What a rank runs. It is found by name, as a launcher knows nothing of trials."""

_YIELD_S = 2.0
"""How long a rank that lost its peers lets the agent find the one that failed first."""

LOST_PEERS = re.compile(r"gloo|nccl|c10d|TCPStore|connection (closed|reset|refused)|broken pipe",
                        re.IGNORECASE)
"""What the errors of ranks say whose peers are gone: they are not where it began."""


def work(payload: bytes) -> str:
    """Run one rank of a trial; see ``TRIAL``."""
    _die_with_the_command()
    # Ctrl-C reaches the whole terminal; the agent ends its ranks itself, without tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stacks.register()
    import torch

    job = msgspec.json.decode(payload, type=Job)
    if job.stop:
        silent.tell(Path(job.stop).parent)
    torch.set_num_threads(threads.openmp())
    try:
        return _answer(payload)
    except Exception as error:
        blame.note(error, job.trial)
        # The agent blames the first rank that it sees gone, and its peers fail within
        # milliseconds. It ends the waiting ones.
        if LOST_PEERS.search(str(error)):
            time.sleep(_YIELD_S)
        raise


def _answer(payload: bytes) -> str:
    """Return the trial's status; whatever else ends this process is an exception of its own.

    The launcher would take an exit with code 0 for an answer, and wait for the other ranks.
    """
    try:
        status: str = pkgutil.resolve_name(TRIAL)(payload)
        return status
    except Exception:
        raise
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error
    except BaseException as error:
        raise RuntimeError(f"it raised {type(error).__name__}") from error


def _die_with_the_command() -> None:
    """Kills this process when the command that asked for it ends, however that happens."""
    command = multiprocessing.parent_process()
    if command is not None:

        def watch() -> None:
            command.join()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()
    # The fork server lives as long as its processes do, unless somebody kills it.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
