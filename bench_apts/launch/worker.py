"""The function that each rank runs, with what must hold before torch is used."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def work(payload: bytes) -> str:
    """Runs one rank of a trial; see ``bench_apts.trial.main``."""
    _die_with_parent()
    # Ctrl-C reaches the whole terminal; the agent ends its ranks itself, without tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import torch

    from bench_apts import trial

    if os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return trial.main(payload)


def _die_with_parent() -> None:
    """Asks Linux to kill this process when the fork server ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
