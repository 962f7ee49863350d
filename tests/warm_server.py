"""Forks processes that have torch and the rest imported; warm_processes.py starts and asks it.

Each becomes what a new interpreter would be that runs a module or code, or the server from which
multiprocessing forks ranks.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
import types
from contextlib import contextmanager, suppress
from multiprocessing import util

PRELOAD = (
    # As bench_apts/launch/preload.py does, which is left to each fork server.
    "multiprocessing.popen_forkserver", "multiprocessing.queues", "torch._dynamo",
    "torch.distributed.elastic.multiprocessing", "torch.nn.parallel", "torch.utils.flop_counter",
    "bench_apts.trial.trial_run", "bench_apts.launch.worker",
    # What commands, optimizers and tests import.
    "deepspeed", "hypothesis", "matplotlib.pyplot", "optuna", "pandas", "psutil",
    "pyarrow.parquet", "pytest", "pytorch_optimizer", "scipy.stats", "sklearn.datasets",
    "torch._inductor.compile_fx", "bench_apts.cli.commands", "bench_apts.plugins.registry",
    "bench_apts.reports.report_page", "bench_apts.study.scheduler",
)
HIGH = 500
"""Of file descriptors: no new interpreter has one of this number."""


def serve(requests):
    """Fork a process for each request; return, in that process, what it is to do."""
    while True:
        message, fds, _, _ = socket.recv_fds(requests, 1, 16)
        if not message:
            os._exit(0)
        answer, say = os.pipe()
        between = os.fork()
        if not between:
            # A process whose parent ends becomes a child of the one that asked, a subreaper.
            child = os.fork()
            if child:
                os.write(say, str(child).encode())
                os._exit(0)
            requests.close()
            os.close(answer)
            os.close(say)
            return fds
        os.close(say)
        os.waitpid(between, 0)
        requests.send(os.read(answer, 32))
        for fd in (answer, *fds):
            os.close(fd)


def become(order, *fds):
    """Take over what is the asker's: standard streams, folder, environment; then run."""
    with open(order, encoding="utf-8") as file:
        task = json.load(file)
    if task["new_session"]:
        os.setsid()
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["environ"])
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, task["mask"])
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(moved, task["numbers"], strict=True):
        os.dup2(fd, number, inheritable=number <= 2)
        os.close(fd)
    way, what, *arguments = task["run"]
    sys.argv = [way, *arguments]
    if task["path"] is not None:  # a process of multiprocessing's
        sys.path[:] = task["path"] or sys.path
        exec(what, {"__name__": "__main__"})
        return
    _keep_a_copy()
    if not task["safe"]:
        sys.path.insert(0, os.getcwd() if way == "-m" else "")
    if way == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(what, vars(main))


def _keep_a_copy():
    """Fork a process that becomes this one's fork server, the first time that it starts one."""
    plain, (ours, theirs) = util.spawnv_passfds, socket.socketpair()
    copy = os.fork()
    if not copy:
        ours.close()
        message, fds, _, _ = socket.recv_fds(theirs, 1, 16)
        theirs.close()
        if not message:
            os._exit(0)
        become(*fds)
        sys.exit()
    theirs.close()

    def spawn(path, arguments, fds):
        nonlocal ours
        run = multiprocessing_code(arguments, "forkserver")
        if ours is None or run is None:
            return plain(path, arguments, fds)
        ask(ours, {"run": run, "path": []}, fds)
        ours.close()
        ours = None
        return copy

    util.spawnv_passfds = spawn


def multiprocessing_code(arguments, *modules):
    """Return ``-c``, the code and its arguments if they start one of multiprocessing's modules."""
    words = list(map(os.fsdecode, arguments))
    run = words[words.index("-c"):] if "-c" in words else []
    known = tuple(f"from multiprocessing.{name} import" for name in modules)
    return run if run and run[1].startswith(known) else None


def ask(requests, task, fds=(), streams=(0, 1, 2), cwd=None, environ=None, new_session=False,
        answered=False):
    """Send a request: what to run, and the file descriptors that it gets; return the answer."""
    task = {"cwd": os.fspath(cwd or os.getcwd()), "new_session": new_session,
            "environ": dict(os.environ if environ is None else environ),
            "mask": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "numbers": [0, 1, 2, *fds], **task}
    order, write = os.pipe()
    try:
        socket.send_fds(requests, [b"x"], [order, *streams, *fds])
    finally:
        os.close(order)
    # The process waits for its task, and so until it is the child of the one that asks.
    answer = requests.recv(32) if answered else None
    with open(write, "w", encoding="utf-8") as file:
        json.dump(task, file)
    return answer


def main():
    """Import everything, serve, and be what is asked for in the forks."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()  # its walks take a fifth of the imports' time, and find little
    for name in PRELOAD:
        with suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.enable()
    gc.collect()
    gc.freeze()
    with _quick_end():
        become(*serve(requests))


@contextmanager
def _quick_end():
    """End this process where the block ends it, without taking all those modules apart."""
    code = 0
    try:
        yield
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
