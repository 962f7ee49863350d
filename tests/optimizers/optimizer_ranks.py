"""Real ranks for tests: a function run on N processes that talk over gloo.

Not in conftest.py: there are several of that name, and a rank finds what it runs by its module.
"""

import os
import signal
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection, forkserver, get_context

import pytest

HOST = "127.0.0.1"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "DS_ACCELERATOR": "cpu",
    "TORCH_DISTRIBUTED_DEBUG": "OFF",
    "CUDA_VISIBLE_DEVICES": "",
    # Else a rank that is done at once is gone before the others are connected to it.
    "TORCH_DIST_INIT_BARRIER": "1",
}
PRELOAD = ["torch", "torch.distributed", "torch._dynamo", "torch.nn.parallel", "hypothesis",
           "pytest"]
PATIENCE_S = 200.0
GRACE_S = 30.0


@dataclass(frozen=True)
class Rank:
    """What the tested function gets; ``meter`` counts every collective of this process."""

    rank: int
    size: int
    meter: object


def _main(pipe, function, rank, size, port, arguments):
    """One rank: joins the group, runs the function, sends its result or its traceback."""
    os.environ.update(ENVIRONMENT, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
                      MASTER_ADDR=HOST, MASTER_PORT=str(port))
    try:
        import torch
        import torch.distributed as dist

        from bench_apts.meters.comm import CollectiveCounter

        torch.set_num_threads(1)
        meter = CollectiveCounter()
        meter.install()
        store = dist.TCPStore(HOST, port, size, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size,
                                timeout=timedelta(seconds=PATIENCE_S))
        try:
            result = function(Rank(rank, size, meter), *arguments)
        finally:
            dist.destroy_process_group()
        pipe.send((result, None))
    except BaseException:
        pipe.send((None, traceback.format_exc()))


def start_server(preload):
    """Starts the warm server; it and its children keep the environment of this moment."""
    get_context("forkserver").set_forkserver_preload(preload)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in ENVIRONMENT.items():
            patch.setenv(key, value)
        forkserver.ensure_running()


def run(function, size, arguments, timeout, killed=()):
    """Each rank's result, in order; None for the ranks in ``killed``, which kill themselves."""
    import torch.distributed as dist

    # The store lives here, so that the system chooses a port that nobody else can take.
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    context = get_context("forkserver")
    pipes, processes = [], []
    try:
        for rank in range(size):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_main, args=(theirs, function, rank, size, store.port, arguments))
            process.start()
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        return _collect(pipes, processes, time.monotonic() + timeout, killed)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()


def _collect(pipes, processes, deadline, killed):
    """Waits for all ranks; after the first failure the others get a moment to say theirs."""
    results, failures = {}, {}
    pending = dict(zip(pipes, range(len(pipes)), strict=True))
    while pending:
        ready = connection.wait(list(pending), max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            rank = pending.pop(pipe)
            try:
                result, failure = pipe.recv()
            except EOFError:
                processes[rank].join()
                code = processes[rank].exitcode
                expected = rank in killed and code == -signal.SIGKILL
                result, failure = None, None if expected else f"ended with exit code {code}"
            if failure is None:
                results[rank] = result
            else:
                failures[rank] = failure
                deadline = min(deadline, time.monotonic() + GRACE_S)
    if failures or pending:
        late = [f"--- rank {rank}: still running, ended" for rank in pending.values()]
        pytest.fail("\n".join([f"--- rank {rank}:\n{text}" for rank, text in failures.items()]
                              + late), pytrace=False)
    for process in processes:
        process.join(GRACE_S)
    return [results[rank] for rank in range(len(processes))]


def stop_server():
    """Ends the warm server: another module's has other modules and variables."""
    forkserver._forkserver._stop()
