"""One rank that works until all ranks are asked to stop."""

import time
from pathlib import Path


def work(connect, flag, agree_every):
    """Takes steps at a pace of its own; returns how many, and how many it held before the last."""
    import torch
    import torch.distributed as dist

    from bench_apts.trial.stopping import GracefulStop

    connect()
    rank, size = dist.get_rank(), dist.get_world_size()
    store = dist.distributed_c10d._get_default_store()
    steps, agreed = 0, True
    with GracefulStop(Path(flag), rank, size, store) as stop:
        while stop.go_on(agreed):
            steps += 1
            time.sleep(0.001 * rank)
            agreed = steps % agree_every == 0
            if agreed:  # local steps in between
                dist.all_reduce(torch.ones(1))
            if rank == 0 and steps == 20:
                Path(flag).touch()
            assert steps < 100_000, "nobody stopped"
    return steps
