"""Processes for tests, forked from one that has imported torch instead of importing it again.

``bench-apts run`` takes six seconds of CPU time to import what it and its fork server need, in
each of some hundred tests. What is started here is a child of this process with its own session,
environment, folder and streams, as if it had been started by ``subprocess``. Where a variable
says something else that is read at import, and where there is no prctl(), it is.
"""

import ctypes
import inspect
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from multiprocessing import util

import warm_server

# Variables that Python, C libraries and packages read when they start or are imported; the values
# are those of the server, and what a test takes for granted if it leaves them out.
EARLY = ("CUDA", "DS_", "KMP", "LD_", "MALLOC", "MKL", "MPL", "OMP", "OPENBLAS", "PYTHON",
         "PYTORCH", "TORCH")
LATE = {"PYTHONSAFEPATH", "TORCHELASTIC_SIGNALS_TO_HANDLE", "TORCH_CPP_LOG_LEVEL",
        "TORCH_MP_PARALLEL_START", "TORCH_DIST_INIT_BARRIER", "TORCHINDUCTOR_CACHE_DIR"}
USUAL = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
         "PYTHONWARNINGS": "", "TORCH_CPP_LOG_LEVEL": "FATAL", "TORCH_DISTRIBUTED_DEBUG": "OFF"}
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@cache
def _server():
    """Start the server; return the socket at which it is asked, and its environment."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = dict(os.environ) | USUAL
    with theirs:
        subprocess.Popen([sys.executable, "-P", warm_server.__file__, str(theirs.fileno())],
                         env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL)
    return ours, environ


def _ask(task, environ, **options):
    """Start a process like ``warm_server.ask`` says; return its id, or None if it cannot be."""
    if not sys.platform.startswith("linux"):
        return None
    requests, usual = _server()
    for name in usual.keys() | environ:
        if name.startswith(EARLY) and name not in LATE and (
                environ.get(name, USUAL.get(name)) != usual.get(name)):
            return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_SUBREAPER, 1)
    try:
        return int(warm_server.ask(requests, task, environ=environ, answered=True, **options))
    finally:
        prctl(_SUBREAPER, 0)


class WarmPopen(subprocess.Popen):
    """``subprocess.Popen`` of ``[sys.executable, "-m", MODULE, …]`` or ``-c CODE``."""

    def _execute_child(self, *given):
        value = inspect.signature(super()._execute_child).bind(*given).arguments
        python, *words = value["args"]
        environ = dict(os.environ if value["env"] is None else value["env"])
        safe = words[0] == "-P" or bool(environ.get("PYTHONSAFEPATH"))
        words = words[words[0] == "-P":]
        assert python == sys.executable
        assert words[0] in ("-m", "-c")
        streams = [number if fd == -1 else fd for number, fd in enumerate(
            (value["p2cread"], value["c2pwrite"], value["errwrite"]))]
        pid = _ask({"run": words, "path": None, "safe": safe}, environ, streams=streams,
                   cwd=value["cwd"], new_session=value["start_new_session"])
        if pid is None:
            super()._execute_child(*given)
            return
        self.pid, self._child_created = pid, True
        self._close_pipe_fds(*(value[name] for name in (
            "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")))


def run(arguments, *, timeout=600, **options):
    """Run a ``WarmPopen`` to its end, as ``subprocess.run`` does; return output as text."""
    with WarmPopen(list(map(os.fspath, arguments)), stdout=subprocess.PIPE,
                   stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


_plain = util.spawnv_passfds


def serve_multiprocessing():
    """Let what multiprocessing starts from here be warm, and find modules as this process does."""
    util.spawnv_passfds = _spawn


@contextmanager
def suspended():
    """Let it start new interpreters in the block."""
    before, util.spawnv_passfds = util.spawnv_passfds, _plain
    try:
        yield
    finally:
        util.spawnv_passfds = before


def _spawn(path, arguments, fds):
    pid = None
    run = warm_server.multiprocessing_code(arguments, "forkserver", "spawn")
    if run and os.fsdecode(path) == sys.executable:
        pid = _ask({"run": run, "path": sys.path}, dict(os.environ), fds=fds)
    return _plain(path, arguments, fds) if pid is None else pid
