"""Imported by the fork server, so that ranks start with their imports done.

It starts no thread and does not touch CUDA, as the ranks are forked from this process.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from bench_apts.launch.elastic import CUDA_USER, LATE, PRELOAD


def _forks_cannot_use_cuda() -> bool:
    """Ask a fork of this process: CUDA, once begun, works in none, and torch says so there."""
    child = os.fork()
    if not child:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    return bool(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


for _name in (
    "multiprocessing.popen_forkserver",
    "multiprocessing.queues",  # like the one above unpickled by every rank
    "torch._dynamo",  # torch.optim imports it at its first step
    "torch.distributed.elastic.multiprocessing",
    "torch.nn.parallel",
    "torch.utils.flop_counter",
    "bench_apts.trial.trial_run",
    "bench_apts.launch.worker",
):
    importlib.import_module(_name)
_cuda_user = os.environ.get(CUDA_USER)
for _name in filter(None, os.environ.get(PRELOAD, "").split(",")):
    importlib.import_module(_name)
    if _cuda_user and _forks_cannot_use_cuda():
        Path(_cuda_user).write_text(_name, encoding="utf-8")
        sys.exit(f"{_name} uses CUDA when it is imported")

_threads = psutil.Process().num_threads()
for _name in filter(None, os.environ.get(LATE, "").split(",")):
    with suppress(Exception):  # the rank will say what it cannot import
        importlib.import_module(_name)
if psutil.Process().num_threads() > _threads or (_cuda_user and _forks_cannot_use_cuda()):
    sys.exit("a module that an optimizer imports starts threads or uses CUDA, which ranks that "
             "are forked from here would not have")

# SLURM signals all processes of a job. The command decides when its ranks end, not this server,
# with which they would die.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))

# What is shared stays shared: the collector would otherwise touch, and so copy, every page.
gc.collect()
gc.freeze()
