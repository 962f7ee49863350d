"""Runs a function in real processes that form a real gloo process group."""

import multiprocessing
import os
import tempfile
import time
import traceback
from pathlib import Path


def run_ranks(function, size, *arguments, patience_s=200):
    """Calls ``function(connect, *arguments)`` on each rank; returns the results by rank.

    ``connect()`` joins the process group, so that the function can prepare for it before.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench_apts.launch.preload"])
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank, daemon=True,
                args=(function, rank, size, str(Path(folder) / "store"), theirs, arguments))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            deadline = time.monotonic() + patience_s
            results = []
            for rank, pipe in enumerate(pipes):
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"rank {rank} has not answered")
                result, error = pipe.recv()
                if error:
                    raise AssertionError(f"rank {rank} failed:\n{error}")
                results.append(result)
            return results
        finally:
            for process, pipe in zip(processes, pipes, strict=True):
                process.join(2)
                process.kill()
                process.join()
                pipe.close()


def _rank(function, rank, size, store, pipe, arguments):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"

    def connect():
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)

    try:
        pipe.send((function(connect, *arguments), None))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
